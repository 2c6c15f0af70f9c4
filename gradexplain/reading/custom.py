"""A backward that the text writes itself: a ``torch.autograd.Function``'s, or a hook's.

What it returns is linear in the upstream gradient ``g``: it is ``Bᵀ·g`` for a matrix B, and B·u is the
gradient of ``⟨Bᵀ·g, u⟩`` by g.  So ``forward(x) + B·(x − x.detach())`` has the value of forward, and
backward sends through it what the text's own backward returns; for a hook, forward is x itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradexplain.errors import Span
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Ref
from gradexplain.points import spread
from gradexplain.reading import classes, library
from gradexplain.reading.derived import TRACE, Sweep
from gradexplain.reading.objects import Call, Class, Leaf, Own, Tensor, what
from gradexplain.reading.operators import operator
from gradexplain.reading.session import Session


def applied(s: Session, made: Class, call: Call) -> Any:
    """``MyFunction.apply(x, …)``."""
    place = call.place
    parts = [made.find(name) for name in ("forward", "backward", "setup_context")]
    forward, backward, setup = (part if isinstance(part, Own) else None for part in parts)
    if forward is None or backward is None:
        s.fail(f"{made.name} has no forward and backward", place, "write both as static methods")
    wanted = [isinstance(arg, Tensor) and s.requires(arg) for arg in call.args]
    args = [
        operator(s, "detach", (arg,), place) if own else arg
        for arg, own in zip(call.args, wanted, strict=True)
    ]
    ctx = s.call(library.member(s, "torch.autograd.function.FunctionCtx"), (), {}, place, place)
    classes.assign(s, ctx, "needs_input_grad", tuple(wanted))
    out = s.call_own(forward, (*args,) if setup else (ctx, *args), call.kwargs, place)
    if setup:
        s.call_own(setup, (ctx, tuple(args), out), {}, place)
    if not any(wanted) or not s.grad_enabled:
        return out
    outs = list(out) if isinstance(out, (tuple, list)) else [out]
    upstream = [_upstream(s, one, place) for one in outs]
    found = s.call_own(backward, (ctx, *upstream), {}, place)
    found = list(found) if isinstance(found, (tuple, list)) else [found]
    if len(found) != len(args):
        s.refuse("count of gradients", place, name=made.name, count=len(args), count2=len(found))
    for n, (arg, own, back) in enumerate(zip(call.args, wanted, found, strict=True)):
        if not own or back is None:
            continue
        if not isinstance(back, Tensor) or back.shape != arg.shape:
            s.refuse("shape of a gradient", place, name=made.name, n=n, list=list(arg.shape))
        sent = _sent(s, arg, args[n], back, upstream, f"the backward of {made.name}", place)
        outs = [
            one if part is None else _sum(s, one, part, place)
            for one, part in zip(outs, sent, strict=True)
        ]
    s.say("own function", name=made.name, text=s.text(place))
    return type(out)(outs) if isinstance(out, (tuple, list)) else outs[0]


def hooked(s: Session, tensor: Tensor) -> Ref:
    """The node that stands for a tensor with hooks where it is used: its gradient goes through them."""
    own = s.ref(tensor)
    if not s.grad_enabled or not s.requires(tensor):
        return own
    if tensor.hooked is None or tensor.hooked[:2] != (own, len(s.calls)):
        made = s.computed(own, tensor.dtype, tensor.place)
        for hook, place in reversed(tensor.hooks or ()):  # the last one is the next to the tensor
            upstream = _upstream(s, made, place)
            back = _returned(s, hook, upstream, place)
            if back is None or back is upstream:
                continue
            still = operator(s, "detach", (made,), place)
            (part,) = _sent(s, made, still, back, [upstream], "this hook", place)
            made = still if part is None else _sum(s, still, part, place)
            s.read_hooks.append((s.ref(made).id, hook, place, upstream, back))
            s.say("hook", text=s.text(place))
        tensor.hooked = own, len(s.calls), s.ref(made)
    return tensor.hooked[2]


def _returned(s: Session, hook: Any, upstream: Any, place: Span) -> Tensor | None:
    found: Tensor | None = s.call(hook, (upstream,), {}, place, place)
    if found is not None and getattr(found, "shape", None) != upstream.shape:
        s.unsupported(f"this hook returns {what(found)} of another shape", place, TRACE)
    return found


def call_again(s: Session, start: int) -> None:
    """Refuse a backward whose hooks give something else than when the forward was read."""
    needed = set(s.needed(start))
    for id, hook, place, upstream, back in s.read_hooks if not s.any_size else ():
        if id in needed:
            again = _returned(s, hook, upstream, place) or upstream
            g = {s.builder.nodes[s.ref(upstream).id].label}
            (old, _), (new, _) = (s.part(s.ref(found).id) for found in (back, again))
            was, now = (s.runner(place).value(n, _point(s, n, g), "float64") for n in (old, new))
            if not np.array_equal(was, now):
                s.lack("another hook", place)


def _sum(s: Session, out: Tensor, part: Tensor, place: Span) -> Tensor:
    found: Tensor = operator(s, "add", (out, part), place)
    s.opaque.add(s.ref(found).id)
    return found


def _sent(
    s: Session,
    arg: Tensor,
    still: Tensor,
    back: Tensor,
    upstream: list[Any],
    what: str,
    place: Span,
) -> list[Tensor | None]:
    """``B·(arg − still)`` for each upstream gradient g, where ``back`` is ``Bᵀ·g``."""
    ids = [s.ref(one).id if one is not None else -1 for one in upstream]
    start = s.ref(back).id
    moved = operator(s, "sub", (arg, still), place)
    sent = Sweep(s, place, back.dtype, {start: moved}).back(start, ids)
    if any(part is not None and set(s.needed(s.ref(part).id)) & set(ids) for part in sent) or not (
        s.any_size or _is_linear(s, start, ids, place)
    ):
        key = "not linear: a hook" if what == "this hook" else "not linear"
        s.lack(key, place, what=what)
    return sent


def _is_linear(s: Session, start: int, upstream: list[int], place: Span) -> bool:
    """Whether ⟨f(g), u⟩ is ⟨g, ∂⟨f(g), u⟩/∂g⟩ in PyTorch's numbers: f may add something, or detach g."""
    graph, _ = s.part(start)
    g = {s.builder.nodes[id].label for id in upstream if id >= 0}
    at = _point(s, graph, g)
    u = spread(graph.out.shape, 7)
    reached = [node.label for node in graph.leaves if node.label in g]
    value = s.runner(place).value(graph, at, "float64")
    found = s.runner(place).gradients(graph, at, "float64", u, reached)
    terms = [at[name] * part for name, part in found.items() if name in g and part is not None]
    return bool(np.isclose((value * u).sum(), sum(term.sum() for term in terms)))


def _point(s: Session, graph: Graph, g: set[str]) -> dict[str, Array]:
    """The values of the leaves; any for the upstream gradients, and for what is not known yet."""
    at = {}
    for n, node in enumerate(graph.leaves):
        leaf = s.made[node.label]
        late = leaf.later if node.label not in g else None
        known = late() if leaf.value is None and late else leaf.value
        at[node.label] = spread(node.shape, n) if known is None else known
    return at


def _upstream(s: Session, out: Any, place: Span) -> Tensor | None:
    """A gradient that arrives at a result: a leaf of no value."""
    if not isinstance(out, Tensor):
        return None

    def unknown() -> Any:
        s.lack("looks at numbers", place)

    made = Tensor(out.shape, place, dtype=out.dtype, later=unknown)
    made.ref = s.builder.leaf("upstream", out.shape, place)
    s.made[s.builder.nodes[made.ref.id].label] = Leaf(made, None, unknown, out.dtype, False, False)
    return made
