"""The explanation as a page of text: `section` gives one stage of it, `render` the whole.

A page is a string, so the same code serves the terminal (section by section, as each is ready), a
file, and ``str(explanation)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from rich.text import Text

from gradexplain.explanation import (
    FURTHER,
    STAGES,
    Array,
    Check,
    Difference,
    Explanation,
    Input,
    Jacobian,
    Shape,
    Step,
    Stop,
)
from gradexplain.render import numbers
from gradexplain.render.calls import call_text, calls_section
from gradexplain.render.page import (
    HEADING,
    LABEL,
    NAME,
    VERDICTS,
    WIDTH,
    Cell,
    Page,
    Style,
    elements,
    formula_lines,
    listed,
    matrix_lines,
    route_lines,
)
from gradexplain.render.second import second_section

__all__ = ["WIDTH", "Style", "render", "section"]


def render(explanation: Explanation, style: Style | None = None) -> str:
    """All sections, as one page."""
    stages = (*STAGES[:-1], FURTHER, STAGES[-1])
    return "".join(section(explanation, stage, style) for stage in stages)


def section(explanation: Explanation, stage: str, style: Style | None = None) -> str:
    """The section that shows one of `explanation.STAGES`, or `FURTHER`, with its heading."""
    page = Page(style or Style())
    _SECTIONS[stage](page, explanation)
    return page.finish(first=stage == STAGES[0])


# -- question ------------------------------------------------------------------------------------


def _question(page: Page, x: Explanation) -> None:
    question_rows(page, x, [(x.grad.name, x.grad.value, "the argument of backward")])
    page.blank()
    _meaning(page, x)
    for call in x.calls[1:]:
        page.add(page.text(f"Call {call.number} is {call_text(call)}.", LABEL), hang=0)


def _standing(i: Input) -> str:
    """What sets an input apart from one that gets a gradient."""
    if i.integer:
        return "integers, an index: it has no gradient"
    return "" if i.wanted else "a constant here: not in --wrt"


def question_rows(page: Page, x: Explanation, vectors: Sequence[tuple[str, Array, str]]) -> None:
    """The statements, the inputs and the output; ``vectors`` is what else is given, and what as."""
    page.heading("Question")
    for statement in x.statements or x.expression.strip().splitlines():
        page.add(page.text(statement), formula=True)
    page.blank()

    rows: list[tuple[str, Shape, Array | None, str]] = [
        (i.name, i.shape, i.value, _standing(i)) for i in x.inputs.values()
    ]
    rows.append((x.output.name, x.output.shape, None, "the output"))
    rows += [(name, value.shape, value, remark) for name, value, remark in vectors]
    used = 6 + max(page.text(row[0]).cell_len + len(numbers.shape(row[1])) for row in rows)
    page.grid(
        [
            [
                [page.text(name, NAME)],
                [page.text(numbers.shape(shape), LABEL)],
                page.remarked([] if value is None else page.tensor(value, used), remark, used),
            ]
            for name, shape, value, remark in rows
        ]
    )

    if missing := [name for name, i in x.inputs.items() if not i.given]:
        many = len(missing) > 1
        page.blank()
        page.add(
            page.text(
                f"Example values are used for {listed(missing)}; "
                f"--at {missing[0]}=… sets {'them' if many else 'it'}.",
                LABEL,
            )
        )


def _meaning(page: Page, x: Explanation) -> None:
    """The sentence that says what ``v`` is."""
    y, v = x.output.name, x.grad.name
    wanted = [name for name, i in x.inputs.items() if i.wanted]
    loss = x.grad.loss.partition(" ")[0]
    implicit = x.grad.source == "implicit"
    argument, implied = ("", f" ({v} = 1, implied for a scalar)") if implicit else (v, "")
    page.add(page.text(f"{y}.backward({argument}) differentiates the scalar"), hang=0)
    page.blank()
    page.add(page.text(x.grad.loss, HEADING), indent=6)
    page.blank()
    page.add(
        page.text(
            f"so {v}{implied} is ∂{loss}/∂{y}, the gradient that flows into {y}, and "
            f"{listed([f'{name}.grad' for name in wanted])} "
            f"{'are' if len(wanted) > 1 else 'is'} "
            f"{listed([f'∂{loss}/∂{name}' for name in wanted])}."
        ),
        hang=0,
    )


# -- forward -------------------------------------------------------------------------------------


def _forward(page: Page, x: Explanation) -> None:
    page.heading("Forward", "each operation and its value")
    rows = [row for row in x.forward if row.node not in x.inputs]
    if not rows:
        page.add(page.text(f"{x.output.name} is the input itself: nothing to compute"))
        return
    shape_width = max(len(numbers.shape(row.shape)) for row in rows)
    name_width = max(page.text(row.node).cell_len for row in rows) + 3
    room = max(16, (page.style.width - shape_width) // 2 - name_width)
    cells: list[Cell] = []
    for row in rows:
        first, *others = page.wrapped(row.expression, width=room)
        if row.part_of is not None:
            others.append(page.text(f"a part of {row.part_of}", LABEL))
        name = page.text(row.node, NAME)
        name.pad_right(name_width - 2 - name.cell_len)
        name.append_text(Text("= ")).append_text(first)
        cells.append([name, *(Text(" " * name_width).append_text(other) for other in others)])
    used = 2 + max(t.cell_len for cell in cells for t in cell) + 2 + shape_width + 2
    page.grid(
        [
            [cell, [page.text(numbers.shape(row.shape), LABEL)], page.tensor(row.value, used)]
            for row, cell in zip(rows, cells, strict=True)
        ]
    )


# -- jacobian ------------------------------------------------------------------------------------


def _jacobian(page: Page, x: Explanation) -> None:
    y = x.output.name
    page.heading(
        "Jacobian", f"J = ∂{y}/∂input: a row for each element of {y}, a column for the input's"
    )
    if any("δ(" in formula.text for formula in x.jacobian.values()):
        page.add(page.text("δ(i,j) is 1 where i = j, else 0", LABEL))
    for jacobian in x.jacobian.values():
        page.blank()
        formula_lines(page, jacobian, jacobian.structure)
        if jacobian.value is not None and jacobian.value.size:
            _matrix(page, jacobian, y, x.inputs[jacobian.name].shape)


def _matrix(page: Page, jacobian: Jacobian, y: str, shape: tuple[int, ...]) -> None:
    """J as a matrix: rows are labelled by the output's elements, columns by the input's."""
    assert jacobian.value is not None
    out_shape = jacobian.shape[: len(jacobian.shape) - len(shape)]
    labels = [page.text(label, LABEL) for label in elements(y, out_shape)]
    heads = [page.text(label, LABEL) for label in elements(jacobian.name, shape)]
    matrix_lines(page, labels, heads, jacobian.value)


# -- chain rule ----------------------------------------------------------------------------------


def _chain_rule(page: Page, x: Explanation, at: Mapping[str, str] | None = None) -> None:
    """Every step; ``at`` are the index letters to show with a node's name."""
    y = x.output.name
    page.heading(
        "Chain rule", f"from {y} back: upstream gradient × local derivative = contribution"
    )
    expressions = {row.node: row.expression for row in x.forward}
    for node, group in groupby(x.steps, key=lambda step: step.node):
        steps = list(group)
        page.blank()
        page.add(
            page.text(f"{node}{(at or {}).get(node, '')}", NAME),
            page.text(f" = {expressions.get(node, steps[0].op)}"),
            hang=6,
        )
        to = [page.text(f"to {step.input}", NAME) for step in steps]
        ends = [page.text(f"to {stop.input}") for stop in x.stops if stop.node == node]
        first = max(t.cell_len for t in [*to, *ends])
        labels: list[list[Cell]] = []
        used = 4 + first + 2 + 12 + 2
        upstream = page.tensor(steps[0].upstream, used, shape=True)
        labels.append([[Text(" " * first)], [page.text("upstream", LABEL)], upstream])
        for step, target in zip(steps, to, strict=True):
            labels += _step(page, step, target, used)
        labels += [_stop(page, stop, used) for stop in x.stops if stop.node == node]
        page.grid(labels, indent=4)


def _step(page: Page, step: Step, target: Text, used: int) -> list[list[Cell]]:
    room = max(20, page.style.width - used)
    work = [step.contribution_rule] if not step.numbers else [step.numbers]
    if step.numbers and step.contribution_rule and step.contribution_rule not in step.numbers:
        work.insert(0, step.contribution_rule)
    lines = [piece for text in work if text for piece in page.wrapped(text, width=room)]
    lines += page.tensor(step.contribution, used, shape=True)
    rows: list[list[Cell]] = []
    if step.rule:
        rows.append([[target], [page.text("local", LABEL)], page.wrapped(step.rule, width=room)])
        target = Text()
    rows.append([[target], [page.text("contribution", LABEL)], lines])
    if step.total is not None:
        total = page.tensor(step.total, used, shape=True)
        remark = f"of the {step.uses} contributions to {step.input}"
        rows.append([[], [page.text("sum", LABEL)], page.remarked(total, remark, used)])
    return rows


def _stop(page: Page, stop: Stop, used: int) -> list[Cell]:
    room = max(20, page.style.width - used)
    lines = page.wrapped(stop.reason, LABEL, width=room)
    return [[page.text(f"to {stop.input}", NAME)], [page.text("stops here", LABEL)], lines]


# -- gradients -----------------------------------------------------------------------------------


def _gradients(page: Page, x: Explanation) -> None:
    page.heading("Gradients", "Jᵀ·v, by three routes")
    for gradient in x.gradients.values():
        page.blank()
        formula_lines(page, gradient)
        route_lines(page, gradient)
    _retained(page, x)
    _in_between(page, x)


def _retained(page: Page, x: Explanation) -> None:
    kept = [i for i in x.intermediates.values() if i.retained]
    if not kept:
        return
    page.blank()
    page.heading("Retained gradients", ".grad of computed values, kept by retain_grad()")
    for gradient in kept:
        page.blank()
        formula_lines(page, gradient)
        route_lines(page, gradient)


def _in_between(page: Page, x: Explanation) -> None:
    """For each value the argument of backward that gives the same gradients from there."""
    rest = [i for i in x.intermediates.values() if not i.retained]
    if not rest:
        return
    page.blank()
    page.heading(
        "Starting in between",
        f"h.backward(v) gives the same gradients when v = ∂{x.output.name}/∂h: this is what v is",
    )
    for i in rest:
        gives = []
        if i.whole:
            gives.append(f"gives the whole of {listed([f'{name}.grad' for name in i.whole])}")
        if i.part:
            ways = f"{listed(i.part)} {'has' if len(i.part) == 1 else 'have'} other ways to"
            gives.append(
                f"gives a part of {listed([f'{name}.grad' for name in i.part])}: {ways} "
                f"{x.output.name}"
            )
        page.blank()
        lines = page.tensor(i.value, 8, shape=True)
        short = len(lines) == 1 and lines[0].cell_len <= 40
        argument = lines[0].plain if short else "v"
        page.add(
            page.text(f"{i.name}.backward({argument})", NAME),
            Text("    "),
            page.text("; ".join(gives), LABEL),
        )
        formula_lines(page, i, indent=4)
        if i.verdict in ("convention", "mismatch"):
            route_lines(page, i)
        elif not short:
            page.grid([[[page.text("v =", LABEL)], lines]], indent=4)


# -- further calls ------------------------------------------------------------------------------


def _further(page: Page, x: Explanation) -> None:
    if x.second is not None:
        second_section(page, x.second)
        _chain_rule(page, x.second.explanation, {row.node: row.at for row in x.second.backward})
        if not x.second.explanation.steps:
            page.add(page.text(f"Nothing flows back: {x.second.name} depends on no input."))
        page.blank()
        page.heading("Second derivatives", f"of {x.second.name}, by three routes")
        for gradient in x.second.explanation.gradients.values():
            page.blank()
            formula_lines(page, gradient)
            route_lines(page, gradient)
    if not x.calls:
        return
    shown = {x.calls[0].start}
    for call in x.calls[1:]:
        if call.explanation is None or call.start in shown or call.error:
            continue
        shown.add(call.start)
        page.blank()
        page.heading(f"Call {call.number}", call_text(call))
        page.blank()
        _meaning(page, call.explanation)
        for part in (_forward, _jacobian, _chain_rule, _gradients):
            page.blank()
            part(page, call.explanation)
    calls_section(page, x)


# -- verdict -------------------------------------------------------------------------------------


def _verdict(page: Page, x: Explanation) -> None:
    if x.check is not None:
        page.heading("Verdict")
        conclusion(page, x.check)
    if x.notes:
        page.blank()
        page.heading("Notes")
        for note in x.notes:
            page.add(page.text("- "), page.text(note.text), hang=2)


#: What a convention is, where the check names no other reason.
CHOICE = "the routes differ where mathematics leaves a choice"


def conclusion(page: Page, check: Check, of: str = "gradients") -> None:
    """The verdict in a sentence, and where the routes differ."""
    bound = ""
    if check.tolerance is not None:
        bound = f", largest difference allowed {numbers.number(check.tolerance, 2)}"
    words = {
        "agree": f"agree: the closed form, the chain rule and PyTorch give the same {of} "
        f"({check.dtype}{bound}).",
        "convention": f"convention: {check.reason or CHOICE} ({check.dtype}{bound}).",
        "mismatch": f"MISMATCH: the routes give different {of} ({check.dtype}{bound}).",
        "skipped": "skipped: the closed form and the chain rule were not checked against PyTorch.",
        # Differences are there only if it answered.
        "failed": f"not checked: {check.reason}"
        if check.differences or check.tolerance is None
        else f"not checked: {check.reason.rstrip('.')}. The closed form stands, and the chain "
        f"rule gives the same {of}.",
    }
    word, colon, rest = words.get(check.status, check.status).partition(":")
    page.add(
        page.text(word + colon, VERDICTS.get(check.status, "")),
        page.text(
            rest if check.status in ("convention", "failed") else f"{rest} {check.reason}".rstrip()
        ),
        hang=2,
    )
    if check.differences:
        page.blank()
        page.grid([_difference(page, d, check.status) for d in check.differences], gap=3)


def _difference(page: Page, d: Difference, status: str) -> list[Cell]:
    """One row: which element, what each route gave, and how far apart that is."""
    # A second derivative is named in full.
    where = d.input if d.input.startswith(("∂", "(")) else f"{d.input}.grad"
    where += f"[{','.join(map(str, d.index))}]" if d.index else ""
    values = numbers.distinct(*d.values, precision=page.style.precision)
    apart = numbers.number(abs(d.values[0] - d.values[1]), 2)
    also = f"largest of {d.count}" if d.count > 1 else ""
    return [
        [page.text(where, VERDICTS.get(status, ""))],
        [page.text(f"{d.routes[0]} {values[0]}")],
        [page.text(f"{d.routes[1]} {values[1]}")],
        [page.text(f"differ by {apart}, allowed {numbers.number(d.tolerance, 2)}")],
        [page.text(also, LABEL)],
    ]


_SECTIONS = {
    "question": _question,
    "forward": _forward,
    "jacobian": _jacobian,
    "steps": _chain_rule,
    "gradients": _gradients,
    FURTHER: _further,
    "check": _verdict,
}
