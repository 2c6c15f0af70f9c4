"""Reductions: a sum, a product, a variance, a log-sum-exp over some dims; running sums."""
# fmt: off

from __future__ import annotations

import math
from math import prod as size
from typing import Any

import numpy as np

from gradexplain.ops.base import (
    Coarse,
    Op,
    Shape,
    expect,
    normal_dim,
    normal_dims,
    reduced,
    register,
)
from gradexplain.ops.kernels import softmax

_FAMILY = "reduction"


def reduced_shape(shape: Shape, dim: Any = None, keepdim: bool = False, *_: Any) -> Shape:
    return reduced(shape, normal_dims(dim, len(shape)), keepdim)


def same_shape(shape: Shape, dim: int, *_: Any) -> Shape:
    normal_dim(dim, len(shape))
    return shape


def nothing(*_: Any) -> None:
    """PyTorch's own operation finds its indices itself."""


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


def count(x: Any, dim: Any) -> int:
    """How many elements go into one of the result; ``x`` is a shape or a tensor."""
    shape = getattr(x, "shape", x)
    return size(shape[d] for d in normal_dims(dim, len(shape)) if shape)


def same_but(k: Any, d: int) -> Any:
    """In a Jacobian: the deltas on every dim but ``d``."""
    return k.deltas((*k.i[:d], *k.i[d + 1 :]), (*k.j[:d], *k.j[d + 1 :]))


def under(k: Any, x: Any, shape: Shape) -> tuple[tuple[Any, ...], list[Any]]:
    """In a Jacobian: where ``x[k.j]`` goes in a tensor of ``shape``: its own indices, and bound
    ones along the dims that broadcasting repeats it over."""
    missing = len(shape) - x.rank
    at, bound = [], []
    for axis, n in enumerate(shape):
        if axis >= missing and x.shape[axis - missing] == n:
            at.append(k.j[axis - missing])
        else:
            at.append(k.bound(n))
            bound.append(at[-1])
    return tuple(at), bound


# -- sums and products ---------------------------------------------------------------------------


def _sum(k: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.sum(x[at], *bound)


def _mean(k: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.sum(x[at], *bound) / count(x, dim)


def _prod(k: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.product(x[at], *bound)


register(Op(
    "sum(Tensor input, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=reduced_shape, element=_sum,
    torch=lambda torch, x, dim, keepdim: torch.sum(x, dim, keepdim),
    samples=("x[2,3].sum()", "x[2,3].sum(dim=0)", "sum(x[2,3,2], dim=(0, -1), keepdim=True)"),
))
register(Op(
    "mean(Tensor input, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=reduced_shape, element=_mean,
    averages=lambda x, dim, keepdim: [x.shape[d] for d in normal_dims(dim, x.rank)],
    torch=lambda torch, x, dim, keepdim: torch.mean(x, dim, keepdim),
    samples=("x[2,3].mean()", "x[2,3].mean(dim=1)", "mean(x[2,3], -1, keepdim=True)"),
))
def all_dims(x: Any, dim: Any) -> tuple[int, ...]:
    return normal_dims(dim, x.rank)


def _before(c: Any, x: Any, d: int) -> str:
    """The product of all elements before each one along a dim."""
    one = f"torch.ones_like({x}.narrow({d}, 0, 1))"
    return f"torch.cat([{one}, {x}.narrow({d}, 0, {x}.shape[{d}] - 1)], dim={d}).cumprod(dim={d})"


def products_of_others(c: Any, x: Any, d: int) -> str:
    """For each element the product of the others along a dim: those before times those behind."""
    before = c.let("before", _before(c, x, d))
    turned = c.operand(c.let("turned", f"{x}.flip({d})"), x.shape)
    return f"{before} * {c.let('behind', f'{_before(c, turned, d)}.flip({d})')}"


def _prod_back(c: Any, x: Any, dim: Any, keepdim: bool) -> str:
    """Right where an element is 0: nothing is divided."""
    if not x.rank:
        return str(c.grad)
    line = x if dim is not None else c.operand(c.let("line", f"{x}.flatten()"), (size(x.shape),))
    d = 0 if dim is None else normal_dim(dim, x.rank)
    others = products_of_others(c, line, d)
    if dim is None:
        return f"{c.grad} * ({others}).reshape({x}.shape)"
    return f"{c.wide(c.grad, x, (d,), keepdim)} * {others}"


register(Op(
    "prod(Tensor input, int? dim=None, bool keepdim=False)", _FAMILY,
    shape=reduced_shape, element=_prod,
    # backward: products of all others without a division, in two runs.
    backward=_prod_back,
    samples=("x[3].prod()", "x[2,3].prod(dim=1)", "prod(x[2,3], 0, keepdim=True)"),
))
def _square(shape: Shape) -> Shape:
    expect(len(shape) == 2, "trace takes a matrix, found shape {}", shape,
           remedy="for a batch of matrices: diagonal(dim1=-2, dim2=-1).sum(-1)")
    return ()


def _trace(k: Any, x: Any) -> Any:
    p = k.bound(min(x.shape))
    return k.sum(x[p, p], p)


register(Op(
    "trace(Tensor input)", _FAMILY, shape=_square, element=_trace,
    samples=("trace(x[3,3])", "x[2,3].trace()"),
))


# -- moments -------------------------------------------------------------------------------------

MEAN = register(Op(
    "mean(Tensor input, int[]? dim, bool keepdim)", _FAMILY, (), homes="", stops=True,
    shape=reduced_shape, element=_mean, torch=nothing,
    show=lambda x, dim, keepdim: f"mean({x}{_shown(dim)}{', keepdim=True' * (keepdim == 'True')})",
))


def _shown(dim: str) -> str:
    return "" if dim == "None" else f", dim={dim}"


def _degrees(x: Any, dim: Any, unbiased: Any, correction: Any) -> Any:
    """What the sum of squares is divided by, never negative."""
    free = 1 if correction is None else correction
    free = (1 if unbiased else 0) if unbiased is not None else free
    return max(count(x, dim) - free, 0)


def _var(k: Any, x: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any, mean: Any) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    n = k.number(_degrees(x, dim, unbiased, correction))
    return k.sum((x[at] - mean[k.i]) ** 2, *bound) / n if n else k.S.nan


def _var_slope(k: Any, x: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any,
               mean: Any) -> Any:
    n = k.number(_degrees(x, dim, unbiased, correction))
    off = x[k.j] - mean[k.i]
    return outer(k, x, dim, keepdim) * 2 * off / n if n else k.S.nan


def _std(k: Any, *args: Any) -> Any:
    return k.sqrt(_var(k, *args))


def _std_slope(k: Any, *args: Any) -> Any:
    return _var_slope(k, *args) / (2 * k.nonzero(k.out[k.i]))


for _name, _element, _derivative in (
    ("var", _var, _var_slope), ("std", _std, _std_slope),
):
    register(Op(
        f"{_name}(Tensor input, int[]? dim=None, bool? unbiased=None, bool keepdim=False, *, "
        "float? correction=1, Aux mean)", _FAMILY,
        shape=lambda x, dim, unbiased, keepdim, *_: reduced_shape(x, dim, keepdim),
        element=_element, jacobian=_derivative,
        aux=lambda b, x, dim, unbiased, keepdim, _: (b.helper(MEAN, x, dim, keepdim, label="μ"),),
        kink="std has no derivative where all elements are equal: PyTorch returns 0"
             if _name == "std" else "",
        singular_at=(lambda y, *_: y == 0) if _name == "std" else None,
        samples=(f"x[3].{_name}()", f"x[2,3].{_name}(dim=0)", f"{_name}(x[2,3], 1, unbiased=False)",
                 f"{_name}(x[2,3,2], (0, 1), correction=0, keepdim=True)"),
    ))
    register(Op(
        f"{_name}(Tensor input, bool unbiased)", _FAMILY,
        expand=lambda b, x, unbiased, name=_name: b.call(name, x, unbiased=unbiased),
        samples=(f"x[3].{_name}(False)",),
    ))
    register(Op(
        f"{_name}_mean(Tensor input, int[]? dim=None, bool? unbiased=None, bool keepdim=False, *, "
        "float? correction=1)", _FAMILY, homes="torch",
        expand=lambda b, x, dim, unbiased, keepdim, correction, name=_name: b.results(
            (name, "mean"),
            b.call(name, x, dim, unbiased, keepdim, correction=correction),
            b.call("mean", x, dim, keepdim),
        ),
        samples=(f"torch.{_name}_mean(x[2,3], 1)[0] + torch.{_name}_mean(x, 1)[1]",),
    ))
    register(Op(
        f"{_name}_mean(Tensor input, bool unbiased)", _FAMILY, homes="torch",
        expand=lambda b, x, unbiased, name=_name: b.call(f"{name}_mean", x, unbiased=unbiased),
        samples=(f"torch.{_name}_mean(x[3], False)[0]",),
    ))

# -- logarithms of sums --------------------------------------------------------------------------


def _softmax(k: Any, x: Any, dim: Any) -> Any:
    """``exp(x)`` over its sum along the dims ``dim``."""
    dims = normal_dims(dim, x.rank)
    at = tuple(k.bound(n) if axis in dims else k.i[axis] for axis, n in enumerate(x.shape))
    return k.exp(x[k.i]) / k.sum(k.exp(x[at]), *(at[d] for d in dims))


#: The softmax over some dims as a part of another formula: no gradient flows through it.
SOFTMAX = register(Op(
    "softmax(Tensor input, int[]? dim)", _FAMILY, (), homes="", stops=True,
    shape=lambda x, dim: x, element=_softmax, torch=nothing,
    value=lambda exact, x, dim: softmax(x, normal_dims(dim, x[0].ndim)),
    show=lambda x, dim: f"softmax({x}{_shown(dim)})",
))


def _logsumexp(k: Any, x: Any, dim: Any, keepdim: bool, _: Any) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.log(k.sum(k.exp(x[at]), *bound))


def _logsumexp_value(exact: bool, x: Any, dim: Any, keepdim: bool, _: Any) -> Any:
    axes = normal_dims(dim, x[0].ndim)
    top = np.max(x[0], axis=axes, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    result = np.log(np.exp(x[0] - top).sum(axis=axes, keepdims=True)) + top
    error = np.max(x[1], axis=axes, keepdims=True) + np.abs(result) + np.abs(top) + 1
    return (result, error) if keepdim else (np.squeeze(result, axes), np.squeeze(error, axes))


def _logsumexp_kernel(g: Any, y: Any, x: Any, dim: Any, keepdim: bool, _: Any) -> Any:
    axes = () if keepdim else normal_dims(dim, np.ndim(x))
    apart = x - np.expand_dims(y, axes)
    value = np.expand_dims(g, axes) * np.exp(apart)
    return value, abs(value) * (1 + abs(apart))


register(Op(
    "logsumexp(Tensor input, int[] dim, bool keepdim=False, Aux p)", _FAMILY,
    shape=reduced_shape, element=_logsumexp, value=_logsumexp_value,
    jacobian=lambda k, x, dim, keepdim, p: outer(k, x, dim, keepdim) * p[k.j],
    aux=lambda b, x, dim, keepdim: (b.helper(SOFTMAX, x, dim, label="p"),),
    # backward: the derived one is a softmax, which takes one dim.
    backward=lambda c, x, dim, keepdim, p: f"{c.wide(c.grad, x, all_dims(x, dim), keepdim)} * "
        f"torch.exp({x} - {c.wide(c.y, x, all_dims(x, dim), keepdim)})",
    homes="torch Tensor special", samples=("logsumexp(x[3], 0)", "x[2,3].logsumexp(dim=(0, 1))",
                                           "x[2,3].logsumexp(1, keepdim=True)"),
    coarse=(Coarse(0.0, "PyTorch's backward takes exp(x − logsumexp(x)), and rounds the logarithm first",
                   terms=lambda g, y, x, *args: np.abs(x).max() * _logsumexp_kernel(abs(g), y, x, *args)[0],
                   kernel=_logsumexp_kernel),),
))

# -- running sums --------------------------------------------------------------------------------


def _upto(k: Any, x: Any, dim: int) -> tuple[int, Any, Any]:
    d = normal_dim(dim, x.rank)
    p = k.bound(x.shape[d])
    return d, p, x[k.put(k.i, d, p)]


def _cumsum(k: Any, x: Any, dim: int) -> Any:
    if x.rank == 0:
        return x[()]
    d, p, body = _upto(k, x, dim)
    return k.sum(body * k.bracket(p <= k.i[d]), p)


def _cumprod(k: Any, x: Any, dim: int) -> Any:
    if x.rank == 0:
        return x[()]
    d, p, body = _upto(k, x, dim)
    return k.product(k.cases((body, p <= k.i[d]), (1, True)), p)


def _cumprod_slope(k: Any, x: Any, dim: int) -> Any:
    if x.rank == 0:
        return k.S.S.One
    d, p, body = _upto(k, x, dim)
    others = k.product(k.cases((body, k.all(p <= k.i[d], k.ne(p, k.j[d]))), (1, True)), p)
    return same_but(k, d) * k.bracket(k.j[d] <= k.i[d]) * others


def _logcumsumexp(k: Any, x: Any, dim: int) -> Any:
    if x.rank == 0:
        return x[()]
    d, p, body = _upto(k, x, dim)
    return k.log(k.sum(k.exp(body) * k.bracket(p <= k.i[d]), p))


def _logcumsumexp_slope(k: Any, x: Any, dim: int) -> Any:
    if x.rank == 0:
        return k.S.S.One
    d = normal_dim(dim, x.rank)
    return same_but(k, d) * k.bracket(k.j[d] <= k.i[d]) * k.exp(x[k.j] - k.out[k.i])


def _logcumsumexp_value(exact: bool, x: Any, dim: int) -> Any:
    if x[0].ndim == 0:
        return x
    result = np.logaddexp.accumulate(x[0], axis=dim)
    return result, np.maximum.accumulate(x[1], axis=dim) + np.abs(result) + 1


def _logcumsumexp_terms(g: Any, _: Any, x: Any, dim: int) -> Any:
    """PyTorch takes ``exp(log Σ_(i ≥ j) exp(log |g[i]| − y[i]) + x[j])``: a rounding of an exponent is
    one of the result times the exponent."""
    if not x.ndim:
        return abs(g)
    y = np.logaddexp.accumulate(x, axis=dim)
    with np.errstate(divide="ignore"):
        logs = np.log(abs(g))
        powers = logs - y
        more = powers + np.log(abs(y) + np.where(g == 0, 0, abs(logs)))
    after = (np.flip(np.logaddexp.accumulate(np.flip(a, dim), axis=dim), dim) for a in (powers, more))
    sums, others = (np.exp(x + a) for a in after)
    return (1 + abs(x)) * sums + others


def _cumprod_back(c: Any, x: Any, dim: int) -> str:
    """``Π of those before · Σ_i v[i]·Π of those after, up to i``: no division, so right at zeros."""
    if not x.rank:
        return str(c.grad)
    n = f"{x}.shape[{dim}]"
    lines = c.let("lines", f"{x}.movedim({dim}, -1)")
    later = c.let("later", f"torch.ones({n}, {n}, dtype=torch.bool, device={x}.device).triu(1)")
    runs = c.let("runs", f"torch.where({later}, {lines}.unsqueeze(-2), 1.0).cumprod(dim=-1).triu()")
    total = f"({runs} @ {c.grad}.movedim({dim}, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, {dim})"
    return f"{c.let('before', _before(c, x, dim))} * {total}"


def _logcumsumexp_back(c: Any, x: Any, dim: int) -> str:
    """``Σ_(i ≥ j) v[i]·exp(x[j] − y[i])``: each exponent is at most 0, nothing overflows."""
    if not x.rank:
        return str(c.grad)
    n = f"{x}.shape[{dim}]"
    earlier = c.let("earlier", f"torch.ones({n}, {n}, dtype=torch.bool, device={x}.device).tril(-1)")
    lines = f"{x}.movedim({dim}, -1).unsqueeze(-1) - {c.y}.movedim({dim}, -1).unsqueeze(-2)"
    powers = c.let("powers", f"torch.exp(({lines}).masked_fill({earlier}, -math.inf))")
    return f"({powers} @ {c.grad}.movedim({dim}, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, {dim})"


register(Op(
    "cumsum(Tensor input, int dim)", _FAMILY, shape=same_shape, element=_cumsum,
    samples=("cumsum(x[3], 0)", "x[2,3].cumsum(dim=-1)"),
))
register(Op(
    "cumprod(Tensor input, int dim)", _FAMILY,
    # backward: what is derived runs twice over an axis, which PyTorch has no call for.
    shape=same_shape, element=_cumprod, jacobian=_cumprod_slope, backward=_cumprod_back,
    samples=("cumprod(x[3], 0)", "x[2,3].cumprod(dim=-1)"),
))
register(Op(
    "logcumsumexp(Tensor input, int dim)", _FAMILY,
    shape=same_shape, element=_logcumsumexp, jacobian=_logcumsumexp_slope, value=_logcumsumexp_value,
    # backward: a sum that decays from place to place, which PyTorch has no call for.
    backward=_logcumsumexp_back,
    samples=("logcumsumexp(x[3], 0)", "x[2,3].logcumsumexp(dim=-1)"),
    coarse=(Coarse(0.0, "PyTorch's backward takes logarithms of sums and exponentials of differences",
                   terms=_logcumsumexp_terms),),
))


# -- without what is not a number ------------------------------------------------------------------


def _nansum(b: Any, x: Any, dim: Any, keepdim: bool) -> Any:
    infinite = {"posinf": math.inf, "neginf": -math.inf}
    return b.call("sum", b.call("nan_to_num", x, **infinite), dim, keepdim)


def _nanmean(b: Any, x: Any, dim: Any, keepdim: bool) -> Any:
    ones = b.call("where", b.call("isfinite", x), 1.0, 0.0)
    return b.call("div", _nansum(b, x, dim, keepdim), b.call("sum", ones, dim, keepdim))


for _name, _expand in (("nansum", _nansum), ("nanmean", _nanmean)):
    register(Op(
        f"{_name}(Tensor input, int[]? dim=None, bool keepdim=False)", _FAMILY, expand=_expand,
        samples=(f"{_name}(x[2,3])", f"x[2,3].{_name}(dim=1)", f"{_name}(x[2,3], 0, keepdim=True)"),
    ))


# -- differences and areas -----------------------------------------------------------------------


def _diff(b: Any, x: Any, n: int, dim: int, prepend: Any, append: Any) -> Any:
    rank = len(b.shape(x))
    expect(rank > 0, "diff needs a dimension, found shape {}", b.shape(x))
    expect(n >= 0, f"diff: n is not negative, found {n}")
    d = normal_dim(dim, rank)
    parts = [part for part in (prepend, x, append) if part is not None]
    if len(parts) > 1 and n:
        x = b.call("cat", parts, d)
    for _ in range(n):
        size = b.shape(x)[d]
        x = b.call("sub", *(b.call("narrow", x, d, start, max(size - 1, 0)) for start in (1, 0)))
    return x


register(Op(
    "diff(Tensor input, int n=1, int dim=-1, Tensor? prepend=None, Tensor? append=None)", _FAMILY,
    expand=_diff, samples=("diff(x[4])", "x[3,2].diff(dim=0)", "diff(x[4], n=2)"),
))


def _areas(b: Any, y: Any, x: Any, dx: float, dim: int) -> Any:
    """The area of each strip between two points."""
    rank = len(b.shape(y))
    expect(rank > 0, "trapezoid needs a dimension, found shape {}", b.shape(y))
    d = normal_dim(dim, rank)
    n = b.shape(y)[d]
    left, right = (b.call("narrow", y, d, start, max(n - 1, 0)) for start in (0, 1))
    total = b.call("add", left, right)
    if x is None:
        return b.call("mul", total, dx / 2)
    if len(b.shape(x)) == 1 and rank > 1:
        x = b.call("reshape", x, (n, *[1] * (rank - d - 1)))
    width = _diff(b, x, 1, d if len(b.shape(x)) == rank else 0, None, None)
    return b.call("div", b.call("mul", total, width), 2)


for _name, _call in (("trapezoid", "sum"), ("cumulative_trapezoid", "cumsum")):
    def _area(b: Any, y: Any, x: Any, dx: float, dim: int, call: str = _call) -> Any:
        return b.call(call, _areas(b, y, x, dx, dim), dim)

    register(Op(
        f"{_name}(Tensor y, Tensor? x=None, *, float dx=1, int dim=-1)", _FAMILY, homes="torch",
        aliases=("torch.trapz",) if _name == "trapezoid" else (), expand=_area,
        samples=(f"{_name}(y[4], dx=0.5)", f"{_name}(y[2,3], dim=0)", f"{_name}(y[4], x[4])"),
    ))
