"""The reverse sweep: a graph's backward pass as a graph of the same kind.

There is one sweep in the program.  What goes back through an operation is a value like any other, a
formula in forward values and in the gradient that arrives there; so the backward pass is a graph,
which the chain rule evaluates, `codegen` writes down, and whose own adjoint holds the second
derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradexplain.formula.local import RESULT, UPSTREAM, LocalRule, local_rule
from gradexplain.formula.values import NOWHERE, Term, formula_node, formula_text, term
from gradexplain.graph import Graph, Node, fact, refs


@dataclass(frozen=True, slots=True)
class Contribution:
    """What the operation ``node`` sends to ``source``, one of its inputs: ``Σ g·∂node/∂source``.

    ``rule.contributions[place]`` is the formula, in the names ``a0``, ``a1``, … of the operation's
    tensors, ``out`` of its result and ``g`` of the gradient that arrives at it; ``term`` is the same
    and knows which node of the adjoint graph each name is.
    """

    node: Node
    source: Node
    rule: LocalRule
    place: int
    term: Term


@dataclass(frozen=True, slots=True)
class Adjoint:
    """A graph with its backward pass: a value and its gradient are nodes of one graph.

    ``graph`` has the nodes of the forward pass under their own ids, then ``v`` (the id ``upstream``;
    None where it is an unmentioned 1), then one node for each value that a gradient arrives at, named
    ``x.grad``, in the order of the backward pass.  Its output is the last of them.  ``gradients`` says
    which node is the gradient of the value of an id, ``contributions`` what each gradient is the sum
    of: they stand in the order in which operations send them.
    """

    graph: Graph
    upstream: int | None
    gradients: Mapping[int, int]
    contributions: tuple[Contribution, ...]

    def sent_to(self, id: int) -> tuple[Contribution, ...]:
        """The contributions whose sum is the gradient of the value ``id``."""
        return tuple(c for c in self.contributions if c.source.id == id)

    def text(self, id: int) -> tuple[str, str]:
        """The gradient of the value ``id`` as ``[j]`` and a formula in the graph's names."""
        before = self.graph.nodes[: self.gradients[id]]
        return formula_text(before, [c.term for c in self.sent_to(id)])


@fact
def adjoint(graph: Graph, wanted: Sequence[str], upstream: str | None = None) -> Adjoint:
    """The backward pass of ``graph`` from its output to the leaves ``wanted``, as a graph.

    ``upstream`` is what the argument of ``backward``, a new leaf in the output's shape, is called;
    without it the output is a scalar and its gradient the constant 1.  The adjoint of an adjoint's
    graph (``adjoint(first.graph.at(id), …)``) holds second derivatives.  Nothing is evaluated.
    """
    nodes = [moving(node) for node in graph.nodes]
    v = None if upstream is None else len(nodes)
    if upstream is not None:
        nodes.append(Node(len(nodes), upstream, True, None, (), graph.out.shape, NOWHERE))
    on_the_way = graph.reach(wanted) & graph.needed()
    sent: dict[int, list[Term]] = {}
    gradients: dict[int, int] = {}
    arrived: dict[int, int | None] = {graph.output: v}
    contributions: list[Contribution] = []
    for node in reversed(graph.nodes):
        if node.id in sent:
            arrived[node.id] = gradients[node.id] = len(nodes)
            nodes.append(_gradient(nodes, node, sent[node.id]))
        if node.op is None or node.id not in arrived or node.id not in on_the_way:
            continue
        for contribution in sends(graph, node, arrived[node.id]):
            if contribution.source.id in on_the_way:
                sent.setdefault(contribution.source.id, []).append(contribution.term)
                contributions.append(contribution)
    if v is not None and graph.out.label in wanted:
        gradients.setdefault(graph.output, v)
    last = len(nodes) - 1
    return Adjoint(Graph(graph.source, tuple(nodes), last), v, gradients, tuple(contributions))


def sends(graph: Graph, node: Node, arrived: int | None) -> Iterator[Contribution]:
    """What ``node`` sends to each tensor that it is made from."""
    assert node.op is not None
    rule = local_rule(node, graph)
    order = list(dict.fromkeys(ref.id for ref in refs(node.args)))
    names: dict[str, int | None] = {f"a{place}": id for place, id in enumerate(order)}
    names |= {RESULT: node.id, UPSTREAM: arrived}
    for place, id in enumerate(order):
        formula: Any = rule.contributions[place]
        # What a record keeps beside its arguments is in its slope already.
        if formula is not None and id not in node.aside:
            sent = term(formula, rule.places[place], names)
            yield Contribution(node, graph[id], rule, place, sent)


def _gradient(nodes: Sequence[Node], node: Node, terms: Sequence[Term]) -> Node:
    before = len(nodes)

    def show() -> str:
        return formula_text(nodes[:before], terms)[1]

    return formula_node(nodes, f"{node.label}.grad", terms, node.shape, named=True, show=show)


def moving(node: Node) -> Node:
    """A node as a further pass sees it: a helper's value moves with its inputs.

    One pass takes a record's mean or softmax as it is: its derivative is in the record's own.
    """
    op = node.op
    if op is None or not op.stops or op.spellings or op.integer or node.integer:
        return node
    return replace(node, op=replace(op, stops=False))
