"""Factors of matrices, their powers and their exponential."""
# fmt: off

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradexplain import arithmetic
from gradexplain.errors import InputError
from gradexplain.ops.base import Op, expect, no_slope, register
from gradexplain.ops.linalg import (
    as_float,
    each_matrix,
    inverse_matrix,
    inverse_size,
    sizes_of,
    square,
    ties,
)

_FAMILY = "linear algebra"


def _factor(exact: bool, array: Any, upper: bool) -> Any:
    def factor(a: Any) -> Any:
        try:
            if exact:
                # only one triangle is read, as PyTorch does
                n = a.rows
                own = arithmetic.mp.matrix(n, n)
                for i in range(n):
                    for j in range(n):
                        r, c = (min(i, j), max(i, j)) if upper else (max(i, j), min(i, j))
                        own[i, j] = a[r, c]
                return arithmetic.mp.cholesky(own)
            return np.linalg.cholesky(a.T if upper else a)
        except (ValueError, np.linalg.LinAlgError):
            raise InputError(
                "cholesky: the matrix is not positive definite",
                remedy="for example x @ x.T + eye(n) is, for any x",
            ) from None

    return each_matrix(factor, exact, array) if array.shape[-1] else array


def _cholesky_value(exact: bool, x: Any, upper: bool, m: Any) -> Any:
    y = _factor(exact, x[0], upper)
    size, other = np.abs(as_float(y)), np.abs(as_float(inverse_matrix("cholesky", exact, y)))
    grown = size @ (other @ (sizes_of(x) + np.abs(as_float(x[0]))) @ np.swapaxes(other, -1, -2)) + size
    return (np.swapaxes(y, -1, -2), np.swapaxes(grown, -1, -2)) if upper else (y, grown)


def _inverse_factor(exact: bool, x: Any, upper: bool) -> Any:
    y = _factor(exact, x[0], upper)
    inverse = inverse_matrix("cholesky", exact, y)
    return inverse, inverse_size(inverse, (y, None))


def _inverse_factor_slope(k: Any, x: Any, upper: bool) -> Any:
    """``dM = −Φ(M·dX·Mᵀ)·M`` for ``M = L⁻¹``; ``Φ`` keeps the lower triangle and half of the diagonal.

    Source: as for the factor itself, with ``dM = −M·dL·M``.
    """
    *batch, i, c = k.i
    *there, j, n = k.j
    p = k.bound(x.shape[-1])

    def m(a: Any, b: Any) -> Any:
        return k.out[[*batch, a, b]]

    def half(q: Any) -> Any:
        return (m(i, j) * m(q, n) + m(i, n) * m(q, j)) / 2 * m(q, c)

    before = k.sum(k.bracket(p <= i - 1) * half(p), p)
    return -ties(k, batch, there, x.shape[:-2]) * (before + half(i) / 2)


_FACTOR_INVERSE = register(Op(
    "inverse_of_cholesky(Tensor x, bool upper)", _FAMILY, (), homes="", shape=square("cholesky"),
    stops=True, jacobian=_inverse_factor_slope, value=_inverse_factor, torch=lambda torch, x, upper: x,
    show=lambda x, upper: f"inverse(cholesky({x}))",
))


def _cholesky_slope(k: Any, x: Any, upper: bool, m: Any) -> Any:
    *batch, i, c = k.i
    *there, j, n = k.j
    if upper:
        i, c = c, i
    p = k.bound(x.shape[-1])

    def factor(a: Any, b: Any) -> Any:
        return k.out[[*batch, b, a]] if upper else k.out[[*batch, a, b]]

    def inverse(a: Any, b: Any) -> Any:
        return m[[*batch, a, b]]

    def half(a: Any, b: Any) -> Any:
        later = k.sum(k.bracket(p >= c + 1) * factor(i, p) * inverse(p, a), p)
        return (later + factor(i, c) * inverse(c, a) / 2) * inverse(c, b)

    return ties(k, batch, there, x.shape[:-2]) * (half(j, n) + half(n, j)) / 2


def _cholesky_back(c: Any, x: Any, upper: bool, _: Any) -> str:
    """``L⁻ᵀ·Φ(Lᵀ·v)·L⁻¹``, symmetric; ``Φ`` keeps the lower triangle and half of the diagonal.

    Source: I. Murray, "Differentiation of the Cholesky decomposition", 2016.
    """
    factor = c.let("factor", f"{c.y}.mT" if upper else str(c.y))
    grad = f"{c.grad}.mT" if upper else c.grad
    product = c.let("product", f"({factor}.mT @ {grad}).tril()")
    diagonal = f"torch.diag_embed({product}.diagonal(dim1=-2, dim2=-1))"
    half = c.let("half", f"{product} - 0.5 * {diagonal}")
    inner = c.let("inner", f"torch.linalg.solve_triangular({factor}.mT, {half}, upper=True)")
    whole = c.let(
        "whole", f"torch.linalg.solve_triangular({factor}, {inner}, upper=False, left=False)")
    return f"0.5 * ({whole} + {whole}.mT)"


register(Op(
    "cholesky(Tensor input, bool upper=False, Aux M)", _FAMILY, homes="torch Tensor",
    shape=square("cholesky"), jacobian=_cholesky_slope, value=_cholesky_value,
    written=lambda c, x, upper, _: f"torch.linalg.cholesky({x}{', upper=True' if upper else ''})",
    # backward: a factorisation has no formula of elements.
    backward=_cholesky_back,
    aux=lambda b, x, upper: (b.helper(_FACTOR_INVERSE, x, upper, label="M"),),
    aliases=("linalg.cholesky",),
    remark="only one triangle of the matrix is read; the gradient is that of a symmetric matrix, "
           "spread evenly over both triangles, as PyTorch's",
    torch=lambda torch, x, upper, m: torch.linalg.cholesky(x, upper=upper),
    samples=("linalg.cholesky(x[2,2] @ x.T + eye(2))",
        "torch.cholesky(x[2,2] @ x.T + eye(2), upper=True)",
             "linalg.cholesky(x[2,3,3].sin() @ x.sin().mT + 2*eye(3))"),
))


def _power(b: Any, x: Any, n: int) -> Any:
    size = square("matrix_power")(b.shape(x))[-1]
    expect(abs(n) <= 1000, f"matrix_power: the exponent {n} is too large", remedy="use up to 1000")
    if n == 0:
        return b.call("broadcast_to", b.call("eye", size), b.shape(x))
    base = x if n > 0 else b.call("inverse", x)
    left, result = abs(n), None
    while left:
        if left % 2:
            result = base if result is None else b.call("matmul", result, base)
        left //= 2
        if left:
            base = b.call("matmul", base, base)
    return b.call("clone", x) if n == 1 else result


register(Op(
    "matrix_power(Tensor input, int n)", _FAMILY, homes="torch Tensor linalg", expand=_power,
    samples=("matrix_power(x[2,2], 3)", "linalg.matrix_power(x[2,2], -2)"),
))


def _exponential(exact: bool, array: Any) -> tuple[Any, Any]:
    """``exp(X)`` and its derivative, by Taylor's series of ``X/2^s`` and s squarings."""
    n = array.shape[-1]
    norm = max((float(np.abs(as_float(array)).sum(axis=-1).max()), 0.0)) if array.size else 0.0
    if not math.isfinite(norm) or norm > 1000:
        raise InputError("matrix_exp: the matrix is too large: its exponential overflows")
    halvings = max(0, math.ceil(math.log2(norm)) + 3) if norm > 0 else 0
    one = arithmetic.mp.one if exact else 1.0
    x = array / (one * 2**halvings)
    unit = np.zeros(array.shape, dtype=array.dtype) + np.where(np.eye(n) == 1, one, 0 * one)
    first = "...ij,...lk->...ikjl"

    def outer(a: Any, b: Any) -> Any:
        return np.einsum(first, a, b)

    def after(a: Any, f: Any) -> Any:
        flat = f.reshape(*f.shape[:-3], n**3)
        return (a @ flat).reshape(f.shape)

    def before(f: Any, a: Any) -> Any:
        turned = np.moveaxis(f, -3, -1)  # i j l p
        batch = a.reshape(*a.shape[:-2], 1, 1, n, n) if a.ndim > 2 else a
        return np.moveaxis(turned @ batch, -1, -3)

    power, term, slope = unit, unit, outer(unit, unit) * 0
    total, slopes = unit, slope
    for m in range(1, 45 if exact else 22):
        # T(m+1) = X·T(m) + 1 ⊗ X^m, where T(m) is the derivative of X^m
        slope = (after(x, slope) + outer(unit, power)) / m
        power = power @ x / m
        term = power
        total, slopes = total + term, slopes + slope
        # power holds X^m/m!, as slope does
    for _ in range(halvings):
        slopes = after(total, slopes) + before(slopes, total)
        total = total @ total
    return total, slopes / (one * 2**halvings)


def _exp_value(exact: bool, x: Any, d: Any) -> Any:
    y, slopes = _exponential(exact, x[0])
    grown = np.einsum("...ikjl,...jl->...ik", np.abs(as_float(slopes)),
        sizes_of(x) + np.abs(as_float(x[0])))
    return y, grown * (1 + x[0].shape[-1]) + np.abs(as_float(y))


def _exp_slopes(exact: bool, x: Any) -> Any:
    _, slopes = _exponential(exact, x[0])
    width = np.abs(as_float(slopes))
    norm = np.abs(as_float(x[0])).sum(axis=-1).max(initial=0.0)
    return slopes, width * (4 + 4 * norm) + width.max(initial=0.0)


_EXP_SLOPES = register(Op(
    "slopes_of_exp(Tensor x)", _FAMILY, (), homes="",
    shape=lambda x: (*square("matrix_exp")(x), *x[-2:]), stops=True, jacobian=no_slope,
        value=_exp_slopes,
    torch=lambda torch, x: x, show=lambda x: f"∫₀¹ exp(s·{x})[i,j]·exp((1−s)·{x})[l,k] ds",
))
def _exp_back(c: Any, x: Any, _: Any) -> str:
    """The upper right block of the exponential of ``[[Xᵀ, v], [0, Xᵀ]]``.

    Source: R. Mathias, "A chain rule for matrix functions and applications", 1996.
    """
    above = f"torch.cat([{x}.mT, {c.grad}], dim=-1)"
    below = f"torch.cat([torch.zeros_like({x}), {x}.mT], dim=-1)"
    block = c.let("block", f"torch.cat([{above}, {below}], dim=-2)")
    n = f"{x}.shape[-1]"
    return f"torch.linalg.matrix_exp({block})[..., :{n}, {n}:]"


register(Op(
    "matrix_exp(Tensor input, Aux D)", _FAMILY, homes="torch Tensor linalg",
    # backward: a series has no formula of elements.
    shape=square("matrix_exp"), value=_exp_value, backward=_exp_back,
    jacobian=lambda k, x, d: ties(k, k.i[:-2], k.j[:-2], x.shape[:-2]) * d[[*k.i, *k.j[-2:]]],
    aux=lambda b, x: (b.helper(_EXP_SLOPES, x, label="D"),),
    samples=("matrix_exp(x[2,2]/5)", "linalg.matrix_exp(x[2,3,3].sin())"),
))
