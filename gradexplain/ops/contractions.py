"""Contractions: products summed over an index that two tensors share; convolutions and pooling."""
# fmt: off

from __future__ import annotations

import re
from math import prod
from typing import Any

from gradexplain.errors import InputError
from gradexplain.ops.base import (
    Op,
    Shape,
    broadcast,
    normal_dim,
    register,
    show_shape,
)

_FAMILY = "contraction"


def _expect(condition: bool, message: str, *shapes: Shape, remedy: str = "") -> None:
    """`InputError` unless ``condition``; ``{}`` in the message stand for the shapes."""
    if not condition:
        raise InputError(message.format(*map(show_shape, shapes)), remedy=remedy)


# -- products of matrices and vectors --------------------------------------------------------------


def _matmul_shape(a: Shape, b: Shape) -> Shape:
    """PyTorch's ``matmul``: dot, matrix-vector, vector-matrix, or batches of matrices."""
    if not a or not b:
        raise InputError(
            f"matmul needs at least one dimension on both sides, found {show_shape(a)} and "
            f"{show_shape(b)}",
            remedy="multiply by a number with *",
        )
    left = a if len(a) > 1 else (1, *a)
    right = b if len(b) > 1 else (*b, 1)
    if left[-1] != right[-2]:
        raise InputError(
            f"matmul cannot multiply shapes {show_shape(a)} and {show_shape(b)}: "
            f"{left[-1]} columns meet {right[-2]} rows",
            remedy="the last size of the left side and the last but one of the right must be "
            "equal; .T may be missing",
        )
    shape = broadcast(left[:-2], right[:-2])
    shape += (left[-2],) if len(a) > 1 else ()
    return shape + ((right[-1],) if len(b) > 1 else ())


def _matmul(k: Any, a: Any, b: Any) -> Any:
    p = k.bound(a.shape[-1])
    rows = 1 if a.rank > 1 else 0
    columns = 1 if b.rank > 1 else 0
    batch = k.i[: len(k.i) - rows - columns]
    row = k.i[len(batch) : len(batch) + rows]
    column = k.i[len(k.i) - columns :] if columns else ()
    left = batch[len(batch) - max(a.rank - 2, 0) :]
    right = batch[len(batch) - max(b.rank - 2, 0) :]
    return k.sum(a[[*left, *row, p]] * b[[*right, p, *column]], p)


def _matmul_back(c: Any, a: Any, b: Any) -> str | None:
    """``v·bᵀ`` and ``aᵀ·v``, summed over the batch that one of them does not have."""
    if a.rank == b.rank == 1:
        return f"{c.grad} * {b if c.wrt == 'input' else a}"
    if min(a.rank, b.rank) == 1:
        return None  # the formula's own sums are as short
    first = c.wrt == "input"
    if not first and b.rank == 2 < a.rank:
        return f"{a}.flatten(0, -2).T @ {c.grad}.flatten(0, -2)"
    turned = b if first else a
    turned = f"{turned}.{'T' if turned.rank == 2 else 'mT'}"
    product = f"{c.grad} @ {turned}" if first else f"{turned} @ {c.grad}"
    mine = a if first else b
    return str(c.total(product, mine, (*c.y.shape[:-2], *mine.shape[-2:])))


def _ranks(name: str, first: int, second: int) -> Any:
    def shape(a: Shape, b: Shape) -> Shape:
        if (len(a), len(b)) != (first, second):
            raise InputError(
                f"{name} takes tensors with {first} and {second} dimensions, found shapes "
                f"{show_shape(a)} and {show_shape(b)}",
                remedy="matmul (or @) takes any",
            )
        return _matmul_shape(a, b)

    return shape


register(Op(
    "matmul(Tensor input, Tensor other)", _FAMILY, infix="{} @ {}",
    shape=_matmul_shape, element=_matmul, backward=_matmul_back, aliases=("linalg.matmul",),
    samples=("x[2,3] @ w[3,2]", "x[3] @ w[3]", "matmul(x[2,3], w[3])", "x[3] @ w[3,2]",
             "x[2,1,2,3] @ w[2,3,2]", "torch.matmul(x[2,3], w[2,3].T)"),
))
register(Op(
    "mm(Tensor input, Tensor mat2)", _FAMILY,
    shape=_ranks("mm", 2, 2), element=_matmul, samples=("mm(x[2,3], w[3,2])",),
))
register(Op(
    "bmm(Tensor input, Tensor mat2)", _FAMILY,
    shape=_ranks("bmm", 3, 3), element=_matmul, samples=("bmm(x[2,2,3], w[2,3,2])",),
))
register(Op(
    "mv(Tensor input, Tensor vec)", _FAMILY,
    shape=_ranks("mv", 2, 1), element=_matmul, samples=("mv(x[2,3], w[3])",),
))
register(Op(
    "dot(Tensor input, Tensor tensor)", _FAMILY,
    shape=_ranks("dot", 1, 1), element=_matmul, samples=("dot(x[3], w[3])",),
))
register(Op(
    "vdot(Tensor input, Tensor other)", _FAMILY,
    shape=_ranks("vdot", 1, 1), element=_matmul, samples=("vdot(x[3], w[3])",),
))


def _outer_shape(a: Shape, b: Shape) -> Shape:
    _expect(len(a) == len(b) == 1, "outer takes two vectors, found shapes {} and {}", a, b,
            remedy="einsum makes outer products of any tensors")
    return a + b


register(Op(
    "outer(Tensor input, Tensor vec2)", _FAMILY, aliases=("torch.ger", "Tensor.ger"),
    shape=_outer_shape, element=lambda k, a, b: a[k.i[0]] * b[k.i[1]],
    samples=("outer(x[2], y[3])", "x[2].ger(y[3])"),
))


def _inner_shape(a: Shape, b: Shape) -> Shape:
    _expect(not a or not b or a[-1] == b[-1],
            "inner sums over the last dimension, whose sizes must be equal, found shapes {} and {}",
            a, b)
    return a[:-1] + b[:-1] if a and b else a + b


def _inner(k: Any, a: Any, b: Any) -> Any:
    if not a.rank or not b.rank:
        return a[k.i[:a.rank]] * b[k.i[len(k.i) - b.rank:]]
    p = k.bound(a.shape[-1])
    return k.sum(a[[*k.i[:a.rank - 1], p]] * b[[*k.i[a.rank - 1:], p]], p)


register(Op(
    "inner(Tensor input, Tensor other)", _FAMILY, shape=_inner_shape, element=_inner,
    samples=("inner(x[3], y[3])", "inner(x[2,3], y[2,3])", "x[2,3].inner(y[])"),
))


def _vecdot(k: Any, a: Any, b: Any, dim: int) -> Any:
    rank = max(a.rank, b.rank)
    d = normal_dim(dim, rank)
    p = k.bound(broadcast(a.shape, b.shape)[d])
    at = (*k.i[:d], p, *k.i[d:])
    return k.sum(a.broadcast(at) * b.broadcast(at), p)


def _without(shape: Shape, dim: int) -> Shape:
    d = normal_dim(dim, len(shape))
    return (*shape[:d], *shape[d + 1:])


register(Op(
    "vecdot(Tensor x, Tensor y, *, int dim=-1)", _FAMILY, homes="linalg",
    shape=lambda a, b, dim: _without(broadcast(a, b), dim), element=_vecdot,
    samples=("linalg.vecdot(x[3], y[3])", "linalg.vecdot(x[2,3], y[2,1], dim=0)"),
))


# -- einsum ----------------------------------------------------------------------------------------


def _equation(equation: str, ranks: tuple[int, ...]) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand and of the result; the dims of ``...`` are called ``.0``, ``.1``.

    Source: the documentation of ``torch.einsum``.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    _expect(len(terms) == len(ranks),
            f"einsum: the equation {equation!r} has {len(terms)} operands, found {len(ranks)}")
    wide = 0
    for term, rank in zip(terms, ranks, strict=True):
        _expect(re.fullmatch(r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*", term) is not None,
                f"einsum: {term!r} in {equation!r} is not made of letters and one '...'")
        named = len(term.replace("...", ""))
        _expect(named == rank if "..." not in term else named <= rank,
                f"einsum: {term!r} names {named} dimensions of an operand that has {rank}",
                remedy="'...' stands for the dimensions that have no letter")
        if "..." in term:
            wide = max(wide, rank - named)

    def letters(term: str, dots: int) -> list[str]:
        before, ellipsis, after = term.partition("...")
        middle = [f".{n}" for n in range(wide - dots, wide)] if ellipsis else []
        return [*before, *middle, *after]

    inputs = [letters(term, rank - len(term.replace("...", ""))) for term, rank in
              zip(terms, ranks, strict=True)]
    if arrow:
        _expect(re.fullmatch(r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*", right) is not None,
                f"einsum: the result {right!r} is not made of letters and one '...'")
        output = letters(right, wide)
        _expect(len(set(output)) == len(output), f"einsum: a letter stands twice in {right!r}")
        unknown = [a for a in output if all(a not in term for term in inputs)]
        _expect(not unknown, f"einsum: {''.join(unknown)!r} in the result is in no operand")
    else:
        used = [a for term in inputs for a in term]
        single = sorted(a for a in set(used) if used.count(a) == 1 and not a.startswith("."))
        output = [f".{n}" for n in range(wide)] + single
    return inputs, output


def _einsum_sizes(inputs: list[list[str]], shapes: Any) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, shape in zip(inputs, shapes, strict=True):
        for letter, n in zip(term, shape, strict=True):
            known = sizes.get(letter, 1)
            _expect(n in (1, known) or known == 1,
                    f"einsum: {letter!r} stands for sizes {known} and {n}")
            sizes[letter] = max(n, known) if n and known else 0
    return sizes


def _einsum_shape(equation: str, operands: tuple[Shape, ...]) -> Shape:
    inputs, output = _equation(equation, tuple(map(len, operands)))
    sizes = _einsum_sizes(inputs, operands)
    return tuple(sizes[a] for a in output)


def _einsum(k: Any, equation: str, operands: Any) -> Any:
    inputs, output = _equation(equation, tuple(x.rank for x in operands))
    sizes = _einsum_sizes(inputs, [x.shape for x in operands])
    at = dict(zip(output, k.i, strict=True))
    bound = []
    for letter in (a for term in inputs for a in term):
        if letter not in at:
            at[letter] = k.bound(sizes[letter])
            bound.append(at[letter])
    factors = [x[tuple(at[a] for a in term)] for x, term in zip(operands, inputs, strict=True)]
    return k.sum(k.S.Mul(*factors), *bound)


register(Op(
    "einsum(str equation, Tensor[] operands)", _FAMILY, homes="torch",
    shape=_einsum_shape, element=_einsum,
    torch=lambda torch, equation, operands: torch.einsum(equation, *operands),
    show=lambda equation, operands: f"einsum({equation}, {operands})",
    samples=("einsum('ij,jk->ik', x[2,3], w[3,2])", "einsum('ii', x[3,3])",
        "einsum('i,j', x[2], y[3])",
             "einsum('...i,ij->...j', x[2,2,3], w[3,2])",
                 "einsum('bij,bjk,bk->bi', [x[2,2,3], w[2,3,2], z[2,2]])"),
))


def _tensordot_dims(a: int, b: int, dims: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(dims, int):
        _expect(0 <= dims <= min(a, b), f"tensordot: dims={dims} is more than a tensor has")
        return tuple(range(a - dims, a)), tuple(range(dims))
    pair = tuple((part,) if isinstance(part, int) else tuple(part) for part in dims)
    _expect(len(pair) == 2 and len(pair[0]) == len(pair[1]),
            "tensordot: dims is a number, or two lists of dims of equal length")
    return tuple(normal_dim(d, a) for d in pair[0]), tuple(normal_dim(d, b) for d in pair[1])


def _tensordot_shape(a: Shape, b: Shape, dims: Any) -> Shape:
    mine, other = _tensordot_dims(len(a), len(b), dims)
    _expect(all(a[d] == b[e] or 1 in (a[d], b[e]) for d, e in zip(mine, other, strict=True)),
            f"tensordot: the dims {mine} of {{}} and {other} of {{}} have different sizes", a, b)
    return tuple(n for d, n in enumerate(a) if d not in mine) + tuple(
        n for e, n in enumerate(b) if e not in other)


def _tensordot(k: Any, a: Any, b: Any, dims: Any) -> Any:
    mine, other = _tensordot_dims(a.rank, b.rank, dims)
    bound = [k.bound(max(a.shape[d], b.shape[e])) for d, e in zip(mine, other, strict=True)]
    left = iter(k.i)
    first = tuple(bound[mine.index(d)] if d in mine else next(left) for d in range(a.rank))
    second = tuple(bound[other.index(e)] if e in other else next(left) for e in range(b.rank))
    return k.sum(a[first] * b[second], *bound)


register(Op(
    "tensordot(Tensor a, Tensor b, Any dims=2)", _FAMILY, homes="torch",
    shape=_tensordot_shape, element=_tensordot,
    samples=("tensordot(x[2,3], y[3,2], dims=1)",
        "tensordot(x[2,3,2], y[3,2,2], dims=([1, 2], [0, 1]))",
             "tensordot(x[2,3], y[2,3])"),
))


def _padded(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + shape


def _kron_shape(a: Shape, b: Shape) -> Shape:
    rank = max(len(a), len(b))
    return tuple(n * m for n, m in zip(_padded(a, rank), _padded(b, rank), strict=True))


def _kron(k: Any, a: Any, b: Any) -> Any:
    sizes = _padded(b.shape, len(k.i))
    high = [k.floordiv(i, n) for i, n in zip(k.i, sizes, strict=True)]
    low = [k.modulo(i, n) for i, n in zip(k.i, sizes, strict=True)]
    return a.broadcast(high) * b.broadcast(low)


def _kron_back(c: Any, a: Any, b: Any) -> str:
    """Each dim of the gradient is one of ``a`` times one of ``b``; the other's is summed out."""
    rank = max(a.rank, b.rank)
    letters = [("acegikmo"[axis], "bdfhjlnp"[axis]) for axis in range(rank)]
    pairs = []
    for axis in range(rank):
        own = [f"{t}.shape[{axis - rank}]" if axis >= rank - t.rank else "1" for t in (a, b)]
        pairs += own
    blocks = c.let("blocks", f"{c.grad}.reshape({', '.join(pairs)})")
    of_a = "".join(la for la, _ in letters[rank - a.rank:])
    of_b = "".join(lb for _, lb in letters[rank - b.rank:])
    every = "".join(la + lb for la, lb in letters)
    mine, other, its = (of_a, b, of_b) if c.wrt == "input" else (of_b, a, of_a)
    return f'torch.einsum("{every},{its}->{mine}", {blocks}, {other})'


register(Op(
    "kron(Tensor input, Tensor other)", _FAMILY, shape=_kron_shape, element=_kron,
    backward=_kron_back,
    samples=("kron(x[2], y[3])", "kron(x[2,2], y[2,3])", "kron(x[2,2], y[3])"),
))


# -- affine maps -----------------------------------------------------------------------------------


def _linear_shape(x: Shape, w: Shape, b: Shape | None) -> Shape:
    _expect(len(w) in (1, 2) and bool(x) and x[-1] == w[-1],
            "linear multiplies the last dimension of the input, shape {}, with the last of the "
            "weight, shape {}: their sizes must be equal", x, w,
            remedy="the weight has shape (out_features, in_features), as torch.nn.Linear keeps it")
    shape = x[:-1] + w[:-1]
    _expect(b is None or broadcast(shape, b) == shape, "linear: the bias {} does not fit {}",
            b or (), shape)
    return shape


def _linear(k: Any, x: Any, w: Any, b: Any) -> Any:
    p = k.bound(x.shape[-1])
    place = (k.i[-1],) if w.rank == 2 else ()
    row = k.i[:-1] if w.rank == 2 else k.i
    total = k.sum(x[[*row, p]] * w[[*place, p]], p)
    return total if b is None else total + b.broadcast(k.i)


register(Op(
    "linear(Tensor input, Tensor weight, Tensor? bias=None)", _FAMILY, homes="F",
    shape=_linear_shape, element=_linear,
    samples=("F.linear(x[2,3], w[2,3])", "F.linear(x[2,3], w[4,3], b[4])",
        "F.linear(x[3], w[2,3])"),
))


def _bilinear_shape(x: Shape, y: Shape, w: Shape, b: Shape | None) -> Shape:
    _expect(len(w) == 3 and bool(x) and bool(y) and x[:-1] == y[:-1]
            and (x[-1], y[-1]) == w[1:],
            "bilinear takes inputs (…, n) and (…, m) and a weight (k, n, m), found {}, {} and {}",
            x, y, w)
    return (*x[:-1], w[0])


def _bilinear(k: Any, x: Any, y: Any, w: Any, b: Any) -> Any:
    p, q = k.bounds(w.shape[1:])
    row = k.i[:-1]
    total = k.sum(x[[*row, p]] * w[k.i[-1], p, q] * y[[*row, q]], p, q)
    return total if b is None else total + b[k.i[-1]]


register(Op(
    "bilinear(Tensor input1, Tensor input2, Tensor weight, Tensor? bias=None)", _FAMILY, homes="F",
    shape=_bilinear_shape, element=_bilinear,
    samples=("F.bilinear(x[2,3], y[2,2], w[2,3,2])", "F.bilinear(x[3], y[2], w[2,3,2], b[2])"),
))


def _added(name: str, product: Any) -> Any:
    """The shape of ``beta·input + alpha·product``, into whose shape ``input`` is broadcast."""

    def shape(x: Shape, a: Shape, b: Shape, *_: Any) -> Shape:
        full: Shape = product(a, b)
        _expect(broadcast(x, full) == full, f"{name}: the input {{}} does not broadcast to {{}}",
                x, full)
        return full

    return shape


def _plus(product: Any) -> Any:
    def element(k: Any, x: Any, a: Any, b: Any, beta: float, alpha: float) -> Any:
        return k.number(beta) * x.broadcast(k.i) + k.number(alpha) * product(k, a, b)

    return element


def _addbmm_shape(a: Shape, b: Shape) -> Shape:
    return _ranks("addbmm", 3, 3)(a, b)[1:]  # type: ignore[no-any-return]


def _addbmm(k: Any, a: Any, b: Any) -> Any:
    n, p = k.bounds((a.shape[0], a.shape[2]))
    return k.sum(a[n, k.i[0], p] * b[n, p, k.i[1]], n, p)


_SCALED = "*, float beta=1, float alpha=1"

register(Op(
    f"addmm(Tensor input, Tensor mat1, Tensor mat2, {_SCALED})", _FAMILY,
    shape=_added("addmm", _ranks("addmm", 2, 2)), element=_plus(_matmul),
    samples=("addmm(b[2], x[2,3], w[3,2])", "addmm(b[2,2], x[2,3], w[3,2], beta=0.5, alpha=2)"),
))
register(Op(
    f"addbmm(Tensor input, Tensor batch1, Tensor batch2, {_SCALED})", _FAMILY,
    shape=_added("addbmm", _addbmm_shape), element=_plus(_addbmm),
    samples=("addbmm(b[2,2], x[2,2,3], w[2,3,2])",
        "addbmm(b[2], x[2,2,3], w[2,3,2], beta=2, alpha=3)"),
))
register(Op(
    f"baddbmm(Tensor input, Tensor batch1, Tensor batch2, {_SCALED})", _FAMILY,
    shape=_added("baddbmm", _ranks("baddbmm", 3, 3)), element=_plus(_matmul),
    samples=("baddbmm(b[2,2,2], x[2,2,3], w[2,3,2])", "baddbmm(b[2], x[2,2,3], w[2,3,2], beta=2)"),
))
register(Op(
    f"addmv(Tensor input, Tensor mat, Tensor vec, {_SCALED})", _FAMILY,
    shape=_added("addmv", _ranks("addmv", 2, 1)), element=_plus(_matmul),
    samples=("addmv(b[2], x[2,3], w[3])", "addmv(b[2], x[2,3], w[3], alpha=2)"),
))
register(Op(
    f"addr(Tensor input, Tensor vec1, Tensor vec2, {_SCALED})", _FAMILY,
    shape=_added("addr", _outer_shape),
    element=_plus(lambda k, a, b: a[k.i[0]] * b[k.i[1]]),
    samples=("addr(b[2,3], x[2], y[3])", "addr(b[3], x[2], y[3], beta=2, alpha=0.5)"),
))


def _multi_dot(b: Any, tensors: Any) -> Any:
    _expect(len(tensors) > 0, "chain_matmul expects at least one matrix")
    result = tensors[0]
    for x in tensors[1:]:
        result = b.call("matmul", result, x)
    return result


register(Op(
    "chain_matmul(Tensor[] matrices)", _FAMILY, homes="torch", expand=_multi_dot,
    samples=("chain_matmul(x[2,3], y[3,2], z[2,2])",),
))
register(Op(
    "multi_dot(Tensor[] tensors)", _FAMILY, homes="linalg", expand=_multi_dot,
    samples=("linalg.multi_dot([x[2,3], y[3,2], z[2,2]])",
        "linalg.multi_dot([x[3], y[3,2], z[2]])"),
))


def _cross_shape(a: Shape, b: Shape, dim: int | None) -> Shape:
    _expect(len(a) == len(b), "cross takes tensors of equally many dimensions, found {} and {}", a,
        b)
    shape = broadcast(a, b)
    d = _three(shape, dim)
    _expect(a[d] == b[d] == 3, f"cross needs size 3 in dimension {d}, found shapes {{}} and {{}}",
        a, b)
    return shape


def _three(shape: Shape, dim: int | None) -> int:
    """The dimension of the vectors: the one given, else the first of size 3, as in PyTorch."""
    if dim is not None:
        return normal_dim(dim, len(shape))
    _expect(3 in shape, "cross needs a dimension of size 3, found shape {}", shape)
    return shape.index(3)


def _cross(k: Any, a: Any, b: Any, dim: int | None) -> Any:
    d = _three(k.shape, dim)
    one, two = (k.put(k.i, d, k.modulo(k.i[d] + n, 3)) for n in (1, 2))
    return a[one] * b[two] - a[two] * b[one]


def _cross_text(a: Any, b: Any, dim: int | None) -> str:
    return f"torch.linalg.cross({a}, {b}, dim={_three(broadcast(a.shape, b.shape), dim)})"


def _cross_back(c: Any, a: Any, b: Any, dim: int | None) -> str:
    mine, text = (a, _cross_text(b, c.grad, dim)) if c.wrt == "input" else (
        b, _cross_text(c.grad, a, dim))
    return str(c.total(text, mine, c.y.shape))


register(Op(
    "cross(Tensor input, Tensor other, int? dim=None)", _FAMILY,
    shape=_cross_shape, element=_cross, backward=_cross_back,
    written=lambda c, a, b, dim: _cross_text(a, b, dim),
    torch=lambda torch, a, b, dim: torch.cross(
        a, b, dim=_three(torch.broadcast_shapes(a.shape, b.shape), dim)),
    samples=("cross(x[3], y[3], dim=0)", "cross(x[2,3], y[2,3])", "cross(x[3,2], y[3,1], dim=0)"),
))
register(Op(
    "cross(Tensor input, Tensor other, *, int dim=-1)", _FAMILY, homes="linalg",
    shape=_cross_shape, element=_cross, backward=_cross_back,
    samples=("linalg.cross(x[2,3], y[1,3])",),
))


# -- convolutions ----------------------------------------------------------------------------------


def _each(value: Any, n: int, name: str) -> tuple[int, ...]:
    """A setting for each of ``n`` dimensions: one number counts for all."""
    found = (value,) if isinstance(value, int) else tuple(value)
    found = found * n if len(found) == 1 else found
    _expect(len(found) == n and all(isinstance(v, int) for v in found),
            f"{name} takes one integer or {n} of them, found {value!r}")
    return found


def _padding(padding: Any, kernel: Shape, stride: Shape, dilation: Shape) -> list[tuple[int, int]]:
    """How much stands before and after, for each dimension."""
    n = len(kernel)
    if padding == "valid":
        return [(0, 0)] * n
    if padding == "same":
        _expect(all(s == 1 for s in stride),
            "padding='same' goes only with stride 1, as in PyTorch")
        totals = [d * (m - 1) for d, m in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    _expect(not isinstance(padding, str),
        f"padding must be integers, 'same' or 'valid', found {padding!r}")
    return [(p, p) for p in _each(padding, n, "padding")]


def _conv_shape(n: int) -> Any:
    def shape(x: Shape, w: Shape, b: Shape | None, stride: Any, padding: Any, dilation: Any,
              groups: int) -> Shape:
        name = f"conv{n}d"
        _expect(len(w) == n + 2 and len(x) in (n + 1, n + 2),
                f"{name} takes an input (batch, channels, …) with {n} more dimensions and a weight "
                f"(out, channels, …) with {n} more, found shapes {{}} and {{}}", x, w)
        channels = x[len(x) - n - 1]
        _expect(groups > 0 and channels == w[1] * groups and w[0] % max(groups, 1) == 0,
                f"{name}: {channels} channels in {groups} group(s) do not fit the weight {{}}", w,
                remedy="the weight has shape (out_channels, in_channels / groups, …)")
        _expect(b is None or b == (w[0],),
            f"{name}: the bias must have shape ({w[0]},), found {{}}",
                b or ())
        stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
        pads = _padding(padding, w[2:], stride, dilation)
        sizes = []
        for size, m, s, d, (before, after) in zip(x[-n:], w[2:], stride, dilation, pads,
            strict=True):
            _expect(s > 0 and d > 0, f"{name}: stride and dilation must be positive")
            span = d * (m - 1) + 1
            _expect(size + before + after >= span,
                    f"{name}: the kernel spans {span} positions, the padded input has "
                    f"{size + before + after}")
            sizes.append((size + before + after - span) // s + 1)
        return (*x[: len(x) - n - 1], w[0], *sizes)

    return shape


def _conv(n: int) -> Any:
    def element(k: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any,
                groups: int) -> Any:
        stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
        pads = _padding(padding, w.shape[2:], stride, dilation)
        batch, out, spots = k.i[: len(k.i) - n - 1], k.i[len(k.i) - n - 1], k.i[len(k.i) - n:]
        c, *taps = k.bounds(w.shape[1:])
        channel = k.floordiv(out, w.shape[0] // groups) * w.shape[1] + c if groups > 1 else c
        at = [s * i + d * p - before for i, p, s, d, (before, _) in
              zip(spots, taps, stride, dilation, pads, strict=True)]
        inside = k.S.Mul(*(k.bracket(k.all(a >= 0, a <= size - 1))
                           for a, size in zip(at, x.shape[-n:], strict=True)))
        total = k.sum(inside * x[[*batch, channel, *at]] * w[[out, c, *taps]], c, *taps)
        return total if b is None else total + b[out]

    return element


def _conv_back(n: int) -> Any:
    """PyTorch's own transposed maps of a convolution: `torch.nn.grad`."""

    def backward(c: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any,
                 groups: int) -> str:
        grad = c.grad
        batched = x.rank == n + 2
        if c.wrt == "bias":
            dims = [d for d in range(grad.rank) if d != grad.rank - n - 1]
            return f"{grad}.sum(dim={dims[0] if len(dims) == 1 else tuple(dims)})"
        stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
        pads = _padding(padding, w.shape[2:], stride, dilation)
        even = all(before == after for before, after in pads)
        shown = {
            "stride": stride, "padding": tuple(p for p, _ in pads) if even else (0,) * n,
            "dilation": dilation, "groups": groups,
        }
        options = "".join(f", {key}={value[0] if value and len(set(value)) == 1 else value}"
                          if isinstance(value, tuple) else f", {key}={value}"
                          for key, value in shown.items()
                          if value not in ((1,) * n if key != "padding" else (0,) * n, 1))
        source = str(x) if batched else f"{x}.unsqueeze(0)"
        grad = str(grad) if batched else f"{grad}.unsqueeze(0)"
        flat = tuple(p for pair in reversed(pads) for p in pair)
        if not even:
            source = c.let("padded", f"F.pad({source}, {flat})")
        if c.wrt == "weight":
            return f"torch.nn.grad.conv{n}d_weight({source}, {w}.shape, {grad}{options})"
        size = f"{source}.shape" if batched or not even else f"(1, *{x}.shape)"
        found = f"torch.nn.grad.conv{n}d_input({size}, {w}, {grad}{options})"
        if not even:
            found = f"F.pad({found}, {tuple(-p for p in flat)})"
        return found if batched else f"{found}.squeeze(0)"

    return backward


for _n in (1, 2, 3):
    register(Op(
        f"conv{_n}d(Tensor input, Tensor weight, Tensor? bias=None, int[] stride=1, Any padding=0, "
        "int[] dilation=1, int groups=1)", _FAMILY, homes="F", aliases=(f"torch.conv{_n}d",),
        shape=_conv_shape(_n), element=_conv(_n), backward=_conv_back(_n),
        samples={
            1: ("F.conv1d(x[1,2,5], w[2,2,3])",
                "F.conv1d(x[1,1,5], w[2,1,2], b[2], stride=2, padding=1)",
                "F.conv1d(x[2,6], w[2,1,2], groups=2, dilation=2, padding='same')"),
            2: ("F.conv2d(x[1,1,3,3], w[1,1,2,2])",
                "F.conv2d(x[1,2,3,3], w[2,2,2,2], b[2], padding=1)",
                "F.conv2d(x[1,2,4,4], w[2,1,2,2], stride=(2, 1), groups=2, dilation=(1, 2))"),
            3: ("F.conv3d(x[1,1,2,2,3], w[1,1,2,2,2], padding=(0, 0, 1))",),
        }[_n],
    ))


# -- pooling ---------------------------------------------------------------------------------------


def _pooled(n: int, name: str, x: Shape, kernel: Any, stride: Any, padding: Any, dilation: Any,
            ceil: bool) -> Shape:
    """The shape after pooling.  Source: PyTorch's ``aten/src/ATen/native/Pool.h``."""
    _expect(len(x) in (n + 1, n + 2),
            f"{name} takes an input (batch, channels, …) with {n} more dimensions, found {{}}", x)
    kernel, stride, padding, dilation = _window(n, kernel, stride, padding, dilation)
    sizes = []
    for size, m, s, p, d in zip(x[-n:], kernel, stride, padding, dilation, strict=True):
        _expect(m > 0 and s > 0 and d > 0, f"{name}: kernel, stride and dilation must be positive")
        _expect(0 <= 2 * p <= d * (m - 1) + 1,
            f"{name}: the padding must be at most half of the kernel")
        room = size + 2 * p - d * (m - 1) - 1
        _expect(room >= 0 or (ceil and room + s > 0),
            f"{name}: the kernel is larger than the padded input")
        count = -(-room // s) + 1 if ceil else room // s + 1
        sizes.append(count - 1 if ceil and (count - 1) * s >= size + p else count)
    return (*x[:-n], *sizes)


def _window(n: int, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> tuple[Shape, ...]:
    kernel = _each(kernel, n, "kernel_size")
    return (
        kernel, _each(stride, n, "stride") if stride not in (None, ()) else kernel,
        _each(padding, n, "padding"), _each(dilation, n, "dilation"),
    )


def _avg_pool(n: int) -> Any:
    def element(k: Any, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool,
                whole: bool, divisor: int | None = None) -> Any:
        kernel, stride, padding, _ = _window(n, kernel, stride, padding)
        taps = k.bounds(kernel)
        spots = k.i[len(k.i) - n:]
        at = [s * i + q - p for i, q, s, p in zip(spots, taps, stride, padding, strict=True)]
        ends = [size - 1 for size in x.shape[-n:]]
        inside = [k.bracket(k.all(a >= 0, a <= end)) for a, end in zip(at, ends, strict=True)]
        if divisor is not None:
            count = k.number(divisor)
        elif whole:  # what is counted lies in the padded input
            count = k.S.Mul(*(k.sum(k.bracket(a <= end + p), q) for a, end, p, q in
                              zip(at, ends, padding, taps, strict=True)))
        else:
            count = k.S.Mul(*(k.sum(b, q) for b, q in zip(inside, taps, strict=True)))
        return k.sum(k.S.Mul(*inside) * x[[*k.i[:-n], *at]], *taps) / count

    return element


def _avg_back(n: int) -> Any:
    """Each window spreads its gradient evenly: a transposed convolution with ones."""

    def backward(c: Any, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool, whole: bool,
                 divisor: int | None = None) -> str:
        kernel, stride, padding, _ = _window(n, kernel, stride, padding)
        grad = c.grad
        if divisor is not None:
            share = f"{grad} / {divisor}"
        elif not ceil and (whole or not any(padding)):
            share = f"{grad} / {prod(kernel)}"
        else:
            share = f"{grad} / ({' * '.join(counts(c, x, kernel, stride, padding, whole))})"
        share = c.let("share", share)
        ones = f"{grad}.new_ones({', '.join(map(str, (1, 1, *kernel)))})"
        steps = stride[0] if len(set(stride)) == 1 else stride
        spread = c.let("spread", f"F.conv_transpose{n}d({share}.reshape(-1, 1, *{grad}.shape[-{n}:]),"
                       f" {ones}, stride={steps})")
        crop = ", ".join(
            f"{-p}, {x}.shape[{axis}]{f' + {p}' if p else ''} - {spread}.shape[{axis}]"
            for axis, p in zip(range(-1, -n - 1, -1), reversed(padding), strict=True))
        return f"F.pad({spread}, ({crop})).reshape({x}.shape)"

    def counts(c: Any, x: Any, kernel: Shape, stride: Shape, padding: Shape,
               whole: bool) -> list[str]:
        """How many places each window counts along each dim."""
        found = []
        for axis, m, s, p in zip(range(-n, 0), kernel, stride, padding, strict=True):
            size, place = f"{x}.shape[{axis}]", f"torch.arange({c.grad}.shape[{axis}]"
            first = c.let("first", f"{place}, device={c.grad}.device) * {s} - {p}")
            last = f"({first} + {m}).clamp(max={size}{f' + {p}' if whole and p else ''})"
            inside = f"({last} - {first if whole else f'{first}.clamp(min=0)'})"
            found.append(inside + "".join(".unsqueeze(-1)" for _ in range(-axis - 1)))
        return found

    return backward


_WIDE = "int[] kernel_size, int[]? stride=None, int[] padding=0"

for _n in (1, 2, 3):
    _override = ", int? divisor_override=None" if _n > 1 else ""
    register(Op(
        f"avg_pool{_n}d(Tensor input, {_WIDE}, bool ceil_mode=False, bool count_include_pad=True"
        f"{_override})", _FAMILY, homes="F",
        shape=lambda x, m, s, p, ceil, *_, n=_n: _pooled(n, f"avg_pool{n}d", x, m, s, p, 1, ceil),
        element=_avg_pool(_n), backward=_avg_back(_n),
        samples={
            1: ("F.avg_pool1d(x[1,1,6], 2)", "F.avg_pool1d(x[1,2,5], 3, stride=2, padding=1)",
                "F.avg_pool1d(x[2,5], 2, padding=1, count_include_pad=False, ceil_mode=True)"),
            2: ("F.avg_pool2d(x[1,1,4,4], 2)",
                "F.avg_pool2d(x[1,1,3,4], (2, 3), stride=1, padding=1)",
                "F.avg_pool2d(x[1,1,4,4], 2, divisor_override=3)"),
            3: ("F.avg_pool3d(x[1,1,2,2,4], 2)",),
        }[_n],
    ))


def _pool_index(n: int) -> Any:
    """Where each window's largest element stands: its position in the plane, the first at a tie."""

    def value(exact: bool, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any,
              ceil: bool) -> Any:
        import numpy as np

        array = np.asarray(x[0], dtype=np.float64)
        shape = _pooled(n, "", array.shape, kernel, stride, padding, dilation, ceil)
        kernel, stride, padding, dilation = _window(n, kernel, stride, padding, dilation)
        sizes = array.shape[-n:]
        best = np.full(shape, -np.inf)
        index = np.full(shape, -1)
        for tap in np.ndindex(*kernel):
            places = [s * np.arange(count) + d * q - p for count, q, s, p, d in
                      zip(shape[-n:], tap, stride, padding, dilation, strict=True)]
            grid = np.meshgrid(*places, indexing="ij")
            inside = np.logical_and.reduce(
                [(g >= 0) & (g < size) for g, size in zip(grid, sizes, strict=True)])
            spot = tuple(np.clip(g, 0, size - 1) for g, size in zip(grid, sizes, strict=True))
            found = np.where(inside, array.__getitem__((..., *spot)), -np.inf)
            flat = np.ravel_multi_index(spot, sizes)
            larger = (found > best) | np.isnan(found) | (inside & (index < 0))
            best, index = np.where(larger, found, best), np.where(larger, flat, index)
        return index.astype(np.float64), np.zeros(shape)

    return value


def _max_pool(n: int) -> Any:
    def element(k: Any, x: Any, *args: Any) -> Any:
        sizes = x.shape[-n:]
        return x[[*k.i[:-n], *k.unravel(k.below(args[-1][k.i], prod(sizes)), sizes)]]

    return element


def _one(value: Any) -> Any:
    """A setting as it is written: one number where all are equal."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _unit_pool(n: int) -> None:
    settings = f"{_WIDE}, int[] dilation=1, bool ceil_mode=False"

    def shape(x: Shape, m: Any, s: Any, p: Any, d: Any, ceil: bool, *_: Any) -> Shape:
        return _pooled(n, f"max_pool{n}d", x, m, s, p, d, ceil)

    def called(x: Any, m: Any, s: Any, p: Any, d: Any, ceil: bool) -> str:
        options = {"stride": s, "padding": p, "dilation": d, "ceil_mode": ceil}
        usual = {"stride": (None, (), m), "padding": (0, (0,)), "dilation": (1, (1,)),
                 "ceil_mode": (False,)}
        shown = "".join(f", {key}={_one(v)}" for key, v in options.items() if v not in usual[key])
        return f"F.max_pool{n}d({x}, {_one(m)}{shown}, return_indices=True)"

    def back(c: Any, x: Any, *args: Any) -> str:
        """To the element that was the largest, by its place in the plane."""
        flat = "" if n == 1 else f".flatten({-n})"
        found = f"torch.zeros_like({x}){flat}.scatter_add(-1, {args[-1]}{flat}, {c.grad}{flat})"
        return found if n == 1 else f"{found}.reshape({x}.shape)"

    helper = register(Op(
        f"argmax_pool{n}d(Tensor input, {settings})", _FAMILY, (), homes="", integer=True,
        shape=shape, value=_pool_index(n), jacobian=lambda *_: None, torch=lambda *_: None,
        written=lambda c, x, *args: f"{called(x, *args)}[1]",
    ))
    pooled = register(Op(
        f"max_pool{n}d(Tensor input, {settings}, Aux indices)", _FAMILY, (), homes="",
        shape=shape, element=_max_pool(n),
        aux=lambda b, x, *args: (b.helper(helper, x, *args, label="idx"),),
        torch=lambda torch, x, m, s, p, d, ceil, _: getattr(torch.nn.functional, f"max_pool{n}d")(
            x, m, s or m, p, d, ceil),
        written=lambda c, x, *args: f"{called(x, *args[:-1])}[0]", backward=back,
    ))

    def expand(b: Any, x: Any, *args: Any) -> Any:
        found = b.apply(pooled, x, *args[:-1])
        indices = b.node(found).args[-1]
        return b.results(("output", "indices"), found, indices) if args[-1] else found

    register(Op(
        f"max_pool{n}d(Tensor input, {settings}, bool return_indices=False)", _FAMILY,
        homes="F", aliases=(f"torch.max_pool{n}d",), expand=expand,
        kink="at a tie the first of the largest elements of a window gets the whole gradient, as "
             "in PyTorch",
        samples={
            1: ("F.max_pool1d(x[1,1,6], 2)", "F.max_pool1d(x[1,2,5], 3, stride=2, padding=1)"),
            2: ("F.max_pool2d(x[1,1,4,4], 2)",
                "F.max_pool2d(x[1,1,4,5], (2, 3), stride=1, padding=1, dilation=(1, 2))"),
            3: ("F.max_pool3d(x[1,1,2,2,4], 2)",),
        }[n],
    ))


for _n in (1, 2, 3):
    _unit_pool(_n)


def _adaptive_sizes(n: int, x: Shape, out: Any) -> tuple[int, ...]:
    wanted = (out,) * n if isinstance(out, int) or out is None else tuple(out)
    wanted = wanted * n if len(wanted) == 1 else wanted
    _expect(len(wanted) == n and len(x) in (n + 1, n + 2),
            f"adaptive_avg_pool{n}d takes an input with {n + 1} or {n + 2} dimensions and {n} "
            "sizes, found shape {}", x)
    return tuple(size if m is None else m for size, m in zip(x[-n:], wanted, strict=True))


def _adaptive(n: int) -> Any:
    def element(k: Any, x: Any, out: Any) -> Any:
        taps, at, inside = [], [], []
        for i, size, m in zip(k.i[len(k.i) - n:], x.shape[-n:], _adaptive_sizes(n, x.shape, out),
                              strict=True):
            if m and size % m == 0:
                taps.append(k.bound(size // m))
                at.append(size // m * i + taps[-1])
                inside.append(k.S.S.One)
                continue
            taps.append(k.bound(size))
            at.append(taps[-1])
            first, after = k.floordiv(size * i, m), k.floordiv(size * i + size + m - 1, m)
            inside.append(k.bracket(k.all(at[-1] >= first, at[-1] <= after - 1)))
        count = k.S.Mul(*(k.sum(b, q) for b, q in zip(inside, taps, strict=True)))
        return k.sum(k.S.Mul(*inside) * x[[*k.i[:-n], *at]], *taps) / count

    return element


def _adaptive_back(n: int) -> Any:
    """Along each dim a matrix that says which share of a mean an element has."""

    def backward(c: Any, x: Any, out: Any) -> str:
        shares, letters = [], "abcdef"
        for axis in range(-n, 0):
            size, count = f"{x}.shape[{axis}]", f"{c.grad}.shape[{axis}]"
            spot = c.let("spot", f"torch.arange({count}, device={c.grad}.device).unsqueeze(-1)")
            first = c.let("first", f"{spot} * {size} // {count}")
            after = c.let("after", f"({spot} * {size} + {size} + {count} - 1) // {count}")
            place = c.let("place", f"torch.arange({size}, device={c.grad}.device)")
            inside = c.let("inside", f"({place} >= {first}) & ({place} < {after})")
            shares.append(c.let("share", f"{inside}.to({c.grad}.dtype) / ({after} - {first})"))
        own, others = letters[:n], letters[n:2 * n]
        maps = ",".join(a + b for a, b in zip(own, others, strict=True))
        return f'torch.einsum("...{own},{maps}->...{others}", {c.grad}, {", ".join(shares)})'

    return backward


for _n in (1, 2, 3):
    register(Op(
        f"adaptive_avg_pool{_n}d(Tensor input, Any output_size)", _FAMILY, homes="F",
        shape=lambda x, out, n=_n: (*x[:-n], *_adaptive_sizes(n, x, out)), element=_adaptive(_n),
        backward=_adaptive_back(_n),
        samples={
            1: ("F.adaptive_avg_pool1d(x[1,1,6], 3)", "F.adaptive_avg_pool1d(x[1,1,5], 3)"),
            2: ("F.adaptive_avg_pool2d(x[1,1,4,4], 2)",
                "F.adaptive_avg_pool2d(x[1,1,3,4], (2, None))"),
            3: ("F.adaptive_avg_pool3d(x[1,1,2,2,4], 2)",),
        }[_n],
    ))


# -- attention and distances -----------------------------------------------------------------------


_CAUSAL = register(Op(
    "causal_mask(Tensor input)", _FAMILY, (), homes="", moves=True, shape=lambda x: x,
    element=lambda k, x: k.choose(k.i[-1] <= k.i[-2], x[k.i], -k.S.oo),
    torch=lambda torch, x: x.masked_fill(torch.ones_like(x).triu(1).bool(), float("-inf")),
    written=lambda c, x: f"{x}.masked_fill(torch.ones_like({x}, dtype=torch.bool).triu(1), -math.inf)",
    backward=lambda c, x: f"{c.grad}.tril()",
))


def _attention(b: Any, q: Any, key: Any, value: Any, mask: Any, dropout: float, causal: bool,
               scale: float | None, gqa: bool) -> Any:
    """``softmax(q·keyᵀ·scale + mask)·value``.

    Source: the reference implementation in the documentation of ``scaled_dot_product_attention``.
    """
    _expect(not dropout, "attention with dropout is random", remedy="leave dropout_p at 0")
    shapes = [b.shape(x) for x in (q, key, value)]
    _expect(all(len(s) >= 2 for s in shapes) and shapes[0][-1] == shapes[1][-1],
            "attention takes a query (…, L, E), a key (…, S, E) and a value (…, S, V), found {}, "
            "{} and {}", *shapes)
    if gqa:
        heads = shapes[0][-3]
        key = b.call("repeat_interleave", key, heads // shapes[1][-3], -3)
        value = b.call("repeat_interleave", value, heads // shapes[2][-3], -3)
    scores = b.call("matmul", q, b.call("transpose", key, -2, -1))
    if scale is None:
        scores = b.call("div", scores, b.call("sqrt", b.constant(shapes[0][-1])))
    elif scale != 1:
        scores = b.call("mul", scores, scale)
    if causal:
        _expect(mask is None, "attention takes attn_mask or is_causal, not both")
        scores = b.apply(_CAUSAL, scores)
    if mask is not None and b.node(mask).integer:
        scores = b.call("where", mask, scores, float("-inf"))
    elif mask is not None:
        scores = b.call("add", scores, mask)
    return b.call("matmul", b.call("softmax", scores, dim=-1), value)


register(Op(
    "scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, "
    "float dropout_p=0, bool is_causal=False, *, float? scale=None, bool enable_gqa=False)",
        _FAMILY,
    homes="F", expand=_attention,
    samples=("F.scaled_dot_product_attention(q[2,2]/9, w[3,2]/9, z[3,2])",
             "F.scaled_dot_product_attention(q[1,3,2]/9, w[1,3,2]/9, z[1,3,2], is_causal=True)",
             "F.scaled_dot_product_attention(q[2,2]/9, w[3,2]/9, z[3,2], m[2,3], scale=0.5)"),
))


def _cdist(b: Any, x1: Any, x2: Any, p: float, mode: str) -> Any:
    one, two = b.call("unsqueeze", x1, -2), b.call("unsqueeze", x2, -3)
    return b.call("norm", b.call("sub", one, two), p, -1)


register(Op(
    "cdist(Tensor x1, Tensor x2, float p=2, "
    "str compute_mode='use_mm_for_euclid_dist_if_necessary')",
    _FAMILY, homes="torch", expand=_cdist,
        samples=("cdist(x[2,3], y[2,3])", "cdist(x[2,3], y[3,3], p=1)"),
))
