"""A program carried out block by block along an axis, so that temporaries stay in the cache.

A *region* is an operation with what it alone is made of, an axis along which all of that can be cut,
and what stands outside of it: tensors, of which blocks are taken, and values without the axis.  The
blocks of its value are put side by side, or added where the operation sums over the axis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from gradexplain.plan.program import Axis, Node, needed

#: The elements of a block, and of what is worth being cut into several.
BLOCK = 1 << 16
LARGE = 1 << 18

#: Kinds whose value is an array of its own.
FRESH = ("map", "select", "contract")

#: Views, or made at once.
_LEAVES = ("number", "index", "element", "window")


@dataclass(frozen=True, slots=True)
class Region:
    """``inside``, in order, ends with the operation itself; ``summed``: the blocks are added."""

    axis: Axis
    length: int
    inside: tuple[Node, ...]
    outside: tuple[Node, ...]
    summed: bool


#: Operations in order, those inside of regions left out: each with its region, which of its arguments
#: are nobody else's then (`spare`), and the values that are not needed afterwards.
Schedule = tuple[tuple[Node, Region | None, list[bool], tuple[int, ...]], ...]


@lru_cache(maxsize=2048)
def schedule(root: Node, cut: bool) -> Schedule:
    """The order of what ``root`` needs; in regions where that is to be ``cut`` into blocks."""
    every = needed(root)
    users: dict[int, list[Node]] = {}
    for node in every:
        for arg in node.args:
            users.setdefault(arg.place, []).append(node)
    regions: dict[int, Region | None] = {}
    found: dict[int, Node] = {}
    given: dict[int, tuple[Node, ...]] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if node.place in found:
            continue
        found[node.place] = node
        region = regions[node.place] = _region(node, users) if cut else None
        given[node.place] = node.args if region is None else region.outside
        pending += given[node.place]
    uses = Counter(arg.place for args in given.values() for arg in args)
    order = []
    for place in sorted(found):
        node = found[place]
        spare = [uses[arg.place] == 1 and arg.kind in FRESH for arg in node.args]
        uses.subtract(arg.place for arg in given[place])
        over = {arg.place for arg in given[place] if not uses[arg.place]}
        order.append((node, regions[place], spare, tuple(over)))
    return tuple(order)


def _region(root: Node, users: Mapping[int, list[Node]]) -> Region | None:
    if root.type != "real" or root.kind in _LEAVES:
        return None
    bound = root.data if root.kind == "contract" else ()
    if max(root.elements, *(arg.elements for arg in root.args), 0) < LARGE:
        return None
    for axis in (*root.axes[:-1], *bound):
        region = _along(root, axis, users, summed=axis in bound)
        if region is not None:
            return region
    return None


def _along(
    root: Node, axis: Axis, users: Mapping[int, list[Node]], *, summed: bool
) -> Region | None:
    inside: dict[int, Node] = {root.place: root}
    outside: dict[int, Node] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if node.place not in inside:
            continue
        if not _can_be_cut(node, axis, at_end=summed and node is root):
            return None
        for arg in node.args:
            if axis in arg.axes and arg.kind not in _LEAVES:
                if arg.place not in inside:
                    inside[arg.place] = arg
                    pending.append(arg)
            else:
                outside[arg.place] = arg
    made = [node for place, node in inside.items() if place != root.place]
    if summed and not made:
        return None
    if any(user.place not in inside for node in made for user in users[node.place]):
        return None
    widest = max(node.elements for node in (root, *made))
    if summed:
        widest = max(node.elements for node in made)
    length = max(1, BLOCK * axis.size // widest)
    if 2 * length > axis.size or widest < LARGE:
        return None
    block = max(BLOCK, widest // axis.size)
    if any(arg.elements > 2 * block for arg in outside.values() if axis not in arg.axes):
        return None
    order = tuple(inside[place] for place in sorted(inside))
    return Region(axis, length, order, tuple(outside.values()), summed)


def _can_be_cut(node: Node, axis: Axis, *, at_end: bool) -> bool:
    """Whether a block of the value needs no more than the same block of the arguments."""
    if node.kind == "contract":
        return (at_end or axis in node.axes) and all(arg.kind != "window" for arg in node.args)
    if node.kind in ("scan", "scatter", "place"):
        return False
    if node.kind in ("reduce", "take"):
        return axis in node.axes and axis in node.args[0].axes
    return axis in node.axes


def blocks(region: Region) -> list[slice]:
    n, length = region.axis.size, region.length
    return [slice(low, min(low + length, n)) for low in range(0, n, length)]
