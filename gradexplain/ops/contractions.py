"""Contractions: products summed over an index that two tensors share; convolutions and pooling."""
# fmt: off

from __future__ import annotations

import re
from typing import Any

from gradexplain.ops.base import (
    Op,
    Shape,
    broadcast,
    expect,
    normal_dim,
    register,
)

_FAMILY = "contraction"


# -- products of matrices and vectors --------------------------------------------------------------


def _matmul_shape(a: Shape, b: Shape) -> Shape:
    """PyTorch's ``matmul``: dot, matrix-vector, vector-matrix, or batches of matrices."""
    expect(bool(a) and bool(b), "matmul needs at least one dimension on both sides, found {} and {}", a, b,
           remedy="multiply by a number with *")
    left = a if len(a) > 1 else (1, *a)
    right = b if len(b) > 1 else (*b, 1)
    expect(left[-1] == right[-2], "matmul cannot multiply shapes {} and {}: "
           f"{left[-1]} columns meet {right[-2]} rows", a, b,
           remedy="the last size of the left side and the last but one of the right must be "
           "equal; .T may be missing")
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


def _ranks(name: str, first: int, second: int) -> Any:
    def shape(a: Shape, b: Shape) -> Shape:
        expect((len(a), len(b)) == (first, second),
               f"{name} takes tensors with {first} and {second} dimensions, found shapes {{}} and {{}}", a, b,
               remedy="matmul (or @) takes any")
        return _matmul_shape(a, b)

    return shape


register(Op(
    "matmul(Tensor input, Tensor other)", _FAMILY, infix="{} @ {}",
    shape=_matmul_shape, element=_matmul, aliases=("linalg.matmul",),
    samples=("x[2,3] @ w[3,2]", "x[3] @ w[3]", "matmul(x[2,3], w[3])", "x[3] @ w[3,2]",
             "x[2,1,2,3] @ w[2,3,2]", "torch.matmul(x[2,3], w[2,3].T)"),
))
for _name, _second, _dims, _sample in (
    ("mm", "mat2", (2, 2), "mm(x[2,3], w[3,2])"), ("bmm", "mat2", (3, 3), "bmm(x[2,2,3], w[2,3,2])"),
    ("mv", "vec", (2, 1), "mv(x[2,3], w[3])"), ("dot", "tensor", (1, 1), "dot(x[3], w[3])"),
    ("vdot", "other", (1, 1), "vdot(x[3], w[3])"),
):
    register(Op(
        f"{_name}(Tensor input, Tensor {_second})", _FAMILY,
        shape=_ranks(_name, *_dims), element=_matmul, samples=(_sample,),
    ))


def _outer_shape(a: Shape, b: Shape) -> Shape:
    expect(len(a) == len(b) == 1, "outer takes two vectors, found shapes {} and {}", a, b,
            remedy="einsum makes outer products of any tensors")
    return a + b


register(Op(
    "outer(Tensor input, Tensor vec2)", _FAMILY, aliases=("torch.ger", "Tensor.ger"),
    shape=_outer_shape, element=lambda k, a, b: a[k.i[0]] * b[k.i[1]],
    samples=("outer(x[2], y[3])", "x[2].ger(y[3])"),
))


def _inner_shape(a: Shape, b: Shape) -> Shape:
    expect(not a or not b or a[-1] == b[-1],
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
    if not rank:
        return a[()] * b[()]
    p = k.bound(broadcast(a.shape, b.shape)[d])
    at = (*k.i[:d], p, *k.i[d:])
    return k.sum(a.broadcast(at) * b.broadcast(at), p)


def _without(shape: Shape, dim: int) -> Shape:
    d = normal_dim(dim, len(shape))
    return (*shape[:d], *shape[d + 1:])


register(Op(
    "vecdot(Tensor x, Tensor y, *, int dim=-1)", _FAMILY, homes="linalg",
    shape=lambda a, b, dim: _without(broadcast(a, b), dim), element=_vecdot,
    samples=("linalg.vecdot(x[3], y[3])", "linalg.vecdot(x[], y[])",
        "linalg.vecdot(x[2,3], y[2,1], dim=0)"),
))


# -- einsum ----------------------------------------------------------------------------------------


def _equation(equation: str, ranks: tuple[int, ...]) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand and of the result; the dims of ``...`` are called ``.0``, ``.1``.

    Source: the documentation of ``torch.einsum``.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    expect(len(terms) == len(ranks),
            f"einsum: the equation {equation!r} has {len(terms)} operands, found {len(ranks)}")
    wide = 0
    for term, rank in zip(terms, ranks, strict=True):
        expect(re.fullmatch(r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*", term) is not None,
                f"einsum: {term!r} in {equation!r} is not made of letters and one '...'")
        named = len(term.replace("...", ""))
        expect(named == rank if "..." not in term else named <= rank,
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
        expect(re.fullmatch(r"[a-zA-Z]*(\.\.\.)?[a-zA-Z]*", right) is not None,
                f"einsum: the result {right!r} is not made of letters and one '...'")
        output = letters(right, wide)
        expect(len(set(output)) == len(output), f"einsum: a letter stands twice in {right!r}")
        unknown = [a for a in output if all(a not in term for term in inputs)]
        expect(not unknown, f"einsum: {''.join(unknown)!r} in the result is in no operand")
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
            expect(n in (1, known) or known == 1,
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
        expect(0 <= dims <= min(a, b), f"tensordot: dims={dims} is more than a tensor has")
        return tuple(range(a - dims, a)), tuple(range(dims))
    pair = tuple((part,) if isinstance(part, int) else tuple(part) for part in dims)
    expect(len(pair) == 2 and len(pair[0]) == len(pair[1]),
            "tensordot: dims is a number, or two lists of dims of equal length")
    return tuple(normal_dim(d, a) for d in pair[0]), tuple(normal_dim(d, b) for d in pair[1])


def _tensordot_shape(a: Shape, b: Shape, dims: Any) -> Shape:
    mine, other = _tensordot_dims(len(a), len(b), dims)
    expect(all(a[d] == b[e] or 1 in (a[d], b[e]) for d, e in zip(mine, other, strict=True)),
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


register(Op(
    "kron(Tensor input, Tensor other)", _FAMILY, shape=_kron_shape, element=_kron,
    samples=("kron(x[2], y[3])", "kron(x[2,2], y[2,3])", "kron(x[2,2], y[3])"),
    # PyTorch's own takes views of what it is given.
    written=lambda c, a, b: f"torch.kron({a}.contiguous(), {b}.contiguous())",
))


# -- affine maps -----------------------------------------------------------------------------------


def _linear_shape(x: Shape, w: Shape, b: Shape | None) -> Shape:
    expect(len(w) in (1, 2) and bool(x) and x[-1] == w[-1],
            "linear multiplies the last dimension of the input, shape {}, with the last of the "
            "weight, shape {}: their sizes must be equal", x, w,
            remedy="the weight has shape (out_features, in_features), as torch.nn.Linear keeps it")
    shape = x[:-1] + w[:-1]
    expect(b is None or broadcast(shape, b) == shape, "linear: the bias {} does not fit {}",
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
    expect(len(w) == 3 and bool(x) and bool(y) and x[:-1] == y[:-1]
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
        expect(broadcast(x, full) == full, f"{name}: the input {{}} does not broadcast to {{}}",
                x, full)
        return full

    return shape


def _plus(product: Any) -> Any:
    def element(k: Any, x: Any, a: Any, b: Any, beta: float, alpha: float) -> Any:
        return k.number(beta) * x.broadcast(k.i) + k.number(alpha) * product(k, a, b)

    return element


def _addbmm(k: Any, a: Any, b: Any) -> Any:
    n, p = k.bounds((a.shape[0], a.shape[2]))
    return k.sum(a[n, k.i[0], p] * b[n, p, k.i[1]], n, p)


_SCALED = "*, float beta=1, float alpha=1"

for _name, _pair, _dims, _samples in (
    ("addmm", "Tensor mat1, Tensor mat2", (2, 2),
     ("addmm(b[2], x[2,3], w[3,2])", "addmm(b[2,2], x[2,3], w[3,2], beta=0.5, alpha=2)")),
    ("baddbmm", "Tensor batch1, Tensor batch2", (3, 3),
     ("baddbmm(b[2,2,2], x[2,2,3], w[2,3,2])", "baddbmm(b[2], x[2,2,3], w[2,3,2], beta=2)")),
    ("addmv", "Tensor mat, Tensor vec", (2, 1),
     ("addmv(b[2], x[2,3], w[3])", "addmv(b[2], x[2,3], w[3], alpha=2)")),
):
    register(Op(
        f"{_name}(Tensor input, {_pair}, {_SCALED})", _FAMILY, samples=_samples,
        shape=_added(_name, _ranks(_name, *_dims)), element=_plus(_matmul),
    ))
register(Op(
    f"addbmm(Tensor input, Tensor batch1, Tensor batch2, {_SCALED})", _FAMILY,
    shape=_added("addbmm", lambda a, b: _ranks("addbmm", 3, 3)(a, b)[1:]), element=_plus(_addbmm),
    samples=("addbmm(b[2,2], x[2,2,3], w[2,3,2])",
        "addbmm(b[2], x[2,2,3], w[2,3,2], beta=2, alpha=3)"),
))
register(Op(
    f"addr(Tensor input, Tensor vec1, Tensor vec2, {_SCALED})", _FAMILY,
    shape=_added("addr", _outer_shape), element=_plus(lambda k, a, b: a[k.i[0]] * b[k.i[1]]),
    samples=("addr(b[2,3], x[2], y[3])", "addr(b[3], x[2], y[3], beta=2, alpha=0.5)"),
))


def _multi_dot(b: Any, tensors: Any) -> Any:
    expect(len(tensors) > 0, "chain_matmul expects at least one matrix")
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
    expect(len(a) == len(b), "cross takes tensors of equally many dimensions, found {} and {}", a,
        b)
    shape = broadcast(a, b)
    d = _three(shape, dim)
    expect(a[d:][:1] == b[d:][:1] == (3,), f"cross needs size 3 in dimension {d}, found shapes {{}} and {{}}",
        a, b, remedy="give two tensors of vectors of three numbers")
    return shape


def _three(shape: Shape, dim: int | None) -> int:
    """The dimension of the vectors: the one given, else the first of size 3, as in PyTorch."""
    if dim is not None:
        return normal_dim(dim, len(shape))
    expect(3 in shape, "cross needs a dimension of size 3, found shape {}", shape)
    return shape.index(3)


def _cross(k: Any, a: Any, b: Any, dim: int | None) -> Any:
    d = _three(k.shape, dim)
    one, two = (k.put(k.i, d, k.modulo(k.i[d] + n, 3)) for n in (1, 2))
    return a[one] * b[two] - a[two] * b[one]


def _cross_text(a: Any, b: Any, dim: int | None) -> str:
    return f"torch.linalg.cross({a}, {b}, dim={_three(broadcast(a.shape, b.shape), dim)})"


register(Op(
    "cross(Tensor input, Tensor other, int? dim=None)", _FAMILY,
    # backward: the derived one rolls both sides twice.
    backward=lambda c, a, b, dim: c.total(_cross_text(b, c.grad, dim), a, c.y.shape)
        if c.wrt == "input" else c.total(_cross_text(c.grad, a, dim), b, c.y.shape),
    shape=_cross_shape, element=_cross,
    written=lambda c, *args: _cross_text(*args),
    torch=lambda torch, a, b, dim: torch.cross(
        a, b, dim=_three(torch.broadcast_shapes(a.shape, b.shape), dim)),
    samples=("cross(x[3], y[3], dim=0)", "cross(x[2,3], y[2,3])", "cross(x[3,2], y[3,1], dim=0)"),
))
register(Op(
    "cross(Tensor input, Tensor other, *, int dim=-1)", _FAMILY, homes="linalg",
    expand=lambda b, x, y, dim: b.call("cross", x, y, dim), samples=("linalg.cross(x[2,3], y[1,3])",),
))


# -- attention and distances -----------------------------------------------------------------------


_CAUSAL = register(Op(
    "causal_mask(Tensor input)", _FAMILY, (), homes="", moves=True, shape=lambda x: x,
    element=lambda k, x: k.choose(k.i[-1] <= k.i[-2], x[k.i], -k.S.oo),
    torch=lambda torch, x: x.masked_fill(torch.ones_like(x).triu(1).bool(), float("-inf")),
    written=lambda c, x: f"{x}.masked_fill(torch.ones_like({x}, dtype=torch.bool).triu(1), -math.inf)",
))


def _attention(b: Any, q: Any, key: Any, value: Any, mask: Any, dropout: float, causal: bool,
               scale: float | None, gqa: bool) -> Any:
    """``softmax(q·keyᵀ·scale + mask)·value``.

    Source: the reference implementation in the documentation of ``scaled_dot_product_attention``.
    """
    expect(not dropout, "attention with dropout is random", remedy="leave dropout_p at 0")
    shapes = [b.shape(x) for x in (q, key, value)]
    expect(all(len(s) >= 2 for s in shapes) and shapes[0][-1] == shapes[1][-1],
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
        expect(mask is None, "attention takes attn_mask or is_causal, not both")
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
