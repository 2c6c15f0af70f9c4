"""NumPy kernels that several records share (`gradexplain.ops.base.Op.value`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

#: Elements that are worked on together.
_AT_ONCE = 1 << 15


def softmax(
    x: Any, axes: tuple[int, ...], *, sign: int = 1, log: bool = False
) -> tuple[Any, Callable[[], Any]]:
    """``exp(±x)`` over its sum along ``axes``, or the logarithm of that, for the value of a pair ``x``.

    Shifted by the largest exponent, which then is 0: nothing overflows.
    """

    rows = _rows(x[0], axes)
    result = np.empty_like(x[0])

    def shifted(part: Any) -> Any:
        value = x[0][part]
        if sign > 0:
            return value - np.max(value, axis=axes, keepdims=True)
        return np.min(value, axis=axes, keepdims=True) - value

    def magnitude() -> Any:
        sizes = np.empty(result.shape)
        for part in rows:
            own, made = np.asarray(x[1][part]), result[part]
            spread = np.abs(shifted(part))
            spread += own
            spread += np.max(own, axis=axes, keepdims=True) + 1
            # What is masked has no error.
            sizes[part] = np.abs(made) + spread if log else np.where(made == 0, 0.0, spread * made)
        return sizes

    for part in rows:
        made = result[part]
        made[...] = shifted(part)
        if log:
            made -= np.log(np.exp(made).sum(axis=axes, keepdims=True))
        else:
            np.exp(made, out=made)
            made /= made.sum(axis=axes, keepdims=True)
    return result, magnitude


def _rows(array: Any, axes: tuple[int, ...]) -> list[Any]:
    """Parts of the first axis that stay in the cache; all of the array where it is one of ``axes``."""
    whole = array.ndim < 2 or array.size < 2 * _AT_ONCE or any(a % array.ndim == 0 for a in axes)
    if whole:
        return [...]
    step = max(1, _AT_ONCE * len(array) // array.size)
    return [slice(low, low + step) for low in range(0, len(array), step)]
