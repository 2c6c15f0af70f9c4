"""Reductions: a sum, a product, an extremum, a norm over some dims; running sums; distances."""
# fmt: off

from __future__ import annotations

from math import inf
from math import prod as size
from typing import Any

from gradexplain.errors import InputError, UnsupportedError
from gradexplain.ops.base import (
    Op,
    Shape,
    broadcast,
    normal_dim,
    normal_dims,
    reduced,
    register,
    show_shape,
)
from gradexplain.ops.kernels import softmax

_FAMILY = "reduction"


def _reduced(shape: Shape, dim: Any = None, keepdim: bool = False, *_: Any) -> Shape:
    return reduced(shape, normal_dims(dim, len(shape)), keepdim)


def _same(shape: Shape, dim: int, *_: Any) -> Shape:
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


def count(x: Any, dim: Any) -> int:
    """How many elements go into one of the result; ``x`` is a shape or a tensor."""
    shape = getattr(x, "shape", x)
    return size(shape[d] for d in normal_dims(dim, len(shape)) if shape)


def same_but(k: Any, d: int) -> Any:
    """In a Jacobian: the deltas on every dim but ``d``."""
    return k.deltas((*k.i[:d], *k.i[d + 1 :]), (*k.j[:d], *k.j[d + 1 :]))


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
    shape=_reduced, element=_sum,
    torch=lambda torch, x, dim, keepdim: torch.sum(x, dim, keepdim),
    samples=("x[2,3].sum()", "x[2,3].sum(dim=0)", "sum(x[2,3,2], dim=(0, -1), keepdim=True)"),
))
register(Op(
    "mean(Tensor input, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=_reduced, element=_mean,
    torch=lambda torch, x, dim, keepdim: torch.mean(x, dim, keepdim),
    samples=("x[2,3].mean()", "x[2,3].mean(dim=1)", "mean(x[2,3], -1, keepdim=True)"),
))
register(Op(
    "prod(Tensor input, int? dim=None, bool keepdim=False)", _FAMILY,
    shape=_reduced, element=_prod,
    samples=("x[3].prod()", "x[2,3].prod(dim=1)", "prod(x[2,3], 0, keepdim=True)"),
    torch=lambda torch, x, dim, keepdim: x.prod() if dim is None else x.prod(dim, keepdim),
))
register(Op(
    "trace(Tensor input)", _FAMILY,
    shape=lambda x: _square(x), element=lambda k, x: _trace(k, x),
    samples=("trace(x[3,3])", "x[2,3].trace()"),
))


def _square(shape: Shape) -> Shape:
    if len(shape) != 2:
        raise InputError(
            f"trace takes a matrix, found shape {show_shape(shape)}",
            remedy="for a batch of matrices: diagonal(dim1=-2, dim2=-1).sum(-1)",
        )
    return ()


def _trace(k: Any, x: Any) -> Any:
    p = k.bound(min(x.shape))
    return k.sum(x[p, p], p)


# -- extrema -------------------------------------------------------------------------------------


def _extremum(kind: str) -> Any:
    def element(k: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        at, bound = inner(k, x, dim, keepdim)
        return getattr(k, kind)(x[at], *bound)

    return element


def _shared(k: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """``[x[j] = y]``, divided by the number of elements that tie."""
    at, bound = inner(k, x, dim, keepdim)
    y = k.out[k.i]
    ties = k.sum(k.iverson(k.eq(x[at], y)), *bound)
    return outer(k, x, dim, keepdim) * k.iverson(k.eq(x[k.j], y)) / ties


def _several(y: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Where more than one element is the extremum."""
    import numpy as np

    dims = normal_dims(dim, x.ndim)
    wide = y if keepdim else np.expand_dims(y, dims)
    return np.reshape((x == wide).sum(axis=dims) > 1, np.shape(y))


_TIE = "PyTorch shares the gradient evenly among the elements that tie"

for _name, _kind in (("amax", "greatest"), ("amin", "least")):
    register(Op(
        f"{_name}(Tensor input, int[] dim=(), bool keepdim=False)", _FAMILY,
        shape=_reduced, element=_extremum(_kind), jacobian=_shared, singular_at=_several, kink=_TIE,
        samples=(f"x[3].{_name}()", f"x[2,3].{_name}(dim=0)",
                 f"{_name}(x[2,3,2], (0, 2), keepdim=True)"),
    ))
for _name, _kind in (("max", "greatest"), ("min", "least")):
    register(Op(
        f"{_name}(Tensor input)", _FAMILY,
        shape=_reduced, element=_extremum(_kind), jacobian=_shared, singular_at=_several, kink=_TIE,
        samples=(f"x[3].{_name}()", f"{_name}(x[2,3])"),
    ))
register(Op(
    "median(Tensor input)", _FAMILY,
    shape=_reduced, jacobian=_shared, singular_at=_several, kink=_TIE,
    value=lambda exact, x: _median(x), samples=("x[3].median()", "median(x[2,3])"),
))


def _median(x: Any) -> Any:
    """The lower of the two in the middle, as PyTorch."""
    import numpy as np

    order = np.argsort(x[0].ravel(), kind="stable")
    place = order[(order.size - 1) // 2]
    return np.reshape(x[0].ravel()[place], ()), np.reshape(x[1].ravel()[place], ())


# -- picks along a dim: values and the indices they come from ------------------------------------


def _picker(index: Any) -> Any:
    """The kernel of a helper that finds which element is taken: ``index(array, axis, …)``."""

    def value(exact: bool, x: Any, dim: int, *rest: Any) -> Any:
        import numpy as np

        if x[0].ndim == 0:
            return np.zeros(()), np.zeros(())
        found = np.asarray(index(x[0], dim, *rest), dtype=np.float64)
        return found, np.zeros_like(found)

    return value


def _running(worse: Any) -> Any:
    """The index of the last best element up to each place, as ``cummax``."""

    def index(x: Any, dim: int) -> Any:
        import numpy as np

        x = np.moveaxis(x, dim, 0)
        best, where = x[0], np.zeros(x.shape[1:])
        found = [where]
        for place in range(1, len(x)):
            keep = worse(x[place], best)
            best, where = np.where(keep, best, x[place]), np.where(keep, where, place)
            found.append(where)
        return np.moveaxis(np.array(found), 0, dim)

    return index


def _ordered(place: Any) -> Any:
    """The index of the element that is at ``place(n, …)`` in sorted order."""

    def index(x: Any, dim: int, *rest: Any) -> Any:
        import numpy as np

        n = x.shape[dim]
        return np.take(np.argsort(x, axis=dim, kind="stable"), place(n, *rest), axis=dim)

    return index


def _argmax(x: Any, dim: int) -> Any:
    import numpy as np

    return np.argmax(x, axis=dim)


def _argmin(x: Any, dim: int) -> Any:
    import numpy as np

    return np.argmin(x, axis=dim)


def _index_shape(keeps: bool) -> Any:
    def shape(x: Shape, dim: int, *_: Any) -> Shape:
        d = normal_dim(dim, len(x))
        return x if keeps or not x else (*x[:d], *x[d + 1 :])

    return shape


def _first(name: str) -> Any:
    def element(k: Any, x: Any, dim: int) -> Any:
        if x.rank == 0:
            return k.S.S.Zero
        d = normal_dim(dim, x.rank)
        p = k.bound(x.shape[d])
        if p.is_Integer:
            return k.S.S.Zero
        at = (*k.i[:d], p, *k.i[d:])
        return getattr(k, f"arg{name}")(x[at], p)

    return element


def _nothing(*_: Any) -> None:
    """PyTorch's own operation finds its indices itself."""


def _pick(name: str, index: Any, *, keeps: bool = False, extra: str = "", call: Any = None,
          samples: tuple[str, ...], which: str, unsure: bool = False) -> None:
    """``name(input, dim)`` → (values, indices): the values are ``x`` at the indices.

    ``unsure`` where PyTorch does not say which of the elements that tie it picks; ``keeps`` for a
    result of the input's shape (``cummax``); ``extra`` is another argument before ``dim``
    (``kthvalue``'s k).
    """
    helper = register(Op(
        f"arg{name}(Tensor input, int dim{', ' + extra if extra else ''})", _FAMILY, (), homes="",
        integer=True, shape=_index_shape(keeps), value=_picker(index), torch=_nothing,
        element=_first(name) if name in ("max", "min") else None,
        jacobian=_nothing if name not in ("max", "min") else None,
    ))
    before = f", {extra}" if extra else ""
    keepdim = "" if keeps else ", bool keepdim=False"

    def place(k: Any, x: Any, args: tuple[Any, ...]) -> tuple[int, tuple[Any, ...], Any]:
        *rest, at = args
        dim = rest[1] if extra else rest[0]
        d = normal_dim(dim, x.rank)
        wide = keeps or rest[-1]
        return d, (k.i if keeps or not wide else k.put(k.i, d, None)), at

    def element(k: Any, x: Any, *args: Any) -> Any:
        if x.rank == 0:
            return x[()]
        d, i, at = place(k, x, args)
        others = i if keeps else tuple(q for q in i if q is not None)
        picked = at[others]
        return x[k.put(others, d, picked) if keeps else (*others[:d], picked, *others[d:])]

    def aux(b: Any, x: Any, *args: Any) -> tuple[Any, ...]:
        dim = args[1] if extra else args[0]
        normal_dim(dim, len(b.shape(x)))
        rest = (args[0],) if extra else ()
        return (b.helper(helper, x, dim, *rest, label="idx"),)

    def shape(x: Shape, *args: Any) -> Shape:
        dim = args[1] if extra else args[0]
        if keeps or not x:
            return _same(x, dim)
        return reduced(x, normal_dims(dim, len(x)), args[-2])

    def torch(torch: Any, x: Any, *args: Any) -> Any:
        return getattr(torch, name)(x, *args[:-1])[0]

    def tied(y: Any, x: Any, *args: Any) -> Any:
        import numpy as np

        dim, keepdim = args[-3], args[-2]
        if x.ndim == 0:
            return np.zeros((), dtype=bool)
        wide = y if keepdim else np.expand_dims(y, dim)
        return np.reshape((x == wide).sum(axis=dim) > 1, y.shape)

    values = register(Op(
        f"{name}(Tensor input{before}, int dim{keepdim}, Aux indices)", _FAMILY, (), homes="",
        shape=shape, element=element, aux=aux, torch=torch, kink=_WHICH if unsure else "",
        singular_at=tied if unsure else None,
    ))

    def expand(b: Any, x: Any, *args: Any) -> Any:
        found = b.apply(values, x, *args)
        indices = b.node(found).args[-1]
        if not keeps and args[-1]:
            indices = b.call("unsqueeze", indices, args[1] if extra else args[0])
        return b.results(("values", "indices"), found, indices)

    default = "=-1" if name in ("median", "kthvalue", "mode") else ""
    register(Op(
        f"{name}(Tensor input{before}, int dim{default}{keepdim})", _FAMILY, expand=expand,
        kink=which, samples=samples,
    ))


_PICKED = "the element whose index is returned gets the whole gradient, also at a tie, as PyTorch"

_pick("max", _argmax, which=_PICKED,
      samples=("x[2,3].max(dim=1).values", "max(x[2,3], 0)[0]", "x[3].max(0, keepdim=True)[0]",
               "v2, i = x[2,3].max(-1); v2*2"))
_pick("min", _argmin, which=_PICKED,
      samples=("x[2,3].min(dim=1).values", "min(x[2,3], 0)[0]"))
_WHICH = "which of the elements that tie PyTorch picks, and gives the gradient to, is not specified"

_pick("median", _ordered(lambda n: (n - 1) // 2), which=_WHICH, unsure=True,
      samples=("x[2,3].median(dim=1).values", "median(x[4,2], 0)[0]"))
_pick("kthvalue", _ordered(lambda n, k: k - 1), extra="int k", which=_WHICH, unsure=True,
      samples=("kthvalue(x[5], 2).values", "x[2,3].kthvalue(3, 0 - 1)[0]"))
_pick("cummax", _running(lambda new, best: new < best), keeps=True, which=_PICKED,
      samples=("cummax(sin(x[5]), 0).values", "x[2,3].cummax(dim=1)[0]"))
_pick("cummin", _running(lambda new, best: new > best), keeps=True, which=_PICKED,
      samples=("cummin(sin(x[5]), 0).values", "x[2,3].cummin(dim=1)[0]"))

register(Op(
    "max(Tensor input, Tensor other)", "pointwise",
    expand=lambda b, x, other: b.call("maximum", x, other), samples=("torch.max(x[3], y[3]/2)",),
))
register(Op(
    "min(Tensor input, Tensor other)", "pointwise",
    expand=lambda b, x, other: b.call("minimum", x, other), samples=("torch.min(x[3], y[3]/2)",),
))
# -- moments -------------------------------------------------------------------------------------

MEAN = register(Op(
    "mean(Tensor input, int[]? dim, bool keepdim)", _FAMILY, (), homes="", stops=True,
    shape=_reduced, element=_mean, torch=_nothing,
    show=lambda x, dim, keepdim: f"mean({x}{_shown(dim)})",
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


def _with_mean(b: Any, x: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Any:
    return (b.helper(MEAN, x, dim, keepdim, label="μ"),)


def _torch_moment(name: str) -> Any:
    def call(torch: Any, x: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any,
             _: Any) -> Any:
        if unbiased is not None:
            correction = int(unbiased)
        return getattr(torch, name)(x, dim, correction=correction, keepdim=keepdim)

    return call


for _name, _element, _derivative in (("var", _var, _var_slope), ("std", _std, _std_slope)):
    register(Op(
        f"{_name}(Tensor input, int[]? dim=None, bool? unbiased=None, bool keepdim=False, *, "
        "float? correction=1, Aux mean)", _FAMILY,
        shape=lambda x, dim, unbiased, keepdim, *_: _reduced(x, dim, keepdim),
        element=_element, jacobian=_derivative, aux=_with_mean, torch=_torch_moment(_name),
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

# -- logarithms of sums --------------------------------------------------------------------------


def _softmax(k: Any, x: Any, dim: Any) -> Any:
    """``exp(x)`` over its sum along the dims ``dim``."""
    dims = normal_dims(dim, x.rank)
    at = tuple(k.bound(n) if axis in dims else k.i[axis] for axis, n in enumerate(x.shape))
    return k.exp(x[k.i]) / k.sum(k.exp(x[at]), *(at[d] for d in dims))


def _softmax_value(exact: bool, x: Any, dim: Any) -> Any:
    return softmax(x, normal_dims(dim, x[0].ndim))


#: The softmax over some dims as a part of another formula: no gradient flows through it.
SOFTMAX = register(Op(
    "softmax(Tensor input, int[]? dim)", _FAMILY, (), homes="", stops=True,
    shape=lambda x, dim: x, element=_softmax, value=_softmax_value, torch=_nothing,
    show=lambda x, dim: f"softmax({x}{_shown(dim)})",
))


def _logsumexp(k: Any, x: Any, dim: Any, keepdim: bool, _: Any) -> Any:
    at, bound = inner(k, x, dim, keepdim)
    return k.log(k.sum(k.exp(x[at]), *bound))


def _logsumexp_slope(k: Any, x: Any, dim: Any, keepdim: bool, p: Any) -> Any:
    return outer(k, x, dim, keepdim) * p[k.j]


def _logsumexp_value(exact: bool, x: Any, dim: Any, keepdim: bool, _: Any) -> Any:
    import numpy as np

    axes = normal_dims(dim, x[0].ndim)
    with np.errstate(all="ignore"):
        top = np.max(x[0], axis=axes, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        result = np.log(np.exp(x[0] - top).sum(axis=axes, keepdims=True)) + top
    error = np.max(x[1], axis=axes, keepdims=True) + np.abs(result) + np.abs(top) + 1
    return (result, error) if keepdim else (np.squeeze(result, axes), np.squeeze(error, axes))


register(Op(
    "logsumexp(Tensor input, int[] dim, bool keepdim=False, Aux p)", _FAMILY,
    shape=_reduced, element=_logsumexp, jacobian=_logsumexp_slope, value=_logsumexp_value,
    aux=lambda b, x, dim, keepdim: (b.helper(SOFTMAX, x, dim, label="p"),),
    homes="torch Tensor special", samples=("logsumexp(x[3], 0)", "x[2,3].logsumexp(dim=(0, 1))",
                                           "x[2,3].logsumexp(1, keepdim=True)"),
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
    import numpy as np

    if x[0].ndim == 0:
        return x
    result = np.logaddexp.accumulate(x[0], axis=dim)
    return result, np.maximum.accumulate(x[1], axis=dim) + np.abs(result) + 1


register(Op(
    "cumsum(Tensor input, int dim)", _FAMILY, shape=_same, element=_cumsum,
    samples=("cumsum(x[3], 0)", "x[2,3].cumsum(dim=-1)"),
))
register(Op(
    "cumprod(Tensor input, int dim)", _FAMILY,
    shape=_same, element=_cumprod, jacobian=_cumprod_slope,
    samples=("cumprod(x[3], 0)", "x[2,3].cumprod(dim=-1)"),
))
register(Op(
    "logcumsumexp(Tensor input, int dim)", _FAMILY,
    shape=_same, element=_logcumsumexp, jacobian=_logcumsumexp_slope, value=_logcumsumexp_value,
    samples=("logcumsumexp(x[3], 0)", "x[2,3].logcumsumexp(dim=-1)"),
))

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
    import numpy as np

    order = _order(p)
    if order in (inf, -inf):
        return _several(y, np.abs(x), dim, keepdim)
    if order in (0, 1) or order < 1:
        axes = normal_dims(dim, x.ndim)
        return np.reshape((x == 0).any(axis=axes), np.shape(y))
    return y == 0


NORM_KINK = (
    "the norm has no derivative there; PyTorch returns 0 for a zero vector and a zero element, and "
    "shares evenly among the largest that tie (p = inf)"
)

NORM = register(Op(
    "norm(Tensor input, float? p=2, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=lambda x, p, dim, keepdim: _reduced(x, dim, keepdim),
    element=_norm, jacobian=_norm_slope, singular_at=_norm_singular, kink=NORM_KINK,
    samples=("x[3].norm()", "norm(x[2,3], dim=1)", "x[2,3].norm(p=3, dim=0, keepdim=True)",
             "norm(x[3], 1)", "norm(x[3], inf)", "x[2,3].norm(-inf, dim=1)",
             "norm(x[3], 0) + x.sum()", "norm(x[3], 0.5)", "norm(x[3], 4)", "x[3].norm(1.5)"),
    torch=lambda torch, x, p, dim, keepdim: torch.norm(x, p, dim, keepdim),
))
register(Op(
    "norm(Tensor input, str p, int[]? dim=None, bool keepdim=False)", _FAMILY,
    expand=lambda b, x, p, dim, keepdim: _named_norm(b, x, p, dim, keepdim),
    samples=("norm(x[2,3], 'fro')", "x[2,3].norm(p='fro', dim=1)"),
))
VECTOR_NORM = register(Op(
    "vector_norm(Tensor x, float ord=2, int[]? dim=None, bool keepdim=False)", _FAMILY,
    shape=lambda x, p, dim, keepdim: _reduced(x, dim, keepdim), homes="linalg",
    element=_norm, jacobian=_norm_slope, singular_at=_norm_singular, kink=NORM_KINK,
    samples=("torch.linalg.vector_norm(x[2,3])", "torch.linalg.vector_norm(x[2,3], 3, dim=1)"),
    torch=lambda torch, x, p, dim, keepdim: torch.linalg.vector_norm(x, p, dim, keepdim),
))


def _named_norm(b: Any, x: Any, p: str, dim: Any, keepdim: bool) -> Any:
    if p != "fro":
        raise UnsupportedError(
            f"norm p={p!r} is not supported yet", remedy="use 'fro' or a number"
        )
    return b.call("norm", x, 2, dim, keepdim)


register(Op(
    "norm(Tensor A, float ord, int[]? dim=None, bool keepdim=False)", _FAMILY, homes="linalg",
    expand=lambda b, x, p, dim, keepdim: _linalg_norm(b, x, p, dim, keepdim),
    samples=("torch.linalg.norm(x[3], 1)", "torch.linalg.norm(x[2,3], 3, dim=1)"),
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
    samples=("torch.linalg.matrix_norm(x[2,3])",),
))


def _linalg_norm(b: Any, x: Any, p: float, dim: Any, keepdim: bool) -> Any:
    rank = len(b.shape(x)) if dim is None else 1 if isinstance(dim, int) else len(dim)
    if rank != 1:
        raise UnsupportedError(
            f"linalg.norm with ord={p:g} is a matrix norm here, which is not supported yet",
            remedy="linalg.vector_norm takes any ord over any dims; the Frobenius norm is ord=None",
        )
    return b.apply(VECTOR_NORM, x, p, dim, keepdim)


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
    _not_scalar("cosine_similarity", shape)
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
    shape=lambda x, dim, eps: _reduced(x, dim, True), element=_length, torch=_nothing,
    show=lambda x, dim, eps: f"max(norm({x}, dim={dim}, keepdim=True), {eps})",
))


def _cosine(k: Any, a: Any, b: Any, dim: int, eps: float, n1: Any, n2: Any) -> Any:
    shape, d = _pair_dims(a.shape, b.shape, dim)
    p = k.bound(shape[d])
    at = (*k.i[:d], p, *k.i[d:])
    flat = (*k.i[:d], 0, *k.i[d:])
    product = a.broadcast(at) * b.broadcast(at)
    return k.sum(product, p) / (n1.broadcast(flat) * n2.broadcast(flat))


def _cosine_slope(k: Any, a: Any, b: Any, dim: int, eps: float, n1: Any, n2: Any) -> Any:
    """``(other/|other| − y·mine/|mine|)/|mine|``."""
    shape, d = _pair_dims(a.shape, b.shape, dim)
    mine, other, own, its = (a, b, n1, n2) if k.wrt == "x1" else (b, a, n2, n1)
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
    return ties * (
        other.broadcast(at) / (length * its.broadcast(flat)) - y * mine.broadcast(at) / length**2
    )


register(Op(
    "cosine_similarity(Tensor x1, Tensor x2, int dim=1, float eps=1e-8, Aux n1, Aux n2)", _FAMILY,
    homes="torch F",
    shape=lambda a, b, dim, *_: _cosine_shape(a, b, dim),
    element=_cosine, jacobian=_cosine_slope,
    aux=lambda b, x, y, dim, eps: _lengths(b, x, y, dim, eps),
    torch=lambda torch, a, b, dim, eps, *_: torch.nn.functional.cosine_similarity(a, b, dim, eps),
    samples=("cosine_similarity(x[3], y[3], dim=0)", "F.cosine_similarity(x[2,3], y[2,3])",
             "cosine_similarity(x[2,3], y[1,3], dim=-1)"),
))


def _lengths(b: Any, x: Any, y: Any, dim: int, eps: float) -> tuple[Any, ...]:
    _, d = _pair_dims(b.shape(x), b.shape(y), dim)
    rank = max(len(b.shape(x)), len(b.shape(y)))
    return tuple(
        b.helper(LENGTH, t, d - (rank - len(b.shape(t))), eps, label=f"n{place}")
        for place, t in enumerate((x, y), start=1)
    )


def _not_scalar(name: str, shape: Shape) -> None:
    if not shape:
        raise UnsupportedError(
            f"{name} of a tensor of shape () is not supported",
            remedy="give it a dimension, as in x.reshape(1)",
        )


def _normalize_shape(x: Shape, p: float, dim: int, *_: Any) -> Shape:
    _not_scalar("normalize", x)
    return _same(x, dim)


def _normalize(k: Any, x: Any, p: float, dim: int, eps: float, n: Any) -> Any:
    return x[k.i] / n[k.put(k.i, normal_dim(dim, x.rank), 0)]


def _normalize_slope(k: Any, x: Any, p: float, dim: int, eps: float, n: Any) -> Any:
    """``(δ(i,j) − y[i]·∂‖x‖/∂x[j])/‖x‖``."""
    d = normal_dim(dim, x.rank)
    length = n[k.put(k.i, d, 0)]
    there = k.put(k.i, d, k.j[d])
    if p == 2:
        own = k.out[there]
    else:
        every = k.bound(x.shape[d])
        own = _total_slope(k, p, x[there], length, x[k.put(k.i, d, every)], [every])
    return same_but(k, d) * (k.delta(k.i[d], k.j[d]) - k.out[k.i] * own) / length


_P_LENGTH = register(Op(
    "length(Tensor input, float p, int dim, float eps)", _FAMILY, (), homes="", stops=True,
    shape=lambda x, p, dim, eps: _reduced(x, dim, True), torch=_nothing,
    element=lambda k, x, p, dim, eps: k.max(_norm(k, x, p, dim, True), k.number(eps)),
    show=lambda x, p, dim, eps: f"max(norm({x}, {p}, dim={dim}, keepdim=True), {eps})",
))
register(Op(
    "normalize(Tensor input, float p=2, int dim=1, float eps=1e-12, Aux n)", _FAMILY, homes="F",
    shape=_normalize_shape, element=_normalize, jacobian=_normalize_slope,
    aux=lambda b, x, p, dim, eps: (
        b.helper(_P_LENGTH, x, p, dim, eps, label="n") if b.shape(x) else x,),
    torch=lambda torch, x, p, dim, eps, _: torch.nn.functional.normalize(x, p, dim, eps),
    samples=("F.normalize(x[2,3])", "F.normalize(x[3], dim=0)", "F.normalize(x[2,3], p=1, dim=0)",
             "F.normalize(x[2,3], p=3)"),
))
