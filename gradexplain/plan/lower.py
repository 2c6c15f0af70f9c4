"""A formula in index notation as an array program.

Every index letter is an axis.  A part of a formula becomes an operation whose value has the axes of
its letters; a sum of products becomes one contraction, those of inner sums in it, whose order is
chosen by what it costs; an index that is no plain letter is a view where it is affine and gathers
where it is not.  Nothing of the size of a Jacobian is made unless the formula is the Jacobian's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sympy
from sympy.logic.boolalg import And, Not, Or

from gradexplain.formula.functions import KERNELS, RecordFunction
from gradexplain.formula.indices import index
from gradexplain.formula.kinds import (
    Bracket,
    Cases,
    FirstGreatest,
    FirstLeast,
    FloorDiv,
    Greatest,
    Least,
    Lookup,
    Modulo,
    Sum,
)
from gradexplain.plan.forms import (
    affine,
    at_least,
    burden_of,
    flattened,
    is_below,
    is_narrow,
    is_number,
    placed_term,
    side_of,
    step_of,
    table_side,
)
from gradexplain.plan.program import Axis, Node, Program, union

_SELECTORS = (sympy.KroneckerDelta, Bracket)

_COMPARE = {
    sympy.Lt: "less", sympy.Le: "less_equal", sympy.Gt: "greater", sympy.Ge: "greater_equal",
    sympy.Eq: "equal", sympy.Ne: "not_equal",
}  # fmt: skip

Scope = dict[Any, int]


class Lowering:
    """Formulas put into one program.

    ``shape(label)`` is that of a tensor that a formula names.
    """

    #: Where arrays are this large, what is small is computed first.
    large: float = 10_000

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
        own = None
        if max((arg.elements for arg in args), default=0) >= self.large:
            # The axes in the order in which the largest lies in memory.
            own = union(arg.axes for arg in sorted(args, key=lambda arg: -arg.elements))
        return self.program.add("map", args, own, what, type)

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
        if e.is_Number or e.is_NumberSymbol or is_number(e):
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
        lines = [affine(i, scope) for i in indices]
        if all(line is not None for line in lines) and is_narrow(lines, shape):
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
        if isinstance(e, sympy.floor):  # a remainder, of an index that was a tensor's element
            return self._map(
                "floor_divide",
                *(self._index(a, scope) for a in e.args[0].as_numer_denom()),
                type="index",
            )
        what = {"Add": "add", "Mul": "multiply", "FloorDiv": "floor_divide", "Modulo": "remainder"}
        name = type(e).__name__
        if name not in what:
            raise TypeError(f"no index {name}")
        return self._map(what[name], *(self._index(a, scope) for a in e.args), type="index")

    # -- sums of terms and products --------------------------------------------------------------

    def _terms(self, terms: Sequence[Any], scope: Scope) -> Node:
        """A sum of terms; those like ``a[i]·δ(j, idx[i])`` are added where they are not 0."""
        placed = [(term, place) for term in terms if (place := placed_term(term)) is not None]
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
        if max(part.elements for part in parts) >= self.large:
            parts = sorted(parts, key=lambda part: part.elements)
        return self._map(what, *parts)

    def _product(self, factors: Iterable[Any], scope: Scope) -> Node:
        factors = list(factors)
        masks = [f for f in factors if isinstance(f, _SELECTORS)]
        above = [f for f in factors if not isinstance(f, _SELECTORS) and not is_below(f)]
        below = [f.base ** (-f.exp) for f in factors if is_below(f)]
        over = [self._real(f, scope) for f in above]
        if below:
            under = self._folded("multiply", [self._real(f, scope) for f in below])
            large: list[Node] = []
            if max([under.elements, *(p.elements for p in over)]) >= self.large:
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
        if is_below(e):
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
        factors, inner = flattened(e)
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
                    implied = at_least(c, scope) in outside
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
        kept = tuple(a for a in axes if a not in bound)
        return self._repeated(self.program.add("contract", parts, kept, over), bound, axes)

    def _repeated(self, part: Node, bound: Sequence[Axis], axes: Sequence[Axis]) -> Node:
        """``part``, which was summed over ``axes``, as often as the rest of ``bound`` repeats it."""
        times = math.prod(a.size for a in bound if a not in axes)
        repeats = [self._number(sympy.Integer(times))] if times != 1 else []
        return self._folded("multiply", [*repeats, part])

    def _distributed(
        self, factors: Sequence[Any], parts: Sequence[Node], bound: Sequence[Axis], scope: Scope
    ) -> Node | None:
        """``Σ (a − b)·c`` as ``Σ a·c − Σ b·c`` where the difference is far larger than its terms."""
        if max(part.elements for part in parts) < self.large * 10:
            return None
        together = self._contraction(parts, bound)
        for place, factor in enumerate(factors):
            if not factor.is_Add:
                continue
            rest = [*factors[:place], *factors[place + 1 :]]
            terms = []
            for term in factor.args:
                own, inner = flattened(Sum(sympy.Mul(term, *rest), *(
                    (index(a.name), 0, a.size - 1) for a in bound)))  # fmt: skip
                more = tuple(Axis(q.name, n) for q, n in inner.items())
                terms.append(self._contracted(own, (*bound, *more), self._scope(scope, inner)))
            apart = self._folded("add", terms)
            if 2 * burden_of(apart) < burden_of(together):
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
            around = [self._real(sympy.Mul(*outside), scope)] if outside else []
            return self._folded("multiply", [*around, part])
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
                step = step_of(tied[0], q, other, upward=upward)
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
        around = [self._real(sympy.Mul(*outside), scope)] if outside else []
        return self._folded("multiply", [*around, total])

    def _scattered(
        self, factors: Sequence[Any], bound: Sequence[Axis], scope: Scope
    ) -> Node | None:
        """``Σ_i f(i)·δ(idx[i], j)`` by adding each term at its place: no mask of i by j is made."""
        symbols = {s for s in scope if s.name in {a.name for a in bound}}
        found = [(f, table_side(f, symbols)) for f in factors]
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
        parts, whole = (part, *tables, *spots), (*kept, *flat)
        node = self.program.add("scatter", parts, whole, (over, len(tables)))
        return self._repeated(node, bound, axes)

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
        side = side_of(condition, q)
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
