"""How a number and a tensor are printed: decided here, once, for every output format.

A number has ``precision`` significant digits and no trailing zeros (``0.3``, ``16``, ``1.25e-05``).
A tensor is nested like PyTorch's, with its columns aligned, and abbreviated where PyTorch does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradexplain.tensors import Array, Shape

PRECISION = 6
#: A tensor with more elements than this shows only `EDGE` items at both ends of each axis.
THRESHOLD = 1000
EDGE = 3
#: A matrix whose text is at most this long stays on one line.
_SHORT = 28
_GAP = "..."
#: No more elements than this are ever shown, however many axes there are.
_MOST = 4 * THRESHOLD


#: A constant of more elements does not fit in a line of a formula.
_IN_LINE = 24


def number(value: float, precision: int = PRECISION) -> str:
    """``value`` to ``precision`` significant digits; zero has no sign; True and False are words."""
    if isinstance(value, bool):
        return str(value)
    return "0" if value == 0 else f"{value:.{precision}g}"


def shape(dims: Shape) -> str:
    """A shape as PyTorch and NumPy write it: ``()``, ``(3,)``, ``(3, 2)``."""
    return str(tuple(int(dim) for dim in dims))


def tensor(
    values: Array, precision: int = PRECISION, width: int = 100, threshold: int = THRESHOLD
) -> list[str]:
    """The lines that show ``values``, each at most ``width`` wide where the numbers allow it.

    With more than ``threshold`` elements only the edges are shown.
    """
    if values.ndim == 0:
        return [number(values.item(), precision)]
    if values.size == 0:
        return ["[]"]
    whole = values.size <= threshold
    axes = [_visible(dim, whole=whole) for dim in values.shape]
    for i, dim in enumerate(values.shape):  # many short axes: of the first of them, one item
        if math.prod(map(len, axes)) > _MOST and dim > 1:
            axes[i] = [0, None]
    shown = values[np.ix_(*([i for i in axis if i is not None] for axis in axes))]
    texts = np.array([number(x, precision) for x in shown.ravel().tolist()], dtype=object)
    texts = texts.reshape(shown.shape)
    if whole and len(line := _inline(texts)) <= min(width, _SHORT):
        return [line]
    columns: list[list[str]] = texts.reshape(-1, shown.shape[-1]).T.tolist()
    widths = [max(map(len, column)) for column in columns]
    gaps = [axis.index(None) if None in axis else None for axis in axes]
    return _block(texts, gaps, widths, width)


def one_line(values: Array) -> str:
    """``values`` in one line; of a larger tensor the shape."""
    if values.size > _IN_LINE:
        return f"a constant of shape {shape(values.shape)}"
    if values.ndim == 0:
        return number(values.item())
    texts = [number(x) for x in values.ravel().tolist()]
    return _inline(np.array(texts, dtype=object).reshape(values.shape))


def abbreviated(values: Array, threshold: int = THRESHOLD) -> bool:
    """Whether `tensor` leaves something out, the shape included: then show the shape beside it."""
    return values.size > threshold or (values.size == 0 and values.ndim > 1)


def together(vectors: Sequence[Array], precision: int = PRECISION) -> list[str]:
    """Vectors of one length, a line each, with their elements aligned under each other."""
    texts = [[number(x, precision) for x in vector] for vector in np.stack(list(vectors)).tolist()]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "[" + ", ".join(t.rjust(w) for t, w in zip(row, widths, strict=True)) + "]" for row in texts
    ]


def distinct(one: float, other: float, precision: int = PRECISION) -> tuple[str, str]:
    """Both numbers, with as many digits as it takes to tell them apart."""
    texts = number(one, precision), number(other, precision)
    while texts[0] == texts[1] and precision < 17:
        precision += 1
        texts = number(one, precision), number(other, precision)
    return texts


def _visible(dim: int, *, whole: bool) -> list[int | None]:
    """The indices of an axis that are shown; None stands for those left out."""
    if whole or dim <= 2 * EDGE:
        return list(range(dim))
    return [*range(EDGE), None, *range(dim - EDGE, dim)]


def _inline(texts: np.ndarray) -> str:
    if texts.ndim == 1:
        return "[" + ", ".join(texts.tolist()) + "]"
    return "[" + ", ".join(_inline(part) for part in texts) + "]"


def _block(texts: np.ndarray, gaps: list[int | None], widths: list[int], width: int) -> list[str]:
    """The lines of one bracket: a row of numbers, or blocks under each other."""
    if texts.ndim == 1:
        return _row(texts.tolist(), gaps[0], widths, width - 2)
    parts = [_block(part, gaps[1:], widths, width - 2) for part in texts]
    if gaps[0] is not None:
        parts.insert(gaps[0], [_GAP])
    lines: list[str] = []
    for part in parts[:-1]:
        lines += [*part[:-1], part[-1] + ",", *[""] * (texts.ndim - 2)]
    lines += parts[-1]
    lines = ["[" + lines[0], *(line and " " + line for line in lines[1:])]
    lines[-1] += "]"
    return lines


def _row(items: list[str], gap: int | None, widths: list[int], room: int) -> list[str]:
    """``[a, b, c]``, over several lines of equal columns when it is wider than ``room``."""
    if sum(widths) + 2 * (len(widths) - 1) > room:
        widths = [max(widths)] * len(widths)
    cells = [item.rjust(w) for item, w in zip(items, widths, strict=True)]
    if gap is not None:
        cells.insert(gap, _GAP)
    per_line = len(cells)
    if sum(map(len, cells)) + 2 * (len(cells) - 1) > room:
        per_line = max(1, (room + 2) // (max(map(len, cells)) + 2))
    lines = [", ".join(cells[i : i + per_line]) for i in range(0, len(cells), per_line)]
    return [
        ("[" if i == 0 else " ") + line + ("]" if i == len(lines) - 1 else ",")
        for i, line in enumerate(lines)
    ]
