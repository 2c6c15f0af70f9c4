"""Several backward calls, and the backward pass differentiated: what follows the page of ``run``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from gradexplain import numbers
from gradexplain.document.model import (
    Block,
    Cell,
    Formula,
    Heading,
    Line,
    Paragraph,
    Span,
    Table,
    Tensor,
    cell,
    code,
    label,
    line,
    math,
    name,
)
from gradexplain.explanation import Accumulated, Array, Call, Explanation, Second
from gradexplain.pages.options import Options
from gradexplain.pages.verdict import ROLES, verdict


class Sections(Protocol):
    """The sections of the page of ``run`` that stand here again, for another explanation."""

    def answer(self) -> Iterable[Block]: ...

    def derivation(self) -> Iterable[Block]: ...


Whole = Callable[[Explanation, Options], Sections]


def call_text(call: Call) -> str:
    """``L.backward(ones, retain_graph=True)`` as a program would have it."""
    arguments = []
    if call.grad.source == "ones":
        arguments.append("ones")
    elif call.grad.source == "given":
        value = numbers.tensor(call.grad.value)
        arguments.append(value[0] if len(value) == 1 and len(value[0]) <= 40 else "v")
    if call.retain_graph:
        arguments.append("retain_graph=True")
    return f"{call.start}.backward({', '.join(arguments)})"


def calls(x: Explanation, options: Options, whole: Whole) -> Iterable[Block]:
    """Every call with what it adds, and the derivation of those from other values."""
    yield Heading("Calls", "each backward adds its Jᵀ·v to .grad")
    for call in x.calls:
        if call.zeroed:
            yield Paragraph(line(code("optimizer.zero_grad()"), label("    every .grad is None")))
        yield Paragraph(line(label(f"call {call.number}  "), code(call_text(call), "flow")))
        if call.error:
            yield Paragraph(line(Span("PyTorch raises: ", "bad"), call.error), indent=4)
            yield Paragraph(line("and .grad is by then, in PyTorch:"), indent=4)
            rows = [
                (cell(name(f"{n}.grad")), _value(entry.torch, "None"))
                for n, entry in call.gradients.items()
            ]
            yield Table(tuple(rows), indent=6)
        else:
            yield _table(call)
    shown = {x.calls[0].start}
    for call in x.calls[1:]:
        if call.explanation is None or call.start in shown or call.error:
            continue
        shown.add(call.start)
        made = whole(call.explanation, options)
        yield Heading(f"Call {call.number}", call_text(call))
        yield from made.answer()
        yield from made.derivation()
    if x.saved:
        yield Heading("Freed by call 1", "the tensors that PyTorch's backward nodes had saved")
        yield Table(
            tuple(
                (
                    cell(name(s.node)),
                    cell(s.function),
                    cell(", ".join(s.names)) if s.names else cell(label("saves nothing")),
                )
                for s in x.saved
            )
        )


def short(x: Explanation) -> Iterable[Block]:
    """What several calls leave in ``.grad``, in a line or two."""
    for call in x.calls:
        if call.error:
            said = call.error.split(" (or ")[0].split(". ")[0]
            text = line(label(f"call {call.number}  "), Span("PyTorch raises: ", "bad"), said)
            yield Paragraph(text, indent=2)
    returned = any(note.kind == "returned" for note in x.notes)
    if len(x.calls) > 1 and not x.calls[-1].error and not returned:
        head = f"after {len(x.calls)} calls, each of which adds to .grad"
        yield Paragraph(line(label(head)), indent=2)
        rows = (
            (cell(name(f"{n}.grad")), _value(e.after, "None"))
            for n, e in x.calls[-1].gradients.items()
        )
        yield Table(tuple(rows), indent=4)


def _value(value: Array | None, nothing: str) -> Cell:
    return cell(label(nothing)) if value is None else (Tensor(value),)


def _table(call: Call) -> Table:
    """What a call adds to each ``.grad`` and what that holds then; PyTorch's where it is another."""
    differ = any(e.verdict in ("convention", "mismatch") for e in call.gradients.values())
    head: list[Cell] = [cell(), cell(label("adds")), cell(label(".grad after it"))]
    if differ:
        head.append(cell(label("PyTorch's .grad")))
    rows = []
    for n, entry in call.gradients.items():
        row = [cell(name(n)), _value(entry.added, "nothing"), _value(entry.after, "None")]
        if differ:
            row.append(_value(entry.torch, "None"))
        row.append(cell(_verdict(entry)))
        rows.append(tuple(row))
    return Table(tuple(rows), (*head, cell()), indent=4)


def _verdict(entry: Accumulated) -> Line:
    words = {"agree": "PyTorch agrees", "convention": "convention", "mismatch": "MISMATCH"}
    if entry.verdict not in words:
        return ()
    return line(Span(words[entry.verdict], ROLES[entry.verdict]))


def second(found: Second, options: Options, whole: Whole) -> Iterable[Block]:
    """The operations of the first pass, the scalar the second starts from, and its chain rule."""
    yield Heading("Backward pass", "as operations on values: what create_graph=True records")
    yield Table(
        tuple(
            (
                cell(name(f"{row.node}{row.at}")),
                cell(math(f"= {row.text}")),
                cell(label(numbers.shape(row.shape))),
                (Tensor(row.value),),
            )
            for row in found.backward
        )
    )
    yield Heading("Second backward", "the same chain rule, on the graph of both passes")
    yield Paragraph(line("The scalar is the sum of every element of every gradient:"), hang=0)
    yield Formula(f"{found.name} = {found.expression}", indent=6)
    made = whole(found.explanation, options)
    if found.explanation.steps:
        yield from made.derivation()
    else:
        yield Paragraph(line(f"Nothing flows back: {found.name} depends on no input."))
    yield Heading("Second derivatives", f"of {found.name}")
    for gradient in found.explanation.gradients.values():
        yield Formula(gradient.text, gradient.ranges, gradient.where)
        yield Table(
            ((cell(label("value")), (Tensor(gradient.value, of=gradient.name),)),), indent=4
        )
    yield from verdict(
        found.explanation.check,
        found.explanation.gradients.values(),
        options.precision,
        "second derivatives",
    )
