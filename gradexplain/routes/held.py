"""One step of PyTorch's backward pass held against what it should be, and a sum of several.

The bound is that of one operation, and each element that differs must have a reason of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import sympy

from gradexplain.adjoint import Contribution
from gradexplain.explanation import Array, Difference
from gradexplain.formula.kinds import Bracket, Cases, Greatest, Lookup, indices_of, label_of
from gradexplain.formula.local import RESULT, UPSTREAM
from gradexplain.plan.arrays import Pair, to_float
from gradexplain.plan.blocks import LARGE
from gradexplain.routes.chain import cleaned
from gradexplain.routes.singular import narrowed
from gradexplain.verdict import compare


@dataclass(slots=True)
class JudgedStep:
    """One contribution: what PyTorch computed, what the record gives there, and what that comes to.

    ``why`` says of a convention which it is: ``singular``, ``overflow``, ``underflow``, ``range`` (on the
    way), ``special`` (nan, inf or −0.0 among the operands) or ``coarse``.  A ``range`` that nothing
    bears out *cannot tell*.  Of a large array that agrees ``expected`` is not kept (None), and
    ``bound`` is the largest for all elements.
    """

    verdict: str
    torch: Array
    expected: Array | None
    bound: Array
    margin: float
    difference: Difference | None = None
    why: str = ""

    def numbers(self) -> dict[str, Any]:
        """The fields of a `gradexplain.explanation.Step` that are this comparison's."""
        return {
            "torch": self.torch,
            "expected": self.expected,
            "tolerance": self.bound,
            "margin": self.margin,
            "verdict": self.verdict,
        }


def _as_results(*arrays: Array) -> list[tuple[str, Array]]:
    """Arrays in the shape of an operation's result by its name in formulas."""
    return [(RESULT, array) for array in arrays]


_COMPARE = (Bracket, Cases, Greatest, Lookup)
_PLAIN = (sympy.Symbol, sympy.IndexedBase, sympy.Indexed, sympy.Number, sympy.Add, sympy.Mul,
          sympy.Sum, sympy.Tuple, sympy.KroneckerDelta, Bracket)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Local:
    """What PyTorch sent back through one operation, and what it had there to make it from.

    ``routes`` are the names of the operation and of the input; ``given`` is what was sent to that
    input, ``wider`` the same where PyTorch computes it in float64 (None where it was not asked).
    ``operands`` are by the names that ``contributions``, the formulas, have for them.  ``singular`` is
    true at the elements of the result that have no derivative, None without any; ``kernel`` what is
    known of PyTorch's, `ChainRule.by_kernel`; ``exactly`` works the contribution out with digits to
    spare, from numbers moved by its argument, ``parts`` part by part, None where there is nothing to
    gain.
    """

    names: tuple[str, str]
    given: Array
    upstreams: Sequence[Array]
    operands: Mapping[str, Array]
    results: Sequence[Array]
    pointwise: bool
    singular: Any
    coarse: float
    kernel: Callable[[str], Any]
    exactly: Callable[[compare.Move], Pair]
    parts: Callable[[], Iterable[tuple[slice, Pair]]] | None = None
    contributions: Sequence[Contribution] = ()
    wider: Array | None = None

    @property
    def elementwise(self) -> bool:
        """Whether each element of the result is made from the same one of the input."""
        return self.pointwise and all(r.shape == self.given.shape for r in self.results)

    def special(self, expected: Array, bound: Array) -> Any:
        """Where IEEE's arithmetic has rules that no formula has.

        What comes of an infinity is no finite number; nan makes a choice where the operation compares;
        of an operand of −0.0 a sign is left, or an infinity's.
        """
        nan, infinite = self.has(np.isnan), self.has(np.isinf)
        negative = self.pointwise and self.has(
            lambda a: (a == 0) & np.signbit(a), self.operands.items()
        )
        endless = ~np.isfinite(self.given) | ~np.isfinite(expected)
        flipped = ~compare.differs(-expected, self.given, bound)
        # What compares may choose another element; what it chooses among decides nothing.
        formulas = [c.rule.contributions[c.place] for c in self.contributions]
        parts = [part for formula in formulas for part in formula.atoms(*_COMPARE)]
        read = {label_of(a) for part in parts for a in part.atoms(sympy.Indexed, sympy.Symbol)}
        arrays = self._arrays() if parts or not formulas else []
        deciding = [(n, a) for n, a in arrays if not formulas or n in {RESULT, *read}]
        chosen = (nan & endless) | self.has(np.isnan, deciding)
        return chosen | (infinite & endless) | (negative & (endless | flipped))

    def _arrays(self) -> list[tuple[str, Array]]:
        return [*self.operands.items(), *_as_results(*self.results, *self.upstreams)]

    def has(
        self, odd: Callable[[Array], Any], arrays: Iterable[tuple[str, Array]] | None = None
    ) -> Any:
        """Where something ``odd`` has a part in what was sent: among all arrays, or among these."""
        mask = np.zeros(self.given.shape, dtype=bool)
        for name, array in self._arrays() if arrays is None else arrays:
            if (one := odd(array)).any():
                mask |= self._part_of(name, one)
        return mask

    def _part_of(self, name: str, one: Any) -> Any:
        """True at each element that is made from one that ``one`` marks, as far as indices tell.

        An axis that runs with one of the input's wherever the array is read does so here too.  What is
        sent may depend on all of the input that goes into the same elements of the result, though its
        formula has a mean instead, say.
        """
        shape = self.given.shape
        if self.pointwise:
            return narrowed(np.broadcast_to(one, np.broadcast_shapes(one.shape, shape)), shape)
        if len(self.contributions) != 1:
            return True
        (c,) = self.contributions
        place, own = c.rule.places[c.place], f"a{c.place}"
        read = c.rule.contributions[c.place].atoms(sympy.Indexed)
        labels = (RESULT, UPSTREAM) if name in (RESULT, own) else (name,)
        found = [indices_of(atom) for atom in read if label_of(atom) in labels]
        if name == own:
            together = tuple(i if all(i in at for at in found) else sympy.S.Zero for i in place)
            found = [together] if found else []
        if not found:
            return True
        mask = np.zeros(shape, dtype=bool)
        for indices in found:
            tied = {i: axis for axis, i in enumerate(indices) if i in place and i.is_Symbol}
            there = [place.index(i) for i in tied]
            others = tuple(axis for axis in range(one.ndim) if axis not in tied.values())
            kept = one.any(axis=others).transpose(np.argsort(there))
            mask |= kept.reshape([n if axis in there else 1 for axis, n in enumerate(shape)])
        return mask

    def unsteady(self, dtype: str) -> Any:
        """Where PyTorch's number is what its operands' last digits leave open."""
        expected, *moved = (
            cleaned(self.exactly(move), exact=True)
            for move in (compare.still, *compare.moves(dtype))
        )
        # Kernels keep means and the like in the dtype, each with a rounding that is in no operand.
        times = compare.ROUNDINGS * 2 if dtype == "float32" else compare.FEW_ROUNDINGS
        return compare.unsteady(expected, self.given, moved, times)

    def beyond(self, dtype: str) -> Any:
        """Where a kernel that takes powers of its operands may leave the range of the dtype on its way.

        Formats of few digits are computed with in float32.
        """
        formulas = [c.term.formula for c in self.contributions]
        parts = (part for formula in formulas for part in sympy.preorder_traversal(formula))
        if formulas and all(isinstance(part, _PLAIN) for part in parts):
            return np.zeros(self.given.shape, dtype=bool)
        return self.has(lambda array: compare.extreme(array, dtype))

    def borne_out(self, expected: Array, dtype: str) -> Any:
        """Where PyTorch has what is expected when it computes in float64: its rule is right, and what
        differs is the arithmetic of ``dtype``."""
        if self.wider is None:
            return np.zeros(self.given.shape, dtype=bool)
        if expected.size <= compare.EACH:  # the result that PyTorch has may have left the range too
            expected = cleaned(self.exactly(compare.still), exact=True)
        near = compare.SEEN / 2 * np.abs(expected)
        return ~compare.differs(expected, self.wider, near)


def hold(local: Local, pair: Callable[[], Pair], dtype: str) -> JudgedStep:
    """What PyTorch sent back against ``pair``, the record's contribution at PyTorch's own numbers.

    The bound is that of this operation alone, in ``dtype``.  What is large is judged part by part
    first: its bounds, and what is expected, are never there as a whole unless something differs.
    """
    given, name = local.given, local.names[1]
    scale = max((compare.largest(u) for u in local.upstreams), default=0.0)
    routes = f"{local.names[0]} by its formula", "PyTorch"

    def cancels(result: compare.Judged, most: float, bound: Array) -> bool:
        """A sum that cancels altogether is nothing beside what it is a sum of."""
        noise = result.verdict == "cannot tell" and not local.elementwise
        return noise and most <= bound.max(initial=0.0) <= compare.SEEN * scale

    if local.parts is not None and given.size >= LARGE and not compare.is_coarse(dtype):
        bound = np.empty(given.shape)
        for clean in (False, True) if local.singular is None else (False,):
            tally = compare.Tally(name, routes)
            for part, (value, size) in local.parts():
                if clean:
                    value = compare.settled(value, size, compare.FORMATS["float64"].unit)
                bound[part] = allowed = compare.local_bound(size, value, scale, dtype)
                tally.add(value, given[part], allowed, part.start or 0)
            result = tally.judged(dtype, scale)
            most = max(tally.size, compare.largest(given))
            if result.verdict == "agree" or (clean and cancels(result, most, bound)):
                return JudgedStep("agree", given, None, bound, result.margin)
    value, size = pair()
    expected = to_float(value)

    def judge() -> tuple[Array, compare.Judged]:
        allowed = compare.local_bound(size, expected, scale, dtype)
        args = name, routes, expected, given, allowed, dtype, scale, local.elementwise
        return allowed, compare.judge(*args)

    allowed, result = judge()
    ran_out = np.isfinite(expected) & ~np.isfinite(size)
    if result.verdict == "agree" and ran_out.any() and expected.size <= compare.EACH:
        # Nothing was compared there: what is no part of what arrived may be anything still.
        exact = cleaned(local.exactly(compare.still), exact=True)
        ran_out &= compare.differs(exact, given, np.full(given.shape, compare.SEEN * scale))
    if (ran_out.any() or result.verdict != "agree") and local.singular is None:
        # It may be the formula's own arithmetic that ran out, which says nothing of PyTorch's.
        expected = compare.settled(expected, size, compare.FORMATS["float64"].unit)
        finite = np.isfinite(expected).all() and np.isfinite(size).all()
        if expected.size <= compare.EACH and not (compare.is_coarse(dtype) and finite):
            value, size = local.exactly(compare.still)
            expected = cleaned((value, size), exact=True)
        allowed, result = judge()
    most = max(np.abs(array).max(initial=0.0) for array in (expected, given))
    excused = cancels(result, most, allowed)
    each = result.whole or (excused and dtype == "float64")
    if each and result.verdict == "cannot tell" and expected.size <= compare.EACH:
        # A number that is less than half of the last digit of what it is the rest of may be 0, or be
        # anything that is nothing beside the terms of a sum.
        nothing = np.abs(expected) <= compare.FORMATS[dtype].unit * size
        nothing &= (given == 0) | ((allowed <= compare.SEEN * scale) & (not local.elementwise))
        left = compare.off(expected, given, dtype) & ~nothing
        excused = not (left.any() and (left & ~local.unsteady(dtype)).any())
    if excused:
        result = replace(result, verdict="agree")
    step = JudgedStep(result.verdict, given, expected, allowed, result.margin, result.difference)
    if step.verdict == "cannot tell" and most < compare.FORMATS[dtype].smallest and expected.any():
        step.why = "underflow"
        if local.borne_out(expected, dtype).all():
            step.verdict = "convention"
    if step.verdict == "mismatch":
        step.verdict, step.why = _explained(local, step, size, dtype)
    return step


def _explained(local: Local, step: JudgedStep, size: Any, dtype: str) -> tuple[str, str]:
    """Whether PyTorch may differ here though its backward is right, and why: see `JudgedStep`.

    Each element that differs must have a reason of its own.
    """
    given, expected = step.torch, step.expected
    assert expected is not None
    wrong = compare.differs(expected, given, step.bound)
    special = local.special(expected, step.bound)
    with np.errstate(all="ignore"):
        large = ~(np.asarray(size, dtype=np.float64) <= compare.FORMATS[dtype].largest)
        over = ~np.isfinite(given) & np.isfinite(expected)
    overflowed = over & (large | local.has(lambda y: ~np.isfinite(y), _as_results(*local.results)))
    points = () if local.singular is None else (np.asarray(local.singular),)
    singular = local.has(lambda mask: mask, _as_results(*points))
    # The derivative is infinite or does not exist where PyTorch has something else.
    missing = ~np.isfinite(expected) & ~special
    reasons = {
        "singular": singular | missing,
        "special": special,
        "overflow": overflowed,
    }
    left = wrong & ~reduce(np.logical_or, reasons.values())
    if left.any() and not (left & ~local.beyond(dtype)).any():
        if local.wider is None:
            return "cannot tell", "range"
        if not (left & ~local.borne_out(expected, dtype)).any():
            return "convention", "range"
    if wrong.any() and not left.any():
        found = [why for why, mask in reasons.items() if (wrong & mask).any()]
        inputs = all(np.isfinite(operand).all() for operand in local.operands.values())
        if found[:2] == ["special", "overflow"] and inputs:
            return "convention", "overflow"
        return "convention", found[0]
    terms, own = local.kernel("terms"), local.kernel("kernel")
    if step.difference and compare.by_kernel(step.difference, local.coarse, dtype):
        return "convention", "coarse"
    if terms is None or step.difference is None:
        return "mismatch", ""
    # Roundings of the kernel's larger terms may explain it, and hide an error too; endless ones explain
    # nothing.
    basis, terms = (expected, terms) if own is None else own
    bound = step.bound + compare.roundings(dtype) * np.nan_to_num(terms, posinf=0.0)
    name, routes, scale = local.names[1], step.difference.routes, compare.largest(given)
    told = compare.judge(name, routes, basis, given, bound, dtype, scale).verdict
    if told == "agree" or (told == "cannot tell" and local.borne_out(expected, dtype).all()):
        return "convention", "coarse"
    return told, "coarse" if told == "cannot tell" else ""


def hold_sum(
    name: str, parts: Sequence[JudgedStep], arrived: Array, dtype: str, beside: Any = 0.0
) -> JudgedStep:
    """What arrived at a value against the sum of what was sent to it, all PyTorch's own.

    ``beside`` is what it was added to on the way.
    """
    routes, form = ("the sum of what was sent", "PyTorch"), compare.FORMATS[dtype]
    allowed, tally = np.empty(arrived.shape), compare.Tally(name, routes)
    # A format of few digits is looked at as a whole, see `compare.judge`.
    total = np.empty(arrived.shape) if compare.is_coarse(dtype) else None
    beside, scale, hidden = np.broadcast_to(beside, arrived.shape), 0.0, False
    with np.errstate(all="ignore"):
        for own in compare.blocks(arrived.shape):
            sent = [part.torch[own] for part in parts]
            size = reduce(np.add, [np.abs(array) for array in sent]) * len(parts)
            size = size + np.abs(beside[own])
            bound = reduce(np.add, [part.bound[own] for part in parts])
            bound = bound + 2 * form.unit * size
            scale = max(scale, compare.largest(np.asarray(size)))
            # Within an endless bound nothing is allowed: what differs there has to be explained.
            allowed[own], added = np.nan_to_num(bound, posinf=0.0), reduce(np.add, sent)
            # The bounds of what was sent are beyond the roundings of the sum: an error may hide in them.
            near = np.maximum(form.unit * size + form.smallest, compare.SEEN * np.abs(added))
            hidden |= bool((np.abs(added - arrived[own]) > near).any())
            if total is None:
                tally.add(added, arrived[own], allowed[own], 0 if own is ... else own.start)
            else:
                total[own] = added
    if total is None:
        result = tally.judged(dtype, scale)
    else:
        result = compare.judge(name, routes, total, arrived, allowed, dtype, scale)
    if result.verdict != "mismatch":  # elements that are small beside their terms are not hidden
        told = "agree" if result.whole and not hidden else "cannot tell"
        result = replace(result, verdict=told)
    return JudgedStep(result.verdict, arrived, None, allowed, result.margin, result.difference)
