"""Sizes as letters: a formula that is derived once holds at every size.

A program is read a second time with a prime of its own for each axis of its inputs whose size nothing
in the program fixes.  A formula derived there speaks of the sizes as numbers that come from these
primes alone: ``92033`` is ``N·M``, ``10006`` is ``N − 1``.  `Sizes` puts letters for them, and numbers
for the letters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy

from gradexplain.errors import GradexplainError
from gradexplain.formula.functions import Modulo
from gradexplain.formula.indices import SIZES, size
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape

#: Far from one another, from each other's small multiples, and from numbers that people write.
PRIMES = (10_007, 23_017, 37_199, 53_593, 71_711, 97_177, 131_129, 171_517)

#: A number less than this far from a product of sizes is said by it: ``N − 1``, ``2·N``.
_NEAR = 8

#: Of programs with more operations than this sizes are not told apart one by one.
_MANY = 60


@dataclass(frozen=True)
class Sizes:
    """``graph`` is the program at sizes that are primes; ``letters`` the symbol of each prime, and
    ``values`` the size that it stands for."""

    graph: Graph
    letters: Mapping[int, Any]
    values: Mapping[Any, int]
    _known: dict[int, Any] = field(default_factory=dict)

    def size(self, n: int) -> Any:
        """A number in letters, as an expression; raises `Unlettered` where there is none."""
        found = self._size(n)
        if found is None:
            raise Unlettered(n)
        return found

    def _size(self, n: int) -> Any:
        if n not in self._known:
            self._known[n] = self._factored(n)
        return self._known[n]

    def _factored(self, n: int) -> Any:
        if n < 0:
            positive = self._factored(-n)
            return None if positive is None else -positive
        rest, found = n, sympy.S.One
        for prime, letter in self.letters.items():
            while rest and rest % prime == 0:
                rest //= prime
                found *= letter
        if rest < min(PRIMES) // 2:
            return found * rest
        for prime, letter in self.letters.items():
            for count in (1, 2, 3):
                if abs(rest - count * prime) < _NEAR:
                    return found * (count * letter + rest - count * prime)
        for (p, a), (q, b) in itertools.combinations(self.letters.items(), 2):
            for sign in (1, -1):
                if abs(rest - p * q) < _NEAR:
                    return found * (a * b + rest - p * q)
                if abs(rest - abs(p + sign * q)) < _NEAR:
                    turned = 1 if p + sign * q > 0 else -1
                    return found * turned * (a + sign * b) + found * (rest - abs(p + sign * q))
        return None

    def ratio(self, p: int, q: int) -> Any:
        """``p/q`` in letters: what was cancelled, as in ``2/(N − 1)`` of an odd N, is put back."""
        for common in (1, 2, 3, 4, 6, 8, 12):
            above, below = self._size(p * common), self._size(q * common)
            if above is not None and below is not None:
                return above / below
        raise Unlettered(p, q)

    def lettered(self, e: Any) -> Any:
        """``e`` with letters for every number that comes from a size."""
        turned = {}
        for m in e.atoms(Modulo):  # (i − 1) mod N, and not (i + N − 1) mod N
            constant, rest = m.args[0].as_coeff_Add()
            if m.args[1] in self.letters and 2 * constant > m.args[1]:
                turned[m] = Modulo(rest + constant - m.args[1], m.args[1])
        e = e.xreplace(turned) if turned else e
        put = {
            number: self.ratio(int(number.p), int(number.q))
            for number in e.atoms(sympy.Rational)
            if abs(number.p) > _NEAR or number.q > _NEAR
        }
        put = {number: letters for number, letters in put.items() if number != letters}
        return e.xreplace(put) if put else e

    def at(self, e: Any) -> Any:
        """``e`` at the sizes that are asked about."""
        return self.lettered(e).xreplace(self.values)

    def value(self, n: int) -> int:
        """The size that a size of ``graph`` stands for."""
        return int(self.size(n).xreplace(self.values))

    def shape(self, shape: Shape) -> Shape:
        return tuple(map(self.value, shape))


class Unlettered(ValueError):
    """A number that is no product of sizes: the formula holds at these sizes only."""


def generalised(graph: Graph, read: Callable[[Mapping[str, Shape]], Graph]) -> Sizes | None:
    """The program of ``graph`` at sizes that are letters, None where it holds at these sizes only.

    ``read`` reads the program with the inputs in given shapes.
    """
    axes = [
        (leaf.label, axis, n)
        for leaf in graph.leaves
        if not leaf.integer
        for axis, n in enumerate(leaf.shape)
        if n > 1
    ]
    taken = {node.label for node in graph.nodes}
    symbols = [size(name) for name in SIZES if name not in taken]

    def attempt(groups: list[list[tuple[str, int, int]]]) -> Sizes | None:
        if len(groups) > len(PRIMES) or len(groups) > len(symbols) or not all(groups):
            return None
        groups = sorted(groups, key=lambda group: axes.index(group[0]))
        letters = dict(zip(PRIMES, symbols[: len(groups)], strict=False))
        values = {symbol: group[0][2] for symbol, group in zip(symbols, groups, strict=False)}
        shapes = {leaf.label: list(leaf.shape) for leaf in graph.leaves}
        for prime, group in zip(PRIMES, groups, strict=False):
            for label, axis, _ in group:
                shapes[label][axis] = prime
        try:
            found = Sizes(read({name: tuple(s) for name, s in shapes.items()}), letters, values)
            return found if _same_program(found, graph) else None
        except (GradexplainError, Unlettered):
            return None

    if not axes:
        return None
    groups: list[list[tuple[str, int, int]]] = []
    for n in dict.fromkeys(n for *_, n in axes):
        groups.append([axis for axis in axes if axis[2] == n])
    best = attempt(groups)
    if best is None:
        # A size that the program itself fixes stays a number.
        kept: list[list[tuple[str, int, int]]] = []
        for group in groups:
            found = attempt([*kept, group])
            if found is not None:
                best, kept = found, [*kept, group]
        groups = kept
    if best is not None and len(graph.nodes) <= _MANY:
        for finer in _splits(groups):
            found = attempt(finer(groups))
            if found is not None:
                best, groups = found, finer(groups)
    return best


def _splits(groups: list[list[tuple[str, int, int]]]) -> Iterator[Callable[[Any], Any]]:
    """Ways to give one or two axes of a group a letter of their own."""
    for group in groups:
        if len(group) < 2:
            continue
        for count in (1, 2):
            for part in itertools.combinations(group, count):
                if count < len(group):
                    yield lambda groups, part=part: _split(groups, part)


def _split(groups: list[list[Any]], part: tuple[Any, ...]) -> list[list[Any]]:
    home = next((g for g in groups if part[0] in g), None)
    if home is None or len(home) <= len(part) or any(axis not in home for axis in part):
        return [*groups, []]  # nothing left to split
    rest = [[axis for axis in g if axis not in part] if g is home else g for g in groups]
    return [*rest, list(part)]


def _same_program(sizes: Sizes, graph: Graph) -> bool:
    """Whether the nodes are the same, each of the size that it has in ``graph``."""
    general = sizes.graph
    if len(general.nodes) != len(graph.nodes) or general.output != graph.output:
        return False
    for wide, node in zip(general.nodes, graph.nodes, strict=True):
        if wide.op is not node.op or wide.label != node.label or len(wide.shape) != len(node.shape):
            return False
        for n, here in zip(wide.shape, node.shape, strict=True):
            if sizes.value(n) != here or (here == 1) != (n == 1):
                return False
    return True
