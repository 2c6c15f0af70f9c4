"""A page of text under way: lines of styled text, tables, tensors.  Text renderers write on one.

rich only turns styled text into a terminal's colour codes; markup is never interpreted, and
whatever a user typed is escaped on its way to the page (`Page.text`).
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.text import Text

from gradexplain import numbers
from gradexplain.errors import cells, printable
from gradexplain.formats import ascii
from gradexplain.tensors import Array

if TYPE_CHECKING:
    from typing import TextIO


WIDTH = 100

HEADING = "bold"
LABEL = "dim"
ZERO = "dim"

#: Where a line may be broken, best first: before an operator, at a space (but not in ``i, j = 0…2``),
#: inside a product or list; outside of brackets if possible, and never after a sum's sign.
_BREAKS = (
    re.compile(r"(?<= )(?=[-+−=/] )(?!= 0…)"),
    re.compile(r"(?<= )(?!=? ?0…)(?!(?<=, )(?:\w+, )*\w+ = 0…)"),
    re.compile(r"(?<=[·*/;])"),
    re.compile(r"(?<=[,(\[])"),
)
_SIGN = re.compile(r"[ΣΠ]_(\w+|\{[^}]*\}) $")


@dataclass(frozen=True, slots=True)
class Style:
    """How a page is written: its width, colour or plain, its encoding, the digits of a number."""

    width: int = WIDTH
    color: bool = False
    encoding: str = "utf-8"
    precision: int = numbers.PRECISION

    @classmethod
    def of(cls, stream: TextIO, *, width: int | None = None, precision: int | None = None) -> Style:
        """What suits ``stream``: a terminal's width and colours, else a page that never varies."""
        terminal = stream.isatty()
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
        return cls(
            width=width or (max(40, shutil.get_terminal_size().columns) if terminal else WIDTH),
            color=terminal and not plain,
            encoding=getattr(stream, "encoding", None) or "utf-8",
            precision=precision or numbers.PRECISION,
        )


Cell = Sequence[Text]


class Page:
    """The lines written so far, and the ways to add more."""

    def __init__(self, style: Style) -> None:
        self.style = style
        self.lines: list[Text] = []

    def text(self, text: str, style: str = "") -> Text:
        """The only way from a string to the page: nothing in it steers the terminal."""
        return Text(ascii.fold(printable(text), self.style.encoding), style=style)

    def heading(self, title: str, remark: str = "") -> None:
        line = self.text(title, HEADING)
        if remark:
            line = Text().append_text(line).append_text(self.text(f"  {remark}", LABEL))
        self.lines += wrapped_lines(line, self.style.width, hang=2)

    def blank(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append(Text())

    def add(self, *parts: Text, indent: int = 2, hang: int = 4, formula: bool = False) -> None:
        """One line, broken at spaces where it is wider than the page; a ``formula`` at operators."""
        line = Text().join(parts)
        breaks = _BREAKS if formula else _BREAKS[1:]
        for piece in wrapped_lines(line, self.style.width - indent, hang, breaks):
            self.lines.append(Text(" " * indent).append_text(piece))

    def grid(self, rows: Sequence[Sequence[Cell]], *, right: bool = False, indent: int = 2) -> None:
        """Cells of one or more lines in columns; ``right`` aligns all but the first."""
        count = max(map(len, rows))
        widths = [
            max((line.cell_len for row in rows if c < len(row) for line in row[c]), default=0)
            for c in range(count)
        ]
        for row in rows:
            for i in range(max(len(cell) for cell in row)):
                out = Text(" " * indent)
                for c, cell in enumerate(row):
                    line = cell[i] if i < len(cell) else Text()
                    pad = Text(" " * (widths[c] - line.cell_len))
                    out.append_text(Text("  " * (c > 0)))
                    for part in (pad, line) if right and c else (line, pad):
                        out.append_text(part)
                self.lines.append(out)

    def finish(self, *, first: bool) -> str:
        if not self.lines:
            return ""
        lines = self.lines if first else [Text(), *self.lines]
        for line in lines:
            line.rstrip()
        if not self.style.color:
            return "".join(line.plain + "\n" for line in lines)
        from rich.console import Console  # only a terminal pays for it

        out = io.StringIO()
        console = Console(
            file=out,
            force_terminal=True,
            color_system="standard",
            width=self.style.width,
            no_color=False,
            legacy_windows=False,
            markup=False,
            emoji=False,
            highlight=False,
        )
        for line in lines:
            console.print(line, soft_wrap=True)
        return out.getvalue()


def wrapped_lines(
    line: Text, width: int, hang: int, breaks: Sequence[re.Pattern[str]] = _BREAKS
) -> list[Text]:
    """``line`` in pieces of at most ``width`` cells, all but the first indented by ``hang``."""
    pieces: list[Text] = []
    room = max(8, width)
    hang = max(0, min(hang, room - 8))
    while line.cell_len > room:
        cut = _cut(line.plain, room, breaks)
        head, line = line.divide([cut])
        head.rstrip()
        pieces.append(Text(" " * hang * bool(pieces)).append_text(head))
        room = max(8, width) - hang
    pieces.append(Text(" " * hang * bool(pieces)).append_text(line))
    return pieces


def _cut(text: str, room: int, kinds: Sequence[re.Pattern[str]]) -> int:
    """The last good place to break ``text`` within ``room`` cells; else wherever the room ends."""
    end = used = 0
    for place, ch in enumerate(text):
        end = place
        used += cells(ch)
        if used > room:
            break
    # In prose a bracket holds words like any others.
    depths = _depths(text[: end + 1]) if kinds is _BREAKS else [0] * (end + 2)
    for depth in sorted(set(depths)):
        for breaks in kinds:
            places = [m.start() for m in breaks.finditer(text, room // 3 + 1, end + 1)]
            places = [
                place
                for place in places
                if place <= end and depths[place] == depth and not _SIGN.search(text[:place])
            ]
            if places:
                return places[-1]
    return max(1, end)


def _depths(text: str) -> list[int]:
    """How many brackets are open before each character, and at the end."""
    depths = [0]
    for ch in text:
        depths.append(max(0, depths[-1] + (ch in "([{") - (ch in ")]}")))
    return depths


def blocks(widths: list[int], room: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns that fit in ``room`` side by side, at least one in each."""
    starts, used = [0], 0
    for c, width in enumerate(widths):
        if used + width + 2 > room and c > starts[-1]:
            starts.append(c)
            used = 0
        used += width + 2
    yield from pairwise([*starts, len(widths)])


def matrix_lines(page: Page, labels: Sequence[Text], heads: Sequence[Text], values: Array) -> None:
    """A matrix of numbers with a label for each row and a head for each column."""
    columns = [
        [page.text(number, ZERO if number == "0" else "") for number in column]
        for column in (
            [numbers.number(v, page.style.precision) for v in column]
            for column in values.reshape(len(labels), len(heads)).T.tolist()
        )
    ]
    widths = [
        max(t.cell_len for t in [head, *column])
        for head, column in zip(heads, columns, strict=True)
    ]
    room = page.style.width - 4 - max(label.cell_len for label in labels)
    if max(widths) + 2 > room:  # not even a column fits beside the labels
        for r, label in enumerate(labels):
            page.add(label, indent=4)
            for head, column in zip(heads, columns, strict=True):
                page.add(head, Text("  "), column[r], indent=6)
        return
    for start, stop in blocks(widths, room):
        page.blank()
        page.grid(
            [
                [[], *([head] for head in heads[start:stop])],
                *(
                    [[label], *([column[r]] for column in columns[start:stop])]
                    for r, label in enumerate(labels)
                ),
            ],
            right=True,
            indent=4,
        )
