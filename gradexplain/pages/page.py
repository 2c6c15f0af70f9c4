"""What the pages of an explanation share: its names, its question, its stepper, its answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.explanation import Array, Explanation, Gradient
from gradexplain.pages.graph import graph_of
from gradexplain.pages.options import Options
from gradexplain.pages.steps import factor, in_words, work
from gradexplain.pages.verdict import notes, verdict
from gradexplain.pages.words import (
    END,
    LEGEND,
    START,
    binds,
    definitions,
    grouped,
    quoted,
    ranges_in,
    spoken,
    standing,
    unwrapped,
)
from gradexplain.tensors import spot
from gradexplain.texts import listed
from gradexplain.verdict.compare import differs

#: A tensor of more elements that are all one number is said in words.
_WORDS = 6


def program(x: Explanation) -> doc.Program:
    return doc.Program(x.statements or tuple(x.expression.strip().splitlines()))


def started(y: str) -> doc.Paragraph:
    """What backward starts from where it is given nothing."""
    return doc.remark(f"{y} is a scalar: {y}.backward() starts from ∂{y}/∂{y} = 1.", hang=0)


class Page:
    """The blocks of one explanation that any page of it may have."""

    def __init__(self, x: Explanation, options: Options) -> None:
        self.x = x
        self.options = options
        self.title = (
            f"{x.output.name}.backward({'' if x.grad.source == 'implicit' else x.grad.name})"
        )
        #: What unnamed values are called on the page; of those that stay numbers, what they are.
        self.called = {row.node: quoted(row) for row in x.forward if not row.named and row.text}
        first: dict[str, str] = {}
        for row in x.forward:  # the mean that a variance has beside it may be one that is there
            same = first.setdefault(row.expression, row.node)
            if same != row.node and row.part_of is not None:
                self.called[row.node] = self.called.get(same, same)
        self.said = {row.node: row.text for row in x.forward if not row.named and row.text}
        self.explained: set[str] = set()
        self.rows = {row.node: row for row in x.forward}
        self.scalar = not x.output.shape or x.grad.value.size == 1

    @property
    def arriving(self) -> str:
        """What the chain rule calls the gradient that arrives at an operation."""
        names = {*self.x.inputs, *(row.node for row in self.x.forward)}
        return next((w for w in ("g", "g_out", "grad_output") if w not in names), "grad_output_")

    # -- the question ----------------------------------------------------------------------------

    def question(self) -> Iterable[doc.Block]:
        x = self.x
        yield program(x)
        if self.options.brief:
            return
        yield doc.Paragraph(())
        rows = self.inputs()
        y = x.output
        rows.append(
            doc.row(doc.name(y.name), doc.label(numbers.shape(y.shape)), "")
            if y.value is None
            else self.tensor(y.name, y.value, "")
        )
        if x.grad.source != "implicit":
            rows.append(self.tensor(x.grad.name, x.grad.value, self.meaning(), x.grad.name))
        yield doc.Table(tuple(rows))
        if missing := [n for n, i in x.inputs.items() if not i.given]:
            them = "them" if len(missing) > 1 else "it"
            yield doc.remark(
                f"Example values for {listed(missing)}; --at {missing[0]}=… sets {them}.", hang=0
            )
        if x.grad.source == "implicit":
            yield started(y.name)

    def inputs(self) -> list[tuple[doc.Cell, ...]]:
        """Each input with its shape and value."""
        return [
            self.tensor(i.name, i.value.astype(bool) if i.boolean else i.value, standing(i))
            for i in self.x.inputs.values()
        ]

    def tensor(self, name: str, value: Array, remark: str, of: str = "") -> tuple[doc.Cell, ...]:
        """A name with its shape and value, in the colour of what flows back where it is ``of`` that."""
        shown = doc.Span(name, "flow", "math") if of else doc.name(name)
        return doc.row(shown, doc.label(numbers.shape(value.shape)), self.valued(value, remark, of))

    def valued(self, values: Array, remark: str = "", of: str = "") -> doc.Cell:
        """A tensor, in words where it is one number many times."""
        if values.size > _WORDS and np.isfinite(values).all() and (values == values.flat[0]).all():
            said = numbers.number(float(values.flat[0]), self.options.precision)
            said = {"1": "ones", "0": "zeros"}.get(said, f"all {said}")
            return doc.cell(doc.line(said, doc.label(f"  {remark}" if remark else "")))
        return (doc.Tensor(values, remark, of, asked=False),)

    def meaning(self) -> str:
        """What v is, beside it."""
        x = self.x
        left, _, loss = x.grad.loss.partition(" = ")
        if self.scalar:
            return f"what backward is given: it multiplies every gradient ({left} = {loss})"
        y, v = x.output.name, x.grad.value
        places = np.argwhere(v != 0)
        if (v == 1).all():
            loss = f"{y}.sum()"
        elif len(places) == 1 and v[tuple(places[0])] == 1:
            loss = spot(y, tuple(map(int, places[0])))
        return f"what backward is given: ∂{left}/∂{y} of {left} = {loss}"

    # -- the graph -------------------------------------------------------------------------------

    def stepper(self) -> Iterable[doc.Block]:
        """What a format that moves steps through."""
        x = self.x
        graph = graph_of(x)
        if graph is not None:
            yield doc.Steps(
                graph,
                tuple((row.node, self.expression(row.node), row.value) for row in x.forward),
                tuple(
                    doc.Step(
                        s.node, s.input, self.said.get(s.input, s.input), self.expression(s.node), self.renamed(s.rule),
                        work(s), in_words(s, self.arriving), s.upstream, s.contribution, s.total,
                    )
                    for s in x.steps
                ),
            )  # fmt: skip

    # -- the answer ------------------------------------------------------------------------------

    def answer(self) -> Iterable[doc.Block]:
        x = self.x
        yield doc.Heading("Gradients")
        found = list(x.gradients.values())
        where = dict.fromkeys(x.definitions if any(map(self.is_short, found)) else ())
        for gradient in found:
            if not self.is_short(gradient):
                where |= dict.fromkeys(text for text in gradient.where if not self.own(text))
        shown = " ".join(self.formula(g)[1] for g in found)
        # What a name is comes before what is said of it.
        numbered = [
            self.expression(row.node)
            for row in x.forward
            if (not row.named and row.text == row.node) or row.node == x.shared
        ]
        lines = spoken([*numbered, *map(self.renamed, where)], shown)
        # What is its own name, as ``argsort(x)`` or ``relu(x)[i] = relu(x[i])`` may be, needs no line.
        bare = (re.sub(r"\[[^\[\]]*\]", "", text).split(" = ", 1) for text in lines)
        lines = [text for text, sides in zip(lines, bare, strict=True) if sides[0] != sides[-1]]
        lines.sort(key=lambda text: " = [" not in text)  # what is given before what is made of it
        used = " ".join([shown, *lines])
        known = [
            ranges_in(
                g.ranges, used if self.is_short(g) else f"{g.text} {used}", sizes=self.is_short(g)
            )
            for g in found
        ]
        merged = grouped(known)
        rows = [
            self.row(gradient, "" if merged is not None else grouped([bounds]) or "")
            for gradient, bounds in zip(found, known, strict=True)
        ]
        if not any(row[2] for row in rows):
            rows = [row[:2] for row in rows]
        yield doc.Table(tuple(rows), stacked=True)
        tables = [*definitions(lines, x.code)]
        yield from tables[: bool(lines)]
        yield from self.legend(used, merged)
        yield from tables[bool(lines) :]
        yield from self.verdict()

    def row(self, gradient: Gradient, ranges: str) -> tuple[doc.Cell, ...]:
        """A gradient: its formula, its value, a line of PyTorch."""
        left, right = self.formula(gradient)
        formula = doc.line(doc.name(left), doc.math(f" = {right}") if right else "")
        bounds = (doc.line(doc.label(f"  {ranges}")),) if ranges else ()
        line = doc.code(gradient.line, "quiet") if gradient.line else ""
        return doc.row((formula, *bounds), doc.Tensor(gradient.value, of=gradient.name), line)

    def legend(self, shown: str, bounds: str | None) -> Iterable[doc.Block]:
        """What signs in a text mean, each once for the page, and where its letters run."""
        new = [
            said for sign, said in LEGEND if said not in self.explained and re.search(sign, shown)
        ]
        self.explained.update(new)
        if new or bounds:
            yield doc.remark("; ".join([*new, *filter(None, [bounds])]), indent=4)

    def verdict(self) -> Iterable[doc.Block]:
        return verdict(self.x.check, self.x.gradients.values(), self.options.precision)

    def own(self, text: str) -> bool:
        """Whether a line says what a name is that the reader gave."""
        return re.split(r"[\[ ]", text)[0] in {s.partition(" ")[0] for s in self.x.statements}

    def is_short(self, gradient: Gradient) -> bool:
        return bool(gradient.short) and self.options.notation != "index"

    def formula(self, gradient: Gradient) -> tuple[str, str]:
        """The two sides of a gradient's formula."""
        if self.is_short(gradient):
            return f"{gradient.name}.grad", self.renamed(gradient.short)
        left, _, right = gradient.text.partition(" = ")
        return left or f"{gradient.name}.grad", self.implied(self.renamed(right))

    def implied(self, text: str) -> str:
        """A formula without the v that is 1 because the output is a scalar."""
        if self.x.grad.source != "implicit":
            return text
        v = rf"(?<![\w.]){re.escape(self.x.grad.name)}(?![\w\[(])"
        bare = re.sub(rf"·{v}|{v}·", "", text)
        return re.sub(v, "1", bare if bare == text else unwrapped(bare))

    def without_v(self, gradient: Gradient) -> str:
        """What v is multiplied with in the gradient: the diagonal of J; "" where it is no factor."""
        right, v = self.formula(gradient)[1], self.x.grad
        return right if v.source == "implicit" else factor(right, v.name) or ""

    def renamed(self, text: str) -> str:
        """A formula in which unnamed values stand by their own text."""
        if not self.called:
            return text
        names = "|".join(map(re.escape, self.called))
        text = re.sub(rf"(?<=\w\()({names})(?=\))", lambda m: self.said[m[1]], text)

        def put(found: re.Match[str]) -> str:
            shown = self.called[found[1]]
            loose = shown[0] != "(" or binds(self.rows[found[1]].op) < 2
            before = r"(^|[(\[]|, | \+ )$" if loose else r"(^|[(\[]|, | [+−] )$"
            bare = re.search(before, text[: found.start()]) and re.match(
                r"$|[)\],]| [-+−<>=≤≥≠] ", text[found.end() :]
            )
            return shown[1:-1] if bare and shown[0] == "(" else shown

        return re.sub(rf"{START}({names}){END}", put, text)

    def number(self, value: float) -> str:
        return numbers.number(value, self.options.precision).replace("-", "−")

    def is_answer(self, name: str, value: Array) -> bool:
        """Whether a value stands among the gradients already: of one that agrees one value is shown."""
        found = self.x.gradients.get(name)
        if found is None or found.value.shape != value.shape:
            return False
        allowed = found.tolerance if found.verdict == "agree" else np.zeros(())
        return not differs(found.value, value, allowed).any()

    def expression(self, node: str) -> str:
        """An operation in the reader's names: ``log(c)``, ``y = 3*a + log(c)``."""
        row = self.rows.get(node)
        if row is None:
            return node
        if not row.named and row.text != row.node and row.text:
            return row.text
        shown = row.expression
        if node.endswith(".grad"):  # a formula by elements, of a recorded backward pass
            return f"{self.said.get(node, node)} = {self.renamed(shown)}"

        def text(found: re.Match[str]) -> str:
            inner = self.rows.get(found[0])
            said = self.said.get(found[0], found[0])
            loose = inner is not None and binds(inner.op) < binds(row.op) + bool(found.start())
            return f"({said})" if loose and said != found[0] and binds(row.op) < 5 else said

        return f"{self.said.get(node, node)} = " + re.sub(rf"{START}t\d+{END}", text, shown)

    # -- notes -----------------------------------------------------------------------------------

    def notes(self) -> Iterable[doc.Block]:
        yield from notes(self.renamed(note.text) for note in self.x.notes)
