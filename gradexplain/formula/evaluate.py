"""The value of a formula over whole tensors, in float64 or with digits to spare.

Every index letter is an axis.  A part of a formula becomes an array with the axes of its letters;
products are broadcast, sums of products are contracted by ``einsum``, an index that is not a plain
letter gathers.  Nothing of the size of a Jacobian is made unless the formula is the Jacobian's.

Beside each value goes its *magnitude*: a first-order bound, in units of the roundoff, of the error
that rounding every operation makes (running error analysis: Higham, Accuracy and Stability of
Numerical Algorithms, section 3.3).  It is the measure of what may differ (`gradexplain.verdict.compare`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import sympy
from sympy.logic.boolalg import And, Not, Or

from gradexplain.formula.functions import (
    BIG,
    KERNELS,
    Bracket,
    Cases,
    FloorDiv,
    Greatest,
    Lookup,
    Modulo,
    RecordFunction,
    mp,
)
from gradexplain.formula.indices import index

#: What `Evaluator.value` returns: values (float64, or mpmath numbers) and their magnitudes.
Pair = tuple[Any, Any]

_SELECTORS = (sympy.KroneckerDelta, Bracket)


@dataclass(slots=True)
class _Part:
    """An array with one axis for each symbol of ``axes``, and the magnitudes with the same axes.

    ``fresh``: the array was made for this part and nothing else holds it, so it may be written to.
    """

    value: Any
    size: Any
    axes: tuple[Any, ...]
    fresh: bool = False

    def __post_init__(self) -> None:
        # NumPy returns a bare number for an operation on arrays without axes.
        self.value = as_array(self.value)
        if self.size is not None:
            self.size = np.asarray(self.size, dtype=np.float64)


def to_exact(array: Any) -> Any:
    """A float64 array as mpmath numbers, each exactly the float."""
    with np.errstate(all="ignore"):
        exact = np.frompyfunc(lambda x: mp.mpf(float(x)), 1, 1)(np.asarray(array, dtype=object))
    return as_array(exact)


def to_float(array: Any) -> Any:
    """mpmath numbers, or floats, as float64."""
    array = np.asarray(array)
    if array.dtype != object:
        return array.astype(np.float64)
    with np.errstate(all="ignore"):
        return np.asarray(np.frompyfunc(_float, 1, 1)(array), dtype=np.float64)


def _float(x: Any) -> float:
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def _exact_divide(a: Any, b: Any) -> Any:
    if b == 0:
        return mp.nan if a == 0 or mp.isnan(a) else mp.inf if a > 0 else -mp.inf
    if mp.isinf(b):
        return mp.nan if mp.isinf(a) else mp.zero
    return a / b


def _exact_power(a: Any, b: Any) -> Any:
    """IEEE's ``pow`` for real results."""
    if b == 0 or a == 1:
        return mp.one
    if mp.isnan(a) or mp.isnan(b):
        return mp.nan
    if mp.isinf(b):
        size = abs(a)
        if size == 1:
            return mp.one
        return mp.inf if (size > 1) == (b > 0) else mp.zero
    whole = b == mp.floor(b)
    odd = whole and mp.fmod(b, 2) != 0
    if a == 0:
        return mp.zero if b > 0 else mp.inf
    if mp.isinf(a):
        size = mp.inf if b > 0 else mp.zero
        return -size if a < 0 and odd else size
    if a < 0 and not whole:
        return mp.nan
    result = mp.power(a, int(b) if whole and abs(b) < 10**6 else b)
    return result.real if isinstance(result, mp.mpc) else result


_divide_exact = np.frompyfunc(_exact_divide, 2, 1)
_power_exact = np.frompyfunc(_exact_power, 2, 1)


class Evaluator:
    """Values of formulas whose elements have the values that ``resolve(label)`` gives.

    ``sizes`` is the size of each free index; ``exact`` chooses mpmath.
    """

    def __init__(
        self,
        resolve: Callable[[str], Pair],
        sizes: Mapping[Any, int],
        *,
        exact: bool,
        lookup: Callable[[str], Any] | None = None,
        magnitudes: bool = True,
    ) -> None:
        self._resolve = resolve
        self._lookup = lookup
        self.sizes = dict(sizes)
        self.exact = exact
        self.magnitudes = magnitudes
        #: Values in float64 and nothing else.
        self._quick = not exact and not magnitudes
        self._memo: dict[Any, _Part] = {}
        self._repeated: frozenset[Any] = frozenset()
        #: The place of each axis in the result.
        self._wanted: dict[Any, int] = {}

    def value(self, e: Any, axes: Sequence[Any], shape: Sequence[int]) -> Pair:
        """``e`` over ``axes`` (index symbols, or 0 for an axis of one element), in ``shape``."""
        named = tuple(a for a in axes if not a.is_Integer)
        self._wanted = {axis: place for place, axis in enumerate(named)}
        e = sympy.sympify(e)
        self._repeated = _repeated(e)
        with np.errstate(all="ignore"):
            part = self._eval(e, self.sizes)
            value = self._aligned(part.value, part.axes, named)
            size = self._aligned(part.size, part.axes, named) if self.magnitudes else None
        full = [n for n, a in zip(shape, axes, strict=True) if not a.is_Integer]
        value = np.broadcast_to(value, full).reshape(tuple(shape))
        if size is not None:
            size = np.broadcast_to(size, full).reshape(tuple(shape))
        return value, size

    def holds(self, condition: Any, axes: Sequence[Any], shape: Sequence[int]) -> Any:
        """Where a condition holds, as an array of ``shape``."""
        with np.errstate(all="ignore"):
            mask, own = self._condition(condition, self.sizes)
        return np.broadcast_to(self._aligned(mask, own, tuple(axes)), tuple(shape))

    # -- pieces ----------------------------------------------------------------------------------

    def _number(self, e: Any) -> Any:
        if not self.exact:
            return np.float64(float(e))
        if e.is_Rational:
            # The literal 0.1 is the double that PyTorch holds.
            if e.q != 1:
                as_double = float(e)
                if sympy.Rational(repr(as_double)) == e:
                    return mp.mpf(as_double)
            return mp.mpf(int(e.p)) / int(e.q)
        if e is sympy.oo:
            return mp.inf
        if e is -sympy.oo:
            return -mp.inf
        if e is sympy.nan:
            return mp.nan
        return mp.mpf(str(sympy.N(e, 60)))

    def _eval(self, e: Any, sizes: Mapping[Any, int]) -> _Part:
        if isinstance(e, sympy.Indexed):
            return self._element(str(e.base.label.name), e.indices, sizes)
        if e.is_Symbol:
            if e.is_integer:
                return _plain(self._wrap(np.arange(sizes[e])), (e,))
            return self._element(e.name, (), sizes)
        if e.is_Number or e.is_NumberSymbol:
            return self._constant(self._number(e))
        if _is_number(e) and not isinstance(e, RecordFunction):
            try:
                return self._constant(self._number(e))
            except (TypeError, ValueError):
                pass
        if e.is_Add:
            return self._terms(e.args, sizes)
        if e not in self._repeated:
            return self._compound(e, sizes)
        key = e, tuple(sorted((s.name, sizes[s]) for s in e.free_symbols if s in sizes))
        if key not in self._memo:
            self._memo[key] = self._compound(e, sizes)
            self._memo[key].fresh = False
        return self._memo[key]

    def _compound(self, e: Any, sizes: Mapping[Any, int]) -> _Part:
        if e.is_Mul:
            return self._product(e.args, sizes)
        if e.is_Pow:
            return self._power(e, sizes)
        if isinstance(e, sympy.Sum):
            return self._sum(e, sizes)
        if isinstance(e, sympy.Product):
            return self._big_product(e, sizes)
        if isinstance(e, Greatest):
            return self._greatest(e, sizes)
        if isinstance(e, _SELECTORS):
            mask, axes = self._selector(e, sizes)
            return _plain(self._wrap(mask.astype(np.float64)), axes)
        if isinstance(e, Cases):
            return self._piecewise(e, sizes)
        if isinstance(e, RecordFunction):
            return self._eval_record(e, sizes)
        if isinstance(e, (FloorDiv, Modulo, Lookup)):
            index, axes = self._index(e, sizes)
            return _plain(self._wrap(index), axes)
        if isinstance(e, (sympy.Function, sympy.Max, sympy.Min)):
            return self._function(e, [self._eval(a, sizes) for a in e.args])
        raise TypeError(f"no value for {type(e).__name__}")

    def _constant(self, x: Any) -> _Part:
        value = np.empty((), dtype=object if self.exact else np.float64)
        value[()] = x
        return _plain(value, ())

    def _wrap(self, array: Any) -> Any:
        return to_exact(array) if self.exact else np.asarray(array, dtype=np.float64)

    def _element(self, label: str, indices: Sequence[Any], sizes: Mapping[Any, int]) -> _Part:
        value, size = self._resolve(label)
        symbols = [i for i in indices if i.is_Symbol]
        if len(set(symbols)) == len(symbols) and all(
            (i.is_Symbol and sizes[i] == n) or (i == 0 and n == 1)
            for i, n in zip(indices, value.shape, strict=True)
        ):
            pick = tuple(slice(None) if i.is_Symbol else 0 for i in indices)
            return _Part(value[pick], size[pick] if self.magnitudes else None, tuple(symbols))
        found = [self._index(i, sizes) for i in indices]
        axes = _union(a for _, a in found)
        at = tuple(
            np.clip(self._aligned(index, own, axes), 0, n - 1)
            for (index, own), n in zip(found, value.shape, strict=True)
        )
        return _Part(value[at], size[at] if self.magnitudes else None, axes)

    def _index(self, e: Any, sizes: Mapping[Any, int]) -> tuple[Any, tuple[Any, ...]]:
        """An index expression as an integer array."""
        if e.is_Integer:
            return np.array(int(e)), ()
        if e.is_Symbol:
            return np.arange(sizes[e]), (e,)
        if isinstance(e, Lookup):
            assert self._lookup is not None
            table = self._lookup(e.args[0].name)
            found = [self._index(i, sizes) for i in e.args[1:]]
            axes = _union(a for _, a in found)
            at = tuple(
                np.clip(self._aligned(i, own, axes), 0, n - 1)
                for (i, own), n in zip(found, table.shape, strict=True)
            )
            return table[at], axes
        found = [self._index(arg, sizes) for arg in e.args]
        axes = _union(a for _, a in found)
        arrays = [self._aligned(i, own, axes) for i, own in found]
        if e.is_Add:
            return sum(arrays[1:], arrays[0]), axes
        if e.is_Mul:
            return math.prod(arrays[1:], start=arrays[0]), axes
        if isinstance(e, FloorDiv):
            return arrays[0] // arrays[1], axes
        if isinstance(e, Modulo):
            return arrays[0] % arrays[1], axes
        raise TypeError(f"no index {type(e).__name__}")

    @staticmethod
    def _aligned(array: Any, axes: tuple[Any, ...], to: tuple[Any, ...]) -> Any:
        """``array`` with its axes in the order of ``to``, missing ones of length 1."""
        if axes == to:
            return array
        order = sorted(range(len(axes)), key=lambda place: to.index(axes[place]))
        array = np.transpose(array, order) if order else array
        pick = tuple(slice(None) if axis in axes else None for axis in to)
        return array[pick]

    def _joined(self, parts: Sequence[_Part]) -> tuple[list[Any], list[Any], tuple[Any, ...]]:
        axes = _union(p.axes for p in parts)
        values = [self._aligned(p.value, p.axes, axes) for p in parts]
        sizes = [self._aligned(p.size, p.axes, axes) if self.magnitudes else None for p in parts]
        return values, sizes, axes

    def _terms(self, terms: Sequence[Any], sizes: Mapping[Any, int]) -> _Part:
        """A sum of terms; those like ``a[i]·δ(j, idx[i])`` are added where they are not 0."""
        placed = [(term, place) for term in terms if (place := _placed(term)) is not None]
        if not placed or len(placed) == len(terms):
            return self._add([self._eval(term, sizes) for term in terms])
        apart = {term for term, _ in placed}
        total = self._add([self._eval(term, sizes) for term in terms if term not in apart])
        rest = []
        for term, (factor, axis, table) in placed:
            at, own = self._index(table, sizes)
            part = self._eval(factor, sizes)
            others = tuple(a for a in total.axes if a != axis)
            if axis not in total.axes or not set(part.axes + own) <= set(others):
                rest.append(self._eval(term, sizes))
                continue
            n = sizes[axis]
            at = self._aligned(at, own, others)
            valid = (at >= 0) & (at < n)
            open_grid = np.ix_(*(np.arange(sizes[a]) for a in others))
            index_of = {**dict(zip(others, open_grid, strict=True)), axis: np.clip(at, 0, n - 1)}
            where = tuple(index_of[a] for a in total.axes)
            value = total.value if total.fresh else total.value.copy()
            value[where] += np.where(valid, self._aligned(part.value, part.axes, others), 0)
            size = None
            if self.magnitudes:
                size = total.size.copy()
                size[where] += np.where(valid, self._aligned(part.size, part.axes, others), 0)
            total = _Part(value, size, total.axes, fresh=True)
        return self._add([total, *rest]) if rest else total

    def _add(self, parts: Sequence[_Part]) -> _Part:
        if self._quick:
            return self._folded(np.add, parts)
        values, sizes, axes = self._joined(parts)
        value, size = values[0], sizes[0]
        for v, s in zip(values[1:], sizes[1:], strict=True):
            value = value + v
            size = size + s if self.magnitudes else None
        return _Part(value, size, axes)

    def _folded(self, ufunc: Any, parts: Sequence[_Part]) -> _Part:
        """``parts`` under a ufunc, in arrays that are there already where that can be.

        Small ones go first, so that few operations are of the result's size.
        """
        parts = sorted(parts, key=lambda part: part.value.size)
        axes = _union(part.axes for part in parts)
        value, fresh = self._aligned(parts[0].value, parts[0].axes, axes), parts[0].fresh
        for part in parts[1:]:
            other = self._aligned(part.value, part.axes, axes)
            shape = np.broadcast_shapes(value.shape, other.shape)
            if fresh and value.shape == shape:
                ufunc(value, other, out=value)
            elif part.fresh and other.shape == shape:
                value = ufunc(value, other, out=other)
            else:
                value = as_array(ufunc(value, other))
            fresh = True
        return _Part(value, None, axes, fresh)

    # -- products and selectors ------------------------------------------------------------------

    def _product(self, factors: Iterable[Any], sizes: Mapping[Any, int]) -> _Part:
        factors = list(factors)
        masks = [f for f in factors if isinstance(f, _SELECTORS)]
        above = [f for f in factors if not isinstance(f, _SELECTORS) and not _is_below(f)]
        below = [f for f in factors if _is_below(f)]
        over = [self._eval(f, sizes) for f in above]
        if below:
            under = self._times([self._eval(f.base ** (-f.exp), sizes) for f in below])
            if self._quick:
                # What is small is divided first: few operations are of the result's size.
                small = [p for p in over if p.value.size <= under.value.size]
                large = [p for p in over if p.value.size > under.value.size]
                part = self._times([self._divide(self._times(small), under), *large])
            else:
                part = self._divide(self._times(over), under)
        else:
            part = self._times(over)
        for mask in masks:
            part = self._select(part, *self._selector(mask, sizes))
        return part

    def _times(self, parts: Sequence[_Part]) -> _Part:
        if not parts:
            return self._constant(mp.one if self.exact else 1.0)
        if self._quick:
            return self._folded(np.multiply, parts)
        values, sizes, axes = self._joined(parts)
        value, size = values[0], sizes[0]
        for v, s in zip(values[1:], sizes[1:], strict=True):
            before, value = value, value * v
            if self.magnitudes:
                a, b = np.abs(to_float(before)), np.abs(to_float(v))
                size = a * s + b * size + a * b
        return _Part(value, size, axes)

    def _divide(self, a: _Part, b: _Part) -> _Part:
        if self._quick:
            axes = _union([a.axes, b.axes])
            top, bottom = (self._aligned(part.value, part.axes, axes) for part in (a, b))
            whole = a.fresh and top.shape == np.broadcast_shapes(top.shape, bottom.shape)
            return _Part(np.divide(top, bottom, out=top if whole else None), None, axes, True)
        (top, bottom), (top_size, bottom_size), axes = self._joined([a, b])
        value = _divide_exact(top, bottom) if self.exact else top / bottom
        size = None
        if self.magnitudes:
            width, quotient = np.abs(to_float(bottom)), np.abs(to_float(value))
            size = (top_size + quotient * bottom_size) / width + quotient
        return _Part(as_array(value), size, axes)

    def _select(self, part: _Part, mask: Any, mask_axes: tuple[Any, ...]) -> _Part:
        """``part`` where ``mask`` holds, 0 elsewhere, whatever ``part`` is there."""
        axes = _union([part.axes, mask_axes])
        here = self._aligned(mask, mask_axes, axes)
        zero = mp.zero if self.exact else 0.0
        value = np.where(here, self._aligned(part.value, part.axes, axes), zero)
        size = None
        if self.magnitudes:
            size = np.where(here, self._aligned(part.size, part.axes, axes), 0.0)
        return _Part(value, size, axes)

    def _selector(self, e: Any, sizes: Mapping[Any, int]) -> tuple[Any, tuple[Any, ...]]:
        if isinstance(e, sympy.KroneckerDelta):
            return self._condition(sympy.Eq(e.args[0], e.args[1], evaluate=False), sizes)
        return self._condition(e.condition, sizes)

    def _condition(self, c: Any, sizes: Mapping[Any, int]) -> tuple[Any, tuple[Any, ...]]:
        if c in (sympy.true, sympy.false):
            return np.array(bool(c)), ()
        if isinstance(c, (And, Or)):
            found = [self._condition(part, sizes) for part in c.args]
            axes = _union(a for _, a in found)
            join = np.logical_and if isinstance(c, And) else np.logical_or
            return join.reduce(
                np.broadcast_arrays(*(self._aligned(m, own, axes) for m, own in found))
            ), axes
        if isinstance(c, Not):
            mask, axes = self._condition(c.args[0], sizes)
            return ~mask, axes
        if c.lhs.is_integer and c.rhs.is_integer and not c.atoms(sympy.Indexed):
            found = [self._index(side, sizes) for side in (c.lhs, c.rhs)]
        else:
            found = [
                (p.value, p.axes) for p in (self._eval(side, sizes) for side in (c.lhs, c.rhs))
            ]
        axes = _union(a for _, a in found)
        a, b = (self._aligned(value, own, axes) for value, own in found)
        return np.asarray(_COMPARE[type(c)](a, b), dtype=bool), axes

    def _piecewise(self, e: Any, sizes: Mapping[Any, int]) -> _Part:
        result: _Part | None = None
        for value, condition in reversed(e.args):
            part = self._eval(value, sizes)
            if result is None:
                result = part
                continue
            mask, own = self._condition(condition, sizes)
            axes = _union([part.axes, result.axes, own])
            here = self._aligned(mask, own, axes)
            size = None
            if self.magnitudes:
                size = np.where(
                    here,
                    self._aligned(part.size, part.axes, axes),
                    self._aligned(result.size, result.axes, axes),
                )
            result = _Part(
                np.where(
                    here,
                    self._aligned(part.value, part.axes, axes),
                    self._aligned(result.value, result.axes, axes),
                ),
                size,
                axes,
            )
        assert result is not None
        return result

    # -- powers and functions --------------------------------------------------------------------

    def _power(self, e: Any, sizes: Mapping[Any, int]) -> _Part:
        base, exponent = e.args
        if _is_below(e):
            one = self._constant(mp.one if self.exact else 1.0)
            return self._divide(one, self._eval(base ** (-exponent), sizes))
        b = self._eval(base, sizes)
        if exponent.is_Integer:
            n = int(exponent)
            if self._quick:
                return _Part(b.value**n, None, b.axes, True)
            value = _power_exact(b.value, mp.mpf(n)) if self.exact else b.value**n
            floats = to_float(b.value)
            return _Part(value, self._grown(value, [(n * floats ** (n - 1), b.size)]), b.axes)
        if exponent == sympy.Rational(1, 2) and not self.exact:
            value = np.sqrt(b.value)
            return _Part(value, self._grown(value, [(0.5 / value, b.size)]), b.axes)
        x = self._eval(exponent, sizes)
        (bv, xv), (bs, xs), axes = self._joined([b, x])
        value = as_array(_power_exact(bv, xv) if self.exact else np.power(bv, xv))
        if not self.magnitudes:
            return _Part(value, None, axes)
        bf, xf, vf = to_float(bv), to_float(xv), to_float(value)
        slopes = [(np.where(bf == 0, 0.0, vf * xf / bf), bs)]
        if not exponent.is_number:
            slopes.append((np.where(bf > 0, vf * np.log(np.abs(bf)), 0.0), xs))
        return _Part(value, self._grown(value, slopes), axes)

    def _grown(self, value: Any, slopes: Iterable[tuple[Any, Any]]) -> Any:
        """The magnitude of ``f(a)``: ``|f| + Σ |f'|·magnitude(a)``."""
        if not self.magnitudes:
            return None
        size = np.abs(to_float(value))
        for slope, inner in slopes:
            size = size + np.nan_to_num(np.abs(to_float(slope)) * inner, nan=0.0, posinf=0.0)
        return size

    def _eval_record(self, e: Any, sizes: Mapping[Any, int]) -> _Part:
        self._repeated |= _repeated(e.definition)
        return self._eval(e.definition, sizes)

    def _function(self, e: Any, parts: Sequence[_Part]) -> _Part:
        kernel = KERNELS[type(e)]
        values, inner, axes = self._joined(parts)
        if self.exact:
            assert kernel.exact is not None
            value = as_array(np.frompyfunc(kernel.exact, len(values), 1)(*values))
        else:
            assert kernel.numpy is not None
            value = np.asarray(kernel.numpy(*values), dtype=np.float64)
        if not self.magnitudes:
            fresh = not any(np.may_share_memory(value, given) for given in values)
            return _Part(as_array(value), None, axes, fresh)
        return _Part(as_array(value), self._grown(value, self._slopes(e, values, inner)), axes)

    def _slopes(self, e: Any, values: Sequence[Any], inner: Sequence[Any]) -> Any:
        """``|f'|`` at float64 for each argument, from the function's own derivative."""
        symbols = [sympy.Symbol(f"_{n}", real=True) for n in range(len(values))]
        function = e.func(*symbols)
        floats = {s.name: to_float(v) for s, v in zip(symbols, values, strict=True)}
        for place, size in enumerate(inner, start=1):
            try:
                slope = function.fdiff(place)
            except sympy.core.function.ArgumentIndexError:
                continue
            if isinstance(slope, sympy.Heaviside) or slope.has(sympy.Heaviside, sympy.Derivative):
                yield np.ones(()), size
                continue
            shaped = np.broadcast_shapes(*(v.shape for v in floats.values()))
            axes = tuple(sympy.Symbol(f"_a{n}", integer=True) for n in range(len(shaped)))

            def resolve(name: str, axes: Any = axes) -> Pair:
                return floats[name], floats[name]

            plain = Evaluator(resolve, {}, exact=False, magnitudes=False)
            yield plain._scalarwise(slope, floats), size

    def _scalarwise(self, e: Any, floats: Mapping[str, Any]) -> Any:
        """A scalar formula in plain symbols over arrays of one shape."""
        shape = np.broadcast_shapes(*(v.shape for v in floats.values()))
        axes = tuple(sympy.Symbol(f"_a{n}", integer=True) for n in range(len(shape)))
        sizes = dict(zip(axes, shape, strict=True))
        wide = (
            {s: sympy.Indexed(sympy.IndexedBase(s), *axes) for s in e.free_symbols} if axes else {}
        )
        full = {name: np.broadcast_to(v, shape) for name, v in floats.items()}
        inner = Evaluator(lambda n: (full[n], full[n]), sizes, exact=False, magnitudes=False)
        return inner.value(e.xreplace(wide), axes, shape)[0]

    # -- sums ------------------------------------------------------------------------------------

    def _sum(self, e: Any, sizes: Mapping[Any, int]) -> _Part:
        scope = {**sizes, **{q: int(last) + 1 for q, _, last in e.limits}}
        bound = [q for q, *_ in e.limits]
        body = e.function
        factors = list(sympy.Mul.make_args(body))
        if not self.exact:
            found, inner = _flattened(e)
            factors = list(found)
            scope |= inner
            bound += inner
        running = self._running_sum(factors, bound, scope)
        if running is not None:
            return running
        if not self.exact and (len(factors) > 1 or factors[0].is_Pow):
            done = self._scattered(factors, bound, scope)
            if done is None:
                done = self._einsum(factors, bound, scope)
            if done is not None:
                return done
        part = self._eval(body, scope)
        return self._reduced(part, bound, scope)

    def _running_sum(
        self, factors: Sequence[Any], bound: Sequence[Any], scope: Mapping[Any, int]
    ) -> _Part | None:
        """``Σ_p f(p)·[p ≤ i]`` in one pass, where nothing else has the index ``i``."""
        conditions = [
            f for f in factors
            if isinstance(f, Bracket) and isinstance(f.condition, (sympy.Le, sympy.Ge))
        ]  # fmt: skip
        if len(bound) != 1 or len(conditions) != 1:
            return None
        condition = conditions[0].condition
        (q,) = bound
        sides = condition.args
        other = sides[1] if sides[0] == q else sides[0]
        rest = sympy.Mul(*(f for f in factors if f is not conditions[0]))
        if q not in sides or not other.is_Symbol or rest.has(other) or scope[other] != scope[q]:
            return None
        part = self._eval(rest, scope)
        if q not in part.axes:
            return None
        place = part.axes.index(q)
        upward = isinstance(condition, sympy.Le) == (sides[0] == q)
        turn = slice(None) if upward else slice(None, None, -1)
        pick = tuple(turn if axis == place else slice(None) for axis in range(len(part.axes)))
        axes = tuple(other if axis == q else axis for axis in part.axes)
        value = np.cumsum(part.value[pick], axis=place)[pick]
        size = None if part.size is None else np.cumsum(part.size[pick], axis=place)[pick]
        return _Part(as_array(value), size, axes)

    def _scattered(
        self, factors: Sequence[Any], bound: Sequence[Any], scope: Mapping[Any, int]
    ) -> _Part | None:
        """``Σ_i f(i)·δ(idx[i], j)`` by adding each term at its place: no mask of i by j is made."""
        found = [(f, _table_side(f, bound)) for f in factors]
        if not any(sides for _, sides in found):
            return None
        rest = sympy.Mul(*(f for f, sides in found if not sides))
        deltas = [sides for _, sides in found if sides]
        places = [sorted(side.free_symbols & set(scope), key=str) for _, side in deltas]
        flat = [s for symbols in places for s in symbols]
        others = rest.free_symbols.union(*(table.free_symbols for table, _ in deltas))
        if len(set(flat)) < len(flat) or others & set(flat):
            return None
        part = self._eval(rest, scope)
        tables = [self._index(table, scope) for table, _ in deltas]
        axes = _union([part.axes, *(own for _, own in tables)])
        kept = tuple(a for a in axes if a not in bound)
        order = (*kept, *(a for a in axes if a in bound))
        shape = tuple(scope[a] for a in order)
        count = math.prod(scope[a] for a in kept)
        where = np.arange(count).reshape([scope[a] if a in kept else 1 for a in order])
        valid = np.ones(shape, dtype=bool)
        for (_, side), symbols, (table, own) in zip(deltas, places, tables, strict=True):
            spot, spot_axes = self._index(side, scope)
            spot = np.broadcast_to(
                self._aligned(spot, spot_axes, tuple(symbols)), [scope[s] for s in symbols]
            ).ravel()
            back = np.full(max(int(spot.max(initial=0)), int(table.max(initial=0))) + 1, -1)
            back[spot] = np.arange(spot.size)
            at = back[self._aligned(table, own, order)]
            valid = valid & (at >= 0)
            where = where * spot.size + at
        room = count * math.prod(scope[s] for s in flat)
        where = np.broadcast_to(where, shape)[valid]
        times = math.prod(scope[q] for q in bound if q not in axes)

        def added(array: Any) -> Any:
            terms = np.broadcast_to(self._aligned(array, part.axes, order), shape)[valid]
            total = np.bincount(where, weights=terms, minlength=room) * times
            return total.reshape([scope[a] for a in (*kept, *flat)])

        size = added(np.asarray(part.size)) if self.magnitudes else None
        return _Part(added(part.value), size, (*kept, *flat))

    def _reduced(self, part: _Part, bound: Sequence[Any], scope: Mapping[Any, int]) -> _Part:
        places = tuple(part.axes.index(q) for q in bound if q in part.axes)
        times = math.prod(scope[q] for q in bound if q not in part.axes)
        kept = tuple(a for a in part.axes if a not in bound)
        value = as_array(np.sum(part.value, axis=places)) * times
        size = np.asarray(np.sum(part.size, axis=places)) * times if self.magnitudes else None
        return _Part(as_array(value), size, kept, fresh=True)

    def _einsum(
        self, factors: Sequence[Any], bound: Sequence[Any], scope: Mapping[Any, int]
    ) -> _Part | None:
        """A sum of products in float64, without the product of all of them ever being made."""
        parts = []
        for factor in factors:
            if factor.is_Pow and factor.exp == 2:
                parts += [self._eval(factor.base, scope)] * 2
            else:
                parts.append(self._eval(factor, scope))
        if any(isinstance(f, _SELECTORS) for f in factors) and not all(
            np.isfinite(p.value).all() for p in parts
        ):
            return None
        axes = _union(p.axes for p in parts)
        # In the result's order, where they are in it: what follows then reads memory in sequence.
        kept = tuple(sorted((a for a in axes if a not in bound), key=self._place))
        times = math.prod(scope[q] for q in bound if q not in axes)
        labels = [p.axes for p in parts]

        def contracted(arrays: Sequence[Any]) -> Any:
            result = einsum(arrays, labels, kept)
            return result if times == 1 else result * times

        value = contracted([p.value for p in parts])
        size = None
        if self.magnitudes:
            widths = [np.abs(p.value) for p in parts]
            size = contracted(widths) + sum(
                contracted([*widths[:place], p.size, *widths[place + 1 :]])
                for place, p in enumerate(parts)
            )
        return _Part(value, size, kept, fresh=True)

    def _place(self, axis: Any) -> int:
        return self._wanted.get(axis, len(self._wanted))

    def _greatest(self, e: Any, sizes: Mapping[Any, int]) -> _Part:
        scope = {**sizes, **{q: int(last) + 1 for q, _, last in e.limits}}
        bound = [q for q, *_ in e.limits]
        part = self._eval(e.function, scope)
        places = tuple(part.axes.index(q) for q in bound if q in part.axes)
        kept = tuple(a for a in part.axes if a not in bound)
        value = as_array(e.reduce.reduce(part.value, axis=places))
        size = np.asarray(np.max(part.size, axis=places)) if self.magnitudes else None
        return _Part(value, size, kept)

    def _big_product(self, e: Any, sizes: Mapping[Any, int]) -> _Part:
        scope = {**sizes, **{q: int(last) + 1 for q, _, last in e.limits}}
        bound = [q for q, *_ in e.limits]
        part = self._eval(e.function, scope)
        places = tuple(part.axes.index(q) for q in bound if q in part.axes)
        kept = tuple(a for a in part.axes if a not in bound)
        times = math.prod(scope[q] for q in bound if q not in part.axes)
        value = as_array(np.multiply.reduce(part.value, axis=places))
        if times != 1:
            value = as_array(_power_exact(value, mp.mpf(times)) if self.exact else value**times)
        size = None
        if self.magnitudes:
            size = times * _product_error(np.abs(to_float(part.value)), part.size, places)
        return _Part(value, size, kept)


@lru_cache(maxsize=4096)
def _is_number(e: Any) -> bool:
    """Whether nothing in ``e`` depends on an element or an index."""
    return bool(e.is_number) and not e.has(sympy.Sum)


@lru_cache(maxsize=1024)
def _repeated(e: Any) -> frozenset[Any]:
    """The functions and sums that stand more than once in ``e``: their values are kept."""
    found = Counter(
        part for part in sympy.preorder_traversal(e) if isinstance(part, (*BIG, sympy.Function))
    )
    return frozenset(part for part, times in found.items() if times > 1)


@lru_cache(maxsize=1024)
def _flattened(total: Any) -> tuple[tuple[Any, ...], dict[Any, int]]:
    """The factors of a sum of products, those of the sums in it among them, and the inner indices.

    Which sum goes first is then `einsum`'s to choose, and not the formula's, where it may make
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


def _table_side(factor: Any, bound: Sequence[Any]) -> tuple[Any, Any] | None:
    """``(table, place)`` of ``δ(idx[i], j)`` with i bound and j not; None for any other factor."""
    if not isinstance(factor, sympy.KroneckerDelta):
        return None
    for table, place in (factor.args, factor.args[::-1]):
        if table.has(Lookup) and table.has(*bound) and place.free_symbols and not (
            place.has(Lookup) or place.has(*bound)
        ):  # fmt: skip
            return table, place
    return None


def einsum(arrays: Sequence[Any], labels: Sequence[tuple[Any, ...]], out: tuple[Any, ...]) -> Any:
    """The sum over every label that is not in ``out`` of the product of ``arrays``, in an array of its own.

    NumPy's ``einsum`` chooses the order; each pair is a matrix product where it can be one, else a
    single pass over both (``einsum`` with ``optimize`` is several times slower at that).
    """
    number = {
        axis: place for place, axis in enumerate(dict.fromkeys(a for ls in labels for a in ls))
    }
    operands = [
        (array, tuple(number[a] for a in ls)) for array, ls in zip(arrays, labels, strict=True)
    ]
    target = tuple(number[a] for a in out)
    if len(operands) > 2:
        flat = [part for operand in operands for part in operand]
        # Greed would join two small weights into something large; all orders of six take a millisecond.
        how = "optimal" if len(operands) <= 6 else "greedy"
        path, _ = np.einsum_path(*flat, target, optimize=how)
        for places in path[1:-1]:
            chosen = [operands.pop(place) for place in sorted(places, reverse=True)]
            rest = {a for _, ls in operands for a in ls} | set(target)
            kept = tuple(dict.fromkeys(a for _, ls in chosen for a in ls if a in rest))
            operands.append((_pairwise(chosen, kept), kept))
    return _pairwise(operands, target)


def _pairwise(operands: Sequence[tuple[Any, tuple[int, ...]]], out: tuple[int, ...]) -> Any:
    if len(operands) == 2:
        (a, la), (b, lb) = operands
        both = [i for i in la if i in lb]
        summed = [i for i in both if i not in out]
        batch = [i for i in both if i in out]
        left = [i for i in la if i not in lb]
        right = [i for i in lb if i not in la]
        if summed and left and right and set(left + right) <= set(out):
            size = dict(zip(la, a.shape, strict=True)) | dict(zip(lb, b.shape, strict=True))

            if out.index(right[0]) < out.index(left[0]):
                a, la, left, b, lb, right = b, lb, right, a, la, left

            def grouped(array: Any, labels: tuple[int, ...], *groups: list[int]) -> Any:
                order = [labels.index(i) for group in groups for i in group]
                shape = [size[i] for i in batch]
                shape += [math.prod(size[i] for i in group) for group in groups[1:]]
                return np.transpose(array, order).reshape(shape)

            product = np.matmul(
                grouped(a, la, batch, left, summed), grouped(b, lb, batch, summed, right)
            )
            found = [*batch, *left, *right]
            return np.transpose(
                product.reshape([size[i] for i in found]), [found.index(i) for i in out]
            )
    flat = [part for operand in operands for part in operand]
    result = np.asarray(np.einsum(*flat, out))
    # Of one operand NumPy gives a view where it can.
    return result.copy() if np.may_share_memory(result, operands[0][0]) else result


def _product_error(value: Any, size: Any, axes: tuple[int, ...]) -> Any:
    """``|Π x| + Σ_k size_k·Π_{others} |x|`` over ``axes``, right also where an element is 0."""
    kept = [axis for axis in range(value.ndim) if axis not in axes]
    order = [*kept, *axes]
    flat = [
        np.transpose(a, order).reshape([*(a.shape[k] for k in kept), -1]) for a in (value, size)
    ]
    ones = np.ones_like(flat[0][..., :1])
    before = np.cumprod(np.concatenate([ones, flat[0][..., :-1]], axis=-1), axis=-1)
    backward = flat[0][..., :0:-1]
    after = np.cumprod(np.concatenate([ones, backward], axis=-1), axis=-1)[..., ::-1]
    return np.sum(before * after * flat[1], axis=-1) + np.prod(flat[0], axis=-1)


def _plain(value: Any, axes: tuple[Any, ...]) -> _Part:
    return _Part(value, np.abs(to_float(value)), axes)


def as_array(value: Any) -> Any:
    """A 0-d array where NumPy returned a scalar."""
    if isinstance(value, np.ndarray):
        return value
    array = np.empty((), dtype=np.float64 if isinstance(value, (float, np.floating)) else object)
    array[()] = value
    return array


def _union(groups: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(axis for group in groups for axis in group))


def _is_below(e: Any) -> bool:
    return bool(e.is_Pow and e.exp.could_extract_minus_sign())


_COMPARE = {
    sympy.Lt: np.less, sympy.Le: np.less_equal, sympy.Gt: np.greater, sympy.Ge: np.greater_equal,
    sympy.Eq: np.equal, sympy.Ne: np.not_equal,
}  # fmt: skip
