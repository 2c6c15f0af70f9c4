"""Linear algebra on matrices and batches of them.

An element formula would be hopeless here: a record gives the derivative in terms of its result
(``∂Y[i,k]/∂X[j,l] = −Y[i,j]·Y[l,k]`` for the inverse) and computes values with a kernel, in float64
or, for small matrices, with digits to spare.  Source of the derivatives: M. B. Giles, "Collected
matrix derivative results for forward and reverse mode algorithmic differentiation", 2008.
"""
# fmt: off

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from gradexplain import arithmetic
from gradexplain.errors import InputError
from gradexplain.ops.base import Op, Shape, broadcast, expect, register, show_shape
from gradexplain.ops.reductions import products_of_others

_FAMILY = "linear algebra"


def square(name: str) -> Callable[..., Shape]:
    def shape(x: Shape, *_: Any) -> Shape:
        expect(len(x) >= 2 and x[-1] == x[-2], f"{name} takes square matrices, found shape {{}}", x,
               remedy="the last two sizes must be equal")
        return x

    return shape


def ties(k: Any, out: Sequence[Any], there: Sequence[Any], shape: Shape) -> Any:
    """Deltas on the batch dims, where a size of 1 is broadcast."""
    out = out[len(out) - len(there):]
    ties = k.S.S.One
    for i, j, n in zip(out, there, shape, strict=True):
        if n != 1:
            ties *= k.delta(i, j)
    return ties


# -- kernels ---------------------------------------------------------------------------------------


def sizes_of(pair: Any) -> Any:
    return np.abs(np.asarray(pair[0], dtype=np.float64)) if pair[1] is None else pair[1]


def each_matrix(function: Callable[..., Any], exact: bool, *arrays: Any) -> Any:
    """``function`` of every matrix of a batch; the batches of several arguments are broadcast.

    The function gets arrays of floats, or mpmath matrices, and returns an array of either.
    """
    batch = broadcast(*(array.shape[:-2] for array in arrays))
    wide = [np.broadcast_to(a, batch + a.shape[-2:]) for a in arrays]
    found = []
    for place in np.ndindex(*batch):
        parts = [a[place] for a in wide]
        if exact:
            parts = [arithmetic.mp.matrix(p.tolist()) if p.size else arithmetic.mp.matrix(*p.shape) for p in parts]
        try:
            result = function(*parts)
        except (np.linalg.LinAlgError, RuntimeError) as error:  # mpmath raises the latter
            raise InputError(
                f"a matrix with inf, nan or numbers far apart cannot be decomposed: {error}",
                remedy="give other values",
            ) from None
        if exact:
            plain = hasattr(result, "tolist") and not isinstance(result, np.ndarray)
            rows = result.tolist() if plain else result
            shape = (result.rows, result.cols) if plain else np.shape(rows)
            array = np.empty(shape, dtype=object)
            for at in np.ndindex(*shape):
                value: Any = rows
                for n in at:
                    value = value[n]
                array[at] = arithmetic.mp.mpf(value)
            result = array
        found.append(result)
    if not found:
        sample = np.asarray(function(*(np.zeros(a.shape[-2:]) for a in arrays)) if not exact
            else 0.0)
        return np.zeros(batch + sample.shape)
    stacked = np.empty((len(found), *found[0].shape), dtype=object if exact else np.float64)
    for n, part in enumerate(found):
        stacked[n] = part if part.ndim else part[()]
    return stacked.reshape(batch + found[0].shape)


def as_float(array: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.asarray(array, dtype=np.float64)


def inverse_matrix(name: str, exact: bool, array: Any) -> Any:
    def invert(a: Any) -> Any:
        try:  # mpmath raises TypeError where no pivot is left in a column
            return arithmetic.mp.inverse(a) if exact else np.linalg.inv(a)
        except (ZeroDivisionError, TypeError, np.linalg.LinAlgError):
            raise InputError(
                f"{name}: the matrix is singular: it has no inverse",
                remedy="pinv has a value there",
            ) from None

    if array.shape[-1] == 0:
        return array
    return each_matrix(invert, exact, array)


def _inverse_value(exact: bool, x: Any) -> Any:
    y = inverse_matrix("inverse", exact, x[0])
    return y, inverse_size(y, x)


def inverse_size(y: Any, x: Any) -> Any:
    size = np.abs(as_float(y))
    return size @ (sizes_of(x) + np.abs(as_float(x[0]))) @ size + size


def _mp_det(a: Any) -> Any:
    """mpmath's determinant, which raises TypeError where no pivot is left in a column."""
    try:
        return arithmetic.mp.det(a)
    except TypeError:
        return arithmetic.mp.nan if any(arithmetic.mp.isnan(value) for value in a) else arithmetic.mp.zero


def _cofactors(exact: bool, array: Any) -> Any:
    """``det(X)·X⁻ᵀ``, which has a value for singular matrices too."""
    def by_svd(a: Any) -> Any:
        u, s, vt = np.linalg.svd(a)
        others = np.array([np.prod(np.delete(s, n)) for n in range(len(s))])
        return np.linalg.det(u) * np.linalg.det(vt) * (u * others) @ vt

    def by_minors(a: Any) -> Any:
        n = a.rows
        if n > 4:
            d = _mp_det(a)
            if abs(d) > arithmetic.mp.mpf(10) ** -25 * arithmetic.mp.mnorm(a, 1) ** n:
                return d * arithmetic.mp.inverse(a).T
            return np.vectorize(arithmetic.mp.mpf, otypes=[object])(by_svd(np.array(a.tolist(), dtype=float)))
        result = arithmetic.mp.matrix(n, n)
        for i in range(n):
            for j in range(n):
                minor = arithmetic.mp.matrix(n - 1, n - 1)
                for r in range(n - 1):
                    for c in range(n - 1):
                        minor[r, c] = a[r + (r >= i), c + (c >= j)]
                result[i, j] = (-1) ** (i + j) * (_mp_det(minor) if n > 1 else arithmetic.mp.one)
        return result

    if array.shape[-1] == 0:
        return array
    return each_matrix(by_minors if exact else by_svd, exact, array)


def _cofactors_value(exact: bool, x: Any) -> Any:
    y = _cofactors(exact, x[0])
    n = x[0].shape[-1]
    width = np.max(sizes_of(x) + np.abs(as_float(x[0])), axis=(-2, -1), keepdims=True, initial=0.0)
    return y, np.abs(as_float(y)) * n + (n * width) ** max(n - 1, 0)


def _det_value(exact: bool, x: Any) -> Any:
    y = each_matrix(_mp_det if exact else np.linalg.det, exact, x[0]) if x[0].shape[-1] else (
        as_float(np.linalg.det(as_float(x[0]))))
    slope = np.abs(as_float(_cofactors(exact, x[0])))
    return y, np.abs(as_float(y)) + np.sum(slope * (sizes_of(x) + np.abs(as_float(x[0]))), axis=(-2, -1))


def _log_value(absolute: bool) -> Any:
    def value(exact: bool, x: Any) -> Any:
        d, size = _det_value(exact, x)

        def log(a: Any) -> Any:
            a = abs(a) if absolute else a
            return -arithmetic.mp.inf if a == 0 else arithmetic.mp.nan if a < 0 else arithmetic.mp.log(a)

        floats = np.abs(as_float(d))
        y = np.frompyfunc(log, 1, 1)(d) if exact else np.log(np.abs(d) if absolute else d)
        return np.asarray(y), np.abs(as_float(y)) + size / floats

    return value


# -- inverse and determinant -----------------------------------------------------------------------


_SINGULAR = "the determinant of a singular matrix has a gradient, the cofactors, which PyTorch's " \
    "backward returns as 0"


def _inverse_slope(k: Any, x: Any, *_: Any) -> Any:
    *batch, i, c = k.i
    *there, j, m = k.j
    return -ties(k, batch, there, x.shape[:-2]) * k.out[[*batch, i, j]] * k.out[[*batch, m, c]]


INVERSE = register(Op(
    "inverse(Tensor input)", _FAMILY, shape=square("inverse"), jacobian=_inverse_slope,
    value=_inverse_value, aliases=("linalg.inv",),
    show=lambda x: f"inverse({x})",
    samples=("inverse(x[2,2])", "linalg.inv(x[2,2,2]**2)", "x[3,3].sqrt().inverse()"),
))


def _cofactors_slope(k: Any, x: Any, *_: Any) -> Any:
    """By Jacobi's identity for the minors of two rows and columns; ``det`` is Σ x[0,p]·C[0,p]."""
    *batch, i, j = k.i
    *there, m, n = k.j
    p = k.bound(x.shape[-1])
    det = k.sum(x[[*batch, 0, p]] * k.out[[*batch, 0, p]], p)
    pairs = k.out[[*batch, i, j]] * k.out[[*there, m, n]]
    crossed = k.out[[*batch, i, n]] * k.out[[*batch, m, j]]
    return ties(k, batch, there, x.shape[:-2]) * (pairs - crossed) / det


_COFACTORS = register(Op(
    "cofactors(Tensor x)", _FAMILY, (), homes="", shape=square("det"), stops=True,
        jacobian=_cofactors_slope,
    value=_cofactors_value, torch=lambda torch, x: torch.linalg.det(x),
))


def _per_matrix(k: Any, x: Any, slope: Any, *, turned: bool) -> Any:
    """``∂y/∂X[j,l] = slope[j,l]`` (``slope[l,j]`` if turned), the same for each of a batch."""
    *there, j, m = k.j
    at = (*there, m, j) if turned else (*there, j, m)
    return ties(k, k.i, there, x.shape[:-2]) * slope[at]


def _det_back(c: Any, x: Any) -> str:
    """The cofactors from the singular values, each the product of the others: also where the
    matrix is singular."""
    u, s, v = (c.operand(c.let(n, f"torch.linalg.svd({x})[{k}]"), x.shape) for k, n in
               enumerate(("u", "s", "vh")))
    others = products_of_others(c, c.operand(s, x.shape[:-1]), x.rank - 2)
    sign = c.let("sign", f"torch.linalg.det({u}) * torch.linalg.det({v})")
    scale = c.let("scale", f"(({c.grad} * {sign}).unsqueeze(-1) * {others}).unsqueeze(-2)")
    return f"({u} * {scale}) @ {v}"


register(Op(
    "det(Tensor input, Aux C)", _FAMILY, homes="torch Tensor linalg",
    shape=lambda x, *_: square("det")(x)[:-2],
    jacobian=lambda k, x, c: _per_matrix(k, x, c, turned=False),
    value=lambda exact, x, c: _det_value(exact, x),
    aux=lambda b, x: (b.helper(_COFACTORS, x, label="C"),),
    # backward: cofactors that are right at a singular matrix too, by an SVD.
    backward=lambda c, x, _: _det_back(c, x),
    kink=_SINGULAR,
    singular_at=lambda y, x,
        c: abs(y) <= 1e-12 * (1 + abs(x).max(axis=(-2, -1), initial=0) ** x.shape[-1]),
    samples=("det(x[2,2])", "linalg.det(x[2,3,3].sqrt())", "(x[3,3]**2).det()"),
))


def _log_of_det(name: str, absolute: bool, torch: Any, homes: str, samples: tuple[str, ...]) -> Op:
    return register(Op(
        f"{name}(Tensor input, Aux M)", _FAMILY, samples, homes=homes,
        shape=lambda x, *_: square(name)(x)[:-2],
        jacobian=lambda k, x, m: _per_matrix(k, x, m, turned=True),
        value=lambda exact, x, m: _log_value(absolute)(exact, x),
        aux=lambda b, x: (b.helper(INVERSE, x, label="M"),), torch=torch,
        kink="" if absolute else "there is no logarithm of a determinant below 0, and PyTorch takes 0",
        singular_at=None if absolute else lambda y, *_: np.isnan(y),
        written=(lambda c, x, _: f"torch.linalg.slogdet({x}).logabsdet") if absolute else None,
    ))


_log_of_det("logdet", False, lambda torch, x, m: torch.logdet(x), "torch Tensor",
            ("logdet(x[2,2].T @ x)", "logdet(x[2,3,3].sin() + 2*eye(3))"))
_LOGABSDET = _log_of_det("logabsdet", True, lambda torch, x, m: torch.linalg.slogdet(x)[1], "", ())


def _slogdet(b: Any, x: Any) -> Any:
    sign = b.call("sign", b.call("det", x))
    return b.results(("sign", "logabsdet"), sign, b.apply(_LOGABSDET, x))


register(Op(
    "slogdet(Tensor input)", _FAMILY, homes="torch Tensor linalg", expand=_slogdet,
    samples=("slogdet(x[2,2]).logabsdet", "linalg.slogdet(x[2,3,3].sqrt())[1]"),
))


# -- solutions -------------------------------------------------------------------------------------


def _is_vector(a: Shape, b: Shape) -> bool:
    return len(b) == 1 or (len(a) - 1 == len(b) and tuple(b) == tuple(a[:-1]))


def _solve_shape(a: Shape, b: Shape, left: bool, *_: Any) -> Shape:
    square("solve")(a)
    vector = _is_vector(a, b)
    full = (*b, 1) if vector else b
    rows = full[-2] if left else full[-1]
    if len(full) < 2 or rows != a[-1] or (vector and not left):
        raise InputError(f"solve: the shapes {show_shape(a)} and {show_shape(b)} do not fit")
    shape = broadcast(a[:-2], full[:-2]) + full[-2:]
    return shape[:-1] if vector else shape


def _solve_slope(k: Any, a: Any, b: Any, left: bool, m: Any) -> Any:
    vector = _is_vector(a.shape, b.shape)
    zero = k.S.S.Zero
    *batch, i, c = (*k.i, zero) if vector else k.i
    own = a if k.wrt == "A" else b
    *there, j, n = (*k.j, zero) if vector and k.wrt == "B" else k.j
    sizes = own.shape[: len(there)]
    same = ties(k, batch, there, sizes)

    def inverse(p: Any, q: Any) -> Any:
        return m.broadcast((*batch, p, q))

    def result(p: Any, q: Any) -> Any:
        return k.out[[*batch, p]] if vector else k.out[[*batch, p, q]]

    if k.wrt == "A":
        return -same * (inverse(i, j) * result(n, c) if left else result(i, j) * inverse(n, c))
    if left:
        return same * inverse(i, j) * (1 if vector else k.delta(c, n))
    return same * k.delta(i, j) * inverse(n, c)


def _solve_value(exact: bool, a: Any, b: Any, left: bool, m: Any) -> Any:
    vector = _is_vector(a[0].shape, b[0].shape)
    inverse = inverse_matrix("solve", exact, a[0])
    right = b[0][..., None] if vector else b[0]
    spread = sizes_of(b)[..., None] if vector else sizes_of(b)
    y = inverse @ right if left else right @ inverse
    wide, size = np.abs(as_float(inverse)), np.abs(as_float(y))
    of_a = sizes_of(a) + np.abs(as_float(a[0]))
    bound = wide @ (of_a @ size + spread) if left else (size @ of_a + spread) @ wide
    bound = bound + size
    return (y[..., 0], bound[..., 0]) if vector else (y, bound)


register(Op(
    "solve(Tensor A, Tensor B, *, bool left=True, Aux M)", _FAMILY, homes="linalg",
    shape=_solve_shape, jacobian=_solve_slope, value=_solve_value,
    aux=lambda b, x, y, left: (b.helper(INVERSE, x, label="M"),),
    samples=("linalg.solve(x[2,2], y[2])", "linalg.solve(x[2,2]**2, y[2,3])",
             "linalg.solve(x[2,2,2]**2, y[1,2,2], left=False)"),
))


def _triangular(b: Any, a: Any, right: Any, upper: bool, left: bool, unit: bool) -> Any:
    n = square("solve_triangular")(b.shape(a))[-1]
    side = 1 if upper else -1
    part = b.call("triu" if upper else "tril", a, side if unit else 0)
    return b.call("solve", b.call("add", part, b.call("eye", n)) if unit else part, right,
        left=left)


register(Op(
    "solve_triangular(Tensor A, Tensor B, *, bool upper, bool left=True, bool unitriangular=False)",
    _FAMILY, homes="linalg", expand=_triangular,
    samples=("linalg.solve_triangular(x[2,2], y[2,2], upper=False)",
             "linalg.solve_triangular(x[2,2], y[2,2], upper=True, unitriangular=True)"),
))


# -- pseudo-inverse --------------------------------------------------------------------------------


def _pinv_shape(x: Shape, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Shape:
    if hermitian:
        square("pinv with hermitian=True")(x)
    expect(len(x) >= 2, "pinv takes matrices, found shape {}", x)
    return (*x[:-2], x[-1], x[-2])


def _pinv_slope(k: Any, x: Any, *_: Any) -> Any:
    *batch, i, c = k.i
    *there, j, m = k.j
    rows, columns = x.shape[-2:]

    def y(p: Any, q: Any) -> Any:
        return k.out[[*batch, p, q]]

    p, q, r, s = k.bound(rows), k.bound(columns), k.bound(rows), k.bound(columns)
    slope = -y(i, j) * y(m, c)
    slope += k.sum(y(i, p) * y(m, p), p) * (k.delta(j, c) - k.sum(x[[*batch, j, q]] * y(q, c), q))
    slope += (k.delta(i, m) - k.sum(y(i, r) * x[[*batch, r, m]], r)) * k.sum(y(s, j) * y(s, c), s)
    return ties(k, batch, there, x.shape[:-2]) * slope


def _pinv_value(exact: bool, x: Any, atol: float | None, rtol: float | None,
                hermitian: bool = False) -> Any:
    rows, columns = x[0].shape[-2:]
    if hermitian:  # only the lower triangle is read
        lower = np.tri(rows, dtype=bool)
        x = tuple(a if a is None else np.where(lower, a, np.swapaxes(a, -1, -2)) for a in x)

    def limit(s: Any) -> float:
        largest = float(s[0]) if len(s) else 0.0
        relative = rtol if rtol is not None else 0.0 if atol else max(rows, columns) * 2.0**-52
        return max(atol or 0.0, relative * largest)

    def by_svd(a: Any) -> Any:
        u, s, vt = np.linalg.svd(a, full_matrices=False)
        keep = s > limit(s)
        return (vt[keep].T / s[keep]) @ u[:, keep].T

    def by_normal(a: Any) -> Any:
        floats = np.array(a.tolist(), dtype=float)
        s = np.linalg.svd(floats, compute_uv=False)
        rank = int((s > limit(s)).sum())
        if rank == a.cols:
            return arithmetic.mp.inverse(a.T * a) * a.T
        if rank == a.rows:
            return a.T * arithmetic.mp.inverse(a * a.T)
        return np.vectorize(arithmetic.mp.mpf, otypes=[object])(by_svd(floats))

    if x[0].size == 0:
        empty = np.zeros(_pinv_shape(x[0].shape))
        return empty, empty
    y = each_matrix(by_normal if exact else by_svd, exact, x[0])
    size = np.abs(as_float(y))
    grown = size @ (sizes_of(x) + np.abs(as_float(x[0]))) @ size
    # PyTorch's singular values and vectors are right to rounding of the largest, not of each.
    return y, grown * max(rows, columns) + size.max(axis=(-2, -1), keepdims=True)


register(Op(
    "pinv(Tensor A, *, float? atol=None, float? rtol=None, bool hermitian=False)", _FAMILY,
    homes="linalg", shape=_pinv_shape, jacobian=_pinv_slope, value=_pinv_value,
    samples=("linalg.pinv(x[2,3])", "linalg.pinv(x[3,2].sin())",
             "linalg.pinv(x[2,3] @ x.T, hermitian=True)"),
))
register(Op(
    "pinv(Tensor A, float rcond, bool hermitian=False)", _FAMILY, homes="linalg",
    expand=lambda b, x, rcond, hermitian: b.call("pinv", x, rtol=rcond, hermitian=hermitian),
    samples=("linalg.pinv(x[2,3], 1e-15)",),
))
register(Op(
    "pinverse(Tensor input, float rcond=1e-15)", _FAMILY,
    expand=lambda b, x, rcond: b.call("pinv", x, rtol=rcond), samples=("pinverse(x[2,3])",),
))


# -- tensors as matrices ---------------------------------------------------------------------------


def _tensorinv(b: Any, x: Any, ind: int) -> Any:
    shape = b.shape(x)
    rows, columns = shape[:ind], shape[ind:]
    expect(ind >= 1 and prod(rows) == prod(columns), "tensorinv: {} and {} differ in size", rows, columns)
    return b.call("reshape", b.call("inverse", b.call("reshape", x, (prod(rows), -1))),
        columns + rows)


register(Op(
    "tensorinv(Tensor A, int ind=2)", _FAMILY, homes="linalg", expand=_tensorinv,
    samples=("linalg.tensorinv(x[2,2].reshape(2, 2), ind=1)",),
))
