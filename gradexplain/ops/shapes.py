"""Operations that rearrange a tensor's elements: transposes, reshapes, copies, diagonals."""
# fmt: off

from __future__ import annotations

from math import prod
from typing import Any

from gradexplain.ops.base import (
    Op,
    Shape,
    broadcast,
    expect,
    normal_dim,
    normal_dims,
    register,
    show_shape,
)
from gradexplain.ops.indexing import known

_FAMILY = "shape"


# -- permutations --------------------------------------------------------------------------------


def _permutation(dims: tuple[int, ...], rank: int) -> tuple[int, ...]:
    order = tuple(normal_dim(d, rank) for d in dims)
    expect(sorted(order) == list(range(rank)),
           f"permute needs each of the {rank} dimensions once, found {dims}",
           remedy=f"for example permute({', '.join(map(str, reversed(range(rank))))})")
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


def _moved(rank: int, source: Any, destination: Any) -> tuple[int, ...]:
    """The order of the dims after ``movedim``."""
    pair = [(d,) if isinstance(d, int) else tuple(d) for d in (source, destination)]
    here, there = ([normal_dim(d, rank) for d in dims] for dims in pair)
    expect(len(here) == len(there) and len(set(here)) == len(here)
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
    expect(len(x) > 1, "this transposes matrices, found shape {}", x, remedy="use .T")
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
    expect(len(x) <= 2, f"{name} takes at most two dimensions, found shape {{}}", x,
           remedy="use transpose(dim0, dim1) or permute")
    return x


# -- reshapes ------------------------------------------------------------------------------------


def _filled(shape: Shape, to: Any) -> Shape:
    """The shape asked for, its one ``-1`` worked out."""
    sizes = (to,) if isinstance(to, int) else tuple(to)
    count = prod(shape)
    known = prod(n for n in sizes if n != -1)
    expect(sizes.count(-1) <= 1 and not any(n < -1 for n in sizes),
           "shape {}: sizes are not negative, and one may be -1", sizes,
           remedy="let -1 stand for one size at the most")
    if -1 in sizes and known and count % known == 0:
        sizes = tuple(count // known if n == -1 else n for n in sizes)
    expect(prod(sizes) == count and -1 not in sizes, f"shape {{}} is invalid for input of size {count} "
           "(shape {})", sizes, shape, remedy="the product of the sizes must stay the same")
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
    expect(a <= b, f"flatten: start_dim {start} comes after end_dim {end}", remedy="swap the two")
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
    written=lambda c, x, size: f"{x}.reshape({c.index(size, set())})",  # for any strides
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
    expect(bool(shape), "unflatten needs a dimension, found shape {}", shape)
    return (*shape[:d], *_filled((shape[d],), sizes), *shape[d + 1:])


register(Op(
    "unflatten(Tensor input, int dim, int[] sizes)", _FAMILY, moves=True,
    shape=_unflat, element=_reshape,
    samples=("x[6].unflatten(0, (2, 3))", "unflatten(x[2,6], -1, (3, -1))"),
))
for _name in ("reshape_as", "view_as"):
    register(Op(
        f"{_name}(Tensor input, Tensor other)", _FAMILY, homes="Tensor",
        expand=lambda b, x, other: b.call("reshape", x, b.shape(other)),
        samples=(f"x[2,3].{_name}(zeros(3, 2))",),
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
))
register(Op(
    "unsqueeze(Tensor input, int dim)", _FAMILY, moves=True,
    shape=_unsqueezed, element=_unsqueeze, samples=("x[3].unsqueeze(0)", "unsqueeze(x[2,3], -1)"),
))


# -- copies along a dimension ----------------------------------------------------------------------


def _dims_text(dims: Any) -> str:
    return str(dims[0]) if len(dims) == 1 else str(tuple(dims))


def _expanded(shape: Shape, sizes: Any) -> Shape:
    more = len(sizes) - len(shape)
    expect(more >= 0, f"expand to {show_shape(tuple(sizes))} has fewer dimensions than {{}}",
        shape)
    result = []
    for axis, n in enumerate(sizes):
        own = shape[axis - more] if axis >= more else None
        expect(n >= 0 or (n == -1 and own is not None),
                f"expand: {n} is no size for dimension {axis}",
                remedy="-1 keeps the size of a dimension that is there")
        expect(own in (None, 1, n) or n == -1,
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
))
register(Op(
    "broadcast_to(Tensor input, int[] size)", _FAMILY, moves=True,
    shape=_expanded, element=_broadcast, samples=("broadcast_to(x[3], (2, 3))",),
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
    expect(indexing in (None, "ij", "xy"),
        f"meshgrid: indexing is 'ij' or 'xy', found {indexing!r}")
    shapes = [b.shape(x) for x in tensors]
    expect(all(len(s) < 2 for s in shapes), "meshgrid takes vectors")
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
    expect(more >= 0 and all(r >= 0 for r in repeats),
            f"repeat{show_shape(tuple(repeats))} needs a number for each dimension of {{}}", shape)
    return tuple(r * n for r, n in zip(repeats, (1,) * more + shape, strict=True))


def _repeat(k: Any, x: Any, *_: Any) -> Any:
    at = k.i[len(k.i) - x.rank:]
    return x[tuple(k.modulo(i, n) for i, n in zip(at, x.shape, strict=True))]


register(Op(
    "repeat(Tensor input, int[] repeats)", _FAMILY, moves=True, homes="Tensor",
    shape=_repeated, element=_repeat,
    samples=("x[3].repeat(2)", "x[2,3].repeat(2, 1, 2)"),
))


register(Op(
    "tile(Tensor input, int[] dims)", _FAMILY, moves=True, element=_repeat,
    shape=lambda x, dims: _repeated(x, (1,) * (len(x) - len(_ints(dims))) + tuple(_ints(dims))),
    samples=("tile(x[3], (2,))", "x[2,3].tile(2)"),
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
    counts = known(b, repeats, "repeat_interleave: repeats").ravel().tolist() if not isinstance(
        repeats, int) else [repeats]
    expect(len(counts) in (1, n) and all(c >= 0 for c in counts),
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
    written=lambda c, x, repeats, dim: f"{x}.repeat_interleave({repeats}, dim={dim})",
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
        expect(len(b.shape(x)) >= rank,
            f"{name} needs at least {rank} dimensions, found shape {{}}",
                b.shape(x))
        return b.call("flip", x, (dim,))

    register(Op(f"{_name}(Tensor input)", _FAMILY, expand=_side, samples=(f"{_name}(x[2,3])",)))


def _shifts(shape: Shape, shifts: Any, dims: Any) -> dict[int, int]:
    shifts, dims = _ints(shifts), _ints(() if dims is None else dims)
    expect(len(shifts) == len(dims) or (not dims and len(shifts) == 1),
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
    written=lambda c, x, shifts, dims:
        f"{x}.roll({_dims_text(_ints(shifts))}, dims={_dims_text(_ints(dims))})",
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
    expect(len(dims) == 2, f"rot90 takes two dims, found {dims}")
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
    expect(a != b and rank > 1, f"{name} needs two different dimensions, found {dim1} and {dim2}")
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
    # backward: the derived one compares places, and pads.
    backward=lambda c, x, offset, dim1, dim2: f"torch.zeros_like({x}).diagonal_scatter("
        f"{c.grad}, offset={offset}, dim1={dim1}, dim2={dim2})",
    samples=("diagonal(x[3,3])", "x[2,3].diagonal(1)", "diagonal(x[2,3,3], -1, 1, 2)"),
))
register(Op(
    "diagonal(Tensor A, *, int offset=0, int dim1=-2, int dim2=-1)", _FAMILY, homes="linalg",
    expand=lambda b, x, *args: b.call("diagonal", x, *args), samples=("linalg.diagonal(x[2,3,3])",),
))


def _embedded(x: Shape, offset: int, dim1: int, dim2: int) -> Shape:
    expect(bool(x), "diag_embed needs a vector, found shape {}", x)
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
    expect(rank in (1, 2), "diag takes a vector or a matrix, found shape {}", b.shape(x))
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
    expect(len(x) > 1, "a triangle needs a matrix, found shape {}", x)
    return x


for _name, _keep in (("tril", lambda c, r: c <= r), ("triu", lambda c, r: c >= r)):
    register(Op(
        f"{_name}(Tensor input, int diagonal=0)", _FAMILY,
        shape=_matrices, element=_triangle(_keep),
        samples=(f"{_name}(x[3,3])", f"x[2,2,3].{_name}(-1)"),
    ))
