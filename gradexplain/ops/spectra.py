"""Eigenvalues of symmetric matrices, and singular values."""
# fmt: off

from __future__ import annotations

from typing import Any

import numpy as np

from gradexplain import arithmetic
from gradexplain.ops.base import Op, Shape, expect, no_slope, register
from gradexplain.ops.linalg import as_float, each_matrix, sizes_of, square, ties

_FAMILY = "linear algebra"
_EQUAL = "where two of the values are equal there is no derivative"


def _eigen(exact: bool, a: Any, upper: bool) -> tuple[Any, Any, Any]:
    """The eigenvalues in order, and the eigenvectors twice; only one triangle is read, as by PyTorch."""
    if not exact:
        values, vectors = np.linalg.eigh(a, "U" if upper else "L")
        return values, vectors, vectors
    own = a.copy()
    for i in range(a.rows):
        for j in range(i):
            own[i, j] = own[j, i] = a[j, i] if upper else a[i, j]
    values, vectors = arithmetic.mp.eigsy(own)
    return values, vectors, vectors


def _singular(exact: bool, a: Any, _: bool) -> tuple[Any, Any, Any]:
    """The singular values, the largest first, with the vectors of both sides as columns."""
    u, s, v = arithmetic.mp.svd_r(a) if exact else np.linalg.svd(a, full_matrices=False)
    return s, u, v.T


def _values(parts: Any, exact: bool, x: Any, upper: bool) -> Any:
    found = each_matrix(lambda a: np.array(parts(exact, a, upper)[0].T.tolist()).ravel(), exact, x[0])
    return found, _norm(x)[..., None] * (1 + 0 * np.abs(as_float(found)))


def _norm(x: Any) -> Any:
    """Above the largest change that rounding the elements makes to any of the values."""
    count = max(x[0].shape[-2:])
    return count * np.sqrt(((sizes_of(x) + np.abs(as_float(x[0]))) ** 2).sum(axis=(-2, -1)))


def _products(parts: Any, exact: bool, x: Any, upper: bool) -> Any:
    """``u[j]·w[l]`` for the vectors of each value; neither's sign matters."""
    def each(a: Any) -> Any:
        _, u, w = (np.array(part.tolist(), dtype=object if exact else float) for part in parts(exact, a, upper))
        return np.einsum("jk,lk->kjl", u, w)

    found = each_matrix(each, exact, x[0])
    values = as_float(_values(parts, exact, x, upper)[0])
    return found, np.abs(as_float(found)) + (_norm(x)[..., None] / _gap(parts, values))[..., None, None]


def _gap(parts: Any, values: Any) -> Any:
    """How far each value is from the next; a singular value from that of the other sign too."""
    apart = np.abs(values[..., :, None] - values[..., None, :])
    apart[..., np.eye(values.shape[-1], dtype=bool)] = np.inf
    gap = apart.min(axis=-1, initial=np.inf)
    return np.minimum(gap, 2 * values) if parts is _singular else gap


def _record(schema: str, parts: Any, label: str, said: str, shape: Any, back: Any, **fields: Any) -> None:
    """Values whose derivative by the matrix is the product of their two vectors.

    Source: for both, M. Giles, "An extended collection of matrix derivative results", 2008.
    """
    name = schema.partition("(")[0]
    products = register(Op(
        f"vectors_of_{name}(Tensor x, bool upper)", _FAMILY, (), homes="", stops=True, jacobian=no_slope,
        shape=lambda x, upper: (*shape(x), *x[-2:]), torch=lambda torch, x, upper: x,
        value=lambda exact, x, upper: _products(parts, exact, x, upper),
        show=lambda x, upper: said.format(x),
    ))
    register(Op(
        schema, _FAMILY, homes="linalg", shape=lambda x, *_: shape(x),
        value=lambda exact, x, *rest: _values(parts, exact, x, rest[0] == "U"),
        jacobian=lambda k, x, *rest: ties(k, k.i[:-1], k.j[:-2], x.shape[:-2]) * rest[-1][[*k.i, *k.j[-2:]]],
        aux=lambda b, x, *rest: (b.helper(products, x, rest[:1] == ("U",), label=label),),
        # backward: a decomposition has no formula of elements.
        backward=back, kink=_EQUAL,
        singular_at=lambda y, x, *_: _gap(parts, y) <= 1e-12 * (1 + _norm((x, None)))[..., None], **fields,
    ))


def _eigen_back(c: Any, x: Any, side: str, _: Any) -> str:
    vectors = c.let("vectors", f"torch.linalg.eigh({x}, {side!r})[1]")
    return f"({vectors} * {c.grad}.unsqueeze(-2)) @ {vectors}.mT"


def _singular_back(c: Any, x: Any, _: Any) -> str:
    u, v = (c.let(name, f"torch.linalg.svd({x}, full_matrices=False)[{n}]") for name, n in (("u", 0), ("vh", 2)))
    return f"({u} * {c.grad}.unsqueeze(-2)) @ {v}"


def _per_row(x: Shape) -> Shape:
    expect(len(x) >= 2, "svdvals takes matrices, found shape {}", x, remedy="give it two dimensions")
    return (*x[:-2], min(x[-2:]))


_record(
    "eigvalsh(Tensor A, str UPLO='L', Aux P)", _eigen, "P", "q·qᵀ for the eigenvector q of {} to each eigenvalue",
    lambda x: square("eigvalsh")(x)[:-1],
    _eigen_back,
    remark="only one triangle of the matrix is read; the gradient is that of a symmetric matrix, "
           "spread evenly over both triangles, as PyTorch's",
    samples=("linalg.eigvalsh(x[2,2] + x.T)", "linalg.eigvalsh(x[2,2,2].sin() @ x.sin().mT, 'U')"),
)
_record(
    "svdvals(Tensor A, Aux W)", _singular, "W", "u·wᵀ for the singular vectors u, w of {} to each singular value", _per_row,
    _singular_back,
    samples=("linalg.svdvals(x[2,3])", "linalg.svdvals(x[2,3,2].sin())"),
)
