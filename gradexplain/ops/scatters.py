"""Operations that write a tensor into places of another: scatter, index_add and their like."""
# fmt: off

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gradexplain.errors import InputError, UnsupportedError
from gradexplain.ops.base import Op, Shape, expect, normal_dim, register
from gradexplain.ops.creation import check_size
from gradexplain.ops.indexing import known

_FAMILY = "shape"


# -- adding --------------------------------------------------------------------------------------


def _in_range(b: Any, index: Any, n: int, name: str) -> None:
    values = b.values(index)
    expect(values is None or not values.size or (values.min() >= 0 and values.max() < n),
           f"{name}: an index is not from 0 to {n - 1}")


def _scatter_shape(x: Shape, dim: int, index: Shape, src: Shape) -> Shape:
    d = normal_dim(dim, len(x))
    expect(len(x) == len(index) == len(src),
           "scatter_add takes an input, an index and a source with as many dimensions, found {}, {} "
           "and {}", x, tuple(index), src)
    for axis, (n, m, s) in enumerate(zip(x, index, src, strict=True)):
        expect(m <= s and (m <= n or axis == d),
               "scatter_add: the index {} is larger than the source {} or the input {}",
               tuple(index), src, x)
    return x


def _scatter_add(k: Any, x: Any, dim: int, index: Any, src: Any) -> Any:
    d = normal_dim(dim, x.rank)
    p = k.bound(index.shape[d])
    at = k.put(k.i, d, p)
    inside = k.S.Mul(*(
        k.bracket(i <= m - 1)
        for axis, (i, m) in enumerate(zip(k.i, index.shape, strict=True)) if axis != d))
    place = k.below(index[at], x.shape[d])
    return x[k.i] + inside * k.sum(k.delta(place, k.i[d]) * src[at], p)


def _scattered_back(c: Any, x: Any, dim: int, index: Any, src: Any) -> str | None:
    if c.wrt == "source":
        return str(c.grad)
    return f"{c.grad}.gather({dim}, {index})" if src.shape == index.shape else None


SCATTER_ADD = register(Op(
    "scatter_add(Tensor source, int dim, IntTensor index, Tensor src)", _FAMILY, (), homes="",
    shape=_scatter_shape, element=_scatter_add,
    torch=lambda torch, x, dim, index, src: x.scatter_add(dim, index, src),
    written=lambda c, x, dim, index, src: f"{x}.scatter_add({dim}, {index}, {src})",
    # backward: the derived one cannot be written where the index is smaller than the input.
    backward=_scattered_back,
))


def _with_dim(expand: Any) -> Any:
    """A tensor of shape () is one of shape (1,) to PyTorch here."""

    def whole(b: Any, x: Any, dim: int, index: Any, *rest: Any) -> Any:
        if b.shape(x):
            return expand(b, x, dim, index, *rest)
        x, index, *wide = (
            arg if not hasattr(arg, "id") or b.shape(arg) else b.call("reshape", arg, (1,))
            for arg in (x, index, *rest))
        return b.call("reshape", expand(b, x, dim, index, *wide), ())

    return whole


def _adding(b: Any, x: Any, dim: int, index: Any, src: Any) -> Any:
    _in_range(b, index, b.shape(x)[normal_dim(dim, len(b.shape(x)))], "scatter_add")
    return b.apply(SCATTER_ADD, x, dim, index, src)


register(Op(
    "scatter_add(Tensor input, int dim, IntTensor index, Tensor src)", _FAMILY, expand=_with_dim(_adding),
    samples=("scatter_add(x[3], 0, [0, 0, 1], y[3])",
             "x[2,3].scatter_add(1, [[0, 2], [1, 1]], y[2,2])"),
))


def _index_shape(x: Shape, dim: int, index: Shape, src: Shape, alpha: Any) -> Shape:
    d = normal_dim(dim, len(x))
    expect(len(index) == 1 and len(src) == len(x) and src == (*x[:d], index[0], *x[d + 1:]),
           "index_add: the source {} must be the input {} with one slice for each of {} indices",
           src, x, tuple(index))
    return x


def _index_add(k: Any, x: Any, dim: int, index: Any, src: Any, alpha: Any) -> Any:
    d = normal_dim(dim, x.rank)
    p = k.bound(index.shape[0])
    place = k.below(index[(p,)], x.shape[d])
    total = k.sum(k.delta(place, k.i[d]) * src[k.put(k.i, d, p)], p)
    return x[k.i] + k.number(alpha) * total


INDEX_ADD = register(Op(
    "index_add(Tensor target, int dim, IntTensor index, Tensor source, float alpha)", _FAMILY, (),
    homes="", shape=_index_shape, element=_index_add,
    torch=lambda torch, x, dim, index, src, alpha: x.index_add(dim, index, src, alpha=alpha),
    written=lambda c, x, dim, index, src, alpha: (
        f"{x}.index_add({dim}, {index}, {src}, alpha={alpha!r})"),
))


def _indexed(b: Any, x: Any, dim: int, index: Any, source: Any, alpha: Any) -> Any:
    _in_range(b, index, b.shape(x)[normal_dim(dim, len(b.shape(x)))], "index_add")
    return b.apply(INDEX_ADD, x, dim, index, source, alpha)


register(Op(
    "index_add(Tensor input, int dim, IntTensor index, Tensor source, *, float alpha=1)", _FAMILY,
    expand=_with_dim(_indexed),
    samples=("index_add(x[3], 0, [0, 2, 0], y[3])",
             "x[2,3].index_add(1, [1, 2], y[2,2], alpha=0.5)"),
))


# -- replacing -----------------------------------------------------------------------------------


def _put(k: Any, x: Any, at: Any, values: Any) -> Any:
    """``values`` in memory order at the places ``at``, numbered in memory order."""
    p = k.bound(at.shape[0])
    tie = k.delta(k.below(at[(p,)], prod(x.shape)), k.ravel(k.i, x.shape))
    kept = x[k.i] * (1 - k.sum(tie, p))
    return kept + k.sum(tie * values[k.unravel(p, values.shape)], p)


def _put_back(c: Any, x: Any, at: Any, values: Any) -> str:
    if c.wrt == "source":
        return f"{c.grad}.ravel().index_fill(0, {at}, 0.0).reshape({x}.shape)"
    return f"{c.grad}.ravel()[{at}].reshape({values}.shape)"


_PUT = register(Op(
    "put(Tensor source, IntTensor places, Tensor values)", _FAMILY, (), homes="",
    # backward: the derived one adds at places of all elements in a row.
    shape=lambda x, at, values: x, element=_put, backward=_put_back,
    torch=lambda torch, x, at, values: x.ravel().index_copy(
        0, at.long(), values.ravel()).reshape(x.shape),
    written=lambda c, x, at, values: (
        f"{x}.ravel().index_copy(0, {at}, {values}.ravel()).reshape({x}.shape)"),
))


def _replaced(b: Any, name: str, x: Any, at: Any, values: Any, picked: Any = None) -> Any:
    """``x`` with ``values`` at ``at``, an index of NumPy's; ``picked`` where they are more than that."""
    check_size(b.shape(x))
    numbers = np.arange(prod(b.shape(x))).reshape(b.shape(x))
    try:
        places = numbers[at]
    except IndexError:
        raise InputError(
            f"{name}: an index is not in the input",
            remedy="an index is from 0 to the dimension's size less one",
        ) from None
    if np.unique(places).size < places.size:
        raise UnsupportedError(
            f"{name}: two elements are written to one place, and which of them stays is not "
            "specified", remedy="scatter_add adds them up",
        )
    if not b.shape(values) and places.ndim:
        node = b.node(values)
        values = b.constant(np.full(places.shape, float(node.value))) if node.is_literal else (
            b.call("expand", values, places.shape))
    elif b.shape(values) != places.shape and picked is not None:
        values = b.call("getitem", values, tuple(slice(0, n) for n in places.shape))
    expect(b.shape(values) == places.shape, f"{name}: {{}} does not fit the places of shape {{}}",
           b.shape(values), places.shape)
    return b.apply(_PUT, x, b.constant(places.ravel().astype(float), integer=True), values)


def _along(x: Shape, dim: int, index: Any) -> Any:
    """What ``put_along_axis`` takes: a grid of places."""
    grid = list(np.indices(index.shape))
    grid[normal_dim(dim, len(x))] = index
    return tuple(grid)


def _scatter(b: Any, x: Any, dim: int, index: Any, src: Any) -> Any:
    values = known(b, index, "scatter: the index").astype(int)
    return _replaced(b, "scatter", x, _along(b.shape(x), dim, values), src, picked=True)


def _copied(name: str) -> Any:
    def expand(b: Any, x: Any, dim: int, index: Any, source: Any) -> Any:
        values = known(b, index, f"{name}: the index").astype(int).ravel()
        at = (slice(None),) * normal_dim(dim, len(b.shape(x))) + (values,)
        return _replaced(b, name, x, at, source)

    return expand


def _placed(b: Any, x: Any, index: Any, source: Any) -> Any:
    _in_range(b, index, prod(b.shape(x)), "put")
    places = np.unravel_index(known(b, index, "put: the index").astype(int), b.shape(x))
    return _replaced(b, "put", x, places, source)


register(Op(
    "put(Tensor input, IntTensor index, Tensor source)", _FAMILY, expand=_placed,
    samples=("x[2,3].put([0, 4], y[2])", "torch.put(x[3], [2], y[1])"), homes="torch Tensor",
))
register(Op(
    "scatter(Tensor input, int dim, IntTensor index, Tensor src)", _FAMILY, expand=_with_dim(_scatter),
    samples=("scatter(x[2,3], 1, [[0], [2]], y[2,1])", "x[3].scatter(0, [2, 0], y[2])"),
))
register(Op(
    "scatter(Tensor input, int dim, IntTensor index, Tensor value)", _FAMILY, expand=_with_dim(_scatter),
    samples=("x[2,3].scatter(1, [[0], [2]], value=5)",),
))
register(Op(
    "index_copy(Tensor input, int dim, IntTensor index, Tensor source)", _FAMILY, expand=_with_dim(_copied("index_copy")),
    samples=("index_copy(x[3], 0, [0, 2], y[2])", "x[2,3].index_copy(1, [1], y[2,1])"),
))
register(Op(
    "index_fill(Tensor input, int dim, IntTensor index, Tensor value)", _FAMILY, expand=_with_dim(_copied("index_fill")),
    samples=("index_fill(x[3], 0, [0, 2], 5)", "x[2,3].index_fill(1, [1], 0.5)"),
))


def _selected(b: Any, x: Any, src: Any, dim: int, index: int) -> Any:
    at = (slice(None),) * normal_dim(dim, len(b.shape(x))) + (index,)
    return _replaced(b, "select_scatter", x, at, src)


def _sliced(b: Any, x: Any, src: Any, dim: int, start: Any, end: Any, step: int) -> Any:
    at = (slice(None),) * normal_dim(dim, len(b.shape(x))) + (slice(start, end, step),)
    return _replaced(b, "slice_scatter", x, at, src)


register(Op(
    "select_scatter(Tensor input, Tensor src, int dim, int index)", _FAMILY, expand=_selected,
    samples=("select_scatter(x[2,3], y[3], 0, 1)",),
))
register(Op(
    "slice_scatter(Tensor input, Tensor src, int dim=0, int? start=None, int? end=None, int step=1)",
    _FAMILY, expand=_sliced, samples=("slice_scatter(x[4], y[2], start=1, end=3)",),
))
