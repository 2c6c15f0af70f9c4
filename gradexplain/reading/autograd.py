"""``backward``, ``torch.autograd.grad`` and what belongs to them: which calls a text makes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradexplain.errors import Span
from gradexplain.explanation import Array
from gradexplain.ops.base import show_shape
from gradexplain.reading.objects import WHOLE, Call, Layer, Optimizer, Tensor, Unread, what
from gradexplain.reading.operators import renewed
from gradexplain.reading.session import BackwardCall, Session


def requires_grad(s: Session, tensor: Tensor, wanted: bool, place: Span) -> Tensor:
    """The tensor as one that requires grad, or not; refuses integers as PyTorch does."""
    if wanted and tensor.dtype in WHOLE:
        s.fail(
            "only Tensors of floating point and complex dtype can require gradients; this one holds "
            f"{tensor.dtype}",
            place,
            "write `1.` for `1`, or give dtype=torch.float32",
        )
    if tensor.ref is not None and not s.requires(tensor):
        # A constant was used before: from here on it is an input of its own.
        known = s.known(tensor)
        tensor.value = s.number(tensor, place) if known is None else known
        tensor.ref = None
    tensor.requires_grad = wanted
    return tensor


def retain(s: Session, tensor: Tensor, place: Span) -> None:
    if not s.requires(tensor):
        s.fail(
            "can't retain_grad on Tensor that has requires_grad=False",
            place,
            "make one of its inputs with requires_grad=True",
        )
    tensor.retained = True
    s.retained.append(tensor)


def zero(s: Session, tensor: Tensor) -> None:
    """``x.grad.zero_()``, ``x.grad = None``."""
    tensor.grad = None
    if tensor.ref is not None:
        s.zeroed.add(s.builder.nodes[tensor.ref.id].label)


# -- a call of backward ----------------------------------------------------------------------------


def backward_method(s: Session, owner: Tensor, call: Call) -> None:
    """``y.backward(v)``."""
    inputs = call.get(3, "inputs")
    retain_graph = _switch(call.get(1, "retain_graph"), call.get(2, "create_graph"))
    started(s, owner, call.get(0, "gradient"), retain_graph, inputs, call.place, call.where)


def _switch(*given: Any) -> bool:
    """retain_graph, which is create_graph's value where it is not given."""
    return bool(next((value for value in given if value is not None), False))


def started(
    s: Session,
    start: Any,
    v: Any,
    retain_graph: bool,
    inputs: Any,
    place: Span,
    where: Span,
) -> BackwardCall:
    """Record one backward call; raises what PyTorch would raise, at its place."""
    if not isinstance(start, Tensor):
        s.fail(f"{what(start)} has no backward", where, "call it on a tensor that was computed")
    ref = s.ref(start)
    if not s.requires(start):
        s.fail(
            "element 0 of tensors does not require grad and does not have a grad_fn",
            where,
            "make an input with requires_grad=True; what is computed under no_grad() or detached "
            "requires none",
        )
    array = _vector(s, start, v, place)
    wanted = None if inputs is None else tuple(_label(s, part, place) for part in _list(inputs))
    zeroed = frozenset(s.zeroed)
    s.zeroed.clear()
    made = BackwardCall(ref.id, array, retain_graph, zeroed, wanted, place)
    s.calls.append(made)
    _left(s, made)
    return made


def _vector(s: Session, start: Tensor, v: Any, place: Span) -> Array | None:
    """The argument of backward as numbers, in the output's shape."""
    name = s.builder.nodes[start.ref.id].label if start.ref is not None else ""
    shown = f"{name or 'the output'} has shape {show_shape(start.shape)}"
    if v is None:
        if math.prod(start.shape) != 1:
            ones = f"torch.ones({', '.join(map(str, start.shape))})"
            s.fail(
                f"grad can be implicitly created only for scalar outputs; {shown}",
                place,
                f"give v in that shape, as in `.backward({ones})`, or make the output a scalar, as "
                "in `y.sum().backward()`",
            )
        return None
    if isinstance(v, Unread):
        s.unsupported(f"`{v.text}` is not read", place, v.why)
    if not isinstance(v, Tensor):
        s.fail(
            f"gradients can be either Tensors or None, but got {what(v)}",
            place,
            "write torch.tensor(…) around it",
        )
    array = s.number(v, place)
    if array.shape != start.shape:
        s.fail(
            f"mismatch in shape: v has shape {show_shape(array.shape)} and {shown}; the argument of "
            "backward has the output's shape",
            place,
            f"write {math.prod(start.shape)} number{'s' * (math.prod(start.shape) != 1)} in that shape",
        )
    return array


def _label(s: Session, tensor: Any, place: Span) -> str:
    if not isinstance(tensor, Tensor):
        s.fail(f"{what(tensor)} has no gradient", place, "name tensors that require grad")
    if not s.requires(tensor):
        s.fail(
            "One of the differentiated Tensors does not require grad",
            place,
            "make it with requires_grad=True",
        )
    node = s.builder.nodes[s.ref(tensor).id]
    if not node.label:
        s.ref(tensor)
        tensor.ref = s.builder.name(s.ref(tensor), "t")
        node = s.builder.nodes[tensor.ref.id]
    return node.label


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


#: After so many calls numbers are worked out at once: what waits for them waits for one another.
_AT_ONCE = 8


def _left(s: Session, call: BackwardCall) -> None:
    """Give every leaf that the call reaches its ``.grad``, whose numbers are computed if needed."""
    nodes, needed = s.builder.nodes, s.needed(call.start)
    upto = len(s.calls)
    for label in [nodes[id].label for id in needed if nodes[id].is_leaf]:
        leaf = s.made[label]
        if upto % _AT_ONCE == 0 and leaf.later is not None:
            s.leaf_value(label, leaf.tensor.shape)
        if leaf.requires_grad and (call.wanted is None or label in call.wanted):
            leaf.tensor.grad = _gradient_tensor(s, leaf.tensor, label, upto)
    for tensor in s.retained:
        if tensor.ref is not None and tensor.ref.id in needed:
            label = nodes[tensor.ref.id].label
            tensor.grad = _gradient_tensor(s, tensor, label, upto)


def _gradient_tensor(s: Session, owner: Tensor, label: str, upto: int) -> Tensor:
    def numbers() -> Array:
        return accumulated(s, label, upto)

    return Tensor(
        owner.shape,
        s.calls[-1].place,
        dtype=owner.dtype,
        later=numbers,
        hint=f"{label}_grad",
        grad_of=owner,
    )


def accumulated(s: Session, label: str, upto: int) -> Array:
    """``.grad`` after the first ``upto`` calls, as PyTorch computes it."""
    node = next(n for n in reversed(s.builder.nodes) if n.label == label)
    total: Array | None = None
    for call in s.calls[:upto]:
        if label in call.zeroed:
            total = None
        if node.id in s.needed(call.start):
            found = one_call(s, call, [label])[label]
            if found is not None:
                total = found if total is None else total + found
    return np.zeros(node.shape) if total is None else total


def one_call(s: Session, call: BackwardCall, labels: Sequence[str]) -> Mapping[str, Array | None]:
    graph, _ = s.part(call.start)
    leaves = s.leaves(graph)
    return s.runner(call.place).gradients(graph, leaves, s.run_dtype(graph), call.v, labels)


# -- functions -------------------------------------------------------------------------------------


def _grad(s: Session, call: Call) -> Any:
    """``torch.autograd.grad``: what it returns adds to no ``.grad``."""
    outputs, inputs = _list(call.get(0, "outputs")), _list(call.get(1, "inputs"))
    vs = call.get(2, "grad_outputs")
    given = _list(vs) if vs is not None else [None] * len(outputs)
    keep = _switch(call.get(3, "retain_graph"), call.get(4, "create_graph"))
    if call.get(4, "create_graph"):
        s.remark(
            "create_graph",
            f"`{s.text(call.place)}` keeps the graph of the gradient too; what is computed from it "
            "afterwards is not followed here: gradexplain run EXPR --order 2, or gradexplain hessian, "
            "differentiate the backward pass.",
        )
    grads: list[Tensor] = []
    before = {label: leaf.tensor.grad for label, leaf in s.made.items()}
    parts = list(zip(outputs, given, strict=False))
    for place, (output, v) in enumerate(parts):
        later = place < len(parts) - 1
        started(s, output, v, keep or later, inputs, call.place, call.where)
        if place == 0:
            # Nothing is added to what was there before.
            labels = frozenset(s.calls[-1].wanted or ())
            s.calls[-1] = dataclasses.replace(s.calls[-1], zeroed=s.calls[-1].zeroed | labels)
    first = len(s.calls) - len(parts)
    for part in inputs:
        label = _label(s, part, call.place)
        found = _returned(s, part, label, first, len(s.calls))
        grads.append(found)
    for label, leaf in s.made.items():
        leaf.tensor.grad = before.get(label)
    s.returned = True
    return tuple(grads)


def _returned(s: Session, owner: Tensor, label: str, first: int, upto: int) -> Tensor:
    def numbers() -> Array:
        total = np.zeros(owner.shape)
        for call in s.calls[first:upto]:
            found = one_call(s, call, [label])[label]
            total = total if found is None else total + found
        return total

    return Tensor(
        owner.shape, s.calls[-1].place, dtype=owner.dtype, later=numbers, hint=f"{label}_grad",
        grad_of=Tensor(owner.shape, owner.place),
    )  # fmt: skip


def _backward(s: Session, call: Call) -> None:
    """``torch.autograd.backward([y1, y2], [v1, v2])``: a call of backward on each."""
    starts = _list(call.get(0, "tensors"))
    vs = call.get(1, "grad_tensors", call.kwargs.get("grad_variables"))
    given = _list(vs) if vs is not None else [None] * len(starts)
    keep = _switch(call.get(2, "retain_graph"), call.get(3, "create_graph"))
    for place, (start, v) in enumerate(zip(starts, given, strict=False)):
        later = place < len(starts) - 1
        started(s, start, v, keep or later, call.kwargs.get("inputs"), call.place, call.where)


def _functional(kind: str) -> Callable[[Session, Call], Any]:
    """``torch.autograd.functional.jacobian(f, x)`` and ``vjp(f, x, v)``."""

    def made(s: Session, call: Call) -> Any:
        function, inputs = call.get(0, "func"), _list(call.get(1, "inputs"))
        for part in inputs:
            if isinstance(part, Tensor) and not s.requires(part):
                requires_grad(s, part, True, call.place)
        output = s.call(function, tuple(inputs), {}, call.place, call.where)
        if isinstance(output, (tuple, list)):
            s.unsupported(
                "a function of several outputs is not read here", call.place, "join them with cat"
            )
        if not isinstance(output, Tensor):
            s.fail(f"the function gives {what(output)}", call.place, "return a tensor")
        v = call.get(2, "v") if kind == "vjp" else None
        if v is None and math.prod(output.shape) != 1:
            v = s.literal(np.ones(output.shape), output.dtype, call.place)
            s.remark(
                "jacobian",
                f"`{s.text(call.place)}` asks for the whole Jacobian, which is shown; backward with "
                "v = ones adds its rows.",
            )
        started(s, output, v, True, inputs, call.place, call.where)
        result = Unread(s.text(call.place), "its numbers are not followed further")
        return (output, result) if kind == "vjp" else result

    return made


def _curried(kind: str) -> Callable[[Session, Call], Any]:
    """``torch.func.grad(f)(x)`` and ``jacrev(f)(x)``."""

    def made(s: Session, call: Call) -> Any:
        function = call.get(0, "func")

        def inner(later: Call) -> Any:
            joined = Call(kind, (function, tuple(later.args)), {}, later.place, later.where)
            return _functional("jacobian")(s, joined)

        return Layer(kind, inner)

    return made


def _refused(s: Session, call: Call) -> Any:
    s.unsupported(
        f"`{call.name}` is not what backward computes",
        call.place,
        "gradexplain hessian EXPR explains second derivatives; a product J·u is "
        "torch.func.jvp's, the other way round",
    )


def _no_grad(s: Session, call: Call) -> Any:
    """A context of a ``with``, or a decorator."""
    return Unread("no_grad", "use it as `with torch.no_grad():`")


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


def _step(s: Session, owner: Optimizer, call: Call) -> None:
    """``p ← p − lr·p.grad`` for plain SGD; of any other the values afterwards are not known."""
    rate = owner.rate
    for parameter in owner.parameters:
        grad = parameter.grad
        if grad is None:
            continue
        old = s.ref(parameter)
        label = s.builder.nodes[old.id].label
        before = s.made[label]

        def stepped(label: str = label, grad: Tensor = grad, shape: Any = parameter.shape) -> Array:
            if rate is None:
                s.unsupported(
                    f"what {owner.kind} makes of the parameters is not followed",
                    call.place,
                    "gradexplain trace runs a script",
                )
            assert grad.later is not None
            return s.leaf_value(label, shape) - rate * grad.later()

        new = Tensor(parameter.shape, call.place, dtype=before.dtype, later=stepped)
        renewed(s, parameter, new)
        parameter.later, parameter.value = stepped, None


def _sgd(s: Session, call: Call) -> Any:
    parameters = call.get(0, "params", [])
    held = [p for p in _list(parameters) if isinstance(p, Tensor)]
    rate = call.get(1, "lr", 0.001)
    options = {"momentum", "weight_decay", "nesterov", "dampening"} & set(call.kwargs)
    plain = call.name == "SGD" and isinstance(rate, (int, float)) and not options
    return Optimizer(call.name, held, float(rate) if plain else None)


FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    "torch.autograd.grad": _grad,
    "torch.autograd.backward": _backward,
    "torch.autograd.functional.jacobian": _functional("jacobian"),
    "torch.autograd.functional.vjp": _functional("vjp"),
    **dict.fromkeys(
        ("torch.autograd.functional.hessian", "torch.autograd.functional.jvp", "torch.func.jvp",
         "torch.autograd.functional.hvp", "torch.autograd.functional.vhp", "torch.func.hessian"),
        _refused,
    ),
    **{f"torch.func.{name}": _curried(name) for name in ("grad", "jacrev", "jacfwd")},
    **dict.fromkeys(("torch.no_grad", "torch.enable_grad", "torch.inference_mode",
                     "torch.set_grad_enabled", "no_grad"), _no_grad),
    **{f"torch.optim.{name}": _sgd for name in
       ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "LBFGS", "Adadelta", "NAdam")},
}  # fmt: skip
