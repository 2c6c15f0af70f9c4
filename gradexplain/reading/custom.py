"""A ``torch.autograd.Function`` of the text: the value of its forward, with the gradients of its backward.

What a backward returns is linear in the upstream gradient ``g``: it is ``Bᵀ·g`` for a matrix B, and B·u is
the gradient of ``⟨Bᵀ·g, u⟩`` by g.  So ``forward(x) + B·(x − x.detach())`` has the value of forward, and
backward sends through it what the text's own backward returns.
"""

from __future__ import annotations

from typing import Any

from gradexplain.ops import by_spelling
from gradexplain.reading import classes, library
from gradexplain.reading.derived import TRACE, Sweep
from gradexplain.reading.objects import Call, Class, Own, Tensor
from gradexplain.reading.operators import operator
from gradexplain.reading.session import Leaf, Session


def applied(s: Session, made: Class, call: Call) -> Any:
    """``MyFunction.apply(x, …)``."""
    place = call.place
    parts = [made.find(name) for name in ("forward", "backward", "setup_context")]
    forward, backward, setup = (part if isinstance(part, Own) else None for part in parts)
    if forward is None or backward is None:
        s.fail(f"{made.name} has no forward and backward", place, "write both as static methods")
    wanted = [isinstance(arg, Tensor) and s.requires(arg) for arg in call.args]
    args = [
        s.apply(by_spelling("torch.detach"), (arg,), {}, place) if own else arg
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
    upstream = [_upstream(s, one, call) for one in outs]
    found = s.call_own(backward, (ctx, *upstream), {}, place)
    found = list(found) if isinstance(found, (tuple, list)) else [found]
    if len(found) != len(args):
        s.fail(
            f"function {made.name}Backward returned an incorrect number of gradients (expected "
            f"{len(args)}, got {len(found)})",
            place,
            "return one for each argument of forward, None for what has none",
        )
    for n, (arg, own, back) in enumerate(zip(call.args, wanted, found, strict=True)):
        if not own or back is None:
            continue
        if not isinstance(back, Tensor) or back.shape != arg.shape:
            s.fail(
                f"function {made.name}Backward returned an invalid gradient at index {n} - expected a "
                f"tensor of shape {list(arg.shape)}",
                place,
                "return what has the shape of the argument",
            )
        moved = operator(s, "sub", (arg, args[n]), place)
        ids = [s.ref(one).id if one is not None else -1 for one in upstream]
        start = s.ref(back).id
        sent = Sweep(s, place, back.dtype, {start: moved}).back(start, ids)
        for k, part in enumerate(sent):
            if part is not None:
                if set(s.needed(s.ref(part).id)) & set(ids):
                    s.unsupported(
                        f"the backward of {made.name} is not linear in its argument", place, TRACE
                    )
                outs[k] = operator(s, "add", (outs[k], part), place)
                s.opaque.add(s.ref(outs[k]).id)
        if not any(part is not None for part in sent) and s.number(back, place).any():
            s.unsupported(f"the backward of {made.name} does not use its argument", place, TRACE)
    s.remark(
        "own function",
        f"In the place of the derivative of {made.name}'s forward stands what its backward returns, as in "
        f"PyTorch: `{s.text(place)}` is the value of forward and a term that is 0 and has this gradient. "
        f"gradexplain check FILE.py:{made.name} compares the two.",
    )
    return type(out)(outs) if isinstance(out, (tuple, list)) else outs[0]


def _upstream(s: Session, out: Any, call: Call) -> Tensor | None:
    """A gradient that arrives at a result: a leaf of no value."""
    if not isinstance(out, Tensor):
        return None

    def unknown() -> Any:
        s.unsupported(
            "a backward that looks at the numbers of its argument is not read", call.place, TRACE
        )

    made = Tensor(out.shape, call.place, dtype=out.dtype, later=unknown)
    made.ref = s.builder.leaf("upstream", out.shape, call.place)
    s.made[s.builder.nodes[made.ref.id].label] = Leaf(made, None, unknown, out.dtype, False, False)
    return made
