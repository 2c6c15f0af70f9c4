"""``run --order 2``: the first backward pass, which is a graph, is differentiated in its turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from gradexplain.adjoint import Adjoint
from gradexplain.explaining.engine import explanation_of
from gradexplain.explaining.running import Run
from gradexplain.explanation import BackwardRow, Check, Note, Second
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape
from gradexplain.problem import Problem
from gradexplain.routes.calls import Part
from gradexplain.routes.double import Pass
from gradexplain.routes.names import free_name, free_names
from gradexplain.routes.pytorch import Asked
from gradexplain.second.gradients import asked, stepped


@dataclass(slots=True)
class SecondPass:
    """The derivative of the first backward pass: of ``S = Σ x.grad`` over every wanted input."""

    made: Adjoint
    label: str
    v_name: str
    total: Graph | None = None
    again: Mapping[int, Pass] = field(default_factory=dict)
    shared: Asked | None = None

    @classmethod
    def added_to(cls, problem: Problem) -> tuple[Problem, SecondPass]:
        """``problem`` as the first part of what PyTorch is asked, and its second pass."""
        graph, implicit = problem.graph, problem.v_source == "implicit"
        v_name, _ = free_names(graph)
        steps = stepped(graph, problem.wanted, None if implicit else v_name)
        assert steps.made is not None
        extra = cls(steps.made, free_name(graph, "S", "M", "T"), v_name)
        if steps.of:
            leaves = [n for n in graph.leaves if n.label in problem.wanted and not n.integer]
            extra.total = total = steps.summed(leaves, extra.label)
            if problem.check:
                between = tuple(n.label for n in Run(replace(problem, check=False)).between)
                problem, extra.shared, extra.again = asked(problem, steps, total, retain=between)
        return problem, extra

    def _reread(self, problem: Problem, shapes: Mapping[str, Shape]) -> Graph:
        """The sum of every gradient, with the inputs in other shapes."""
        assert problem.reread is not None
        graph = problem.reread(shapes)
        implicit = problem.v_source == "implicit"
        steps = stepped(graph, problem.wanted, None if implicit else self.v_name)
        return steps.summed(
            [n for n in graph.leaves if n.label in problem.wanted and not n.integer], self.label
        )

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
        part = None
        if self.shared is not None:
            part = Part(self.shared, lambda answer: answer.second)
        second = explanation_of(
            Problem(
                total, values, np.ones(()), problem.wanted, problem.dtype, problem.check,
                v_source="implicit", scalar=True, asked=part, again=self.again,
                reread=problem.reread and partial(self._reread, problem),
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
