"""The one screen of a traced script, as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradexplain.render import numbers
from gradexplain.render.page import LABEL, NAME, VERDICTS, Cell, Page, Style

if TYPE_CHECKING:
    from gradexplain.trace.diagnose.finding import Finding
    from gradexplain.trace.screen import Calls, Factor, Path, Screen

#: No more lines than this are written, for any model.
LINES = 60

_BLOCKS = "▁▂▃▄▅▆▇█"

#: Of these parts so many lines are kept where the page would be longer, the last ones first.
_FINDINGS = 5

_WORDS = {
    "agree": "agree", "convention": "convention", "mismatch": "MISMATCH", "skipped": "not checked",
    "failed": "cannot tell",
}  # fmt: skip


def render(screen: Screen, style: Style | None = None) -> str:
    """The screen: verdict, what is wrong, the gradients, the path, what got nothing, the calls."""
    page = Page(style or Style())
    page.heading(screen.script, _count(screen))
    page.add(
        page.text(f"{_WORDS[screen.status]}: ", VERDICTS.get(screen.status, "")),
        page.text(screen.sentence),
    )
    _findings(page, [finding for finding in screen.findings if not finding.remark])
    tail = Page(page.style)
    _path(tail, screen.path)
    _rest(tail, screen)
    _calls(tail, screen)
    room = LINES - len(page.lines) - len(tail.lines) - 3
    _table(page, screen, max(room, 4))
    page.lines += tail.lines[: max(0, LINES - len(page.lines))]
    return page.finish(first=True)


def _count(screen: Screen) -> str:
    total = max((calls.last for calls in screen.calls), default=0)
    return f"{total} call{'s' * (total != 1)} of backward"


def _findings(page: Page, findings: list[Finding]) -> None:
    if not findings:
        return
    page.blank()
    page.heading("What is wrong")
    for finding in findings[:_FINDINGS]:
        page.add(page.text("- "), page.text(finding.text), hang=2)
        if finding.remedy:
            page.add(page.text("Remedy: ", LABEL), page.text(finding.remedy), indent=4, hang=2)
    if len(findings) > _FINDINGS:
        page.add(page.text(f"{len(findings) - _FINDINGS} more: --format json has them all.", LABEL))


# -- the table -------------------------------------------------------------------------------------


def _table(page: Page, screen: Screen, room: int) -> None:
    rows = screen.rows
    if not rows:
        return
    page.blank()
    page.heading("Gradients", "what the first call added to each .grad, by its Euclidean norm")
    ratios = any(row.ratio is not None for row in rows)
    zeros = any(row.zeros for row in rows)
    heads = ["", "shape", "norm", "largest"]
    heads += ["zeros"] if zeros else []
    heads += ["step/weight"] if ratios else []
    heads += [f"call {screen.last_call}"] if screen.last_call is not None else []
    shown = rows if len(rows) <= room else rows[: room - 1]
    grid: list[list[Cell]] = [[[page.text(head, LABEL)] for head in [*heads, ""]]]
    ends = _ends([row.norm for row in rows])
    for row in shown:
        cells = [row.shape, _short(row.norm), _short(row.largest)]
        cells += ["" if row.zeros is None else f"{row.zeros:.0%}"] if zeros else []
        cells += ["" if row.ratio is None else _short(row.ratio)] if ratios else []
        cells += ["" if row.last is None else _short(row.last)] if screen.last_call else []
        name = row.name if len(row.name) <= 40 else f"{row.name[:19]}…{row.name[-20:]}"
        grid.append(
            [[page.text(name, NAME)], *([page.text(cell)] for cell in cells),
             [page.text(_bar(row.norm, ends), LABEL)]]
        )  # fmt: skip
    before = len(page.lines)
    page.grid(grid)
    for line in page.lines[before:]:
        if line.cell_len > page.style.width:
            line.truncate(page.style.width)
    if len(shown) < len(rows):
        page.add(page.text(f"… {len(rows) - len(shown)} more", LABEL))


def _short(value: float) -> str:
    return numbers.number(value, 3)


def _ends(values: list[float]) -> tuple[float, float]:
    logs = [math.log10(value) for value in values if 0 < value < math.inf]
    return (min(logs), max(logs)) if logs else (0.0, 0.0)


def _bar(value: float, ends: tuple[float, float]) -> str:
    """A block on a log scale that spans at least three powers of ten."""
    if value != value or value == math.inf:
        return "!"
    if value == 0:
        return "0"
    low, high = ends[0], max(ends[1], ends[0] + 3)
    share = (math.log10(value) - low) / (high - low)
    return _BLOCKS[min(7, max(0, round(share * 7)))]


# -- the path --------------------------------------------------------------------------------------


def _path(page: Page, path: Path | None) -> None:
    if path is None or not path.factors:
        return
    page.blank()
    whole = f"norm {_short(path.first)} → {_short(path.last)}"
    page.heading("Path of the gradient", f"from {path.start} back to {path.end}: {whole}")
    for factor in path.factors:
        page.add(page.text(_step(factor)))


def _step(factor: Factor) -> str:
    line = "" if factor.line is None else f" (line {factor.line})"
    text = f"×{_short(factor.factor)} at {factor.operation}{line}"
    if factor.times > 1:
        text += f", {factor.times} times: ×{_short(factor.factor**factor.times)}"
    return text


# -- the rest --------------------------------------------------------------------------------------


def _rest(page: Page, screen: Screen) -> None:
    remarks = [finding for finding in screen.findings if finding.remark]
    if screen.nothing:
        page.blank()
        page.heading("Got nothing")
        for name, why, line in screen.nothing:
            where = "" if line is None else f" (line {line})"
            page.add(page.text(name, NAME), page.text(f": {why}{where}"), hang=2)
        if screen.more_nothing:
            page.add(page.text(f"{screen.more_nothing} more", LABEL))
    if screen.accumulated or remarks:
        page.blank()
        page.heading("To know")
        for line_ in screen.accumulated:
            page.add(page.text("- "), page.text(line_), hang=2)
        for finding in remarks[:2]:
            page.add(
                page.text("- "), page.text(f"{finding.text} {_capital(finding.remedy)}"), hang=2
            )
        if len(remarks) > 2:
            page.add(page.text(f"- the same in {len(remarks) - 2} more layers", LABEL))
    for failure in screen.failures[:2]:
        page.add(page.text("The recorder failed: ", VERDICTS["mismatch"]), page.text(failure))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _calls(page: Page, screen: Screen) -> None:
    if not screen.calls:
        return
    page.blank()
    page.heading("Calls", "--call K opens one, --full all of them; why PARAM follows one parameter")
    rows = [_call(page, calls) for calls in screen.calls[:6]]
    page.grid(rows)
    for line in page.lines[-len(rows) :]:
        if line.cell_len > page.style.width:
            line.truncate(page.style.width)
    if len(screen.calls) > 6:
        page.add(page.text(f"… {len(screen.calls) - 6} more lines that call backward", LABEL))


def _call(page: Page, calls: Calls) -> list[Cell]:
    which = f"{calls.first}" if calls.first == calls.last else f"{calls.first}…{calls.last}"
    first, last = calls.values
    value = "" if first is None else _short(first)
    if last is not None and calls.first != calls.last:
        value += f" → {_short(last)}"
    if calls.error:
        value = f"failed: {calls.error[:50]}"
    if calls.failure:
        value = f"could not be explained: {calls.failure[:60]}"
    line = "" if calls.line is None else f"line {calls.line}"
    return [
        [page.text(which, NAME)], [page.text(line, LABEL)], [page.text(calls.source[:48])],
        [page.text(value)],
    ]  # fmt: skip
