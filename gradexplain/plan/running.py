"""A program carried out: operation by operation, what is large in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from gradexplain.plan.arrays import block, joined
from gradexplain.plan.blocks import FRESH, Region, blocks, schedule
from gradexplain.plan.program import Node


class Interpretation(Protocol):
    """What an operation means: its value from those of its arguments."""

    #: Whether its values need so much beside them that blocks are faster than whole arrays.
    cut: bool

    def step(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        """``spare[k]``: the k-th argument is nobody else's and is not needed afterwards."""


def run(root: Node, interpretation: Interpretation) -> Any:
    """The value of ``root``."""
    whole = None
    for part, place, value in parts(root, interpretation):
        whole = joined(root, whole, value, place, part)
    return whole


def parts(root: Node, interpretation: Interpretation) -> Iterator[tuple[slice | None, Any, Any]]:
    """The value of ``root`` in the parts in which it is computed: ``(part, place, value)``.

    ``place`` is the axis of which ``value`` is a part, None where values are to be added; ``part`` is
    None for the whole.  What is not needed any more is let go at once.
    """
    values: dict[int, Any] = {}
    for node, region, spare, over in schedule(root, interpretation.cut):
        if region is None:
            args = [values[arg.place] for arg in node.args]
        else:
            given = {arg.place: values[arg.place] for arg in region.outside}
        for done in over:
            del values[done]
        if region is None:
            values[node.place] = interpretation.step(node, args, spare)
            continue
        if node is root:
            yield from _in_blocks(region, given, interpretation)
            return
        whole = None
        for part, place, value in _in_blocks(region, given, interpretation):
            whole = joined(node, whole, value, place, part)
        values[node.place] = whole
    yield None, None, values[root.place]


def _in_blocks(
    region: Region, given: Mapping[int, Any], meaning: Interpretation
) -> Iterator[tuple[slice, int | None, Any]]:
    axis, root = region.axis, region.inside[-1]
    last = {arg.place: node.place for node in region.inside for arg in node.args}
    inside = {node.place for node in region.inside}
    spare = {
        node.place: [
            arg.place in inside and arg.kind in FRESH and last[arg.place] == node.place
            and node.args.count(arg) == 1 for arg in node.args
        ]
        for node in region.inside
    }  # fmt: skip
    cut = {arg.place: arg.axes.index(axis) for arg in region.outside if axis in arg.axes}
    at = None if region.summed else root.axes.index(axis)
    for part in blocks(region):
        values = {
            place: block(value, cut[place], part) if place in cut else value
            for place, value in given.items()
        }
        for node in region.inside:
            args = [values[arg.place] for arg in node.args]
            for arg in node.args:
                if last[arg.place] == node.place:
                    values.pop(arg.place, None)
            values[node.place] = meaning.step(node, args, spare[node.place])
        yield part, at, values.pop(root.place)
