"""Optimizers: what a step makes of the parameters, by PyTorch's own optimizer when it is asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain.errors import Span
from gradexplain.explanation import Array, Shape
from gradexplain.reading.autograd import THIRD, listed, zero
from gradexplain.reading.objects import Call, Optimizer, Tensor, Unread, what
from gradexplain.reading.operators import renewed
from gradexplain.reading.session import Session


def clipped(s: Session, call: Call) -> Any:
    """``clip_grad_norm_``: the .grad of parameters after backward, made smaller."""
    parameters, kind, most = call.args
    owners = [p for p in listed(parameters) if isinstance(p, Tensor) and p.grad is not None]
    old = [p.grad for p in owners]

    def numbers() -> list[Array]:
        arrays = [s.number(g, call.place) for g in old if g is not None]
        if kind == "value":
            return [np.clip(a, -most, most) for a in arrays]
        norm = math.sqrt(sum(float((a**2).sum()) for a in arrays))
        return [a * min(1.0, most / (norm + 1e-6)) for a in arrays]

    for n, owner in enumerate(owners):
        owner.grad = dataclasses.replace(
            old[n], later=lambda n=n: numbers()[n], ref=None, value=None
        )  # type: ignore[type-var]
    s.remark(
        "clipped",
        f"`{s.text(call.place)}` changes .grad after backward: what is explained is .grad before it.",
    )
    return Unread(s.text(call.place), THIRD)


def optimizer(s: Session, owner: Optimizer, call: Call) -> Any:
    match call.name:
        case "zero_grad":
            for parameter in owner.parameters:
                zero(s, parameter)
            return None
        case "step":
            _step(s, owner, call)
            return None
    return Unread(s.text(call.place), "an optimizer's state is not followed")


@dataclass(eq=False)
class _Step:
    """One step of an optimizer on one parameter, taken by PyTorch's optimizer when it is asked for."""

    s: Session
    owner: Optimizer
    options: Mapping[str, Any]
    label: str
    shape: Shape
    grad: Tensor
    place: Span
    before: _Step | None
    state: Mapping[str, Array] = field(default_factory=dict)
    found: Array | None = None

    def value(self) -> Array:
        if self.found is None:
            s, owner = self.s, self.owner
            if owner.scheduled or owner.kind == "LBFGS":
                s.unsupported(
                    f"what {owner.kind} makes of the parameters is not followed"
                    + (" with a scheduler" if owner.scheduled else ""),
                    self.place,
                    "gradexplain trace runs a script",
                )
            if self.before is not None:
                self.before.value()
                self.state = self.before.state
            grad = s.known(self.grad) if self.grad.later is None else self.grad.later()
            assert grad is not None
            kind = s.made[self.label].dtype or "float64"
            old = s.leaf_value(self.label, self.shape)
            after = s.runner(self.place).step(owner.kind, self.options, old, grad, self.state, kind)
            self.state = {name: array for name, array in after.items() if name}
            self.found = after[""]
        return self.found


def _step(s: Session, owner: Optimizer, call: Call) -> None:
    """Every parameter that has a gradient becomes another leaf."""
    for parameter, options in zip(owner.parameters, owner.options, strict=True):
        if parameter.grad is None:
            continue
        label = s.builder.nodes[s.ref(parameter).id].label
        before = owner.steps.get(id(parameter))
        step = _Step(s, owner, options, label, parameter.shape, parameter.grad, call.place, before)
        owner.steps[id(parameter)] = step
        kind = s.made[label].dtype
        renewed(s, parameter, Tensor(parameter.shape, call.place, dtype=kind, later=step.value))
        parameter.later, parameter.value = step.value, None


def _optimizer(s: Session, call: Call) -> Any:
    given = call.kwargs.get("lr", call.args[1] if len(call.args) > 1 else None)
    shared = {name: part for name, part in call.kwargs.items() if name != "params"}
    shared |= {} if given is None else {"lr": given}
    parameters: list[Tensor] = []
    options: list[Mapping[str, Any]] = []
    for group in listed(call.get(0, "params", [])):
        own = group if isinstance(group, dict) else {"params": group}
        for parameter in listed(own.get("params", [])):
            if not isinstance(parameter, Tensor):
                s.fail(
                    f"{call.name} takes tensors to change, found {what(parameter)}",
                    call.place,
                    "write `net.parameters()`, or a list of tensors",
                )
            parameters.append(parameter)
            options.append({**shared, **{n: part for n, part in own.items() if n != "params"}})
    plain = (int, float, tuple, type(None))
    for name, part in (pair for each in options for pair in each.items()):
        if not isinstance(part, plain):
            s.unsupported(f"{name}={what(part)} is not known here", call.place, "write a number")
    return Optimizer(call.name, parameters, options)


def _scheduler(s: Session, call: Call) -> Any:
    found = call.get(0, "optimizer")
    if isinstance(found, Optimizer):
        found.scheduled = True
    return Unread(s.text(call.place), "a scheduler's rates are not followed")


FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    **{f"torch.optim.{name}": _optimizer for name in
       ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "LBFGS", "Adadelta", "NAdam", "Adamax", "RAdam",
        "ASGD", "Rprop")},
    **{f"torch.optim.lr_scheduler.{name}": _scheduler for name in
       ("StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "ReduceLROnPlateau", "LambdaLR",
        "OneCycleLR", "CyclicLR", "LinearLR", "CosineAnnealingWarmRestarts", "ConstantLR")},
}  # fmt: skip
