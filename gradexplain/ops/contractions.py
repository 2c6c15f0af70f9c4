"""Contractions: products summed over an index that two tensors share."""

from __future__ import annotations

from typing import Any

from gradexplain.errors import InputError
from gradexplain.ops.base import Op, Shape, broadcast, register, show_shape

_FAMILY = "contraction"


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
    return k.sum(a[(*left, *row, p)] * b[(*right, p, *column)], p)


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
    shape=_matmul_shape, element=_matmul, aliases=("torch.linalg.matmul",),
    samples=("x[2,3] @ w[3,2]", "x[3] @ w[3]", "matmul(x[2,3], w[3])", "x[3] @ w[3,2]",
             "x[2,1,2,3] @ w[2,3,2]", "torch.matmul(x[2,3], w[2,3].T)"),
))
register(Op(
    "mm(Tensor input, Tensor mat2)", _FAMILY,
    shape=_ranks("mm", 2, 2), element=_matmul, samples=("mm(x[2,3], w[3,2])",),
))
register(Op(
    "mv(Tensor input, Tensor vec)", _FAMILY,
    shape=_ranks("mv", 2, 1), element=_matmul, samples=("mv(x[2,3], w[3])",),
))
register(Op(
    "dot(Tensor input, Tensor tensor)", _FAMILY,
    shape=_ranks("dot", 1, 1), element=_matmul, samples=("dot(x[3], w[3])",),
))
