"""A sub-expression that makes the formulas shorter, and a name for it.

``((x @ w + b - t)**2).mean()`` has the gradients ``2·(xᵀ @ r)/N`` and ``2·sum(r)/N`` with ``r = x @ w + b
− t``, as a textbook prints them; spelled out, each formula repeats the whole sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradexplain.graph import Graph, fact
from gradexplain.routes.names import free_name

#: Larger programs have names of their own.
_MOST = 24

#: What such a value is called.
_NAMES = ("r", "u", "q")


@fact
def shared(graph: Graph, wanted: Sequence[str]) -> tuple[int, str] | None:
    """The value to name and its name: an unnamed sum of at least two operations and two inputs that is
    taken to a power, and that every gradient comes through; None without one."""
    if len(graph.nodes) > _MOST:
        return None
    reach, needed = graph.reach(wanted), graph.needed()
    on_the_way = [n for n in graph.nodes if n.id in reach & needed]
    for node in reversed(on_the_way):
        users = [n for n in on_the_way if node.id in n.inputs]
        if node.op is None or node.named or node.id == graph.output or not node.op.infix:
            continue
        below = [
            n
            for n in on_the_way
            if n.op is not None and node.id != n.id and node.id in graph.downstream({n.id})
        ]
        leaves = [
            n for n in graph.leaves if n.label in wanted and node.id in graph.reach([n.label])
        ]
        if not below or len(leaves) < 2 or len(leaves) < len(set(wanted)):
            continue
        if any(n.op is not None and n.op.name == "pow" for n in users):
            return node.id, free_name(graph, *_NAMES)
    return None


@fact
def named(graph: Graph, id: int, label: str) -> Graph:
    """``graph`` with a name for a node."""
    nodes = tuple(replace(n, label=label, named=True) if n.id == id else n for n in graph.nodes)
    return replace(graph, nodes=nodes)
