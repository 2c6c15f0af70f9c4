"""Numbers that decide how a text goes on: a loop's condition, a leaf that was changed by its gradient.

PyTorch computes them, as it would have while the text ran.  They are part of the question: no answer
is made of them.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain.errors import GradexplainError, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node, Ref
from gradexplain.plan.arrays import to_float
from gradexplain.routes.pytorch import (
    ERRORS,
    Answer,
    Asked,
    Question,
    refusal,
    tensors_of,
    to_array,
)

#: A larger program is shown at the first point; at a larger value a matrix was all but singular.
_TRIED, _LARGE = 10_000, 1e9
_NOISE = 1e-12

_COMPARED = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}

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
    """`gradexplain.reading.session.Numbers` by PyTorch; a point is tried by the chain rule's forward."""

    def suits(self, graph: Graph, leaves: Mapping[str, Array]) -> bool:
        if all(_is_safe(node, leaves, graph) for node in graph.nodes if node.op is not None):
            return True
        if sum(math.prod(node.shape) for node in graph.nodes) > _TRIED:
            return True
        from gradexplain.routes.chain import ChainRule  # SymPy is loaded where a point is tried
        from gradexplain.routes.singular import singular_nodes
        from gradexplain.verdict import compare

        wanted = [node.label for node in graph.leaves if not node.integer]
        try:
            chain = ChainRule(graph, leaves, exact=False)
            for id, (value, size) in chain.forward.items():  # a rounding from a kink is a kink
                chain.forward[id] = compare.settled(to_float(value), size, _NOISE), size
            sizes = [abs(value).max(initial=0) for value, _ in chain.forward.values()]
            return not singular_nodes(graph, chain, wanted) and max(sizes) < _LARGE
        except GradexplainError:
            return False

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


def _is_safe(node: Node, leaves: Mapping[str, Array], graph: Graph) -> bool:
    """Whether an operation is known to have a value and a derivative, without trying."""
    op = node.op
    assert op is not None
    if op.singular_at is not None or op.family == "linear algebra":
        return False
    given = dict(zip((parameter.name for parameter in op.parameters), node.args, strict=True))
    for condition in op.singular:
        found = re.fullmatch(r"(\w+) (<=|>=|==) (-?\d+)", condition)
        arg = given.get(found[1]) if found else None
        value = leaves.get(graph[arg.id].label) if isinstance(arg, Ref) else arg
        if found is None or value is None or np.any(_COMPARED[found[2]](value, float(found[3]))):
            return False
    return True
