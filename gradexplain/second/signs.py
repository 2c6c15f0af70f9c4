"""What a Hessian says: its signs, where it is constant, where a formula changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import sympy
from sympy.core.relational import Relational

from gradexplain.arithmetic import mp
from gradexplain.engine import Run
from gradexplain.explanation import Array
from gradexplain.formula.functions import build
from gradexplain.formula.kinds import element_symbol
from gradexplain.formula.kit import number
from gradexplain.graph import Node, Ref
from gradexplain.plan.arrays import to_float
from gradexplain.plan.evaluate import Evaluator
from gradexplain.routes.singular import Singular
from gradexplain.verdict import compare


def borders(run: Run) -> list[Singular]:
    """Operations at a point where the condition between two of their formulas changes."""
    reach = run.graph.reach(run.wanted) & run.graph.needed()
    found = []
    for node in run.graph.nodes:
        if node.id not in reach or node.op is None or not node.op.pointwise:
            continue
        axes = tuple(sympy.Symbol(f"i{n}", integer=True) for n in range(len(node.shape)))
        arrays: dict[str, Array] = {}
        names: dict[str, Any] = {}
        for parameter, arg in zip(node.op.parameters, node.args, strict=True):
            if isinstance(arg, Ref):
                value = to_float(run.chain.forward[arg.id][0])
                arrays[parameter.name] = np.broadcast_to(value, node.shape)
                names[parameter.name] = element_symbol(parameter.name, axes)
            elif isinstance(arg, (int, float)):
                names[parameter.name] = number(arg)
        try:
            formula = build(node.op.formula, names)
        except (KeyError, TypeError, ValueError):
            continue  # an argument that is no number: nothing to compare
        evaluator = Evaluator(
            lambda name, arrays=arrays: (arrays[name], np.abs(arrays[name])),  # type: ignore[misc]
            dict(zip(axes, node.shape, strict=True)),
            exact=False,
        )
        mask = np.zeros(node.shape, dtype=bool)
        for relation in formula.atoms(Relational):
            edge = sympy.Eq(relation.lhs, relation.rhs, evaluate=False)
            mask |= evaluator.holds(edge, axes, node.shape)
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
    if low == high == 0:
        return "zero"
    if low > 0:
        return "positive definite"
    if high < 0:
        return "negative definite"
    if low == 0:
        return "positive semidefinite"
    if high == 0:
        return "negative semidefinite"
    return "indefinite"
