"""Gradients as values of a graph, by the chain rule and by their closed forms.

With ``create_graph=True`` PyTorch records the backward pass while it runs.  `stepped` makes that graph
(`gradexplain.adjoint`); `closed` makes each gradient one value, by its closed form.  Both are plain
graphs, so everything that explains a graph explains them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradexplain.adjoint import Adjoint, adjoint, moving
from gradexplain.explaining.running import Run
from gradexplain.explanation import Array
from gradexplain.formula.sizes import Sizes
from gradexplain.formula.values import NOWHERE, element_sum, formula_node, term
from gradexplain.graph import Graph, Node
from gradexplain.problem import Problem
from gradexplain.routes.calls import Part
from gradexplain.routes.closed import ClosedForm
from gradexplain.routes.double import Pass, Recorded, SecondQuestion
from gradexplain.routes.pytorch import Asked


@dataclass(frozen=True, slots=True)
class Gradients:
    """A graph that goes on to gradients: ``of[label]`` is the id of ``∂L/∂label``.

    ``made`` is the backward pass, where it goes through it; ``sizes`` has the same graph at sizes that
    are letters, where it holds at every size.
    """

    graph: Graph
    of: Mapping[str, int]
    made: Adjoint | None = None
    sizes: Sizes | None = None

    def form(self, id: int, values: Mapping[str, Array], v: Array, *, exact: bool) -> ClosedForm:
        """The closed forms of the value ``id``."""
        sizes = self.sizes and replace(self.sizes, graph=self.sizes.graph.at(id))
        return ClosedForm(self.graph.at(id), values, v, exact=exact, sizes=sizes)

    def summed(self, leaves: Sequence[Node], label: str, weight: str = "") -> Graph:
        """The graph with ``label = Σ weight·x.grad`` over every leaf at its end; without a weight the
        plain sum.  The weights are inputs, ``weight.x`` where there are several."""
        return self._summed(self.graph, leaves, label, weight)

    def with_sum(self, leaves: Sequence[Node], label: str, weight: str) -> Gradients:
        """These with the sum at the end of the graph."""
        wide = self.sizes and replace(
            self.sizes, graph=self._summed(self.sizes.graph, leaves, label, weight)
        )
        return replace(self, graph=self.summed(leaves, label, weight), sizes=wide)

    def _summed(self, graph: Graph, leaves: Sequence[Node], label: str, weight: str) -> Graph:
        nodes = list(graph.nodes)
        leaves = [nodes[leaf.id] for leaf in leaves]
        weights = {}
        for leaf in leaves if weight else ():
            name = weight if len(leaves) == 1 else f"{weight}.{leaf.label}"
            weights[leaf.label] = len(nodes)
            nodes.append(Node(len(nodes), name, True, None, (), leaf.shape, NOWHERE))
        terms, shown = [], []
        for leaf in leaves:
            if leaf.label not in self.of:
                continue
            names: dict[str, int | None] = {"x": self.of[leaf.label]}
            text = f"{leaf.label}.grad" + (".sum()" if leaf.shape else "")
            if weight:
                names["u"] = weights[leaf.label]
                text = f"({nodes[weights[leaf.label]].label}*{leaf.label}.grad).sum()"
            terms.append(term(element_sum(leaf.shape, *names), (), names))
            shown.append(text)
        nodes.append(
            formula_node(nodes, label, terms, (), named=True, show=lambda: " + ".join(shown))
        )
        return replace(graph, nodes=tuple(nodes), output=len(nodes) - 1)


def recorded(
    graph: Graph,
    made: Adjoint,
    total: Graph,
    v: Array,
    weight: str = "",
    u: Mapping[str, Array] | None = None,
) -> Recorded:
    """The backward pass ``made`` of ``graph`` and the sum at the end of ``total``, as PyTorch is asked
    for them."""
    passes = []
    parts = graph.parts().keys()
    leaves = {} if made.upstream is None else {made.upstream: v}
    for id, gradient in made.gradients.items():
        sent = tuple(
            (c.node.id, id, made.gradients.get(c.node.id, made.upstream)) for c in made.sent_to(id)
        )
        if sent:
            inputs = total[gradient].inputs
            read = {i for n, *_ in sent for i in graph[n].inputs if not graph[i].is_literal}
            again = {*inputs} & ({n for n, *_ in sent} | parts)
            for id in sorted(graph.parts(), reverse=True):  # a part may read another
                again |= {*graph[id].inputs} & parts if id in again else set()
            passes.append(Pass(gradient, tuple({*inputs, *read}), sent, again=frozenset(again)))
    sums = []
    for id in total.out.inputs:
        if total[id].is_leaf and id != made.upstream:
            continue
        label = next(graph[n].label for n, g in made.gradients.items() if g == id)
        name = next((n for n in (weight, f"{weight}.{label}") if weight and total.by_label(n)), "")
        node = total.by_label(name) if name else None
        if node is not None and u is not None:
            leaves[node.id] = u[label]
        sums.append((id, None if node is None else node.id))
    passes.append(Pass(total.output, total.out.inputs, sums=tuple(sums)))
    return Recorded(tuple(passes), leaves)


def stepped(graph: Graph, wanted: Sequence[str], v_name: str | None) -> Gradients:
    """The backward pass, one value for each gradient on the way; v is 1 where it has no name."""
    made = adjoint(graph, wanted, v_name)
    return Gradients(made.graph, {graph[id].label: g for id, g in made.gradients.items()}, made)


def asked(
    problem: Problem,
    steps: Gradients,
    total: Graph,
    weight: str = "",
    u: Mapping[str, Array] | None = None,
    *,
    retain: tuple[str, ...] = (),
    whole: bool = False,
) -> tuple[Problem, Asked, Mapping[int, Pass]]:
    """``problem`` as the first part of what PyTorch is asked of both passes, that question, and the
    values of the recorded pass by id."""
    assert steps.made is not None
    passes = recorded(problem.graph, steps.made, total, problem.v, weight, u)
    shared = Asked(SecondQuestion(problem.question(retain), passes, u, whole))
    first = Part(shared, lambda answer: answer.first, last=True)
    return replace(problem, asked=first), shared, {one.id: one for one in passes.passes if one.sent}


def closed(run: Run, v_name: str | None) -> Gradients | None:
    """The graph with each wanted leaf's gradient as one value, by its closed form.

    None where a gradient has no single formula.
    """
    form = run.closed
    if any(form.is_long(leaf) for leaf in run.leaves):
        return None
    gradients: dict[str, int] = {}

    def made(graph: Graph, formula: Callable[[Node], Any]) -> Graph:
        nodes = [moving(node) for node in graph.nodes]
        if v_name is not None:
            nodes.append(Node(len(nodes), v_name, True, None, (), graph.out.shape, NOWHERE))
        ids: dict[str, int | None] = {node.label: node.id for node in nodes}
        if v_name is None:
            ids[run.explanation.grad.name] = None
        for leaf in run.leaves:
            shape = graph[leaf.id].shape
            found = term(formula(leaf), form.calculus.indices(shape, "d"), ids)
            gradients[leaf.label] = len(nodes)
            nodes.append(
                formula_node(
                    nodes, f"{leaf.label}.grad", [found], shape, named=False, show=lambda: ""
                )
            )
        return Graph(graph.source, tuple(nodes), len(nodes) - 1)

    here = made(run.graph, form.gradient_here)
    sizes = form.sizes and replace(form.sizes, graph=made(form.sizes.graph, form.gradient))
    return Gradients(here, gradients, sizes=sizes)
