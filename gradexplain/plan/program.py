"""The array program: a small directed graph of operations on arrays whose axes have names.

Every operation is made once (`Program.add` keeps them by what they are), so that what stands twice in
a formula is computed once.  The kinds:

==========  ==========================  ===================================================
kind        data                        value
==========  ==========================  ===================================================
number      the number                  a constant
index       (none)                      0, 1, … along its one axis
element     label, picks                a tensor with its dims named; a dim of one element dropped
window      label, affine indices       ``x[2·i + p − 1]``: a view; 0 outside the tensor
gather      label                       the tensor at computed places
real        (none)                      an index or a mask as numbers
map         what is computed            elementwise, broadcast by the names of axes
select      (none)                      the second where the first holds, 0 elsewhere
choose      (none)                      the second where the first holds, else the third
contract    bound axes                  the sum over them of the product of all arguments
reduce      how, bound axes             the greatest, least, product, … over them
scan        how, from, to, direction    running along an axis, which is renamed
scatter     bound axes, how many tables the sum over them of terms put at places
place       axis                        the first, the second added to it at places on the axis
take        axis                        the first at places on its axis, which the second gives
==========  ==========================  ===================================================

Arguments of kind ``index`` hold whole numbers, those of kind ``mask`` truth values (`Node.type`);
a mask in a contraction that is ``implied`` holds wherever the other factors are not 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal[
    "number", "index", "element", "window", "gather", "real", "map", "select", "choose",
    "contract", "reduce", "scan", "scatter", "place", "take",
]  # fmt: skip
Type = Literal["real", "index", "mask", "implied"]


class Axis(NamedTuple):
    """An axis of an array: an index letter and its size."""

    name: str
    size: int


Axes = tuple[Axis, ...]


class Affine(NamedTuple):
    """``start + Σ step·axis``: an index expression that is a line in the index letters."""

    start: int
    steps: tuple[tuple[Axis, int], ...]

    @property
    def low(self) -> int:
        return self.start + sum(min(0, step * (axis.size - 1)) for axis, step in self.steps)

    @property
    def high(self) -> int:
        return self.start + sum(max(0, step * (axis.size - 1)) for axis, step in self.steps)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One operation; the arguments come before it in its program."""

    place: int
    kind: Kind
    args: tuple[Node, ...]
    axes: Axes
    data: Any
    type: Type

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def elements(self) -> int:
        n = 1
        for axis in self.axes:
            n *= axis.size
        return n


class Program:
    """Operations in the order in which they can be computed."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._made: dict[Any, Node] = {}

    def add(
        self,
        kind: Kind,
        args: Sequence[Node] = (),
        axes: Iterable[Axis] | None = None,
        data: Any = None,
        type: Type = "real",
    ) -> Node:
        """The operation, made now or before; its axes are all of its arguments' unless given."""
        own = union(arg.axes for arg in args) if axes is None else tuple(axes)
        key = kind, tuple(arg.place for arg in args), own, data, type
        if key not in self._made:
            node = Node(len(self.nodes), kind, tuple(args), own, data, type)
            self.nodes.append(node)
            self._made[key] = node
        return self._made[key]


def union(groups: Iterable[Axes]) -> Axes:
    return tuple(dict.fromkeys(axis for group in groups for axis in group))


def needed(root: Node) -> list[Node]:
    """What the value of ``root`` is computed from, in order."""
    found: dict[int, Node] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if node.place not in found:
            found[node.place] = node
            pending += node.args
    return [found[place] for place in sorted(found)]
