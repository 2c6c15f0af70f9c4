"""Extrema, medians and other picks: the element, or elements, that a reduction takes."""
# fmt: off

from __future__ import annotations

from typing import Any

import numpy as np

from gradexplain.ops.base import (
    Op,
    Shape,
    by_schema,
    expect,
    normal_dim,
    normal_dims,
    reduced,
    register,
)
from gradexplain.ops.indexing import GATHER
from gradexplain.ops.reductions import (
    inner,
    nothing,
    outer,
    reduced_shape,
    same_shape,
)

_FAMILY = "reduction"


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


def several(y: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Where more than one element is the extremum."""
    dims = normal_dims(dim, x.ndim)
    wide = y if keepdim else np.expand_dims(y, dims)
    return np.reshape((x == wide).sum(axis=dims) > 1, np.shape(y))


_TIE = "PyTorch shares the gradient evenly among the elements that tie"

for _name, _kind in (("amax", "greatest"), ("amin", "least")):
    register(Op(
        f"{_name}(Tensor input, int[] dim=(), bool keepdim=False)", _FAMILY,
        shape=reduced_shape, element=_extremum(_kind), jacobian=_shared, singular_at=several, kink=_TIE,
        samples=(f"x[3].{_name}()", f"x[2,3].{_name}(dim=0)",
                 f"{_name}(x[2,3,2], (0, 2), keepdim=True)"),
    ))
for _name, _kind in (("max", "greatest"), ("min", "least")):
    register(Op(
        f"{_name}(Tensor input)", _FAMILY,
        shape=reduced_shape, element=_extremum(_kind), jacobian=_shared, singular_at=several, kink=_TIE,
        samples=(f"x[3].{_name}()", f"{_name}(x[2,3])"),
    ))
register(Op(
    "median(Tensor input)", _FAMILY,
    shape=reduced_shape, jacobian=_shared, singular_at=several, kink=_TIE,
    value=lambda exact, x: _median(x), samples=("x[3].median()", "median(x[2,3])"),
))


def _median(x: Any) -> Any:
    """The lower of the two in the middle, as PyTorch."""
    order = np.argsort(x[0].ravel(), kind="stable")
    place = order[(order.size - 1) // 2]
    return np.reshape(x[0].ravel()[place], ()), np.reshape(x[1].ravel()[place], ())


# -- picks along a dim: values and the indices they come from ------------------------------------


def _picker(index: Any) -> Any:
    """The kernel of a helper that finds which element is taken: ``index(array, axis, …)``."""

    def value(exact: bool, x: Any, dim: int, *rest: Any) -> Any:
        if x[0].ndim == 0:
            return np.zeros(()), np.zeros(())
        found = np.asarray(index(x[0], dim, *rest), dtype=np.float64)
        return found, np.zeros_like(found)

    return value


def _running(worse: Any) -> Any:
    """The index of the last best element up to each place, as ``cummax``."""

    def index(x: Any, dim: int) -> Any:
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
        n = x.shape[dim]
        return np.take(np.argsort(x, axis=dim, kind="stable"), place(n, *rest), axis=dim)

    return index


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


_WHICH = "which of the elements that tie PyTorch picks, and gives the gradient to, is not specified"
_INDEX = "an index is an integer: it has no derivative and no gradient gets past it"


def _pick(name: str, index: Any, *, keeps: bool = False, extra: str = "",
          samples: tuple[str, ...], which: str) -> None:
    """``name(input, dim)`` → (values, indices): the values are ``x`` at the indices.

    ``which`` of the elements that tie is picked, `_WHICH` where PyTorch does not say; ``keeps`` for a
    result of the input's shape (``cummax``); ``extra`` is another argument before ``dim``
    (``kthvalue``'s k).
    """
    unsure, plain = which == _WHICH, name in ("max", "min")

    def called(x: Any, *args: Any) -> str:
        """PyTorch's own call, which returns the values and their indices."""
        *rest, dim = args
        return f"{x}.{name}({''.join(f'{n}, ' for n in rest)}dim={dim})"

    def written(c: Any, x: Any, *args: Any) -> str:
        *rest, at = args
        keepdim = not keeps and rest.pop()
        values = f"{called(x, *rest)}.values"
        return f"{values}.unsqueeze({rest[-1]})" if keepdim and x.rank else values

    def back(c: Any, x: Any, *args: Any) -> str:
        """To the element that was taken, by its index."""
        *rest, at = args
        keepdim = not keeps and rest.pop()
        d = rest[-1]
        if not x.rank:
            return str(c.grad)
        if keeps:
            return f"torch.zeros_like({x}).scatter_add({d}, {at}, {c.grad})"
        grad = c.grad if keepdim else f"{c.grad}.unsqueeze({d})"
        return f"torch.zeros_like({x}).scatter({d}, {at}.unsqueeze({d}), {grad})"

    helper = register(Op(
        f"arg{name}(Tensor input, int dim{', ' + extra if extra else ''})", _FAMILY, (), homes="",
        integer=True, shape=_index_shape(keeps), value=_picker(index),
        torch=lambda torch, x, dim, *rest: getattr(torch, name)(x, *rest, dim)[1],
        remark=_INDEX if plain else "",
        written=lambda c, x, dim, *rest: f"{called(x, *rest, dim)}.indices",
        element=_first(name) if plain else None, jacobian=None if plain else nothing,
        show=None if plain else lambda x, dim, *rest: (
            f"{name}({', '.join((x, *rest, f'dim={dim}'))}).indices"),
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
            return same_shape(x, dim)
        return reduced(x, normal_dims(dim, len(x)), args[-2])

    def torch(torch: Any, x: Any, *args: Any) -> Any:
        return getattr(torch, name)(x, *args[:-1])[0]

    def tied(y: Any, x: Any, *args: Any) -> Any:
        dim, keepdim = args[-3], args[-2]
        if x.ndim == 0:
            return np.zeros((), dtype=bool)
        wide = y if keepdim else np.expand_dims(y, dim)
        return np.reshape((x == wide).sum(axis=dim) > 1, y.shape)

    values = register(Op(
        f"{name}(Tensor input{before}, int dim{keepdim}, Aux indices)", _FAMILY, (), homes="",
        shape=shape, element=element, aux=aux, torch=torch, kink=_WHICH if unsure else "",
        # backward: the derived one looks for the place anew by comparing.
        singular_at=tied if unsure else None, written=written, backward=back,
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

_pick("max", np.argmax, which=_PICKED,
      samples=("x[2,3].max(dim=1).values", "max(x[2,3], 0)[0]", "x[3].max(0, keepdim=True)[0]",
               "v2, i = x[2,3].max(-1); v2*2"))
_pick("min", np.argmin, which=_PICKED,
      samples=("x[2,3].min(dim=1).values", "min(x[2,3], 0)[0]"))
_pick("median", _ordered(lambda n: (n - 1) // 2), which=_WHICH,
      samples=("x[2,3].median(dim=1).values", "median(x[4,2], 0)[0]"))
_pick("kthvalue", _ordered(lambda n, k: k - 1), extra="int k", which=_WHICH,
      samples=("kthvalue(x[5], 2).values", "x[2,3].kthvalue(3, 0 - 1)[0]"))
_pick("cummax", _running(lambda new, best: new < best), keeps=True, which=_PICKED,
      samples=("cummax(sin(x[5]), 0).values", "x[2,3].cummax(dim=1)[0]"))
_pick("cummin", _running(lambda new, best: new > best), keeps=True, which=_PICKED,
      samples=("cummin(sin(x[5]), 0).values", "x[2,3].cummin(dim=1)[0]"))

# -- sorted ------------------------------------------------------------------------------------------


def _order(exact: bool, x: Any, dim: int, descending: bool) -> Any:
    """Where the elements are in sorted order; those that tie stay in their order."""
    if x[0].ndim == 0:
        return np.zeros(()), np.zeros(())
    signed = -x[0] if descending else x[0]
    found = np.argsort(signed, axis=dim, kind="stable").astype(np.float64)
    return found, np.zeros_like(found)


ARGSORT = register(Op(
    "argsort(Tensor input, int dim=-1, bool descending=False)", _FAMILY, integer=True,
    shape=lambda x, dim, descending: same_shape(x, dim), value=_order,
    jacobian=lambda k, *_: k.S.S.Zero,
    remark=_INDEX, torch=lambda torch, x, dim, descending: torch.argsort(
        x, dim=dim, descending=descending, stable=True),
    samples=("x[3]*argsort(x)", "x[2,3]*x.argsort(dim=0, descending=True)"),
))


def _sorted(b: Any, x: Any, dim: int, descending: bool, *_: Any) -> Any:
    if not b.shape(x):
        return b.results(("values", "indices"), b.call("clone", x), b.constant(0, integer=True))
    index = b.apply(ARGSORT, x, dim, descending)
    return b.results(("values", "indices"), b.apply(GATHER, x, dim, index), index)


def _topk(b: Any, x: Any, k: int, dim: int, largest: bool, *_: Any) -> Any:
    if b.shape(x):
        n = b.shape(x)[normal_dim(dim, len(b.shape(x)))]
        expect(0 <= k <= n, f"topk: {k} elements are asked for, dimension {dim} has {n}")
    values, index = _sorted(b, x, dim, largest)
    if not b.shape(x):
        return b.results(("values", "indices"), values, index)
    first = b.call("narrow", index, dim, 0, k)
    return b.results(("values", "indices"), b.apply(GATHER, x, dim, first), first)


register(Op(
    "sort(Tensor input, int dim=-1, bool descending=False, *, bool stable=False)", _FAMILY,
    expand=_sorted, kink=_WHICH,
    samples=("sort(sin(x[4])).values", "x[2,3].sort(dim=0, descending=True)[0]"),
))
register(Op(
    "msort(Tensor input)", _FAMILY, expand=lambda b, x: _sorted(b, x, 0, False)[0],
    kink=_WHICH, samples=("msort(sin(x[4]))",),
))
register(Op(
    "topk(Tensor input, int k, int dim=-1, bool largest=True, bool sorted=True)", _FAMILY,
    expand=_topk, kink=_WHICH,
    samples=("topk(sin(x[4]), 2).values", "x[2,3].topk(2, dim=1, largest=False)[0]"),
))
for _name in ("max", "min"):
    _helper = by_schema(f"arg{_name}(Tensor input, int dim)")

    def _place(b: Any, x: Any, dim: int | None, keepdim: bool, op: Op = _helper) -> Any:
        rank = len(b.shape(x))
        if dim is None:
            found = b.apply(op, b.call("ravel", x), 0)
            return b.call("reshape", found, (1,) * rank) if keepdim and rank else found
        found = b.apply(op, x, dim)
        return b.call("unsqueeze", found, dim) if keepdim and rank else found

    register(Op(
        f"arg{_name}(Tensor input, int? dim=None, bool keepdim=False)", _FAMILY, expand=_place,
        samples=(f"x[2,3].gather(1, arg{_name}(x, 1, keepdim=True))", f"x[3].index_select(0, x.arg{_name}().reshape(1))"),
    ))
register(Op(
    "aminmax(Tensor input, *, int? dim=None, bool keepdim=False)", _FAMILY,
    expand=lambda b, x, dim, keepdim: b.results(
        ("min", "max"), *(b.call(f"a{name}", x, () if dim is None else (dim,), keepdim)
                          for name in ("min", "max"))),
    samples=("aminmax(x[3]).max - aminmax(x).min", "aminmax(x[2,3], dim=1)[0]"),
))

for _name in ("max", "min"):
    register(Op(
        f"{_name}(Tensor input, Tensor other)", "pointwise",
        expand=lambda b, x, other, call=f"{_name}imum": b.call(call, x, other),
        samples=(f"torch.{_name}(x[3], y[3]/2)",),
    ))
