"""One class in the making: what is saved, forward, backward, and their layout."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy

from gradexplain import points
from gradexplain.codegen.docstring import docstring
from gradexplain.codegen.draft import Draft, shape_of, value_names
from gradexplain.codegen.forward import RESERVED
from gradexplain.codegen.idioms import idiomatic
from gradexplain.codegen.lines import (
    Statement,
    call_cost,
    changed,
    cost,
    inlined,
    laid_out,
    lean,
    names_in,
    once,
    renumbered,
    show,
    statement,
    unpacked,
    unsigned,
)
from gradexplain.codegen.numbers import is_prime
from gradexplain.codegen.source import Source
from gradexplain.codegen.steps import Steps
from gradexplain.codegen.tangent import Tangents
from gradexplain.errors import UnsupportedError
from gradexplain.formula.calculus import ADJOINT
from gradexplain.formula.kinds import label_of
from gradexplain.graph import Node
from gradexplain.ops.base import Shape
from gradexplain.reading.program import Program


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
    #: What each input is called in the code, where that is not its own name.
    renamed: dict[str, str] = field(default_factory=dict)
    #: A new tensor as the output is.
    empty: str = ""
    #: The shapes that it was derived at: a prime for each size that may be another.
    derived: dict[str, Shape] = field(default_factory=dict)

    def others(self) -> list[dict[str, Shape]]:
        """Small shapes that it works at too, in the first no two sizes alike that need not be."""
        if not self.general:
            return []
        primes = sorted({n for s in self.derived.values() for n in s if is_prime(n)})
        apart = at_sizes(self.derived, dict(zip(primes, (3, 5, 2, 4, 6, 7, 8, 9), strict=False)))
        return [s for s in (apart, *points.others(self.shapes, {})) if s != self.shapes]

    def loaded(self) -> Any:
        """The class itself."""
        scope: dict[str, Any] = {}
        exec(compile(self.source, f"<{self.name}>", "exec"), scope)
        return scope[self.name]


def at_sizes(shapes: Mapping[str, Shape], sizes: Mapping[int, int]) -> dict[str, Shape]:
    return {n: tuple(sizes.get(k, k) for k in s) for n, s in shapes.items()}


class Making(Draft):
    """One class in the making: from its draft to its text."""

    def __init__(self, *args: Any, way: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.way = way
        self._refuse()
        body = self._closed_form() if way == "closed form" else inlined(Steps(self).body())
        results = [self.gradient_name(leaf) for leaf in self.leaves]
        body = self._by_result(idiomatic(_renamed(body), self.shapes))
        self.body = once(unsigned(body), self.free, results)
        #: How much the backward computes, what forward computed already included.
        self.price = cost(self.body) + self._anew(self.body)

    def _by_result(self, body: list[Statement]) -> list[Statement]:
        """``y > 0`` for ``t > 0`` where ``y = relu(t)`` is at hand and t is not needed else."""
        used = {n for s in body for n in value_names(s.value)}
        for node in self.graph.nodes:
            new = self.names.get(node.label, "")
            if node.op is None or node.op.formula != "input if input > 0 else 0":
                continue
            source = self.graph[node.inputs[0]]
            every = [e for s in body for e in ast.walk(s.value)]
            masks = [e for e in every if isinstance(e, ast.Compare)
                     and show(e) == f"{self.names[source.label]} > 0"]  # fmt: skip
            uses = [
                e for e in every if isinstance(e, ast.Name) and e.id == self.names[source.label]
            ]
            at_hand = new in used or node.id == self.graph.output
            if at_hand and source.op is not None and len(uses) == len(masks):
                body = [s.renamed(self.names[source.label], new) for s in body]
        return body

    def _anew(self, body: Sequence[Statement]) -> float:
        """What computing forward's values anew costs."""
        saved, anew = self._saved(body)
        nodes = self.closure({n.id for n in anew}, {n.id for n in saved})
        return sum(call_cost(n.op.name) for n in map(self.graph.__getitem__, nodes) if n.op)

    # -- the whole ---------------------------------------------------------------------------------

    def code(self, program: Program) -> Code:
        saved, anew = self._saved(self._shaped(self.body))
        self.writer.like = self.v
        made = self.computed({n.id for n in anew}, {n.id for n in saved})
        results = [self.gradient_name(leaf) for leaf in self.leaves]
        body = idiomatic(inlined([*made, *copy.deepcopy(self.body)], results), self.shapes)
        body = once(unsigned(body), self.free, results)
        body = unpacked(self._owned(self._shaped(body)))
        body = self.fitted(body, 12 if len(self.graph.leaves) > 1 else 8)
        head = f"class {self.name}(torch.autograd.Function):"
        backward = self._backward(body, saved)
        forward = self._forward(self._guards("\n".join(backward)))
        lines = [head, *docstring(self, program), "    generate_vmap_rule = True", "", *forward, ""]
        lines += [*self._setup(saved), "", *backward]
        if self.jvp:
            lines += ["", *Tangents(self).lines()]
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
            self.name, source, program.source.strip(), dict(self.pattern), way, self.general,
            {n.label: self.names[n.label] for n in self.graph.leaves}, self._empty(),
            {n.label: n.shape for n in self.graph.leaves},
        )  # fmt: skip

    def _empty(self) -> str:
        sizes = ", ".join(map(self.writer.number, self.graph.out.shape)) or "()"
        text = f"{self.names[self.leaves[0].label]}.new_empty({sizes})"
        (line,) = idiomatic([statement("return", text)], self.shapes)
        return show(line.value)

    def alone(self, wrt: Iterable[str]) -> list[str]:
        """The lines of backward for some inputs, where every value that has a name is there."""
        results = [self.gradient_name(self.labels[label]) for label in wrt]
        there = [n for n in self.graph.nodes if n.is_leaf or (n.named and n.op is not None)]
        known = {n.id for n in there}
        body = copy.deepcopy(lean(self.body, results))
        wanted = {self.by_name[n].id for s in body for n in names_in(s.value) if n in self.by_name}
        made = self.computed(wanted - known, known)
        body = idiomatic(inlined([*made, *body], [s.target for s in body]), self.shapes)
        body = once(unsigned(body), self.free, results)
        body = renumbered(body, {*RESERVED, *(self.names[n.label] for n in there)})
        return [f"{s.target} = {show(s.value)}" for s in body]

    def _refuse(self) -> None:
        """What no Function can be: one whose own forward is meant to be seen by autograd."""
        for node in self.graph.nodes:
            if node.op is not None and node.op.name == "detach" and node.id in self.graph.needed():
                raise UnsupportedError(
                    "detach() has no meaning inside a torch.autograd.Function: its forward is not "
                    "seen by autograd, and gradcheck would count the detached use too",
                    remedy="make what is detached an input of its own, and call "
                    "apply(x, x.detach())",
                )

    def _shaped(self, body: Sequence[Statement]) -> list[Statement]:
        """A tensor of which only the shape is needed is its shape."""
        tensors = {n for s in body for n in value_names(s.value)}
        while True:
            self.only = {}
            found = self._by_shape(copy.deepcopy(body), tensors)
            kept = {self.names[n.label] for n in self._saved(found)[0]}.intersection(self.only)
            if not kept:
                return found
            tensors |= kept  # saved it is anyway

    #: Tensors of which only the shape is needed, by name.
    only: Mapping[str, Node]

    def _by_shape(self, body: Sequence[Statement], tensors: set[str]) -> list[Statement]:
        """Where a tensor that is not among ``tensors`` lends its shape, that shape instead."""

        def change(e: ast.expr) -> ast.expr | None:
            match e:
                case ast.Subscript(
                    value=ast.Attribute(value=ast.Name(id=name), attr="shape"),
                    slice=ast.Constant(value=int() as d),
                ) if name in self.by_name and name not in tensors and (
                    size := self._made_size(self.by_name[name], d)
                ):  # fmt: skip
                    return changed(ast.parse(size, mode="eval").body, change)
            label = getattr(shape_of(e), "id", "")
            node = None if label in tensors else self.by_name.get(label)
            if node is None or not node.is_leaf and node.id != self.graph.output:
                return None
            self.only = {**self.only, label: node}
            shape = f"ctx.{label}_shape"
            match e:
                case ast.Attribute():
                    text = shape
                case ast.Call(func=ast.Attribute(attr="expand_as", value=owner)):
                    text = f"{show(owner, 9)}.expand({shape})"
                case ast.Call(func=ast.Attribute(attr="numel")):
                    text = f"{shape}.numel()"
                case ast.Call(func=ast.Attribute(attr="zeros_like")):
                    text = f"{self.v}.new_zeros({shape})"
                case ast.Call(func=ast.Attribute(attr="full_like"), args=[_, value]):
                    text = f"{self.v}.new_full({shape}, {show(value)})"
                case _:
                    return None
            new = ast.parse(text, mode="eval").body
            return changed(new, change) if isinstance(e, ast.Call) else new

        return [Statement(s.target, changed(s.value, change), s.only) for s in body]

    def _made_size(self, node: Node, d: int) -> str | None:
        """The size of an axis of a value that is no input, where it is one of an input's."""
        if node.is_leaf or node.id == self.graph.output:
            return None
        n = node.shape[d]
        return self.size(n) if self.general else str(n)

    def _owned(self, body: Sequence[Statement]) -> list[Statement]:
        """What only one input's gradient needs is computed with it."""
        found = list(body)
        results = {self.gradient_name(leaf) for leaf in self.leaves}
        for place in reversed(range(len(found))):
            s = found[place]
            if s.only or s.target in results:
                continue
            users = {
                o.only for o in found[place + 1 :]
                if s.target in names_in(o.value) or o.target == s.target
            }  # fmt: skip
            if len(users) == 1:
                found[place] = Statement(s.target, s.value, users.pop())
        return found

    # -- what is saved for backward ----------------------------------------------------------------

    def _saved(self, body: Sequence[Statement]) -> tuple[list[Node], list[Node]]:
        """What is saved, and what backward computes anew from it.

        Saved are inputs and the output: what else forward computes has no history, without which
        there are no second derivatives, and `torch.func` allows nothing else.
        """
        graph = self.graph
        wanted = {self.by_name[n].id for s in body for n in names_in(s.value) if n in self.by_name}
        have = {n.id for n in graph.nodes if n.is_leaf or n.id == graph.output or n.is_literal}
        saved, anew = wanted & have, wanted - have
        for id in self.closure(anew, {graph.output, *saved} - anew):
            saved |= {i for i in self.made_from(graph[id]) if i in have} - {id}
        return (
            [graph[id] for id in sorted(saved) if not graph[id].is_literal],
            [graph[id] for id in sorted(anew)],
        )

    # -- forward and backward ------------------------------------------------------------------------

    def _forward(self, guards: Sequence[str]) -> list[str]:
        self.writer.like = self.names[self.graph.leaves[0].label]
        arguments = ", ".join(self.names[n.label] for n in self.graph.leaves)
        lines = ["    @staticmethod", f"    def forward({arguments}):"]
        lines += guards
        y = self.names[self.graph.out.label]
        body = self.computed({self.graph.output}, set())
        body = unpacked(once(idiomatic(body, self.shapes), self.free))
        if body[-1].target != y or not y.isidentifier():
            body.append(statement("return", y))
        body[-1].target = "return"
        return [*lines, *self.written(self.fitted(body))]

    def _setup(self, saved: Sequence[Node]) -> list[str]:
        """``setup_context``: what backward and jvp need of inputs and output."""
        y = self.graph.out
        used = {n.label for n in saved if n.is_leaf} | {n.label for n in self.only.values()}
        if self.jvp:
            used |= {n.label for n in self.graph.leaves}
        inputs = [self.names[n.label] if n.label in used else "_" for n in self.graph.leaves]
        left = f"({inputs[0]},)" if len(inputs) == 1 else ", ".join(inputs)
        lines = ["    @staticmethod", "    def setup_context(ctx, inputs, output):"]
        if used:
            lines.append(f"        {left} = inputs")
        names = [self.names[s.label] if s.is_leaf else "output" for s in saved]
        if names:
            call = f"ctx.save_for_backward({', '.join(names)})"
            lines += laid_out("", ast.parse(call, mode="eval").body, 8)
        forward = [self.names[n.label] for n in self.graph.leaves]
        if self.jvp:
            call = f"ctx.save_for_forward({', '.join(forward)})"
            lines += laid_out("", ast.parse(call, mode="eval").body, 8)
        for name, node in self.only.items():
            source = name if node.is_leaf else "output" if node.id == y.id else None
            if source is None:
                raise UnsupportedError(f"codegen cannot write the shape of {name} as PyTorch yet")
            lines.append(f"        ctx.{name}_shape = {source}.shape")
        return lines if len(lines) > 2 else [*lines, "        pass"]

    def _guards(self, backward: str) -> list[str]:
        """At other sizes the numbers of this backward would be wrong: forward refuses them.

        Of a class for any size that may be an axis that was told its size: a number of the user's
        stands in ``backward`` under its name.
        """
        lines = []
        for leaf in self.graph.leaves:
            name = self.names[leaf.label]
            told: list[tuple[str, Any, str]] = [
                ("shape", leaf.shape, f"have the shape {leaf.shape}")
            ]
            if self.general:
                told = [
                    (f"shape[{d}]", n, f"have size {n} in dim {d}")
                    for d, n in enumerate(leaf.shape)
                    if n != 1 and not is_prime(n) and f"{name}.shape[{d}]" in backward.replace(
                        f"ctx.{name}_shape", f"{name}.shape")
                ]  # fmt: skip
            for what, n, said in told:
                lines += [
                    f"        if {name}.{what} != {n}:",
                    f'            raise ValueError("{name} must {said}")',
                ]
        return lines

    # -- backward ----------------------------------------------------------------------------------

    def _backward(
        self,
        body: Sequence[Statement],
        saved: Sequence[Node],
    ) -> list[str]:
        lines = ["    @staticmethod", f"    def backward(ctx, {self.v}):"]
        if saved:
            names = [self.names[s.label] for s in saved]
            left = f"({names[0]},)" if len(names) == 1 else ", ".join(names)
            lines.append(f"        {left} = ctx.saved_tensors")
        many = len(self.graph.leaves) > 1
        lines += self.written([s for s in body if not s.only], 8)
        results = []
        for place, leaf in enumerate(self.graph.leaves):
            own = [s for s in body if s.only == leaf.label]
            if not any(s.target == self.gradient_name(leaf) for s in body):
                results.append("None")
                continue
            results.append(self.gradient_name(leaf))
            if not own:
                continue
            if many:
                lines.append(f"        {results[-1]} = None")
                lines.append(f"        if ctx.needs_input_grad[{place}]:")
            elif own[-1].target == results[-1]:
                own[-1] = Statement("return", own[-1].value)
            lines += self.written(own, 12 if many else 8)
            if own[-1].target == "return":
                return lines
        return [*lines, f"        return {', '.join(results)}"]

    def _closed_form(self) -> list[Statement]:
        """``grad_x = …`` for each input, from one formula each or through the parts' gradients."""
        names = {**self.names, self.v: self.v}
        shapes = {n.label: n.shape for n in self.graph.nodes} | {self.v: self.graph.out.shape}
        printer = Source(names, shapes, self.size, self.form.calculus.ranges)
        body: list[Statement] = []
        parts: dict[str, Statement] = {}
        for node in self.graph.nodes:
            names[ADJOINT + node.label] = f"grad_{self.names.get(node.label, '')}"
            shapes[ADJOINT + node.label] = node.shape
        for leaf in self.leaves:
            if not self.form.calculus.reaches(self.graph.out, leaf.label):
                continue
            formula = self.form.gradient(leaf)
            self._adjoints(formula, printer, parts)
            places = self.form.calculus.indices(leaf.shape, "d")
            body.append(self._line(formula, places, leaf, printer))
        order = [ADJOINT + n.label for n in reversed(self.graph.nodes)]
        return [parts[label] for label in order if label in parts] + body

    def _adjoints(self, formula: Any, printer: Source, parts: dict[str, Statement]) -> None:
        """The gradients of parts that a formula uses, written before it."""
        found = {
            label_of(a) for a in formula.atoms(sympy.Indexed, sympy.Symbol)
            if label_of(a).startswith(ADJOINT)
        }  # fmt: skip
        for label in sorted(found - set(parts)):
            part = self.labels[label.removeprefix(ADJOINT)]
            inner, _, places = self.form.part(part, ADJOINT).here
            self._adjoints(inner, printer, parts)
            parts[label] = self._line(inner, places, part, printer)

    def _line(self, formula: Any, places: Sequence[Any], node: Node, printer: Source) -> Statement:
        text = printer.full(formula, places, self.names[node.label], node.shape)
        return statement(self.gradient_name(node), text, node.label if node.is_leaf else "")


def _renamed(body: Sequence[Statement]) -> list[Statement]:
    """``grad_x = part``: the part is called ``grad_x`` at once."""
    found = list(body)
    for s in body:
        if not isinstance(s.value, ast.Name) or not s.target.isidentifier():
            continue
        old = s.value.id
        made = [o for o in found if o.target == old]
        if made and all(s.only == o.only for o in made):
            found.remove(s)
            found = [o.renamed(old, s.target) for o in found]
    return found
