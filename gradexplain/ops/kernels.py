"""NumPy kernels that several records share (`gradexplain.ops.base.Op.value`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def softmax(
    x: Any, axes: tuple[int, ...], *, sign: int = 1, log: bool = False
) -> tuple[Any, Callable[[], Any]]:
    """``exp(±x)`` over its sum along ``axes``, or the logarithm of that, for the value of a pair ``x``.

    Shifted by the largest exponent, which then is 0: nothing overflows.
    """

    def shifted() -> Any:
        if sign > 0:
            return x[0] - np.max(x[0], axis=axes, keepdims=True)
        return np.min(x[0], axis=axes, keepdims=True) - x[0]

    def magnitude() -> Any:
        spread = np.asarray(np.abs(shifted()))
        spread += x[1]
        spread += np.max(x[1], axis=axes, keepdims=True) + 1
        if log:
            return np.abs(result) + spread
        spread *= result
        spread[result == 0] = 0.0  # what is masked has no error
        return spread

    result = np.asarray(shifted())
    if log:
        result -= np.log(np.exp(result).sum(axis=axes, keepdims=True))
    else:
        np.exp(result, out=result)
        result /= result.sum(axis=axes, keepdims=True)
    return result, magnitude
