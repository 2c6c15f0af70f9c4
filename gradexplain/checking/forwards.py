"""The forward of an operation, run to see what it does: what a claim about it is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain import points
from gradexplain.checking import numeric
from gradexplain.checking.operation import Binding, Operation, plainly, said
from gradexplain.errors import GradexplainError, InputError
from gradexplain.explanation import Array
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape, show_shape
from gradexplain.recording.graphs import Recorder

torch = numeric.torch_module()

#: A recorded forward of more calls than this has no closed form that anyone would read.
_LONG = 60


@dataclass(frozen=True)
class Question:
    """What is compared with what: the backward, or ``texts`` as claims, with J of the forward, of
    ``against``, or with what is ``intended``.
    """

    texts: Sequence[str] | Mapping[str, str] | None = None
    grad_name: str | None = None
    seed: int = 0
    intended: str | Sequence[str] | Mapping[str, str] | None = None
    against: Any = None


class Operated:
    """What both kinds of code share: a forward that is run to see what it does."""

    output = "y"
    #: What J is held against in place of the forward's own, where there is such.
    reference: Callable[[Mapping[str, Any], Mapping[str, Any]], Any] | None = None

    def __init__(self, operation: Operation, binding: Binding, question: Question) -> None:
        self.operation = operation
        self.binding = binding
        self.title = operation.title
        self.names = (*binding.names, *binding.integers)
        self.wanted = binding.wanted
        self.question = question
        self.seed = question.seed
        self.notes: list[str] = []
        if binding.assumed:
            self.notes.append(
                f"Run with {', '.join(binding.assumed)}: no value was given (--arg gives others)."
            )
        self.refusal: Exception | None = None
        #: What J is held against, once that is settled: see `CodeSetting.by`.
        self.by: str | None = None
        #: Inputs whose J is that of the first, or minus it: no data, though no gradient comes back.
        self.mirrored: frozenset[str] = frozenset()
        #: Which of the outputs have a gradient, once the operation has been run.
        self.kept: tuple[int, ...] | None = None

    def values(
        self, shapes: Mapping[str, Shape], given: Mapping[str, Array], number: int = 0
    ) -> dict[str, Array]:
        free = {n: s for n, s in shapes.items() if n not in given}
        values = next(points.regular(free, 1 + number))[1]
        return {n: given[n] if n in given else values[n] for n in shapes}

    def tensors(self, values: Mapping[str, Array], dtype: str, *, grad: bool = False) -> Any:
        found = {}
        for name, value in values.items():
            if name in self.binding.integers:
                found[name] = torch.arange(value.size).reshape(value.shape) % 2
            else:
                found[name] = numeric.tensor(value, dtype, grad=grad and name in self.wanted)
        return found

    def run(self, tensors: Mapping[str, Any], *, plain: bool = False) -> Any:
        """The outputs that have a gradient, as one tensor."""
        found = self.parts(tensors, plain=plain)
        return found[0] if len(found) == 1 else torch.cat([part.reshape(-1) for part in found])

    def parts(self, tensors: Mapping[str, Any], *, plain: bool = False) -> list[Any]:
        """The outputs that have a gradient."""
        numeric.seed(self.seed)
        return self.chosen(self.operation.run(tensors, self.binding.arguments, plain=plain))

    def chosen(self, result: Any) -> list[Any]:
        parts = list(result) if isinstance(result, (tuple, list)) else [result]
        parts = [p for p in parts if p is not None]
        floats = [
            i for i, p in enumerate(parts) if isinstance(p, torch.Tensor) and p.is_floating_point()
        ]
        if not floats:
            what = parts[0] if len(parts) == 1 else parts
            kind = f"a tensor of {what.dtype}" if isinstance(what, torch.Tensor) else (
                f"{len(parts)} results" if len(parts) != 1 else type(what).__name__
            )  # fmt: skip
            raise InputError(
                f"{self.title} returns {kind}, which has no gradient",
                remedy="return a floating-point tensor",
            )
        if self.kept is not None:
            floats = [i for i in self.kept if i < len(parts)]
        return [parts[i] for i in floats]

    def accepts(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> bool:
        """Whether the operation runs at these shapes, and what comes out depends on what goes in."""
        try:
            tensors = self.tensors(self.values(shapes, values), "float64", grad=True)
            y = self.run({n: t.clone() for n, t in tensors.items()})
        except GradexplainError as error:
            self.refusal = error
            return False
        except Exception as error:  # the user's own code, at shapes that it may not take
            self.refusal = error
            return False
        sizes = [int(np.prod(s)) for s in shapes.values()]
        return bool(0 < y.numel() * max([1, *sizes]) <= 6000)

    def plain(self, tensors: Mapping[str, Any]) -> Any:
        """The forward as J is asked of it: the operation's own, or the reference's."""
        if self.reference is None:
            return self.run(tensors, plain=True)
        numeric.seed(self.seed)
        found = self.chosen(self.reference(tensors, self.binding.arguments))
        return found[0] if len(found) == 1 else torch.cat([part.reshape(-1) for part in found])

    def recorded(
        self, shapes: Mapping[str, Shape], given: Mapping[str, Array]
    ) -> tuple[Graph | None, Recorder, Any, dict[str, Any], Any]:
        """The plain forward's graph, None where a call has no record, and the recording."""
        tensors = self.tensors(self.values(shapes, given), "float64")
        recorder = Recorder()
        for name, tensor in tensors.items():
            if name not in self.binding.integers:
                recorder.leaf(name, tensor)
        with torch.no_grad(), plainly() as log, recorder:
            y = self.plain(tensors)
        graph = recorder.graph(y)
        if graph is not None and len(graph.nodes) > _LONG:
            graph, recorder.reason = None, "too many steps for a formula"
        if graph is not None and not self._true_to(graph, shapes, given):
            graph = None
            recorder.reason = recorder.reason or "a step that PyTorch does not report"
        return graph, recorder, y, tensors, log

    def graph_at(self, shapes: Mapping[str, Shape]) -> Graph | None:
        try:
            return self.recorded(shapes, {})[0]
        except Exception:  # the user's own code, at shapes it may not take
            return None

    def forward(self, values: Mapping[str, Array]) -> Array:
        """The operation's own numbers, in float64."""
        with torch.no_grad():
            found: Array = numeric.array(self.run(self.tensors(values, "float64")))
            return found

    def _true_to(
        self, graph: Graph, shapes: Mapping[str, Shape], given: Mapping[str, Array]
    ) -> bool:
        """Whether the graph computes what the forward computes, at two other points."""
        for number in (2, 3):
            values = self.values(shapes, {}, number)
            leaves = {n: numeric.tensor(v, "float64") for n, v in values.items()}
            with torch.no_grad():
                try:
                    mine = numeric.run(graph, leaves, "float64")[graph.output]
                    theirs = numeric.array(self.plain(self.tensors(values, "float64")))
                except Exception:  # the user's own code, and PyTorch's refusals of ours
                    return False
            if not np.allclose(numeric.array(mine), theirs, rtol=1e-9, atol=1e-12, equal_nan=True):
                return False
        return True

    def refuse(self, tried: str = "") -> GradexplainError:
        if isinstance(self.refusal, GradexplainError):
            return self.refusal
        why = said(self.refusal) if self.refusal is not None else "no value"
        return InputError(
            f"{self.title}: forward raises at every shape that was tried{tried}: {why}",
            remedy=f"give the shapes, as in --shape {self.names[0]}=2,3; other arguments as in "
            "--arg dim=0",
        )

    def check_here(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> None:
        """Raises `InputError` where the forward does not run at these shapes."""
        if not self.accepts(shapes, values):
            if isinstance(self.refusal, GradexplainError) or self.refusal is None:
                raise self.refusal or InputError(
                    f"{self.title}: J is too large at these shapes", remedy="use smaller ones"
                )
            at = ", ".join(f"{n} {show_shape(s)}" for n, s in shapes.items())
            raise InputError(
                f"{self.title}: forward raises at {at}: {said(self.refusal)}",
                remedy="give other shapes or values with --shape and --at",
            )
