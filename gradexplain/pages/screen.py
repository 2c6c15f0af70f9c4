"""The one screen of a traced script, and the ways to one of its parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.formats import terminal
from gradexplain.formats.text import Style

if TYPE_CHECKING:
    from gradexplain.trace.call import Brief
    from gradexplain.trace.diagnose.finding import Finding
    from gradexplain.trace.rows import Row
    from gradexplain.trace.screen import Calls, Factor, Path, Screen
    from gradexplain.trace.snapshot import Fault
    from gradexplain.trace.ways import Way

#: No more lines than this are written, for any model.
LINES = 60

_BLOCKS = "▁▂▃▄▅▆▇█"

#: So many rows, findings and lines of calls are shown, and fewer where the page would be longer.
_ROOM = ((22, 5, 6), (14, 4, 5), (8, 3, 4), (4, 2, 3))

_WORDS: dict[str, tuple[str, doc.Role]] = {
    "agree": ("agree", "good"), "convention": ("convention", "doubt"),
    "mismatch": ("MISMATCH", "bad"), "skipped": ("not checked", "quiet"),
    "cannot tell": ("cannot tell", "doubt"),
}  # fmt: skip


def text(screen: Screen, style: Style | None = None) -> str:
    """The screen for a terminal, at most `LINES` lines."""
    written = ""
    for rows, findings, calls in _ROOM:
        written = terminal.render(document(screen, rows, findings, calls), style)
        if written.count("\n") <= LINES:
            return written
    return "".join(written.splitlines(keepends=True)[: LINES - 1]) + "…\n"


def document(
    screen: Screen, rows: int = 22, findings: int = 5, calls: int = 6, *, folded: bool = False
) -> doc.Document:
    """The verdict, what is wrong, the gradients, the path, what got nothing, the calls; ``folded``
    with each module's parameters under its row.
    """
    total = max((c.last for c in screen.calls), default=0)
    word, role = _WORDS[screen.status]
    blocks: list[doc.Block] = [
        doc.Heading(screen.script, f"{total} call{'s' * (total != 1)} of backward"),
        doc.prose(doc.Span(f"{word}: ", role), screen.sentence),
    ]
    if screen.fault is not None:
        head = blocks if screen.calls else []
        blocks = [*raised(screen.fault, stopped=screen.stopped), *head]
    blocks += wrong(screen.findings, findings)
    blocks += _table(screen, screen.rows, rows)
    blocks += _modules(screen) if folded else []
    blocks += _path(screen.path)
    blocks += _rest(screen)
    blocks += _calls(screen, calls)
    return doc.Document(screen.script, tuple(blocks))


def raised(fault: Fault, *, stopped: bool) -> list[doc.Block]:
    """An error of the script's, why it came, and what to do."""
    where = "" if fault.site is None else f"line {fault.site.line} of {fault.site.file}"
    title = "The script stopped" if stopped else "An error that the script caught"
    blocks: list[doc.Block] = [doc.Heading(title, where)]
    if fault.site is not None and fault.site.source:
        blocks.append(doc.Program((fault.site.source,)))
    return blocks + explained(fault)


def explained(fault: Fault) -> list[doc.Block]:
    """An error's message, why it came, and what to do."""
    blocks: list[doc.Block] = [doc.prose(doc.Span(f"{fault.type}: {fault.told[:400]}", "bad"))]
    blocks += [doc.prose(fault.why)] if fault.why else []
    blocks += [doc.prose(doc.label("Remedy: "), fault.remedy)] if fault.remedy else []
    return blocks


def wrong(findings: Sequence[Finding], most: int = 5) -> list[doc.Block]:
    """What is wrong, each with its remedy."""
    found = [finding for finding in findings if not finding.remark]
    if not found:
        return []
    blocks: list[doc.Block] = [doc.Heading("What is wrong")]
    for finding in found[:most]:
        blocks.append(doc.Notes((doc.line(finding.text),)))
        if finding.remedy:
            blocks.append(doc.prose(doc.label("Remedy: "), finding.remedy, indent=4))
    if len(found) > most:
        more = f"{len(found) - most} more: --format json has them all."
        blocks.append(doc.remark(more))
    return blocks


# -- the table -------------------------------------------------------------------------------------


def _table(screen: Screen, found: list[Row], most: int) -> list[doc.Block]:
    if not found:
        return []
    remark = "what the first call added to each .grad: its Euclidean norm and its largest element"
    rows = found if len(found) <= most else found[: most - 1]
    table = _rows(rows, _ends(screen.rows), screen.last_call)
    blocks: list[doc.Block] = [doc.Heading("Gradients", remark), table]
    if len(rows) < len(found):
        blocks.append(doc.remark(f"… {len(found) - len(rows)} more rows"))
    return blocks


def _rows(rows: list[Row], ends: tuple[float, float], last_call: int | None) -> doc.Table:
    ratios = any(row.ratio is not None for row in rows)
    zeros = any(row.zeros for row in rows)
    heads = ["", "shape", "norm", "largest", *["zeros"] * zeros, *["step/weight"] * ratios]
    heads += [f"at call {last_call}"] * (last_call is not None)
    shown = []
    for row in rows:
        norms = ["frozen", ""] if row.frozen else [_short(row.norm), _short(row.largest)]
        cells = [row.shape, *norms]
        cells += ["" if row.zeros is None else f"{row.zeros:.0%}"] * zeros
        cells += ["" if row.ratio is None else _short(row.ratio)] * ratios
        cells += ["" if row.last is None else _short(row.last)] * (last_call is not None)
        bar = doc.label("" if row.frozen else _bar(row.norm, ends))
        shown.append(doc.row(doc.name(_fitting(row.name)), *cells, bar))
    return doc.Table(tuple(shown), tuple(doc.cell(doc.label(head)) for head in heads))


def _modules(screen: Screen) -> list[doc.Block]:
    """Each module folded, with all its parameters."""
    modules: dict[str, list[Row]] = {}
    for row in screen.every:
        layer = re.match(r".*?[.\[]\d+\]?(?=\.)", row.name)
        module = row.name.rpartition(".")[0] if layer is None else layer[0]
        modules.setdefault(module, []).append(row)
    how = _ends(screen.rows), screen.last_call
    return [
        doc.Fold(f"{module}: {len(rows)} parameter{'s' * (len(rows) != 1)}", (_rows(rows, *how),))
        for module, rows in modules.items()
        if module and len(modules) > 1
    ]


def _fitting(text: str) -> str:
    return text if len(text) <= 38 else f"{text[:18]}…{text[-19:]}"


def _short(value: float) -> str:
    return numbers.number(value, 3)


def _ends(rows: list[Row]) -> tuple[float, float]:
    logs = [math.log10(row.norm) for row in rows if 0 < row.norm < math.inf]
    return (min(logs), max(logs)) if logs else (0.0, 0.0)


def _bar(value: float, ends: tuple[float, float]) -> str:
    """A block on a log scale that spans at least three powers of ten."""
    if value != value or value == math.inf:
        return "!"
    if value == 0:
        return "0"
    low, high = min(ends[0], ends[1] - 3), ends[1]
    return _BLOCKS[min(7, max(0, round((math.log10(value) - low) / (high - low) * 7)))]


# -- the path --------------------------------------------------------------------------------------


def _path(path: Path | None) -> list[doc.Block]:
    if path is None or not path.factors:
        return []
    whole = f"from {path.start} back to {path.end}: norm {_short(path.first)} → {_short(path.last)}"
    rows = tuple(_factor(factor) for factor in path.factors)
    return [doc.Heading("Path of the gradient", whole), doc.Table(rows)]


def _factor(factor: Factor) -> tuple[doc.Cell, ...]:
    where = "" if factor.line is None else f"line {factor.line}"
    many = factor.times > 1
    told = [f"{factor.times} times: ×{_short(factor.factor**factor.times)}"] * many
    told += [f"×{_short(factor.branch)} through f alone"] * (factor.branch == factor.branch)
    at = f"at {'each ' * many}{factor.operation}"
    return doc.row(f"×{_short(factor.factor)}", at, doc.label(where), "; ".join(told))


# -- the rest --------------------------------------------------------------------------------------


def _rest(screen: Screen) -> list[doc.Block]:
    blocks: list[doc.Block] = []
    if screen.nothing:
        blocks.append(doc.Heading("Got nothing"))
        for names, why, number in screen.nothing:
            line = "" if number is None else f" (line {number})"
            blocks.append(doc.prose(doc.name(names), f": {why}{line}"))
        if screen.more_nothing:
            blocks.append(doc.remark(f"{screen.more_nothing} more"))
    remarks: dict[str, list[Finding]] = {}
    for finding in screen.findings:
        if finding.remark:
            remarks.setdefault(finding.kind, []).append(finding)
    items = [doc.line(said) for said in screen.accumulated]
    for first, *rest in remarks.values():
        more = f" The same in {len(rest)} more places." if rest else ""
        items.append(doc.line(f"{first.text} {first.remedy[:1].upper()}{first.remedy[1:]}{more}"))
    items += [
        doc.line(doc.Span("the recorder failed: ", "bad"), failed) for failed in screen.failures[:2]
    ]
    if items:
        blocks += [doc.Heading("To know"), doc.Notes(tuple(items))]
    return blocks


def _calls(screen: Screen, most: int) -> list[doc.Block]:
    if not screen.calls:
        return []
    remark = "--call K opens one, --full all; gradexplain why PARAM follows one parameter"
    blocks: list[doc.Block] = [
        doc.Heading("Calls", remark),
        doc.Table(tuple(map(of_a_line, screen.calls[:most]))),
    ]
    if len(screen.calls) > most:
        blocks.append(doc.remark(f"… {len(screen.calls) - most} more lines that call backward"))
    return blocks


def of_a_line(calls: Calls) -> tuple[doc.Cell, ...]:
    """The calls that one line made."""
    which = f"{calls.first}" if calls.first == calls.last else f"{calls.first}…{calls.last}"
    first, last = calls.values
    value = "" if first is None else _short(first)
    if last is not None and calls.first != calls.last:
        value += f" → {_short(last)}"
    if calls.error:
        value = f"failed: {calls.error[:40]}"
    if calls.failure:
        value = f"could not be explained: {calls.failure[:40]}"
    where = "" if calls.line is None else f"line {calls.line}"
    return doc.row(doc.name(which), doc.label(where), doc.code(calls.source[:46]), value)


def live(rows: list[Row], brief: Brief) -> doc.Document:
    """The table while the script runs."""
    at = "" if brief.value is None else f"at {_short(brief.value)}"
    head = doc.Heading(f"call {brief.index}", at)
    return doc.Document("", (head, _rows(rows, _ends(rows), brief.index)))


# -- why -------------------------------------------------------------------------------------------


def why(parameter: str, ways: list[Way], call: int, place: int | None) -> doc.Document:
    """The ways from the loss to one parameter."""
    where = "" if place is None else f", line {place}"
    total = ways[0].total if ways else 0.0
    blocks: list[doc.Block] = [
        doc.Heading(f"{parameter}.grad", f"of call {call}{where}: norm {_short(total)}"),
    ]
    if len(ways) > 1:
        blocks.append(doc.prose(f"It is the sum of {len(ways)} contributions, the largest first."))
    for way in ways[:3]:
        share = "" if len(ways) == 1 else f"contribution of norm {_short(way.norm)}"
        blocks.append(doc.Heading(f"From {way.start} to it through {way.operation}", share))
        steps = way.steps
        if len(steps) > 18:
            steps = [*steps[:9], replace(steps[9], operation="…", line=None), *steps[-8:]]
        rows = []
        for step in steps:
            at = "" if step.line is None else f"line {step.line}"
            rows.append(
                doc.row(
                    doc.name(step.value),
                    f"norm {_short(step.norm)}",
                    "" if step.factor is None else f"×{_short(step.factor)}",
                    step.operation,
                    doc.label(at),
                    doc.code(step.source[:40]),
                )
            )
        blocks.append(doc.Table(tuple(rows)))
    if len(ways) > 3:
        blocks.append(doc.remark(f"{len(ways) - 3} smaller contributions"))
    return doc.Document(parameter, tuple(blocks))
