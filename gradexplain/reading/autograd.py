"""``backward``, ``torch.autograd.grad`` and what belongs to them: which calls a text makes."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gradexplain.errors import GradexplainError, Span
from gradexplain.explanation import Array, Shape
from gradexplain.graph import unversioned
from gradexplain.ops.base import show_shape
from gradexplain.reading.custom import call_again
from gradexplain.reading.derived import TRACE, gradients, held
from gradexplain.reading.objects import VIEWS, WHOLE, Call, Tensor, Unread, what
from gradexplain.reading.operators import operator, subscript
from gradexplain.reading.outcome import BackwardCall
from gradexplain.reading.session import Session


def requires_grad(s: Session, tensor: Tensor, wanted: bool, place: Span) -> Tensor:
    """The tensor as one that requires grad, or not; refuses integers as PyTorch does."""
    if wanted and tensor.dtype in WHOLE:
        s.refuse("whole numbers", place, dtype=tensor.dtype)
    if tensor.ref is not None and not s.requires(tensor):
        # A constant was used before: from here on it is an input of its own.
        node = s.builder.nodes[tensor.ref.id]
        tensor.value, now = s.known(tensor), dataclasses.replace(tensor, view=None)
        tensor.later = None if tensor.value is not None else partial(s.number, now, place)
        tensor.ref, tensor.name = (
            None,
            tensor.name or (unversioned(node.label) if node.named else ""),
        )
    tensor.requires_grad = wanted
    return tensor


def retain(s: Session, tensor: Tensor, place: Span) -> None:
    if not s.requires(tensor):
        s.refuse("nothing to retain", place)
    tensor.retained = True
    s.retained.append(tensor)


def zero(s: Session, tensor: Tensor) -> None:
    """``x.grad = None``: the next backward makes another tensor."""
    tensor.grad = None
    if tensor.ref is not None:
        s.zeroed.add(s.builder.nodes[tensor.ref.id].label)


# -- a call of backward ----------------------------------------------------------------------------


def backward_method(s: Session, owner: Tensor, call: Call) -> None:
    """``y.backward(v)``."""
    inputs = call.get(3, "inputs")
    retain_graph = _switch(call.get(1, "retain_graph"), call.get(2, "create_graph"))
    v = call.get(0, "gradient")
    blank = {label for label, leaf in s.made.items() if _is_blank(s, leaf.tensor.grad)}
    made = started(s, owner, v, retain_graph, inputs, call.place, call.where)
    if call.get(2, "create_graph"):
        leaves = [leaf.tensor for label, leaf in s.made.items() if leaf.tensor.grad is not None]
        leaves = [t for t in leaves if t.ref is not None and t.ref.id in s.needed(made.start)]
        found = gradients(s, owner, v, leaves, call.place)
        for leaf, part in zip(leaves, found, strict=True):
            if part is not None and s.builder.nodes[s.ref(leaf).id].label in blank:
                part.grad_of, leaf.grad = leaf, part
                s.written.append(part)


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
    returned: bool = False,
) -> BackwardCall:
    """Record one backward call; raises what PyTorch would raise, at its place."""
    if not isinstance(start, Tensor):
        s.fail(f"{what(start)} has no backward", where, "call it on a tensor that was computed")
    ref = s.hooked(start) if start.hooks else s.ref(start)
    call_again(s, ref.id)
    if s.unhooked & set(s.needed(ref.id)):
        s.unsupported("a hook was removed between forward and backward", place, TRACE)
    if not s.requires(start):
        s.refuse("requires no grad", where)
    array = _vector(s, start, v, place)
    wanted = None if inputs is None else tuple(_label(s, part, place) for part in listed(inputs))
    held_ = {label: s.made[label].tensor.grad for label in _leaves(s, ref.id)}
    zeroed = s.zeroed | {n for n, grad in held_.items() if grad is not None and _is_blank(s, grad)}
    made = BackwardCall(
        ref.id,
        array,
        retain_graph,
        frozenset(zeroed),
        wanted,
        place,
        len(s.builder.nodes),
        returned,
    )
    _underived(s, made)
    _overwritten(s, made)
    held(s, ref.id, array, place)
    for id in s.needed(ref.id) if s.stale and not s.any_size else ():
        if s.builder.nodes[id].is_leaf and s.builder.nodes[id].label in s.stale:
            _hold(s, made, s.builder.nodes[id].label)
    s.zeroed.clear()
    s.calls.append(made)
    _left(s, made)
    return made


def _hold(s: Session, call: BackwardCall, label: str) -> None:
    """Refuse a backward whose numbers depend on a leaf that was changed since, where an operation keeps
    its elements: PyTorch mixes old and new, or raises."""
    graph, _ = s.part(call.start)
    leaf, dtype = s.made[label], s.run_dtype(graph)
    labels = [n.label for n in graph.leaves if s.made[n.label].requires_grad]
    old = s.leaves(graph)
    shared = {n.id for n in graph.nodes if n.label == label}
    for node in graph.nodes:
        if node.op is not None and node.op.name in VIEWS and node.inputs[0] in shared:
            shared.add(node.id)
    runner = s.runner(call.place)
    mixed = any(kept in shared for _, kept in runner.saved(graph, old, dtype, labels))
    others = [s.made[n.label].tensor for n in graph.leaves if n.label != label]
    twice = any(other is leaf.tensor for other in others)
    if not mixed and not twice:
        return
    new = {**old, label: s.number(leaf.tensor, call.place)}
    before, after = (runner.gradients(graph, at, dtype, call.v, labels) for at in (old, new))
    reached = before[label]
    both = twice and reached is not None and reached.any()
    if not both and not (mixed and any(_differ(before[n], after[n]) for n in labels)):
        return
    base = leaf.tensor.name or label
    s.lack("changed after use", call.place, base=base, text=s.text(s.stale[label]))


def _differ(a: Array | None, b: Array | None) -> bool:
    return a is not None and b is not None and not np.array_equal(a, b, equal_nan=True)


def _overwritten(s: Session, call: BackwardCall) -> None:
    """Refuse, as PyTorch does, a backward that needs a value which was changed in place since: itself,
    what it is a view of, or another view of that."""
    needed, homes, nodes = set(s.needed(call.start)), _homes(s), s.builder.nodes
    changes = [(old, new, homes[old], place) for old, new, place in s.overwritten]
    touched = {home for *_, home, _ in changes}
    inferred = {
        n.id
        for made, at in s.inferred
        for n in nodes
        if n.id in made or n.is_leaf and at.start <= n.span.start < at.end
    }
    if s.any_size or not any(homes[id] in touched | inferred for id in needed):
        return
    graph, at = s.part(call.start)
    labels = [n.label for n in graph.leaves if s.made[n.label].requires_grad]
    pairs = s.runner(call.place).saved(graph, s.leaves(graph), s.run_dtype(graph), labels)
    back = {new: id for id, new in at.items()}
    for id, value in sorted((back[a], back[b]) for a, b in pairs):
        own = any((old, new) == (value, id) for old, new, *_ in changes)  # PyTorch keeps a copy
        op = nodes[id].op
        if own or op is None or op.name == "put":  # which stands for writing into a view
            continue
        if homes[value] in inferred and id not in inferred:
            s.refuse("inference tensor", nodes[id].span)
        what_ = "its result" if id == value else f"`{s.text(nodes[value].span)}`"
        for _, new, home, place in changes:
            if id < new and home == homes[value]:
                s.refuse("changed in place", place, text=s.text(nodes[id].span), what=what_)


def _underived(s: Session, call: BackwardCall) -> None:
    """Refuse, as PyTorch does, a backward that arrives at an operation that has none."""
    waiting = [call.start] if s.underived and s.script else []
    while waiting:
        id = waiting.pop()
        if id in s.underived:
            s.refuse("no backward", s.builder.nodes[id].span, name=s.underived[id])
        nodes = [s.builder.nodes[source] for source in set(s.builder.nodes[id].inputs)]
        waiting += [
            n.id for n in nodes if n.id in s.underived or n.op and not n.op.stops and not n.integer
        ]


def _homes(s: Session) -> list[int]:
    """For each node the first one that held its elements: a view's base, a changed value's old one."""
    old = {new: old for old, new, _ in s.overwritten if old not in s.shadowed}
    homes: list[int] = []
    for node in s.builder.nodes:
        view = node.op is not None and node.op.name in VIEWS - {"detach"} and len(node.inputs) == 1
        source = old.get(node.id, node.inputs[0] if view else node.id)
        homes.append(homes[source] if source < node.id else node.id)
    return homes


def _vector(s: Session, start: Tensor, v: Any, place: Span) -> Array | None:
    """The argument of backward as numbers, in the output's shape."""
    name = s.builder.nodes[start.ref.id].label if start.ref is not None else ""
    shown = f"{name or 'the output'} has shape {show_shape(start.shape)}"
    if v is None:
        if math.prod(start.shape) != 1:
            ones = f"torch.ones({', '.join(map(str, start.shape))})"
            s.refuse("v is missing", place, shown=shown, ones=ones)
        return None
    s.need(place, v)
    if not isinstance(v, Tensor):
        s.refuse("v is no tensor", place, what=what(v))
    if s.any_size:
        return None
    array = s.number(v, place)
    if array.shape != start.shape:
        s.refuse(
            "v of another shape",
            place,
            show_shape=show_shape(array.shape),
            shown=shown,
            count=math.prod(start.shape),
            s="s" * (math.prod(start.shape) != 1),
        )
    return array


def _label(s: Session, tensor: Any, place: Span) -> str:
    if not isinstance(tensor, Tensor):
        s.fail(f"{what(tensor)} has no gradient", place, "name tensors that require grad")
    if not s.requires(tensor):
        s.refuse("input requires no grad", place)
    node = s.builder.nodes[s.ref(tensor).id]
    if not node.label:
        tensor.ref = s.builder.name(s.ref(tensor), "t")
        node = s.builder.nodes[tensor.ref.id]
    return node.label


def listed(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


#: After so many calls numbers are worked out at once: what waits for them waits for one another.
_AT_ONCE = 8


def _left(s: Session, call: BackwardCall) -> None:
    """Give every leaf that the call reaches its ``.grad``, whose numbers are computed if needed.

    As in PyTorch it is one tensor from call to call, which each adds to in place.
    """
    nodes, needed = s.builder.nodes, s.needed(call.start)
    upto = len(s.calls)
    for tensor in s.retained:
        if tensor.ref is not None and tensor.ref.id in needed:
            tensor.grad = _gradient_tensor(s, tensor, nodes[tensor.ref.id].label, upto)
    for tensor, hook, place in s.looking:
        if s.ref(tensor).id in needed:
            label = _label(s, tensor, place)
            found = Tensor(tensor.shape, place, dtype=tensor.dtype, hint=f"{label}_grad")
            found.later = partial(_given, s, [call], label, tensor.shape)
            with contextlib.suppress(GradexplainError):  # it was to be shown
                s.call(hook, (found,), {}, place, place)
    for label in _leaves(s, call.start) if not call.returned else ():
        if label in s.stale:
            continue
        leaf = s.made[label]
        if upto % _AT_ONCE == 0 and leaf.later is not None and not s.any_size:
            s.leaf_value(label, leaf.tensor.shape)
        if not leaf.requires_grad or (call.wanted is not None and label not in call.wanted):
            continue
        old, new = leaf.tensor.grad, _gradient_tensor(s, leaf.tensor, label, upto)
        if old is None:
            leaf.tensor.grad = new
            continue
        own = old in s.written or getattr(old.later, "args", ("",))[1:2] == (label,)
        if not own and not _is_blank(s, old):
            s.carried[label] = dataclasses.replace(old, view=None), upto - 1
        old.later, old.hint, old.version = new.later, new.hint, old.version + 1
        old.value = old.ref = old.rows = None


def _leaves(s: Session, start: int) -> list[str]:
    """The labels of the leaves to which a backward sends a gradient."""
    nodes = s.builder.nodes
    return [nodes[id].label for id in sorted(s.reached(start)) if nodes[id].is_leaf]


def _is_blank(s: Session, grad: Tensor | None) -> bool:
    """Whether a gradient holds nothing: it is None, or was set to zeros."""
    known = None if grad is None else s.known(grad)
    return grad is None or (known is not None and not known.any())


def _gradient_tensor(s: Session, owner: Tensor, label: str, upto: int) -> Tensor:
    return Tensor(
        owner.shape,
        s.calls[-1].place,
        dtype=owner.dtype,
        later=partial(accumulated, s, label, upto),
        hint=f"{label}_grad",
        grad_of=owner,
    )


def accumulated(s: Session, label: str, upto: int) -> Array:
    """``.grad`` after the first ``upto`` calls, as PyTorch computes it."""
    node = next(n for n in reversed(s.builder.nodes) if n.label == label)
    total: Array | None = None
    first = bisect_left(s.calls, node.id, hi=upto, key=lambda call: call.made)
    if label in s.carried and s.carried[label][1] < upto:
        before, first = s.carried[label]
        total = s.number(before, s.calls[-1].place)
    for call in s.calls[first:upto]:
        if label in call.zeroed:
            total = None
        if node.id in s.needed(call.start) and not (call.returned and node.is_leaf):
            found = one_call(s, call, label)
            if found is not None:
                total = found if total is None else total + found
    return np.zeros(node.shape) if total is None else total


def _given(s: Session, calls: Sequence[BackwardCall], label: str, shape: Shape) -> Array:
    """What calls give, added up."""
    total = np.zeros(shape)
    for call in calls:
        found = one_call(s, call, label)
        total = total if found is None else total + found
    return total


def one_call(s: Session, call: BackwardCall, label: str) -> Array | None:
    """What one call gives a leaf, or a computed value that keeps its gradient; all are asked for at once."""
    key = id(call.v), call.start
    if label not in s.gave.get(key, {}):
        graph, _ = s.part(call.start)
        leaves = s.leaves(graph)
        labels = [n.label for n in graph.leaves if s.made[n.label].requires_grad]
        labels += [] if label in labels else [label]
        dtype = s.run_dtype(graph)
        found = s.runner(call.place).gradients(graph, leaves, dtype, call.v, labels)
        s.gave[key] = {**s.gave.get(key, {}), **found}
    return s.gave[key][label]


# -- functions -------------------------------------------------------------------------------------


def _grad(s: Session, call: Call) -> Any:
    """``torch.autograd.grad``: what it returns adds to no ``.grad``."""
    outputs, inputs = listed(call.get(0, "outputs")), listed(call.get(1, "inputs"))
    vs = call.get(2, "grad_outputs")
    given = listed(vs) if vs is not None else [None] * len(outputs)
    create = bool(call.get(4, "create_graph")) or s.nested > 0
    keep = _switch(call.get(3, "retain_graph"), create)
    if call.get(7, "is_grads_batched") and len(outputs) == 1 and isinstance(given[0], Tensor):
        outputs = outputs * given[0].shape[0]
        given = [subscript(s, given[0], n, call.place) for n in range(len(outputs))]
    parts = list(zip(outputs, given, strict=False))
    if not s.nested:
        _asked(s, parts, keep, inputs, call)
    if create:
        return tuple(derivatives(s, parts, inputs, call))
    made = s.calls[len(s.calls) - len(parts) :]
    return tuple(_returned(s, part, made, call) for part in inputs)


def _asked(s: Session, parts: Sequence[Any], keep: bool, inputs: Any, call: Call) -> None:
    """Record the calls whose gradients are returned: nothing is added to what was there before."""
    for place, (output, v) in enumerate(parts):
        later = place < len(parts) - 1
        started(s, output, v, keep or later, inputs, call.place, call.where, returned=True)
        if place == 0:
            labels = frozenset(s.calls[-1].wanted or ())
            s.calls[-1] = dataclasses.replace(s.calls[-1], zeroed=s.calls[-1].zeroed | labels)


def derivatives(s: Session, parts: Sequence[Any], inputs: Sequence[Any], call: Call) -> list[Any]:
    """The gradients as computed values, which are differentiated again."""
    totals: list[Any] = [None] * len(inputs)
    for output, v in parts:
        for n, found in enumerate(gradients(s, output, v, inputs, call.place)):
            if found is not None:
                old = totals[n]
                totals[n] = found if old is None else operator(s, "add", (old, found), call.place)
    totals = [
        _unused(s, part, call) if total is None else total
        for part, total in zip(inputs, totals, strict=True)
    ]
    if not s.nested:
        made = frozenset(s.ref(t).id for t in totals if t is not None)
        for place in range(len(s.calls) - len(parts), len(s.calls)):
            s.calls[place] = dataclasses.replace(s.calls[place], derived=made)
    return totals


#: Of gradients that nothing is made of here.
THIRD = "its numbers are not followed further; gradexplain trace FILE runs the script"


def _unused(s: Session, owner: Tensor, call: Call) -> Tensor | None:
    """What is returned where no gradient arrives."""
    if call.get(8, "materialize_grads"):
        return s.literal(s.filled(owner.shape, 0.0), owner.dtype, call.place)
    if not call.get(6, "allow_unused"):
        s.refuse("input not used", call.place)
    return None


def _returned(s: Session, owner: Tensor, calls: Sequence[BackwardCall], call: Call) -> Any:
    label = _label(s, owner, call.place)
    if not any(s.ref(owner).id in s.reached(made.start) for made in calls):
        return _unused(s, owner, call)
    later = partial(_given, s, calls, label, owner.shape)
    return Tensor(
        owner.shape, call.place, dtype=owner.dtype, later=later, hint=f"{label}_grad",
        grad_of=Tensor(owner.shape, owner.place),
    )  # fmt: skip


def _backward(s: Session, call: Call) -> None:
    """``torch.autograd.backward([y1, y2], [v1, v2])``: a call of backward on each."""
    starts = listed(call.get(0, "tensors"))
    vs = call.get(1, "grad_tensors", call.kwargs.get("grad_variables"))
    given = listed(vs) if vs is not None else [None] * len(starts)
    keep = _switch(call.get(2, "retain_graph"), call.get(3, "create_graph"))
    for place, (start, v) in enumerate(zip(starts, given, strict=False)):
        later = place < len(starts) - 1
        started(s, start, v, keep or later, call.kwargs.get("inputs"), call.place, call.where)


def _no_grad(s: Session, call: Call) -> Any:
    """A context of a ``with``, or a decorator."""
    return Unread("no_grad", "use it as `with torch.no_grad():`")


def _switched(s: Session, call: Call) -> Any:
    """``torch.set_grad_enabled(False)`` as a statement: from here on."""
    s.grad_enabled = bool(call.get(0, "mode"))
    return _no_grad(s, call)


FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    "torch.autograd.grad": _grad,
    "torch.autograd.backward": _backward,
    **dict.fromkeys(("torch.no_grad", "torch.enable_grad", "torch.inference_mode", "no_grad"), _no_grad),
    **dict.fromkeys(("torch.set_grad_enabled", "torch.autograd.set_grad_enabled"), _switched),
}  # fmt: skip
