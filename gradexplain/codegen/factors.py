"""The factors of a sum of products, sorted into what becomes one product of PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradexplain.codegen.places import TENSORS, Frame
from gradexplain.plan.program import Axis, Node, needed, union


def tensors(body: Node) -> list[Node]:
    return sorted((n for n in needed(body) if n.kind in TENSORS and n.type == "real"),
                  key=lambda n: (-len(n.axes), str(n.data[0])))  # fmt: skip


def order_of(e: Node, letters: Sequence[Any]) -> Frame:
    """The order of axes in which ``e`` is written most simply."""
    for tensor in tensors(e):
        if set(tensor.axes) == set(e.axes):
            return tensor.axes
    return tuple(a for a in letters if a in e.axes)


def merged(factors: Sequence[Node]) -> list[list[Node]]:
    """Factors by axes: one whose axes another has is multiplied with it element by element."""
    groups: list[list[Node]] = []
    for factor in sorted(factors, key=lambda f: -len(f.axes)):
        home = next((g for g in groups if set(factor.axes) <= set(g[0].axes)), None)
        if home is None:
            groups.append([factor])
        else:
            home.append(factor)
    return groups


def matrix_vector(factors: Sequence[Node], bound: Sequence[Axis]) -> list[list[Node]]:
    """A matrix and the factors that have its summed axis alone; nothing where it is no such product."""
    vector = [f for f in factors if f.axes == tuple(bound)]
    matrix = [f for f in factors if f not in vector]
    plain = len(bound) == 1 and vector and matrix and all(len(f.axes) == 2 for f in matrix)
    return [matrix, vector] if plain else []


def groups_of(
    factors: Sequence[Node], bound: Sequence[Axis]
) -> list[tuple[list[Node], tuple[Axis, ...]]] | None:
    """Factors that share no bound axis are summed by themselves; None where all hang together."""
    groups: list[tuple[list[Node], tuple[Axis, ...]]] = []
    for factor in factors:
        own = {a for a in factor.axes if a in bound}
        tied = [g for g in groups if own.intersection(g[1])]
        groups = [g for g in groups if g not in tied]
        nodes = [*(n for g in tied for n in g[0]), factor]
        groups.append((nodes, union(n.axes for n in nodes)))
    return groups if len(groups) > 1 else None
