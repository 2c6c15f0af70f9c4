"""``run --order 2``: the first backward pass, which is a graph, is differentiated in its turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gradexplain.adjoint import Adjoint, adjoint
from gradexplain.engine import Run, explanation_of
from gradexplain.explanation import BackwardRow, Check, Note, Second
from gradexplain.graph import Graph
from gradexplain.problem import Problem
from gradexplain.routes.calls import Part, Shared
from gradexplain.routes.double import SecondQuestion
from gradexplain.routes.names import free_name, free_names
from gradexplain.routes.pytorch import Asked
from gradexplain.second.gradients import Gradients, recorded


@dataclass(slots=True)
class SecondPass:
    """The derivative of the first backward pass: of ``S = Σ x.grad`` over every wanted input."""

    made: Adjoint
    label: str
    v_name: str
    total: Graph | None
    again: Mapping[int, frozenset[int]]
    shared: Shared | None = None

    @classmethod
    def added_to(cls, problem: Problem) -> Problem:
        """``problem`` with its second pass."""
        graph, implicit = problem.graph, problem.v_source == "implicit"
        v_name, _ = free_names(graph)
        made = adjoint(graph, problem.wanted, None if implicit else v_name)
        label = free_name(graph, "S", "M", "T")
        if not made.gradients:
            return replace(problem, extra=cls(made, label, v_name, None, {}))
        leaves = [n for n in graph.leaves if n.label in problem.wanted and not n.integer]
        of = {graph[id].label: g for id, g in made.gradients.items()}
        total = Gradients(made.graph, of).summed(leaves, label)
        passes, again = recorded(graph, made, total, problem.v)
        extra = cls(made, label, v_name, total, again)
        if not problem.check:
            return replace(problem, extra=extra)
        between = Run(replace(problem, check=False)).between
        question = problem.question(tuple(node.label for node in between))
        extra.shared = Shared(Asked(SecondQuestion(question, passes)))
        first = Part(extra.shared, lambda answer: answer.first, last=True)
        return replace(problem, extra=extra, asked=first)

    def begin(self, run: Run) -> None:
        """Nothing: the first pass is explained as it always is."""

    def further(self, run: Run) -> list[Check]:
        problem, made, label, v_name = run.problem, self.made, self.label, self.v_name
        implicit, total = problem.v_source == "implicit", self.total
        if total is None:
            return []
        values = dict(problem.values)
        if not implicit:
            values[v_name] = problem.v
        asked = None
        if self.shared is not None:
            asked = Part(self.shared, lambda answer: answer.second)
        second = explanation_of(
            Problem(
                total, values, np.ones(()), problem.wanted, problem.dtype, problem.check,
                v_source="implicit", scalar=True, asked=asked, again=self.again,
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
