"""Values between inputs and output: the gradient that arrives there, and where it stops.

``∂L/∂h`` of a computed value ``h`` is the argument with which ``h.backward(v)`` does the rest of the
backward pass.  PyTorch forgets it unless told to ``retain_grad``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from gradexplain.explaining.running import Run
from gradexplain.explanation import Intermediate, Stop
from gradexplain.graph import Graph, Node


def intermediates(run: Run) -> dict[str, Intermediate]:
    """``∂L/∂h`` for each value of ``run.between``, by three routes."""
    from gradexplain.routes.written import Written

    made = {}
    for node in run.between:
        rest = run.graph.after(node.id)
        closed = run.closed.after(node, implicit=run.problem.v_source == "implicit")
        leaf = rest[node.id]
        shown = Written(closed).gradient(leaf)
        whole, part = _fed(run, rest, node)
        made[node.label] = Intermediate(
            node.label, shown.formula, shown.text, shown.latex, shown.where, shown.ranges,
            shape=node.shape, whole=whole, part=part, retained=node.label in run.problem.retain,
            **run.judging.routes(node, partial(closed.gradient_value, leaf)),
        )  # fmt: skip
    return made


def _fed(run: Run, rest: Graph, node: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The leaves that get their whole gradient through ``node``, and those that get a part."""
    whole: list[str] = []
    part: list[str] = []
    for leaf in run.leaves:
        if node.id not in run.graph.reach([leaf.label]):
            continue
        around = rest.output in rest.reach([leaf.label])
        (part if around else whole).append(leaf.label)
    return tuple(whole), tuple(part)


def stops(graph: Graph, wanted: Sequence[str]) -> list[Stop]:
    """Where a gradient on its way back goes no further, in the order of the backward pass."""
    reach, needed = graph.reach(wanted), graph.needed()
    found = []
    for node in reversed(graph.nodes):
        if node.op is None or node.id not in reach & needed:
            continue
        for id in dict.fromkeys(node.inputs):
            source = graph[id]
            # What a record keeps beside its arguments is not on the gradient's way.
            if id not in reach and not source.is_literal and id not in node.aside:
                found.append(Stop(node.label, source.label, *_reason(graph, source)))
    return found


def _reason(graph: Graph, source: Node) -> tuple[str, str]:
    """Why ``source`` takes no gradient: a word for programs and a sentence."""
    name = source.label
    if source.op is None:
        if source.integer:
            what = "is a mask" if graph.is_mask(source.id) else "holds integers, an index"
            return "integer", f"{name} {what}: it has no gradient"
        if source.is_leaf:
            return "not wanted", f"{name} does not require grad: it is not in --wrt"
        size = math.prod(source.shape)
        return "constant", f"{name} is a constant of {size} number{'s' * (size != 1)}"
    if source.op.stops:
        return "stopped", f"{name} = {source.op.name}(…): no gradient passes it, by intention"
    if source.integer:
        return "integer", f"{name} holds no real numbers: {source.op.name} has no gradient"
    return "not reached", f"{name} depends on no input that requires grad"
