"""Example values for inputs that none are given for: small, generic, and saturating nothing.

Counting 1, 2, 3, … is what a reader can work with by hand, so it stays where it is harmless.  It makes
the softmax of an attention head 1e-33 and tanh 1: where a program has such an operation the values are
tenths between −1 and 1 in no order, or between 0 and 2 where something has no value below 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

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
    ops = [node.op for node in graph.nodes if node.op is not None]
    counted = not any(map(_saturates, ops))
    positive = any("<" in condition for op in ops for condition in op.singular)
    shares = any(op.name in _SHARES for op in ops)
    values: dict[str, Array] = {}
    start = 1
    for node in leaves:
        count = math.prod(node.shape)
        run = np.arange(start, start + count, dtype=np.float64)
        start += count
        if not counted and not node.integer:
            part = run * _STEP % 1
            run = np.round(part * 0.8 + 0.1 if shares else part * 2 - (0 if positive else 1), 1)
            run[run == 0] = 0.5
        values[node.label] = run.reshape(node.shape)
    return values


def _saturates(op: Op) -> bool:
    formula = op.formula if isinstance(op.formula, str) else ""
    return op.family in _SATURATING or op.name in _NAMES or bool(_GROWS.search(formula))


#: Losses of probabilities and counts, which have no value below 0 or above 1.
_SHARES = {"binary_cross_entropy", "gaussian_nll_loss", "kl_div", "poisson_nll_loss"}

_NAMES = {"softmax", "log_softmax", "softmin", "logsumexp", "cumprod", "prod"}
