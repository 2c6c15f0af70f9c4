"""PyTorch's own second derivatives: its backward pass recorded, and differentiated again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.routes.pytorch import ERRORS, Answer, Question, refusal, tensors_of, to_array


@dataclass(frozen=True, slots=True)
class SecondAnswer:
    """``first`` as for one backward, ``second`` the gradients of ``Σ x.grad``."""

    first: Answer
    second: Answer
    error: str = ""


@dataclass(frozen=True, slots=True)
class SecondQuestion:
    """``backward(v, create_graph=True)``, then the sum of every gradient differentiated."""

    first: Question

    def ask(self) -> SecondAnswer:
        import torch

        first = self.first.ask()
        if first.error:
            return SecondAnswer(first, first, first.error)
        try:
            inputs, gradients = recorded(torch, self.first)
            sums = [g.sum() for g in gradients.values() if g is not None]
            total = sum(sums, start=torch.zeros(()))
            second = again(torch, total, inputs)
        except ERRORS as error:
            return SecondAnswer(first, Answer({}, refusal(error)))
        return SecondAnswer(first, Answer(second))


@dataclass(frozen=True, slots=True)
class HessianAnswer:
    """``blocks[a, b]`` is ``∂²L/∂a∂b``, ``product[b]`` the gradient of ``Σ u·x.grad`` by b."""

    first: Answer
    blocks: Mapping[tuple[str, str], Array] = field(default_factory=dict)
    product: Mapping[str, Array | None] = field(default_factory=dict)
    #: Why the gradient could not be differentiated again.
    refused: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class HessianQuestion:
    """Double backward: row by row where ``whole``, and with weights ``u`` where there are any."""

    first: Question
    whole: bool
    u: Mapping[str, Array] | None

    def ask(self) -> HessianAnswer:
        import torch

        first = self.first.ask()
        if first.error:
            return HessianAnswer(first, error=first.error)
        try:
            inputs, gradients = recorded(torch, self.first)
            blocks = self._blocks(torch, inputs, gradients) if self.whole else {}
            product: Mapping[str, Array | None] = {}
            if self.u is not None:
                terms = [
                    (gradients[name] * torch.tensor(u, dtype=inputs[name].dtype)).sum()
                    for name, u in self.u.items()
                    if gradients.get(name) is not None
                ]
                product = again(torch, sum(terms, start=torch.zeros(())), inputs)
        except ERRORS as error:
            return HessianAnswer(first, refused=refusal(error))
        return HessianAnswer(first, blocks, product)

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
