"""J by central differences in float64, for a forward that autograd does not see through.

Central differences with steps h, h/2, h/4, … have errors in even powers of h, which Richardson's
extrapolation removes one by one; the smallest change between neighbours of the table estimates the
error that is left (Ridders 1982).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gradexplain.explanation import Array

#: Steps, relative to the size of what is moved; each is half of the one before.
_FIRST, _STEPS = 2.0**-6, 6

Forward = Callable[[Mapping[str, Array]], Array]


def jacobians(
    forward: Forward, values: Mapping[str, Array], wanted: Sequence[str], most: int = 0
) -> dict[str, tuple[Array, Array]]:
    """``(J, error)`` by each of ``wanted`` as matrices of outputs by inputs.

    With ``most`` only so many columns are worked out, evenly spread; the others are nan, their
    error infinite.
    """
    rows = forward(values).size
    found = {}
    for name in wanted:
        count = values[name].size
        j, error = np.full((rows, count), np.nan), np.full((rows, count), np.inf)
        for place in range(0, count, 1 + count // most if most else 1):
            j[:, place], error[:, place] = _column(forward, values, name, place)
        found[name] = j, error
    return found


def _moved(values: Mapping[str, Array], name: str, place: int, by: float) -> dict[str, Array]:
    changed = np.array(values[name], dtype=np.float64)
    changed.flat[place] += by
    return {**values, name: changed}


def _column(
    forward: Forward, values: Mapping[str, Array], name: str, place: int
) -> tuple[Array, Array]:
    h = _FIRST * max(1.0, abs(float(values[name].flat[place])))
    row: list[Array] = []
    best, error = np.array(0.0), np.array(np.inf)
    with np.errstate(all="ignore"):
        for step in range(_STEPS):
            up, down = _moved(values, name, place, h), _moved(values, name, place, -h)
            new = [(forward(up) - forward(down)).ravel() / (2 * h)]
            for k, old in enumerate(row):
                new.append(new[k] + (new[k] - old) / (4.0 ** (k + 1) - 1))
            if step:
                for k in range(1, len(new)):
                    here = np.maximum(np.abs(new[k] - new[k - 1]), np.abs(new[k] - row[k - 1]))
                    better = here < error
                    best, error = np.where(better, new[k], best), np.where(better, here, error)
            row, h = new, h / 2
    error = np.where(np.isnan(error), np.inf, error)
    return np.where(np.isinf(error), np.nan, best), error


def one_sided(
    forward: Forward, values: Mapping[str, Array], name: str, place: int, side: int
) -> Array:
    """The slope of every output to one side of a point, by two steps and one extrapolation."""
    h = side * 1e-5
    here = forward(values).ravel()
    with np.errstate(all="ignore"):
        one, half = (
            (forward(_moved(values, name, place, d)).ravel() - here) / d for d in (h, h / 2)
        )
        return np.asarray(2 * half - one)
