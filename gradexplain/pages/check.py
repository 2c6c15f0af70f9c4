"""The page of ``check``: the verdict, the fault, then the evidence and the remedy."""

from __future__ import annotations

from collections.abc import Iterable

from gradexplain import numbers
from gradexplain.checking.codes import codes, title
from gradexplain.checking.report import CheckReport, DtypeReport, Entry, InputReport, Patch
from gradexplain.document import model as doc
from gradexplain.explanation import Explanation
from gradexplain.pages.options import Options
from gradexplain.pages.page import Page
from gradexplain.pages.verdict import notes
from gradexplain.pages.words import elements
from gradexplain.tensors import spot
from gradexplain.texts import listed

#: Wrong entries that are listed, of those that a report holds.
_LISTED = 8

#: A picture of J has no more rows, nor columns.
_ROWS, _COLUMNS = 40, 70

_MARKS = {"right": "", "wrong": "wrong value", "missing": "missing", "extra": "should be 0"}
_LEGEND = {
    "x": "x wrong", "o": "o missing (0 instead)", "+": "+ should be 0", "=": "= right",
    ".": ". 0, right",
}  # fmt: skip


def page(
    report: CheckReport, options: Options | None = None, right: Explanation | None = None
) -> doc.Document:
    """The whole page; in full, right entries are listed too.  The ``right`` backward, where a format
    steps through it, follows.
    """
    options = options or Options()
    blocks = [*_blocks(report, options)]
    if right is not None:
        blocks.append(doc.Heading("The right backward", f"at {report.points[0].what}, v of ones"))
        blocks += Page(right, options).stepper()
    return doc.Document(f"check of {report.subject.splitlines()[-1]}", tuple(blocks))


def _blocks(report: CheckReport, options: Options) -> Iterable[doc.Block]:
    yield doc.Heading("Question", "is the backward right?")
    yield doc.Program(tuple(report.subject.splitlines()))
    for found in report.inputs.values():
        if found.text:
            claimed = doc.name(f"{found.name}.grad"), doc.math(f" = {found.text}")
            yield doc.prose(doc.label("claim  "), *claimed)
    yield doc.Heading("Verdict")
    yield from _verdict(report)
    for found in report.inputs.values():
        if found.verdict != "right" or options.full or report.right:
            yield from _evidence(report, found, options)
    yield doc.Heading("Tried at", f"against {report.reference}")
    yield doc.Table(
        tuple(
            doc.row(
                point.what,
                doc.label(_shapes(point.shapes)),
                doc.Span(f"wrong: {', '.join(point.wrong)}", "bad")
                if point.wrong
                else doc.Span("right", "good"),
            )
            for point in report.points
        )
    )
    yield from _dtypes(report)
    yield from notes(report.notes)


def _verdict(report: CheckReport) -> Iterable[doc.Block]:
    if report.right:
        closed = report.reference == "closed form"
        against = "the closed form" if closed else "autograd of the forward"
        what = "Jᵀv for the v given" if report.grad is not None else "every entry of J"
        said = f"the gradient by {listed(list(report.inputs))} agrees with {against} in {what}, at "
        twice = ", and can be differentiated again" if report.order == 2 else ""
        said += f"{_count(len(report.points), 'point')} ({report.dtype}){twice}."
        held = f"right when {report.condition}: " if report.condition else "right: "
        yield doc.prose(doc.Span(held, "good"), said)
        return
    for one in report.dtypes:
        if one.verdict == "wrong":
            off, allowed = (numbers.number(n or 0.0, 2) for n in (one.error, one.bound))
            said = f"{_what(one)} is off by {off} where rounding allows {allowed}."
            yield doc.prose(doc.Span(f"WRONG in {one.dtype}: ", "bad"), said)
        elif one.verdict == "cannot tell":
            why = one.said or "rounding allows more than there is: zeros would pass too"
            said = f"{_what(one)}: {why}."
            yield doc.prose(doc.Span(f"cannot tell in {one.dtype}: ", "doubt"), said)
    for found in report.inputs.values():
        if found.verdict == "cannot tell":
            said = f"rounding to {report.dtype} allows more than the gradient by {found.name} is: "
            said += "zeros would pass too. Give other values, or another dtype."
            yield doc.prose(doc.Span("cannot tell: ", "doubt"), said)
        else:  # without a fault where time was over before
            said = found.fault.sentence if found.fault else f"the gradient by {found.name}"
            wrong = found.verdict == "wrong" or found.fault is not None
            word = doc.Span("WRONG: ", "bad") if wrong else doc.Span("right: ", "good")
            yield doc.prose(word, f"{said}.")


def _evidence(report: CheckReport, found: InputReport, options: Options) -> Iterable[doc.Block]:
    fault = found.fault
    kind = "" if fault is None else f"{codes(fault.code)} {fault.code}: {title(fault.code)}"
    yield doc.Heading(found.name, kind)
    word, colon, text = found.difference.partition(": ")
    rows = [("right", doc.math(found.right)), ("claimed", doc.math(found.claimed))]
    rows.append(
        (word + colon.strip(), doc.math(text)) if text else ("apart", doc.Span(found.difference))
    )
    rows += [("" if place else "where", doc.math(where)) for place, where in enumerate(found.where)]
    yield from _rows(rows)
    for patch in found.patch:
        yield from _place(patch)
    rows = [("hint", doc.Span(found.hint)), ("remedy", doc.code(fault.remedy if fault else ""))]
    yield from _rows([*rows, ("PyTorch", doc.code(found.line))])
    if found.entries and (found.wrong or options.full):
        yield from _entries(report, found, options)


def _rows(rows: list[tuple[str, doc.Span]]) -> Iterable[doc.Block]:
    """What there is, each with its name before it."""
    shown = tuple(doc.row(doc.label(f"{said:<8}"), value) for said, value in rows if value.text)
    if shown:
        yield doc.Table(shown)


def _place(patch: Patch) -> Iterable[doc.Block]:
    """The user's own line with a caret under what the remedy changes."""
    old = patch.old.splitlines()[0]
    indent = len(old) - len(old.lstrip())
    wide = max(1, min(patch.width, len(old.rstrip()) - patch.column))
    yield doc.remark(f"line {patch.line}")
    yield doc.Program((old.strip(), " " * (patch.column - indent) + "^" * wide), indent=4)


def _entries(report: CheckReport, found: InputReport, options: Options) -> Iterable[doc.Block]:
    point = report.points[found.point]
    many = f"{_count(found.wrong, 'entry', 'entries')} of {found.total} wrong"
    yield doc.Paragraph(())
    yield doc.prose(
        f"J by {found.name} at {point.what}, {_shapes(point.shapes)}: ",
        doc.Span(many, "bad")
        if found.wrong
        else doc.Span(f"all {found.total} entries right", "good"),
    )
    wrong = [e for e in found.entries if e.kind != "right"]
    shown = found.entries if options.full else wrong[:_LISTED]
    yield doc.Table(tuple(_entry(report, found, e, options.precision) for e in shown), indent=4)
    if len(wrong) > len(shown):
        yield doc.remark(f"… and {found.wrong - len(shown)} more (--all lists them)", indent=4)
    picture = found.picture
    if picture and len(picture[0]) <= _COLUMNS and len(picture) <= _ROWS:
        yield from _picture(report, found, elements(report.output, point.out_shape), options)


def _picture(
    report: CheckReport, found: InputReport, labels: list[str], options: Options
) -> Iterable[doc.Block]:
    """A character for each entry of J, without the rows that are right."""
    rows = [
        (element, row) for element, row in zip(labels, found.picture, strict=True)
        if options.full or any(mark in "xo+" for mark in row)
    ]  # fmt: skip
    left = len(labels) - len(rows)
    kept = f" (the {left} right rows are left out)" if left else ""
    said = f"a row for each element of {report.output}, a column for each of {found.name}{kept}:"
    yield doc.Paragraph(())
    yield doc.remark(said, indent=4)
    wide = max((len(element) for element, _ in rows), default=0)
    gap = " " if 2 * len(found.picture[0]) <= _COLUMNS else ""
    yield doc.Program(tuple(f"{e:<{wide}}  {gap.join(row)}" for e, row in rows), indent=4)
    used = {mark for _, row in rows for mark in row}
    legend = (doc.label(text) for mark, text in _LEGEND.items() if mark in used)
    yield doc.Table((doc.row(*legend),), indent=4)


def _entry(
    report: CheckReport, found: InputReport, entry: Entry, precision: int
) -> tuple[doc.Cell, ...]:
    right, claimed = numbers.distinct(entry.right, entry.claimed, precision)
    if entry.kind == "right":
        right = claimed = numbers.number(entry.right, precision)
    place = f"∂{spot(report.output, entry.output)}/∂{spot(found.name, entry.input)}"
    role: doc.Role = "" if entry.kind == "right" else "bad"
    return doc.row(
        doc.Span(place, role, "math"),
        f"right {right}",
        f"claimed {claimed}",
        doc.label(_MARKS[entry.kind]),
    )


def _dtypes(report: CheckReport) -> Iterable[doc.Block]:
    if not report.dtypes:
        return
    yield doc.Heading("In each dtype", "at the first point, rounded to it")
    rows: list[tuple[doc.Cell, ...]] = []
    for one in report.dtypes:
        said = [one.said]
        if one.error is not None and one.bound is not None and one.margin is not None:
            said = [
                f"off by {numbers.number(one.error, 2)}",
                f"rounding allows {numbers.number(one.bound, 2)}",
                f"zeros: {numbers.number(one.margin, 2)} bounds off",
            ]
        verdict = doc.Span(one.verdict, "good" if one.verdict == "right" else "bad")
        rows.append((doc.cell(verdict), *map(doc.cell, (one.dtype, _what(one), *said))))
    yield doc.Table(tuple(rows))
    for one in report.dtypes:
        if one.said and one.error is not None:
            yield doc.prose(f"{one.dtype}: {_what(one)} is {one.said}.")


def _what(one: DtypeReport) -> str:
    return f"the gradient by {one.name}" if one.name else "the forward"


def _shapes(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{n} {numbers.shape(shape)}" for n, shape in shapes.items())


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
