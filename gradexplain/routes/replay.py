"""Numbers that decide how a text goes on: a loop's condition, a leaf that was changed by its gradient.

PyTorch computes them, as it would have while the text ran.  They are part of the question: no answer
is made of them.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gradexplain.errors import GradexplainError, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node, Ref, refs
from gradexplain.plan.arrays import to_float
from gradexplain.routes.pytorch import (
    Answer,
    Askable,
    Asked,
    Question,
    call,
    tensors_of,
    to_array,
)  # fmt: skip

#: A larger program is shown at the first point; at a larger value a matrix was all but singular.
_TRIED, _LARGE = 10_000, 1e9
#: A value is on a kink that it is nearer to than this part of what it is made from.
_NOISE = 1e-12

_COMPARED = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}

_REMEDY = (
    "shorten the loop (the formulas of a turn are the same), write the number itself, or run the script "
    "with gradexplain trace"
)


@dataclass(frozen=True, slots=True)
class ValueQuestion:
    """The output's elements."""

    verb: ClassVar[str] = "compute"
    graph: Graph
    values: Mapping[str, Array]
    dtype: str

    def ask(self) -> Answer:
        import torch

        with torch.no_grad():
            tensors = tensors_of(torch, self.graph, self.values, (), self.dtype)
        found = tensors[self.graph.output]
        if not isinstance(found, torch.Tensor):
            found = torch.tensor(found, dtype=torch.float64)
        return Answer({"": to_array(torch, found)})


@dataclass(frozen=True, slots=True)
class StepQuestion:
    """Parameters after one step of an optimizer, by that optimizer.

    Each part is ``(options, value, grad, state, dtype)``; the answer's names are ``n.name``, where the
    name of the parameter itself is "".
    """

    verb: ClassVar[str] = "step by"
    kind: str
    parts: Sequence[tuple[Any, ...]]

    def ask(self) -> Answer:
        import torch

        groups = []
        for options, value, grad, _, dtype in self.parts:
            parameter = torch.tensor(value, dtype=getattr(torch, dtype), requires_grad=True)
            parameter.grad = torch.tensor(grad, dtype=parameter.dtype)
            groups.append({**options, "params": [parameter]})
        found: dict[str, Array | None] = {}
        optimizer = getattr(torch.optim, self.kind)(groups)
        for group, (*_, state, _) in zip(groups, self.parts, strict=True):
            for name, kept in state.items():
                kind = torch.float32 if name == "step" else group["params"][0].dtype
                optimizer.state[group["params"][0]][name] = torch.tensor(kept, dtype=kind)
        optimizer.step()
        for n, group in enumerate(groups):
            state = {**optimizer.state[group["params"][0]], "": group["params"][0]}
            tensors = ((name, t) for name, t in state.items() if isinstance(t, torch.Tensor))
            found |= {f"{n}.{name}": to_array(torch, tensor) for name, tensor in tensors}
        return Answer(found)


#: `gradexplain.reading.derived.Derived` as a plain tuple, which travels without that module.
Derived = tuple[int, "int | None", tuple[int, ...], tuple["int | None", ...]]


@dataclass(frozen=True, slots=True)
class ThroughQuestion:
    """The gradients by PyTorch's double backward: a written gradient is asked of autograd instead."""

    graph: Graph
    values: Mapping[str, Array]
    dtype: str
    v: Array
    wanted: tuple[str, ...]
    derived: Sequence[Derived]

    def ask(self) -> Answer:
        import torch

        ids = {id(node.args): node.id for node in self.graph.nodes if node.op is not None}
        results = {id: d for d in self.derived for id in d[3] if id is not None}
        known: dict[Derived, Sequence[Any]] = {}

        def run(torch_: Any, op: Any, args: Any, tensors: Any, dtype: Any) -> Any:
            own = call(torch_, op, args, tensors, dtype)
            node = ids[id(args)]
            if node not in results:
                return own
            start, v, inputs, found = d = results[node]
            if d not in known:
                known[d] = torch.autograd.grad(
                    tensors[start], [tensors[i] for i in inputs], tensors.get(v),
                    create_graph=True, allow_unused=True,
                )  # fmt: skip
            return known[d][found.index(node)]

        needed = {node.id for node in self.graph.nodes}
        tensors = tensors_of(torch, self.graph, self.values, self.wanted, self.dtype, needed, run)
        output = tensors[self.graph.output]
        output.backward(torch.tensor(self.v, dtype=output.dtype))
        leaves = {n.label: tensors[n.id] for n in self.graph.leaves}
        return Answer({name: to_array(torch, leaves[name].grad) for name in self.wanted})


@dataclass(frozen=True, slots=True)
class SavedQuestion:
    """Which values each operation keeps for its backward: pairs of ids, of which the first keeps the
    second."""

    verb: ClassVar[str] = "compute"
    graph: Graph
    values: Mapping[str, Array]
    wanted: tuple[str, ...]
    dtype: str

    def ask(self) -> Answer:
        import torch

        ids = {id(node.args): node.id for node in self.graph.nodes if node.op is not None}
        pairs: list[tuple[int, int]] = []

        def run(torch_: Any, op: Any, args: Any, tensors: Any, dtype: Any) -> Any:
            kept: list[Any] = []

            def keep(tensor: Any) -> Any:
                kept.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                made = call(torch_, op, args, tensors, dtype)
            node = ids[id(args)]
            own = {node: made, **{ref.id: tensors[ref.id] for ref in refs(args)}}
            for at, tensor in own.items():
                if isinstance(tensor, torch.Tensor):
                    same = (t for t in kept if t.data_ptr() == tensor.data_ptr())
                    pairs.extend((node, at) for _ in same)
            return made

        tensors_of(torch, self.graph, self.values, self.wanted, self.dtype, run=run)
        return Answer({"": np.array(pairs or np.zeros((0, 2)))})


@dataclass(frozen=True, slots=True)
class Replay:
    """`gradexplain.reading.outcome.Numbers` by PyTorch; a point is tried by the chain rule's forward.

    ``line(graph, name, v)`` writes the gradient of an input as an expression of PyTorch.
    """

    line: Callable[[Graph, str, str], str]

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

    def saved(
        self, graph: Graph, leaves: Mapping[str, Array], dtype: str, wanted: Sequence[str]
    ) -> set[tuple[int, int]]:
        found = self._asked(SavedQuestion(graph, leaves, tuple(wanted), dtype))[""]
        assert found is not None
        return {(int(a), int(b)) for a, b in found}

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
        derived: Sequence[Derived] = (),
    ) -> Mapping[str, Array | None]:
        v = np.ones(graph.out.shape) if v is None else v
        if derived:
            return self._asked(ThroughQuestion(graph, leaves, dtype, v, tuple(wanted), derived))
        inputs = [n.label for n in graph.leaves if not n.integer]
        computed = tuple(name for name in wanted if name not in inputs)
        return self._asked(Question(graph, leaves, v, tuple(inputs), dtype, computed))

    def step(self, kind: str, parts: Sequence[tuple[Any, ...]]) -> list[Mapping[str, Array]]:
        found: list[dict[str, Array]] = [{} for _ in parts]
        for name, array in self._asked(StepQuestion(kind, parts)).items():
            place, _, last = name.partition(".")
            assert array is not None
            found[int(place)][last] = array
        return [*found]

    def _asked(self, question: Askable) -> Mapping[str, Array | None]:
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
