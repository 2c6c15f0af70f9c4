"""A program carried out: operation by operation, what is large in blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from gradexplain.plan.arrays import block, joined
from gradexplain.plan.blocks import Region, arguments, blocks, schedule
from gradexplain.plan.program import Node

#: Kinds whose value is an array of its own.
_FRESH = ("map", "select", "contract")


class Interpretation(Protocol):
    """What an operation means: its value from those of its arguments."""

    #: Whether its values need so much beside them that blocks are faster than whole arrays.
    cut: bool

    def step(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        """``spare[k]``: the k-th argument is nobody else's and is not needed afterwards."""


def run(root: Node, interpretation: Interpretation) -> Any:
    """The value of ``root``; what is not needed any more is let go at once."""
    plan = schedule(root, interpretation.cut)
    uses = Counter(plan.uses)
    values: dict[int, Any] = {}
    for node in plan.order:
        given = {arg.place: values[arg.place] for arg in arguments(node, plan)}
        region = plan.regions.get(node.place)
        spare = [uses[arg.place] == 1 and arg.kind in _FRESH for arg in node.args]
        for arg in arguments(node, plan):
            uses[arg.place] -= 1
            if not uses[arg.place]:
                values.pop(arg.place, None)
        if region is None:
            args = [given[arg.place] for arg in node.args]
            del given
            values[node.place] = interpretation.step(node, args, spare)
        else:
            values[node.place] = _in_blocks(region, given, interpretation)
    return values[root.place]


def _in_blocks(region: Region, given: Mapping[int, Any], meaning: Interpretation) -> Any:
    axis, root = region.axis, region.inside[-1]
    last = {arg.place: node.place for node in region.inside for arg in node.args}
    inside = {node.place for node in region.inside}
    spare = {
        node.place: [
            arg.place in inside and arg.kind in _FRESH and last[arg.place] == node.place
            and node.args.count(arg) == 1 for arg in node.args
        ]
        for node in region.inside
    }  # fmt: skip
    cut = {arg.place: arg.axes.index(axis) for arg in region.outside if axis in arg.axes}
    at = None if region.summed else root.axes.index(axis)
    whole = None
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
        whole = joined(root, whole, values.pop(root.place), at, part)
    return whole
