"""An expression as a ``torch.autograd.Function`` with an analytical backward.

The backward is the closed form of each gradient where that is one formula; where it would be long
it goes through the gradients of the expression's parts, each in closed form; and where a formula
speaks of places (a reshape, a slice) it goes back operation by operation.  It is derived at axes
whose sizes are primes, so that a size in a formula is told from a number of the user's and
written as ``x.shape[0]``. Only inputs and the output are saved: double backward needs their
history, which intermediates made in ``forward`` do not have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy

from gradexplain.checking import points
from gradexplain.checking.subjects import _free_names, shapes_text
from gradexplain.codegen.forward import RESERVED, Writer, is_spelled, python_names
from gradexplain.codegen.printer import ONE, Printer, _bare
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.formula.calculus import ADJOINT, label_of
from gradexplain.formula.local import RESULT, UPSTREAM, local_rule
from gradexplain.graph import Graph, Node, refs
from gradexplain.language import read
from gradexplain.ops.base import Shape, show_shape
from gradexplain.routes.closed import ClosedForm
from gradexplain.syntax import Program, parse

#: Sizes of axes in the derivation: small enough for four of them, and unlike any number in a
#: formula.
_PRIMES = {2: 31, 3: 37, 4: 41, 5: 43, 6: 47, 7: 53}
_WIDTH = 88


@dataclass
class Code:
    """A generated class: its source, what it was derived for, and how."""

    name: str
    source: str
    expression: str
    shapes: dict[str, Shape]
    #: ``closed form``, ``parts`` or ``steps``.
    way: str
    #: Whether it works at any sizes of the same rank.
    general: bool
    notes: list[str] = field(default_factory=list)


def generate(
    expression: str,
    name: str = "Function",
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    verify: bool = True,
) -> Code:
    """The source of a ``torch.autograd.Function`` for an expression.

    ``shapes`` tells the ranks and patterns of the inputs where they matter.  With ``verify`` the
    class is held against the closed form, as by `gradexplain.check`, before it is returned.
    """
    if not name.isidentifier() or name in RESERVED:
        raise InputError(
            f"{name} cannot be the name of a class", remedy="use letters, as in Normalise"
        )
    program = parse(expression)
    names = _free_names(program)
    if not names:
        raise InputError("the expression has no inputs", remedy="there is nothing to differentiate")
    fixed = {n: tuple(int(k) for k in s) for n, s in (shapes or {}).items()}
    for given in fixed:
        if given not in names:
            raise InputError(
                f"{given} is not an input of the expression; its inputs are: {', '.join(names)}",
                remedy="check the spelling, or leave the option out",
            )
    pattern = _pattern(program, names, fixed)
    errors: list[GradexplainError] = []
    for sizes, general in _derivations(program, pattern, fixed):
        for way in ("closed form", "steps"):
            try:
                code = _Class(program, sizes, pattern, name, general=general, way=way).code()
            except UnsupportedError as error:
                errors.append(error)
                continue
            except (
                TypeError,
                ValueError,
                KeyError,
                NotImplementedError,
                AttributeError,
                IndexError,
                StopIteration,
            ) as error:
                errors.append(
                    UnsupportedError(f"codegen cannot write this as PyTorch yet: {error}")
                )
                continue
            if not verify:
                return code
            wrong = failure(code)
            if not wrong:
                return code
            errors.append(UnsupportedError(f"codegen's own result was refused by check: {wrong}"))
    raise errors[-1]


def _pattern(
    program: Program, names: Sequence[str], fixed: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Small shapes at which the expression has a value."""
    first: GradexplainError | None = None
    for shapes in points.choices(names, fixed):
        try:
            graph = read(program, shapes.__getitem__)
        except GradexplainError as error:
            first = first or error
            continue
        if math.prod(graph.out.shape) > 0:
            return {n.label: n.shape for n in graph.leaves}
    assert first is not None
    raise first


def _derivations(
    program: Program, pattern: Mapping[str, Shape], fixed: Mapping[str, Shape]
) -> list[tuple[dict[str, Shape], bool]]:
    """Shapes to derive at: primes for any size, else the pattern as it is."""
    sizes = sorted({n for s in pattern.values() for n in s if n != 1})
    primes = dict(zip(sizes, [31, 37, 41, 43, 47, 53, 59, 61], strict=False))
    found: list[tuple[dict[str, Shape], bool]] = []
    if len(sizes) <= len(primes):
        prime = {n: tuple(primes.get(k, k) for k in s) for n, s in pattern.items()}
        try:
            read(program, lambda n: prime[n])
            found.append((prime, True))
        except GradexplainError:
            pass
    found.append((dict(pattern), False))
    return found


class _Class:
    """One class in the making."""

    def __init__(
        self,
        program: Program,
        shapes: Mapping[str, Shape],
        pattern: Mapping[str, Shape],
        name: str,
        *,
        general: bool,
        way: str,
    ) -> None:
        self.program = program
        self.pattern = dict(pattern)
        self.name = name
        self.general = general
        self.way = way
        self.graph = graph = read(program, lambda n: shapes[n])
        self.names = python_names(graph)
        self.writer = Writer(graph, self.names)
        self.leaves = [n for n in graph.leaves if not n.integer]
        values: dict[str, Array] = {}
        self.form = ClosedForm(graph, values, np.zeros(()), exact=False)
        self.form.v_name = "grad_output" if "grad_output" not in self.names else "grad_out"
        self.v = self.form.v_name
        self.labels = {n.label: n for n in graph.nodes}
        self.temporaries: dict[str, str] = {}

    # -- sizes -------------------------------------------------------------------------------------

    def size(self, n: int) -> str | None:
        """The size ``n`` of an axis, as an expression in an input's shape."""
        if not self.general or n < 31:
            return None
        for leaf in self.leaves:
            for axis, k in enumerate(leaf.shape):
                if k == n:
                    self.sized.add(leaf.label)
                    return f"{self.names[leaf.label]}.shape[{axis}]"
        return None

    def printer(self, names: Mapping[str, str], shapes: Mapping[str, Shape]) -> Printer:
        return Printer(names, shapes, self.size, self.form.calculus.ranges)

    # -- the whole
    # -----------------------------------------------------------------------------------

    def code(self) -> Code:
        self.sized: set[str] = set()
        #: Inputs of which only the shape is needed.
        self.like: set[str] = set()
        body, used = self._closed_form() if self.way == "closed form" else self._steps()
        saved = self._saved(used)
        only = sorted(
            (self.like | self.sized) - set(saved), key=[n.label for n in self.graph.nodes].index
        )
        self.only = [label for label in only if self.labels[label].is_leaf]
        body = [(label, [self._shaped(line) for line in own]) for label, own in body]
        used |= {label for label in only if label not in self.only}
        saved = self._saved(used)
        lines = self._header(saved)
        lines += self._forward(saved)
        lines.append("")
        lines += self._backward(body, saved, used)
        text = "\n".join(lines) + "\n"
        imports = ["import torch"]
        if re.search(r"\bF\.", text):
            imports = ["import torch", "import torch.nn.functional as F"]
        if "math." in text:
            imports = ["import math", "", *imports]
        source = "\n".join(imports) + "\n\n\n" + text
        way = self.way
        if way == "closed form" and any(self.form.is_long(leaf) for leaf in self.leaves):
            way = "parts"
        return Code(
            self.name, source, self.program.source.strip(), dict(self.pattern), way, self.general
        )

    def _saved(self, used: set[str]) -> list[str]:
        """The labels that backward needs: inputs, and the output."""
        needed: list[str] = []
        graph = self.graph
        pending = [self.labels[label] for label in used if label in self.labels]
        seen: set[int] = set()
        while pending:
            node = pending.pop()
            if node.id in seen:
                continue
            seen.add(node.id)
            if node.is_leaf or node.id == graph.output:
                needed.append(node.label)
            else:
                pending += [graph[i] for i in node.inputs]
        order = [n.label for n in self.graph.nodes]
        return sorted(set(needed), key=order.index)

    def _shaped(self, line: str) -> str:
        """A line in which an input of which only the shape is needed is its shape."""
        for label in self.only:
            x = re.escape(self.names[label])
            shape = f"ctx.{self.names[label]}_shape"
            line = re.sub(rf"torch\.zeros_like\({x}\)", f"{self.v}.new_zeros({shape})", line)
            line = re.sub(rf"torch\.full_like\({x}, ", f"{self.v}.new_full({shape}, ", line)
            line = re.sub(rf"expand_as\({x}\)", f"expand({shape})", line)
            line = re.sub(rf"(?<![\w.]){x}\.shape", shape, line)
        return line

    def _header(self, saved: Sequence[str]) -> list[str]:
        y = self.names[self.graph.out.label]
        statements = [
            " ".join(self.program.source[s.span.start : s.span.end].split())
            for s in self.program.statements
        ]
        if not self.program.statements[-1].targets:
            statements[-1] = f"{y} = {statements[-1]}"
        lines = [f"class {self.name}(torch.autograd.Function):"]
        doc = ['    """' + _escaped("; ".join(statements)), ""]
        if len(doc[0]) > _WIDTH:
            doc = ['    """', *("    " + _escaped(s) for s in statements), ""]
        shapes = dict(self.pattern)
        if self.general:
            shapes = {n.label: n.shape for n in self.graph.leaves}
        letters = _letters(shapes) if self.general else {}
        described = ", ".join(f"{self.names[n]} {_lettered(s, letters)}" for n, s in shapes.items())
        out = f"{y} {_lettered(self.graph.out.shape, letters)}"
        any_size = "any sizes" if self.general else "these sizes only"
        doc += [f"    Shapes: {described} -> {out}"[: _WIDTH - 1]]
        doc += [f"    ({any_size}).", ""] if self.general is False else [""]
        formulas = []
        for leaf in self.leaves:
            if not self.form.calculus.reaches(self.graph.out, leaf.label):
                continue
            shown = self._small().shown_gradient(leaf)
            texts = [shown.text, *(f"where {w}" for w in shown.where)]
            formulas += [t for t in (_in_letters(t, letters) for t in texts) if t not in formulas]
        if all(len(f) < 400 for f in formulas):
            doc += ["    Gradients, in index notation:", ""]
            for text in formulas:
                doc += ["        " + part for part in _wrapped(_escaped(text), _WIDTH - 12)]
        else:
            doc.pop()
        doc.append('    """')
        return [*lines, *doc, ""]

    def _small(self) -> ClosedForm:
        """The formulas for the docstring: sizes as they are in the pattern."""
        if not hasattr(self, "_docs"):
            sizes = {n.label: n.shape for n in self.graph.leaves}
            graph = read(self.program, lambda n: sizes[n])
            self._docs = ClosedForm(graph, {}, np.zeros(()), exact=False)
            self._docs.v_name = "v" if "v" not in self.names else self.v
            self._leaf = {n.label: n for n in graph.leaves}
        docs = self._docs

        class Shown:
            @staticmethod
            def shown_gradient(leaf: Node) -> Any:
                return docs.shown_gradient(self._leaf[leaf.label])

        return Shown  # type: ignore[return-value]

    def _forward(self, saved: Sequence[str]) -> list[str]:
        self.writer.like = self.names[self.graph.leaves[0].label]
        arguments = ", ".join(self.names[n.label] for n in self.graph.leaves)
        lines = ["    @staticmethod", f"    def forward(ctx, {arguments}):"]
        lines += self._values({self.graph.output}, set())
        y = self.names[self.graph.out.label]
        if saved:
            lines.append(
                f"        ctx.save_for_backward({', '.join(self.names[s] for s in saved)})"
            )
        lines += [f"        ctx.{self.names[n]}_shape = {self.names[n]}.shape" for n in self.only]
        lines.append(f"        return {y}")
        return lines

    def _values(self, wanted: set[int], known: set[int]) -> list[str]:
        """Statements that compute ``wanted``, naming what the user named and what is used twice."""
        graph = self.graph
        needed: set[int] = set()
        pending = [i for i in wanted if i not in known]
        while pending:
            id = pending.pop()
            if id in needed or id in known or graph[id].is_leaf or graph[id].is_literal:
                continue
            if graph[id].op is None and id not in wanted:
                continue
            needed.add(id)
            pending += self._made_from(graph[id])
        uses: dict[int, int] = {}
        for id in needed:
            for source in self._made_from(graph[id]):
                uses[source] = uses.get(source, 0) + 1
                if not is_spelled(graph[id]):
                    uses[source] += 1  # its formula speaks of elements: they need a name
        lines = []
        have = set(known)
        for node in graph.nodes:
            if node.id not in needed:
                continue
            if node.op is None:
                lines += _statement(self.names[node.label], self.writer.constant(node))
                have.add(node.id)
                continue
            inline = not node.named and uses.get(node.id, 0) == 1 and node.id not in wanted
            text = self.writer.text(node, have) if is_spelled(node) else self._by_formula(node)
            if inline and len(text) < 40:
                continue
            lines += _statement(self.names[node.label], text)
            have.add(node.id)
        return lines

    def _made_from(self, node: Node) -> tuple[int, ...]:
        """What a node is computed from: without the parts that only its formula has."""
        if node.op is not None and not is_spelled(node):
            return node.inputs
        if node.op is None:
            return ()
        plain = [a for p, a in zip(node.op.parameters, node.args, strict=True) if not p.is_aux]
        return tuple(ref.id for ref in refs(plain))

    def _by_formula(self, node: Node) -> str:
        """A value that PyTorch has no call for, by its element formula."""
        names = dict(self.names)
        printer = self.printer(names, {n.label: n.shape for n in self.graph.nodes})
        places = self.form.calculus.indices(node.shape, f"n{node.id}x")
        frame = tuple(ONE if p.is_Integer else p for p in places)
        definition = self.form.calculus.definition(node, places)
        if definition == self.form.calculus.atom(node, places):
            raise printer.unsupported(node.op.name if node.op is not None else node.label)
        return printer.full(definition, frame, "", node.shape)

    # -- backward
    # ------------------------------------------------------------------------------------

    def _backward(
        self, body: list[tuple[str, list[str]]], saved: Sequence[str], used: set[str]
    ) -> list[str]:
        lines = ["    @staticmethod", f"    def backward(ctx, {self.v}):"]
        self.writer.like = self.v
        if saved:
            names = [self.names[s] for s in saved]
            comma = "," if len(names) == 1 else ""
            left = ", ".join(names)
            lines.append(
                f"        ({left}{comma}) = ctx.saved_tensors"
                if len(names) == 1
                else f"        {left} = ctx.saved_tensors"
            )
        known = {self.labels[s].id for s in saved}
        wanted = {
            self.labels[u].id for u in used
            if u in self.labels and not self.labels[u].is_leaf and self.labels[u].id not in known
        }  # fmt: skip
        lines += self._values(wanted, known)
        many = len(self.graph.leaves) > 1
        shared = [line for label, own in body if not label for line in own]
        lines += [f"        {line}" for line in shared]
        results = []
        for leaf in self.graph.leaves:
            own = next((ls for label, ls in body if label == leaf.label), None)
            if own is None:
                results.append("None")
                continue
            results.append(f"grad_{self.names[leaf.label]}")
            place = self.graph.leaves.index(leaf)
            if many:
                if not any(f"grad_{self.names[n.label]} = " in ln for n in [leaf] for ln in lines):
                    lines.append(f"        grad_{self.names[leaf.label]} = None")
                lines.append(f"        if ctx.needs_input_grad[{place}]:")
                lines += [f"            {line}" for line in own]
            else:
                lines += [f"        {line}" for line in own]
        last = f"grad_{self.names[self.graph.leaves[0].label]}"
        if (
            not many
            and len(lines)
            and lines[-1].startswith(f"        {last} = ")
            and not lines[-1].endswith("(")
        ):
            lines[-1] = lines[-1].replace(f"{last} = ", "return ", 1)
        else:
            lines.append(f"        return {', '.join(results)}")
        return lines

    def _tidied(self, text: str, target: str) -> list[str]:
        return [line.removeprefix("        ") for line in _statement(target, text)]

    def _closed_form(self) -> tuple[list[tuple[str, list[str]]], set[str]]:
        """``grad_x = …`` for each input, from one formula each or through the parts' gradients."""
        names = {**self.names, self.v: self.v}
        shapes = {n.label: n.shape for n in self.graph.nodes} | {self.v: self.graph.out.shape}
        printer = self.printer(names, shapes)
        body: list[tuple[str, list[str]]] = []
        parts: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            names[ADJOINT + node.label] = f"grad_{self.names.get(node.label, '')}"
            shapes[ADJOINT + node.label] = node.shape
        for leaf in self.leaves:
            if not self.form.calculus.reaches(self.graph.out, leaf.label):
                continue
            formula = self.form.gradient(leaf)
            self._adjoints(formula, printer, parts)
            places = self.form.calculus.indices(leaf.shape, "d")
            body.append((leaf.label, self._line(formula, places, leaf, printer)))
        used = {u for u in printer.used if not u.startswith(ADJOINT) and u != self.v}
        for label in [n.label for n in reversed(self.graph.nodes)]:
            if ADJOINT + label in parts:
                body.insert(sum(1 for k, _ in body if not k), ("", parts[ADJOINT + label]))
        return body, used

    def _adjoints(self, formula: Any, printer: Printer, parts: dict[str, list[str]]) -> None:
        """The gradients of parts that a formula uses, written before it."""
        found = {
            label_of(a) for a in formula.atoms(sympy.Indexed, sympy.Symbol)
            if label_of(a).startswith(ADJOINT)
        }  # fmt: skip
        for label in sorted(found):
            if label in parts:
                continue
            parts[label] = []
            part = self.labels[label.removeprefix(ADJOINT)]
            places, inner = self.form._part(part, ADJOINT)
            self._adjoints(inner, printer, parts)
            parts[label] = self._line(inner, places, part, printer)

    def _line(self, formula: Any, places: Sequence[Any], node: Node, printer: Printer) -> list[str]:
        frame = tuple(ONE if p.is_Integer else p for p in places)
        target = f"grad_{self.names[node.label]}"
        text = printer.full(formula, frame, self.names[node.label], node.shape)
        if "_like(" in text or "expand_as(" in text or ".reshape(" in text:
            self.like.add(node.label)
        return self._tidied(text, target)

    def _picks(self, node: Node, source: Node) -> bool:
        """Whether each element of ``node`` is an element of ``source``, its one tensor of
        numbers.
        """
        assert node.op is not None
        tensors = [self.graph[i] for i in self._made_from(node) if not self.graph[i].integer]
        real = [n for n in tensors if n.op is not None or n.is_leaf]
        return is_spelled(node) and _picked(node.op) and [n.id for n in real] == [source.id]

    def _on_places(self, node: Node, source: Node) -> Node:
        """The node with ``places`` for its input."""
        self.names["places"] = "places"
        stand_in = Node(source.id, "places", True, None, (), source.shape, source.span)
        nodes = tuple(stand_in if n.id == source.id else n for n in self.graph.nodes)
        self.writer.graph = Graph(self.graph.source, nodes, self.graph.output)
        return node

    # -- step by step
    # --------------------------------------------------------------------------------

    def _steps(self) -> tuple[list[tuple[str, list[str]]], set[str]]:
        """The chain rule, one operation at a time."""
        graph = self.graph
        self.writer.like = self.v
        reach = graph.reach([n.label for n in self.leaves])
        needed = graph.needed()
        uses: dict[int, int] = {}
        used: set[str] = set()
        lines: list[str] = []
        name_of = {graph.output: self.v}
        blocks: dict[str, list[str]] = {}
        for node in reversed(graph.nodes):
            if (
                node.op is None
                or node.id not in reach
                or node.id not in needed
                or node.id not in name_of
            ):
                continue
            upstream = name_of[node.id]
            for place, id in enumerate(dict.fromkeys(ref.id for ref in refs(node.args))):
                source = graph[id]
                if id not in reach:
                    continue
                text = self._contribution(node, place, source, upstream, used)
                if text is None:
                    continue
                target = f"grad_{self.names[source.label]}"
                own = f"{target}_{uses[id] + 1}" if uses.get(id) else target
                into = blocks.setdefault(source.label, []) if source.is_leaf else lines
                if isinstance(text, list):
                    into += [line.format(target=own) for line in text]
                    text = own
                if uses.get(id):
                    rest = text if not _split(text)[1:] else f"({text})"
                    text = f"{name_of[id]} + {rest}"
                uses[id] = uses.get(id, 0) + 1
                if text.isidentifier() and not source.is_leaf:
                    name_of[id] = text
                    continue
                name_of[id] = target
                if text != target:
                    into += self._tidied(text, target)
        body: list[tuple[str, list[str]]] = [("", lines)]
        body += [(n.label, blocks[n.label]) for n in self.leaves if n.label in blocks]
        return body, used

    def _contribution(
        self, node: Node, place: int, source: Node, upstream: str, used: set[str]
    ) -> str | list[str] | None:
        moved = self._moved(node, source, upstream, used)
        if moved is not None:
            return moved
        rule = local_rule(node, self.graph)
        formula = rule.contributions[place]
        if formula is None:
            return None
        order = list(dict.fromkeys(ref.id for ref in refs(node.args)))
        names = {UPSTREAM: upstream, RESULT: self.names[node.label]}
        shapes = {UPSTREAM: node.shape, RESULT: node.shape}
        for k, id in enumerate(order):
            names[f"a{k}"] = self.names.get(self.graph[id].label, "")
            shapes[f"a{k}"] = self.graph[id].shape
        printer = Printer(names, shapes, self.size, rule.sizes[place])
        places = rule.places[place]
        frame = tuple(ONE if p.is_Integer else p for p in places)
        like = self.names[source.label]
        text = printer.full(formula, frame, like, source.shape)
        if "_like(" in text or "expand_as(" in text or ".reshape(" in text:
            self.like.add(source.label)
        for label in printer.used:
            if label == RESULT:
                used.add(node.label)
            elif label != UPSTREAM:
                used.add(self.graph[order[int(label[1:])]].label)
        return text

    def _moved(
        self, node: Node, source: Node, upstream: str, used: set[str]
    ) -> str | list[str] | None:
        """The way back through an operation that only moves elements."""
        op = node.op
        assert op is not None
        like = self.names[source.label]
        count = node.inputs.count(source.id)
        if op.name in (
            "reshape",
            "view",
            "flatten",
            "squeeze",
            "unsqueeze",
            "unflatten",
            "ravel",
            "view_as",
            "reshape_as",
            "contiguous",
            "clone",
        ):
            if node.inputs[0] != source.id:
                return None
            self.like.add(source.label)
            return f"{upstream}.reshape({like}.shape)"
        if op.name in ("T", "t", "mT", "transpose", "permute", "swapaxes", "movedim", "flip"):
            p = node.parameters
            match op.name:
                case "transpose":
                    return f"{upstream}.transpose({p['dim0']}, {p['dim1']})"
                case "permute":
                    rank = len(source.shape)
                    order = [d % rank for d in p["dims"]]
                    inverse = tuple(order.index(d) for d in range(rank))
                    return f"{upstream}.permute({', '.join(map(str, inverse))})"
                case "flip":
                    return f"{upstream}.flip({p['dims']!r})" if "dims" in p else None
                case "movedim":
                    return None
                case "mT":
                    return f"{upstream}.mT"
            if len(source.shape) <= 2:
                return f"{upstream}.t()" if len(source.shape) == 2 else upstream
            return f"{upstream}.permute({', '.join(map(str, reversed(range(len(source.shape)))))})"
        if op.name == "getitem":
            from gradexplain.codegen.forward import _index

            self.like.add(source.label)
            index = _index(node.args[1])
            return [f"{{target}} = torch.zeros_like({like})", f"{{target}}[{index}] = {upstream}"]
        p = node.parameters
        if op.name in ("tril", "triu"):
            return f"{upstream}.{op.name}({p.get('diagonal', 0) or ''})"
        if op.name == "cumsum":
            return f"{upstream}.flip({p['dim']}).cumsum(dim={p['dim']}).flip({p['dim']})"
        if op.name == "trace":
            self.like.add(source.label)
            kind = f"dtype={self.v}.dtype, device={self.v}.device"
            return f"torch.eye(*{like}.shape, {kind}) * {upstream}"
        if op.name == "pad" and p.get("mode", "constant") == "constant":
            return f"F.pad({upstream}, {tuple(-n for n in p['pad'])!r})"
        if self._picks(node, source):
            # The operation on the places of its input's elements says where each came from.
            self.like.add(source.label)
            places = self.writer.text(self._on_places(node, source), set())
            self.writer.graph = self.graph
            return [
                f"places = torch.arange({like}.shape.numel(), "
                f"device={self.v}.device).reshape({like}.shape)",
                f"places = {places}",
                f"{{target}} = {upstream}.new_zeros({like}.shape.numel())",
                f"{{target}} = {{target}}.index_add(0, places.flatten(), {upstream}.flatten())",
                f"{{target}} = {{target}}.reshape({like}.shape)",
            ]
        if op.name in ("cat", "concat") and count == 1:
            parts = node.args[0]
            dim = int(node.args[1])
            axis = dim % len(source.shape)
            start = []
            for ref in parts:
                if ref.id == source.id:
                    break
                start.append(f"{self.names[self.graph[ref.id].label]}.shape[{axis}]")
                self.like.add(self.graph[ref.id].label)
            self.like.add(source.label)
            at = " + ".join(start) if start else "0"
            return f"{upstream}.narrow({axis}, {at}, {like}.shape[{axis}])"
        if op.name == "stack" and count == 1:
            dim = int(node.args[1])
            axis = dim % len(node.shape)
            number = [ref.id for ref in node.args[0]].index(source.id)
            return f"{upstream}.select({axis}, {number})"
        return None


def _picked(op: Any) -> bool:
    return op.name in _PICKS or op.moves


#: Operations whose every element is one of their input's, and those of the records that say so.
_PICKS = {
    "narrow", "select", "split", "chunk", "roll", "repeat", "tile", "repeat_interleave", "gather",
    "take", "take_along_dim", "index_select", "diagonal", "unfold", "expand", "expand_as",
    "broadcast_to", "rot90", "movedim", "moveaxis", "fliplr", "flipud", "unbind", "masked_select",
    "getitem",
}  # fmt: skip


# -- lines -----------------------------------------------------------------------------------------


def _statement(target: str, text: str) -> list[str]:
    """``target = text`` as ruff would format it in a method; what is too long is named in parts."""
    line = f"        {target} = {text}"
    if len(line) <= _WIDTH:
        return [line]
    terms = _split(text)
    inner = f"            {text}"
    if len(terms) == 1 and len(inner) <= _WIDTH and not text.endswith(")"):
        return [f"        {target} = (", inner, "        )"]
    if len(terms) > 1:
        found = []
        for k, term in enumerate(terms):
            sign, _, rest = term.partition(" ") if k else ("", "", term)
            found += _statement(f"term_{k + 1}", rest)
            terms[k] = f"{sign} term_{k + 1}".strip()
        return [*found, f"        {target} = {' '.join(terms)}"]
    for sign in (" / ", " * "):
        pieces = _split(text, (sign,))
        if len(pieces) > 1:
            head = sign.join(p.removeprefix(sign.strip()).strip() for p in pieces[:-1])
            last = pieces[-1]
            if head.isidentifier():
                rest = last.removeprefix(sign.strip()).strip()
                if _bare(rest) == rest:
                    continue
                name = "below" if sign == " / " else "factor"
                return [
                    *_statement(name, rest[1:-1]),
                    *_statement(target, f"{head}{sign}{name}"),
                ]
            head = _bare(head)
            name = "above" if sign == " / " else "factor"
            return [*_statement(name, head), *_statement(target, f"{name} {last}")]
    return [line]


def _split(text: str, signs: tuple[str, ...] = (" + ", " - ")) -> list[str]:
    """The terms of a sum (the factors of a product), each but the first with its sign."""
    depth, start, found = 0, 0, []
    for place, ch in enumerate(text):
        depth += (ch in "([") - (ch in ")]")
        if depth == 0 and text[place : place + 3] in signs:
            found.append(text[start:place])
            start = place + 1
    found.append(text[start:])
    return [f.strip() for f in found]


def _letters(shapes: Mapping[str, Shape]) -> dict[int, str]:
    names = iter("NMKLPQRS")
    return {n: next(names) for n in dict.fromkeys(n for s in shapes.values() for n in s if n != 1)}


def _lettered(shape: Shape, letters: Mapping[int, str]) -> str:
    inner = ", ".join(_size(n, letters) for n in shape)
    return f"({inner}{',' if len(shape) == 1 else ''})"


def _in_letters(text: str, letters: Mapping[int, str]) -> str:
    """A formula with the letters of sizes for the primes that stand for them."""
    for prime, letter in letters.items():
        text = re.sub(rf"(?<![\d.]){prime}(?![\d.])", letter, text)
        text = re.sub(rf"(?<![\d.]){prime - 1}(?![\d.])", f"({letter} − 1)", text)
    return text


def _size(n: int, letters: Mapping[int, str]) -> str:
    """``N``, ``N - 1``, ``N*M``: a size in the letters of the inputs' sizes."""
    if n in letters:
        return letters[n]
    parts = [letter for prime, letter in letters.items() if n % prime == 0]
    if parts and math.prod(p for p in letters if n % p == 0) == n:
        return "*".join(parts)
    for prime, letter in letters.items():
        if n % prime == 0 and n // prime < 9:
            return f"{n // prime}*{letter}"
    for prime, letter in letters.items():
        if prime - 9 <= n < prime:
            return f"{letter} - {prime - n}"
    return str(n)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _wrapped(text: str, width: int) -> list[str]:
    found = []
    while len(text) > width:
        cut = text.rfind(" ", 0, width)
        cut = cut if cut > width // 3 else width
        found.append(text[:cut])
        text = "    " + text[cut:].strip()
    return [*found, text]


# -- verification ----------------------------------------------------------------------------------


def loaded(code: Code) -> Any:
    """The class itself."""
    scope: dict[str, Any] = {}
    exec(compile(code.source, f"<{code.name}>", "exec"), scope)
    return scope[code.name]


def failure(code: Code) -> str:
    """Why the class is not right, "" where it is."""
    from gradexplain.checking.checker import check_subject
    from gradexplain.checking.code import subject_of

    try:
        made = loaded(code)
        report = (
            check_subject(
                subject_of(made, None, None, {}),
                {},
                code.shapes if not code.general else {},
                write=False,
            )
            if not code.general
            else None
        )
        if code.general:
            fixed = dict(code.shapes)
            report = check_subject(subject_of(made, None, None, {}), {}, fixed, write=False)
            other = next(points.others(fixed, {}), None)
            if report.right and other is not None and other != fixed:
                report = check_subject(subject_of(made, None, None, {}), {}, other, write=False)
    except GradexplainError as error:
        return error.message
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    assert report is not None
    if report.right:
        return ""
    return "; ".join(i.fault.sentence for i in report.inputs.values() if i.fault)


__all__ = ["Code", "failure", "generate", "loaded", "shapes_text", "show_shape"]
