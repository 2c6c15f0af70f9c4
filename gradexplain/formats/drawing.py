"""A graph in characters: inputs on the left, the output on the right, and v entering there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gradexplain.document.model import Graph
from gradexplain.errors import cells
from gradexplain.formats.layout import Item, layout

#: No more nodes than this are drawn.
MOST = 18

#: PyTorch's names of no more operations than this stand under the graph.
_NAMED = 6

_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_LINES = {
    0: " ", _UP: "│", _DOWN: "│", _UP | _DOWN: "│", _LEFT: "─", _RIGHT: "─", _LEFT | _RIGHT: "─",
    _DOWN | _RIGHT: "┌", _DOWN | _LEFT: "┐", _UP | _RIGHT: "└", _UP | _LEFT: "┘",
    _UP | _DOWN | _RIGHT: "├", _UP | _DOWN | _LEFT: "┤", _DOWN | _LEFT | _RIGHT: "┬",
    _UP | _LEFT | _RIGHT: "┴", _UP | _DOWN | _LEFT | _RIGHT: "┼",
}  # fmt: skip


@dataclass(eq=False, slots=True)
class _Net:
    """The edges from one item to the next layer: along its row, up or down, along the targets'."""

    source: Item
    targets: list[Item]
    track: int = 0

    @property
    def straight(self) -> bool:
        return all(t.row == self.source.row for t in self.targets)

    @property
    def rows(self) -> set[int]:
        return {self.source.row, *(t.row for t in self.targets)}

    def beside(self, other: _Net) -> bool:
        """Whether both fit in one column: apart, or meeting where they go to the same place."""
        low, high = sorted((self, other), key=lambda net: (min(net.rows), max(net.rows)))
        if max(low.rows) < min(high.rows):
            return True
        shared = {id(t) for t in low.targets} & {id(t) for t in high.targets}
        meets = [t for t in low.targets if id(t) in shared and t.row == max(low.rows)]
        return max(low.rows) == min(high.rows) and bool(meets)


@dataclass(slots=True)
class _Canvas:
    bits: dict[tuple[int, int], int] = field(default_factory=dict)
    texts: list[tuple[int, int, str]] = field(default_factory=list)

    def across(self, row: int, start: int, stop: int) -> None:
        """A line from the middle of one cell to the middle of another."""
        for column in range(start, stop + 1):
            side = _LEFT * (column > start) | _RIGHT * (column < stop)
            self.bits[row, column] = self.bits.get((row, column), 0) | side

    def down(self, column: int, start: int, stop: int) -> None:
        for row in range(start, stop + 1):
            side = _UP * (row > start) | _DOWN * (row < stop)
            self.bits[row, column] = self.bits.get((row, column), 0) | side

    def lines(self) -> list[str]:
        height = max(row for row, _ in self.bits) + 1
        made = []
        for row in range(height):
            width = max((c for r, c in self.bits if r == row), default=-1) + 1
            line = [_LINES[self.bits.get((row, c), 0)] for c in range(width)]
            for _, column, text in sorted(t for t in self.texts if t[0] == row):
                line += " " * (column + len(text) - len(line))
                line[column : column + len(text)] = text
            made.append("".join(line).rstrip())
        return made


def drawing(graph: Graph, width: int) -> tuple[list[str], str]:
    """The lines, none where the graph is too large or does not fit into ``width`` cells, and a remark.

    An operation stands with what PyTorch calls its backward; the remark says so where that is too wide.
    """
    if not 2 < len(graph.nodes) <= MOST or any(cells(n.text) != len(n.text) for n in graph.nodes):
        return [], ""
    layers = layout(graph)
    named = {node.name: f"{node.text} {node.grad_fn}".rstrip() for node in graph.nodes}
    if lines := _drawn(graph, layers, width, named):
        return lines, ""
    lines = _drawn(graph, layers, width, {node.name: node.text for node in graph.nodes})
    names: dict[str, dict[str, None]] = {}
    for node in graph.nodes:
        if node.grad_fn:
            operation = re.sub(r"^(\w+)\(.*", r"\1", node.text.rpartition(" = ")[2])
            names.setdefault(operation, {})[node.grad_fn] = None
    said = [f"{operation} {' and '.join(found)}" for operation, found in names.items()]
    return lines, f"grad_fn: {', '.join(said)}" if 0 < len(said) <= _NAMED else ""


def _drawn(
    graph: Graph, layers: list[list[Item]], width: int, texts: Mapping[str, str]
) -> list[str]:
    canvas = _Canvas()
    column = 0
    for place, level in enumerate(layers):
        wide = max((len(texts[i.name]) for i in level if i.real), default=1)
        first, last = place == 0, place == len(layers) - 1
        end = column + wide + (1 if first else 3)
        for item in level:
            if not item.real:
                canvas.across(item.row, column, end)
                continue
            start = column if first else column + 2
            text = texts[item.name]
            if not first:
                canvas.across(item.row, column, column + 1)
            canvas.texts.append((item.row, start if first else start - 1, _set(text, first, last)))
            if not last:
                canvas.across(item.row, start + len(text) + 1, end)
        column = end
        if last:
            break
        nets = [_Net(item, item.after) for item in level if item.after]
        tracks = _tracks(nets)
        if tracks is None:
            return []
        stop = column + tracks + 1
        for net in nets:
            if net.straight:
                canvas.across(net.source.row, column, stop)
                continue
            at = column + 1 + net.track
            canvas.across(net.source.row, column, at)
            canvas.down(at, min(net.rows), max(net.rows))
            for target in net.targets:
                canvas.across(target.row, at, stop)
        column = stop
    lines = canvas.lines()
    out = next(node for node in graph.nodes if node.role == "output")
    row = next(
        item.row for level in layers for item in level if item.real and item.name == out.name
    )
    lines[row] += f" ◄ {graph.flow}"
    lines = [line for line in lines if line.strip()]
    return lines if max(map(len, lines)) <= width else []


def _set(text: str, first: bool, last: bool) -> str:
    return text + " " if first else f" {text}" if last else f" {text} "


def _tracks(nets: list[_Net]) -> int | None:
    """A column for each net that goes up or down; how many there are, None where it cannot be.

    What leaves a row must turn off before another comes in on it.
    """
    bent = [net for net in nets if not net.straight]
    before: dict[int, list[_Net]] = {
        id(net): [
            other for other in bent
            if other is not net and any(
                t.row == other.source.row and t not in other.targets for t in net.targets
            )
        ]
        for net in bent
    }  # fmt: skip
    for net in bent:  # a straight line leaves no room for another's end on its row
        for other in nets:
            if other.straight and other is not net:
                if any(t.row == other.source.row and t not in other.targets for t in net.targets):
                    return None
    done: list[_Net] = []
    while len(done) < len(bent):
        ready = [n for n in bent if n not in done and all(o in done for o in before[id(n)])]
        if not ready:
            return None
        net = min(ready, key=lambda n: n.source.row)
        least = 1 + max((o.track for o in before[id(net)]), default=-1)
        net.track = next(
            track for track in range(least, len(bent) + least)
            if all(net.beside(o) for o in done if o.track == track)
        )  # fmt: skip
        done.append(net)
    return max((net.track for net in done), default=-1) + 1
