"""Gradients as values of a graph, and the pass that differentiates a backward pass again.

With ``create_graph=True`` PyTorch records the backward pass while it runs.  `stepped` makes that graph
(`gradexplain.adjoint`); `closed` makes each gradient one value, by its closed form.  Both are plain
graphs, so everything that explains a graph explains them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradexplain.adjoint import adjoint, moving
from gradexplain.engine import Problem, Run, explanation_of
from gradexplain.explanation import BackwardRow, Check, Note, Second
from gradexplain.formula.values import NOWHERE, element_sum, formula_node, term
from gradexplain.graph import Graph, Node
from gradexplain.routes.calls import Part, Shared
from gradexplain.routes.pytorch import Asked
from gradexplain.routes.second import SecondQuestion


@dataclass(frozen=True, slots=True)
class Gradients:
    """A graph that goes on to gradients: ``of[label]`` is the id of ``∂L/∂label``."""

    graph: Graph
    of: Mapping[str, int]

    def at(self, id: int) -> Graph:
        return replace(self.graph, output=id)

    def summed(self, leaves: Sequence[Node], label: str, weight: str = "") -> Graph:
        """The graph with ``label = Σ weight·x.grad`` over every leaf at its end; without a weight the
        plain sum.  The weights are inputs, ``weight.x`` where there are several."""
        nodes = list(self.graph.nodes)
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
        return replace(self.graph, nodes=tuple(nodes), output=len(nodes) - 1)


def stepped(graph: Graph, wanted: Sequence[str], v_name: str | None) -> Gradients:
    """The backward pass, one value for each gradient on the way; v is 1 where it has no name."""
    made = adjoint(graph, wanted, v_name)
    return Gradients(made.graph, {graph[id].label: g for id, g in made.gradients.items()})


def closed(run: Run, v_name: str | None) -> Gradients | None:
    """The graph with each wanted leaf's gradient as one value, by its closed form.

    None where a gradient has no single formula.
    """
    if any(run.closed.is_long(leaf) for leaf in run.leaves):
        return None
    nodes = [moving(node) for node in run.graph.nodes]
    if v_name is not None:
        nodes.append(Node(len(nodes), v_name, True, None, (), run.graph.out.shape, NOWHERE))
    ids: dict[str, int | None] = {node.label: node.id for node in nodes}
    if v_name is None:
        ids[run.explanation.grad.name] = None
    gradients = {}
    for leaf in run.leaves:
        formula, places = run.closed.gradient_here(leaf)
        found = term(formula, places, ids)
        gradients[leaf.label] = len(nodes)
        nodes.append(
            formula_node(
                nodes, f"{leaf.label}.grad", [found], leaf.shape, named=False, show=lambda: ""
            )
        )
    return Gradients(Graph(run.graph.source, tuple(nodes), len(nodes) - 1), gradients)


def free_label(graph: Graph, *choices: str) -> str:
    """The first of ``choices`` that no value has, or one with primes."""
    taken = {node.label for node in graph.nodes}
    for name in choices:
        if name not in taken:
            return name
    name = choices[0]
    while name in taken:
        name += "′"
    return name


# -- run --order 2 ----------------------------------------------------------------------------


@dataclass(slots=True)
class SecondPass:
    """The derivative of the first backward pass: of ``S = Σ x.grad`` over every wanted input."""

    shared: Shared | None

    @classmethod
    def added_to(cls, problem: Problem) -> Problem:
        """``problem`` with its second pass."""
        if not problem.check:
            return replace(problem, extra=cls(None))
        between = Run(replace(problem, check=False)).between
        question = SecondQuestion(problem.question(tuple(node.label for node in between)))
        shared = Shared(Asked(question))
        first = Part(shared, lambda answer: answer.first, last=True)
        return replace(problem, extra=cls(shared), asked=first)

    def begin(self, run: Run) -> None:
        """Nothing: the first pass is explained as it always is."""

    def further(self, run: Run) -> list[Check]:
        problem = run.problem
        implicit = problem.v_source == "implicit"
        v_name = run.explanation.grad.name
        made = adjoint(run.graph, problem.wanted, None if implicit else v_name)
        label = free_label(run.graph, "S", "M", "T")
        if not made.gradients:
            return []
        of = {run.graph[id].label: g for id, g in made.gradients.items()}
        total = Gradients(made.graph, of).summed(run.leaves, label)
        values = dict(problem.values)
        if not implicit:
            values[v_name] = problem.v
        asked = None
        if self.shared is not None:
            asked = Part(self.shared, lambda answer: answer.second)
        second = explanation_of(
            Problem(
                total, values, np.ones(()), problem.wanted, problem.dtype, problem.check,
                v_source="implicit", scalar=True, asked=asked,
            )
        )  # fmt: skip
        for stop in second.stops:
            if stop.input == v_name:
                stop.kind = "constant"
                stop.reason = f"{v_name} is the argument of backward: a constant here"
        rows = {row.node: row for row in second.forward}
        run.explanation.second = Second(
            label,
            total.out.op.show(),  # type: ignore[union-attr, misc]
            [
                BackwardRow(
                    made.graph[id].label, *made.text(value), made.graph[id].shape,
                    rows[made.graph[id].label].value,
                )
                for value, id in made.gradients.items()
                if made.graph[id].label in rows
            ],
            second,
        )  # fmt: skip
        run.explanation.notes.append(_note(label))
        run.explanation.notes += [n for n in second.notes if n.kind in ("kink", "infinity")]
        return [] if second.check is None else [second.check]


def _note(label: str) -> Note:
    return Note(
        "create_graph",
        "backward(create_graph=True) records the backward pass as it runs: each .grad is then a "
        f"value with a history, and {label}.backward() goes through that history, through the "
        "upstream gradients as well as through the forward values in the local derivatives.",
    )
