"""Known ways of writing what loses digits so that it does not.

A row is a pattern in the language of expressions, and what to write instead; letters stand for any
value.  Both sides are equal wherever both are defined, which the tests prove.

Sources: Goldberg 1991, *What Every Computer Scientist Should Know About Floating-Point Arithmetic*;
Higham, *Accuracy and Stability of Numerical Algorithms*, chapters 1, 2 and 27; the PyTorch
documentation of the functions named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from gradexplain.graph import Graph, Node, labels_of, refs

#: ``(pattern, rewrite)``; the more special of two comes first.
TABLE: tuple[tuple[str, str], ...] = (
    ("exp(a) - 1", "torch.expm1(a)"),
    ("log(1 + a)", "torch.log1p(a)"),
    ("log(1 + exp(a))", "F.softplus(a)"),
    ("log(exp(a).sum())", "torch.logsumexp(a, …)"),
    ("log(exp(a) + exp(b))", "torch.logaddexp(a, b)"),
    ("exp(a) / exp(a).sum()", "torch.softmax(a, …)"),
    ("log(softmax(a, 0))", "torch.log_softmax(a, …)"),
    ("log(sigmoid(a))", "F.logsigmoid(a)"),
    ("1 / (1 + exp(-a))", "torch.sigmoid(a)"),
    ("sqrt(a*a + b*b)", "torch.hypot(a, b)"),
    ("sqrt(a**2 + b**2)", "torch.hypot(a, b)"),
    ("sqrt((a*a).sum())", "torch.linalg.vector_norm(a)"),
    ("sqrt((a**2).sum())", "torch.linalg.vector_norm(a)"),
    ("sqrt(a + b) - sqrt(a)", "b/(sqrt(a + b) + sqrt(a))"),
    ("sqrt(a) - sqrt(b)", "(a - b)/(sqrt(a) + sqrt(b))"),
    ("a**2 - b**2", "(a - b)*(a + b)"),
    ("a*a - b*b", "(a - b)*(a + b)"),
    ("1 - cos(a)", "2*sin(a/2)**2"),
    ("exp(a) - exp(b)", "exp(b)*torch.expm1(a - b)"),
    ("log(a) - log(b)", "log(a/b)"),
    ("1/a - 1/b", "(b - a)/(a*b)"),
)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A value that is better written otherwise: the node, and both ways in the graph's names."""

    node: Node
    written: str
    instead: str


def rewrites(graph: Graph, through: Node) -> Iterator[Rewrite]:
    """The known rewrites of values that ``through`` is a part of, the largest pattern first."""
    texts = labels_of(graph)
    found = []
    for node in graph.nodes:
        if node.op is None:
            continue
        for pattern, instead in TABLE:
            shape = _pattern(pattern)
            bound: dict[str, int] = {}
            inside: set[int] = set()
            if _unify(shape, shape.out, graph, node, bound, inside) and through.id in inside:
                size = len(inside)
                names = {letter: texts[id] for letter, id in bound.items()}
                found.append((size, Rewrite(node, _put(pattern, names), _put(instead, names))))
    found.sort(key=lambda pair: -pair[0])
    yield from (rewrite for _, rewrite in found)


def _put(template: str, names: Mapping[str, str]) -> str:
    import re

    def name(match: re.Match[str]) -> str:
        text = names.get(match[0], match[0])
        return text if text.isidentifier() else f"({text})" if " " in text else text

    return re.sub(r"\b[ab]\b", name, template)


@lru_cache(maxsize=64)
def _pattern(text: str) -> Graph:
    from gradexplain.reading.language import read
    from gradexplain.reading.syntax import parse

    return read(parse(text), lambda _: (), lambda _: None, "float64")


def _unify(
    pattern: Graph, p: Node, graph: Graph, node: Node, bound: dict[str, int], inside: set[int]
) -> bool:
    """Whether ``node`` is an instance of ``p``; the values of its letters go to ``bound``, the
    operations of it to ``inside``.  Options, such as dims, are not looked at."""
    if p.is_leaf:
        return bound.setdefault(p.label, node.id) == node.id
    if p.is_literal:
        return node.is_literal and node.value == p.value
    if node.op is None or p.op is None or node.op.name != p.op.name:
        return False
    theirs, ours = ([ref.id for ref in refs(n.args)] for n in (p, node))
    if len(theirs) != len(ours):
        return False
    orders = [ours]
    if p.op.name in ("add", "mul") and len(ours) == 2:
        orders.append(ours[::-1])
    for order in orders:
        trial, seen = dict(bound), {*inside, node.id}
        if all(
            _unify(pattern, pattern[a], graph, graph[b], trial, seen)
            for a, b in zip(theirs, order, strict=True)
        ):
            bound.clear()
            bound.update(trial)
            inside.update(seen)
            return True
    return False
