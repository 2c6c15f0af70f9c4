"""Example values for inputs that none are given for: small, generic, and saturating nothing.

Counting 1, 2, 3, … is what a reader can work with by hand, so it stays where it is harmless.  It makes
the softmax of an attention head 1e-33 and tanh 1: where a program has such an operation the values are
tenths between −1 and 1 in no order, or between 0 and 2 where something has no value below 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node
from gradexplain.ops.base import Op

_GROWS = re.compile(r"\b(exp|expm1|tanh|sinh|cosh|sigmoid|erf|erfc|gamma|exp2)\(")
_SATURATING = ("activation", "normalisation", "loss")

#: A ladder of this step around the circle puts neighbours far apart: the golden ratio.
_STEP = (math.sqrt(5) - 1) / 2


def example_values(graph: Graph, leaves: Sequence[Node]) -> dict[str, Array]:
    """A value for each of ``leaves``, the same ones every time."""
    return next(candidates(graph, leaves))


def candidates(graph: Graph, leaves: Sequence[Node]) -> Iterator[dict[str, Array]]:
    """Values for ``leaves``, what reads best first; one may suit where others have no value, or no
    derivative: a logarithm of 1 − x, an inverse, two products that cancel before a kink."""
    ops = [node.op for node in graph.nodes if node.op is not None]
    if not any(map(_saturates, ops)):
        yield _counted(leaves)
    if any(op.family == "linear algebra" for op in ops):
        yield _ladder(leaves, -1, 1, diagonal=True)
        yield _ladder(leaves, -1, 1, diagonal=True, symmetric=True)
    yield _ladder(leaves, *_range(ops))
    for digits in (1, 2):
        for low, high in ((0, 2), (-1, 1), (0.1, 0.9), (1.1, 2.9)):
            yield _ladder(leaves, low, high, digits)


def _counted(leaves: Sequence[Node]) -> dict[str, Array]:
    values, start = {}, 1
    for node in leaves:
        count = math.prod(node.shape)
        values[node.label] = np.arange(start, start + count, dtype=np.float64).reshape(node.shape)
        start += count
    return values


def _ladder(
    leaves: Sequence[Node],
    low: float,
    high: float,
    digits: int = 1,
    *,
    diagonal: bool = False,
    symmetric: bool = False,
) -> dict[str, Array]:
    """Rounded numbers from ``low`` to ``high`` in no order; of square matrices the ``diagonal`` is
    larger than the rest of its row."""
    values = _counted(leaves)
    for node in leaves:
        if node.integer:
            continue
        run = np.round(low + values[node.label] * _STEP % 1 * (high - low), digits)
        run = np.where(run == 0, 0.5, run)
        if diagonal and run.ndim >= 2 and run.shape[-1] == run.shape[-2]:
            other = np.swapaxes(run, -1, -2) if symmetric else run
            run = np.round((run + other) / 2, digits) + run.shape[-1] * np.eye(run.shape[-1])
        values[node.label] = run
    return values


def _range(ops: Sequence[Op]) -> tuple[float, float]:
    """From where to where a program saturates nothing, and has values."""
    if any(op.name in SHARES for op in ops):
        return 0.1, 0.9
    return (0, 2) if any("<" in condition for op in ops for condition in op.singular) else (-1, 1)


def _saturates(op: Op) -> bool:
    formula = op.formula if isinstance(op.formula, str) else ""
    return op.family in _SATURATING or op.name in _NAMES or bool(_GROWS.search(formula))


#: Losses of probabilities and counts, which have no value below 0 or above 1.
SHARES = {"binary_cross_entropy", "gaussian_nll_loss", "kl_div", "poisson_nll_loss"}

_NAMES = {"softmax", "log_softmax", "softmin", "logsumexp", "cumprod", "prod"}
