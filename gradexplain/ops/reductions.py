"""Reductions: a sum, a product, a norm over some dims; and softmax, which keeps the shape."""

from __future__ import annotations

from math import prod as size
from typing import Any

from gradexplain.ops.base import Op, Shape, normal_dim, normal_dims, reduced, register

_FAMILY = "reduction"


def _reduced(shape: Shape, dim: Any, keepdim: bool = False, *_: Any) -> Shape:
    return reduced(shape, normal_dims(dim, len(shape)), keepdim)


def _same(shape: Shape, dim: int | None = None, *_: Any) -> Shape:
    if dim is not None:
        normal_dim(dim, len(shape))
    return shape


def inner(k: Any, x: Any, dim: Any, keepdim: bool) -> tuple[tuple[Any, ...], list[Any]]:
    """The indices of ``x`` under the reduction whose result is at ``k.i``, and the bound ones."""
    dims = normal_dims(dim, x.rank)
    left = iter(k.i)
    at, bound = [], []
    for axis, n in enumerate(x.shape):
        if axis in dims:
            at.append(k.bound(n))
            bound.append(at[-1])
            if keepdim:
                next(left)
        else:
            at.append(next(left))
    return tuple(at), bound


def outer(k: Any, x: Any, dim: Any, keepdim: bool) -> Any:
    """In a Jacobian: the deltas that tie ``k.j`` to ``k.i`` on the dims that are kept."""
    dims = normal_dims(dim, x.rank)
    left = iter(k.i)
    ties = k.S.S.One
    for axis in range(x.rank):
        if axis in dims:
            if keepdim:
                next(left)
        else:
            ties *= k.delta(next(left), k.j[axis])
    return ties


def _sum(k: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.sum(x[at], *bound)


def _mean(k: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.sum(x[at], *bound) / size(x.shape[d] for d in normal_dims(dim, x.rank))


def _prod(k: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.product(x[at], *bound)


register(Op(
    "sum(Tensor input, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=_reduced, element=_sum,
    samples=("x[2,3].sum()", "x[2,3].sum(dim=0)", "sum(x[2,3,2], dim=(0, -1), keepdim=True)"),
))
register(Op(
    "mean(Tensor input, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=_reduced, element=_mean,
    samples=("x[2,3].mean()", "x[2,3].mean(dim=1)", "mean(x[2,3], -1, keepdim=True)"),
))
register(Op(
    "prod(Tensor input, int? dim=None, bool keepdim=False)", _FAMILY,
    shape=_reduced, element=_prod,
    samples=("x[3].prod()", "x[2,3].prod(dim=1)", "prod(x[2,3], 0, keepdim=True)"),
    torch=lambda torch, x, dim, keepdim: x.prod() if dim is None else x.prod(dim, keepdim),
))


def _logsumexp(k: Any, x: Any, dim: Any, keepdim: bool = False) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.log(k.sum(k.exp(x[at]), *bound))


def _logsumexp_slope(k: Any, x: Any, dim: Any, keepdim: bool = False) -> Any:
    return outer(k, x, dim, keepdim) * k.exp(x[k.j] - k.out[k.i])


register(Op(
    "logsumexp(Tensor input, int[] dim, bool keepdim=False)", _FAMILY,
    shape=_reduced, element=_logsumexp, jacobian=_logsumexp_slope,
    homes="torch Tensor special", samples=("logsumexp(x[3], 0)", "x[2,3].logsumexp(dim=(0, 1))"),
))


def _norm_shape(shape: Shape, p: Any, dim: Any, keepdim: bool = False) -> Shape:
    return _reduced(shape, dim, keepdim)


def _norm(k: Any, x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    order = k.number(p)
    if p == 2:
        return k.sqrt(k.sum(x[at] ** 2, *bound))
    if p == 1:
        return k.sum(abs(x[at]), *bound)
    return k.sum(abs(x[at]) ** order, *bound) ** (1 / order)


def _norm_slope(k: Any, x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Any:
    ties = outer(k, x, dim, keepdim)
    here, y = x[k.j], k.out[k.i]
    if p == 1:
        return ties * k.sign(here)
    # 0 where the norm is 0: PyTorch's subgradient.
    if p == 2:
        return ties * here / y
    order = k.number(p)
    return ties * k.sign(here) * abs(here) ** (order - 1) * y ** (1 - order)


register(Op(
    "norm(Tensor input, float p=2, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=_norm_shape, element=_norm, jacobian=_norm_slope,
    kink="the norm has no derivative at 0: PyTorch returns 0",
    samples=("x[3].norm()", "norm(x[2,3], dim=1)", "x[2,3].norm(p=3, dim=0, keepdim=True)",
             "norm(x[3], 1)"),
))
