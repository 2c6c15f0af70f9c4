"""What a formula looks like: affine indices, sums of products, running values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sympy

from gradexplain.formula.functions import RecordFunction
from gradexplain.formula.indices import index
from gradexplain.formula.kinds import BIG, Cases, Lookup
from gradexplain.plan.cost import cost
from gradexplain.plan.program import Affine, Axis, Node, union

_FLIPPED = {sympy.Lt: sympy.Gt, sympy.Le: sympy.Ge, sympy.Gt: sympy.Lt, sympy.Ge: sympy.Le}

Scope = dict[Any, int]


@lru_cache(maxsize=4096)
def is_number(e: Any) -> bool:
    """Whether nothing in ``e`` depends on an element or an index, and SymPy knows its value."""
    if not e.is_number or e.has(*BIG) or isinstance(e, RecordFunction):
        return False
    try:
        float(e)
    except (TypeError, ValueError):
        return False
    return True


def affine(e: Any, scope: Scope) -> Affine | None:
    constant, rest = e.as_coeff_Add()
    if not constant.is_Integer:
        return None
    steps = []
    for term in sympy.Add.make_args(rest) if rest != 0 else ():
        step, symbol = term.as_coeff_Mul()
        if not step.is_Integer or not symbol.is_Symbol or symbol not in scope:
            return None
        steps.append((Axis(symbol.name, scope[symbol]), int(step)))
    return Affine(int(constant), tuple(steps))


def at_least(c: Any, scope: Scope) -> Any:
    """``e`` of the condition ``e ≥ 0`` on indices, as `Lowering._outside` has it; None for another."""
    if not isinstance(c, (sympy.Ge, sympy.Le)):
        return None
    low, high = (c.rhs, c.lhs) if isinstance(c, sympy.Ge) else (c.lhs, c.rhs)
    line = affine(sympy.expand(high - low), scope)
    return None if line is None else (line.start, frozenset(line.steps))


def is_narrow(lines: Sequence[Affine | None], shape: Sequence[int]) -> bool:
    """Whether the tensor with zeros around it, for a view to reach into, stays of its size, or below
    that of the view."""
    room = 1
    view = math.prod(
        a.size for a in union(tuple(a for a, _ in line.steps) for line in lines if line)
    )
    for line, n in zip(lines, shape, strict=True):
        assert line is not None
        room *= max(line.high + 1, n) - min(line.low, 0)
    return room <= 4 * max(math.prod(shape), view) + 1000


@lru_cache(maxsize=1024)
def flattened(total: Any) -> tuple[tuple[Any, ...], dict[Any, int]]:
    """The factors of a sum of products, those of the sums in it among them, and the inner indices.

    Which sum goes first is then the contraction's to choose, and not the formula's, where it may make
    something of the size of a Jacobian.
    """
    flat: list[Any] = []
    inner: dict[Any, int] = {}
    pending = list(reversed(sympy.Mul.make_args(total.function)))
    while pending:
        factor = pending.pop()
        body = factor.function if isinstance(factor, sympy.Sum) else None
        if body is None or body.is_Add or len(total.limits) + len(inner) > 20:
            flat.append(factor)
            continue
        fresh = {}
        for q, _, last in factor.limits:
            fresh[q] = index(f"{q.name}_{len(inner)}")
            inner[fresh[q]] = int(last) + 1
        pending += reversed(sympy.Mul.make_args(body.xreplace(fresh)))
    return tuple(flat), inner


@lru_cache(maxsize=1024)
def placed_term(term: Any) -> tuple[Any, Any, Any] | None:
    """``(a, j, table)`` of a term ``a·δ(j, table)``, of which neither a nor the table has a j."""
    factors = sympy.Mul.make_args(term)
    deltas = [f for f in factors if isinstance(f, sympy.KroneckerDelta) and f.has(Lookup)]
    if len(deltas) != 1:
        return None
    rest = sympy.Mul(*(f for f in factors if f is not deltas[0]))
    for axis, table in (deltas[0].args, deltas[0].args[::-1]):
        if axis.is_Symbol and not rest.has(axis) and not table.has(axis):
            return rest, axis, table
    return None


def table_side(factor: Any, bound: set[Any]) -> tuple[Any, Any] | None:
    """``(table, place)`` of ``δ(idx[i], j)`` with i bound and j not; None for any other factor."""
    if not isinstance(factor, sympy.KroneckerDelta):
        return None
    for table, place in (factor.args, factor.args[::-1]):
        if table.has(Lookup) and table.has(*bound) and place.free_symbols and not (
            place.has(Lookup) or place.has(*bound)
        ):  # fmt: skip
            return table, place
    return None


def side_of(condition: Any, q: Any) -> tuple[str, bool, Any] | None:
    """Which places ``q`` a condition takes: ``(how, upward, i)``.

    All up to ``i`` ("product"), all before it ("before"), all but it ("others").
    """
    conditions = sympy.And.make_args(condition)
    relations = []
    for c in conditions:
        if not isinstance(c, (sympy.Le, sympy.Ge, sympy.Lt, sympy.Gt, sympy.Ne)) or q not in c.args:
            return None
        turned = c.args[0] != q
        kind = _FLIPPED.get(type(c), type(c)) if turned else type(c)
        relations.append((kind, c.args[0] if turned else c.args[1]))
    kinds, others = {kind for kind, _ in relations}, {other for _, other in relations}
    if len(others) != 1 or not (other := others.pop()).is_Symbol or not other.is_integer:
        return None
    if kinds == {sympy.Ne}:
        return "others", True, other
    for upward, names in ((True, (sympy.Le, sympy.Lt)), (False, (sympy.Ge, sympy.Gt))):
        if kinds == {names[0]}:
            return "product", upward, other
        if kinds in ({names[1]}, {names[0], sympy.Ne}):
            return "before", upward, other
    return None


def step_of(tied: Any, q: Any, i: Any, *, upward: bool) -> Any:
    """What a running sum of terms with the factor ``tied`` is multiplied by at ``i``.

    ``exp(g(i) + h(q))`` is ``exp(g(i) + h(i))·exp(h(q) − h(i))``, of which the second grows by
    ``exp(h(i ± 1) − h(i))`` from one place to the next.  ``Π_p [p ≤ q, p ≠ i] x(p)`` is the product of
    those before ``i`` and of those after it, up to ``q``.  None for any other factor.
    """
    ahead = i + (-1 if upward else 1)
    if isinstance(tied, sympy.exp):
        h = sympy.Add(*(t for t in sympy.Add.make_args(tied.args[0]) if t.has(q)))
        if h.has(i) or h.has(*BIG):
            return None
        return sympy.exp(h.xreplace({q: ahead}) - h.xreplace({q: i}))
    if isinstance(tied, sympy.Product) and not upward and len(tied.limits) == 1:
        body, p = tied.function, tied.limits[0][0]
        if not isinstance(body, Cases) or len(body.args) != 2 or body.args[1][0] != 1:
            return None
        value, condition = body.args[0]
        parts = set(sympy.And.make_args(condition))
        upto = parts & {sympy.Le(p, q), sympy.Ge(q, p)}
        apart = parts & {sympy.Ne(p, i), sympy.Ne(i, p)}
        if len(parts) != 2 or len(upto) != 1 or len(apart) != 1 or value.has(q) or value.has(i):
            return None
        return value.xreplace({p: ahead})
    return None


def burden_of(root: Node) -> int:
    """What a program costs: a pass over memory takes as long as some ten products of a matrix product."""
    found = cost(root)
    return found.terms + 10 * found.elements


def is_below(e: Any) -> bool:
    return bool(e.is_Pow and e.exp.could_extract_minus_sign())
