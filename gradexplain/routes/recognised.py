"""Operations that a program spells in others: ``1/(1 + exp(-x))`` is a sigmoid.

The closed form is derived with the operation's own record, whose derivative is the one that a textbook
prints (``y·(1 − y)``); the chain rule and PyTorch go through the program as it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from gradexplain.graph import Graph, Ref
from gradexplain.matching import instance
from gradexplain.ops.base import Op, all_ops
from gradexplain.reading.language import read
from gradexplain.reading.syntax import parse


def recognised(graph: Graph) -> Graph:
    """``graph`` with one operation for every value that spells it; names and numbers stay.

    What the user gave a name inside such a spelling is wanted as it is: there nothing is put.
    """
    nodes = list(graph.nodes)
    for node in graph.nodes:
        if node.op is None or node.op.name not in _roots():
            continue
        for op, dim, pattern in _patterns(len(node.shape)):
            found = instance(pattern, graph, node)
            if found is not None:
                source = graph[found[pattern.leaves[0].id]]
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
