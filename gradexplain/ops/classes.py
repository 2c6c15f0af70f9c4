"""Losses of classes: the target is a class, or a share of each."""
# fmt: off

from __future__ import annotations

from collections.abc import Callable
from math import prod as size
from typing import Any

import numpy as np

from gradexplain.errors import InputError
from gradexplain.ops.base import Op, Shape, expect, register
from gradexplain.ops.kernels import softmax
from gradexplain.ops.losses import check_reduction
from gradexplain.ops.reductions import SOFTMAX

_FAMILY = "loss"


def _split(x: Shape, target: Shape, name: str) -> tuple[int, Shape]:
    """The number of classes and the shape without them; scores are in dim 1 (dim 0 of a row)."""
    expect(bool(x), f"{name} needs scores with a class dimension, found shape ()")
    axis = 0 if len(x) == 1 else 1
    rest = (*x[:axis], *x[axis + 1 :])
    expect(tuple(target) == rest, f"{name}: input of shape {{}} has the target shape {{}}, one "
           "class index each; found {}", x, rest, target, remedy="classes are in dimension 1 of the input")
    return x[axis], rest


def _axis(x: Any) -> int:
    return 0 if x.rank == 1 else 1


def _with_class(at: Any, axis: int, value: Any) -> tuple[Any, ...]:
    return (*at[:axis], value, *at[axis:])


def _class_check(target: Any, classes: int, ignore: int) -> None:
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
    check_reduction("nll_loss", reduction)
    classes, shape = _split(x, target, "nll_loss")
    _class_check(target, classes, ignore)
    return shape if reduction == "none" else ()


def _over_rows(k: Any, reduction: str, shape: Shape, row: Callable[[Any], Any],
               rows: Callable[[], Any]) -> Any:
    """The rows' values, their sum, or that divided by the number of ``rows``."""
    if reduction == "none":
        return row(k.i)
    at = k.bounds(shape)
    total = k.sum(row(at), *at)
    return total / rows() if reduction == "mean" else total


def _of_row(k: Any, reduction: str, at: Any, slope: Any, rows: Callable[[], Any]) -> Any:
    """The derivative by an element of the row ``at``, of which ``slope`` is that of the row's value."""
    if reduction == "none":
        return k.deltas(k.i, at) * slope
    return slope / rows() if reduction == "mean" else slope


def _rows(k: Any, target: Any, weight: Any, kept: Any) -> Callable[[], Any]:
    """What the mean divides by: the number of rows, or the sum of their weights."""

    def rows() -> Any:
        at = k.bounds(target.shape)
        return k.sum(_counted(k, target, weight, kept, at), *at)

    return rows


def _nll(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str, kept: Any) -> Any:
    def row(at: Any) -> Any:
        counted = _counted(k, target, weight, kept, at)
        return -counted * x[_with_class(at, _axis(x), target[at])]

    return _over_rows(k, reduction, target.shape, row, _rows(k, target, weight, kept))


def _nll_slope(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
               kept: Any) -> Any:
    """``−[c = target[n]]/N``."""
    axis = _axis(x)
    if k.wrt == "weight":
        return _weight_slope(k, target, kept, reduction, weight,
                             lambda at, c: -k.delta(target[at], c) * x[_with_class(at, axis, target[at])])
    at = (*k.j[:axis], *k.j[axis + 1 :])
    slope = -_counted(k, target, weight, kept, at) * k.delta(target[at], k.j[axis])
    return _of_row(k, reduction, at, slope, _rows(k, target, weight, kept))


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

    return _over_rows(k, reduction, target.shape, term, _rows(k, target, weight, kept))


register(Op(
    "nll_loss(Tensor input, IntTensor target, Tensor? weight=None, int ignore_index=-100, "
    "str reduction='mean', Aux kept)", _FAMILY, homes="F",
    shape=_nll_shape, element=_nll, jacobian=_nll_slope,
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
    check_reduction("cross_entropy", reduction)
    expect(0 <= smoothing <= 1, f"label_smoothing must be between 0 and 1, found {smoothing}",
           remedy="0.1 is common")
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
    return _over_rows(k, reduction, target.shape,
                      lambda at: _ce_row(k, x, target, weight, kept, smoothing, at),
                      _rows(k, target, weight, kept))


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
    return _of_row(k, reduction, at, slope, _rows(k, target, weight, kept))


def _ce_value(exact: bool, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
              smoothing: float, p: Any, *_: Any) -> Any:
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


_CE_ARGUMENTS = ("Tensor? weight=None, int ignore_index=-100, str reduction='mean', "
                 "float label_smoothing=0")

register(Op(
    f"cross_entropy(Tensor input, IntTensor target, {_CE_ARGUMENTS}, Aux p, Aux kept)", _FAMILY,
    homes="F",
    shape=_ce_shape, element=_ce, jacobian=_ce_slope, value=_ce_value,
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
    check_reduction("cross_entropy", reduction)
    expect(tuple(x) == tuple(target),
           "cross_entropy with class probabilities needs a target of the input's shape {}, found {}", x,
           target, remedy="for class indices give whole numbers, as in [2, 0]")
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

    return _over_rows(k, reduction, _row_shape(x), row, lambda: size(_row_shape(x)))


def _smoothed(k: Any, target: Any, classes: int, smoothing: float) -> Any:
    share = k.number(smoothing)
    return target * (1 - share) + share / classes if smoothing else target


def _row_shape(x: Any) -> Shape:
    axis = _axis(x)
    return (*x.shape[:axis], *x.shape[axis + 1 :])


def _soft_slope(k: Any, x: Any, target: Any, weight: Any, ignore: int, reduction: str,
                smoothing: float, p: Any) -> Any:
    """``p[n,c]·Σ_q t[n,q] − t[n,c]``, and by the target ``−log p[n,c]``."""
    axis, classes = _axis(x), x.shape[_axis(x)]
    if k.wrt == "weight":

        def share_of(at: Any) -> Any:
            here = _with_class(at, axis, k.j[0])
            return -_smoothed(k, target[here], classes, smoothing) * k.log(p[here])

        return _over_rows(k, reduction, _row_shape(x), share_of, lambda: size(_row_shape(x)))
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
    return _of_row(k, reduction, at, slope, lambda: size(_row_shape(x)))


register(Op(
    f"cross_entropy(Tensor input, Tensor target, {_CE_ARGUMENTS}, Aux p)", _FAMILY, homes="F",
    shape=_soft_shape, element=_soft, jacobian=_soft_slope,
    aux=lambda b, x, *_: (_probabilities(b, x),),
    samples=("F.cross_entropy(x[2,3], t[2,3]/3.5)",
             "F.cross_entropy(x[3], t[3]/7, reduction='sum')",
             "F.cross_entropy(x[2,3], t[2,3]/3.5, reduction='none', label_smoothing=0.2)",
             "F.cross_entropy(x[2,3], t[2,3]/3.5, weight=[1, 2, 3])",
             "F.cross_entropy(x[2,3], t[2,3]/3.5, weight=w[3])"),
))
