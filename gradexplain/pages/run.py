"""The page of ``run``: the question, the graph, the answer, one element in full, then the derivation.

Answer first, everything said once, what is trivial in words.  `Options.full` adds what is left out,
`Options.brief` leaves the answer alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

import numpy as np

from gradexplain import numbers
from gradexplain.document.model import (
    Block,
    Cell,
    Document,
    Fold,
    Formula,
    Heading,
    Line,
    Matrix,
    Notes,
    Paragraph,
    Program,
    Span,
    Steps,
    Table,
    Tensor,
    cell,
    code,
    label,
    line,
    math,
    name,
)
from gradexplain.document.model import Step as SteppedStep
from gradexplain.explanation import (
    Array,
    Explanation,
    Gradient,
    Step,
)
from gradexplain.formats.text import elements, listed
from gradexplain.pages import calls
from gradexplain.pages.element import element, entry
from gradexplain.pages.graph import graph_of
from gradexplain.pages.options import Options
from gradexplain.pages.verdict import verdict
from gradexplain.pages.words import (
    definitions,
    merged,
    quoted,
    standing,
)

#: A tensor of more elements that are all one number is said in words.
_WORDS = 6

#: A value of the backward pass with more elements is shown with ``--full`` only.
_STEP = 9

#: A matrix among the steps is shown where there are no more steps than this.
_FEW = 8

#: A Jacobian that needs more definitions than this is shown with ``--full`` only.
_DEFINED = 2

#: Entries of J beyond this are shown with ``--full`` only.
_SMALL = 36


def page(x: Explanation, options: Options | None = None) -> Document:
    """The whole page of one ``backward``."""
    made = Page(x, options or Options())
    return Document(made.title, tuple(made.blocks()))


def why(x: Explanation, options: Options | None = None) -> Document:
    """One element of a gradient alone."""
    made = Page(x, options or Options())
    return Document(made.title, (*made.question(), *element(made), *entry(made)))


class Page:
    """The blocks of one explanation, section by section."""

    def __init__(self, x: Explanation, options: Options) -> None:
        self.x = x
        self.options = options
        self.title = (
            f"{x.output.name}.backward({'' if x.grad.source == 'implicit' else x.grad.name})"
        )
        #: What unnamed values are called on the page; of those that stay numbers, what they are.
        self.called = {row.node: quoted(row) for row in x.forward if not row.named and row.text}
        self.said = {row.node: row.text for row in x.forward if not row.named and row.text}
        self.scalar = not x.output.shape or x.grad.value.size == 1

    @property
    def arriving(self) -> str:
        """What the chain rule calls the gradient that arrives at an operation."""
        names = {*self.x.inputs, *(row.node for row in self.x.forward)}
        return next((w for w in ("g", "g_out", "grad_output") if w not in names), "grad_output_")

    # -- order -----------------------------------------------------------------------------------

    def blocks(self) -> Iterable[Block]:
        yield from self.question()
        if self.options.brief:
            yield from self.answer()
            return
        yield from self.drawing()
        yield from self.answer()
        yield from element(self)
        yield from self.jacobian()
        yield from self.chain()
        yield from self.further()
        yield from self.between()
        yield from self.notes()

    # -- the question ----------------------------------------------------------------------------

    def question(self) -> Iterable[Block]:
        x = self.x
        statements = x.statements or tuple(x.expression.strip().splitlines())
        yield Program(tuple(statements))
        if self.options.brief:
            return
        yield Paragraph(())
        rows = [
            (
                cell(name(i.name)),
                cell(label(numbers.shape(i.shape))),
                self.valued(i.value, standing(i)),
            )
            for i in x.inputs.values()
        ]
        y = x.output
        value = () if y.value is None else self.valued(y.value)
        rows.append((cell(name(y.name)), cell(label(numbers.shape(y.shape))), value))
        if x.grad.source != "implicit":
            rows.append(
                (
                    cell(Span(x.grad.name, "flow", "math")),
                    cell(label(numbers.shape(x.grad.value.shape))),
                    self.valued(x.grad.value, self.meaning(), x.grad.name),
                )
            )
        yield Table(tuple(rows))
        if missing := [n for n, i in x.inputs.items() if not i.given]:
            them = "them" if len(missing) > 1 else "it"
            yield Paragraph(
                line(
                    label(f"Example values for {listed(missing)}; --at {missing[0]}=… sets {them}.")
                ),
                hang=0,
            )
        if x.grad.source == "implicit":
            yield Paragraph(
                line(
                    label(
                        f"{y.name} is a scalar: {y.name}.backward() starts from ∂{y.name}/∂{y.name} = 1."
                    )
                ),
                hang=0,
            )

    def valued(self, values: Array, remark: str = "", of: str = "") -> Cell:
        """A tensor, in words where it is one number many times."""
        if values.size > _WORDS and np.isfinite(values).all() and (values == values.flat[0]).all():
            said = numbers.number(float(values.flat[0]), self.options.precision)
            return cell(
                line(
                    "ones" if said == "1" else "zeros" if said == "0" else f"all {said}",
                    label(f"  {remark}" if remark else ""),
                )
            )
        return (Tensor(values, remark, of, asked=False),)

    def meaning(self) -> str:
        """What v is, beside it."""
        x = self.x
        loss = x.grad.loss
        left = loss.partition(" ")[0]
        if self.scalar:
            return f"what backward is given: it multiplies every gradient ({loss})"
        return f"what backward is given: ∂{left}/∂{x.output.name} of {loss}"

    # -- the graph -------------------------------------------------------------------------------

    def drawing(self) -> Iterable[Block]:
        graph = graph_of(self.x)
        if graph is not None:
            yield graph
        yield from self.stepper()

    def stepper(self) -> Iterable[Block]:
        """What a format that moves steps through."""
        x = self.x
        g = self.arriving
        graph = graph_of(x, detail=True)
        if graph is not None:
            yield Steps(
                graph,
                tuple((row.node, row.expression, row.value) for row in x.forward),
                tuple(
                    SteppedStep(
                        s.node, s.input, self.expression(s.node), self.renamed(s.rule),
                        self.work(s), self.words(s, g), s.upstream, s.contribution, s.total,
                    )
                    for s in x.steps
                ),
            )  # fmt: skip

    # -- the answer ------------------------------------------------------------------------------

    def answer(self) -> Iterable[Block]:
        x = self.x
        yield Heading(
            "Gradients", f"of {x.grad.loss.partition(' ')[0]}, by each input" if False else ""
        )
        rows = []
        ranges: dict[str, None] = {}
        where: dict[str, None] = {}
        own = {statement.partition(" ")[0] for statement in x.statements}
        for gradient in x.gradients.values():
            left, right = self.formula(gradient)
            if not self.is_short(gradient):
                ranges[gradient.ranges] = None
                for text in gradient.where:
                    if text.partition("[")[0].partition(" ")[0] not in own:
                        where[self.renamed(text)] = None
            parts: list[Line | Tensor] = []
            if gradient.line:
                parts = [line(code(gradient.line, "quiet"))]
            rows.append(
                (
                    cell(line(name(left), math(f" = {right}"))),
                    (Tensor(gradient.value, of=gradient.name),),
                    tuple(parts),
                )
            )
        if not any(row[2] for row in rows):
            rows = [row[:2] for row in rows]  # type: ignore[misc]
        yield Table(tuple(rows), stacked=True)
        for text in self.x.definitions:
            if any(self.is_short(g) for g in x.gradients.values()):
                where[self.renamed(text)] = None
        used = " ".join([*(self.formula(g)[1] for g in x.gradients.values()), *where])
        for row in x.forward:
            numbered = not row.named and row.text == row.node
            if numbered and re.search(rf"(?<!\w){row.node}(?!\w)", used):
                where[self.expression(row.node)] = None
        yield from definitions(where)
        if sizes := self.sizes(used):
            yield Paragraph(line(label(sizes)), indent=4)
        yield from verdict(x.check, x.gradients.values(), self.options.precision)

    def sizes(self, used: str) -> str:
        """The ranges of letters, and the sizes, that the formulas above speak of."""
        found: dict[str, None] = {}
        for gradient in self.x.gradients.values():
            for part in gradient.ranges.split("; "):
                letters, _, bound = part.partition(" = ")
                if self.is_short(gradient) and not letters.isupper():
                    continue
                kept = [
                    letter for letter in letters.split(", ")
                    if re.search(
                        rf"(?<![\w.]){letter}(?![\w(])" if letter.isupper()
                        else rf"[\[,_{{( +−·]{letter}(?=[\],}} )+−·])", used
                    )
                ]  # fmt: skip
                if kept:
                    found[f"{', '.join(kept)} = {bound}"] = None
        return "; ".join(found)

    def is_short(self, gradient: Gradient) -> bool:
        return bool(gradient.short) and self.options.notation != "index"

    def formula(self, gradient: Gradient) -> tuple[str, str]:
        """The two sides of a gradient's formula."""
        if self.is_short(gradient):
            return f"{gradient.name}.grad", self.renamed(gradient.short)
        left, _, right = gradient.text.partition(" = ")
        return left, self.renamed(right)

    def renamed(self, text: str) -> str:
        """A formula in which unnamed values stand by their own text."""
        if not self.called:
            return text
        names = "|".join(map(re.escape, self.called))
        return re.sub(rf"(?<![\w.])({names})(?!\w)", lambda m: self.called[m[1]], text)

    def number(self, value: float) -> str:
        return numbers.number(value, self.options.precision).replace("-", "−")

    # -- jacobian --------------------------------------------------------------------------------

    def jacobian(self) -> Iterable[Block]:
        x = self.x
        if not x.output.shape or not x.jacobian:
            return  # J of a scalar is the gradient
        y = x.output.name
        layout = self.options.layout == "denominator"
        said = f"J[i,j] = ∂{y}[i]/∂input[j]: a row for each element of {y}"
        if layout:
            said = (
                f"Jᵀ, denominator layout: a row for each element of the input, a column for {y}'s"
            )
        yield Heading("Jacobian", said)
        long = [
            n for n, j in x.jacobian.items() if len(j.where) > _DEFINED and not self.options.full
        ]
        found = [j for n, j in x.jacobian.items() if n not in long]
        deltas = any("δ(" in j.text for j in found)
        where: dict[str, None] = {}
        own = {statement.partition(" ")[0] for statement in x.statements}
        for jacobian in found:
            remark = jacobian.structure
            value = jacobian.value
            size = int(np.prod(jacobian.shape))
            diagonal = self.diagonal(value, x.inputs[jacobian.name].shape)
            if diagonal is not None:
                remark = f"{jacobian.structure.partition(':')[0].partition(',')[0]}: {diagonal}"
            yield Formula(self.renamed(jacobian.text), jacobian.latex, remark)
            for text in jacobian.where:
                if text.partition("[")[0].partition(" ")[0] not in own:
                    where[self.renamed(text)] = None
            if value is not None and value.size > 1 and diagonal is None:
                if not value.any():
                    yield Paragraph(line(label("every entry is 0 here")), indent=4)
                elif size <= _SMALL or self.options.full:
                    yield self.matrix(value, jacobian.name, layout)
        yield from definitions(where)
        ranges = dict.fromkeys(j.ranges for j in found)
        tail = "δ(i,j) is 1 where i = j, else 0" if deltas else ""
        if long:
            yield Paragraph(line(label(f"J by {listed(long)} takes more lines: --full shows it")))
        known = merged(ranges)
        if said := "; ".join(part for part in (tail, known) if part):
            yield Paragraph(line(label(said)), indent=4)

    def diagonal(self, value: Array | None, shape: tuple[int, ...]) -> str | None:
        """``diag(12, 16, 20)`` of a diagonal J that is short enough."""
        if value is None or not value.size:
            return None
        count = int(np.prod(shape)) if shape else 1
        flat = value.reshape(-1, count)
        if flat.shape[0] != count or count < 2 or (flat != np.diag(np.diag(flat))).any():
            return None
        entries = [self.number(float(e)) for e in np.diag(flat)]
        if len(set(entries)) == 1:
            return f"{entries[0]} all along"
        shown = ", ".join(entries)
        return f"diag({shown})" if len(shown) <= 48 else None

    def matrix(self, value: Array, input: str, transposed: bool) -> Matrix:
        x = self.x
        rows = elements(x.output.name, x.output.shape)
        columns = elements(input, x.inputs[input].shape)
        flat = value.reshape(len(rows), len(columns))
        if transposed:
            return Matrix(tuple(columns), tuple(rows), flat.T)
        return Matrix(tuple(rows), tuple(columns), flat)

    # -- chain rule ------------------------------------------------------------------------------

    def chain(self) -> Iterable[Block]:
        x = self.x
        if not x.steps:
            return
        g = self.arriving
        yield Heading(
            "Chain rule",
            f"from {x.output.name} back; {g} is what arrives at an operation (PyTorch's grad_output)",
        )
        yield Table(tuple(self.steps(g)), indent=2)
        if self.options.full:
            yield from self.everything()

    def steps(self, g: str) -> Iterable[tuple[Cell, ...]]:
        x = self.x
        for node, group in groupby(x.steps, key=lambda step: step.node):
            steps = list(group)
            shown = self.expression(node)
            stops = [stop for stop in x.stops if stop.node == node]
            passing = [
                s for s in steps if s.short == g and s.contribution.shape == s.upstream.shape
            ]
            if len(passing) == len(steps) > 1 and all(s.total is None for s in steps) and not stops:
                to = ", ".join(self.said.get(s.input, s.input) for s in steps)
                yield (
                    cell(math(shown)),
                    cell(line(label("to "), name(to))),
                    cell(
                        line(
                            label("passes "),
                            Span(g, "flow", "math"),
                            label(" on to both" if len(steps) == 2 else " on to all"),
                        )
                    ),
                )
            else:
                for place, step in enumerate(steps):
                    yield self.step(step, "" if place else shown, g)
            for stop in stops:
                target = name(self.said.get(stop.input, stop.input))
                reason = label(f"stops here: {self.renamed(stop.reason)}")
                yield cell(), cell(line(label("to "), target)), cell(reason)

    def step(self, step: Step, shown: str, g: str) -> tuple[Cell, ...]:
        """One contribution: what it is by, its formula with one element's numbers, its value."""
        target = self.said.get(step.input, step.input)
        parts: list[Line | Tensor] = []
        words = self.words(step, g)
        if words:
            parts.append(line(label(words)))
        else:
            work = self.work(step)
            rule = self.renamed(step.short or step.contribution_rule)
            parts.append(line(math(rule), label(f"    {work}" if work else "")))
            known = step.total is None and self.is_answer(step.input, step.contribution)
            if not known and self.fits(step.contribution):
                parts.append(Tensor(step.contribution))
        if step.total is not None:
            said = f"the {step.uses} contributions to {target}"
            if step.input in self.x.inputs:
                parts.append(line(label(f"{said} add up to "), name(f"{step.input}.grad")))
            elif self.fits(step.total):
                parts.append(Tensor(step.total, f"the sum of {said}"))
            else:
                parts.append(line(label(f"{said} add up")))
        return (
            cell(math(shown)) if shown else cell(),
            cell(line(label("to "), name(target))),
            tuple(parts),
        )

    def fits(self, value: Array) -> bool:
        """Whether a value of the backward pass is shown on the page, or in full only."""
        short = value.ndim < 2 or len(self.x.steps) <= _FEW
        return self.options.full or (value.size <= _STEP and short)

    def words(self, step: Step, g: str) -> str:
        """A trivial step in words."""
        if step.short != g:
            return ""
        if step.contribution.shape == step.upstream.shape:
            return f"passes {g} on"
        return f"{g} for every element" if step.contribution.size > step.upstream.size else ""

    def work(self, step: Step) -> str:
        """One element with its numbers, and which: ``3·0.1 = 0.3 at [0]``."""
        if not step.numbers:
            return ""
        _, _, worked = step.numbers.replace("-", "−").partition(" = ")
        left, _, right = worked.rpartition(" = ")
        if left == right:
            return ""
        nonzero = np.argwhere(step.contribution != 0)
        place = tuple(int(i) for i in nonzero[0]) if len(nonzero) else (0,) * step.contribution.ndim
        at = f" at [{','.join(map(str, place))}]" if place else ""
        return worked + at

    def is_answer(self, name: str, value: Array) -> bool:
        """Whether a value stands among the gradients already."""
        found = self.x.gradients.get(name)
        return found is not None and found.value.shape == value.shape and np.array_equal(
            found.value, value, equal_nan=True
        )  # fmt: skip

    def expression(self, node: str) -> str:
        row = next((row for row in self.x.forward if row.node == node), None)
        if row is None:
            return node
        if not row.named and row.text != row.node and row.text:
            return row.text
        shown = re.sub(r"(?<![\w.])t\d+(?!\w)", lambda m: self.said.get(m[0], m[0]), row.expression)
        return f"{node} = {shown}"

    def everything(self) -> Iterable[Block]:
        """What ``--full`` adds: the values of every operation, every local derivative."""
        x = self.x
        rows = [
            (
                cell(math(f"{row.node} = {row.expression}")),
                cell(label(numbers.shape(row.shape))),
                (Tensor(row.value),),
            )
            for row in x.forward
        ]
        yield Heading("Forward", "each operation and its value")
        yield Table(tuple(rows))
        yield Heading("Local derivatives", "of each operation by what it is made from")
        for step in x.steps:
            if step.rule:
                yield Paragraph(line(math(step.rule)))
        for gradient in x.gradients.values():
            yield Fold(
                "index notation",
                (Formula(gradient.text, gradient.latex, gradient.ranges, gradient.where),),
            )

    def further(self) -> Iterable[Block]:
        if self.x.second is not None:
            yield from calls.second(self.x.second, self.options, Page)
        if self.x.calls:
            yield from calls.calls(self.x, self.options, Page)

    # -- starting in between ---------------------------------------------------------------------

    def between(self) -> Iterable[Block]:
        rest = [i for i in self.x.intermediates.values() if not i.retained]
        kept = [i for i in self.x.intermediates.values() if i.retained]
        if kept:
            yield Heading("Retained gradients", ".grad of computed values, kept by retain_grad()")
            for gradient in kept:
                left, right = self.formula(gradient)
                yield Formula(f"{left} = {right}", gradient.latex, gradient.ranges)
                yield Table(((cell(label("value")), (Tensor(gradient.value),)),), indent=4)
        if not rest:
            return
        yield Heading(
            "What v is",
            "starting at a value with v = the gradient that arrives there gives the same",
        )
        rows = []
        for i in rest:
            gives = []
            if i.whole:
                gives.append(f"gives {listed([f'{n}.grad' for n in i.whole])}")
            if i.part:
                gives.append(f"a part of {listed([f'{n}.grad' for n in i.part])}")
            shown = numbers.tensor(i.value, self.options.precision, 60)
            short = len(shown) == 1 and len(shown[0]) <= 40
            call = f"{i.name}.backward({shown[0] if short else 'v'})"
            said = "; ".join(gives)
            parts: list[Line | Tensor] = [line(label(said if short else f"{said}, with v ="))]
            if not short:
                parts.append(Tensor(i.value))
            rows.append((cell(code(call, "flow")), tuple(parts)))
        yield Table(tuple(rows))

    # -- notes -----------------------------------------------------------------------------------

    def notes(self) -> Iterable[Block]:
        if self.x.notes:
            yield Heading("Notes")
            yield Notes(tuple(line(self.renamed(note.text)) for note in self.x.notes))
