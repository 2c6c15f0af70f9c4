"""Norms and distances."""
# fmt: off

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from gradexplain.errors import UnsupportedError
from gradexplain.ops.base import (
    Coarse,
    Op,
    Shape,
    broadcast,
    expect,
    normal_dim,
    normal_dims,
    register,
)
from gradexplain.ops.extrema import several
from gradexplain.ops.reductions import (
    inner,
    nothing,
    outer,
    reduced_shape,
    same_but,
    same_shape,
    under,
)

_FAMILY = "reduction"


# -- norms and distances -------------------------------------------------------------------------


def _total(k: Any, p: float, here: Any, bound: list[Any]) -> Any:
    """The p-norm of ``here`` over ``bound``."""
    if p == 2:
        return k.sqrt(k.sum(here**2, *bound))
    if p == 1:
        return k.sum(abs(here), *bound)
    if p == 0:
        return k.sum(k.iverson(k.ne(here, 0)), *bound)
    if p in (inf, -inf):
        return (k.greatest if p > 0 else k.least)(abs(here), *bound)
    order = k.number(p)
    return k.sum(abs(here) ** order, *bound) ** (1 / order)


def _total_slope(k: Any, p: float, here: Any, y: Any, others: Any, bound: list[Any]) -> Any:
    """The derivative of the norm ``y`` by ``here``, one of the ``others`` over ``bound``."""
    if p == 2:
        return here / k.nonzero(y)
    if p == 1:
        return k.sign(here)
    if p == 0:
        return k.S.S.Zero
    if p in (inf, -inf):
        ties = k.sum(k.iverson(k.eq(abs(others), y)), *bound)
        return k.sign(here) * k.iverson(k.eq(abs(here), y)) / ties
    order = k.number(p)
    if p > 1:
        power = here if p == 2 else k.sign(here) * abs(here) ** (order - 1)
        if p == int(p) and int(p) % 2 == 0:
            power = here ** (order - 1)
        return power / k.nonzero(y) ** (order - 1)
    return k.sign(here) * y ** (1 - order) / k.nonzero(abs(here)) ** (1 - order)


def _norm(k: Any, x: Any, p: Any, dim: Any, keepdim: bool) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return _total(k, _order(p), x[at], bound)


def _norm_slope(k: Any, x: Any, p: Any, dim: Any, keepdim: bool) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    slope = _total_slope(k, _order(p), x[k.j], k.out[k.i], x[at], bound)
    return outer(k, x, dim, keepdim) * slope


def _order(p: Any) -> float:
    return 2.0 if p in (None, "fro") else float(p)


def _norm_singular(y: Any, x: Any, p: Any, dim: Any, keepdim: bool) -> Any:
    order = _order(p)
    if order in (inf, -inf):
        return several(y, np.abs(x), dim, keepdim)
    if order in (0, 1) or order < 1:
        axes = normal_dims(dim, x.ndim)
        return np.reshape((x == 0).any(axis=axes), np.shape(y))
    return y == 0


NORM_KINK = (
    "the norm has no derivative there; PyTorch returns 0 for a zero vector and a zero element, and "
    "shares evenly among the largest that tie (p = inf)"
)

register(Op(
    "norm(Tensor input, float? p=2, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=lambda x, p, dim, keepdim: reduced_shape(x, dim, keepdim),
    element=_norm, jacobian=_norm_slope, singular_at=_norm_singular, kink=NORM_KINK,
    samples=("x[3].norm()", "norm(x[2,3], dim=1)", "x[2,3].norm(p=3, dim=0, keepdim=True)",
             "norm(x[3], 1)", "norm(x[3], inf)", "x[2,3].norm(-inf, dim=1)",
             "norm(x[3], 0) + x.sum()", "norm(x[3], 0.5)", "norm(x[3], 4)", "x[3].norm(1.5)"),
))
register(Op(
    "norm(Tensor input, str p, int[]? dim=None, bool keepdim=False)", _FAMILY,
    expand=lambda b, x, p, dim, keepdim: _named_norm(b, x, p, dim, keepdim),
    samples=("norm(x[2,3], 'fro')", "x[2,3].norm(p='fro', dim=1)"),
))
VECTOR_NORM = register(Op(
    "vector_norm(Tensor x, float ord=2, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=lambda x, p, dim, keepdim: reduced_shape(x, dim, keepdim), homes="linalg",
    element=_norm, jacobian=_norm_slope, singular_at=_norm_singular, kink=NORM_KINK,
    samples=("torch.linalg.vector_norm(x[2,3])", "torch.linalg.vector_norm(x[2,3], 3, dim=1)"),
))


def _named_norm(b: Any, x: Any, p: str, dim: Any, keepdim: bool) -> Any:
    if p == "nuc":
        return _spectral(b, x, p, (-2, -1) if dim is None else dim, keepdim)
    expect(p == "fro", f"norm p={p!r} is none of PyTorch's", remedy="use 'fro', 'nuc' or a number")
    return b.call("norm", x, 2, dim, keepdim)


def _spectral(b: Any, x: Any, p: Any, dim: Any, keepdim: bool) -> Any:
    """A norm of the singular values: their sum, the largest (2) or the smallest (-2)."""
    dims = tuple(normal_dim(d, len(b.shape(x))) for d in dim)
    last = (len(b.shape(x)) - 2, len(b.shape(x)) - 1)
    values = b.call("svdvals", x if dims == last else b.call("movedim", x, dims, (-2, -1)))
    found = b.call("sum", values, -1) if p == "nuc" else b.call("select", values, -1, 0 if p == 2 else -1)
    for d in sorted(dims) if keepdim else ():
        found = b.call("unsqueeze", found, d)
    return found


register(Op(
    "norm(Tensor A, float ord, int[]? dim=None, bool keepdim=False)", _FAMILY, homes="linalg",
    expand=lambda b, x, p, dim, keepdim: _linalg_norm(b, x, p, dim, keepdim),
    samples=("torch.linalg.norm(x[3], 1)", "torch.linalg.norm(x[2,3], 3, dim=1)",
             "torch.linalg.norm(x[2,3], inf)"),
))
register(Op(
    "norm(Tensor A, str? ord=None, int[]? dim=None, bool keepdim=False)", _FAMILY, homes="linalg",
    expand=lambda b, x, p, dim, keepdim: _named_norm(b, x, p or "fro", dim, keepdim),
    samples=("torch.linalg.norm(x[2,3])", "torch.linalg.norm(x[2,3], 'fro')"),
))
register(Op(
    "matrix_norm(Tensor A, str ord='fro', int[]? dim=None, bool keepdim=False)", _FAMILY,
    homes="linalg",
    expand=lambda b, x, p, dim, keepdim: _named_norm(b, x, p, dim or (-2, -1), keepdim),
    samples=("torch.linalg.matrix_norm(x[2,3])", "torch.linalg.matrix_norm(x[2,2,3].sin(), 'nuc')"),
))


def _linalg_norm(b: Any, x: Any, p: float, dim: Any, keepdim: bool) -> Any:
    rank = len(b.shape(x)) if dim is None else 1 if isinstance(dim, int) else len(dim)
    if rank == 1:
        return b.apply(VECTOR_NORM, x, p, dim, keepdim)
    return _matrix_norm(b, x, p, (-2, -1) if dim is None else dim, keepdim)


def _matrix_norm(b: Any, x: Any, p: float, dim: Any, keepdim: bool) -> Any:
    """The largest (p < 0: smallest) sum of a column's, or with infinity of a row's, absolute values."""
    rank = len(b.shape(x))
    expect(rank > 1 and not isinstance(dim, int) and len(dim) == 2,
           "a matrix norm needs a matrix and two dims, found shape {}", b.shape(x))
    if abs(p) == 2:
        return _spectral(b, x, p, dim, keepdim)
    expect(p in (1, -1, inf, -inf), f"there is no matrix norm ord={p:g}",
           remedy="1, -1, 2, -2, inf, -inf, 'fro' and 'nuc' are; linalg.vector_norm takes any ord")
    rows, columns = (normal_dim(d, rank) for d in dim)
    summed, kept = (rows, columns) if p in (1, -1) else (columns, rows)
    total = b.call("sum", b.call("abs", x), (summed,), True)
    found = b.call("amax" if p > 0 else "amin", total, (kept,), True)
    return found if keepdim else b.call("squeeze", found, (rows, columns))


register(Op(
    "matrix_norm(Tensor A, float ord, int[]? dim=None, bool keepdim=False)", _FAMILY,
    homes="linalg",
    expand=lambda b, x, p, dim, keepdim: _matrix_norm(b, x, p, dim or (-2, -1), keepdim),
    samples=("torch.linalg.matrix_norm(x[2,3], 1)", "torch.linalg.matrix_norm(x[2,3], -inf)",
             "torch.linalg.matrix_norm(x[2,3], 2)", "torch.linalg.matrix_norm(x[3,2,1], -2, (0, 1), True)"),
))


def _difference(k: Any, a: Any, b: Any, at: Any) -> Any:
    return a.broadcast(at) - b.broadcast(at)


def _dist(k: Any, a: Any, b: Any, p: float) -> Any:
    at = k.bounds(broadcast(a.shape, b.shape))
    return _total(k, p, _difference(k, a, b, at), at)


def _dist_slope(k: Any, a: Any, b: Any, p: float) -> Any:
    shape = broadcast(a.shape, b.shape)
    mine = a if k.wrt == "input" else b
    at, bound = under(k, mine, shape)
    every = k.bounds(shape)
    slope = _total_slope(
        k, p, _difference(k, a, b, at), k.out[()], _difference(k, a, b, every), every
    )
    return k.sum(slope if k.wrt == "input" else -slope, *bound)


register(Op(
    "dist(Tensor input, Tensor other, float p=2)", _FAMILY,
    shape=lambda a, b, p: broadcast(a, b) and (), element=_dist, jacobian=_dist_slope,
    singular_at=lambda y, a, b, p: _norm_singular(y, a - b, p, None, False), kink=NORM_KINK,
    samples=("dist(x[3], y[3])", "dist(x[2,3], y[3], 1)", "dist(x[3], y[3], 3)",
             "dist(x[3], y[3]/2, inf)"),
))
register(Op(
    "pairwise_distance(Tensor x1, Tensor x2, float p=2, float eps=1e-6, bool keepdim=False)",
    _FAMILY, homes="F",
    expand=lambda b, x1, x2, p, eps, keepdim: b.call(
        "norm", b.call("add", b.call("sub", x1, x2), eps), p, -1, keepdim),
    samples=("F.pairwise_distance(x[2,3], y[2,3])", "F.pairwise_distance(x[2,3], y[2,3], p=1)"),
))


def _pair_dims(a: Shape, b: Shape, dim: int) -> tuple[Shape, int]:
    shape = broadcast(a, b)
    return shape, normal_dim(dim, len(shape))


def _cosine_shape(a: Shape, b: Shape, dim: int) -> Shape:
    shape, d = _pair_dims(a, b, dim)
    return (*shape[:d], *shape[d + 1 :])


def _length(k: Any, x: Any, dim: int, eps: float) -> Any:
    at, bound = inner(k, x, dim, True)
    return k.max(k.sqrt(k.sum(x[at] ** 2, *bound)), k.number(eps))


#: max(‖x‖, eps) along a dim, which stays with size 1.
LENGTH = register(Op(
    "length(Tensor input, int dim, float eps)", _FAMILY, (), homes="", stops=True,
    shape=lambda x, dim, eps: reduced_shape(x, dim, True), element=_length, torch=nothing,
    show=lambda x, dim, eps: f"max(norm({x}, dim={dim}, keepdim=True), {eps})",
))


def _cosine(k: Any, a: Any, b: Any, dim: int, eps: float, n1: Any, n2: Any) -> Any:
    shape, d = _pair_dims(a.shape, b.shape, dim)
    if not shape:
        return a[()] * b[()] / (n1[()] * n2[()])
    p = k.bound(shape[d])
    at = (*k.i[:d], p, *k.i[d:])
    flat = (*k.i[:d], 0, *k.i[d:])
    product = a.broadcast(at) * b.broadcast(at)
    return k.sum(product, p) / (n1.broadcast(flat) * n2.broadcast(flat))


def _cosine_slope(k: Any, a: Any, b: Any, dim: int, eps: float, n1: Any, n2: Any) -> Any:
    """``(other/|other| − y·mine/|mine|)/|mine|``; a length below eps is eps, a constant."""
    shape, d = _pair_dims(a.shape, b.shape, dim)
    mine, other, own, its = (a, b, n1, n2) if k.wrt == "x1" else (b, a, n2, n1)
    if not shape:
        varies = k.bracket(own[()] > k.number(eps))
        return other[()] / (own[()] * its[()]) - varies * k.out[()] * mine[()] / own[()] ** 2
    missing = len(shape) - mine.rank
    if d < missing or mine.shape[d - missing] != shape[d]:
        raise UnsupportedError("cosine_similarity does not broadcast along its own dim here")
    at = (*k.i[:d], k.j[d - missing], *k.i[d:])
    flat = (*k.i[:d], 0, *k.i[d:])
    ties = k.S.S.One
    for axis in range(mine.rank):
        full = axis + missing
        if full != d and mine.shape[axis] > 1:
            ties *= k.delta(at[full], k.j[axis])
    length = own.broadcast(flat)
    y = k.out[k.i]
    varies = k.bracket(length > k.number(eps))
    return ties * (
        other.broadcast(at) / (length * its.broadcast(flat))
        - varies * y * mine.broadcast(at) / length**2
    )


def _below_eps(y: Any, a: Any, b: Any, dim: int, eps: float, n1: Any, n2: Any) -> Any:
    """Where a length was below eps."""
    return np.reshape(np.minimum(n1, n2) <= eps, np.shape(y))


register(Op(
    "cosine_similarity(Tensor x1, Tensor x2, int dim=1, float eps=1e-8, Aux n1, Aux n2)", _FAMILY,
    homes="torch F",
    shape=lambda a, b, dim, *_: _cosine_shape(a, b, dim),
    element=_cosine, jacobian=_cosine_slope, singular_at=_below_eps,
    kink="a length below eps is eps, a constant, but PyTorch differentiates it as if it were not",
    aux=lambda b, x, y, dim, eps: _lengths(b, x, y, dim, eps),
    coarse=(Coarse(0.0, "PyTorch's backward adds up the products of the normalised vectors once more",
                   terms=lambda g, _, x, y, dim, eps, n, m:
                   abs(np.expand_dims(g, dim)) * (abs(x) / n**2 + abs(y) / m**2)),),
    samples=("cosine_similarity(x[3], y[3], dim=0)", "F.cosine_similarity(x[2,3], y[2,3])",
             "cosine_similarity(x[2,3], y[1,3], dim=-1)", "cosine_similarity(x[2].sum(), y[2].prod(), dim=0)"),
))


def _lengths(b: Any, x: Any, y: Any, dim: int, eps: float) -> tuple[Any, ...]:
    _, d = _pair_dims(b.shape(x), b.shape(y), dim)
    rank = max(len(b.shape(x)), len(b.shape(y)))
    return tuple(
        b.helper(LENGTH, t, d - (rank - len(b.shape(t))), eps, label=f"n{place}")
        for place, t in enumerate((x, y), start=1)
    )


def _normalize(k: Any, x: Any, p: float, dim: int, eps: float, n: Any) -> Any:
    return x[k.i] / n[k.put(k.i, normal_dim(dim, x.rank), 0) if x.rank else k.i]


def _normalize_slope(k: Any, x: Any, p: float, dim: int, eps: float, n: Any) -> Any:
    """``(δ(i,j) − y[i]·∂‖x‖/∂x[j])/‖x‖``; a norm below eps is eps, a constant."""
    d = normal_dim(dim, x.rank)
    if not x.rank:
        return (1 - k.bracket(n[()] > k.number(eps)) * k.out[()] ** 2) / n[()]
    length = n[k.put(k.i, d, 0)]
    varies = k.bracket(length > k.number(eps))
    there = k.put(k.i, d, k.j[d])
    if p == 2:
        own = k.out[there]
    else:
        every = k.bound(x.shape[d])
        own = _total_slope(k, p, x[there], length, x[k.put(k.i, d, every)], [every])
    return same_but(k, d) * (k.delta(k.i[d], k.j[d]) - varies * k.out[k.i] * own) / length


_P_LENGTH = register(Op(
    "length(Tensor input, float p, int dim, float eps)", _FAMILY, (), homes="", stops=True,
    shape=lambda x, p, dim, eps: reduced_shape(x, dim, True), torch=nothing,
    element=lambda k, x, p, dim, eps: k.max(_norm(k, x, p, dim, True), k.number(eps)),
    show=lambda x, p, dim, eps: f"max(norm({x}, {p}, dim={dim}, keepdim=True), {eps})",
))
register(Op(
    "normalize(Tensor input, float p=2, int dim=1, float eps=1e-12, Aux n)", _FAMILY, homes="F",
    shape=lambda x, p, dim, *_: same_shape(x, dim), element=_normalize, jacobian=_normalize_slope,
    aux=lambda b, x, p, dim, eps: (
        b.helper(_P_LENGTH, x, p, dim, eps, label="n"),),
    samples=("F.normalize(x[2,3])", "F.normalize(x[3], dim=0)", "F.normalize(x[2,3], p=1, dim=0)",
             "F.normalize(x[2,3], p=3)"),
))
