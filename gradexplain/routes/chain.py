"""The chain rule, one operation at a time: forward values, then the adjoint graph's contributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from weakref import ref

import numpy as np
import sympy

from gradexplain.adjoint import Contribution, adjoint
from gradexplain.arithmetic import mp
from gradexplain.explanation import Array
from gradexplain.formula.calculus import literal_value
from gradexplain.formula.kit import decimals
from gradexplain.formula.local import RESULT, UPSTREAM, local_rule
from gradexplain.graph import Graph, Node, Ref, put, refs
from gradexplain.plan.arrays import Pair, Relative, added, sized, to_exact, to_float
from gradexplain.plan.blocks import LARGE
from gradexplain.plan.evaluate import Evaluator, kernel_value
from gradexplain.verdict import compare, digits


def cleaned(pair: Any, *, exact: bool) -> Array:
    """A pair as float64, rounding noise put to 0."""
    value = pair[0]
    if exact:
        shown = to_float(value)
        if _clear(shown, pair[1], 10 - mp.dps):
            return np.asarray(shown + 0.0)
        return np.asarray(np.where(noise(pair), 0.0, shown) + 0.0)
    return compare.settled(to_float(value), pair[1], compare.ROUNDOFF["float64"])


def _clear(value: Array, size: Array, ten: int) -> bool:
    """Whether every number, as a float, is larger than ``size`` times this power of ten by far."""
    with np.errstate(all="ignore"):
        return bool((np.abs(value) > 2 * 10.0**ten * size).all() and np.isfinite(value).all())


def noise(pair: Any) -> Array:
    """Where numbers with digits to spare are 0 but for their rounding."""
    unit = mp.mpf(10) ** (10 - mp.dps)

    def is_noise(value: Any, magnitude: float) -> bool:
        return bool(magnitude < math.inf and abs(value) <= unit * magnitude)

    with np.errstate(all="ignore"):
        return np.asarray(np.frompyfunc(is_noise, 2, 1)(*pair), dtype=bool)


@dataclass(frozen=True, slots=True)
class Sent(Contribution):
    """A contribution at the point: the pair of its values and magnitudes."""

    value: Pair


#: Decimal digits with which values are computed first, and next; these are doubled until they are
#: enough, as far as the powers of ten on the way make that likely (`most_digits`), to a last limit.
DIGITS, MORE_DIGITS, MOST_DIGITS = 50, 400, 12800

#: Functions that come nowhere near a number as exp does at large arguments.
_TAME = (
    sympy.Abs, sympy.sign, sympy.Max, sympy.Min, sympy.floor, sympy.ceiling,
    sympy.log, sympy.sin, sympy.cos, sympy.tan, sympy.asin, sympy.acos, sympy.atan,
)  # fmt: skip

#: So many digits are to be right, of numbers that are larger than any of a float's last.
_WANTED, _FLOOR = 18, mp.mpf(10) ** -350


def settled_chain(
    graph: Graph, values: Mapping[str, Array], v: Array, wanted: list[str], *, exact: bool
) -> tuple[ChainRule, int, bool]:
    """The chain rule carried through, the digits with which it was, and whether they were enough.

    Where fewer than 18 digits of a number are certain it is all done again with twice as many, up to
    `ChainRule.most_digits`; what is then no more than its own rounding is 0.  They are not enough where
    more would have been worth trying than `MOST_DIGITS`.
    """
    digits, before = DIGITS, None
    while True:
        with mp.workdps(digits):
            chain = ChainRule(graph, values, exact=exact)
            chain.backward(v, wanted)
            if not exact:
                return chain, digits, True
            numbers = chain.numbers()
            if _clear(to_float(numbers[0]), numbers[1], _WANTED - digits):
                return chain, digits, True
            worth = chain.most_digits(numbers, digits, before)
            again = digits < worth <= MOST_DIGITS
            if certain(numbers, digits, before, again=again):
                return chain, digits, True
            # What no float can hold needs no digits: there is no number that is not finite then, to
            # which it may have led.
            enough = certain(numbers, digits, before, again=again, floor=True)
        # Where there is no hope half of the last limit is tried.
        if enough or digits >= (worth if worth <= MOST_DIGITS else MOST_DIGITS // 2):
            return chain, digits, enough or worth <= MOST_DIGITS
        before = numbers
        digits = max(2 * digits, MORE_DIGITS)


def certain(
    pair: Pair,
    digits: int,
    before: Pair | None = None,
    *,
    again: bool = False,
    floor: bool = False,
) -> bool:
    """Whether enough of the ``digits`` are left in every number that is finite.

    Where an error bound is too large for a float, two evaluations must agree: this and the one
    ``before``; that both have nothing left says nothing, and is tried ``again``.
    """
    if _clear(to_float(pair[0]), pair[1], _WANTED - digits):
        return True
    unit, near = mp.mpf(10) ** (_WANTED - digits), mp.mpf(10) ** -_WANTED
    earlier = np.full(np.shape(pair[0]), mp.nan) if before is None else before[0]

    def lost(value: Any, size: float, other: Any) -> bool:
        if not mp.isfinite(value):
            return floor
        if size < math.inf:
            return bool(abs(value) < unit * size and not (floor and unit * size < _FLOOR))
        return ((again or floor) and value == 0) or not abs(value - other) <= near * abs(value)

    with np.errstate(all="ignore"):
        return not np.any(np.frompyfunc(lost, 3, 1)(pair[0], pair[1], earlier))


class ChainRule:
    """The values of every node, and the gradient of ``L = Σ v·y`` by each.

    ``values`` are the leaves' by label; ``exact`` chooses mpmath.  After `backward`,
    ``upstream[id]`` is ∂L/∂node as a pair of values and magnitudes, ``contributions`` the steps in
    the order in which they are made.
    """

    def __init__(self, graph: Graph, values: Mapping[str, Array], *, exact: bool) -> None:
        self.graph = graph
        self.exact = exact
        self.forward: dict[int, Pair] = {}
        self.upstream: dict[int, Pair] = {}
        self.contributions: list[Sent] = []
        self._cleaned: dict[int, tuple[Callable[[], Any], Callable[[], Any]]] = {}
        self._decimals = decimals(graph) if exact else frozenset()
        needed = graph.needed()
        for node in graph.nodes:
            if node.id in needed:
                self.forward[node.id] = self._value(node, values)

    def clean(self, pair: Pair) -> Array:
        """`cleaned`, made once; what is large is there as long as somebody has it."""
        known = self._cleaned.get(id(pair[0]))
        found = known[1]() if known is not None and known[0]() is pair[0] else None
        if found is None:
            found = cleaned(pair, exact=self.exact)
            kept: Any = ref if found.size >= LARGE else lambda array: lambda: array
            self._cleaned[id(pair[0])] = kept(pair[0]), kept(found)
        return found

    def numbers(self) -> Pair:
        """All numbers, one after another."""
        found = [*self.forward.values(), *self.upstream.values()]
        values, sizes = zip(*found, *(c.value for c in self.contributions), strict=True)
        return np.concatenate([*map(np.ravel, values)]), np.concatenate([*map(np.ravel, sizes)])

    def most_digits(self, numbers: Pair, digits: int, before: Pair | None) -> int:
        """How many digits are worth trying: what cancels may be eight times the largest power of ten.

        A number with an endless bound that was another one ``before`` is rounding noise.  Where one of
        the `numbers` is not finite, a difference of which nothing is left may have been divided by: the
        powers are then also those of each slope alone, and of ``exp`` at what functions are given.
        """
        tens, noise, near = 1, mp.mpf(10) ** (10 - digits), mp.mpf(10) ** -_WANTED
        values, sizes = numbers
        found = [(values, sizes, values if before is None else before[0])]
        if not all(map(mp.isfinite, values)):
            ones = (self._pair(np.ones(c.node.shape)) for c in self.contributions)
            slopes = map(self.sent, self.contributions, ones)
            found += ((value, size, value) for value, size in slopes)
            tens = max(tens, *map(self._exponent, self.graph.nodes))
        for arrays in found:
            for x, s, e in zip(*map(np.ravel, arrays), strict=True):
                known = abs(x) > noise * s if s < math.inf else abs(x - e) <= near * abs(x)
                if x != 0 and mp.isfinite(x) and known:
                    tens = max(tens, abs(mp.mag(x)) * 301 // 1000)
        return max(MORE_DIGITS, 8 * tens)

    def _exponent(self, node: Node) -> int:
        """The power of ten that ``exp`` has at the largest number which a function of ``node`` is given."""
        if node.op is None or self._is_kernel(node) or node.id not in self.forward:
            return 0
        functions = local_rule(node, self.graph).element.atoms(sympy.Function)
        given = [self.forward[id][0].ravel() for id in node.inputs if id in self.forward]
        if not given or all(isinstance(f, _TAME) for f in functions):
            return 0
        largest = max((abs(x) for x in np.concatenate(given) if mp.isfinite(x)), default=0)
        return int(largest / 2)  # log₁₀(e) is less

    def _pair(self, array: Any) -> Pair:
        array = np.asarray(array, dtype=np.float64)
        if self.exact:
            return to_exact(array), np.asarray(Relative(array))
        return array, Relative(array)

    def _value(self, node: Node, values: Mapping[str, Array]) -> Pair:
        if node.op is None:
            return self._pair(values[node.label] if node.is_leaf else node.value)
        if self._is_kernel(node):
            return self._kernel(node)
        rule = local_rule(node, self.graph)
        evaluator = self._evaluator(node, rule.element_sizes)
        return evaluator.value(rule.element, rule.axes, node.shape)

    def _is_kernel(self, node: Node) -> bool:
        assert node.op is not None
        return node.op.value is not None and not (self.exact and node.op.element is not None)

    def _kernel(self, node: Node) -> Pair:
        """The record's own numeric kernel."""
        assert node.op is not None and node.op.value is not None
        pairs = {id: sized(self.forward[id]) for id in node.inputs if id in self.forward}
        return kernel_value(node.op.value, self.exact, put(node.args, pairs.__getitem__))

    def _evaluator(
        self, node: Node, sizes: Mapping[Any, int], upstream: Pair | None = None
    ) -> Evaluator:
        order = list(dict.fromkeys(ref.id for ref in refs(node.args)))

        def resolve(label: str) -> Pair:
            if label == UPSTREAM:
                assert upstream is not None
                return upstream
            literal = literal_value(label)
            if literal is not None:
                return self._pair(literal)
            if label == RESULT:
                return self._result(node)
            return self.forward[order[int(label[1:])]]

        def lookup(label: str) -> Any:
            return self.integers(self.graph[order[int(label[1:])]])

        assert node.op is not None
        what = node.op.name if upstream is None else f"the gradient of {node.op.name}"
        return Evaluator(resolve, sizes, exact=self.exact, lookup=lookup, what=what,
                         decimals=self._decimals)  # fmt: skip

    def along(self, path: Sequence[Sent], v: Array) -> Pair:
        """What flows back along one path, from the output's ``v`` to the last one's source."""
        pair = self._pair(v)
        for c in path:
            pair = self.sent(c, pair)
        return pair

    def sent(self, c: Contribution, upstream: Pair) -> Pair:
        """What ``c.node`` sends to ``c.source`` of the gradient that arrives at it."""
        evaluator = self._evaluator(c.node, c.rule.sizes[c.place], upstream)
        return evaluator.value(c.term.formula, c.term.places, c.source.shape)

    def sent_in_parts(self, c: Contribution, upstream: Pair) -> Iterator[tuple[slice, Pair]]:
        """The same in parts of its first axis."""
        evaluator = self._evaluator(c.node, c.rule.sizes[c.place], upstream)
        return evaluator.parts(c.term.formula, c.term.places, c.source.shape)

    def by_kernel(self, c: Contribution, upstream: Array, what: str) -> Any:
        """The ``terms`` of PyTorch's kernel for `sent`, or the ``kernel``: see `Coarse`."""
        assert c.node.op is not None
        rules = (getattr(coarse, what) for coarse in c.node.op.coarse)
        rule = next(filter(None, rules), None)
        if rule is None:
            return None
        y = to_float(self.forward[c.node.id][0])
        values = [to_float(self.forward[a.id][0]) if isinstance(a, Ref) else a for a in c.node.args]
        with np.errstate(all="ignore"):
            return rule(upstream, y, *values)

    @property
    def decimals(self) -> int:
        """How many doubles of the program a formula has as fractions that they are not."""
        return len(self._decimals)

    def _result(self, node: Node) -> Pair:
        return self.forward[node.id]

    def integers(self, node: Node) -> Any:
        """The values of an integer tensor; negative ones count from the end where it is an index."""
        return to_float(self.forward[node.id][0]).astype(int)

    def backward(self, v: Array, wanted: Sequence[str]) -> None:
        """From the output to the leaves ``wanted``, along the adjoint graph."""
        self.upstream = {self.graph.output: self._pair(v)}
        self.contributions = []
        for c in adjoint(self.graph, wanted, UPSTREAM).contributions:
            value = shown = self.sent(c, self.upstream[c.node.id])
            if c.source.id in self.upstream:
                value = added(self.upstream[c.source.id], value)
            self.upstream[c.source.id] = value
            if not self.exact and shown[0].size >= LARGE:
                # Its bounds are needed in the sum alone.
                kept = cleaned(shown, exact=False)
                shown = kept, Relative(kept)
            self.contributions.append(Sent(c.node, c.source, c.rule, c.place, c.term, shown))
        self._shed()

    def _shed(self) -> None:
        """Let go of the bounds of large arrays that have no rounding noise, but for the gradients'."""
        for pairs in (self.forward, self.upstream):
            for id, pair in pairs.items():
                large = not self.exact and pair[0].size >= LARGE
                large = large and not isinstance(pair[1], Relative)
                if large and self.graph[id].op is not None and self.clean(pair) is pair[0]:
                    pairs[id] = pair[0], Relative(pair[0])


def at_moved(graph: Graph, values: Mapping[str, Array], move: compare.Move) -> Mapping[str, Array]:
    """``values`` with other last digits, but for the integers among them."""
    integers = {node.label for node in graph.leaves if node.integer}
    return {name: a if name in integers else move(a) for name, a in values.items()}


@dataclass(frozen=True)
class RightDigits:
    """Which of PyTorch's gradients have few right digits, by a ``chain`` that was carried through with
    ``precision`` digits from ``values`` and ``v``; see `gradexplain.verdict.digits.lost`."""

    chain: ChainRule
    precision: int
    values: Mapping[str, Array]
    v: Array
    wanted: Sequence[str]
    dtype: str

    def lost(self, node: Node, found: Array | None) -> Any:
        """True at the elements of the gradient of ``node`` that have few right digits in ``found``."""
        pair = self.chain.upstream.get(node.id)
        exact, scale = np.zeros(node.shape), compare.largest(self.v)
        if pair is not None:
            exact = self.chain.clean(pair)
            # What cancels altogether is held against what it is made of.
            scale = scale if exact.any() else max(scale, compare.largest(np.asarray(pair[1])))
        whole = pair is None or not self.chain.exact or compare.is_coarse(self.dtype)
        each = None if whole else partial(self._others, node.id)
        return digits.lost(found, exact, self.dtype, scale, each)

    def worst(self, node: Node, found: Array) -> tuple[float | None, str]:
        """How many the worst of those has, and in words: `gradexplain.verdict.digits.worst`."""
        lost, exact = self.lost(node, found), self.chain.clean(self.chain.upstream[node.id])
        return digits.worst(f"{node.label}.grad", lost, found, exact, self.dtype)

    def _others(self, id: int) -> list[Array]:
        return [to_float(chain.upstream[id][0]) for chain in self._moved]

    @cached_property
    def _moved(self) -> list[ChainRule]:
        """The chain rule at inputs whose last digits are other ones."""
        found, graph = [], self.chain.graph
        with mp.workdps(self.precision):
            for move in compare.moves(self.dtype):
                found.append(ChainRule(graph, at_moved(graph, self.values, move), exact=True))
                found[-1].backward(move(self.v), self.wanted)
        return found
