"""Numbers that decide how a text goes on: a loop's condition, a leaf that was changed by its gradient.

PyTorch computes them, as it would have while the text ran.  They are part of the question: no answer
is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain.errors import UnsupportedError
from gradexplain.explanation import Array
from gradexplain.graph import Graph
from gradexplain.routes.pytorch import (
    ERRORS,
    Answer,
    Asked,
    Question,
    refusal,
    tensors_of,
    to_array,
)

_REMEDY = (
    "shorten the loop (the formulas of a turn are the same), write the number itself, or run the script "
    "with gradexplain trace"
)


@dataclass(frozen=True, slots=True)
class ValueQuestion:
    """The output's elements."""

    graph: Graph
    values: Mapping[str, Array]
    dtype: str

    def ask(self) -> Answer:
        import torch

        try:
            with torch.no_grad():
                tensors = tensors_of(torch, self.graph, self.values, (), self.dtype)
        except ERRORS as error:
            return Answer({}, refusal(error, "compute"))
        found = tensors[self.graph.output]
        if not isinstance(found, torch.Tensor):
            found = torch.tensor(found, dtype=torch.float64)
        return Answer({"": to_array(torch, found)})


@dataclass(frozen=True, slots=True)
class StepQuestion:
    """A parameter after one step of an optimizer, by that optimizer."""

    kind: str
    options: Mapping[str, Any]
    value: Array
    grad: Array
    state: Mapping[str, Array]
    dtype: str

    def ask(self) -> Answer:
        import torch

        dtype = getattr(torch, self.dtype)
        parameter = torch.tensor(self.value, dtype=dtype, requires_grad=True)
        parameter.grad = torch.tensor(self.grad, dtype=dtype)
        try:
            optimizer = getattr(torch.optim, self.kind)([parameter], **self.options)
            for name, kept in self.state.items():
                kind = torch.float32 if name == "step" else dtype
                optimizer.state[parameter][name] = torch.tensor(kept, dtype=kind)
            optimizer.step()
        except ERRORS as error:
            return Answer({}, refusal(error, "step by"))
        state = optimizer.state[parameter]
        found = {k: to_array(torch, t) for k, t in state.items() if isinstance(t, torch.Tensor)}
        return Answer({**found, "": to_array(torch, parameter)})


class Replay:
    """`gradexplain.reading.session.Numbers` by PyTorch."""

    def value(self, graph: Graph, leaves: Mapping[str, Array], dtype: str) -> Array:
        found = self._asked(ValueQuestion(graph, leaves, dtype))[""]
        assert found is not None
        return found

    def gradients(
        self,
        graph: Graph,
        leaves: Mapping[str, Array],
        dtype: str,
        v: Array | None,
        wanted: Sequence[str],
    ) -> Mapping[str, Array | None]:
        v = np.ones(graph.out.shape) if v is None else v
        inputs = [n.label for n in graph.leaves if not n.integer]
        computed = tuple(name for name in wanted if name not in inputs)
        return self._asked(Question(graph, leaves, v, tuple(inputs), dtype, computed))

    def step(
        self,
        kind: str,
        options: Mapping[str, Any],
        value: Array,
        grad: Array,
        state: Mapping[str, Array],
        dtype: str,
    ) -> Mapping[str, Array]:
        found = self._asked(StepQuestion(kind, options, value, grad, state, dtype))
        return {name: array for name, array in found.items() if array is not None}

    def _asked(
        self, question: ValueQuestion | Question | StepQuestion
    ) -> Mapping[str, Array | None]:
        answer: Answer = Asked(question).answer()
        if answer.error:
            raise UnsupportedError(
                f"the text depends on a number that is computed in it: {answer.error}",
                remedy=_REMEDY,
            )
        return answer.gradients
