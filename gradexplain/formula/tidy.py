"""The short form of a formula: of several equal forms, the one that a reader has least to read.

Every candidate is held against the form it came from at random values of its atoms before it may
stand for it; what is printed is therefore equal to what was derived.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

import sympy

from gradexplain.arithmetic import mp
from gradexplain.formula.alike import Renamed
from gradexplain.formula.burden import burden
from gradexplain.formula.gathering import factored, together
from gradexplain.formula.kinds import Bracket, Cases, FloorDiv, Lookup, Modulo, Sum, atoms, text_of

#: Beyond this many operations a formula is only factored, not rewritten as one fraction.
_LARGE = 150

#: A formula that has more terms than this when it is multiplied out is not.
_MOST_TERMS = 64


def tidy(e: Any, length: Callable[[Any], float], folds: Folds | None = None) -> Any:
    """``e`` in its shortest form.

    ``length`` measures a form as printed.  ``folds`` are the definitions of values that may be put back
    into their names.
    """
    folds = folds or _NONE
    known = _KNOWN if length is burden else folds.shortest
    if len(known) > 20_000:
        known.clear()
    e = _inner_sums(e, length, known)
    return _shortest(folds.put_into(e), length, known)


class Folds:
    """Definitions that may be put back into their names, found by the values that they speak of.

    A long program has as many as statements, and a formula of it mentions few.
    """

    def __init__(
        self,
        definitions: Iterable[Renamed],
        ranges: Mapping[Any, int] | None = None,
        asked: list[Asked] | None = None,
    ) -> None:
        self.all = list(definitions)
        #: How many values each index has: a name stands for no element that it has not.
        self.ranges = ranges
        #: Forms that were tidied already, for a reader who measures in his own way.
        self.shortest: dict[Any, Any] = {}
        #: What was looked for, one after another, where somebody wants to know.
        self._asked = asked
        #: The type, the values and the functions of each pattern that can be found again.
        self._marks: dict[int, tuple[type, frozenset[str], frozenset[type]]] = {}
        for place, made in enumerate(self.all):
            core = made.formula.as_coeff_Mul()[1]
            if isinstance(core, (sympy.Sum, sympy.Function, sympy.Pow)):
                values = frozenset(map(made.label, _values(core)))
                self._marks[place] = type(core), values, _functions(core)
        uses = Counter(value for _, values, _ in self._marks.values() for value in values)
        # Each is looked for where the rarest of its values is.
        self._by_value: dict[str | None, list[int]] = {}
        for place, (_, found, _) in self._marks.items():
            first = min(found, key=lambda v: (uses[v], v), default=None)
            self._by_value.setdefault(first, []).append(place)

    def candidates(self, values: Collection[str], functions: frozenset[type]) -> list[int]:
        """Which definitions may stand in a formula of these values and functions."""
        return [
            place
            for value in (None, *values)
            for place in self._by_value.get(value, ())
            if self._marks[place][1].issubset(values) and self._marks[place][2] <= functions
        ]

    def put_into(self, e: Any) -> Any:
        """``e`` with every definition in it replaced by its name, in the order of the definitions."""
        done = -1
        while True:
            values, functions = _values(e), _functions(e)
            waiting = self.candidates(values, functions)
            if self._asked is not None:
                self._asked.append((values, functions, waiting))
            waiting = [place for place in waiting if place > done]
            if waiting:
                kinds = {type(part) for part in atoms(e, sympy.Basic)}
                waiting = [place for place in waiting if self._marks[place][0] in kinds]
            done = min(waiting, default=-1)
            if done < 0:
                return e
            e = _fold(e, *self.all[done].here, self.ranges)


#: The values and functions of a formula, and the definitions that might have stood in it.
Asked = tuple[frozenset[str], frozenset[type], list[int]]


@lru_cache(maxsize=4096)
def _values(e: Any) -> frozenset[str]:
    """The names of tensors and scalars that ``e`` speaks of."""
    return frozenset(s.name for s in e.free_symbols if s.is_Symbol and not s.is_integer)


def _functions(e: Any) -> frozenset[type]:
    return frozenset(map(type, atoms(e, sympy.Function)))


_NONE = Folds(())


#: The same for all who measure by `burden`.
_KNOWN: dict[Any, Any] = {}


def _shortest(e: Any, length: Callable[[Any], float], known: dict[Any, Any]) -> Any:
    found = known.get(e)  # another thread may clear what is known
    if found is None:
        found = known[e] = _shorter(e, length)
    return found


def _shorter(e: Any, length: Callable[[Any], float]) -> Any:
    best, shortest = e, length(e)
    for candidate in _candidates(e):
        size = length(candidate)
        if size < shortest and (
            # Merged sums were compared by their bodies when they were merged.
            (candidate.has(sympy.Sum) and atoms(candidate, sympy.Sum) != atoms(e, sympy.Sum))
            or equal(e, candidate)
        ):
            best, shortest = candidate, size
    return best


def _candidates(e: Any) -> Iterable[Any]:
    if not (e.is_Add or e.is_Mul or e.is_Pow):
        return
    yield factored(e)
    if e.count_ops() > _LARGE:
        return
    fraction = together(e)
    yield fraction
    yield factored(fraction)
    merged = _merged(fraction)
    if merged is not None:
        yield merged
    if (e.is_Add or any(f.is_Add for f in e.args)) and _terms(e) <= _MOST_TERMS:
        expanded = sympy.expand_mul(e)
        yield factored(expanded)
        yield factored(together(expanded))


def _terms(e: Any) -> int:
    """How many terms ``e`` would have if its products were multiplied out."""
    if e.is_Add:
        return sum(map(_terms, e.args))
    if e.is_Mul:
        return math.prod(map(_terms, e.args))
    if e.is_Pow and e.exp.is_Integer and e.exp > 0:
        return int(min(_terms(e.base), _MOST_TERMS + 1) ** min(int(e.exp), _MOST_TERMS))
    return 1


def _merged(e: Any) -> Any:
    """``Σ f − Σ g`` as ``Σ (f − g)`` where the sums run over the same range; None without any."""
    outside, inside = e.as_independent(sympy.Sum, as_Add=False)
    if not inside.is_Add:
        return None
    bodies: dict[Any, Any] = {}
    indices: dict[Any, Any] = {}
    rest = sympy.S.Zero
    for term in inside.args:
        factors = sympy.Mul.make_args(term)
        sums = [f for f in factors if isinstance(f, sympy.Sum)]
        if len(sums) != 1:
            rest += term
            continue
        others = sympy.Mul(*(f for f in factors if f is not sums[0]))
        limits = sums[0].limits
        if indices.setdefault(limits, _indices(others * sums[0].function)) != _indices(
            others * sums[0].function
        ):
            # Σ_k v[k] + a[l]·Σ_k w[k] must not become a sum for each l.
            return None
        bodies[limits] = bodies.get(limits, sympy.S.Zero) + others * sums[0].function
    if not any(body.is_Add for body in bodies.values()):
        return None
    joined = [
        _sum(factored(body), limits)
        for limits, body in bodies.items()
        if equal(body, factored(body))
    ]
    if len(joined) != len(bodies):
        return None
    return outside * (sympy.Add(*joined) + rest)


def _indices(e: Any) -> set[Any]:
    """The index symbols in ``e``."""
    return {symbol for symbol in e.free_symbols if symbol.is_integer}


def _sum(body: Any, limits: Any) -> Any:
    """``Σ body``, factors without a bound index taken out, a constant counted."""
    bound = [limit[0] for limit in limits]
    outside, inside = body.as_independent(*bound, as_Add=False)
    for limit in limits:
        if not inside.has(limit[0]):
            outside *= limit[2] + 1
    kept = [limit for limit in limits if inside.has(limit[0])]
    return outside * Sum(inside, *kept) if kept else outside * inside


def _inner_sums(e: Any, length: Callable[[Any], float], known: dict[Any, Any]) -> Any:
    """Every sum's body tidied, constant factors taken out of it."""
    replaced = {}
    for total in atoms(e, sympy.Sum):
        key = "within", total  # each once: a sum within n others is in the body of all of them
        found = known.get(key)
        if found is None:
            body = _shortest(_inner_sums(total.function, length, known), length, known)
            found = known[key] = _sum(body, total.limits)
        replaced[total] = found
    # Outer sums hold inner ones: the outermost are replaced, which were built from tidied bodies.
    return e.xreplace({total: new for total, new in replaced.items() if new != total})


# -- folding: a definition back into its name ----------------------------------------------------


def _fold(e: Any, pattern: Any, name: Any, indices: Any, ranges: Mapping[Any, int] | None) -> Any:
    coefficient, core = pattern.as_coeff_Mul()
    if isinstance(core, sympy.Sum):
        return _fold_sum(e, core, name / coefficient, indices, ranges)
    if not isinstance(pattern, (sympy.Function, sympy.Pow)):
        return e
    found = {}
    for part in e.atoms(type(pattern)):
        places = _match(pattern, part, indices)
        if places is not None and _has_them(places, ranges):
            found[part] = name.xreplace(places)
    return e.xreplace(found) if found else e


def _has_them(places: Mapping[Any, Any], ranges: Mapping[Any, int] | None) -> bool:
    """Whether a value has elements at all the ``places`` of its indices."""
    if ranges is None:
        return True
    for mine, place in places.items():
        if not all(s in ranges for s in place.free_symbols):
            return False
        for end in (0, 1):
            last = {s: sympy.Integer(end * (ranges[s] - 1)) for s in place.free_symbols}
            at = place.xreplace(last)
            if not (at.is_Integer and 0 <= at < ranges[mine]):
                return False
    return True


def _fold_sum(
    e: Any, pattern: Any, name: Any, indices: Any, ranges: Mapping[Any, int] | None
) -> Any:
    """``Σ_p x[p]`` back into the sum's name, also where it is part of ``Σ_p (x[p] − c)``."""
    found = {}
    for total in atoms(e, sympy.Sum):
        parts = sympy.Add.make_args(sympy.expand_mul(total.function))
        terms = [_sum(part, total.limits) for part in parts]
        places = [
            (term, s, _match(pattern, s, indices)) for term in terms for s in atoms(term, sympy.Sum)
        ]
        hits = {
            s: name.xreplace(place)
            for _, s, place in places
            if place is not None and _has_them(place, ranges)
        }
        if hits:
            found[total] = sympy.Add(*terms).xreplace(hits)
    return e.xreplace(found) if found else e


def _match(pattern: Any, part: Any, indices: Any) -> dict[Any, Any] | None:
    """The places at which ``pattern`` is ``part``."""
    if pattern == part:
        return {}
    if isinstance(pattern, sympy.Sum) and isinstance(part, sympy.Sum):
        if [limit[1:] for limit in pattern.limits] != [limit[1:] for limit in part.limits]:
            return None
        mine, theirs = ([limit[0] for limit in total.limits] for total in (pattern, part))
        part = part.xreplace(dict(zip(theirs, mine, strict=True)))
    places: dict[Any, Any] = {}
    candidates = sorted(atoms(part, sympy.Indexed), key=text_of)
    for atom in sorted(atoms(pattern, sympy.Indexed), key=text_of):
        twin = next((c for c in candidates if c.base == atom.base), None)
        if twin is None:
            return None
        for mine, theirs in zip(atom.indices, twin.indices, strict=True):
            if mine in indices and mine.is_Symbol:  # the index of an axis of 1 is the number 0
                places.setdefault(mine, theirs)
    if places and pattern.xreplace(places) == part:
        return places
    return None


# -- equality, by numbers ------------------------------------------------------------------------


def equal(a: Any, b: Any) -> bool:
    """Whether two forms agree at random values of their atoms (sums and elements are atoms)."""
    kinds = (sympy.Indexed, sympy.Sum, sympy.Product, sympy.KroneckerDelta, Bracket, Cases,
             Lookup, FloorDiv, Modulo)  # fmt: skip
    source = random.Random(20)
    values: dict[Any, Any] = {}

    def value(e: Any) -> Any:
        if e.is_Rational:
            return mp.mpf(int(e.p)) / int(e.q)
        if e.is_Add:
            return mp.fsum(value(arg) for arg in e.args)
        if e.is_Mul:
            return mp.fprod(value(arg) for arg in e.args)
        if e.is_Pow and e.exp.is_Rational:
            return mp.power(value(e.base), value(e.exp))
        if isinstance(e, kinds) or e not in values:
            # Any other function is an atom too: equal arguments give equal values.
            if isinstance(e, sympy.Function) and not isinstance(e, kinds):
                key: Any = (type(e), tuple(mp.nstr(value(arg), 25) for arg in e.args))
            elif e.is_Pow:
                key = ("power", mp.nstr(value(e.base), 25), mp.nstr(value(e.exp), 25))
            else:
                key = e
            if key not in values:
                # A selector is 0 or 1 and its square itself: forms that need that are left alone.
                values[key] = mp.mpf(source.uniform(0.5, 2.0))
            values[e] = values[key]
        return values[e]

    first, second = value(a), value(b)
    return bool(abs(first - second) <= mp.mpf(10) ** -30 * (abs(first) + abs(second)))
