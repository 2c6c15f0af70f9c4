"""Optimizers: what a step makes of the parameters, by PyTorch's own optimizer when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gradexplain.errors import Span
from gradexplain.explanation import Array, Shape
from gradexplain.reading.attributes import apart
from gradexplain.reading.autograd import listed, zero
from gradexplain.reading.objects import Call, Optimizer, Tensor, Unread, what
from gradexplain.reading.operators import put, renewed
from gradexplain.reading.session import Session


def optimizer(s: Session, owner: Optimizer, call: Call) -> Any:
    match call.name:
        case "zero_grad":
            for parameter in owner.parameters:
                if call.get(0, "set_to_none", True):
                    zero(s, parameter)
                elif parameter.grad is not None:
                    put(s, parameter.grad, ..., 0.0, call.place)
            return None
        case "step":
            return _step(s, owner, call)
        case "add_param_group":
            group = {**owner.param_groups[0], **call.args[0]}
            owner.param_groups.append({**group, "params": listed(group["params"])})
            return None
    return Unread(s.text(call.place), "an optimizer's state is not followed")


@dataclass(slots=True)
class _Part:
    """One parameter in one step: its options, its leaf, its gradient, and the step before."""

    options: Mapping[str, Any]
    label: str
    shape: Shape
    grad: Tensor
    before: tuple[_Step, int] | None


@dataclass(eq=False)
class _Step:
    """One step of an optimizer, taken by PyTorch's optimizer when its numbers are asked for."""

    s: Session
    kind: str
    place: Span
    parts: list[_Part] = field(default_factory=list)
    found: list[Mapping[str, Array]] = field(default_factory=list)

    def values(self) -> list[Mapping[str, Array]]:
        """Each parameter afterwards, under the name "", and what the optimizer keeps of it."""
        if not self.found:
            self.found = self.s.runner(self.place).step(self.kind, [*map(self._given, self.parts)])
        return self.found

    def _given(self, part: _Part) -> tuple[Any, ...]:
        s = self.s
        state = part.before[0].values()[part.before[1]] if part.before else {}
        grad = s.number(part.grad, self.place)
        kept = {name: array for name, array in state.items() if name}
        old = s.leaf_value(part.label, part.shape)
        return part.options, old, grad, kept, s.made[part.label].dtype or "float64"


def _step(s: Session, owner: Optimizer, call: Call) -> Any:
    """Every parameter that has a gradient becomes another leaf."""
    if owner.kind == "LBFGS":
        s.lack("LBFGS", call.place)
    closure = call.get(0, "closure")
    loss = None if closure is None else s.call(closure, (), {}, call.place, call.where)
    step = _Step(s, owner.kind, call.place)
    for group in owner.param_groups:
        options = {
            name: part for name, part in group.items() if name not in ("params", "initial_lr")
        }
        for name, part in options.items():
            if not isinstance(part, (int, float, tuple, type(None))):
                s.lack("is not known here", call.place, name=name, what=what(part))
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            label = s.builder.nodes[s.ref(parameter).id].label
            before = owner.steps.get(id(parameter))
            place = len(step.parts)
            grad = apart(s, parameter.grad, call.place)
            step.parts.append(_Part(options, label, parameter.shape, grad, before))
            owner.steps[id(parameter)] = step, place
            later = partial(lambda n: step.values()[n][""], place)
            made = Tensor(parameter.shape, call.place, dtype=s.made[label].dtype, later=later)
            renewed(s, parameter, made)
    return loss


def _optimizer(s: Session, call: Call) -> Any:
    given = call.kwargs.get("lr", call.args[1] if len(call.args) > 1 else _RATES[call.name])
    shared = {name: part for name, part in call.kwargs.items() if name != "params"}
    groups: list[dict[str, Any]] = []
    for group in listed(call.get(0, "params", [])):
        own = group if isinstance(group, dict) else {"params": group}
        for parameter in listed(own.get("params", [])):
            if not isinstance(parameter, Tensor):
                s.refuse(
                    "takes tensors to change", call.place, name=call.name, what=what(parameter)
                )
        params = listed(own.get("params", []))
        if isinstance(group, dict) or not groups:
            groups.append({**shared, "lr": given, **own, "params": params})
        else:
            groups[-1]["params"] += params
    return Optimizer(call.name, groups)


#: The optimizers, and the rate that each has where the text gives none.
_RATES = {"SGD": 1e-3, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 1e-2, "Adagrad": 1e-2, "LBFGS": 1.0,
          "Adadelta": 1.0, "NAdam": 2e-3, "Adamax": 2e-3, "RAdam": 1e-3, "ASGD": 1e-2, "Rprop": 1e-2}  # fmt: skip
FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    f"torch.optim.{name}": _optimizer for name in _RATES
}
