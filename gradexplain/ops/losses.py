"""Losses: one number for each element or row, then ``reduction``: their mean, sum, or none."""
# fmt: off

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod as size
from typing import Any

import numpy as np

from gradexplain.ops.base import Coarse, Op, Shape, broadcast, expect, register
from gradexplain.ops.reductions import under

_FAMILY = "loss"
_REDUCTIONS = ("none", "mean", "sum")


def check_reduction(name: str, reduction: str) -> None:
    expect(reduction in _REDUCTIONS, f"{name}: {reduction!r} is not a reduction",
           remedy="use 'mean', 'sum' or 'none'")


# -- losses of each element ----------------------------------------------------------------------


def _elementwise(
    schema: str, formula: str, samples: tuple[str, ...], *,
    derivatives: Mapping[str, str] | None = None,
    singular: Callable[..., Any] | None = None, kink: str = "", batchmean: bool = False,
    homes: str = "F", call: Any = None,
    coarse: tuple[Coarse, ...] = (),
    written: Callable[..., str] | None = None,
) -> Op:
    """A loss whose element is ``formula`` in one element of each tensor, broadcast.

    The schema ends in ``str reduction='mean'``; ``derivatives`` are those of a pointwise record.
    """
    name = schema.partition("(")[0]

    def tensors(args: tuple[Any, ...]) -> list[Any]:
        return [arg for arg in args if hasattr(arg, "broadcast")]

    def reduction(args: tuple[Any, ...]) -> str:
        return str(args[place_of_reduction])

    def shape(*args: Any) -> Shape:
        check_reduction(name, "mean" if batchmean and reduction(args) == "batchmean" else reduction(args))
        given = zip(op.parameters, args, strict=True)
        full = broadcast(*(a for p, a in given if p.is_tensor and a is not None))
        return full if reduction(args) == "none" else ()

    def full_shape(args: tuple[Any, ...]) -> Shape:
        return broadcast(*(t.shape for t in tensors(args)))

    def built(k: Any, text: str, args: tuple[Any, ...], at: Any) -> Any:
        names = {}
        for parameter, arg in zip(op.parameters, args, strict=True):
            if hasattr(arg, "broadcast"):
                names[parameter.name] = arg.broadcast(at)
            elif isinstance(arg, (int, float)) and not isinstance(arg, bool):
                names[parameter.name] = k.number(arg)
            else:
                names[parameter.name] = arg
        return k.build(text, names)

    def divisor(args: tuple[Any, ...]) -> int:
        full = full_shape(args)
        if reduction(args) == "batchmean":
            return full[0] if full else 1
        return size(full) if reduction(args) == "mean" else 1

    def element(k: Any, *args: Any) -> Any:
        if reduction(args) == "none":
            return built(k, formula, args, k.i)
        at = k.bounds(full_shape(args))
        return k.sum(built(k, formula, args, at), *at) / divisor(args)

    def jacobian(k: Any, *args: Any) -> Any:
        mine = next(a for p, a in zip(op.parameters, args, strict=True) if p.name == k.wrt)
        text = (derivatives or {})[k.wrt]
        full = full_shape(args)
        if reduction(args) == "none":
            missing = len(full) - mine.rank
            ties = k.deltas(
                [k.i[missing + axis] for axis, n in enumerate(mine.shape) if n > 1],
                [k.j[axis] for axis, n in enumerate(mine.shape) if n > 1],
            )
            return ties * built(k, text, args, k.i)
        at, bound = under(k, mine, full)
        return k.sum(built(k, text, args, at), *bound) / divisor(args)

    def singular_at(y: Any, *args: Any) -> Any:
        assert singular is not None
        mask = np.asarray(singular(*args))
        if reduction(args) == "none":
            return np.broadcast_to(mask, np.shape(y))
        return np.reshape(mask.any(), ())

    op = Op(
        schema, _FAMILY, samples, homes=homes, shape=shape, element=element,
        jacobian=jacobian if derivatives is not None else None, kink=kink, torch=call,
        written=written,
        averages=lambda *args: full_shape(args) if reduction(args) == "mean" else (),
        singular_at=singular_at if singular is not None else None, coarse=coarse,
    )
    place_of_reduction = [p.name for p in op.parameters].index("reduction")
    by = {p.name for p in op.parameters if p.is_tensor}
    if derivatives is not None and by != set(derivatives):
        raise ValueError(f"{name}: derivatives by {set(derivatives)}, tensors {by}")
    return register(op)


_elementwise(
    "mse_loss(Tensor input, Tensor target, str reduction='mean')", "(input - target)**2",
    ("F.mse_loss(x[2,3], t[2,3])", "F.mse_loss(x[3], t[3], reduction='sum')",
     "F.mse_loss(x[2,3], t[2,3], reduction='none')"),
)
_elementwise(
    "l1_loss(Tensor input, Tensor target, str reduction='mean')", "abs(input - target)",
    ("F.l1_loss(x[2,3], t[2,3])", "F.l1_loss(x[3], t[3], reduction='none')"),
    derivatives={"input": "sign(input - target)", "target": "sign(target - input)"},
    singular=lambda x, t, _: x == t,
    kink="l1_loss has the slope 0 where input and target are equal",
)
_elementwise(
    "smooth_l1_loss(Tensor input, Tensor target, str reduction='mean', float beta=1)",
    "(input - target)**2/(2*beta) if abs(input - target) < beta else abs(input - target) - beta/2",
    ("F.smooth_l1_loss(x[2,3], t[2,3]/7)", "F.smooth_l1_loss(x[3], t[3]/2, beta=0.5)",
     "F.smooth_l1_loss(x[3], t[3], reduction='none')", "F.smooth_l1_loss(x[3], t[3], beta=0)"),
    derivatives={
        "input": "sign(input - target) if beta == 0 else (input - target)/beta "
                 "if abs(input - target) < beta else sign(input - target)",
        "target": "sign(target - input) if beta == 0 else (target - input)/beta "
                  "if abs(input - target) < beta else sign(target - input)",
    },
)
_elementwise(
    "huber_loss(Tensor input, Tensor target, str reduction='mean', float delta=1)",
    "(input - target)**2/2 if abs(input - target) <= delta else "
    "delta*(abs(input - target) - delta/2)",
    ("F.huber_loss(x[2,3], t[2,3]/7)", "F.huber_loss(x[3], t[3]/2, delta=0.5)",
     "F.huber_loss(x[3], t[3], reduction='none')"),
    derivatives={
        "input": "input - target if abs(input - target) <= delta else delta*sign(input - target)",
        "target": "target - input if abs(input - target) <= delta else delta*sign(target - input)",
    },
)
_elementwise(
    "binary_cross_entropy(Tensor input, Tensor target, Tensor? weight=None, "
    "str reduction='mean')",
    "-(target*max(log(input), -100) + (1 - target)*max(log(1 - input), -100))"
    "*(1 if weight is None else weight)",
    ("F.binary_cross_entropy(x[3]/4, t[3]/7)",
     "F.binary_cross_entropy(x[2,3]/7, t[2,3]/13, reduction='none')",
     "F.binary_cross_entropy(x[3]/4, t[3]/7, weight=[1, 2, 3], reduction='sum')"),
    derivatives={
        "input": "(input - target)/max(input*(1 - input), 9.999999960041972e-13)"
                 "*(1 if weight is None else weight)",
        "target": "(log(1 - input) - log(input))*(1 if weight is None else weight)",
        "weight": "-(target*max(log(input), -100) + (1 - target)*max(log(1 - input), -100))",
    },
    singular=lambda x, *_: (x <= 0) | (x >= 1),
    kink="at 0 and 1 PyTorch holds the logarithm at −100 and the denominator x·(1 − x) at 1e-12 "
         "(in single precision)",
    coarse=(Coarse(1e-10, "PyTorch's double backward adds 1e-12 to the denominator x·(1 − x)", 2),),
)
_elementwise(
    "binary_cross_entropy_with_logits(Tensor input, Tensor target, Tensor? weight=None, "
    "str reduction='mean', Tensor? pos_weight=None)",
    "((1 - target)*input + (1 if pos_weight is None else 1 + (pos_weight - 1)*target)"
    "*(log1p(exp(-abs(input))) + max(-input, 0)))*(1 if weight is None else weight)",
    ("F.binary_cross_entropy_with_logits(x[3] - 2, t[3]/7)",
     "F.binary_cross_entropy_with_logits(x[2,3] - 4, t[2,3]/13, reduction='none')",
     "F.binary_cross_entropy_with_logits(x[2,3] - 4, t[2,3]/13, pos_weight=[1, 2, 3])",
     "F.binary_cross_entropy_with_logits(x[3] - 2, t[3]/7, weight=[1, 2, 3])"),
    derivatives={
        "input": "(sigmoid(input) - target if pos_weight is None else (1 - target)*sigmoid(input) "
                 "- pos_weight*target*sigmoid(-input))*(1 if weight is None else weight)",
        "target": "(-input if pos_weight is None else (pos_weight - 1)*(log1p(exp(-abs(input))) "
                  "+ max(-input, 0)) - input)*(1 if weight is None else weight)",
        "weight": "(1 - target)*input + (1 if pos_weight is None else 1 + (pos_weight - 1)*target)"
                  "*(log1p(exp(-abs(input))) + max(-input, 0))",
        "pos_weight": "target*(log1p(exp(-abs(input))) + max(-input, 0))"
                      "*(1 if weight is None else weight)",
    },
)
_elementwise(
    "kl_div(Tensor input, Tensor target, str reduction='mean', *, bool log_target=False)",
    "exp(target)*(target - input) if log_target else "
    "(0 if target == 0 else target*log(target)) - target*input",
    ("F.kl_div(log(x[2,3]/7), t[2,3]/21, reduction='batchmean')",
     "F.kl_div(log(x[3]/7), t[3]/21, reduction='sum')",
     "F.kl_div(log(x[3]/7), log(t[3]/21), reduction='none', log_target=True)"),
    derivatives={
        "input": "-exp(target) if log_target else -target",
        "target": "exp(target)*(target - input + 1) if log_target else log(target) + 1 - input",
    },
    batchmean=True,
)
_elementwise(
    "hinge_embedding_loss(Tensor input, Tensor target, float margin=1, str reduction='mean')",
    "(input if target != -1 else 0) + (max(margin - input, 0) if target != 1 else 0)",
    ("F.hinge_embedding_loss(x[4]/3, [1, -1, -1, 1])",
     "F.hinge_embedding_loss(x[4]/3, [1, -1, -1, 1], margin=0.7, reduction='none')"),
    derivatives={
        "input": "(1 if target != -1 else 0) - (1 if target != 1 and input <= margin else 0)",
        "target": "0",  # it only chooses between the two
    },
    singular=lambda x, t, margin, _: (x == margin) & (t != 1),
    kink="at the margin itself PyTorch passes the gradient on",
)
_elementwise(
    "margin_ranking_loss(Tensor input1, Tensor input2, Tensor target, float margin=0, "
    "str reduction='mean')", "max(-target*(input1 - input2) + margin, 0)",
    ("F.margin_ranking_loss(x[3], y[3]/2, [1, -1, 1])",
     "F.margin_ranking_loss(x[3], y[3]/2, [1, -1, 1], margin=0.5, reduction='none')"),
    derivatives={
        "input1": "-target if margin - target*(input1 - input2) >= 0 else 0",
        "input2": "target if margin - target*(input1 - input2) >= 0 else 0",
        "target": "input2 - input1 if margin - target*(input1 - input2) >= 0 else 0",
    },
    singular=lambda a, b, t, margin, _: margin - t * (a - b) == 0,
    kink="at the margin itself PyTorch passes the gradient on",
)
_elementwise(
    "soft_margin_loss(Tensor input, Tensor target, str reduction='mean')",
    "max(-target*input, 0) + log1p(exp(-abs(target*input)))",
    ("F.soft_margin_loss(x[3], [1, -1, 1])",
     "F.soft_margin_loss(x[3], [1, -1, 1], reduction='none')"),
    derivatives={"input": "-target*sigmoid(-target*input)",
                 "target": "-input*sigmoid(-target*input)"},
    call=lambda torch, x, t, r: torch.nn.functional.soft_margin_loss(x, t, reduction=r),
)
_elementwise(
    "poisson_nll_loss(Tensor input, Tensor target, bool log_input=True, bool full=False, "
    "float eps=1e-8, str reduction='mean')",
    "(exp(input) - target*input if log_input else input - target*log(input + eps)) + "
    "((target*log(target) - target + log(2*pi*target)/2 if target > 1 else 0) if full else 0)",
    ("F.poisson_nll_loss(x[3], t[3])", "F.poisson_nll_loss(x[3], t[3], log_input=False)",
     "F.poisson_nll_loss(x[3], t[3], full=True, reduction='sum')"),
    singular=lambda x, t, log_input, full, *_: (t <= 0) & full,
    kink="for a target of 0 or below PyTorch's backward goes through log(target), which it then leaves out",
)
_GAUSSIAN = _elementwise(
    "gaussian_nll_loss(Tensor input, Tensor target, Tensor var, bool full, float eps, "
    "str reduction)",
    "(log(max(var, eps)) + (input - target)**2/max(var, eps))/2 + (log(2*pi)/2 if full else 0)",
    (), homes="",
    derivatives={
        "input": "(input - target)/max(var, eps)", "target": "(target - input)/max(var, eps)",
        "var": "(1/max(var, eps) - (input - target)**2/max(var, eps)**2)/2",
    },
    call=lambda torch, x, t, var, full, eps, r: torch.nn.functional.gaussian_nll_loss(
        x, t, var, full=full, eps=eps, reduction=r),
    written=lambda c, x, t, var, full, eps, r: f"F.gaussian_nll_loss({x}, {t}, {var}, "
        f'full={full}, eps={eps!r}, reduction="{r}")',
)


def _gaussian(b: Any, x: Any, target: Any, var: Any, full: bool, eps: float, r: str) -> Any:
    """One variance for each row, as PyTorch reads a ``var`` that lacks the input's last dim."""
    shape, own = b.shape(x), b.shape(var)
    if own and own == shape[:-1]:
        var = b.call("unsqueeze", var, -1)
    one_differs = len(own) == len(shape) and [n for n, m in zip(own, shape, strict=True) if n != m]
    expect(not own or own in (shape, shape[:-1]) or one_differs == [1],
           "gaussian_nll_loss: var of shape {} does not fit the input of shape {}", own, shape,
           remedy="give a variance for each element, for each row, or one number")
    return b.apply(_GAUSSIAN, x, target, var, full, eps, r)


register(Op(
    "gaussian_nll_loss(Tensor input, Tensor target, Tensor var, bool full=False, float eps=1e-6, "
    "str reduction='mean')", _FAMILY, homes="F", expand=_gaussian,
    samples=("F.gaussian_nll_loss(x[3], t[3], w[3])", "F.gaussian_nll_loss(x[2,3], t[2,3], w[2])",
             "F.gaussian_nll_loss(x[2,3], t[2,3], w[2,3], full=True, reduction='none')"),
))

# -- losses made of others -----------------------------------------------------------------------


def _reduce(b: Any, name: str, loss: Any, reduction: str) -> Any:
    check_reduction(name, reduction)
    return loss if reduction == "none" else b.call(reduction, loss)


def _cosine_embedding(b: Any, x1: Any, x2: Any, target: Any, margin: float, reduction: str) -> Any:
    cos = b.call("cosine_similarity", x1, x2, len(b.shape(x1)) - 1)
    same = b.call("sub", 1, cos)
    apart = b.call("clamp_min", b.call("sub", cos, margin) if margin else cos, 0)
    loss = b.call("where", b.call("eq", target, 1), same, apart)
    return _reduce(b, "cosine_embedding_loss", loss, reduction)


register(Op(
    "cosine_embedding_loss(Tensor input1, Tensor input2, Tensor target, float margin=0, "
    "str reduction='mean')", _FAMILY, homes="torch F", expand=_cosine_embedding,
    samples=("F.cosine_embedding_loss(x[2,3], y[2,3], [1, -1])",
             "F.cosine_embedding_loss(x[2,3], y[2,3], [1, -1], margin=0.5, reduction='sum')"),
))


def _multilabel(b: Any, x: Any, target: Any, weight: Any, reduction: str) -> Any:
    each = b.call("binary_cross_entropy_with_logits", x, target, weight, reduction="none")
    return _reduce(b, "multilabel_soft_margin_loss", b.call("mean", each, -1), reduction)


register(Op(
    "multilabel_soft_margin_loss(Tensor input, Tensor target, Tensor? weight=None, *, "
    "str reduction='mean')", _FAMILY, homes="F", expand=_multilabel,
    samples=("F.multilabel_soft_margin_loss(x[2,3] - 4, [[1, 0, 1], [0, 0, 1]])",
             "F.multilabel_soft_margin_loss(x[2,3] - 4, [[1, 0, 1], [0, 0, 1]], [1, 2, 3], "
             "reduction='none')"),
))


def _triplet(b: Any, anchor: Any, positive: Any, negative: Any, margin: float, p: float, eps: float,
             swap: bool, reduction: str) -> Any:
    near = b.call("pairwise_distance", anchor, positive, p, eps)
    far = b.call("pairwise_distance", anchor, negative, p, eps)
    if swap:
        far = b.call("minimum", far, b.call("pairwise_distance", positive, negative, p, eps))
    loss = b.call("clamp_min", b.call("add", b.call("sub", near, far), margin), 0)
    return _reduce(b, "triplet_margin_loss", loss, reduction)


register(Op(
    "triplet_margin_loss(Tensor anchor, Tensor positive, Tensor negative, float margin=1, "
    "float p=2, float eps=1e-6, bool swap=False, str reduction='mean')", _FAMILY, homes="torch F",
    expand=_triplet,
    samples=("F.triplet_margin_loss(x[2,3], y[2,3], z[2,3])",
             "F.triplet_margin_loss(x[2,3], y[2,3], z[2,3]/2, margin=2, swap=True, "
             "reduction='sum')"),
))
