"""Values as the program keeps them: float64 arrays, from whatever Python holds.

A value is a float64 array of at least one element, or `ONES`, whose shape is not known yet.
"""

from __future__ import annotations

import enum
import math
import sys
import warnings
from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from gradexplain.errors import InputError, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.limits import MAX_DIMENSIONS, MAX_ELEMENTS
from gradexplain.reading.said import lacking


class Ones(enum.Enum):
    """A tensor of ones in whatever shape is needed."""

    ONES = "ones"


ONES: Final = Ones.ONES

Value: TypeAlias = Array | Literal[Ones.ONES]

DType: TypeAlias = Literal["float64", "float32"]


def check_shape(shape: Iterable[int], what: str) -> None:
    """Refuse a shape that no tensor here can have, before anything of its size is made."""
    sizes = tuple(shape)
    if len(sizes) > MAX_DIMENSIONS:
        message = (
            f"{what}: a tensor of {len(sizes)} dimensions; at most {MAX_DIMENSIONS} are supported"
        )
        raise UnsupportedError(message, remedy="reshape it")
    if any(size < 0 for size in sizes):
        raise InputError(f"{what}: a size is negative", remedy="write sizes of at least 1")
    count = math.prod(sizes)
    if count == 0:
        message = f"{what}: a tensor of shape {sizes} holds no elements to differentiate by"
        raise UnsupportedError(message, remedy="use sizes of at least 1")
    if count > MAX_ELEMENTS:
        elements = f"{count:,}" if count < 10**18 else "more than 10**18"
        message = f"{what}: {elements} elements; at most {MAX_ELEMENTS:,} are supported"
        raise UnsupportedError(message, remedy="use a smaller shape; the formulas are the same")


def as_array(value: object, what: str) -> Value:
    """A number, nested lists, a NumPy array or a tensor as a new float64 array; or ``"ones"``.

    PyTorch is not imported for this: where there is a tensor, it has been.
    """
    if value is ONES or (isinstance(value, str) and value == "ones"):
        return ONES
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return from_tensor(value, what)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = np.asarray(value)
        except Exception as error:
            ragged = "inhomogeneous" in str(error)
            reason = (
                "lists of one level differ in length" if ragged else "it is not made of numbers"
            )
            raise InputError(f"{what}: {reason}", remedy=_FROM_PYTHON) from None
    return from_numpy(found, what)


_ROUND = "give it as a float, rounded as you mean it"
_FROM_PYTHON = 'give a number, a list of numbers, a NumPy array, a tensor, or "ones"'


def from_numpy(found: np.ndarray[Any, Any], what: str) -> Array:
    """A copy in float64, which must hold every element's value."""
    if found.dtype.kind == "O" and found.size and type(found.flat[0]) is int:
        message = f"{what}: integers beyond 64 bits are not supported"
        raise UnsupportedError(message, remedy=_ROUND)
    check_type(found.dtype, what)
    check_shape(found.shape, what)
    if found.dtype.kind in "iu":
        large = found[(found > 2**53) | (found < -(2**53))]
        magnitude = np.abs(large).astype(np.uint64)
        odd_part = magnitude // (magnitude & (~magnitude + np.uint64(1)))
        lost = large[
            odd_part > 2**53
        ]  # a float64 holds 53 bits, and any number of zeros after them
        if lost.size:
            message = f"{what}: no float64 holds the integer {lost[0]} exactly"
            raise InputError(message, remedy=_ROUND)
    with np.errstate(over="ignore"):  # a long double may not fit
        return np.array(found, dtype=np.float64, order="C")


def check_type(dtype: np.dtype[Any], what: str) -> None:
    """Refuse elements that are not real numbers."""
    if dtype.kind == "c":
        raise lacking("complex input", what=what)
    if dtype.kind not in "biuf":
        called = _TYPES.get(dtype.kind, dtype.name)
        raise InputError(f"{what}: {called} instead of real numbers", remedy=_FROM_PYTHON)


_TYPES = {"O": "Python objects", "U": "text", "S": "bytes", "V": "records", "M": "dates"}


def from_tensor(tensor: Any, what: str) -> Array:
    """The elements of a tensor, on the CPU, apart from the graph it belongs to."""
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        message = f"{what}: only dense tensors with elements are supported"
        raise UnsupportedError(message, remedy="give `x.to_dense()` or `x.dequantize()`")
    check_shape(tensor.shape, what)
    if tensor.dtype.is_complex:
        check_type(np.dtype(np.complex128), what)
    plain = tensor.detach().to("cpu").resolve_neg()
    if tensor.dtype.is_floating_point:
        plain = plain.to(torch.float64)  # NumPy has no bfloat16
    return from_numpy(plain.numpy(), what)


# ---- what the dtype holds -----------------------------------------------------------------------


def bind(values: Array, dtype: str, what: str) -> Array:
    """The values as ``dtype`` holds them, in float64: 0.1 in float32 is 0.10000000149011612."""
    if dtype == "float64":
        return values
    with np.errstate(over="ignore"):
        rounded: Array = values.astype(np.float32).astype(np.float64)
    overflow = np.isinf(rounded) & np.isfinite(values)
    if overflow.any():
        largest = float(values[overflow].flat[0])
        message = f"{what}: {largest:g} is too large for float32, whose largest number is 3.4e38"
        raise InputError(message, remedy="use `--dtype float64`")
    return rounded
