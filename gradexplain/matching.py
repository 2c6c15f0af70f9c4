"""Whether a value of a graph is an instance of a pattern, which is a graph itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradexplain.graph import Graph, Node, refs
from gradexplain.ops.base import normal_dims

_COMMUTATIVE = ("add", "mul")

#: What each node of a pattern is in the graph, by their ids.
Found = Mapping[int, int]


def instance(
    pattern: Graph, graph: Graph, node: Node, *, names: bool = False, dims: bool = True
) -> Found | None:
    """``node`` as an instance of ``pattern``, None if it is none.

    A leaf of the pattern stands for any value, the same one wherever it is written; a sum and a
    product match either way round, options must be equal.  With ``names`` values inside may have
    names of the user's own; without ``dims`` the option ``dim`` is not compared.
    """

    def match(p: Node, n: Node, found: Found) -> Found | None:
        if p.is_leaf:
            return {**found, p.id: n.id} if found.get(p.id, n.id) == n.id else None
        if p.is_literal or p.op is None:
            same = n.op is None and not n.is_leaf and np.array_equal(n.value, p.value)
            return found if same else None
        if n.op is None or p.op.name != n.op.name or (n.named and not names and n is not node):
            return None
        theirs, ours = ([ref.id for ref in refs(m.args)] for m in (p, n))
        if len(theirs) != len(ours) or len(p.args) != len(n.args) or not same_options(p, n):
            return None
        for order in [ours, ours[::-1]] if n.op.name in _COMMUTATIVE else [ours]:
            trial: Found | None = {**found, p.id: n.id}
            for a, b in zip(theirs, order, strict=True):
                trial = None if trial is None else match(pattern[a], graph[b], trial)
            if trial is not None:
                return trial
        return None

    def same_options(p: Node, n: Node) -> bool:
        assert n.op is not None
        for parameter, theirs, ours in zip(n.op.parameters, p.args, n.args, strict=True):
            if parameter.is_tensor or parameter.is_aux or (parameter.name == "dim" and not dims):
                continue
            if parameter.name == "dim" and theirs != ours:
                ranks = len(pattern[p.inputs[0]].shape), len(graph[n.inputs[0]].shape)
                theirs, ours = map(normal_dims, (theirs, ours), ranks)
            if theirs != ours:
                return False
        return True

    return match(pattern.out, node, {})
