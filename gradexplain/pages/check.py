"""A check as a page of text: the verdict, the fault, then the evidence and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from gradexplain import numbers
from gradexplain.checking.codes import codes, title
from gradexplain.checking.report import CheckReport, Entry, InputReport, Patch
from gradexplain.formats.text import LABEL, NAME, Page, Style, elements, listed

_RIGHT, _WRONG = "green", "bold red"
#: Wrong entries that are listed, of those that a report holds.
_LISTED = 8
_MARKS = {"right": "", "wrong": "wrong value", "missing": "missing", "extra": "should be 0"}
_LEGEND = {
    "x": "x wrong",
    "o": "o missing (0 instead)",
    "+": "+ should be 0",
    "=": "= right",
    ".": ". 0, right",
}


def render(report: CheckReport, style: Style | None = None, *, everything: bool = False) -> str:
    """The whole page; with ``everything`` right entries are listed too."""
    page = Page(style or Style())
    _question(page, report)
    _verdict(page, report)
    for found in report.inputs.values():
        _evidence(page, report, found, everything)
    _points(page, report)
    _dtypes(page, report)
    if report.notes:
        page.blank()
        page.heading("Notes")
        for note in report.notes:
            page.add(page.text("- "), page.text(note), hang=2)
    return page.finish(first=True)


def _question(page: Page, report: CheckReport) -> None:
    page.heading("Question", "is the backward right?")
    for line in report.subject.splitlines():
        page.add(page.text(line))
    for found in report.inputs.values():
        if found.text:
            page.add(
                page.text("claim  ", LABEL),
                page.text(f"{found.name}.grad", NAME),
                page.text(f" = {found.text}"),
            )
    page.blank()


def _verdict(page: Page, report: CheckReport) -> None:
    page.heading("Verdict")
    names = list(report.inputs)
    if report.right:
        against = (
            "the closed form" if report.reference == "closed form" else "autograd of the forward"
        )
        what = "Jᵀv for the v given" if report.grad is not None else "every entry of J"
        held = f"right when {report.condition}: " if report.condition else "right: "
        twice = ", and can be differentiated again" if report.order == 2 else ""
        page.add(
            page.text(held, _RIGHT),
            page.text(
                f"the gradient by {listed(names)} agrees with {against} in {what}, at "
                f"{_count(len(report.points), 'point')} ({report.dtype}){twice}."
            ),
            hang=2,
        )
        return
    for found in report.inputs.values():
        if found.verdict == "cannot tell":
            page.add(
                page.text("cannot tell: ", _WRONG),
                page.text(
                    f"rounding to {report.dtype} allows more than the gradient by {found.name} is: "
                    "zeros would pass too. Give other values, or another dtype."
                ),
                hang=2,
            )
        elif found.fault is None:
            page.add(page.text("right: ", _RIGHT), page.text(f"the gradient by {found.name}."))
        else:
            page.add(page.text("WRONG: ", _WRONG), page.text(f"{found.fault.sentence}."), hang=2)


def _evidence(page: Page, report: CheckReport, found: InputReport, everything: bool) -> None:
    if found.verdict == "right" and not everything and not report.right:
        return
    page.blank()
    page.heading(
        found.name,
        ""
        if found.fault is None
        else f"{codes(found.fault.code)} {found.fault.code}: {title(found.fault.code)}",
    )
    rows = [("right", found.right), ("claimed", found.claimed)]
    for label, text in rows:
        if text:
            page.add(page.text(f"{label:<9}", LABEL), page.text(text), hang=13, formula=True)
    if found.difference:
        label, _, text = found.difference.partition(": ")
        if text:
            page.add(page.text(f"{label}: ", _WRONG), page.text(text), hang=13, formula=True)
        else:
            page.add(page.text(f"{'apart':<9}", LABEL), page.text(found.difference), hang=13)
    for where in found.where:
        page.add(page.text(f"{'':<9}where ", LABEL), page.text(where), hang=13, formula=True)
    for patch in found.patch:
        _place(page, patch)
    if found.hint:
        page.add(page.text("hint     ", LABEL), page.text(found.hint), hang=13)
    if found.fault is not None and found.fault.remedy:
        page.add(
            page.text("remedy   ", LABEL), page.text(found.fault.remedy), hang=13, formula=True
        )
    if found.line:
        page.add(page.text("PyTorch  ", LABEL), page.text(found.line), hang=13, formula=True)
    if found.entries and (found.wrong or everything):
        _entries(page, report, found, everything)


def _place(page: Page, patch: Patch) -> None:
    """The user's own line with a caret under what the remedy changes."""
    line = patch.old.splitlines()[0]
    indent = len(line) - len(line.lstrip())
    head = f"line {patch.line}"
    page.add(page.text(f"{head:<9}", LABEL), page.text(line.strip()))
    width = max(1, min(patch.width, len(line.rstrip()) - patch.column))
    page.add(page.text(" " * (9 + patch.column - indent)), page.text("^" * width, _WRONG))


def _entries(page: Page, report: CheckReport, found: InputReport, everything: bool) -> None:
    point = report.points[found.point]
    page.blank()
    at = ", ".join(f"{n} {numbers.shape(s)}" for n, s in point.shapes.items())
    page.add(
        page.text(f"J by {found.name} at {point.what}, {at}: "),
        page.text(
            f"{_count(found.wrong, 'entry', 'entries')} of {found.total} wrong"
            if found.wrong
            else f"all {found.total} entries right",
            _WRONG if found.wrong else _RIGHT,
        ),
    )
    listed = [e for e in found.entries if e.kind != "right"]
    shown = found.entries if everything else listed[:_LISTED]
    page.grid([_entry(page, report, found, e) for e in shown], indent=4, gap=3)
    if len(listed) > len(shown):
        page.add(
            page.text(f"… and {found.wrong - len(shown)} more (--all lists them)", LABEL), indent=4
        )
    width = page.style.width
    if found.picture and len(found.picture[0]) <= max(20, width - 30) and len(found.picture) <= 40:
        page.blank()
        labels = elements(report.output, point.out_shape)
        rows = [
            (label, row) for label, row in zip(labels, found.picture, strict=True)
            if everything or any(ch in "xo+" for ch in row)
        ]  # fmt: skip
        kept = (
            ""
            if len(rows) == len(labels)
            else f" (the {len(labels) - len(rows)} right rows are left out)"
        )
        page.add(
            page.text(
                f"a row for each element of {report.output}, a column for each of "
                f"{found.name}{kept}:",
                LABEL,
            ),
            indent=4,
        )
        spaced = len(found.picture[0]) * 2 <= width - 30
        page.grid(
            [[[page.text(label, LABEL)], [_row(page, row, spaced=spaced)]] for label, row in rows],
            indent=4,
        )
        used = {ch for _, row in rows for ch in row}
        page.add(
            page.text("   ".join(text for mark, text in _LEGEND.items() if mark in used), LABEL),
            indent=4,
        )


def _row(page: Page, row: str, *, spaced: bool) -> Text:
    line = Text()
    for place, ch in enumerate(row):
        gap = " " if spaced and place else ""
        line.append_text(page.text(gap + ch, _WRONG if ch in "xo+" else LABEL))
    return line


def _entry(
    page: Page, report: CheckReport, found: InputReport, entry: Entry
) -> list[Sequence[Text]]:
    left, right = numbers.distinct(entry.right, entry.claimed, page.style.precision)
    if entry.kind == "right":
        left = right = numbers.number(entry.right, page.style.precision)
    name = f"∂{_element(report.output, entry.output)}/∂{_element(found.name, entry.input)}"
    return [
        [page.text(name, _WRONG if entry.kind != "right" else "")],
        [page.text(f"right {left}")],
        [page.text(f"claimed {right}")],
        [page.text(_MARKS[entry.kind], LABEL)],
    ]


def _element(name: str, at: tuple[int, ...]) -> str:
    return f"{name}[{','.join(map(str, at))}]" if at else name


def _points(page: Page, report: CheckReport) -> None:
    page.blank()
    page.heading("Tried at", f"against {report.reference}")
    rows = []
    for point in report.points:
        shapes = ", ".join(f"{n} {numbers.shape(s)}" for n, s in point.shapes.items())
        said = f"wrong: {', '.join(point.wrong)}" if point.wrong else "right"
        rows.append(
            [
                [page.text(point.what)],
                [page.text(shapes, LABEL)],
                [page.text(said, _WRONG if point.wrong else _RIGHT)],
            ]
        )
    page.grid(rows)


def _dtypes(page: Page, report: CheckReport) -> None:
    if not report.dtypes:
        return
    page.blank()
    page.heading("In each dtype", "at the first point, rounded to it")
    rows = []
    for one in report.dtypes:
        cells = [one.dtype, one.name]
        if one.error is not None and one.bound is not None and one.margin is not None:
            cells += [
                f"off by {numbers.number(one.error, 2)}",
                f"rounding allows {numbers.number(one.bound, 2)}",
                f"zeros would be off by {numbers.number(one.margin, 2)} bounds",
            ]
        else:
            cells += [one.said, "", ""]
        right = one.verdict == "right"
        rows.append([[page.text(one.verdict, _RIGHT if right else _WRONG)],
                     *([page.text(cell)] for cell in cells)])  # fmt: skip
    page.grid(rows)
    for one in report.dtypes:
        if one.said and one.error is not None:
            page.add(page.text(f"{one.dtype}: the gradient by {one.name} is {one.said}."), hang=2)


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
