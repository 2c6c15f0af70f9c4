"""A formula in index notation as an array program.

Every index letter is an axis.  A part of a formula becomes an operation whose value has the axes of
its letters; a sum of products becomes one contraction, those of inner sums in it, whose order is
chosen by what it costs; an index that is no plain letter is a view where it is affine and gathers
where it is not.  Nothing of the size of a Jacobian is made unless the formula is the Jacobian's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sympy
from sympy.logic.boolalg import And, Not, Or

from gradexplain.formula.functions import KERNELS, RecordFunction
from gradexplain.formula.indices import index
from gradexplain.formula.kinds import (
    BIG,
    Bracket,
    Cases,
    FirstGreatest,
    FirstLeast,
    FloorDiv,
    Greatest,
    Least,
    Lookup,
    Modulo,
)
from gradexplain.plan.cost import cost
from gradexplain.plan.program import Affine, Axis, Node, Program, union

_SELECTORS = (sympy.KroneckerDelta, Bracket)

#: Where arrays are this large, what is small is computed first.
_LARGE = 10_000

_COMPARE = {
    sympy.Lt: "less", sympy.Le: "less_equal", sympy.Gt: "greater", sympy.Ge: "greater_equal",
    sympy.Eq: "equal", sympy.Ne: "not_equal",
}  # fmt: skip
_FLIPPED = {sympy.Lt: sympy.Gt, sympy.Le: sympy.Ge, sympy.Gt: sympy.Lt, sympy.Ge: sympy.Le}

Scope = dict[Any, int]


class Lowering:
    """Formulas put into one program.

    ``shape(label)`` is that of a tensor that a formula names.
    """

    def __init__(self, shape: Callable[[str], tuple[int, ...]]) -> None:
        self.program = Program()
        self._shape = shape
        self._scopes: list[Scope] = []
        self._memo: dict[tuple[int, Any], Node] = {}

    def formula(self, e: Any, sizes: Mapping[Any, int]) -> Node:
        """The value of ``e``, whose free indices have these sizes."""
        return self._real(sympy.sympify(e), self._scope({}, sizes))

    def condition(self, c: Any, sizes: Mapping[Any, int]) -> Node:
        """Where ``c`` holds."""
        return self._condition(c, self._scope({}, sizes))

    # -- scopes ----------------------------------------------------------------------------------

    def _scope(self, outer: Scope, more: Mapping[Any, int]) -> Scope:
        """``outer`` and ``more``; the same one where no letter changes its size."""
        for scope in self._scopes:
            if all(scope.get(k, n) == n for part in (outer, more) for k, n in part.items()):
                scope.update(outer)
                scope.update(more)
                return scope
        self._scopes.append({**outer, **more})
        return self._scopes[-1]

    def _inside(self, big: Any, scope: Scope) -> tuple[Scope, tuple[Axis, ...]]:
        limits = {q: int(last) + 1 for q, _, last in big.limits}
        return self._scope(scope, limits), tuple(Axis(q.name, n) for q, n in limits.items())

    # -- pieces ----------------------------------------------------------------------------------

    def _number(self, value: Any) -> Node:
        return self.program.add("number", data=value)

    def _map(self, what: Any, *args: Node, type: Any = "real") -> Node:
        return self.program.add("map", args, data=what, type=type)

    def _as_real(self, node: Node) -> Node:
        return node if node.type == "real" else self.program.add("real", (node,))

    def _real(self, e: Any, scope: Scope) -> Node:
        key = id(scope), e
        if key not in self._memo:
            self._memo[key] = self._made(e, scope)
        return self._memo[key]

    def _made(self, e: Any, scope: Scope) -> Node:
        if isinstance(e, sympy.Indexed):
            return self._element(str(e.base.label.name), e.indices, scope)
        if e.is_Symbol:
            if e.is_integer:
                return self._as_real(self._index(e, scope))
            return self._element(e.name, (), scope)
        if e.is_Number or e.is_NumberSymbol or _is_number(e):
            return self._number(e)
        if e.is_Add:
            return self._terms(e.args, scope)
        if e.is_Mul:
            return self._product(e.args, scope)
        if e.is_Pow:
            return self._power(e, scope)
        if isinstance(e, sympy.Sum):
            return self._sum(e, scope)
        if isinstance(e, sympy.Product):
            return self._big_product(e, scope)
        if isinstance(e, Greatest):
            inner, bound = self._inside(e, scope)
            return self._reduced(_HOW[type(e)], self._real(e.function, inner), bound)
        if isinstance(e, _SELECTORS):
            return self._as_real(self._selector(e, scope))
        if isinstance(e, Cases):
            return self._cases(e, scope)
        if isinstance(e, RecordFunction):
            return self._real(e.definition, scope)
        if isinstance(e, (FloorDiv, Modulo, Lookup)):
            return self._as_real(self._index(e, scope))
        if type(e) in KERNELS:
            return self._map(type(e), *(self._real(a, scope) for a in e.args))
        raise TypeError(f"no value for {type(e).__name__}")

    # -- elements and indices --------------------------------------------------------------------

    def _element(
        self, label: str, indices: Sequence[Any], scope: Scope, *, table: bool = False
    ) -> Node:
        kind: Any = "index" if table else "real"
        shape = self._shape(label)
        symbols = [i for i in indices if i.is_Symbol]
        if len(set(symbols)) == len(symbols) and all(
            (i.is_Symbol and scope[i] == n) or (i == 0 and n == 1)
            for i, n in zip(indices, shape, strict=True)
        ):
            axes = tuple(Axis(i.name, scope[i]) for i in symbols)
            picks = tuple(bool(i.is_Symbol) for i in indices)
            return self.program.add("element", (), axes, (label, picks), kind)
        lines = [_affine(i, scope) for i in indices]
        if all(line is not None for line in lines) and _narrow(lines, shape):
            own = union(tuple(axis for axis, _ in line.steps) for line in lines if line)
            return self.program.add("window", (), own, (label, tuple(lines), shape), kind)
        found = tuple(self._index(i, scope) for i in indices)
        return self.program.add("gather", found, data=(label, shape), type=kind)

    def _index(self, e: Any, scope: Scope) -> Node:
        """An index expression as whole numbers."""
        if e.is_Integer:
            return self.program.add("number", data=e, type="index")
        if e.is_Symbol:
            return self.program.add("index", (), (Axis(e.name, scope[e]),), type="index")
        if isinstance(e, Lookup):
            return self._element(e.args[0].name, e.args[1:], scope, table=True)
        what = {"Add": "add", "Mul": "multiply", "FloorDiv": "floor_divide", "Modulo": "remainder"}
        name = type(e).__name__
        if name not in what:
            raise TypeError(f"no index {name}")
        return self._map(what[name], *(self._index(a, scope) for a in e.args), type="index")

    # -- sums of terms and products --------------------------------------------------------------

    def _terms(self, terms: Sequence[Any], scope: Scope) -> Node:
        """A sum of terms; those like ``a[i]·δ(j, idx[i])`` are added where they are not 0."""
        placed = [(term, place) for term in terms if (place := _placed(term)) is not None]
        if not placed or len(placed) == len(terms):
            return self._folded("add", [self._real(term, scope) for term in terms])
        apart = {term for term, _ in placed}
        total = self._folded("add", [self._real(t, scope) for t in terms if t not in apart])
        rest = []
        for term, (factor, symbol, table) in placed:
            axis = Axis(symbol.name, scope[symbol])
            at, value = self._index(table, scope), self._real(factor, scope)
            others = [a for a in total.axes if a != axis]
            if axis in total.axes and set(value.axes + at.axes) <= set(others):
                total = self.program.add("place", (total, value, at), total.axes, axis)
            else:
                rest.append(self._real(term, scope))
        return self._folded("add", [total, *rest]) if rest else total

    def _folded(self, what: str, parts: Sequence[Node]) -> Node:
        """``parts`` under one operation; what is small goes first where that saves something."""
        if len(parts) == 1:
            return parts[0]
        if max(part.elements for part in parts) >= _LARGE:
            parts = sorted(parts, key=lambda part: part.elements)
        return self._map(what, *parts)

    def _product(self, factors: Iterable[Any], scope: Scope) -> Node:
        factors = list(factors)
        masks = [f for f in factors if isinstance(f, _SELECTORS)]
        above = [f for f in factors if not isinstance(f, _SELECTORS) and not _is_below(f)]
        below = [f.base ** (-f.exp) for f in factors if _is_below(f)]
        over = [self._real(f, scope) for f in above]
        if below:
            under = self._folded("multiply", [self._real(f, scope) for f in below])
            large: list[Node] = []
            if max([under.elements, *(p.elements for p in over)]) >= _LARGE:
                # What is small is divided first: few operations are of the result's size.
                large = [p for p in over if p.elements > under.elements]
                over = [p for p in over if p.elements <= under.elements]
            top = self._folded("multiply", over or [self._number(sympy.S.One)])
            part = self._folded("multiply", [self._map("divide", top, under), *large])
        else:
            part = self._folded("multiply", over or [self._number(sympy.S.One)])
        for mask in masks:
            part = self.program.add("select", (self._selector(mask, scope), part))
        return part

    def _selector(self, e: Any, scope: Scope) -> Node:
        if isinstance(e, sympy.KroneckerDelta):
            return self._condition(sympy.Eq(e.args[0], e.args[1], evaluate=False), scope)
        return self._condition(e.condition, scope)

    def _condition(self, c: Any, scope: Scope, *, implied: bool = False) -> Node:
        """A mask; an ``implied`` one hides what is 0 there, if all is finite."""
        if implied:
            sides = self._index(c.lhs, scope), self._index(c.rhs, scope)
            return self.program.add("map", sides, data=_COMPARE[type(c)], type="implied")
        if c in (sympy.true, sympy.false):
            return self.program.add("number", data=bool(c), type="mask")
        if isinstance(c, (And, Or)):
            what = "logical_and" if isinstance(c, And) else "logical_or"
            return self._map(what, *(self._condition(part, scope) for part in c.args), type="mask")
        if isinstance(c, Not):
            return self._map("logical_not", self._condition(c.args[0], scope), type="mask")
        whole = c.lhs.is_integer and c.rhs.is_integer and not c.atoms(sympy.Indexed, Greatest)
        side = self._index if whole else self._real
        return self._map(_COMPARE[type(c)], side(c.lhs, scope), side(c.rhs, scope), type="mask")

    def _cases(self, e: Any, scope: Scope) -> Node:
        result: Node | None = None
        for value, condition in reversed(e.args):
            part = self._real(value, scope)
            if result is None:
                result = part
            else:
                mask = self._condition(condition, scope)
                result = self.program.add("choose", (mask, part, result))
        assert result is not None
        return result

    def _power(self, e: Any, scope: Scope) -> Node:
        base, exponent = e.args
        if _is_below(e):
            one = self._number(sympy.S.One)
            return self._map("divide", one, self._real(base ** (-exponent), scope))
        b = self._real(base, scope)
        if exponent.is_Integer:
            return self._map(("power", int(exponent)), b)
        if exponent == sympy.Rational(1, 2):
            return self._map("sqrt", b)
        return self._map("power", b, self._real(exponent, scope))

    # -- what runs over an index -----------------------------------------------------------------

    def _reduced(self, how: str, part: Node, bound: Sequence[Axis]) -> Node:
        """``how`` over those of ``bound`` that ``part`` has; a product is repeated over the others."""
        over = tuple(a for a in bound if a in part.axes)
        times = math.prod(a.size for a in bound if a not in part.axes)
        kept = tuple(a for a in part.axes if a not in bound)
        if over:
            part = self.program.add("reduce", (part,), kept, (how, over))
        return self._map(("power", times), part) if how == "product" and times != 1 else part

    def _sum(self, e: Any, scope: Scope) -> Node:
        factors, inner = _flattened(e)
        scope, bound = self._inside(e, scope)
        scope = self._scope(scope, inner)
        bound += tuple(Axis(q.name, n) for q, n in inner.items())
        running = self._running(factors, bound, scope)
        if running is not None:
            return running
        put = self._scattered(factors, bound, scope)
        if put is not None:
            return put
        return self._contracted(factors, bound, scope)

    def _contracted(self, factors: Sequence[Any], bound: Sequence[Axis], scope: Scope) -> Node:
        if any(factor.has(FloorDiv) for factor in factors):
            blocks = self._by_blocks(factors, bound, scope)
            if blocks is not None:
                return blocks
        parts: list[Node] = []
        outside: set[Any] = set()
        for factor in factors:
            if isinstance(factor, sympy.Indexed):
                outside |= self._outside(factor, scope)
        for factor in factors:
            if isinstance(factor, Bracket):
                # Each condition by itself: an array of few axes.  Where it fails a view is 0 already.
                for c in sympy.And.make_args(factor.condition):
                    implied = _at_least(c, scope) in outside
                    parts.append(self._condition(c, scope, implied=implied))
            elif isinstance(factor, sympy.KroneckerDelta):
                parts.append(self._selector(factor, scope))
            elif factor.is_Pow and factor.exp == 2:
                parts += [self._real(factor.base, scope)] * 2
            else:
                parts.append(self._real(factor, scope))
        apart = self._distributed(factors, parts, bound, scope)
        return apart if apart is not None else self._contraction(parts, bound)

    def _outside(self, e: Any, scope: Scope) -> set[Any]:
        """The affine expressions that are negative where a view reaches outside its tensor."""
        node = self._real(e, scope)
        if node.kind != "window":
            return set()
        _, lines, shape = node.data
        found = set()
        for line, n in zip(lines, shape, strict=True):
            found.add((line.start, frozenset(line.steps)))
            found.add((n - 1 - line.start, frozenset((a, -k) for a, k in line.steps)))
        return found

    def _contraction(self, parts: Sequence[Node], bound: Sequence[Axis]) -> Node:
        axes = union(p.axes for p in parts)
        over = tuple(a for a in bound if a in axes)
        times = math.prod(a.size for a in bound if a not in axes)
        kept = tuple(a for a in axes if a not in bound)
        part = self.program.add("contract", parts, kept, over)
        return (
            part if times == 1 else self._map("multiply", self._number(sympy.Integer(times)), part)
        )

    def _distributed(
        self, factors: Sequence[Any], parts: Sequence[Node], bound: Sequence[Axis], scope: Scope
    ) -> Node | None:
        """``Σ (a − b)·c`` as ``Σ a·c − Σ b·c`` where the difference is far larger than its terms."""
        if max(part.elements for part in parts) < _LARGE * 10:
            return None
        together = self._contraction(parts, bound)
        for place, factor in enumerate(factors):
            if not factor.is_Add:
                continue
            rest = [*factors[:place], *factors[place + 1 :]]
            terms = []
            for term in factor.args:
                own, inner = _flattened(sympy.Sum(sympy.Mul(term, *rest), *(
                    (index(a.name), 0, a.size - 1) for a in bound)))  # fmt: skip
                more = tuple(Axis(q.name, n) for q, n in inner.items())
                terms.append(self._contracted(own, (*bound, *more), self._scope(scope, inner)))
            apart = self._folded("add", terms)
            if 2 * _burden(apart) < _burden(together):
                return apart
        return None

    def _by_blocks(
        self, factors: Sequence[Any], bound: Sequence[Axis], scope: Scope
    ) -> Node | None:
        """A sum that has a letter ``d`` only in ``⌊d/n⌋``: once for each block, then taken from it."""
        names = {a.name for a in bound}
        inside = [f for f in factors if any(s.name in names for s in f.free_symbols if s.is_Symbol)]
        outside = [f for f in factors if f not in inside]
        body = sympy.Mul(*inside)
        for digit in sorted(body.atoms(FloorDiv), key=str):
            d, n = digit.args
            if not d.is_Symbol or d not in scope or d.name in names:
                continue
            count = (scope[d] - 1) // int(n) + 1
            block = index(f"{d.name}_by{n}")
            put = {digit: block}
            if any(f.xreplace(put).has(d) for f in inside) or scope.get(block, count) != count:
                continue
            inner = self._scope(scope, {block: count})
            part = self._contracted([f.xreplace(put) for f in inside], bound, inner)
            axis = Axis(block.name, count)
            own = Axis(d.name, scope[d])
            if axis not in part.axes:
                return None
            kept = tuple(own if a == axis else a for a in part.axes)
            part = self.program.add("take", (part, self._index(digit, scope)), kept, axis)
            if not outside:
                return part
            return self._folded("multiply", [self._real(sympy.Mul(*outside), scope), part])
        return None

    def _running(self, factors: Sequence[Any], bound: Sequence[Axis], scope: Scope) -> Node | None:
        """``Σ_p f(p)·[p ≤ i]`` in one pass, where nothing else has the index ``i``.

        So too ``Σ_p f(p)·exp(g(i) − h(p))·[p ≤ i]``, each exponent taken from one place to the next,
        and ``Σ_i v(i)·[j ≤ i]·Π_p [p ≤ i, p ≠ j] x(p)``, the derivative of a running product.
        """
        found = [f for f in factors if isinstance(f, Bracket)
                 and isinstance(f.condition, (sympy.Le, sympy.Ge))]  # fmt: skip
        names = {a.name for a in bound}
        if len(found) != 1:
            return None
        condition = found[0].condition
        inside = [s for s in condition.args if s.is_Symbol and s.name in names]
        if len(inside) != 1:
            return None
        q = inside[0]
        other = condition.args[1] if condition.args[0] == q else condition.args[0]
        if not other.is_Symbol or scope.get(other) != scope[q]:
            return None
        upward = isinstance(condition, sympy.Le) == (condition.args[0] == q)  # q ≤ other
        rest = [f for f in factors if f is not found[0]]
        tied = [f for f in rest if f.has(other) and f.has(q)]
        outside = [f for f in rest if f.has(other) and not f.has(q)]
        plain = [f for f in rest if not f.has(other)]
        own, to = Axis(q.name, scope[q]), Axis(other.name, scope[other])
        others = tuple(a for a in bound if a != own)
        if any(s.name == a.name for f in outside for s in f.free_symbols for a in others):
            return None
        steps: list[Node] = []
        if tied:
            step = None
            if len(tied) == 1 and not others:
                step = _step(tied[0], q, other, upward=upward)
            if step is None:
                return None
            steps = [self._real(step, scope)]
            outside.append(tied[0].xreplace({q: other}))
        part = self._contracted(plain, others, scope) if plain else self._number(sympy.S.One)
        if own not in part.axes:
            return None
        kept = tuple(to if a == own else a for a in part.axes)
        kept = union([kept, *(node.axes for node in steps)])
        how = "decayed" if steps else "sum"
        total = self.program.add("scan", (part, *steps), kept, (how, own, to, upward))
        if not outside:
            return total
        return self._folded("multiply", [self._real(sympy.Mul(*outside), scope), total])

    def _scattered(
        self, factors: Sequence[Any], bound: Sequence[Axis], scope: Scope
    ) -> Node | None:
        """``Σ_i f(i)·δ(idx[i], j)`` by adding each term at its place: no mask of i by j is made."""
        symbols = {s for s in scope if s.name in {a.name for a in bound}}
        found = [(f, _table_side(f, symbols)) for f in factors]
        if not any(sides for _, sides in found):
            return None
        rest = sympy.Mul(*(f for f, sides in found if not sides))
        deltas = [sides for _, sides in found if sides]
        tables = [self._index(table, scope) for table, _ in deltas]
        spots = [self._index(place, scope) for _, place in deltas]
        part = self._real(rest, scope)
        flat = [a for spot in spots for a in spot.axes]
        taken = set(union([part.axes, *(t.axes for t in tables)]))
        if len(set(flat)) < len(flat) or taken & set(flat):
            return None
        axes = union([part.axes, *(t.axes for t in tables)])
        kept = tuple(a for a in axes if a not in bound)
        over = tuple(a for a in bound if a in axes)
        times = math.prod(a.size for a in bound if a not in axes)
        node = self.program.add(
            "scatter", (part, *tables, *spots), (*kept, *flat), (over, len(tables))
        )
        return (
            node if times == 1 else self._map("multiply", self._number(sympy.Integer(times)), node)
        )

    def _big_product(self, e: Any, scope: Scope) -> Node:
        running = self._running_product(e, scope)
        if running is not None:
            return running
        scope, bound = self._inside(e, scope)
        return self._reduced("product", self._real(e.function, scope), bound)

    def _running_product(self, e: Any, scope: Scope) -> Node | None:
        """``Π_p x(p)`` over ``p ≤ i``, over ``p ≠ j`` or over both, in one pass or two."""
        body = e.function
        if len(e.limits) != 1 or not isinstance(body, Cases) or len(body.args) != 2:
            return None
        (value, condition), (rest, _) = body.args
        scope, (bound,) = self._inside(e, scope)
        q = e.limits[0][0]
        side = _side(condition, q)
        if rest != 1 or side is None:
            return None
        how, upward, other = side
        if scope.get(other) != bound.size or value.has(other):
            return None
        part = self._real(value, scope)
        if bound not in part.axes:
            return None
        to = Axis(other.name, bound.size)
        kept = tuple(to if a == bound else a for a in part.axes)
        return self.program.add("scan", (part,), kept, (how, bound, to, upward))


_HOW: dict[Any, str] = {
    Greatest: "greatest", Least: "least", FirstGreatest: "argmax", FirstLeast: "argmin",
}  # fmt: skip


# -- what a formula looks like -------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _is_number(e: Any) -> bool:
    """Whether nothing in ``e`` depends on an element or an index, and SymPy knows its value."""
    if not e.is_number or e.has(*BIG) or isinstance(e, RecordFunction):
        return False
    try:
        float(e)
    except (TypeError, ValueError):
        return False
    return True


def _affine(e: Any, scope: Scope) -> Affine | None:
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


def _at_least(c: Any, scope: Scope) -> Any:
    """``e`` of the condition ``e ≥ 0`` on indices, as `Lowering._outside` has it; None for another."""
    if not isinstance(c, (sympy.Ge, sympy.Le)):
        return None
    low, high = (c.rhs, c.lhs) if isinstance(c, sympy.Ge) else (c.lhs, c.rhs)
    line = _affine(sympy.expand(high - low), scope)
    return None if line is None else (line.start, frozenset(line.steps))


def _narrow(lines: Sequence[Affine | None], shape: Sequence[int]) -> bool:
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
def _flattened(total: Any) -> tuple[tuple[Any, ...], dict[Any, int]]:
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
def _placed(term: Any) -> tuple[Any, Any, Any] | None:
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


def _table_side(factor: Any, bound: set[Any]) -> tuple[Any, Any] | None:
    """``(table, place)`` of ``δ(idx[i], j)`` with i bound and j not; None for any other factor."""
    if not isinstance(factor, sympy.KroneckerDelta):
        return None
    for table, place in (factor.args, factor.args[::-1]):
        if table.has(Lookup) and table.has(*bound) and place.free_symbols and not (
            place.has(Lookup) or place.has(*bound)
        ):  # fmt: skip
            return table, place
    return None


def _side(condition: Any, q: Any) -> tuple[str, bool, Any] | None:
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


def _step(tied: Any, q: Any, i: Any, *, upward: bool) -> Any:
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


def _burden(root: Node) -> int:
    """What a program costs: a pass over memory takes as long as some ten products of a matrix product."""
    found = cost(root)
    return found.terms + 10 * found.elements


def _is_below(e: Any) -> bool:
    return bool(e.is_Pow and e.exp.could_extract_minus_sign())
