"""What a Hessian says: its signs, where it is constant, where a formula changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sympy

from gradexplain.arithmetic import mp
from gradexplain.explaining.running import Run
from gradexplain.explanation import Array
from gradexplain.formula.indices import Ranges, index
from gradexplain.graph import Node
from gradexplain.routes.closed import ClosedForm
from gradexplain.routes.singular import Singular, where_any
from gradexplain.verdict import compare


def borders(run: Run) -> list[Singular]:
    """Operations at a point where the condition between two of their formulas changes."""
    reach = run.graph.reach(run.wanted) & run.graph.needed()
    found = []
    for node in run.graph.nodes:
        if node.id not in reach or node.op is None or not node.op.pointwise:
            continue
        try:
            mask = where_any(node, run.chain, edges=True)
        except (KeyError, TypeError, ValueError):
            continue  # an argument that is no number: nothing to compare
        if mask.any():
            found.append(Singular.at(node, mask))
    return found


def words(words: str, scalar: str, a: Node, b: Node) -> str:
    """The structure of a block: it is the Jacobian of a gradient, but that need not be said."""
    if words.startswith("zero"):
        return "zero"
    return re.sub(r" \([^()]* is linear in [^()]*\)", "", words)


def is_constant(formula: Any, moving: set[str]) -> bool:
    """Whether none of the values in a formula depends on the inputs."""
    return all(
        s.is_integer or s.name.removesuffix(".grad") not in moving
        for s in sympy.sympify(formula).atoms(sympy.Symbol)
    )


def eigenvalues(matrix: Array) -> tuple[float, ...]:
    """Of the symmetric part, in ascending order, rounding noise put to 0."""
    half = (matrix + matrix.T) / 2
    n = len(half)
    found = mp.eigsy(mp.matrix(half.tolist()), eigvals_only=True)
    values = sorted(float(found[k]) for k in range(n))
    largest = max(map(abs, values), default=0.0)
    noise = 64 * n * compare.ROUNDOFF["float64"] * largest
    return tuple(0.0 if abs(value) <= noise else value for value in values)


def definiteness(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if low < 0 < high:
        return "indefinite"
    if low == high == 0:
        return "zero"
    sign, nearest = ("positive", low) if high > 0 else ("negative", high)
    return f"{sign} definite" if nearest else f"{sign} semidefinite"


def transposed(form: ClosedForm, row: Node, column: Node) -> tuple[Any, Ranges]:
    """``∂²L/∂column∂row`` from ``∂²L/∂row∂column``, and the ranges of its indices."""
    formula, known = form.jacobian(column), form.calculus.ranges
    rows, columns = ((form.calculus.indices(n.shape, c), n) for n, c in ((row, "o"), (column, "d")))
    swapped = {}
    for (places, _), letter in ((rows, "d"), (columns, "o")):
        for axis, place in enumerate(places):
            if not place.is_Integer:
                swapped[place] = index(f"{letter}{axis}")
    bound = Ranges({symbol: n for symbol, n in known.items() if "_" in symbol.name})
    return formula.xreplace(swapped), bound


def bounds(size: Any, value: Array, v: Array, dtype: str) -> tuple[Array, Array]:
    """What PyTorch may differ by, and what the other two routes may."""
    return compare.bound(size, value, v, dtype), compare.bound(size, value, v, "float64")
