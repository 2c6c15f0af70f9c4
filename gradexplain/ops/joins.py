"""Operations that put tensors together, or something around one: stack, cat, pad."""
# fmt: off

from __future__ import annotations

from math import prod
from typing import Any

from gradexplain.errors import InputError
from gradexplain.ops.base import Op, Shape, expect, normal_dim, register, show_shape

_FAMILY = "shape"


# -- padding ---------------------------------------------------------------------------------------


def _pads(shape: Shape, pad: Any) -> list[tuple[int, int]]:
    """(before, after) for each dimension; ``pad`` begins with the last."""
    expect(len(pad) % 2 == 0 and len(pad) <= 2 * len(shape),
            f"pad takes two numbers for each of the last dimensions, found {pad} for {{}}", shape)
    pairs = [(pad[n], pad[n + 1]) for n in range(0, len(pad), 2)]
    return [(0, 0)] * (len(shape) - len(pairs)) + pairs[::-1]


def _pad_shape(x: Shape, pad: Any, mode: str, value: Any) -> Shape:
    expect(mode in ("constant", "reflect", "replicate", "circular"),
            f"pad: the mode is constant, reflect, replicate or circular, found {mode!r}")
    sizes = []
    for n, (before, after) in zip(x, _pads(x, pad), strict=True):
        expect(n + before + after >= 0, f"pad: {(before, after)} removes more than the {n} places")
        if mode != "constant":
            room = {"reflect": n - 1, "circular": n}.get(mode)
            expect(room is None or max(before, after) <= room,
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
    expect(bool(tensors), f"{name} expects a list of tensors, found an empty one")


def _stack(k: Any, tensors: Any, dim: int) -> Any:
    d = normal_dim(dim, tensors[0].rank + 1)
    at = (*k.i[:d], *k.i[d + 1 :])
    return k.cases(*((x[at], k.eq(k.i[d], place)) for place, x in enumerate(tensors)))


def _joined(tensors: tuple[Shape, ...], dim: int) -> Shape:
    _some(tensors, "cat")
    full = [shape for shape in tensors if shape != (0,)] or [tensors[0]]
    expect(bool(full[0]), "cat cannot join tensors of shape ()", remedy="stack makes a new dimension")
    d = normal_dim(dim, len(full[0]))
    for shape in full:
        expect(len(shape) == len(full[0]) and all(
                   n == m for axis, (n, m) in enumerate(zip(shape, full[0], strict=True)) if axis != d),
               f"cat expects equal sizes except in dimension {d}, found {{}} and {{}}", full[0], shape,
               remedy="reshape or slice them first")
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


def _narrowed(c: Any, tensors: Any, dim: int) -> str:
    """The part of the gradient that stands where the tensor did."""
    sizes = ["1" if x.shape[dim:][:1] == (1,) else f"{x}.shape[{dim}]"
             for x in tensors[: c.part + 1] if x.shape != (0,)]
    return f"{c.grad}.narrow({dim}, {' + '.join(sizes[:-1]) or '0'}, {sizes[-1]})"


register(Op(
    "stack(Tensor[] tensors, int dim=0)", _FAMILY, moves=True, homes="torch",
    shape=_stacked, element=_stack,
    samples=("stack([x[3], y[3]])", "stack([x[2,3], y[2,3]], dim=-1)"),
))
register(Op(
    "cat(Tensor[] tensors, int dim=0)", _FAMILY, moves=True, homes="torch",
    aliases=("torch.concat", "torch.concatenate"), shape=_joined, element=_cat,
    # backward: the derived one holds at one size only.
    backward=lambda c, tensors, dim: _narrowed(c, tensors, dim),
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
    expect(all(len(b.shape(x)) == 2 for x in blocks), "block_diag takes matrices")
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
def _copied(c: Any, x: Any, pad: Any, mode: str, _: Any) -> str | None:
    """Where what was added copies elements of ``x``, its gradient is theirs."""
    if mode == "constant":
        return None
    again = f'{tuple(pad)}, mode="{mode}")'
    return str(c.scatter(x, lambda at: f"F.pad({at}, {again}", kind="torch.float64"))


register(Op(
    "pad(Tensor input, int[] pad, str mode='constant', float? value=None)", _FAMILY, homes="F",
    shape=_pad_shape, element=_pad,
    # backward: the derived one holds at one size only.
    backward=_copied,
    samples=("F.pad(x[3], (1, 2))", "F.pad(x[2,3], (1, -1, 0, 1), value=2)",
             "F.pad(x[1,2,4], (2, 1), mode='reflect')", "F.pad(x[1,2,3], (1, 2), mode='circular')",
             "F.pad(x[1,2,3], (2, 1), mode='replicate')"),
))
register(Op(
    "constant_pad_nd(Tensor input, int[] pad, float value=0)", _FAMILY, homes="torch",
    expand=lambda b, x, pad, value: b.call("pad", x, pad, "constant", value),
    samples=("torch.constant_pad_nd(x[3], (1, 2), 2)",),
))
