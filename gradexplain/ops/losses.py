"""Losses: one number for each element or row, then ``reduction``: their mean, sum, or none."""
# fmt: off

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod as size
from typing import Any

from gradexplain.errors import InputError
from gradexplain.ops.base import Coarse, Op, Shape, broadcast, register, show_shape
from gradexplain.ops.kernels import softmax
from gradexplain.ops.reductions import SOFTMAX, under

_FAMILY = "loss"
_REDUCTIONS = ("none", "mean", "sum")


def _check(name: str, reduction: str) -> None:
    if reduction not in _REDUCTIONS:
        raise InputError(
            f"{name}: {reduction!r} is not a reduction", remedy="use 'mean', 'sum' or 'none'"
        )


# -- losses of each element ----------------------------------------------------------------------


def _elementwise(
    schema: str, formula: str, samples: tuple[str, ...], *,
    derivatives: Mapping[str, str] | None = None,
    singular: Callable[..., Any] | None = None, kink: str = "", batchmean: bool = False,
    aliases: tuple[str, ...] = (), homes: str = "F", call: Any = None,
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
        _check(name, "mean" if batchmean and reduction(args) == "batchmean" else reduction(args))
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
        import numpy as np

        assert singular is not None
        mask = np.asarray(singular(*args))
        if reduction(args) == "none":
            return np.broadcast_to(mask, np.shape(y))
        return np.reshape(mask.any(), ())

    op = Op(
        schema, _FAMILY, samples, homes=homes, aliases=aliases, shape=shape, element=element,
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
    call=lambda torch, x, t, log_input, full, eps, r: torch.nn.functional.poisson_nll_loss(
        x, t, log_input=log_input, full=full, eps=eps, reduction=r),
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
    if own and own not in (shape, shape[:-1]) and one_differs != [1]:
        raise InputError(
            f"gaussian_nll_loss: var of shape {show_shape(own)} does not fit the input of shape "
            f"{show_shape(shape)}",
            remedy="give a variance for each element, for each row, or one number",
        )
    return b.apply(_GAUSSIAN, x, target, var, full, eps, r)


register(Op(
    "gaussian_nll_loss(Tensor input, Tensor target, Tensor var, bool full=False, float eps=1e-6, "
    "str reduction='mean')", _FAMILY, homes="F", expand=_gaussian,
    samples=("F.gaussian_nll_loss(x[3], t[3], w[3])", "F.gaussian_nll_loss(x[2,3], t[2,3], w[2])",
             "F.gaussian_nll_loss(x[2,3], t[2,3], w[2,3], full=True, reduction='none')"),
))

# -- losses of classes ---------------------------------------------------------------------------


def _split(x: Shape, target: Shape, name: str) -> tuple[int, Shape]:
    """The number of classes and the shape without them; scores are in dim 1 (dim 0 of a row)."""
    if not x:
        raise InputError(f"{name} needs scores with a class dimension, found shape ()")
    axis = 0 if len(x) == 1 else 1
    rest = (*x[:axis], *x[axis + 1 :])
    if tuple(target) != rest:
        raise InputError(
            f"{name}: input of shape {show_shape(x)} has the target shape {show_shape(rest)}, one "
            f"class index each; found {show_shape(target)}",
            remedy="classes are in dimension 1 of the input",
        )
    return x[axis], rest


def _axis(x: Any) -> int:
    return 0 if x.rank == 1 else 1


def _with_class(at: Any, axis: int, value: Any) -> tuple[Any, ...]:
    return (*at[:axis], value, *at[axis:])


def _class_check(target: Any, classes: int, ignore: int) -> None:
    import numpy as np

    value = getattr(target, "value", None)
    if value is None:
        return
    for c in np.asarray(value).ravel().tolist():
        if int(c) != ignore and not 0 <= int(c) < classes:
            raise InputError(
                f"target {int(c)} is out of bounds for {classes} classes",
                remedy=f"class indices go from 0 to {classes - 1}",
            )


#: 1 for a row that counts, 0 for one whose class is ``ignore_index``.
_KEPT = register(Op(
    "kept(IntTensor target, int ignore_index)", _FAMILY, (), homes="", integer=True,
    formula="1 if target != ignore_index else 0", torch=lambda *_: None,
    show=lambda target, ignore: f"{target} != {ignore}",
))


def _kept(b: Any, target: Any, ignore: int) -> Any:
    """The helper that marks the rows that count; None where all of them do."""
    import numpy as np

    value = b.value(target)
    if value is None or not (np.asarray(value) == ignore).any():
        return None
    return b.helper(_KEPT, target, ignore, label="kept")


def _counted(k: Any, target: Any, weight: Any, kept: Any, at: Any) -> Any:
    """The weight of one row: 0 for the class that is ignored."""
    here = k.S.S.One if weight is None else weight[(target[at],)]
    return here if kept is None else here * kept[at]


def _nll_shape(x: Shape, target: Shape, weight: Any, ignore: int, reduction: str,
               *_: Any) -> Shape:
    _check("nll_loss", reduction)
    classes, shape = _split(x, target, "nll_loss")
    _class_check(target, classes, ignore)
    return shape if reduction == "none" else ()


def _nll(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str, kept: Any) -> Any:
    def row(at: Any) -> Any:
        counted = _counted(k, target, weight, kept, at)
        return -counted * x[_with_class(at, _axis(x), target[at])]

    if reduction == "none":
        return row(k.i)
    at = k.bounds(target.shape)
    total = k.sum(row(at), *at)
    return total / _rows(k, target, weight, kept) if reduction == "mean" else total


def _rows(k: Any, target: Any, weight: Any, kept: Any) -> Any:
    """What the mean divides by: the number of rows, or the sum of their weights."""
    at = k.bounds(target.shape)
    return k.sum(_counted(k, target, weight, kept, at), *at)


def _nll_slope(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
               kept: Any) -> Any:
    """``−[c = target[n]]/N``."""
    axis = _axis(x)
    if k.wrt == "weight":
        return _weight_slope(k, target, kept, reduction, weight,
                             lambda at, c: -k.delta(target[at], c) * x[_with_class(at, axis, target[at])])
    at = (*k.j[:axis], *k.j[axis + 1 :])
    slope = -_counted(k, target, weight, kept, at) * k.delta(target[at], k.j[axis])
    if reduction == "none":
        return k.deltas(k.i, at) * slope
    return slope / _rows(k, target, weight, kept) if reduction == "mean" else slope


def _weight_slope(k: Any, target: Any, kept: Any, reduction: str, weight: Any,
                  share: Callable[..., Any]) -> Any:
    """By a class's weight: its ``share(row, class)`` of each row's loss; the weights that a mean
    divides by take ``y`` of that away."""
    (c,) = k.j

    def term(at: Any) -> Any:
        found = share(at, c)
        if reduction == "mean":
            found -= k.delta(target[at], c) * k.out[()]
        return found if kept is None else found * kept[at]

    if reduction == "none":
        return term(k.i)
    at = k.bounds(target.shape)
    total = k.sum(term(at), *at)
    return total / _rows(k, target, weight, kept) if reduction == "mean" else total


def _nll_back(c: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
              kept: Any) -> str | None:
    """``−w[target[n]]·v/Σ w`` at the class of each row, 0 elsewhere."""
    if c.wrt == "weight":
        return None
    each, divisor = _row_weights(c, x, target, weight, ignore, reduction)
    share = f"-{c.grad}" if each is None else f"-{c.grad} * {each}"
    share = c.let("share", f"{share} / {divisor}" if divisor else share)
    if reduction != "none" and each is None:
        share = f"{share}.expand({target}.shape)"
    axis = _axis(x)
    # An ignored class may be no class at all: its share is 0 wherever it goes.
    at = target if not _ignores(target, ignore) else f"{target}.clamp(0, {x}.shape[{axis}] - 1)"
    return (f"torch.zeros_like({x}).scatter({axis}, {at}.unsqueeze({axis}), "
            f"{share}.unsqueeze({axis}))")


def _ignores(target: Any, ignore: int) -> bool:
    """Whether rows may be left out: not where the ignored class is PyTorch's -100, no class."""
    return ignore != -100


def _row_weights(c: Any, x: Any, target: Any, weight: Any, ignore: int,
                 reduction: str) -> tuple[str | None, str]:
    """How much each row counts, None where all count 1; and what a mean divides by."""
    kept = c.let("kept", f"{target} != {ignore}") if _ignores(target, ignore) else None
    at = target if kept is None else f"{target}.clamp(0, {x}.shape[{_axis(x)}] - 1)"
    each = None if kept is None else str(kept)
    if weight is not None:
        each = c.let("each", f"{weight}[{at}]" + (f" * {kept}" if kept else ""))
    if reduction != "mean":
        return each, ""
    return each, f"{target}.numel()" if each is None else f"{each}.sum()"


register(Op(
    "nll_loss(Tensor input, IntTensor target, Tensor? weight=None, int ignore_index=-100, "
    "str reduction='mean', Aux kept)", _FAMILY, homes="F",
    shape=_nll_shape, element=_nll, jacobian=_nll_slope, backward=_nll_back,
    torch=lambda torch, x, t, w, i, r, _: torch.nn.functional.nll_loss(
        x, torch.as_tensor(t), weight=w, ignore_index=i, reduction=r),
    aux=lambda b, x, target, weight, ignore, reduction: (_kept(b, target, ignore),),
    samples=("F.nll_loss(x[2,3], [2, 0])", "F.nll_loss(x[2,3], [2, 0], weight=[1, 2, 3])",
             "F.nll_loss(x[3,3], [2, 0, 1], reduction='none')",
             "F.nll_loss(x[2,3,2], [[2, 0], [1, 1]], ignore_index=1)",
             "F.nll_loss(x[3], tensor(1))", "F.nll_loss(x[2,3], [2, 0], reduction='sum')"),
))


def _ce_shape(x: Shape, target: Shape, weight: Any, ignore: int, reduction: str, smoothing: float,
              *_: Any) -> Shape:
    _check("cross_entropy", reduction)
    if not 0 <= smoothing <= 1:
        raise InputError(
            f"label_smoothing must be between 0 and 1, found {smoothing}", remedy="0.1 is common"
        )
    classes, shape = _split(x, target, "cross_entropy")
    _class_check(target, classes, ignore)
    return shape if reduction == "none" else ()


def _ce_row(k: Any, x: Any, target: Any, weight: Any, kept: Any, smoothing: float, at: Any) -> Any:
    """``log Σ exp(x) − x[target]``, and with smoothing its mean over the classes."""
    axis, classes = _axis(x), x.shape[_axis(x)]
    q = k.bound(classes)
    lse = k.log(k.sum(k.exp(x[_with_class(at, axis, q)]), q))
    counted = _counted(k, target, weight, kept, at)
    row = counted * (lse - x[_with_class(at, axis, target[at])])
    if not smoothing:
        return row
    share = k.number(smoothing)
    q = k.bound(classes)
    each = (1 if weight is None else weight[(q,)]) * (lse - x[_with_class(at, axis, q)])
    spread = k.sum(each, q) / classes
    if kept is not None:
        spread = spread * kept[at]
    return (1 - share) * row + share * spread


def _ce(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str, smoothing: float,
        p: Any, kept: Any) -> Any:
    if reduction == "none":
        return _ce_row(k, x, target, weight, kept, smoothing, k.i)
    at = k.bounds(target.shape)
    total = k.sum(_ce_row(k, x, target, weight, kept, smoothing, at), *at)
    return total / _rows(k, target, weight, kept) if reduction == "mean" else total


def _ce_slope(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
              smoothing: float, p: Any, kept: Any) -> Any:
    """``(p[n,c] − [c = target[n]])/N``; with smoothing the target is spread over the classes."""
    axis, classes = _axis(x), x.shape[_axis(x)]
    if k.wrt == "weight":
        part = k.number(smoothing)

        def of_class(at: Any, c: Any) -> Any:
            own = -k.delta(target[at], c) * k.log(p[_with_class(at, axis, target[at])])
            return (1 - part) * own - part * k.log(p[_with_class(at, axis, c)]) / classes

        return _weight_slope(k, target, kept, reduction, weight, of_class)
    at = (*k.j[:axis], *k.j[axis + 1 :])
    c = k.j[axis]
    counted = _counted(k, target, weight, kept, at)
    hit = k.delta(target[at], c)
    slope = counted * (p[k.j] - hit)
    if smoothing:
        share = k.number(smoothing)
        if weight is None:
            slope = counted * (p[k.j] - (1 - share) * hit - share / classes)
        else:
            q = k.bound(classes)
            every = k.sum(weight[(q,)], q)
            spread = (p[k.j] * every - weight[(c,)]) / classes
            if kept is not None:
                spread = spread * kept[at]
            slope = (1 - share) * slope + share * spread
    if reduction == "none":
        return k.deltas(k.i, at) * slope
    return slope / _rows(k, target, weight, kept) if reduction == "mean" else slope


def _ce_value(exact: bool, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
              smoothing: float, p: Any, *_: Any) -> Any:
    import numpy as np

    axis = 0 if x[0].ndim == 1 else 1
    log_p, magnitude = softmax(x, (axis,), log=True)
    classes = x[0].shape[axis]
    target = np.asarray(target[0], dtype=np.float64).astype(int)
    kept = target != ignore
    index = np.expand_dims(np.clip(target, 0, classes - 1), axis)
    w = np.ones(classes) if weight is None else np.asarray(weight[0], dtype=np.float64)
    here = np.where(kept, w[np.clip(target, 0, classes - 1)], 0.0)
    row = -here * np.take_along_axis(log_p, index, axis).squeeze(axis)
    if smoothing:
        along = w.reshape([-1 if d == axis else 1 for d in range(x[0].ndim)])
        spread = -(along * log_p).sum(axis=axis) / classes
        row = (1 - smoothing) * row + smoothing * np.where(kept, spread, 0.0)
    size_of = np.max(magnitude(), axis=axis) * (here + np.max(np.abs(w)) * bool(smoothing)) + np.abs(row)
    if reduction == "none":
        return row, size_of
    total, spread = row.sum(), size_of.sum()
    if reduction == "mean":
        total, spread = total / here.sum(), spread / here.sum()
    return np.reshape(total, ()), np.reshape(spread, ())


def _probabilities(b: Any, x: Any) -> Any:
    return b.helper(SOFTMAX, x, 0 if len(b.shape(x)) == 1 else 1, label="p")


def _ce_back(c: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
             smoothing: float, *_: Any) -> str | None:
    """``(p·Σ_q s[n,q] − s[n,c])·v`` for the shares ``s`` that the classes have in the target."""
    if c.wrt == "weight":
        return None
    axis = _axis(x)
    each, divisor = _row_weights(c, x, target, weight, ignore, reduction)
    at = f"{target}.clamp(0, {x}.shape[{axis}] - 1)" if _ignores(target, ignore) else target
    hit = f"F.one_hot({at}, {x}.shape[{axis}])"
    hit = c.let("hit", hit if x.rank < 3 else f"{hit}.movedim(-1, 1)")
    p = c.let("p", f"torch.softmax({x}, dim={axis})")
    rows = None if each is None else f"{each}.unsqueeze({axis})"
    of_class = None if weight is None else _along(weight, axis, x.rank)
    if smoothing and of_class is not None:
        hit = f"{hit}.to({x}.dtype)"
        spread = f"({p} * {weight}.sum() - {of_class}) / {x}.shape[{axis}]"
        if _ignores(target, ignore):
            spread = f"{spread} * ({target} != {ignore}).unsqueeze({axis})"
        slope = f"{1 - smoothing} * {rows} * ({p} - {hit}) + {smoothing} * {spread}"
    else:
        own = f"{1 - smoothing} * {hit}.to({x}.dtype)"
        share = f"({own} + {smoothing} / {x}.shape[{axis}])" if smoothing else hit
        slope = f"{p} - {share}" if rows is None else f"({p} - {share}) * {rows}"
    slope = c.let("slope", slope)
    grad = f"{c.grad}.unsqueeze({axis})" if reduction == "none" else c.grad
    return f"{grad} * {slope}" + (f" / {divisor}" if divisor else "")


def _along(weight: Any, axis: int, rank: int) -> str:
    """The weights of the classes where the class is dim ``axis`` of ``rank``."""
    return f"{weight}{''.join('.unsqueeze(-1)' for _ in range(rank - 1 - axis))}"


_CE_ARGUMENTS = ("Tensor? weight=None, int ignore_index=-100, str reduction='mean', "
                 "float label_smoothing=0")

register(Op(
    f"cross_entropy(Tensor input, IntTensor target, {_CE_ARGUMENTS}, Aux p, Aux kept)", _FAMILY,
    homes="F",
    shape=_ce_shape, element=_ce, jacobian=_ce_slope, value=_ce_value, backward=_ce_back,
    aux=lambda b, x, target, weight, ignore, *_: (_probabilities(b, x), _kept(b, target, ignore)),
    torch=lambda torch, x, t, w, i, r, s, *_: torch.nn.functional.cross_entropy(
        x, torch.as_tensor(t), weight=w, ignore_index=i, reduction=r, label_smoothing=s),
    samples=("F.cross_entropy(x[2,3], [2, 0])", "F.cross_entropy(x[2,3], [2, 0], reduction='sum')",
             "F.cross_entropy(x[3,3], [2, 0, 1], reduction='none')",
             "F.cross_entropy(x[2,3], [2, 0], weight=[1, 2, 3])",
             "F.cross_entropy(x[2,3], [2, 0], label_smoothing=0.1)",
             "F.cross_entropy(x[2,3], [2, 0], weight=[1, 2, 3], label_smoothing=0.1)",
             "F.cross_entropy(x[2,3,2], [[2, 0], [1, 1]], ignore_index=1)",
             "F.cross_entropy(x[3], tensor(1))"),
))


def _soft_shape(x: Shape, target: Shape, weight: Any, ignore: int, reduction: str,
                *_: Any) -> Shape:
    _check("cross_entropy", reduction)
    if tuple(x) != tuple(target):
        raise InputError(
            f"cross_entropy with class probabilities needs a target of the input's shape "
            f"{show_shape(x)}, found {show_shape(target)}",
            remedy="for class indices give whole numbers, as in [2, 0]",
        )
    axis = 0 if len(x) == 1 else 1
    return (*x[:axis], *x[axis + 1 :]) if reduction == "none" else ()


def _soft(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str, smoothing: float,
          p: Any) -> Any:
    axis, classes = _axis(x), x.shape[_axis(x)]

    def row(at: Any) -> Any:
        q, r = k.bound(classes), k.bound(classes)
        lse = k.log(k.sum(k.exp(x[_with_class(at, axis, r)]), r))
        here = _with_class(at, axis, q)
        share = _smoothed(k, target[here], classes, smoothing)
        return k.sum((1 if weight is None else weight[(q,)]) * share * (lse - x[here]), q)

    if reduction == "none":
        return row(k.i)
    at = k.bounds((*x.shape[:axis], *x.shape[axis + 1 :]))
    return k.sum(row(at), *at) / _batch(x, reduction)


def _smoothed(k: Any, target: Any, classes: int, smoothing: float) -> Any:
    share = k.number(smoothing)
    return target * (1 - share) + share / classes if smoothing else target


def _batch(x: Any, reduction: str) -> int:
    axis = _axis(x)
    return size((*x.shape[:axis], *x.shape[axis + 1 :])) if reduction == "mean" else 1


def _soft_slope(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
                smoothing: float, p: Any) -> Any:
    """``p[n,c]·Σ_q t[n,q] − t[n,c]``, and by the target ``−log p[n,c]``."""
    axis, classes = _axis(x), x.shape[_axis(x)]
    if k.wrt == "weight":
        at = k.i if reduction == "none" else k.bounds((*x.shape[:axis], *x.shape[axis + 1 :]))
        here = _with_class(at, axis, k.j[0])
        loss = -_smoothed(k, target[here], classes, smoothing) * k.log(p[here])
        return loss if reduction == "none" else k.sum(loss, *at) / _batch(x, reduction)
    at = (*k.j[:axis], *k.j[axis + 1 :])
    c = k.j[axis]
    if k.wrt == "target":
        slope = -k.log(p[k.j]) * (1 - k.number(smoothing)) * (1 if weight is None else weight[(c,)])
    else:
        q = k.bound(classes)

        def share(place: Any) -> Any:
            spread = _smoothed(k, target[_with_class(at, axis, place)], classes, smoothing)
            return spread * (1 if weight is None else weight[(place,)])

        slope = p[k.j] * k.sum(share(q), q) - share(c)
    if reduction == "none":
        return k.deltas(k.i, at) * slope
    return slope / _batch(x, reduction)


register(Op(
    f"cross_entropy(Tensor input, Tensor target, {_CE_ARGUMENTS}, Aux p)", _FAMILY, homes="F",
    shape=_soft_shape, element=_soft, jacobian=_soft_slope,
    aux=lambda b, x, *_: (_probabilities(b, x),),
    torch=lambda torch, x, t, w, i, r, s, _: torch.nn.functional.cross_entropy(
        x, t, weight=w, ignore_index=i, reduction=r, label_smoothing=s),
    samples=("F.cross_entropy(x[2,3], t[2,3]/3.5)",
             "F.cross_entropy(x[3], t[3]/7, reduction='sum')",
             "F.cross_entropy(x[2,3], t[2,3]/3.5, reduction='none', label_smoothing=0.2)",
             "F.cross_entropy(x[2,3], t[2,3]/3.5, weight=[1, 2, 3])",
             "F.cross_entropy(x[2,3], t[2,3]/3.5, weight=w[3])"),
))

# -- losses made of others -----------------------------------------------------------------------


def _reduce(b: Any, name: str, loss: Any, reduction: str) -> Any:
    _check(name, reduction)
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
