"""A document as text for a terminal, a pipe or a file: pinned width, optional colour, any encoding.

One accent for v and what flows back, one for names; nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rich.text import Text

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.formats.drawing import drawing
from gradexplain.formats.text import Page, Style, matrix_lines, wrapped_lines

STYLES = {
    "": "", "name": "cyan", "flow": "magenta", "label": "dim", "strong": "bold", "good": "green",
    "doubt": "yellow", "bad": "bold red", "quiet": "dim",
}  # fmt: skip

_GAP = 2

#: No column of a table is squeezed below this many cells.
_LEAST = 16


def render(document: doc.Document, style: Style | None = None) -> str:
    """The whole page."""
    page = Page(style or Style())
    for block in document.blocks:
        write(page, block)
    return page.finish(first=True)


def write(page: Page, block: doc.Block) -> None:
    """One block, with an empty line before it where one belongs."""
    if not isinstance(block, doc.Steps):  # the table beside it says the same
        _WRITERS[type(block)](page, block)


def _spans(page: Page, content: doc.Line) -> Text:
    return Text().join(page.text(span.text, STYLES[span.role]) for span in content)


def _heading(page: Page, block: doc.Heading) -> None:
    page.blank()
    page.heading(block.title, block.remark)


def _paragraph(page: Page, block: doc.Paragraph) -> None:
    if not block.content:
        page.blank()
        return
    math = any(span.kind == "math" for span in block.content)
    page.add(_spans(page, block.content), indent=block.indent, hang=block.hang, formula=math)


def _program(page: Page, block: doc.Program) -> None:
    for statement in block.lines:
        page.add(page.text(statement), indent=block.indent, formula=True)


def _formula(page: Page, block: doc.Formula) -> None:
    shown = page.text(block.text)
    known = page.text(block.remark, STYLES["label"])
    room = page.style.width - block.indent
    if not block.remark or shown.cell_len + 4 + known.cell_len <= room:
        page.add(shown, Text("    "), known, indent=block.indent, formula=True)
    else:
        page.add(shown, indent=block.indent, formula=True)
        page.add(known, indent=block.indent + 2, hang=2)


def _table(page: Page, block: doc.Table) -> None:
    rows = [block.head, *block.rows] if block.head else list(block.rows)
    if not rows:
        return
    lead = page.text(f"{block.lead:<5} " if block.lead else "", STYLES["label"])
    margin, start = block.indent + lead.cell_len, len(page.lines)
    room = page.style.width - margin
    count = max(map(len, rows))
    gaps = _GAP * (count - 1)
    natural = _widths(page, rows, [1000] * count)
    widths = natural if block.stacked else _fitted(natural, room - gaps)
    if sum(widths) + gaps <= room:
        if widths != natural:  # what wrapped lines leave free goes to the one that lacks most
            used = _widths(page, rows, widths)
            widest = max(range(count), key=lambda c: (natural[c] - used[c], c))
            widths[widest] = used[widest] + room - gaps - sum(used)
        page.grid(
            [[_cell(page, shown, widths[c]) for c, shown in enumerate(row)] for row in rows],
            indent=margin,
        )
    else:
        _stack(page, rows, margin, room)
    if block.lead:
        page.lines[start] = Text(" " * block.indent).append_text(lead) + page.lines[start][margin:]


def _stack(page: Page, rows: list[tuple[doc.Cell, ...]], margin: int, room: int) -> None:
    """A row's cells under its first, the last beside it where that is one line and there is room."""
    step = 4 if room > 2 * _LEAST else 2
    shown = [
        [_cell(page, cell, room - step * (c > 0)) for c, cell in enumerate(row)] for row in rows
    ]
    beside = [
        first[0].cell_len if first else 0
        for first, *_, last in (row for row in shown if len(row) > 1 and len(row[-1]) == 1)
        if (first[0].cell_len if first else 0) + _GAP + last[0].cell_len <= room
    ]
    lead = max(beside, default=0) + _GAP
    for first, *others in shown:
        first = first or [Text()] * bool(beside)
        if first and others and len(others[-1]) == 1 and first[0].cell_len + _GAP <= lead:
            if lead + others[-1][0].cell_len <= room:
                first[0].pad_right(lead - first[0].cell_len)
                first[0].append_text(others.pop()[0])
        for indent, lines in ((0, first), *((step, cell) for cell in others)):
            for piece in filter(None, lines):
                page.lines.append(Text(" " * (margin + indent)).append_text(piece))


def _widths(page: Page, rows: list[tuple[doc.Cell, ...]], room: list[int]) -> list[int]:
    """How wide each column is with so much room; a tensor is folded first of all."""
    return [
        max(
            (t.cell_len for row in rows if c < len(row) for t in _cell(page, row[c], wide)),
            default=0,
        )
        for c, wide in enumerate(room)
    ]


def _fitted(widths: list[int], room: int) -> list[int]:
    """The widths of columns, the widest made narrower until all fit."""
    widths = list(widths)
    while sum(widths) > room and max(widths) > _LEAST:
        widest = max(range(len(widths)), key=lambda c: (widths[c], c))
        others = sorted(widths)[-2] if len(widths) > 1 else 0
        over = sum(widths) - room
        widths[widest] -= min(over, max(1, widths[widest] - max(others, _LEAST)))
    return widths


def _cell(page: Page, shown: doc.Cell, width: int) -> list[Text]:
    """The lines of a cell."""
    lines: list[Text] = []
    for part in shown:
        if isinstance(part, doc.Tensor):
            lines += _tensor(page, part, width)
        else:
            lines += wrapped_lines(_spans(page, part), width, hang=2)
    return lines


def _tensor(page: Page, block: doc.Tensor, width: int) -> list[Text]:
    lines = [
        page.text(t) for t in numbers.tensor(block.values, page.style.precision, width, block.most)
    ]
    known = block.remark.startswith("shape ")
    if numbers.abbreviated(block.values, block.most) and not known:
        shape = f"  shape {numbers.shape(block.values.shape)}"
        lines[-1].append_text(page.text(shape, STYLES["label"]))
    if block.remark:
        said = page.text(block.remark, STYLES["label"])
        if len(lines) == 1 and lines[0].cell_len + 2 + said.cell_len <= width:
            return [Text("  ").join([*lines, said])]
        lines += wrapped_lines(said, width, 0)
    return lines


def _matrix(page: Page, block: doc.Matrix) -> None:
    label = partial(page.text, style=STYLES["label"])
    matrix_lines(page, [*map(label, block.rows)], [*map(label, block.columns)], block.values)


def _graph(page: Page, block: doc.Graph) -> None:
    lines, names = drawing(block, page.style.width - 2)
    if not lines:
        return
    _heading(page, doc.Heading("Graph"))
    for drawn in lines:
        page.lines.append(Text("  ").append_text(page.text(drawn)))
    for remark in filter(None, (names, *block.remarks)):
        page.add(page.text(remark, STYLES["label"]), hang=2)


def _notes(page: Page, block: doc.Notes) -> None:
    for item in block.items:
        page.add(page.text("- "), _spans(page, item), hang=2)


def _fold(page: Page, block: doc.Fold) -> None:
    page.add(page.text(block.title, STYLES["label"]))
    for inner in block.blocks:
        write(page, inner)


_WRITERS: dict[type[Any], Callable[[Page, Any], None]] = {
    doc.Heading: _heading, doc.Paragraph: _paragraph, doc.Program: _program, doc.Formula: _formula, doc.Table: _table,
    doc.Matrix: _matrix, doc.Graph: _graph, doc.Notes: _notes, doc.Fold: _fold,
}  # fmt: skip
