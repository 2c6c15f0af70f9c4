"""A sub-expression that makes the formulas shorter, and a name for it.

``((x @ w + b - t)**2).mean()`` has the gradients ``2·(xᵀ @ r)/N`` and ``2·sum(r)/N`` with ``r = x @ w + b
− t``, as a textbook prints them; spelled out, each formula repeats the whole sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sympy

from gradexplain.formula.kinds import label_of
from gradexplain.formula.local import RESULT, local_rule
from gradexplain.graph import Graph, Node, fact, refs
from gradexplain.routes.names import free_name, own_texts

#: Larger programs have names of their own.
_MOST = 24

#: A sum, or a call, of fewer characters needs no name.
_LONG, _CALL = 9, 12

#: What such a value is called: a residual, what goes into an activation, what comes out of one.
_NAMES = {"-": ("r", "u", "q"), "": ("z", "u", "q"), "call": ("a", "u", "q")}


@fact
def shared(graph: Graph, wanted: Sequence[str]) -> tuple[int, str] | None:
    """The value to name and its name: the unnamed one of at least two inputs, nearest to the output,
    that the derivatives on the way to it speak of; None without one."""
    if len(graph.nodes) > _MOST:
        return None
    reach, needed = graph.reach(wanted), graph.needed()
    on_the_way = [n for n in graph.nodes if n.id in reach & needed and n.op is not None]
    texts = own_texts(graph, 200)
    for node in reversed(on_the_way):
        leaves = [
            n for n in graph.leaves if n.label in wanted and node.id in graph.reach([n.label])
        ]
        infix = node.op is not None and node.op.infix
        long = len(texts[node.id]) >= (_LONG if infix else _CALL)
        if node.named or node.id == graph.output or len(leaves) < 2 or not long:
            continue
        if infix and any(graph[i].is_literal for i in node.inputs):
            continue  # 1 + exp(x) says what it is
        users = [n for n in on_the_way if node.id in n.inputs]
        by = [node, *users] if infix else [node]
        if any(_speaks(n, node.id, graph) for n in by):
            kind = "-" if " - " in texts[node.id] else "" if infix else "call"
            return node.id, free_name(graph, *_NAMES[kind])
    return None


def _speaks(node: Node, of: int, graph: Graph) -> bool:
    """Whether the derivative of an operation has its result in it, or the argument it is taken by."""
    found = local_rule(node, graph).contributions
    taken, label = found, RESULT
    if of != node.id:
        place = list(dict.fromkeys(ref.id for ref in refs(node.args))).index(of)
        taken, label = found[place : place + 1], f"a{place}"
    return any(
        label_of(atom) == label for formula in taken if formula is not None
        for atom in formula.atoms(sympy.Indexed, sympy.Symbol)
    )  # fmt: skip


@fact
def named(graph: Graph, id: int, label: str) -> Graph:
    """``graph`` with a name for a node."""
    nodes = tuple(replace(n, label=label, named=True) if n.id == id else n for n in graph.nodes)
    return replace(graph, nodes=nodes)
