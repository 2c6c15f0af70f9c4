"""Where the nodes of a small graph stand: layers from left to right, rows within them.

The layered method of Sugiyama, Tagawa and Toda (1981) in its simplest form: longest-path layers, a
place kept free in each layer that an edge passes, the order within a layer by the mean place of the
neighbours.  The drawings in characters and in SVG share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import floor
from operator import itemgetter
from statistics import fmean

from gradexplain.document.model import Graph


@dataclass(eq=False, slots=True)
class Item:
    """A node, or the place that the edges from a node keep free in a layer that they pass."""

    name: str
    layer: int
    real: bool
    row: int = 0
    before: list[Item] = field(default_factory=list)
    after: list[Item] = field(default_factory=list)


def layout(graph: Graph) -> list[list[Item]]:
    """The layers, each in the order of its rows."""
    sources: dict[str, list[str]] = {node.name: [] for node in graph.nodes}
    for tail, head in graph.edges:
        if tail not in sources[head]:
            sources[head].append(tail)
    layer: dict[str, int] = {}
    for _ in graph.nodes:  # one round is enough where they are in order of evaluation
        before = dict(layer)
        for node in graph.nodes:
            layer[node.name] = 1 + max((layer.get(s, 0) for s in sources[node.name]), default=-1)
        if layer == before:
            break
    items: dict[tuple[str, int], Item] = {}
    for node in graph.nodes:
        items[node.name, layer[node.name]] = Item(node.name, layer[node.name], True)
    for head, tails in sources.items():
        for tail in tails:
            for level in range(layer[tail], layer[head]):
                one = items.setdefault((tail, level), Item(tail, level, False))
                there = (head, level + 1) if level + 1 == layer[head] else (tail, level + 1)
                other = items.setdefault(there, Item(there[0], there[1], False))
                if other not in one.after:
                    one.after.append(other)
                    other.before.append(one)
    layers: list[list[Item]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for (_, level), item in items.items():
        layers[level].append(item)
    _order(layers)
    _rows(layers)
    return layers


def _order(layers: list[list[Item]]) -> None:
    """The order within each layer, which leaves few crossings."""
    best, fewest = [list(level) for level in layers], _crossings(layers)
    for sweep in range(8):
        forward = sweep % 2 == 0
        for level in layers[1:] if forward else layers[-2::-1]:
            places = {id(item): place for near in layers for place, item in enumerate(near)}
            near = [(item.before if forward else item.after) or [item] for item in level]
            wanted = [fmean([places[id(other)] for other in found]) for found in near]
            ordered = sorted(zip(wanted, level, strict=True), key=itemgetter(0))
            level[:] = [item for _, item in ordered]
        found = _crossings(layers)
        if found < fewest:
            best, fewest = [list(level) for level in layers], found
    layers[:] = best


def _crossings(layers: Sequence[Sequence[Item]]) -> int:
    count = 0
    for level, following in zip(layers, layers[1:], strict=False):
        place = {id(item): n for n, item in enumerate(following)}
        pairs = [(n, place[id(o)]) for n, item in enumerate(level) for o in item.after]
        count += sum(
            a < c and b > d or a > c and b < d
            for n, (a, b) in enumerate(pairs)
            for c, d in pairs[n + 1 :]
        )
    return count


def _rows(layers: list[list[Item]]) -> None:
    """A row for each item, in the order of its layer: near the middle of what it is made from; an
    input beside the first of what is made from it, so that lines need not cross."""
    for row, item in enumerate(layers[0]):
        item.row = row
    middles: tuple[Callable[[float], int], ...] = (floor, round)
    for middle in middles:
        for level in layers[1:]:
            _set(level, [middle(fmean([o.row for o in item.before])) for item in level])
        if middle is floor:
            _set(layers[0], [min((o.row for o in item.after), default=0) for item in layers[0]])


def _set(level: list[Item], wanted: Sequence[int]) -> None:
    taken = -1
    for item, row in zip(level, wanted, strict=True):
        item.row = taken = max(row, taken + 1)
