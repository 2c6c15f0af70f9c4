"""A traced script as a page of text: the explained calls, then the others in a line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.text import Text

from gradexplain import numbers
from gradexplain.explanation import Array, Step
from gradexplain.formats.text import (
    HEADING,
    LABEL,
    NAME,
    VERDICTS,
    Cell,
    Page,
    Style,
    formula_lines,
    listed,
    route_lines,
)
from gradexplain.pages import traced as text

if TYPE_CHECKING:
    from gradexplain.trace.explain import TracedCall, TracedRow, TracedStep
    from gradexplain.trace.faults import Fault
    from gradexplain.trace.session import Brief, Trace

#: A tensor with more elements shows its edges; the second holds for more than two axes.
_WHOLE, _DEEP = 36, 18

#: Of a longer chain, so many operations are shown at both ends.
_ENDS = 25

#: So many calls in a line each are shown at both ends.
_LINES = 6


def render(trace: Trace, script: str, style: Style | None = None, op: str | None = None) -> str:
    """The whole page of a script; with ``op`` only the operations of that name."""
    style = style or Style()
    full = trace.full
    pages = [
        render_call(_only(trace.call(index), op), style, total=len(trace.all)) for index in full
    ]
    others = _others(trace, full, script, style)
    if others:
        pages.append(others)
    if trace.fault is not None:
        pages.append(_fault(trace.fault, trace, style))
    pages = [page for page in pages if page]
    if not trace.all and trace.fault is None:
        page = Page(style)
        page.add(page.text(f"{script} ran to its end, but no backward was called."), indent=0)
        pages.append(page.finish(first=True))
    return "\n".join(pages)


def render_call(call: TracedCall, style: Style | None = None, *, total: int = 0) -> str:
    """One explained call."""
    page = Page(style or Style())
    of = f" of {total}" if total > 1 else ""
    where = f"line {call.line} of {call.file}" if call.line is not None else "called by a library"
    page.heading(f"Call {call.index}{of}", where)
    if call.source:
        page.add(page.text(call.source))
    for section in (
        _question, _operations, _jacobian, _steps, _gradients, _accumulated, _left_out, _error,
        _verdict,
    ):  # fmt: skip
        page.blank()
        section(page, call)
    while page.lines and not page.lines[-1]:
        page.lines.pop()
    return page.finish(first=True)


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


def _tensor(page: Page, values: Array, used: int) -> list[Text]:
    """A tensor, a large one by its edges with its shape."""
    room = max(20, page.style.width - used)
    if values.size <= (_WHOLE if values.ndim < 3 else _DEEP):
        return [page.text(t) for t in numbers.tensor(values, page.style.precision, room)]
    flat = values.ndim > 2
    shown = values.ravel() if flat else values
    most = _DEEP if flat else _WHOLE
    lines = [page.text(t) for t in numbers.tensor(shown, page.style.precision, room, most)]
    said = page.text(f"shape {numbers.shape(values.shape)}{', in one row' if flat else ''}", LABEL)
    if lines[-1].cell_len + 2 + said.cell_len <= room:
        lines[-1].append_text(Text("  ")).append_text(said)
    else:
        lines.append(said)
    return lines


# -- question --------------------------------------------------------------------------------------


def _question(page: Page, x: TracedCall) -> None:
    rows = [
        (
            i.name,
            i.shape,
            i.value,
            "" if i.wanted else "does not require grad",
        )
        for i in x.inputs.values()
    ]
    if not rows and not x.roots:
        return
    for root in x.roots:
        rows.append((root.name, root.shape, None, "backward starts here"))  # type: ignore[arg-type]
    if len(x.roots) == 1:
        rows.append((x.grad.name, x.roots[0].shape, x.roots[0].v, "the argument of backward"))
    used = 6 + max(page.text(row[0]).cell_len + len(numbers.shape(row[1])) for row in rows)
    page.grid(
        [
            [
                [page.text(name, NAME)],
                [page.text(numbers.shape(shape), LABEL)],
                page.remarked([] if value is None else _tensor(page, value, used), remark, used),
            ]
            for name, shape, value, remark in rows
        ]
    )
    if x.error is not None:
        return
    page.blank()
    _meaning(page, x)


def _meaning(page: Page, x: TracedCall) -> None:
    v, loss = x.grad.name, x.grad.loss.partition(" ")[0]
    names = [root.name for root in x.roots]
    if not names:
        return
    implicit = x.grad.source == "implicit"
    each = f"({v} = 1, implied for a scalar) " if implicit else ""
    many = len(names) > 1
    argument = "" if implicit else v
    called = {
        "backward": f"{names[0]}.backward({argument})",
        "autograd.backward": f"autograd.backward({listed(names)})",
        "grad": f"autograd.grad of {listed(names)}",
    }[x.function]
    page.add(page.text(f"{called} differentiates the scalar"), hang=0)
    page.blank()
    page.add(page.text(x.grad.loss, HEADING), indent=6)
    page.blank()
    if many:
        ends = f"so the gradients that flow into {listed(names)} are the v's given for them."
    else:
        verb = "is returned" if x.function == "grad" else "is added to .grad"
        ends = (
            f"so {v} {each}is ∂{loss}/∂{names[0]}, the gradient that flows into {names[0]}; "
            f"∂{loss}/∂ of each leaf {verb}."
        )
    page.add(page.text(ends), hang=0)


# -- operations ------------------------------------------------------------------------------------


def _ends(items: Sequence[Any], ends: int) -> Iterator[tuple[Any, int]]:
    """The items at both ends, and how many are left out before the next."""
    if len(items) <= 2 * ends + 2:
        yield from ((item, 0) for item in items)
        return
    yield from ((item, 0) for item in items[:ends])
    yield None, len(items) - 2 * ends
    yield from ((item, 0) for item in items[-ends:])


def _operations(
    page: Page,
    x: TracedCall,
    title: str = "Operations",
    remark: str = "as executed, with the values that PyTorch computed",
) -> None:
    rows: list[TracedRow] = x.forward  # type: ignore[assignment]
    if not rows:
        return
    page.heading(title, remark)
    shown = [row for row, _ in _ends(rows, _ENDS) if row is not None]
    shape_width = max(len(numbers.shape(row.shape)) for row in shown)
    name_width = max(page.text(row.node).cell_len for row in shown) + 3
    line_width = max(len(_line(row.line)) for row in shown) + 2
    room = max(16, (page.style.width - shape_width - line_width) // 2 - name_width)
    lefts = {}
    for row in shown:
        first, *others = page.wrapped(row.expression, width=room)
        name = page.text(row.node, NAME)
        name.pad_right(name_width - 2 - name.cell_len)
        name.append_text(Text("= ")).append_text(first)
        lefts[id(row)] = [name, *(Text(" " * name_width).append_text(other) for other in others)]
    used = 2 + line_width + max(t.cell_len for cell in lefts.values() for t in cell) + 2
    used += shape_width + 2
    grid: list[list[Cell]] = []
    line: int | None = -1
    for row, left_out in _ends(rows, _ENDS):
        if row is None:
            more = page.text(f"{left_out} more operations", LABEL)
            grid.append([[page.text("…", LABEL)], [more]])
            line = -1
            continue
        lines = _tensor(page, row.value, used) if row.known else [page.text("not kept", LABEL)]
        if row.opaque:
            lines = page.remarked(lines, "no formula: PyTorch's own", used)
        grid.append(
            [
                [page.text(_line(row.line) if row.line != line else "", LABEL)],
                lefts[id(row)],
                [page.text(numbers.shape(row.shape), LABEL)],
                lines,
            ]
        )
        line = row.line
    page.grid(grid)


def _line(line: int | None) -> str:
    return "" if line is None else f"line {line}"


# -- formulas --------------------------------------------------------------------------------------


def _jacobian(page: Page, x: TracedCall) -> None:
    if x.jacobian:
        text._jacobian(page, x)


def _steps(page: Page, x: TracedCall) -> None:
    steps: list[TracedStep] = x.steps  # type: ignore[assignment]
    if not steps:
        return
    start = listed([root.name for root in x.roots])
    page.heading(
        "Chain rule", f"from {start} back: upstream gradient × local derivative = contribution"
    )
    expressions = {row.node: row.expression for row in x.forward}
    groups = [list(group) for _, group in groupby(steps, key=lambda s: (s.node, s.kind == "hook"))]
    for group, left_out in _ends(groups, _ENDS):
        page.blank()
        if group is None:
            page.add(page.text(f"… {left_out} more operations", LABEL))
            continue
        _group(page, group, expressions)


def _group(page: Page, group: list[TracedStep], expressions: dict[str, str]) -> None:
    head = group[0]
    if head.kind == "hook":
        page.add(
            page.text(f"a hook on {head.node}", NAME), page.text(" replaces the gradient"), hang=6
        )
        cells = [
            [[page.text("arrived", LABEL)], _tensor(page, head.upstream, 20)],
            [[page.text("goes on", LABEL)], _tensor(page, head.contribution, 20)],
        ]
        page.grid(cells, indent=4)
        return
    line = f"    {_line(head.line)}" if head.line is not None else ""
    page.add(
        page.text(head.node, NAME),
        page.text(f" = {expressions.get(head.node, head.op)}"),
        page.text(line, LABEL),
        hang=6,
    )
    to = [page.text(f"to {step.input}", NAME) for step in group]
    first = max(t.cell_len for t in to)
    used = 4 + first + 2 + 12 + 2
    rows: list[list[Cell]] = [
        [[Text(" " * first)], [page.text("upstream", LABEL)], _tensor(page, head.upstream, used)]
    ]
    for step, target in zip(group, to, strict=True):
        rows += _step(page, step, target, used)
    page.grid(rows, indent=4)


def _step(page: Page, step: TracedStep, target: Text, used: int) -> list[list[Cell]]:
    room = max(20, page.style.width - used)
    rows: list[list[Cell]] = []
    rule = step.rule
    if step.kind == "opaque":
        rule = "PyTorch's own local result"
    if rule:
        style = LABEL if step.kind == "opaque" else ""
        rows.append([[target], [page.text("local", LABEL)], page.wrapped(rule, style, width=room)])
        target = Text()
    lines = [piece for work in _work(step) for piece in page.wrapped(work, width=room)]
    lines += _tensor(page, step.contribution, used)
    rows.append([[target], [page.text("contribution", LABEL)], lines])
    if step.total is not None:
        remark = f"of the {step.uses} contributions to {step.input}"
        total = page.remarked(_tensor(page, step.total, used), remark, used)
        rows.append([[], [page.text("sum", LABEL)], total])
    return rows


def _work(step: Step) -> list[str]:
    work = [step.contribution_rule] if not step.numbers else [step.numbers]
    if step.numbers and step.contribution_rule and step.contribution_rule not in step.numbers:
        work.insert(0, step.contribution_rule)
    return [line for line in work if line]


def _gradients(page: Page, x: TracedCall) -> None:
    closed = [g for g in x.gradients.values() if g.text]
    if not closed:
        return
    page.heading("Gradients", "Jᵀ·v of the whole chain, by three routes")
    for gradient in closed:
        page.blank()
        formula_lines(page, gradient)
        route_lines(page, gradient)


# -- what happened to .grad ------------------------------------------------------------------------


def _accumulated(page: Page, x: TracedCall) -> None:
    entries = x.accumulated
    if not entries or x.error is not None:
        return
    returned = entries[0].kind == "returned"
    if returned:
        page.heading("Returned", "the gradients that autograd.grad gives back; no .grad changes")
    else:
        page.heading("Accumulated", "what backward added to each .grad")
    rows: list[list[Cell]] = []
    verdicts = {g.name: g.verdict for g in x.gradients.values()}
    first = max(page.text(_grad_name(e.name, e.kind)).cell_len for e in entries)
    for entry in entries:
        name = page.text(_grad_name(entry.name, entry.kind), NAME)
        used = 2 + first + 2 + 6 + 2
        if returned:
            rows.append([[name], [], _gradient(page, entry.after, used)])
            continue
        lines: list[tuple[str, list[Text]]] = []
        lines.append(("before", _gradient(page, entry.before, used)))
        lines.append(("added", _gradient(page, entry.added, used)))
        lines.append(("after", _gradient(page, entry.after, used)))
        if entry.kind == "retained":
            lines[-1] = "after", page.remarked(lines[-1][1], "kept by retain_grad()", used)
        if entry.before is None:
            lines = [("added", lines[1][1])]
            if verdicts.get(entry.name) in ("convention", "mismatch"):
                lines[-1] = "added", page.remarked(lines[-1][1], verdicts[entry.name], used)
        for place, (word, shown) in enumerate(lines):
            rows.append([[Text() if place else name], [page.text(word, LABEL)], shown])
    page.grid(rows)
    if not returned and all(e.before is None for e in entries):
        page.add(page.text("Every .grad was None before, so it is what was added.", LABEL))


def _gradient(page: Page, array: Array | None, used: int) -> list[Text]:
    return [page.text("None", LABEL)] if array is None else _tensor(page, array, used)


def _grad_name(name: str, kind: str) -> str:
    return f"for {name}" if kind == "returned" else f"{name}.grad"


def _left_out(page: Page, x: TracedCall) -> None:
    if not x.left_out or x.error is not None:
        return
    page.heading("Got nothing")
    page.grid(
        [
            [
                [page.text(left.name, NAME)],
                [page.text(numbers.shape(left.shape), LABEL)],
                page.wrapped(
                    left.why + (f" (line {left.site.line})" if left.site is not None else ""),
                    width=max(20, page.style.width - 40),
                ),
            ]
            for left in x.left_out
        ]
    )


# -- verdict ---------------------------------------------------------------------------------------


def _error(page: Page, x: TracedCall) -> None:
    if x.error is None:
        return
    page.heading("PyTorch refused")
    page.add(page.text(f"{x.error[0]}: {_first(x.error[1])}", VERDICTS["mismatch"]), hang=4)
    if x.why:
        page.blank()
        page.add(page.text(x.why), hang=0)
    if x.remedy:
        page.add(page.text("Remedy: ", LABEL), page.text(x.remedy), hang=2)


def _first(message: str) -> str:
    return " ".join(message.split())[:400]


def _verdict(page: Page, x: TracedCall) -> None:
    if x.check is not None and x.error is None:
        page.heading("Verdict")
        _conclusion(page, x)
    if x.notes:
        page.blank()
        page.heading("Notes")
        for note in x.notes:
            page.add(page.text("- "), page.text(note.text), hang=2)


def _conclusion(page: Page, x: TracedCall) -> None:
    check = x.check
    assert check is not None
    bound = ""
    if check.tolerance is not None:
        bound = f", largest difference allowed {numbers.number(check.tolerance, 2)}"
    closed = any(g.text for g in x.gradients.values())
    who = "the closed form, the chain rule and PyTorch" if closed else "the chain rule and PyTorch"
    where = "" if closed or not x.compared else " at every step"
    if where and x.compared < x.contributions:
        both = f"the {x.compared} of {x.contributions} steps that both take"
        where = f", and the same contributions in {both}"
    own = ""
    if x.unchecked:
        total = x.checked + x.unchecked
        where = f" where there is a formula, in {x.checked} of {total} operations"
        own = "; the rest is PyTorch's own and not checked"
    elif not x.complete:
        own = "; what hooks returned is taken as it is"
    words = {
        "agree": f"agree: {who} give the same gradients{where}{own} ({check.dtype}{bound}).",
        "convention": f"convention: {check.reason or text.CHOICE} ({check.dtype}{bound}).",
        "mismatch": f"MISMATCH: the routes give different gradients ({check.dtype}{bound}).",
        "skipped": f"not checked: {check.reason}",
        "cannot tell": f"cannot tell: {check.reason}",
    }
    word, colon, rest = words[check.status].partition(":")
    page.add(page.text(word + colon, VERDICTS.get(check.status, "")), page.text(rest), hang=2)
    if check.differences:
        page.blank()
        page.grid([text._difference(page, d, check.status) for d in check.differences], gap=3)


# -- the other calls, and errors -------------------------------------------------------------------


def _others(trace: Trace, full: list[int], script: str, style: Style) -> str:
    rest = [brief for brief in trace.all if brief.index not in full]
    if not rest:
        return ""
    page = Page(style)
    count = len(rest)
    page.heading(
        f"{count} other call{'s' * (count != 1)}",
        f"--call N explains one of them in full: gradexplain trace --call {rest[0].index} {script}",
    )
    rows: list[list[Cell]] = []
    for brief, left_out in _ends(rest, _LINES):
        if brief is None:
            rows.append([[page.text("…", LABEL)], [page.text(f"{left_out} more", LABEL)]])
        else:
            rows.append(_brief(page, brief))
    page.grid(rows)
    return page.finish(first=True)


def _brief(page: Page, brief: Brief) -> list[Cell]:
    value = "" if brief.value is None else f"at {numbers.number(brief.value, page.style.precision)}"
    return [
        [page.text(f"call {brief.index}", NAME)],
        [page.text(_line(brief.site.line if brief.site is not None else None), LABEL)],
        [page.text(brief.text[:60])],
        [page.text(f"failed: {brief.error[:60]}" if brief.error else value)],
    ]


def _fault(fault: Fault, trace: Trace, style: Style) -> str:
    shown = next((call for call in trace.calls if call.error and call.why == fault.why), None)
    page = Page(style)
    where = "" if fault.site is None else f"line {fault.site.line} of {fault.site.file}"
    if shown is not None:
        if not trace.stopped:
            return ""
        page.heading("The script stopped", f"{where}, with the error of call {shown.index}")
        return page.finish(first=True)
    title = "The script stopped" if trace.stopped else "An error that the script caught"
    page.heading(title, where)
    if fault.site is not None and fault.site.source:
        page.add(page.text(fault.site.source))
    page.add(page.text(f"{fault.type}: {_first(fault.message)}", VERDICTS["mismatch"]), hang=4)
    if fault.why:
        page.blank()
        page.add(page.text(fault.why), hang=0)
        if fault.remedy:
            page.add(page.text("Remedy: ", LABEL), page.text(fault.remedy), hang=2)
    recorded = trace.recorded_call()
    if recorded is not None and recorded.forward:
        page.blank()
        _operations(page, recorded, "Recorded so far", "the operations behind the values at hand")
    return page.finish(first=True)
