"""Operations that take some of a tensor's elements: subscripts, gathers, splits."""
# fmt: off

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gradexplain.errors import InputError, UnsupportedError
from gradexplain.ops.base import Op, Shape, broadcast, expect, normal_dim, register
from gradexplain.ops.creation import check_size

_FAMILY = "shape"


# -- subscripts ------------------------------------------------------------------------------------


def _items(index: Any, rank: int) -> list[Any]:
    """A subscript with ``...`` written out, one item for each axis and each ``None``."""
    items = list(index) if isinstance(index, tuple) and not _is_table(index) else [index]
    for item in items:
        parts = (item.start, item.stop, item.step) if isinstance(item, slice) else (item,)
        if any(isinstance(part, (str, float)) for part in parts):
            raise InputError(
                "a subscript is made of integers, slices of integers, None, ... and lists of "
                f"integers; found {next(p for p in parts if isinstance(p, (str, float)))!r}",
                remedy="write it as in x[0, 1:]",
            )
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if sum(item is Ellipsis for item in items) > 1:
        raise InputError("a subscript has one '...' at the most", remedy="write ':' for the others")
    expect(taken <= rank, f"too many indices for a tensor of {rank} dimensions: found {taken}",
           remedy="leave some out")
    missing = [slice(None)] * (rank - taken)
    place = next((n for n, item in enumerate(items) if item is Ellipsis), None)
    if place is not None:
        return items[:place] + missing + items[place + 1 :]
    return items + missing


def _is_table(item: Any) -> bool:
    """Whether an item is a tensor of integers: its shape in a shape rule, itself in an element."""
    return hasattr(item, "value") or hasattr(item, "rank")


def _at(item: int, n: int, axis: int) -> int:
    if not -n <= item < n:
        raise InputError(
            f"index {item} is out of bounds for dimension {axis} with size {n}",
            remedy=f"indices go from 0 to {n - 1}, or from -1 back to {-n}" if n else "",
        )
    return item % n


def _taken(item: slice, n: int) -> range:
    if item.step is not None and item.step <= 0:
        raise InputError("the step of a slice must be positive", remedy="use flip to reverse")
    return range(*item.indices(n))


def _tables_first(items: list[Any]) -> bool | None:
    """Where the dims of tables of integers go in the result: None without any, True for the front.

    Tables and single integers are one group; it keeps its place if nothing stands between them.
    """
    if not any(_is_table(item) for item in items):
        return None
    places = [n for n, item in enumerate(items) if _is_table(item) or isinstance(item, int)]
    return places[-1] - places[0] + 1 != len(places)


def _subscripted(shape: Shape, index: Any) -> Shape:
    items = _items(index, len(shape))
    first = _tables_first(items)
    wide: Shape = broadcast(*(tuple(item) for item in items if _is_table(item)))
    result: list[int] = [] if first is not True else list(wide)
    done = first is not False
    axes = iter(enumerate(shape))
    for item in items:
        if item is None:
            result.append(1)
            continue
        axis, n = next(axes)
        if isinstance(item, slice):
            result.append(len(_taken(item, n)))
        elif _is_table(item) or first is not None:
            if not _is_table(item):
                _at(item, n, axis)
            if not done:
                result += wide
                done = True
        else:
            _at(item, n, axis)
    return tuple(result)


def _subscript(k: Any, x: Any, index: Any) -> Any:
    items = _items(index, x.rank)
    first = _tables_first(items)
    wide = len(broadcast(*(item.shape for item in items if _is_table(item))))
    left = list(k.i)
    table_at: tuple[Any, ...] = ()
    if first is True:
        table_at, left = tuple(left[:wide]), left[wide:]
    done = first is not False
    at: list[Any] = []
    for item in items:
        if item is None:
            left.pop(0)
            continue
        n = x.shape[len(at)]
        if isinstance(item, slice):
            taken, i = _taken(item, n), left.pop(0)
            at.append(taken.start + taken.step * i if taken else i)
            continue
        if not done:
            table_at, left, done = tuple(left[:wide]), left[wide:], True
        at.append(k.below(item.broadcast(table_at), n) if _is_table(item) else _at(item, n,
            len(at)))
    return x[tuple(at)]


def _show_index(x: str, index: str) -> str:
    # A tuple of indices stands in the brackets without its own parentheses.
    return f"{x}[{index[1:-1].rstrip(',') if index.startswith(('(', '[')) else index}]"


def known(b: Any, table: Any, what: str) -> Any:
    """The values of a tensor of integers, which must be known before anything is computed."""
    values = b.values(table)
    if values is None:
        raise UnsupportedError(
            f"{what} must be given: the shape of the result depends on it",
            remedy="write it as a list, or give it as an input with --at",
        )
    return values


def _wrapped(b: Any, table: Any, n: int, axis: int, *, negative: bool = True) -> Any:
    """A tensor of integers as an index into ``n`` places: in range, and counted from the front."""
    values = b.values(table)
    if values is None:
        return table
    for value in values.ravel().tolist():
        if not negative and value < 0:
            raise InputError(f"index {int(value)} is negative: it must be from 0 to {n - 1}")
        _at(int(value), n, axis)
    if not (values < 0).any():
        return table
    if b.node(table).is_leaf:
        return b.apply(_WRAP, table, n)
    return b.constant((values % n).tolist(), integer=True)


_WRAP = register(Op(
    "wrapped(IntTensor index, int size)", _FAMILY, (), homes="", integer=True, moves=True,
    shape=lambda index, n: tuple(index), element=lambda k, index, n: k.modulo(index[k.i], n),
    show=lambda index, n: f"{index} % {n}", torch=lambda torch, index, n: index % n,
))


def _getitem(b: Any, x: Any, index: Any) -> Any:
    shape = b.shape(x)
    single = not isinstance(index, tuple)
    tables = [item for item in ([index] if single else index) if hasattr(item, "id")]
    if not tables:
        return b.apply(_GETITEM, x, index)
    for table in tables:
        if b.node(table).op is not None and b.node(table).op.family == "comparison":
            raise UnsupportedError(
                "a condition as an index: the shape of the result would depend on the values",
                remedy="where(condition, x, 0) keeps the shape; masked_select takes a given mask",
            )
    items = [] if single else _items(index, len(shape))
    if any(isinstance(item, int) for item in items):
        # PyTorch selects at integers first; what is left is indexed by the tables.
        chosen = tuple(i if isinstance(i, int) else slice(None) for i in items if i is not None)
        left = tuple(item for item in items if not isinstance(item, int))
        return _getitem(b, b.apply(_GETITEM, x, chosen), left)
    as_seen = tuple(_Table(b.shape(i)) if hasattr(i,
        "id") else i for i in ([index] if single else index))
    items = _items(as_seen, len(shape))
    axes = [axis for axis, item in enumerate(i for i in items if i is not None) if _is_table(item)]
    found = iter([_wrapped(b, table, shape[axis], axis) for table,
        axis in zip(tables, axes, strict=True)])
    fixed = tuple(next(found) if hasattr(i, "id") else i for i in ([index] if single else index))
    return b.apply(_GETITEM, x, fixed[0] if single else fixed)


class _Table(tuple[int, ...]):
    """The shape of a tensor of integers among the items of a subscript."""

    value = None


_GETITEM = register(Op(
    "getitem(Tensor source, Index index)", _FAMILY, (), homes="", moves=True,
    shape=_subscripted, element=_subscript, show=_show_index,
    torch=lambda torch, x, index: x[index],
))
register(Op(
    "subscript(Tensor input, Index index)", _FAMILY, homes="", aliases=("operator.getitem",),
    expand=_getitem,
    samples=("x[2,3][0]", "x[2,3][:, 1:]", "x[4][None, ::2]", "x[2,3,4][..., -1]",
             "x[4][[0, 2, 2]]", "x[2,3][[0, 1], [2, -1]]", "x[2,3,2][:, [0, 2], 1]",
             "x[2,3,2][[0, 1], :, [0, 0]]", "x[3,2][[[0, 1], [2, 2]]]",
                 "x[3][[True, False, True]]"),
))


def _selected(k: Any, x: Any, dim: int, index: Any) -> Any:
    d = normal_dim(dim, x.rank)
    if not x.rank:
        return x[()]
    return x[k.put(k.i, d, k.below(index[(k.i[d],) if index.rank else ()], x.shape[d]))]


def _selected_shape(x: Shape, dim: int, index: Shape) -> Shape:
    d = normal_dim(dim, len(x))
    expect(len(index) < 2, "index_select takes a vector of indices, found shape {}", tuple(index))
    return (*x[:d], prod(index), *x[d + 1:]) if x else ()


_INDEX_SELECT = register(Op(
    "index_select(Tensor source, int dim, IntTensor index)", _FAMILY, (), homes="", moves=True,
    shape=_selected_shape, element=_selected,
    torch=lambda torch, x, dim, index: x.index_select(dim, index),
    written=lambda c, x, dim, index: f"{x}.index_select({dim}, {index})",
))


def _checked(op: Any) -> Any:
    """``op(x, dim, index)`` with the index in range."""

    def expand(b: Any, x: Any, dim: int, index: Any, *rest: Any) -> Any:
        shape = b.shape(x) or (1,)
        d = normal_dim(dim, len(shape))
        return b.apply(op, x, dim, _wrapped(b, index, shape[d], d, negative=False))

    return expand


register(Op(
    "index_select(Tensor input, int dim, IntTensor index)", _FAMILY,
    expand=_checked(_INDEX_SELECT),
    samples=("index_select(x[2,3], 1, [0, 2, 2])", "x[3].index_select(0, torch.tensor([2, 0]))"),
))


def _embedding(b: Any, index: Any, weight: Any, padding: Any) -> Any:
    expect(len(b.shape(weight)) == 2, "embedding takes a matrix of rows, found shape {}",
           b.shape(weight))
    index = _wrapped(b, index, b.shape(weight)[0], 0, negative=False)
    rows = b.call("getitem", weight, index)
    if padding is None:
        return rows
    learnt = b.call("unsqueeze", b.call("ne", index, padding % b.shape(weight)[0]), -1)
    return b.call("where", learnt, rows, b.call("detach", rows))


register(Op(
    "embedding(IntTensor input, Tensor weight, int? padding_idx=None)", _FAMILY, homes="F",
    expand=_embedding,
    samples=("F.embedding([0, 2, 2], w[3,2])", "F.embedding([[0, 2], [1, 1]], w[3,2])",
             "F.embedding([0, 2, 2, 1], w[3,2], padding_idx=2)"),
))


def _gather_shape(x: Shape, dim: int, index: Shape) -> Shape:
    d = normal_dim(dim, len(x))
    expect(len(index or (1,)) == len(x or (1,)) and all(
        m <= n or axis == d for axis, (m, n) in enumerate(zip(index, x, strict=False))),
        "gather takes an index with as many dimensions as the input, none larger but dim, found "
        "{} and {}", x, tuple(index))
    return tuple(index)


def _gather(k: Any, x: Any, dim: int, index: Any) -> Any:
    if not x.rank:
        return x[()]
    d = normal_dim(dim, x.rank)
    i = k.i or (k.S.S.Zero,)
    return x[k.put(i, d, k.below(index[k.i], x.shape[d]))]


GATHER = register(Op(
    "gather(Tensor source, int dim, IntTensor index)", _FAMILY, (), homes="", moves=True,
    shape=_gather_shape, element=_gather, torch=lambda torch, x, dim, index: x.gather(dim, index),
    written=lambda c, x, dim, index: f"{x}.gather({dim}, {index})",
    # backward: the derived one pads the index to the input's size and masks what it added.
    backward=lambda c, x, dim, index:
        f"torch.zeros_like({x}).scatter_add({dim}, {index}, {c.grad})",
))
register(Op(
    "gather(Tensor input, int dim, IntTensor index, *, bool sparse_grad=False)", _FAMILY,
    expand=_checked(GATHER),
    samples=("gather(x[2,3], 1, [[0, 2], [1, 1]])", "x[3].gather(0, [2, 2])"),
))


def _take(b: Any, x: Any, index: Any) -> Any:
    count = prod(b.shape(x))
    return b.apply(_TAKE, x, _wrapped(b, index, count, 0))


_TAKE = register(Op(
    "take(Tensor source, IntTensor index)", _FAMILY, (), homes="", moves=True,
    shape=lambda x, index: tuple(index),
    element=lambda k, x, index: x[k.unravel(k.below(index[k.i], prod(x.shape)), x.shape)],
    torch=lambda torch, x, index: x.take(index),
    written=lambda c, x, index: f"{x}.take({index})",
    # backward: the derived one adds at the places of a reshaped table.
    backward=lambda c, x, index:
        f"torch.zeros_like({x}).put({index}, {c.grad}, accumulate=True)",
))
register(Op(
    "take(Tensor input, IntTensor index)", _FAMILY, expand=_take,
    samples=("take(x[2,3], [0, 4, -1])", "x[3].take([[0, 1]])"),
))


def _take_along(b: Any, x: Any, index: Any, dim: int | None) -> Any:
    if dim is None:
        return b.call("take", x, b.call("ravel", index) if len(b.shape(index)) > 1 else index)
    shape = b.shape(x)
    d = normal_dim(dim, len(shape))
    index = _wrapped(b, index, shape[d], d)
    sizes = b.shape(index)
    expect(len(sizes) == len(shape),
        "take_along_dim takes an index with as many dimensions as the "
            "input, found {} and {}", shape, sizes)
    full = [n if axis == d else broadcast((n,), (m,))[0] for axis, (n, m) in
            enumerate(zip(shape, sizes, strict=True))]
    wide, narrow = list(full), list(full)
    wide[d], narrow[d] = shape[d], sizes[d]
    if tuple(wide) != shape:
        x = b.call("broadcast_to", x, tuple(wide))
    if tuple(narrow) != sizes:
        index = b.call("broadcast_to", index, tuple(narrow))
    return b.apply(GATHER, x, d, index)


register(Op(
    "take_along_dim(Tensor input, IntTensor indices, int? dim=None)", _FAMILY, expand=_take_along,
    samples=("take_along_dim(x[2,3], [[0], [2]], dim=1)", "x[2,3].take_along_dim([5, -6])"),
))


def _masked_select(b: Any, x: Any, mask: Any) -> Any:
    values = known(b, mask, "masked_select: the mask") != 0
    shape = broadcast(b.shape(x), values.shape)
    if b.shape(x) != shape:
        x = b.call("broadcast_to", x, shape)
    check_size(shape)
    places = np.flatnonzero(np.broadcast_to(values, shape))
    return b.apply(_TAKE, x, b.constant(places.astype(float), integer=True))


register(Op(
    "masked_select(Tensor input, IntTensor mask)", _FAMILY, expand=_masked_select,
    samples=("masked_select(x[2,2], [[True, False], [True, True]])",),
))


def _narrow(b: Any, x: Any, dim: int, start: int, length: int) -> Any:
    d = normal_dim(dim, len(b.shape(x)))
    expect(b.shape(x) != (), "narrow() cannot be applied to a 0-dim tensor.",
            remedy="a scalar has one element: leave narrow out")
    n = b.shape(x)[d]
    start = start + n if start < 0 else start
    expect(start >= 0 and length >= 0 and start + length <= n,
            f"narrow: {length} elements from {start} are not in dimension {dim} of {{}}",
                b.shape(x))
    return b.call("getitem", x, (*[slice(None)] * d, slice(start, start + length)))


register(Op(
    "narrow(Tensor input, int dim, int start, int length)", _FAMILY, expand=_narrow,
    samples=("narrow(x[4], 0, 1, 2)", "x[2,3].narrow(-1, 0, 2)"),
))
register(Op(
    "narrow(Tensor input, int dim, IntTensor start, int length)", _FAMILY,
    expand=lambda b, x, dim, start, length: _narrow(
        b, x, dim, int(known(b, start, "narrow: the start").ravel()[0]), length),
    samples=("narrow(x[4], 0, [1], 2)",),
))


def _select(b: Any, x: Any, dim: int, index: int) -> Any:
    expect(bool(b.shape(x)), "select needs a dimension, found shape {}", b.shape(x))
    return b.call("getitem", x, (*[slice(None)] * normal_dim(dim, len(b.shape(x))), index))


register(Op(
    "select(Tensor input, int dim, int index)", _FAMILY, expand=_select,
    samples=("select(x[2,3], 1, -1)", "x[3].select(0, 1)"),
))


# -- parts -----------------------------------------------------------------------------------------


def _cut(b: Any, x: Any, d: int, lengths: list[int]) -> tuple[Any, ...]:
    parts, start = [], 0
    for length in lengths:
        parts.append(b.call("getitem", x, (*[slice(None)] * d, slice(start, start + length))))
        start += length
    return tuple(parts)


def _split(b: Any, x: Any, size: Any, dim: int) -> Any:
    shape = b.shape(x)
    d = normal_dim(dim, len(shape))
    expect(bool(shape), "split needs a dimension, found shape {}", shape)
    if isinstance(size, int):
        expect(size > 0, f"split: the size must be positive, found {size}")
        sizes = [min(size, shape[d] - start) for start in range(0, shape[d], size)] or [0]
    else:
        sizes = list(size)
        expect(sum(sizes) == shape[d] and all(n >= 0 for n in sizes),
                f"split: the sizes {sizes} do not add up to {shape[d]}, dimension {dim}")
    return _cut(b, x, d, sizes)


register(Op(
    "split(Tensor tensor, Any split_size_or_sections, int dim=0)", _FAMILY, expand=_split,
    aliases=("torch.split_with_sizes", "Tensor.split_with_sizes", "torch.unsafe_split"),
    samples=("a, b = split(x[4], 2); a*b", "a, b = x[2,3].split([1, 2], dim=1); a*b"),
))
register(Op(
    "split(Tensor tensor, Any split_size, int dim=0)", _FAMILY, expand=_split,
    samples=("a, b = x[4].split(split_size=2); a*b",),
))


def _chunk(b: Any, x: Any, chunks: int, dim: int) -> Any:
    expect(chunks > 0, f"chunk: the number of chunks must be positive, found {chunks}")
    expect(bool(b.shape(x)), "chunk needs a dimension, found shape {}", b.shape(x))
    n = b.shape(x)[normal_dim(dim, len(b.shape(x)))]
    if n == 0:
        return _cut(b, x, normal_dim(dim, len(b.shape(x))), [0] * chunks)
    return _split(b, x, -(-n // chunks), dim)


register(Op(
    "chunk(Tensor input, int chunks, int dim=0)", _FAMILY, expand=_chunk,
    aliases=("torch.unsafe_chunk",),
    samples=("a, b = chunk(x[4], 2); a*b", "a, b = x[2,3].chunk(2, -1); a*b"),
))


def _tensor_split(b: Any, x: Any, parts: Any, dim: int) -> Any:
    expect(bool(b.shape(x)), "tensor_split needs a dimension, found shape {}", b.shape(x))
    d = normal_dim(dim, len(b.shape(x)))
    n = b.shape(x)[d]
    if hasattr(parts, "id"):
        values = known(b, parts, "tensor_split: the indices")
        parts = int(values) if values.ndim == 0 else tuple(int(v) for v in values)
    if isinstance(parts, int):
        expect(parts > 0, f"tensor_split: the number of parts must be positive, found {parts}")
        sizes = [n // parts + (place < n % parts) for place in range(parts)]
        return _cut(b, x, d, sizes)
    pieces = []
    for start, end in zip((None, *parts), (*parts, None), strict=True):
        pieces.append(b.call("getitem", x, (*[slice(None)] * d, slice(start, end))))
    return tuple(pieces)


register(Op(
    "tensor_split(Tensor input, Any indices_or_sections, int dim=0)", _FAMILY, expand=_tensor_split,
    samples=("a, b = tensor_split(x[4], 2); a*b", "a, b = x[2,3].tensor_split((1,), dim=1); a*b"),
))
for _what, _how in (("indices", "(2,)"), ("sections", "2")):
    register(Op(
        f"tensor_split(Tensor input, Any {_what}, int dim=0)", _FAMILY, expand=_tensor_split,
        samples=(f"a, b = x[4].tensor_split({_what}={_how}); a*b",),
    ))
for _name, _need, _axis in (("hsplit", 1, 1), ("vsplit", 2, 0), ("dsplit", 3, 2)):
    def _sided(b: Any, x: Any, parts: Any, name: str = _name, need: int = _need,
               axis: int = _axis) -> Any:
        shape = b.shape(x)
        expect(len(shape) >= need, f"{name} needs {need} dimensions, found shape {{}}", shape)
        d = 0 if len(shape) == 1 else axis
        expect(not isinstance(parts, int) or (parts > 0 and shape[d] % parts == 0),
                f"{name}: dimension {d} of {{}} cannot be split into {parts} equal parts", shape)
        return _tensor_split(b, x, parts, d)

    register(Op(
        f"{_name}(Tensor input, Any indices_or_sections)", _FAMILY, expand=_sided,
        samples=(f"a, b = {_name}(x[2,2,2], 2); a*b",),
    ))


def _unbind(b: Any, x: Any, dim: int) -> Any:
    expect(bool(b.shape(x)), "unbind needs a dimension, found shape {}", b.shape(x))
    d = normal_dim(dim, len(b.shape(x)))
    expect(b.shape(x)[d] <= 1000, "unbind makes more than 1000 tensors of shape {}", b.shape(x))
    return tuple(b.call("getitem", x, (*[slice(None)] * d, n)) for n in range(b.shape(x)[d]))


register(Op(
    "unbind(Tensor input, int dim=0)", _FAMILY, expand=_unbind,
    samples=("a, b = unbind(x[2,3]); a*b", "a, b = x[3,2].unbind(dim=1); a*b"),
))


def _unfold_shape(x: Shape, dimension: int, size: int, step: int) -> Shape:
    d = normal_dim(dimension, len(x))
    n = x[d] if x else 1
    expect(step > 0 and 0 <= size <= n, f"unfold: size {size} with step {step} in {n} places")
    return (*x[:d], (n - size) // step + 1, *x[d + 1:], size) if x else (size,)


def _unfold(k: Any, x: Any, dimension: int, size: int, step: int) -> Any:
    if not x.rank:
        return x[()]
    d = normal_dim(dimension, x.rank)
    return x[k.put(k.i[:-1], d, step * k.i[d] + k.i[-1])]


register(Op(
    "unfold(Tensor input, int dimension, int size, int step)", _FAMILY, homes="Tensor", moves=True,
    shape=_unfold_shape, element=_unfold,
        samples=("x[5].unfold(0, 3, 1)", "x[2,5].unfold(1, 2, 2)"),
))
