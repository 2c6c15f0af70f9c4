"""Sums over an index, contracted with the deltas and brackets inside them.

``Σ_p δ(p, j)·f(p) = f(j)``; an offset or a stride leaves a bracket (``[1 ≤ j < 3]``); the digits of a
reshape are put together again.  What no delta takes away stays a SymPy ``Sum`` over the whole axis.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import sympy
from sympy import KroneckerDelta

from gradexplain.formula.indices import Ranges, index, joined
from gradexplain.formula.kinds import BIG, Bracket, Cases, FloorDiv, Lookup, Modulo, Sum, atoms

_SELECTORS = (KroneckerDelta, Bracket)


def delta(a: Any, b: Any, ranges: Ranges) -> Any:
    """``δ(a, b)``, decided where the ranges decide it."""
    a, b = joined(a), joined(b)
    if a == b:
        return sympy.S.One
    if a.is_Symbol and b.is_Symbol:
        return KroneckerDelta(a, b)
    gap = ranges.bounds(sympy.expand(a - b))
    if gap is not None and (gap[0] > 0 or gap[1] < 0):
        return sympy.S.Zero
    return KroneckerDelta(a, b)


def contract(e: Any, over: Iterable[Any], ranges: Ranges) -> Any:
    """``Σ e`` over each index of ``over`` and its whole range."""
    remaining = [q for q in over if not q.is_Integer]
    while remaining:
        # An index that a delta fixes goes first: it leaves nothing to sum.
        remaining.sort(key=lambda q: _loose(e, q))
        q = remaining.pop(0)
        terms = sympy.Add.make_args(e) if e.has(q) else ()
        e = sympy.Add(*(_term(term, q, ranges) for term in terms)) if terms else ranges[q] * e
    return e


def _loose(e: Any, q: Any) -> int:
    """0 for an index that a delta gives away at once, 1 if it stands in one, 2 if in none."""
    deltas = [d for d in atoms(e, KroneckerDelta) if d.has(q)]
    if any(abs(a.coeff(q)) == 1 for d in deltas for a in d.args):
        return 0
    return 1 if deltas else 2


def join_digits(product: Any, ranges: Ranges) -> Any:
    """``δ(⌊f/3⌋, j)·δ(f mod 3, l)`` as ``δ(f, 3·j + l)``, in a product; other products as they are."""
    deltas = [f for f in sympy.Mul.make_args(product) if isinstance(f, KroneckerDelta)]
    if not any(d.has(FloorDiv, Modulo) for d in deltas):
        return product
    rest = [f for f in sympy.Mul.make_args(product) if not isinstance(f, KroneckerDelta)]
    joined, missing, valid = _joined(deltas, None, ranges)
    return product if missing else sympy.Mul(*rest, *joined, valid)


def _selects(s: Any, q: Any) -> bool:
    """Whether a delta or bracket is of places: one of values, ``[x[q] > y[q]]``, takes no sum away.

    The terms of a sum are taken apart only for the former: there are 2ⁿ in a maximum n deep.
    """
    if isinstance(s, KroneckerDelta):
        return bool(s.has(q))
    return any(c.has(q) and not c.has(sympy.Indexed) for c in sympy.And.make_args(s.condition))


def _term(term: Any, q: Any, ranges: Ranges) -> Any:
    outside: list[Any] = []
    inside: list[Any] = []
    for factor in sympy.Mul.make_args(term):
        (inside if factor.has(q) else outside).append(factor)
    if not inside:
        return ranges[q] * term
    for place, factor in enumerate(inside):
        if factor.is_Add and any(_selects(s, q) for s in atoms(factor, *_SELECTORS)):
            others = sympy.Mul(*outside, *inside[:place], *inside[place + 1 :])
            return sympy.Add(*(_term(others * part, q, ranges) for part in factor.args))
        if isinstance(factor, sympy.Sum) and any(
            d.has(q) and _solve([d], q, ranges) for d in atoms(factor, KroneckerDelta)
        ):
            # Σ_q … Σ_p δ(q, …): the order of two finite sums is free.
            body, bound = open_sum(factor, ranges)
            others = sympy.Mul(*outside, *inside[:place], *inside[place + 1 :])
            return contract(others * body, [q, *bound], ranges)
    deltas = [f for f in inside if isinstance(f, KroneckerDelta)]
    rest = [f for f in inside if not isinstance(f, KroneckerDelta)]
    solved = _solve(deltas, q, ranges)
    if solved is not None:
        value, selectors, extra = solved
        body = sympy.Mul(*rest).xreplace({q: value}) if rest else sympy.S.One
        body = _decide(body, ranges) * selectors.xreplace({q: value})
        return sympy.Mul(*outside) * contract(body, extra, ranges)
    slid = _window(inside, q, ranges)
    if slid is not None:
        body, tap = slid
        return sympy.Mul(*outside) * contract(body, [tap], ranges)
    return sympy.Mul(*outside) * close_sum(sympy.Mul(*inside), [q], ranges)


def _window(factors: list[Any], q: Any, ranges: Ranges) -> tuple[Any, Any] | None:
    """The same sum over a short window: ``Σ_i [j − 1 ≤ i ≤ j + 1]·f(i)`` is ``Σ_p f(j + 1 − p)``, or
    ``Σ_p f(j − 1 + p)`` where that leaves more indices bare.

    Returns the body and its index; None where no bracket keeps ``q`` in a window of fixed width.
    """
    conditions = [
        c for b in factors if isinstance(b, Bracket) for c in sympy.And.make_args(b.condition)
    ]
    lows: list[Any] = []
    highs: list[Any] = []
    for c in conditions:
        if not isinstance(c, (sympy.Ge, sympy.Le)) or not c.has(q):
            continue
        gap = sympy.expand(c.lhs - c.rhs)
        slope = gap.coeff(q)
        end = sympy.expand(q - slope * gap)
        if abs(slope) == 1 and not end.has(q):
            (lows if isinstance(c, sympy.Ge) == (slope == 1) else highs).append((end, c))
    pairs = [
        (int(width) + 1, low, high, {first, last})
        for low, first in lows
        for high, last in highs
        if (width := sympy.expand(high - low)).is_Integer and 0 <= width < ranges[q] - 1
    ]
    if not pairs:
        return None
    count, low, high, used = min(pairs, key=lambda pair: pair[0])
    tap = ranges.fresh(count)
    others = [f for f in factors if not isinstance(f, Bracket)]

    def worked_out(place: Any) -> int:
        slid = sympy.Mul(*others).xreplace({q: place})
        return sum(not i.is_Atom for e in slid.atoms(sympy.Indexed) for i in e.indices)

    place = min(map(sympy.expand, (high - tap, low + tap)), key=worked_out)
    left = [c for c in conditions if c not in used]
    body = sympy.Mul(*others) * ranges.bracket(sympy.And(*left))
    return _decide(body.xreplace({q: place}), ranges) * ranges.within(place, ranges[q]), tap


def _decide(e: Any, ranges: Ranges) -> Any:
    """``e`` with every bracket and delta that the ranges decide put in."""
    if not e.has(FloorDiv, Modulo, *_SELECTORS):
        return e
    # ⌊(3·i + p)/3⌋ is i: inner ones first.
    for digit in sorted(atoms(e, FloorDiv, Modulo), key=lambda d: len(atoms(d, FloorDiv, Modulo))):
        whole = ranges.floordiv if isinstance(digit, FloorDiv) else ranges.modulo
        simple = whole(joined(sympy.expand(digit.args[0])), int(digit.args[1]))
        if simple != digit:
            return _decide(e.xreplace({digit: simple}), ranges)
    decided = {b: ranges.bracket(b.condition) for b in atoms(e, Bracket)}
    decided |= {d: delta(d.args[0], d.args[1], ranges) for d in atoms(e, KroneckerDelta)}
    for choice in atoms(e, Cases):
        decided[choice] = Cases(*((value, ranges.decide(c)) for value, c in choice.args))
    decided = {old: new for old, new in decided.items() if old != new}
    return e.xreplace(decided) if decided else e


def _solve(deltas: list[Any], q: Any, ranges: Ranges) -> tuple[Any, Any, list[Any]] | None:
    """``q`` from one of ``deltas``: its value, the selectors that remain, new indices to sum over."""
    for place, d in enumerate(deltas):
        turned = _turned(d.args[0], d.args[1], q, ranges)
        if turned is None:
            turned = _turned(d.args[1], d.args[0], q, ranges)
        if turned is not None:
            others = deltas[:place] + deltas[place + 1 :]
            return turned, sympy.Mul(*others), []
    deltas, digits, valid = _joined(deltas, q, ranges)
    if digits and q in ranges.digits:
        return None  # a digit of a digit: it would never end
    ranges.digits.update(digits)
    for place, d in enumerate(deltas):
        found = _isolate(d.args[0], d.args[1], q, ranges)
        if found is None:
            continue
        value, condition = found
        others = [
            delta(other.args[0].xreplace({q: value}), other.args[1].xreplace({q: value}), ranges)
            for other in deltas[:place] + deltas[place + 1 :]
        ]
        return value, sympy.Mul(condition, valid, *others), digits
    return None


def _turned(a: Any, b: Any, q: Any, ranges: Ranges) -> Any:
    """``(b − c) mod n`` from ``δ((q + c) mod n, b)`` where ``q`` runs over n places; else None."""
    if not isinstance(a, Modulo) or b.has(q) or ranges[q] != a.args[1]:
        return None
    n, sign = ranges[q], a.args[0].coeff(q)
    rest = sympy.expand(a.args[0] - sign * q)
    bounds = ranges.bounds(b)
    if abs(sign) != 1 or rest.has(q) or bounds is None or bounds[0] < 0 or bounds[1] >= n:
        return None
    return ranges.modulo(sympy.expand(sign * (b - rest)), n)


def _isolate(a: Any, b: Any, q: Any, ranges: Ranges) -> tuple[Any, Any] | None:
    """``(value, selector)`` such that ``Σ_q δ(a, b)·f(q) = selector·f(value)``; None if not affine."""
    other = b if a == q else a
    # What an index tensor holds is a place of the axis; a table of our own may reach beyond.
    given = isinstance(other, Lookup) and ranges.bounds(other) is None
    if q in (a, b) and (given or ranges.get(other) == ranges[q]):
        return other, sympy.S.One
    if b.has(q):
        if a.has(q):
            a, b = sympy.expand(a - b), sympy.S.Zero
        else:
            a, b = b, a
    coefficient = a.coeff(q)
    offset = sympy.expand(a - coefficient * q)
    if not coefficient.is_Integer or coefficient == 0 or offset.has(q):
        return None
    n, step = ranges[q], abs(int(coefficient))
    target = sympy.expand(b - offset)
    if step == 1:
        value = sympy.expand(target / coefficient)
        # δ(q + n·i, e) with q a digit of base n: the other digits keep their own delta.
        sign = int(coefficient)
        if sign == 1 and offset != 0:
            high = [t for t in sympy.Add.make_args(offset) if int(t.as_coeff_Mul()[0]) % n == 0]
            if len(high) == len(sympy.Add.make_args(offset)) and not offset.is_Integer:
                bounds = ranges.bounds(b)
                if bounds is not None and bounds[0] >= 0:
                    return (
                        ranges.modulo(b, n),
                        delta(sympy.expand(offset / n), ranges.floordiv(b, n), ranges),
                    )
        return value, ranges.within(value, n)
    # δ(step·q + r, e) with r a digit of base step: both digits of e are found.
    constant, digit = offset.as_coeff_Add()
    span = ranges.bounds(digit)
    if coefficient > 0 and digit != 0 and span is not None and span[0] >= 0 and span[1] < step:
        moved = sympy.expand(b - constant)
        value = ranges.floordiv(moved, step)
        return value, delta(digit, ranges.modulo(moved, step), ranges) * ranges.within(value, n)
    # A stride: only every step-th position is hit.
    bounds = ranges.bounds(target)
    if coefficient < 0:
        target = -target
        bounds = None if bounds is None else (-bounds[1], -bounds[0])
    shift = 0 if bounds is None or bounds[0] >= 0 else -(bounds[0] // step) * step
    moved = sympy.expand(target + shift)
    value = sympy.expand(ranges.floordiv(moved, step) - shift // step)
    hit = ranges.bracket(sympy.Eq(ranges.modulo(moved, step), 0))
    return value, hit * ranges.within(value, n)


def _joined(deltas: list[Any], q: Any, ranges: Ranges) -> tuple[list[Any], list[Any], Any]:
    """Deltas of the digits of one number as one delta of that number.

    ``δ(⌊f/3⌋, j)·δ(f mod 3, l)`` is ``δ(f, 3·j + l)``; a digit that no delta names becomes a new bound
    index, which is returned, with a selector: each target must be a digit.  Only numbers with the
    index ``q`` count, or all if it is None.
    """
    groups: dict[Any, list[tuple[int, int | None, Any, Any]]] = {}
    plain = []
    for d in deltas:
        sides = [_bare(*d.args), _bare(*d.args[::-1])]
        digit = next(
            (
                _digit(x, y, d)
                for x, y in sides
                if isinstance(x, (FloorDiv, Modulo)) and (q is None or x.has(q))
            ),
            None,
        )
        if digit is None:
            plain.append(d)
        else:
            groups.setdefault(digit[0], []).append(digit[1:])
    new: list[Any] = []
    valid = sympy.S.One
    for flat, digits in groups.items():
        bounds = ranges.bounds(flat)
        if bounds is None or bounds[0] < 0:
            plain.extend(d for *_, d in digits)
            continue
        value, stride = sympy.S.Zero, 1
        for step, base, target, d in sorted(digits, key=lambda item: item[0]):
            if step < stride or step % stride:
                plain.append(d)
                continue
            if step > stride:
                missing = ranges.fresh(step // stride)
                new.append(missing)
                value += stride * missing
            value += step * target
            if base is not None:
                valid *= ranges.within(target, base)
            stride = step * base if base is not None else bounds[1] + 1
        if stride <= bounds[1]:
            missing = ranges.fresh(-(-(bounds[1] + 1) // stride))
            new.append(missing)
            value += stride * missing
        plain.append(_straight(flat, sympy.expand(value), ranges))
    for d in plain:
        if not isinstance(d, KroneckerDelta):
            valid *= d
    left = [d for d in plain if isinstance(d, KroneckerDelta)]
    return left, [n for n in new if not n.is_Integer], valid


def _straight(a: Any, b: Any, ranges: Ranges) -> Any:
    """``δ(e, (b − c) mod n)`` from ``δ((e + c) mod n, b)``, e and b below n; else ``δ(a, b)``."""
    if isinstance(a, Modulo):
        n = int(a.args[1])
        constant, e = a.args[0].as_coeff_Add()
        spans = ranges.bounds(e), ranges.bounds(b)
        if all(span is not None and span[0] >= 0 and span[1] < n for span in spans):
            return delta(e, ranges.modulo(sympy.expand(b - constant), n), ranges)
    return delta(a, b, ranges)


def _bare(a: Any, b: Any) -> tuple[Any, Any]:
    """``(a, b)``, or ``(digit, b − 1)`` where a is a digit plus 1."""
    constant, rest = a.as_coeff_Add()
    if constant != 0 and isinstance(rest, (FloorDiv, Modulo)):
        return rest, sympy.expand(b - constant)
    return a, b


def _digit(e: Any, target: Any, d: Any) -> tuple[Any, int, int | None, Any, Any]:
    """``(number, stride, base, target, delta)`` of the digit ``⌊number/stride⌋ mod base``."""
    base = None
    if isinstance(e, Modulo):
        e, base = e.args[0], int(e.args[1])
    if isinstance(e, FloorDiv):
        return e.args[0], int(e.args[1]), base, target, d
    return e, 1, base, target, d


# -- sums that stay ------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def level(e: Any) -> int:
    """How deep sums are nested in ``e``."""
    return max((len(s.limits) + level(s.function) for s in atoms(e, *BIG)), default=0)


def close_sum(body: Any, over: list[Any], ranges: Ranges, kind: Any = Sum) -> Any:
    """``Σ body``, its bound indices named by their depth, so that equal sums are equal expressions.

    Factors without a bound index are taken out of a sum.
    """
    over = [q for q in over if not q.is_Integer]
    outside = sympy.S.One
    if kind is Sum:
        if not over:
            return body
        outside, body = body.as_independent(*over, as_Add=False)
        absent = [q for q in over if not body.has(q)]
        for q in absent:
            outside *= ranges[q]
        over = [q for q in over if q not in absent]
        if not over:
            return outside * body
    if kind is Sum and len(over) == 1 and isinstance(body, Bracket):
        count = _count(body.condition, over[0], ranges)
        if count is not None:
            return outside * count
    depth = level(body)
    names = {}
    limits = []
    for q in over:
        depth += 1
        bound = index(f"{q.name.partition('_')[0]}_c{depth}s{ranges[q]}")
        names[q] = bound
        limits.append((bound, 0, ranges[q] - 1))
        ranges[bound] = ranges[q]
    return outside * kind(body.xreplace(names), *limits)


def _count(condition: Any, q: Any, ranges: Ranges) -> Any:
    """For how many ``q`` it is beside an end within the range: ``Σ_{p ≥ j} 1`` is ``N − j``."""
    if not isinstance(condition, (sympy.Ge, sympy.Gt, sympy.Le, sympy.Lt)):
        return None
    gap = sympy.expand(condition.gts - condition.lts)  # ≥ 0, or > 0
    slope = gap.coeff(q)
    end = sympy.expand(q - slope * gap)
    bounds = None if abs(slope) != 1 or end.has(q) else ranges.bounds(end)
    if bounds is None or bounds[0] < 0 or bounds[1] >= ranges[q]:
        return None
    strict = isinstance(condition, (sympy.Gt, sympy.Lt))
    return (ranges[q] - end if slope == 1 else end + 1) - int(strict)


def open_sum(total: Any, ranges: Ranges) -> tuple[Any, list[Any]]:
    """The body of a sum with fresh bound indices, and these."""
    fresh = {}
    for bound, _, last in total.limits:
        fresh[bound] = ranges.fresh(int(last) + 1, bound.name.partition("_")[0])
    return total.function.xreplace(fresh), list(fresh.values())
