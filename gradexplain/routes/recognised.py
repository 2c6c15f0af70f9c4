"""Operations that a program spells in others: ``1/(1 + exp(-x))`` is a sigmoid.

The closed form is derived with the operation's own record, whose derivative is the one that a textbook
prints (``y·(1 − y)``); the chain rule and PyTorch go through the program as it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

from gradexplain.graph import Graph, Node, Ref, refs
from gradexplain.ops.base import Op, all_ops, normal_dims
from gradexplain.reading.language import read
from gradexplain.reading.syntax import parse

_COMMUTATIVE = ("add", "mul")


def recognised(graph: Graph) -> Graph:
    """``graph`` with one operation for every value that spells it; names and numbers stay.

    What the user gave a name inside such a spelling is wanted as it is: there nothing is put.
    """
    nodes = list(graph.nodes)
    for node in graph.nodes:
        if node.op is None or node.op.name not in _roots():
            continue
        for op, dim, pattern in _patterns(len(node.shape)):
            bound: dict[str, int] = {}
            if _is(pattern, pattern.out, graph, node, bound, top=True):
                source = graph[bound["input"]]
                if source.shape == node.shape:
                    args = tuple(
                        {"input": Ref(source.id), "dim": dim}.get(p.name, p.default)
                        for p in op.parameters
                    )
                    nodes[node.id] = replace(node, op=op, args=args)
                    break
    return graph if nodes == list(graph.nodes) else replace(graph, nodes=tuple(nodes))


@lru_cache(maxsize=1)
def _roots() -> frozenset[str]:
    """The operations that a spelling may end with."""
    found = (pattern.out.op for _, _, pattern in _patterns(1))
    return frozenset(op.name for op in found if op is not None)


@lru_cache(maxsize=16)
def _patterns(rank: int) -> list[tuple[Op, int | None, Graph]]:
    """Every spelling in the records, as a graph; ``{dim}`` stands for each dim in turn."""
    return [
        (op, dim, read(parse(text.replace("{dim}", str(dim))), lambda _: (2,) * rank))
        for op in all_ops()
        for text in op.spelt
        for dim in _dims(op, text, rank)
    ]


def _dims(op: Op, text: str, rank: int) -> Iterator[int | None]:
    if all(p.name != "dim" for p in op.parameters):
        yield None
    elif "{dim}" in text:
        yield from range(rank)
    elif rank == 1:
        yield 0


def _is(
    pattern: Graph, p: Node, graph: Graph, node: Node, bound: dict[str, int], *, top: bool = False
) -> bool:
    """Whether ``node`` is an instance of ``p``; what its names stand for goes to ``bound``."""
    if p.is_leaf:
        return bound.setdefault(p.label, node.id) == node.id
    if p.is_literal:
        return node.is_literal and bool(node.value == p.value)
    if node.op is None or p.op is not node.op or (node.named and not top):
        return False
    theirs, ours = ([ref.id for ref in refs(n.args)] for n in (p, node))
    if len(theirs) != len(ours) or not _same_options(p, node, pattern, graph):
        return False
    orders = [ours, ours[::-1]] if node.op.name in _COMMUTATIVE else [ours]
    for order in orders:
        trial = dict(bound)
        if all(
            _is(pattern, pattern[a], graph, graph[b], trial)
            for a, b in zip(theirs, order, strict=True)
        ):
            bound.update(trial)
            return True
    return False


def _same_options(p: Node, node: Node, pattern: Graph, graph: Graph) -> bool:
    assert node.op is not None
    for parameter, theirs, ours in zip(node.op.parameters, p.args, node.args, strict=True):
        if parameter.is_tensor:
            continue
        if parameter.name == "dim":
            ranks = (len(g[n.inputs[0]].shape) for g, n in ((pattern, p), (graph, node)))
            dims: list[Any] = [
                normal_dims(d, rank) for d, rank in zip((theirs, ours), ranks, strict=True)
            ]
            if dims[0] != dims[1]:
                return False
        elif theirs != ours:
            return False
    return True
