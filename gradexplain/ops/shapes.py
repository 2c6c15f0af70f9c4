# fmt: off
"""Operations that move elements and change none: transposes, reshapes, subscripts, joins."""

from __future__ import annotations

from math import prod
from typing import Any

from gradexplain.errors import InputError, UnsupportedError
from gradexplain.ops.base import Op, Shape, broadcast, normal_dim, normal_dims, register, show_shape

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


def _expect(condition: bool, message: str, *shapes: Shape, remedy: str = "") -> None:
    """`InputError` unless ``condition``; ``{}`` in the message stand for the shapes."""
    if not condition:
        raise InputError(message.format(*map(show_shape, shapes)), remedy=remedy)


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


def _moved(rank: int, source: Any, destination: Any) -> tuple[int, ...]:
    """The order of the dims after ``movedim``."""
    pair = [(d,) if isinstance(d, int) else tuple(d) for d in (source, destination)]
    here, there = ([normal_dim(d, rank) for d in dims] for dims in pair)
    _expect(len(here) == len(there) and len(set(here)) == len(here)
        and len(set(there)) == len(there),
            f"movedim takes equally many different dims, found {source} and {destination}")
    rest = iter(d for d in range(rank) if d not in here)
    return tuple(here[there.index(d)] if d in there else next(rest) for d in range(rank))


register(Op(
    "movedim(Tensor input, Any source, Any destination)", _FAMILY, moves=True,
    aliases=("torch.moveaxis", "Tensor.moveaxis"),
    shape=lambda x, a, b: tuple(x[d] for d in _moved(len(x), a, b)),
    element=lambda k, x, a, b: _permute(k, x, _moved(x.rank, a, b)),
    samples=("movedim(x[2,3,2], 0, -1)", "x[2,3,4].moveaxis((0, 1), (1, 2))"),
))


def _flipped_last(x: Shape) -> Shape:
    _expect(len(x) > 1, "this transposes matrices, found shape {}", x, remedy="use .T")
    return (*x[:-2], x[-1], x[-2])


for _name, _homes, _of in (
    ("mT", "Tensor", "x[2,2,3]"), ("mH", "Tensor", "x[2,3]"), ("H", "Tensor", "x[2,3]"),
):
    register(Op(
        f"{_name}(Tensor input)", _FAMILY, moves=True, attribute=True, homes=_homes,
        shape=_flipped_last, element=lambda k, x: x[[*k.i[:-2], k.i[-1], k.i[-2]]],
        show=lambda x, name=_name: f"{x}.{name}",
        torch=lambda torch, x: x.transpose(-2, -1), samples=(f"{_of}.{_name}",),
    ))
register(Op(
    "adjoint(Tensor input)", _FAMILY, moves=True,
    shape=_flipped_last, element=lambda k, x: x[[*k.i[:-2], k.i[-1], k.i[-2]]],
    samples=("adjoint(x[2,3])",),
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
    return x[[*k.i[:front], *inner, *k.i[len(shape) - back :]]]


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


register(Op(
    "ravel(Tensor input)", _FAMILY, moves=True, shape=lambda x: (prod(x),), element=_reshape,
    samples=("x[2,3].ravel()",),
))


def _unflat(shape: Shape, dim: int, sizes: Any) -> Shape:
    d = normal_dim(dim, len(shape))
    _expect(bool(shape), "unflatten needs a dimension, found shape {}", shape)
    return (*shape[:d], *_filled((shape[d],), sizes), *shape[d + 1:])


register(Op(
    "unflatten(Tensor input, int dim, int[] sizes)", _FAMILY, moves=True,
    shape=_unflat, element=_reshape,
    samples=("x[6].unflatten(0, (2, 3))", "unflatten(x[2,6], -1, (3, -1))"),
))
register(Op(
    "reshape_as(Tensor input, Tensor other)", _FAMILY, homes="Tensor",
    expand=lambda b, x, other: b.call("reshape", x, b.shape(other)),
    samples=("x[2,3].reshape_as(zeros(3, 2))",),
))
register(Op(
    "view_as(Tensor input, Tensor other)", _FAMILY, homes="Tensor",
    expand=lambda b, x, other: b.call("reshape", x, b.shape(other)),
    samples=("x[2,3].view_as(zeros(3, 2))",),
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
    return x[[*k.i[:d], *k.i[d + 1 :]]]


register(Op(
    "squeeze(Tensor input, int[]? dim=None)", _FAMILY, moves=True,
    shape=_squeezed, element=_squeeze, samples=("x[2,1,3].squeeze()", "squeeze(x[1,3,1], dim=0)"),
    torch=lambda torch, x, dim: x.squeeze() if dim is None else x.squeeze(dim),
))
register(Op(
    "unsqueeze(Tensor input, int dim)", _FAMILY, moves=True,
    shape=_unsqueezed, element=_unsqueeze, samples=("x[3].unsqueeze(0)", "unsqueeze(x[2,3], -1)"),
))


# -- copies along a dimension ----------------------------------------------------------------------


def _expanded(shape: Shape, sizes: Any) -> Shape:
    more = len(sizes) - len(shape)
    _expect(more >= 0, f"expand to {show_shape(tuple(sizes))} has fewer dimensions than {{}}",
        shape)
    result = []
    for axis, n in enumerate(sizes):
        own = shape[axis - more] if axis >= more else None
        _expect(n >= 0 or (n == -1 and own is not None),
                f"expand: {n} is no size for dimension {axis}",
                remedy="-1 keeps the size of a dimension that is there")
        _expect(own in (None, 1, n) or n == -1,
                f"expand: dimension {axis} of {{}} has size {own}, not 1, and cannot become {n}",
                    shape,
                remedy="repeat copies a dimension of any size")
        result.append(own if n == -1 and own is not None else n)
    return tuple(result)


def _broadcast(k: Any, x: Any, *_: Any) -> Any:
    return x.broadcast(k.i)


register(Op(
    "expand(Tensor input, int[] size)", _FAMILY, moves=True, homes="Tensor",
    shape=_expanded, element=_broadcast, samples=("x[1,3].expand(2, 3)", "x[3].expand(2, -1)"),
    torch=lambda torch, x, size: x.expand(size),
))
register(Op(
    "broadcast_to(Tensor input, int[] size)", _FAMILY, moves=True,
    shape=_expanded, element=_broadcast, samples=("broadcast_to(x[3], (2, 3))",),
    torch=lambda torch, x, size: x.broadcast_to(size),
))
register(Op(
    "expand_as(Tensor input, Tensor other)", _FAMILY, homes="Tensor",
    expand=lambda b, x, other: b.call("broadcast_to", x, b.shape(other)),
    samples=("x[1,3].expand_as(zeros(2, 3))",),
))


def _broadcast_tensors(b: Any, tensors: Any) -> Any:
    shape = broadcast(*map(b.shape, tensors))
    return tuple(x if b.shape(x) == shape else b.call("broadcast_to", x, shape) for x in tensors)


register(Op(
    "broadcast_tensors(Tensor[] tensors)", _FAMILY, homes="torch", expand=_broadcast_tensors,
    samples=("a, b = broadcast_tensors(x[3], y[2,1]); a*b",),
))


def _meshgrid(b: Any, tensors: Any, indexing: str | None) -> Any:
    _expect(indexing in (None, "ij", "xy"),
        f"meshgrid: indexing is 'ij' or 'xy', found {indexing!r}")
    shapes = [b.shape(x) for x in tensors]
    _expect(all(len(s) < 2 for s in shapes), "meshgrid takes vectors")
    sizes = [prod(s) for s in shapes]
    order = list(range(len(sizes)))
    if indexing == "xy" and len(sizes) > 1:
        order[0], order[1] = 1, 0
    full = tuple(sizes[place] for place in order)
    grids = []
    for place, x in enumerate(tensors):
        column = tuple(n if order[axis] == place else 1 for axis, n in enumerate(full))
        grids.append(b.call("broadcast_to", b.call("reshape", x, column), full))
    return tuple(grids)


register(Op(
    "meshgrid(Tensor[] tensors, *, str? indexing=None)", _FAMILY, homes="torch", expand=_meshgrid,
    samples=("a, b = meshgrid(x[2], y[3], indexing='ij'); a*b",
             "a, b = meshgrid([x[2], y[3]], indexing='xy'); a + 2*b"),
))


def _repeated(shape: Shape, repeats: Any) -> Shape:
    more = len(repeats) - len(shape)
    _expect(more >= 0 and all(r >= 0 for r in repeats),
            f"repeat{show_shape(tuple(repeats))} needs a number for each dimension of {{}}", shape)
    return tuple(r * n for r, n in zip(repeats, (1,) * more + shape, strict=True))


def _repeat(k: Any, x: Any, *_: Any) -> Any:
    at = k.i[len(k.i) - x.rank:]
    return x[tuple(k.modulo(i, n) for i, n in zip(at, x.shape, strict=True))]


register(Op(
    "repeat(Tensor input, int[] repeats)", _FAMILY, moves=True, homes="Tensor",
    shape=_repeated, element=_repeat, samples=("x[3].repeat(2)", "x[2,3].repeat(2, 1, 2)"),
    torch=lambda torch, x, repeats: x.repeat(repeats),
))


def _tiled(shape: Shape, dims: Any) -> Shape:
    return _repeated(shape, (1,) * (len(shape) - len(dims)) + tuple(dims))


register(Op(
    "tile(Tensor input, int[] dims)", _FAMILY, moves=True, shape=lambda x,
        dims: _tiled(x, _ints(dims)),
    element=_repeat, samples=("tile(x[3], (2,))", "x[2,3].tile(2)"),
    torch=lambda torch, x, dims: x.tile(_ints(dims)),
))


def _ints(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _interleaved(b: Any, x: Any, repeats: Any, dim: int | None, size: int | None) -> Any:
    if dim is None:
        x, dim = b.call("ravel", x), 0
    if not b.shape(x):
        x = b.call("reshape", x, (1,))
    n = b.shape(x)[normal_dim(dim, len(b.shape(x)))]
    counts = _known(b, repeats, "repeat_interleave: repeats").ravel().tolist() if not isinstance(
        repeats, int) else [repeats]
    _expect(len(counts) in (1, n) and all(c >= 0 for c in counts),
            f"repeat_interleave: {n} elements need one number, or {n}, found {counts}")
    if len(counts) == 1:
        return b.apply(_INTERLEAVE, x, int(counts[0]), dim)
    places = [place for place, count in enumerate(counts) for _ in range(int(count))]
    return b.call("index_select", x, dim, places)


def _interleave(k: Any, x: Any, repeats: int, dim: int) -> Any:
    d = normal_dim(dim, x.rank)
    return x[k.put(k.i, d, k.floordiv(k.i[d], repeats))]


_INTERLEAVE = register(Op(
    "repeat_interleave(Tensor source, int repeats, int dim)", _FAMILY, (), homes="", moves=True,
    shape=lambda x, r, d: tuple(n * r if axis == normal_dim(d, len(x)) else n
                                for axis, n in enumerate(x)),
    element=_interleave,
    torch=lambda torch, x, repeats, dim: x.repeat_interleave(repeats, dim),
))
register(Op(
    "repeat_interleave(Tensor input, int repeats, int? dim=None, *, int? output_size=None)",
        _FAMILY,
    expand=_interleaved,
        samples=("repeat_interleave(x[3], 2)", "x[2,3].repeat_interleave(2, dim=0)"),
))
register(Op(
    "repeat_interleave(Tensor input, IntTensor repeats, int? dim=None, *, int? output_size=None)",
    _FAMILY, expand=_interleaved, samples=("x[2,3].repeat_interleave([2, 1], dim=0)",),
))


# -- reversals and turns ---------------------------------------------------------------------------


def _flip(k: Any, x: Any, dims: Any) -> Any:
    turned = normal_dims(dims, x.rank) if dims != () else ()
    return x[tuple(n - 1 - i if d in turned else i for d, (i, n) in
                   enumerate(zip(k.i, x.shape, strict=True)))]


register(Op(
    "flip(Tensor input, int[] dims)", _FAMILY, moves=True,
    shape=lambda x, dims: normal_dims(dims, len(x)) and x if dims != () else x, element=_flip,
    torch=lambda torch, x, dims: x.flip(_ints(dims)),
    samples=("flip(x[3], 0)", "x[2,3].flip(0, 1)", "flip(x[2,3], [-1])"),
))
for _name, _dim, _rank in (("fliplr", 1, 2), ("flipud", 0, 1)):
    def _side(b: Any, x: Any, name: str = _name, dim: int = _dim, rank: int = _rank) -> Any:
        _expect(len(b.shape(x)) >= rank,
            f"{name} needs at least {rank} dimensions, found shape {{}}",
                b.shape(x))
        return b.call("flip", x, (dim,))

    register(Op(f"{_name}(Tensor input)", _FAMILY, expand=_side, samples=(f"{_name}(x[2,3])",)))


def _shifts(shape: Shape, shifts: Any, dims: Any) -> dict[int, int]:
    shifts, dims = _ints(shifts), _ints(() if dims is None else dims)
    _expect(len(shifts) == len(dims) or (not dims and len(shifts) == 1),
            f"roll takes a shift for each dim, found {shifts} and {dims}")
    total: dict[int, int] = {}
    for shift, dim in zip(shifts, dims, strict=False):
        d = normal_dim(dim, len(shape))
        total[d] = total.get(d, 0) + shift
    return total


def _roll(k: Any, x: Any, shifts: Any, dims: Any) -> Any:
    turned = _shifts(x.shape, shifts, dims)
    return x[tuple(k.modulo(i - turned[d], n) if turned.get(d, 0) % max(n, 1) else i
                   for d, (i, n) in enumerate(zip(k.i, x.shape, strict=True)))]


_ROLL = register(Op(
    "roll(Tensor source, int[] shifts, int[] dims)", _FAMILY, (), homes="", moves=True,
    shape=lambda x, shifts, dims: (_shifts(x, shifts, dims), x)[1], element=_roll,
    torch=lambda torch, x, shifts, dims: x.roll(shifts, dims),
))


def _rolled(b: Any, x: Any, shifts: Any, dims: Any) -> Any:
    shape = b.shape(x)
    if dims in (None, ()) and len(shape) != 1:  # all elements in a row
        flat = _rolled(b, b.call("reshape", x, (prod(shape),)), shifts, (0,))
        return b.call("reshape", flat, shape)
    return b.apply(_ROLL, x, _ints(shifts), _ints(dims or (0,)))


register(Op(
    "roll(Tensor input, int[] shifts, int[]? dims=None)", _FAMILY, expand=_rolled,
    samples=("roll(x[3], 1)", "x[2,3].roll(1, dims=1)", "roll(x[2,3], (1, -1), (0, 1))",
             "roll(x[2,3], 2)"),
))


def _rot90(b: Any, x: Any, k: int, dims: Any) -> Any:
    dims = (0, 1) if dims is None else dims
    _expect(len(dims) == 2, f"rot90 takes two dims, found {dims}")
    first, second = (normal_dim(d, len(b.shape(x))) for d in dims)
    if k % 4 == 0:
        return b.call("clone", x)
    if k % 4 == 2:
        return b.call("flip", x, (first, second))
    turned = b.call("flip", x, (second if k % 4 == 1 else first,))
    return b.call("transpose", turned, first, second)


register(Op(
    "rot90(Tensor input, int k=1, int[]? dims=None)", _FAMILY, expand=_rot90,
    samples=("rot90(x[2,3])", "x[2,3].rot90(-1)", "rot90(x[2,3], 2, (1, 0))"),
))
_CLONE = register(Op(
    "clone(Tensor input)", _FAMILY, moves=True, shape=lambda x: x, element=lambda k, x: x[k.i],
    samples=("torch.clone(x[3])",),
))


# -- diagonals and triangles -----------------------------------------------------------------------


def _pair(rank: int, dim1: int, dim2: int, name: str) -> tuple[int, int]:
    a, b = normal_dim(dim1, rank), normal_dim(dim2, rank)
    _expect(a != b and rank > 1, f"{name} needs two different dimensions, found {dim1} and {dim2}")
    return a, b


def _diagonal_shape(x: Shape, offset: int, dim1: int, dim2: int) -> Shape:
    a, b = _pair(len(x), dim1, dim2, "diagonal")
    length = max(0, min(x[a] + min(offset, 0), x[b] - max(offset, 0)))
    return (*(n for d, n in enumerate(x) if d not in (a, b)), length)


def _diagonal(k: Any, x: Any, offset: int, dim1: int, dim2: int) -> Any:
    a, b = _pair(x.rank, dim1, dim2, "diagonal")
    left = iter(k.i[:-1])
    at = [k.i[-1] - min(offset, 0) if d == a else k.i[-1] + max(offset, 0) if d == b else next(left)
          for d in range(x.rank)]
    return x[tuple(at)]


register(Op(
    "diagonal(Tensor input, int offset=0, int dim1=0, int dim2=1)", _FAMILY, moves=True,
    shape=_diagonal_shape, element=_diagonal,
    samples=("diagonal(x[3,3])", "x[2,3].diagonal(1)", "diagonal(x[2,3,3], -1, 1, 2)"),
))
register(Op(
    "diagonal(Tensor A, *, int offset=0, int dim1=-2, int dim2=-1)", _FAMILY, homes="linalg",
    expand=lambda b, x, *args: b.call("diagonal", x, *args), samples=("linalg.diagonal(x[2,3,3])",),
))


def _embedded(x: Shape, offset: int, dim1: int, dim2: int) -> Shape:
    _expect(bool(x), "diag_embed needs a vector, found shape {}", x)
    a, b = _pair(len(x) + 1, dim1, dim2, "diag_embed")
    left = iter(x[:-1])
    size = x[-1] + abs(offset)
    return tuple(size if d in (a, b) else next(left) for d in range(len(x) + 1))


def _embed(k: Any, x: Any, offset: int, dim1: int, dim2: int) -> Any:
    a, b = _pair(x.rank + 1, dim1, dim2, "diag_embed")
    row, column = k.i[a] + min(offset, 0), k.i[b] - max(offset, 0)
    rest = tuple(i for d, i in enumerate(k.i) if d not in (a, b))
    if x.shape[-1] == 1:  # the only place, whatever its index is called
        return k.delta(row, 0) * k.delta(column, 0) * x[[*rest, 0]]
    inside = k.bracket(k.all(row >= 0, row <= x.shape[-1] - 1))
    return k.delta(row, column) * inside * x[[*rest, row]]


register(Op(
    "diag_embed(Tensor input, int offset=0, int dim1=-2, int dim2=-1)", _FAMILY,
    shape=_embedded, element=_embed,
    samples=("diag_embed(x[3])", "x[2,3].diag_embed(1)", "diag_embed(x[2,3], -1, 0, 2)"),
))


def _diag(b: Any, x: Any, diagonal: int) -> Any:
    rank = len(b.shape(x))
    _expect(rank in (1, 2), "diag takes a vector or a matrix, found shape {}", b.shape(x))
    return b.call("diag_embed" if rank == 1 else "diagonal", x, diagonal)


register(Op(
    "diag(Tensor input, int diagonal=0)", _FAMILY, expand=_diag,
    samples=("diag(x[3])", "x[3,3].diag()", "diag(x[2,3], 1)"),
))
register(Op(
    "diagflat(Tensor input, int offset=0)", _FAMILY,
    expand=lambda b, x, offset: b.call("diag_embed", b.call("ravel", x), offset),
    samples=("diagflat(x[2,2])", "diagflat(x[2], 1)"),
))


def _triangle(keep: Any) -> Any:
    def element(k: Any, x: Any, diagonal: int) -> Any:
        return k.bracket(keep(k.i[-1], k.i[-2] + diagonal)) * x[k.i]

    return element


def _matrices(x: Shape, diagonal: int) -> Shape:
    _expect(len(x) > 1, "a triangle needs a matrix, found shape {}", x)
    return x


for _name, _keep in (("tril", lambda c, r: c <= r), ("triu", lambda c, r: c >= r)):
    register(Op(
        f"{_name}(Tensor input, int diagonal=0)", _FAMILY,
        shape=_matrices, element=_triangle(_keep),
        samples=(f"{_name}(x[3,3])", f"x[2,2,3].{_name}(-1)"),
    ))


# -- subscripts ------------------------------------------------------------------------------------


def _items(index: Any, rank: int) -> list[Any]:
    """A subscript with ``...`` written out, one item for each axis and each ``None``."""
    items = list(index) if isinstance(index, tuple) and not _is_table(index) else [index]
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if sum(item is Ellipsis for item in items) > 1:
        raise InputError("a subscript has one '...' at the most", remedy="write ':' for the others")
    if taken > rank:
        raise InputError(
            f"too many indices for a tensor of {rank} dimensions: found {taken}",
            remedy="leave some out",
        )
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


def _known(b: Any, table: Any, what: str) -> Any:
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
    _expect(len(index) < 2, "index_select takes a vector of indices, found shape {}", tuple(index))
    return (*x[:d], prod(index), *x[d + 1:]) if x else ()


_INDEX_SELECT = register(Op(
    "index_select(Tensor source, int dim, IntTensor index)", _FAMILY, (), homes="", moves=True,
    shape=_selected_shape, element=_selected,
    torch=lambda torch, x, dim, index: x.index_select(dim, index),
))


def _checked(op: Any, *, negative: bool = False) -> Any:
    """``op(x, dim, index)`` with the index in range."""

    def expand(b: Any, x: Any, dim: int, index: Any, *rest: Any) -> Any:
        shape = b.shape(x) or (1,)
        d = normal_dim(dim, len(shape))
        return b.apply(op, x, dim, _wrapped(b, index, shape[d], d, negative=negative))

    return expand


register(Op(
    "index_select(Tensor input, int dim, IntTensor index)", _FAMILY,
    expand=_checked(_INDEX_SELECT),
    samples=("index_select(x[2,3], 1, [0, 2, 2])", "x[3].index_select(0, torch.tensor([2, 0]))"),
))


def _gather_shape(x: Shape, dim: int, index: Shape) -> Shape:
    d = normal_dim(dim, len(x))
    _expect(len(index or (1,)) == len(x or (1,)) and all(
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


_GATHER = register(Op(
    "gather(Tensor source, int dim, IntTensor index)", _FAMILY, (), homes="", moves=True,
    shape=_gather_shape, element=_gather, torch=lambda torch, x, dim, index: x.gather(dim, index),
))
register(Op(
    "gather(Tensor input, int dim, IntTensor index, *, bool sparse_grad=False)", _FAMILY,
    expand=_checked(_GATHER),
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
    _expect(len(sizes) == len(shape),
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
    return b.apply(_GATHER, x, d, index)


register(Op(
    "take_along_dim(Tensor input, IntTensor indices, int? dim=None)", _FAMILY, expand=_take_along,
    samples=("take_along_dim(x[2,3], [[0], [2]], dim=1)", "x[2,3].take_along_dim([5, -6])"),
))


def _masked_select(b: Any, x: Any, mask: Any) -> Any:
    import numpy as np

    values = _known(b, mask, "masked_select: the mask") != 0
    shape = broadcast(b.shape(x), values.shape)
    if b.shape(x) != shape:
        x = b.call("broadcast_to", x, shape)
    places = np.flatnonzero(np.broadcast_to(values, shape))
    return b.apply(_TAKE, x, b.constant(places.astype(float), integer=True))


register(Op(
    "masked_select(Tensor input, IntTensor mask)", _FAMILY, expand=_masked_select,
    samples=("masked_select(x[2,2], [[True, False], [True, True]])",),
))


def _narrow(b: Any, x: Any, dim: int, start: int, length: int) -> Any:
    d = normal_dim(dim, len(b.shape(x)))
    n = b.shape(x)[d]
    start = start + n if start < 0 else start
    _expect(start >= 0 and length >= 0 and start + length <= n,
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
        b, x, dim, int(_known(b, start, "narrow: the start").ravel()[0]), length),
    samples=("narrow(x[4], 0, [1], 2)",),
))


def _select(b: Any, x: Any, dim: int, index: int) -> Any:
    _expect(bool(b.shape(x)), "select needs a dimension, found shape {}", b.shape(x))
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
    _expect(bool(shape), "split needs a dimension, found shape {}", shape)
    if isinstance(size, int):
        _expect(size > 0, f"split: the size must be positive, found {size}")
        sizes = [min(size, shape[d] - start) for start in range(0, shape[d], size)] or [0]
    else:
        sizes = list(size)
        _expect(sum(sizes) == shape[d] and all(n >= 0 for n in sizes),
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
    _expect(chunks > 0, f"chunk: the number of chunks must be positive, found {chunks}")
    _expect(bool(b.shape(x)), "chunk needs a dimension, found shape {}", b.shape(x))
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
    _expect(bool(b.shape(x)), "tensor_split needs a dimension, found shape {}", b.shape(x))
    d = normal_dim(dim, len(b.shape(x)))
    n = b.shape(x)[d]
    if hasattr(parts, "id"):
        values = _known(b, parts, "tensor_split: the indices")
        parts = int(values) if values.ndim == 0 else tuple(int(v) for v in values)
    if isinstance(parts, int):
        _expect(parts > 0, f"tensor_split: the number of parts must be positive, found {parts}")
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
register(Op(
    "tensor_split(Tensor input, Any indices, int dim=0)", _FAMILY, expand=_tensor_split,
    samples=("a, b = x[4].tensor_split(indices=(2,)); a*b",),
))
register(Op(
    "tensor_split(Tensor input, Any sections, int dim=0)", _FAMILY, expand=_tensor_split,
    samples=("a, b = x[4].tensor_split(sections=2); a*b",),
))
for _name, _need, _axis in (("hsplit", 1, 1), ("vsplit", 2, 0), ("dsplit", 3, 2)):
    def _sided(b: Any, x: Any, parts: Any, name: str = _name, need: int = _need,
               axis: int = _axis) -> Any:
        shape = b.shape(x)
        _expect(len(shape) >= need, f"{name} needs {need} dimensions, found shape {{}}", shape)
        d = 0 if len(shape) == 1 else axis
        _expect(not isinstance(parts, int) or (parts > 0 and shape[d] % parts == 0),
                f"{name}: dimension {d} of {{}} cannot be split into {parts} equal parts", shape)
        return _tensor_split(b, x, parts, d)

    register(Op(
        f"{_name}(Tensor input, Any indices_or_sections)", _FAMILY, expand=_sided,
        samples=(f"a, b = {_name}(x[2,2,2], 2); a*b",),
    ))


def _unbind(b: Any, x: Any, dim: int) -> Any:
    _expect(bool(b.shape(x)), "unbind needs a dimension, found shape {}", b.shape(x))
    d = normal_dim(dim, len(b.shape(x)))
    _expect(b.shape(x)[d] <= 1000, "unbind makes more than 1000 tensors of shape {}", b.shape(x))
    return tuple(b.call("getitem", x, (*[slice(None)] * d, n)) for n in range(b.shape(x)[d]))


register(Op(
    "unbind(Tensor input, int dim=0)", _FAMILY, expand=_unbind,
    samples=("a, b = unbind(x[2,3]); a*b", "a, b = x[3,2].unbind(dim=1); a*b"),
))


def _unfold_shape(x: Shape, dimension: int, size: int, step: int) -> Shape:
    d = normal_dim(dimension, len(x))
    n = x[d] if x else 1
    _expect(step > 0 and 0 <= size <= n, f"unfold: size {size} with step {step} in {n} places")
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


# -- padding ---------------------------------------------------------------------------------------


def _pads(shape: Shape, pad: Any) -> list[tuple[int, int]]:
    """(before, after) for each dimension; ``pad`` begins with the last."""
    _expect(len(pad) % 2 == 0 and len(pad) <= 2 * len(shape),
            f"pad takes two numbers for each of the last dimensions, found {pad} for {{}}", shape)
    pairs = [(pad[n], pad[n + 1]) for n in range(0, len(pad), 2)]
    return [(0, 0)] * (len(shape) - len(pairs)) + pairs[::-1]


def _pad_shape(x: Shape, pad: Any, mode: str, value: Any) -> Shape:
    _expect(mode in ("constant", "reflect", "replicate", "circular"),
            f"pad: the mode is constant, reflect, replicate or circular, found {mode!r}")
    sizes = []
    for n, (before, after) in zip(x, _pads(x, pad), strict=True):
        _expect(n + before + after >= 0, f"pad: {(before, after)} removes more than the {n} places")
        if mode != "constant":
            room = {"reflect": n - 1, "circular": n}.get(mode)
            _expect(room is None or max(before, after) <= room,
                    f"pad: {mode} can add {room} places at most to {n}, found {(before, after)}")
        sizes.append(n + before + after)
    return tuple(sizes)


def _pad(k: Any, x: Any, pad: Any, mode: str, value: Any) -> Any:
    pairs = _pads(x.shape, pad)
    places = [i - before for i, (before, _) in zip(k.i, pairs, strict=True)]
    if mode == "constant":
        inside = [c for p, n in zip(places, x.shape, strict=True) for c in (p >= 0, p <= n - 1)]
        return k.choose(k.all(*inside), x[tuple(places)], k.number(value or 0))

    def found(at: tuple[Any, ...]) -> Any:
        d = len(at)
        if d == x.rank:
            return x[at]
        p, last = places[d], x.shape[d] - 1
        if mode == "circular":  # what a negative number cuts away is gone before the rest repeats
            (before, after), first = pairs[d], max(-pairs[d][0], 0)
            period = last + 1 + min(before, 0) + min(after, 0)
            return found((*at, first + k.modulo(k.i[d] - max(before, 0), period)))
        low, high = (0, last) if mode == "replicate" else (-p, 2 * last - p)
        return k.cases(
            (found((*at, low)), p < 0), (found((*at, high)), p > last), (found((*at, p)), True))

    return found(())


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
        raise InputError("cat cannot join tensors of shape ()",
            remedy="stack makes a new dimension")
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


def _at_least(rank: int) -> Any:
    """``atleast_2d`` and its like: dimensions of size 1 are added until there are ``rank``."""

    def one(b: Any, x: Any) -> Any:
        shape = b.shape(x)
        if len(shape) >= rank:
            return x
        if rank == 3 and len(shape) == 2:
            return b.call("reshape", x, (*shape, 1))
        if rank == 3 and len(shape) == 1:
            return b.call("reshape", x, (1, *shape, 1))
        return b.call("reshape", x, (1,) * (rank - len(shape)) + shape)

    return one


def _stacks(rank: int, axis: int) -> Any:
    def expand(b: Any, tensors: Any) -> Any:
        _some(tensors, "stack")
        found = [_at_least(rank)(b, x) for x in tensors]
        flat = axis == 1 and rank == 1 and all(len(b.shape(x)) == 1 for x in found)
        return b.call("cat", found, 0 if flat else axis)

    return expand


for _name, _rank, _axis, _alias in (
    ("hstack", 1, 1, ()), ("vstack", 2, 0, ("torch.row_stack",)), ("dstack", 3, 2, ()),
):
    register(Op(
        f"{_name}(Tensor[] tensors)", _FAMILY, homes="torch", expand=_stacks(_rank, _axis),
        aliases=_alias,
        samples=(f"{_name}([x[2], y[2]])", f"{_name}([x[2,3], y[2,3]])"),
    ))
for _rank in (1, 2, 3):
    register(Op(
        f"atleast_{_rank}d(Tensor input)", _FAMILY, homes="torch",
        expand=lambda b, x, rank=_rank: _same_if(b, x, _at_least(rank)(b, x)),
        samples=(f"atleast_{_rank}d(x[3])", f"atleast_{_rank}d(x[])"),
    ))


def _same_if(b: Any, x: Any, found: Any) -> Any:
    return b.call("clone", x) if found is x else found


def _columns(b: Any, tensors: Any) -> Any:
    _some(tensors, "column_stack")
    found = []
    for x in tensors:
        shape = b.shape(x)
        found.append(x if len(shape) > 1 else b.call("reshape", x, (prod(shape), 1)))
    return b.call("cat", found, 1)


register(Op(
    "column_stack(Tensor[] tensors)", _FAMILY, homes="torch", expand=_columns,
    samples=("column_stack([x[2], y[2]])", "column_stack([x[2,3], y[2]])"),
))


def _block_diag(b: Any, tensors: Any) -> Any:
    _some(tensors, "block_diag")
    blocks = [_at_least(2)(b, x) for x in tensors]
    _expect(all(len(b.shape(x)) == 2 for x in blocks), "block_diag takes matrices")
    width, rows, start = sum(b.shape(x)[1] for x in blocks), [], 0
    for x in blocks:
        own = b.shape(x)[1]
        rows.append(b.call("pad", x, (start, width - start - own)))
        start += own
    return b.call("cat", rows, 0)


register(Op(
    "block_diag(Tensor[] tensors)", _FAMILY, homes="torch", expand=_block_diag,
    samples=("block_diag(x[2,2], y[1,3])",),
))
register(Op(
    "pad(Tensor input, int[] pad, str mode='constant', float? value=None)", _FAMILY, homes="F",
    shape=_pad_shape, element=_pad,
    torch=lambda torch, x, pad, mode, value: torch.nn.functional.pad(x, pad, mode, value),
    samples=("F.pad(x[3], (1, 2))", "F.pad(x[2,3], (1, -1, 0, 1), value=2)",
             "F.pad(x[1,2,4], (2, 1), mode='reflect')", "F.pad(x[1,2,3], (1, 2), mode='circular')",
             "F.pad(x[1,2,3], (2, 1), mode='replicate')"),
))
register(Op(
    "constant_pad_nd(Tensor input, int[] pad, float value=0)", _FAMILY, homes="torch",
    expand=lambda b, x, pad, value: b.call("pad", x, pad, "constant", value),
    samples=("torch.constant_pad_nd(x[3], (1, 2), 2)",),
))
