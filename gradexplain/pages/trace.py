"""The pages of a traced script: each explained call, then the others in a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.explanation import Array, Step
from gradexplain.pages.chain import heading
from gradexplain.pages.jacobian import jacobian
from gradexplain.pages.options import Options
from gradexplain.pages.page import Page, started
from gradexplain.pages.screen import explained, of_a_line, raised, wrong
from gradexplain.pages.steps import in_words, work
from gradexplain.pages.verdict import CHOICE, concluded

if TYPE_CHECKING:
    from gradexplain.trace.call import TracedCall, TracedRow, TracedStep
    from gradexplain.trace.session import Trace
    from gradexplain.trace.snapshot import Fault

#: A tensor with more elements shows its edges; the second holds for more than two axes.
_WHOLE, _DEEP = 36, 18

#: Of a longer chain, so many operations are shown at both ends.
_ENDS = 25


def document(trace: Trace, script: str, op: str | None, options: Options) -> doc.Document:
    """The whole page of a script; with ``op`` only the operations of that name."""
    blocks: list[doc.Block] = []
    for index in trace.full:
        blocks += _Call(_only(trace.call(index), op), options, len(trace.all)).blocks()
    blocks += wrong(trace.findings)
    blocks += _others(trace, script)
    if trace.fault is not None:
        blocks += _fault(trace.fault, trace, options)
    if not trace.all and trace.fault is None:
        said = f"{script} ran to its end, but no backward was called."
        blocks.append(doc.prose(said, indent=0))
    return doc.Document(script, tuple(blocks))


def page(call: TracedCall, options: Options | None = None) -> doc.Document:
    """One explained call."""
    return doc.Document(f"Call {call.index}", tuple(_Call(call, options or Options(), 1).blocks()))


def _only(call: TracedCall, op: str | None) -> TracedCall:
    """A call with its operations of one name, and what they send."""
    if op is None:
        return call

    def named(name: str) -> bool:
        return name.strip("_") == op or name == op

    return replace(
        call, forward=[row for row in call.forward if named(row.op)],
        steps=[step for step in call.steps if named(step.op)],
        jacobian={}, gradients={}, accumulated=[], left_out=[], notes=[],
    )  # fmt: skip


def _tensor(values: Array, remark: str = "") -> doc.Tensor:
    """A tensor, a large one by its edges with its shape."""
    if values.size <= (_WHOLE if values.ndim < 3 else _DEEP):
        return doc.Tensor(values, remark, most=_WHOLE)
    flat = values.ndim > 2
    said = f"shape {numbers.shape(values.shape)}{', in one row' if flat else ''}"
    said = f"{said}; {remark}" if remark else said
    return doc.Tensor(values.ravel() if flat else values, said, most=_DEEP if flat else _WHOLE)


def _known(values: Array | None, remark: str = "") -> doc.Cell:
    return doc.cell(doc.label("None") if values is None else _tensor(values, remark))


def _ends(items: Sequence[Any], ends: int) -> Iterator[tuple[Any, int]]:
    """The items at both ends, and how many are left out before the next."""
    if len(items) <= 2 * ends + 2:
        yield from ((item, 0) for item in items)
        return
    yield from ((item, 0) for item in items[:ends])
    yield None, len(items) - 2 * ends
    yield from ((item, 0) for item in items[-ends:])


def _line(number: int | None) -> str:
    return "" if number is None else f"line {number}"


class _Call(Page):
    """The blocks of one call.  Its numbers are those PyTorch had."""

    def __init__(self, x: TracedCall, options: Options, total: int) -> None:
        super().__init__(x, options)
        self.call = x
        self.total = total

    def blocks(self) -> Iterable[doc.Block]:
        x = self.call
        of = f" of {self.total}" if self.total > 1 else ""
        where = f"line {x.line} of {x.file}" if x.line is not None else "called by a library"
        yield doc.Heading(f"Call {x.index}{of}", where)
        if x.source:
            yield doc.Program((x.source,))
        yield from self.question()
        if len(x.forward) <= 2 * _ENDS:
            yield from self.stepper()
        yield from operations(x.forward)  # type: ignore[arg-type]
        yield from self.answer()
        yield from jacobian(self)
        yield from self.chain()
        yield from self.accumulated()
        yield from self.left_out()
        yield from self.error()
        yield from self.notes()

    def question(self) -> Iterable[doc.Block]:
        x = self.call
        rows = [
            self.tensor(i.name, i.value, "" if i.wanted else "does not require grad")
            for i in x.inputs.values()
        ]
        given = x.grad.source != "implicit"
        for root in x.roots if given or len(x.roots) > 1 else ():
            shape = doc.label(numbers.shape(root.shape))
            rows.append(doc.row(doc.name(root.name), shape, doc.label("backward starts here")))
        if len(x.roots) == 1 and given:
            rows.append(self.tensor(x.grad.name, x.roots[0].v, self.meaning(), x.grad.name))
        if rows:
            yield doc.Paragraph(())
            yield doc.Table(tuple(rows))
        if x.fault is None and len(x.roots) == 1 and not given:
            yield started(x.roots[0].name)
        elif x.fault is None and len(x.roots) > 1:
            said = f"{x.grad.loss} is differentiated: the v given for each is what flows into it."
            yield doc.remark(said, hang=0)

    def valued(self, values: Array, remark: str = "", of: str = "") -> doc.Cell:
        return (_tensor(values, remark),)

    # -- the answer --------------------------------------------------------------------------------

    def answer(self) -> Iterable[doc.Block]:
        x = self.call
        if x.fault is not None:
            return
        closed = [g for g in x.gradients.values() if g.text]
        if closed:
            yield from super().answer()
            return
        if x.check is not None:
            yield doc.Heading("Verdict")
            yield from self.verdict()

    def verdict(self) -> Iterable[doc.Block]:
        check = self.call.check
        if check is None:
            return
        said = {
            "agree": self.conclusion(),
            "convention": check.reason or CHOICE,
            "mismatch": "the routes give different gradients",
        }.get(check.status, check.reason)
        tail = f" ({check.dtype})." if check.status in ("agree", "convention", "mismatch") else "."
        closed = [g for g in self.call.gradients.values() if g.text]
        yield from concluded(check, said.rstrip(".") + tail, closed, self.options.precision)

    def conclusion(self) -> str:
        """What agrees, and how much of the whole was compared."""
        x = self.call
        if x.unchecked:
            where = (
                f"where there is a formula, in {x.checked} of {x.checked + x.unchecked} operations"
            )
            return f"chain rule = PyTorch {where}; the rest is PyTorch's own and not checked"
        own = "" if x.complete else "; what hooks returned is taken as it is"
        if any(g.text for g in x.gradients.values()):
            return f"closed form = chain rule = PyTorch{own}"
        if x.compared < x.contributions:
            both = f"the {x.compared} of {x.contributions} steps that both take"
            return f"chain rule = PyTorch, and the same contributions in {both}{own}"
        return f"chain rule = PyTorch{' at every step' * bool(x.compared)}{own}"

    # -- chain rule --------------------------------------------------------------------------------

    def chain(self) -> Iterable[doc.Block]:
        x = self.call
        if not x.steps:
            return
        g = self.arriving
        yield heading(" and ".join(root.name for root in x.roots) or x.output.name, g)
        steps: list[TracedStep] = x.steps  # type: ignore[assignment]
        expressions = {row.node: row.expression for row in x.forward}
        groups = [
            list(group) for _, group in groupby(steps, key=lambda s: (s.node, s.kind == "hook"))
        ]
        rows: list[tuple[doc.Cell, ...]] = []
        for group, left_out in _ends(groups, _ENDS):
            if group is None:
                rows.append((doc.cell(doc.label(f"… {left_out} more operations")),))
            elif group[0].kind == "hook":
                rows += self.hook(group[0])
            else:
                head = group[0]
                shown: doc.Line = doc.line(
                    doc.name(head.node), doc.math(f" = {expressions.get(head.node, head.op)}"),
                    doc.label(f"  {_line(head.line)}"),
                )  # fmt: skip
                rows += [self.sent(s, shown if not n else (), g) for n, s in enumerate(group)]
        yield doc.Table(tuple(rows))

    def hook(self, step: TracedStep) -> Iterable[tuple[doc.Cell, ...]]:
        head = doc.line("a hook on ", doc.name(step.node), " replaces the gradient")
        yield doc.row(head, doc.label("arrived"), _tensor(step.upstream))
        yield doc.row("", doc.label("goes on"), _tensor(step.contribution))

    def sent(self, step: TracedStep, shown: doc.Line, g: str) -> tuple[doc.Cell, ...]:
        """One contribution: by which formula, one element's numbers, its value."""
        parts: list[doc.Line | doc.Tensor] = []
        if step.kind == "opaque":
            parts.append(doc.line(doc.label("PyTorch's own result: no formula")))
        else:
            rule = step.short or _in(g, step)
            said, worked = in_words(replace(step, short=rule), g), work(step)
            parts.append(
                doc.line(doc.label(said))
                if said
                else doc.line(doc.math(rule), doc.label(f"    {worked}" if worked else ""))
            )
        told = step.contribution_rule and step.total is None
        if not (told and self.is_answer(step.input, step.contribution)):
            parts.append(_tensor(step.contribution))
        if step.total is not None:
            parts.append(_tensor(step.total, f"the sum of the {step.uses} contributions to {step.input}"))  # fmt: skip
        return doc.row(shown, doc.line(doc.label("to "), doc.name(step.input)), tuple(parts))

    # -- what happened to .grad --------------------------------------------------------------------

    def accumulated(self) -> Iterable[doc.Block]:
        entries = self.call.accumulated
        if not entries or self.call.fault is not None:
            return
        if entries[0].kind == "returned":
            yield doc.Heading(
                "Returned", "the gradients that autograd.grad gives back; no .grad changes"
            )
            yield doc.Table(
                tuple((doc.cell(doc.name(f"for {e.name}")), _known(e.after)) for e in entries)
            )
            return
        fresh = all(e.before is None for e in entries)
        shown = {g.name for g in self.call.gradients.values() if g.text}
        if fresh and all(
            e.name in shown and e.added is not None and self.is_answer(e.name, e.added)
            for e in entries
        ):
            return  # the gradients above, each None before
        none = "; each was None before" if fresh else ""
        yield doc.Heading("Accumulated", f"what backward added to each .grad{none}")
        rows: list[tuple[doc.Cell, ...]] = []
        for entry in entries:
            first = entry.before is None
            kept = "kept by retain_grad()" if entry.kind == "retained" and first else ""
            known = {"before": entry.before, "added": entry.added, "after": entry.after}
            title: str | doc.Span = doc.name(f"{entry.name}.grad")
            for said in ("added",) if first else known:
                rows.append(doc.row(title, doc.label(said), _known(known[said], kept)))
                title = ""
        yield doc.Table(tuple(row[:1] + row[2:] if fresh else row for row in rows))

    def left_out(self) -> Iterable[doc.Block]:
        x = self.call
        if not x.left_out or x.fault is not None:
            return
        yield doc.Heading("Got nothing")
        yield doc.Table(
            tuple(
                doc.row(
                    doc.name(left.name),
                    doc.label(numbers.shape(left.shape)),
                    left.why + (f" (line {left.site.line})" if left.site is not None else ""),
                )
                for left in x.left_out
            )
        )

    def error(self) -> Iterable[doc.Block]:
        x = self.call
        if x.fault is None:
            return
        yield doc.Heading("PyTorch refused")
        yield from explained(x.fault)


def _in(g: str, step: Step) -> str:
    """A contribution in terms of ``g``, what arrives at the operation."""
    text = re.sub(rf"∂\w+/∂{re.escape(step.node)}(?![\w.′])", g, step.contribution_rule)
    same = np.array_equal(step.contribution, step.upstream, equal_nan=True)
    return g if same and re.fullmatch(rf"{g}\[(j|0)?(,l|,0)?(,n|,0)?(,b|,0)?\]", text) else text


def operations(
    rows: list[TracedRow],
    title: str = "Operations",
    remark: str = "as executed, with the values that PyTorch computed",
) -> Iterable[doc.Block]:
    """Each operation with its line and its value."""
    if not rows:
        return
    yield doc.Heading(title, remark)
    shown: list[tuple[doc.Cell, ...]] = []
    number: int | None = -1
    for row, left_out in _ends(rows, _ENDS):
        if row is None:
            shown.append(doc.row(doc.label("…"), doc.label(f"{left_out} more operations")))
            number = -1
            continue
        own = "no formula: PyTorch's own" if row.opaque else ""
        shown.append(
            doc.row(
                doc.label(_line(row.line) if row.line != number else ""),
                doc.line(doc.name(row.node), doc.math(f" = {row.expression}")),
                doc.label(numbers.shape(row.shape)),
                _tensor(row.value, own) if row.known else doc.label(f"not kept  {own}".rstrip()),
            )
        )
        number = row.line
    yield doc.Table(tuple(shown))


# -- the other calls, and errors -------------------------------------------------------------------


def _others(trace: Trace, script: str) -> Iterable[doc.Block]:
    rest = [brief for brief in trace.all if brief.index not in trace.full]
    if not rest:
        return
    from gradexplain.trace.screen import calls_of

    count = len(rest)
    yield doc.Heading(
        f"{count} other call{'s' * (count != 1)}",
        f"--call N explains one of them in full: gradexplain trace --call {rest[0].index} {script}",
    )
    yield doc.Table(tuple(map(of_a_line, calls_of(rest))))


def _fault(fault: Fault, trace: Trace, options: Options) -> Iterable[doc.Block]:
    shown = next((call for call in trace.calls if call.fault and call.fault.why == fault.why), None)
    where = "" if fault.site is None else f"line {fault.site.line} of {fault.site.file}"
    if shown is not None:
        if trace.stopped:
            yield doc.Heading(
                "The script stopped", f"{where}, with the error of call {shown.index}"
            )
        return
    yield from raised(fault, stopped=trace.stopped)
    recorded = trace.recorded_call()
    if recorded is not None:
        rows: list[TracedRow] = recorded.forward  # type: ignore[assignment]
        yield from operations(rows, "Recorded so far", "the operations behind the values at hand")
