"""Operations that move elements and change none: transposes, reshapes, subscripts, stack and cat."""

from __future__ import annotations

from math import prod
from typing import Any

from gradexplain.errors import InputError
from gradexplain.ops.base import Op, Shape, normal_dim, normal_dims, register, show_shape

_FAMILY = "shape"


# -- permutations --------------------------------------------------------------------------------


def _permutation(dims: tuple[int, ...], rank: int) -> tuple[int, ...]:
    order = tuple(normal_dim(d, rank) for d in dims)
    if sorted(order) != list(range(rank)):
        raise InputError(
            f"permute needs each of the {rank} dimensions once, found {dims}",
            remedy=f"for example permute({', '.join(map(str, reversed(range(rank))))})",
        )
    return order


def _permute(k: Any, x: Any, dims: Any) -> Any:
    at = [None] * x.rank
    for place, d in enumerate(_permutation(dims, x.rank)):
        at[d] = k.i[place]
    return x[tuple(at)]


def _swapped(rank: int, dim0: int, dim1: int) -> tuple[int, ...]:
    order = list(range(rank))
    if rank:
        a, b = normal_dim(dim0, rank), normal_dim(dim1, rank)
        order[a], order[b] = order[b], order[a]
    return tuple(order)


register(Op(
    "permute(Tensor input, int[] dims)", _FAMILY, moves=True,
    shape=lambda x, dims: tuple(x[d] for d in _permutation(dims, len(x))), element=_permute,
    samples=("permute(x[2,3,4], (2, 0, 1))", "x[2,3].permute(1, 0)"),
))
register(Op(
    "transpose(Tensor input, int dim0, int dim1)", _FAMILY, moves=True,
    shape=lambda x, a, b: tuple(x[d] for d in _swapped(len(x), a, b)),
    element=lambda k, x, a, b: _permute(k, x, _swapped(x.rank, a, b)),
    aliases=("torch.swapaxes", "Tensor.swapaxes", "torch.swapdims", "Tensor.swapdims"),
    samples=("x[2,3].transpose(0, 1)", "transpose(x[2,3,2], -1, 0)"),
))
register(Op(
    "t(Tensor input)", _FAMILY, moves=True,
    shape=lambda x: _matrix(x, "t")[::-1],
    element=lambda k, x: x[k.i[::-1]], samples=("x[2,3].t()", "x[3].t()"),
))
register(Op(
    "T(Tensor input)", _FAMILY, moves=True, attribute=True, homes="Tensor",
    shape=lambda x: x[::-1], element=lambda k, x: x[k.i[::-1]],
    show=lambda x: f"{x}.T", torch=lambda torch, x: x.permute(*reversed(range(x.ndim))),
    samples=("x[2,3].T", "x[2,3,4].T"),
))


def _matrix(x: Shape, name: str) -> Shape:
    if len(x) > 2:
        raise InputError(
            f"{name} takes at most two dimensions, found shape {show_shape(x)}",
            remedy="use transpose(dim0, dim1) or permute",
        )
    return x


# -- reshapes ------------------------------------------------------------------------------------


def _filled(shape: Shape, to: Any) -> Shape:
    """The shape asked for, its one ``-1`` worked out."""
    sizes = (to,) if isinstance(to, int) else tuple(to)
    count = prod(shape)
    known = prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1 or any(n < -1 for n in sizes):
        raise InputError(
            f"shape {show_shape(sizes)}: sizes are not negative, and one may be -1",
            remedy="let -1 stand for one size at the most",
        )
    if -1 in sizes and known and count % known == 0:
        sizes = tuple(count // known if n == -1 else n for n in sizes)
    if prod(sizes) != count or -1 in sizes:
        raise InputError(
            f"shape {show_shape(sizes)} is invalid for input of size {count} "
            f"(shape {show_shape(shape)})",
            remedy="the product of the sizes must stay the same",
        )
    return sizes


def _reshape(k: Any, x: Any, *_: Any) -> Any:
    """Equal positions in memory order; axes that stay as they are keep their own index."""
    shape, front, back = k.shape, 0, 0
    while front < min(len(shape), x.rank) and shape[front] == x.shape[front]:
        front += 1
    while back < min(len(shape), x.rank) - front and shape[-1 - back] == x.shape[-1 - back]:
        back += 1
    middle = slice(front, len(shape) - back)
    flat = k.ravel(k.i[middle], shape[middle])
    inner = k.unravel(flat, x.shape[front : x.rank - back])
    return x[(*k.i[:front], *inner, *k.i[len(shape) - back :])]


def _flat(shape: Shape, start: int, end: int) -> Shape:
    if not shape:
        return (1,)
    a, b = normal_dim(start, len(shape)), normal_dim(end, len(shape))
    if a > b:
        raise InputError(
            f"flatten: start_dim {start} comes after end_dim {end}", remedy="swap the two"
        )
    return (*shape[:a], prod(shape[a : b + 1]), *shape[b + 1 :])


register(Op(
    "reshape(Tensor input, int[] shape)", _FAMILY, moves=True,
    shape=_filled, element=_reshape,
    samples=("x[2,3].reshape(3, 2)", "reshape(x[2,3], (-1,))", "x[4].reshape(2, 2)"),
))
register(Op(
    "view(Tensor input, int[] size)", _FAMILY, moves=True, homes="Tensor",
    shape=_filled, element=_reshape, samples=("x[2,3].view(6)", "x[2,3].view(3, -1)"),
    torch=lambda torch, x, size: x.reshape(size),
))
register(Op(
    "flatten(Tensor input, int start_dim=0, int end_dim=-1)", _FAMILY, moves=True,
    shape=_flat, element=_reshape, samples=("x[2,3].flatten()", "flatten(x[2,3,2], 1)"),
))


def _squeezed(shape: Shape, dim: Any) -> Shape:
    dims = range(len(shape)) if dim is None else normal_dims(dim, len(shape)) if dim != () else ()
    return tuple(n for axis, n in enumerate(shape) if n != 1 or axis not in dims)


def _squeeze(k: Any, x: Any, dim: Any) -> Any:
    dims = range(x.rank) if dim is None else normal_dims(dim, x.rank) if dim != () else ()
    left = iter(k.i)
    return x[tuple(0 if n == 1 and axis in dims else next(left) for axis, n in enumerate(x.shape))]


def _unsqueezed(shape: Shape, dim: int) -> Shape:
    d = normal_dim(dim, len(shape) + 1)
    return (*shape[:d], 1, *shape[d:])


def _unsqueeze(k: Any, x: Any, dim: int) -> Any:
    d = normal_dim(dim, x.rank + 1)
    return x[(*k.i[:d], *k.i[d + 1 :])]


register(Op(
    "squeeze(Tensor input, int[]? dim=None)", _FAMILY, moves=True,
    shape=_squeezed, element=_squeeze, samples=("x[2,1,3].squeeze()", "squeeze(x[1,3,1], dim=0)"),
    torch=lambda torch, x, dim: x.squeeze() if dim is None else x.squeeze(dim),
))
register(Op(
    "unsqueeze(Tensor input, int dim)", _FAMILY, moves=True,
    shape=_unsqueezed, element=_unsqueeze, samples=("x[3].unsqueeze(0)", "unsqueeze(x[2,3], -1)"),
))


# -- subscripts ----------------------------------------------------------------------------------


def _items(index: Any, rank: int) -> list[Any]:
    """A subscript with ``...`` written out, one item for each axis and each ``None``."""
    items = list(index) if isinstance(index, tuple) else [index]
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if sum(item is Ellipsis for item in items) > 1:
        raise InputError("a subscript has one '...' at the most", remedy="write ':' for the others")
    if taken > rank:
        raise InputError(
            f"too many indices for a tensor of {rank} dimensions: found {taken}",
            remedy="leave some out",
        )
    missing = [slice(None)] * (rank - taken)
    if Ellipsis in items:
        place = items.index(Ellipsis)
        return items[:place] + missing + items[place + 1 :]
    return items + missing


def _at(item: int, n: int, axis: int) -> int:
    if not -n <= item < n:
        raise InputError(
            f"index {item} is out of bounds for dimension {axis} with size {n}",
            remedy=f"indices go from 0 to {n - 1}, or from -1 back to {-n}",
        )
    return item % n


def _taken(item: slice, n: int) -> range:
    if item.step is not None and item.step <= 0:
        raise InputError("the step of a slice must be positive", remedy="use flip to reverse")
    return range(*item.indices(n))


def _subscripted(shape: Shape, index: Any) -> Shape:
    result = []
    axes = iter(enumerate(shape))
    for item in _items(index, len(shape)):
        if item is None:
            result.append(1)
            continue
        axis, n = next(axes)
        if isinstance(item, slice):
            result.append(len(_taken(item, n)))
        else:
            _at(item, n, axis)
    return tuple(result)


def _subscript(k: Any, x: Any, index: Any) -> Any:
    at = []
    left = iter(k.i)
    for item in _items(index, x.rank):
        if item is None:
            next(left)
            continue
        n = x.shape[len(at)]
        if isinstance(item, slice):
            taken = _taken(item, n)
            at.append(taken.start + taken.step * next(left) if taken else next(left))
        else:
            at.append(_at(item, n, len(at)))
    return x[tuple(at)]


def _show_index(x: str, index: str) -> str:
    # A tuple of indices stands in the brackets without its own parentheses.
    return f"{x}[{index[1:-1].rstrip(',') if index.startswith('(') else index}]"


register(Op(
    "getitem(Tensor input, Index index)", _FAMILY, moves=True, homes="operator",
    shape=_subscripted, element=_subscript, show=_show_index,
    torch=lambda torch, x, index: x[index],
    samples=("x[2,3][0]", "x[2,3][:, 1:]", "x[4][None, ::2]", "x[2,3,4][..., -1]"),
))


# -- stack and cat -------------------------------------------------------------------------------


def _stacked(tensors: tuple[Shape, ...], dim: int) -> Shape:
    _some(tensors, "stack")
    if len(set(tensors)) > 1:
        raise InputError(
            "stack expects each tensor to have the same shape, found "
            + " and ".join(map(show_shape, dict.fromkeys(map(tuple, tensors)))),
            remedy="cat joins along a dimension that is there already",
        )
    d = normal_dim(dim, len(tensors[0]) + 1)
    return (*tensors[0][:d], len(tensors), *tensors[0][d:])


def _some(tensors: tuple[Shape, ...], name: str) -> None:
    if not tensors:
        raise InputError(f"{name} expects a list of tensors, found an empty one")


def _stack(k: Any, tensors: Any, dim: int) -> Any:
    d = normal_dim(dim, tensors[0].rank + 1)
    at = (*k.i[:d], *k.i[d + 1 :])
    return k.cases(*((x[at], k.eq(k.i[d], place)) for place, x in enumerate(tensors)))


def _joined(tensors: tuple[Shape, ...], dim: int) -> Shape:
    _some(tensors, "cat")
    full = [shape for shape in tensors if shape != (0,)] or [tensors[0]]
    if not full[0]:
        raise InputError("cat cannot join tensors of shape ()", remedy="stack makes a new dimension")
    d = normal_dim(dim, len(full[0]))
    for shape in full:
        if len(shape) != len(full[0]) or any(
            n != m for axis, (n, m) in enumerate(zip(shape, full[0], strict=True)) if axis != d
        ):
            raise InputError(
                f"cat expects equal sizes except in dimension {d}, found {show_shape(full[0])} and "
                f"{show_shape(shape)}",
                remedy="reshape or slice them first",
            )
    return (*full[0][:d], sum(shape[d] for shape in full), *full[0][d + 1 :])


def _cat(k: Any, tensors: Any, dim: int) -> Any:
    tensors = [x for x in tensors if x.shape != (0,)] or list(tensors[:1])
    d = normal_dim(dim, tensors[0].rank)
    pieces, start = [], 0
    for x in tensors:
        end = start + x.shape[d]
        last = x is tensors[-1]
        if x.shape[d]:
            inside = True if last else k.i[d] <= end - 1
            pieces.append((x[k.put(k.i, d, k.i[d] - start)], inside))
        start = end
    return k.cases(*pieces)


register(Op(
    "stack(Tensor[] tensors, int dim=0)", _FAMILY, moves=True, homes="torch",
    shape=_stacked, element=_stack,
    samples=("stack([x[3], y[3]])", "stack([x[2,3], y[2,3]], dim=-1)"),
))
register(Op(
    "cat(Tensor[] tensors, int dim=0)", _FAMILY, moves=True, homes="torch",
    aliases=("torch.concat", "torch.concatenate"), shape=_joined, element=_cat,
    samples=("cat([x[2], y[3]])", "cat([x[2,3], y[2,1]], dim=1)"),
))
