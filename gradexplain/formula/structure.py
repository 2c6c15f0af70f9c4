"""The structure of a Jacobian in words, read off its formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy

from gradexplain.formula.kinds import Bracket
from gradexplain.formula.letters import Letters
from gradexplain.graph import Graph, Node


def structure(
    formula: Any,
    graph: Graph,
    leaf: Node,
    out: Sequence[Any],
    places: Sequence[Any],
    letters: Letters,
) -> str:
    """What J looks like: diagonal, block diagonal, dense, …; and whether it is constant."""
    y = graph.out.label
    if formula == 0:
        if graph.output in graph.reach([leaf.label]):
            return "zero wherever it exists"
        return f"zero: {y} does not depend on {leaf.label}"
    rows = [o for o in out if not o.is_Integer]
    columns = [d for d in places if not d.is_Integer]
    constant = not _values(formula)
    linear = f", constant ({y} is linear in {leaf.label})" if constant else ""
    if not rows and not columns:
        return "a single number" + linear
    if not rows:
        return "one row" + _even(formula, columns, "column") + linear
    if not columns:
        return "one column" + _even(formula, rows, "row") + linear
    pairs = _pairs(formula, rows, columns)
    # Zero in most places where every term has a selector that is not one of the pairs.
    scattered = all(
        any(
            isinstance(f, Bracket)
            or (isinstance(f, sympy.KroneckerDelta) and tuple(f.args) not in pairs)
            for f in sympy.Mul.make_args(term)
        )
        for term in sympy.Add.make_args(sympy.expand_mul(formula))
    )
    ties = dict(pairs.values())
    if len(ties) == len(pairs) == len(rows) == len(columns):
        straight = [ties[row] for row in rows] == columns
        rest = formula.xreplace(dict.fromkeys(formula.atoms(sympy.KroneckerDelta), sympy.S.One))
        if not straight:
            return ("a permutation" if rest == 1 else "one entry in each row and column") + linear
        if rest == 1:
            return "diagonal: the identity"
        if constant and not rest.free_symbols:
            return "diagonal: a multiple of the identity" + linear
        return "diagonal" + linear
    if pairs:
        shown = ", ".join(
            f"{letters[row]} = {letters[column]}"
            for row, column in sorted(pairs.values(), key=lambda p: rows.index(p[0]))
        )
        deltas = [d for d in formula.atoms(sympy.KroneckerDelta) if tuple(d.args) in pairs]
        coefficient = formula.xreplace(dict.fromkeys(deltas, sympy.S.One))
        text = f"block diagonal: zero unless {shown}"
        if coefficient.free_symbols.isdisjoint(
            {place for pair in pairs.values() for place in pair}
        ):
            text += ", and the same block each time"
        return text + linear
    if scattered:
        return "sparse" + linear
    return "dense" + linear


def _values(formula: Any) -> bool:
    """Whether values of tensors occur in the formula: index letters are integers, values are not."""
    return any(not symbol.is_integer for symbol in formula.atoms(sympy.Symbol))


def _even(formula: Any, axes: Sequence[Any], what: str) -> str:
    if len(axes) and not formula.has(*axes):
        return f", the same for every {what}"
    return ""


def _pairs(
    formula: Any, rows: Sequence[Any], columns: Sequence[Any]
) -> dict[tuple[Any, ...], tuple[Any, Any]]:
    """The deltas ``δ(row, column)`` that are factors of every term."""
    terms = sympy.Add.make_args(sympy.expand_mul(formula))
    common: set[Any] | None = None
    for term in terms:
        found = {f for f in sympy.Mul.make_args(term) if isinstance(f, sympy.KroneckerDelta)}
        common = found if common is None else common & found
    pairs = {}
    for d in common or ():
        a, b = d.args
        if a in rows and b in columns:
            pairs[tuple(d.args)] = (a, b)
        elif b in rows and a in columns:
            pairs[tuple(d.args)] = (b, a)
    return pairs
