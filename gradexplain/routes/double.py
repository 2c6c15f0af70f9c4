"""PyTorch's own second derivatives: its backward pass recorded, and differentiated again.

The numbers are those of ``backward(v, create_graph=True)`` and what follows it.  Beside it the recorded
pass is made once more, each gradient in it by PyTorch's backward of one operation, so that every step
of the second pass is known with what went in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.routes.pytorch import (
    ERRORS,
    Answer,
    Made,
    Question,
    backward,
    refusal,
    tensors_of,
    to_array,
)


@dataclass(frozen=True, slots=True)
class Pass:
    """One value of the recorded pass: what it is made from, and how.

    It is the sum of what operations send to one value, each of ``sent`` being ``(operation, receiver,
    gradient that arrives at the operation)``, None for a 1; or, at the end, the sum of gradients,
    ``sums`` being ``(gradient, weight)``, None for a 1.  ``again`` are the results of operations that
    PyTorch makes again in it.
    """

    id: int
    inputs: tuple[int, ...]
    sent: tuple[tuple[int, int, int | None], ...] = ()
    sums: tuple[tuple[int, int | None], ...] = ()
    again: frozenset[int] = frozenset()

    def made(self, torch: Any, first: Question, tensors: Mapping[int, Any]) -> Any:
        dtype = getattr(torch, first.dtype)
        total: Any = None
        for operation, receiver, arrived in self.sent:
            node = first.graph[operation]
            # An alias: the other operands may be made from the receiver too.
            source = tensors[receiver].view_as(tensors[receiver])
            local = {**tensors, receiver: source}
            result = first.run(torch, node.op, node.args, local, dtype)  # type: ignore[arg-type]
            if result is None or not result.requires_grad or not source.requires_grad:
                continue
            up = torch.ones_like(result) if arrived is None else tensors[arrived]
            (part,) = torch.autograd.grad(result, source, up, create_graph=True, allow_unused=True)
            if part is not None:
                total = part if total is None else total + part
        for gradient, weight in self.sums:
            part = tensors[gradient] if weight is None else tensors[gradient] * tensors[weight]
            total = part.sum() if total is None else total + part.sum()
        if total is None:
            shape = tensors[self.sent[0][1]].shape if self.sent else ()
            return torch.zeros(shape, dtype=dtype)
        return total.view_as(total) if any(total is t for t in tensors.values()) else total


@dataclass(frozen=True, slots=True)
class Recorded:
    """The recorded pass of a question: its values in order, and further leaves by id."""

    passes: tuple[Pass, ...]
    leaves: Mapping[int, Array]

    def answer(self, torch: Any, first: Question, gradients: Mapping[str, Array | None]) -> Answer:
        """``gradients`` with the steps of the second pass."""
        dtype = getattr(torch, first.dtype)
        tensors = tensors_of(
            torch, first.graph, first.values, first.wanted, first.dtype, run=first.apart
        )
        tensors |= {id: torch.tensor(value, dtype=dtype) for id, value in self.leaves.items()}
        for one in self.passes:
            tensors[one.id] = one.made(torch, first, tensors)
        for tensor in tensors.values():
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                tensor.retain_grad()
        end = tensors[self.passes[-1].id]
        if end.requires_grad:
            backward(torch, end, torch.ones_like(end))
        further: list[Made] = [(id, (), None, None) for id in self.leaves]
        further += [(one.id, one.inputs, partial(one.made, torch), None) for one in self.passes]
        steps = first.steps(torch, tensors, further)
        stepped = {
            n.label: to_array(torch, tensors[n.id].grad)
            for n in first.graph.leaves
            if n.label in first.wanted
        }
        return Answer(gradients, steps=steps, stepped=stepped)


@dataclass(frozen=True, slots=True)
class SecondAnswer:
    """``first`` as for one backward, ``second`` the gradients of ``Σ u·x.grad``; ``blocks[a, b]`` is
    ``∂²L/∂a∂b`` where the whole Hessian was asked for."""

    first: Answer
    second: Answer
    blocks: Mapping[tuple[str, str], Array] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class SecondQuestion:
    """``backward(v, create_graph=True)``, then ``Σ u·x.grad`` differentiated; u is 1 where None.

    With ``whole`` every element of every gradient is differentiated too.
    """

    first: Question
    recorded: Recorded
    u: Mapping[str, Array] | None = None
    whole: bool = False

    def ask(self) -> SecondAnswer:
        import torch

        first = self.first.ask()
        if first.error:
            return SecondAnswer(first, first, error=first.error)
        try:
            inputs, gradients = recorded(torch, self.first)
            blocks = self._blocks(torch, inputs, gradients) if self.whole else {}
            sums = [
                (g if self.u is None else g * torch.tensor(self.u[name], dtype=g.dtype)).sum()
                for name, g in gradients.items()
                if g is not None
            ]
            second = again(torch, sum(sums, start=torch.zeros(())), inputs)
            answer = self.recorded.answer(torch, self.first, second)
        except ERRORS as error:
            return SecondAnswer(first, Answer({}, refusal(error)))
        return SecondAnswer(first, answer, blocks)

    @staticmethod
    def _blocks(
        torch: Any, inputs: Mapping[str, Any], gradients: Mapping[str, Any]
    ) -> dict[tuple[str, str], Array]:
        blocks = {}
        for a, gradient in gradients.items():
            rows: dict[str, list[Array]] = {b: [] for b in inputs}
            flat = None if gradient is None else gradient.reshape(-1)
            for place in range(inputs[a].numel()):
                found = {} if flat is None else again(torch, flat[place], inputs)
                for b, tensor in inputs.items():
                    row = found.get(b)
                    rows[b].append(np.zeros(tuple(tensor.shape)) if row is None else row)
            for b, tensor in inputs.items():
                shape = tuple(inputs[a].shape) + tuple(tensor.shape)
                blocks[a, b] = np.array(rows[b], dtype=np.float64).reshape(shape)
        return blocks


def recorded(torch: Any, question: Question) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs, and their gradients with a history (None for one that is not reached)."""
    graph = question.graph
    tensors = tensors_of(torch, graph, question.values, question.wanted, question.dtype)
    inputs = {n.label: tensors[n.id] for n in graph.leaves if tensors[n.id].requires_grad}
    output = tensors[graph.output]
    if not output.requires_grad:
        return inputs, dict.fromkeys(inputs)
    upstream = torch.tensor(question.v, dtype=output.dtype)
    found = torch.autograd.grad(
        output, list(inputs.values()), upstream, create_graph=True, allow_unused=True
    )
    return inputs, dict(zip(inputs, found, strict=True))


def again(torch: Any, total: Any, inputs: Mapping[str, Any]) -> dict[str, Array | None]:
    """The gradients of a scalar made of gradients; None for an input that it does not depend on."""
    if not total.requires_grad:
        return dict.fromkeys(inputs)
    found = torch.autograd.grad(total, list(inputs.values()), retain_graph=True, allow_unused=True)
    return {name: to_array(torch, g) for name, g in zip(inputs, found, strict=True)}
