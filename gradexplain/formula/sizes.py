"""Sizes as letters: a formula that is derived once holds at every size.

A program is read a second time with a prime of its own for each axis of its inputs whose size nothing
in the program fixes.  A formula derived there speaks of the sizes as numbers that come from these
primes alone: ``92033`` is ``N·M``, ``10006`` is ``N − 1``.  `Sizes` puts letters for them, and numbers
for the letters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import sympy

from gradexplain.errors import GradexplainError
from gradexplain.formula.calculus import uniform
from gradexplain.formula.functions import DECIMALS
from gradexplain.formula.indices import SIZES, size
from gradexplain.formula.kinds import Modulo, atoms
from gradexplain.formula.letters import Letters
from gradexplain.formula.printing import TextPrinter
from gradexplain.graph import Graph, Node
from gradexplain.ops.base import Shape

#: Far from one another and from numbers that people write; what lies within 3 of one of them has a
#: factor of more than `_LITERAL`, so that it is seen in a fraction that was reduced.
PRIMES = (38_669, 60_869, 72_551, 97_259, 131_959, 172_649, 230_933, 310_511)

#: A number up to this, or with no prime factors but those of the program's own, is what it says.
_LITERAL = 1000

_HALF = sympy.Rational(1, 2)

#: How far from a size, or from a sum or product of sizes, a number is said by it: ``N − 1``, ``2·N``.
_NEAR = 3

#: Of programs with more operations than this sizes are not told apart one by one.
_MANY = 60


@dataclass(frozen=True)
class Sizes:
    """``graph`` is the program at sizes that are primes; ``letters`` the symbol of each prime, and
    ``values`` the size that it stands for."""

    graph: Graph
    letters: Mapping[int, Any]
    values: Mapping[Any, int]
    #: A number whose prime factors are those of the numbers that the program is written with.
    written: int
    _known: dict[int, Any] = field(default_factory=dict)
    _lettered: dict[Any, Any] = field(default_factory=dict)
    _here: dict[Any, Any] = field(default_factory=dict)

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
            for offset in (0, -1, 1, -2, 2, -3, 3):
                while rest and rest % (prime + offset) == 0:
                    rest //= prime + offset
                    found *= letter + offset
        # Without the program's own prime factors, none of which is to be found for it.
        foreign = max(rest, 1)
        while (common := math.gcd(foreign, self.written)) > 1:
            foreign //= common
        if rest <= _LITERAL or foreign == 1:
            return found * rest
        for total, letters in self._combined():
            if abs(rest - total) <= _NEAR:
                return found * (letters + rest - total)
        return None

    def _combined(self) -> Iterator[tuple[int, Any]]:
        """Sums, differences and products of sizes."""
        for prime, letter in self.letters.items():
            yield from ((count * prime, count * letter) for count in (2, 3))
        for (p, a), (q, b) in itertools.permutations(self.letters.items(), 2):
            yield p + q, a + b
            yield p - q, a - b
            yield p * q, a * b

    def ratio(self, p: int, q: int) -> Any:
        """``p/q`` in letters: what was cancelled, as in ``2/(N − 1)`` of an odd N, is put back."""
        # A whole number such as ⌊(K − 1)/2⌋ was rounded, and is no fraction of sizes.
        for common in (1,) if q == 1 else (1, 2, 3, 4, 6, 8, 12):
            above, below = self._size(p * common), self._size(q * common)
            if above is not None and below is not None:
                return above / below
        raise Unlettered(p, q)

    def lettered(self, e: Any) -> Any:
        """``e`` with letters for every number that comes from a size."""
        if e not in self._lettered:
            self._lettered[e] = self._in_letters(e)
        return self._lettered[e]

    def _in_letters(self, e: Any) -> Any:
        turned = {}
        for m in atoms(e, Modulo):  # (i − 1) mod N, and not (i + N − 1) mod N
            constant, rest = m.args[0].as_coeff_Add()
            if m.args[1] in self.letters and 2 * constant > m.args[1]:
                turned[m] = Modulo(rest + constant - m.args[1], m.args[1])
        for m in atoms(e, sympy.Mul):
            turned |= self._under_root(m)
        e = e.xreplace(turned) if turned else e
        turned = {root: self._root(root) for root in atoms(e, sympy.Pow)
                  if root.base.is_Integer and abs(root.exp) == _HALF and root.base > _LITERAL}  # fmt: skip
        e = e.xreplace(turned) if turned else e
        put = {
            number: self.ratio(int(number.p), int(number.q))
            for number in atoms(e, sympy.Rational)
            if (abs(number.p) > _LITERAL or number.q > _LITERAL) and abs(number) not in DECIMALS
        }
        put = {number: letters for number, letters in put.items() if number != letters}
        return e.xreplace(put) if put else e

    def _under_root(self, product: Any) -> dict[Any, Any]:
        """``1/sqrt(N·M − 1)`` for a fraction whose root was taken out in part."""
        number, rest = product.as_coeff_Mul()
        factors = sympy.Mul.make_args(rest)
        roots = [f for f in factors if f.is_Pow and f.base.is_Integer and abs(f.exp) == _HALF]
        square = number**2 * sympy.Mul(*(root**2 for root in roots))
        if not roots or not number.is_Rational or max(square.p, square.q) <= _LITERAL:
            return {}
        whole = sympy.Integer(1) if number > 0 else sympy.Integer(-1)
        above, below = sympy.fraction(self.ratio(int(square.p), int(square.q)))
        others = [f for f in factors if f not in roots]
        return {product: whole * sympy.sqrt(above) / sympy.sqrt(below) * sympy.Mul(*others)}

    def _root(self, root: Any) -> Any:
        """``sqrt(N − 1)/2`` for the root of a number that was divided by a square."""
        for k in range(1, _LITERAL // 4):
            found = self._size(int(root.base) * k * k)
            if found is not None:
                return (sympy.sqrt(found) / k) ** (2 * root.exp)
        raise Unlettered(int(root.base), 1)

    def at(self, e: Any) -> Any:
        """``e`` at the sizes that are asked about."""
        if e not in self._here:
            self._here[e] = self.lettered(e).xreplace(self.values)
        return self._here[e]

    def value(self, n: int) -> int:
        """The size that a size of ``graph`` stands for."""
        return int(self.size(n).xreplace(self.values))

    def text(self, n: int) -> str:
        """A size as text: ``N``, ``N − 1``."""
        return TextPrinter(Letters(()))(self.size(n))

    def shape(self, shape: Shape) -> Shape:
        return tuple(map(self.value, shape))


class Unlettered(ValueError):
    """A number that is no product of sizes: the formula holds at these sizes only."""


def lettered(graph: Graph, primes: Mapping[str, int]) -> Sizes:
    """The sizes of a graph that was read at ``primes``, each with its letter."""
    letters = {prime: size(letter) for letter, prime in primes.items()}
    return Sizes(graph, letters, {}, _written(graph, primes.values()))


def generalised(graph: Graph, read: Callable[[Mapping[str, Shape]], Graph]) -> Sizes | None:
    """The program of ``graph`` at sizes that are letters, None where it holds at these sizes only.

    ``read`` reads the program with the inputs in given shapes.
    """
    axes = [
        (leaf.label, axis, n)
        for leaf in graph.leaves
        if not leaf.integer or len(leaf.shape) == 1  # of more axes there would be too many elements
        for axis, n in enumerate(leaf.shape)
        if n > 1
    ]
    written = _written(graph)
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
            general = read({name: tuple(s) for name, s in shapes.items()})
            found = Sizes(general, letters, values, written)
            return found if _same_program(found, graph) else None
        except (GradexplainError, MemoryError, Unlettered):
            return None

    if not axes:
        return None
    groups = [[a for a in axes if a[2] == n] for n in dict.fromkeys(n for *_, n in axes)]
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
        for part in _parts(groups):
            finer = _split(groups, part)
            found = attempt(finer)
            if found is not None:
                best, groups = found, finer
    return best


def _written(graph: Graph, primes: Collection[int] = ()) -> int:
    """The product of the numbers in a program, but for those near a size, and of 30."""
    found = 30
    for node in graph.nodes:
        for number in (node.value, *node.args):
            if isinstance(number, (int, float)) and math.isfinite(number):
                if any(abs((number + _NEAR) % prime - _NEAR) <= _NEAR for prime in primes):
                    continue
                p, q = Fraction(repr(float(number))).as_integer_ratio()
                # Exponents of derivatives too.
                found *= q * math.prod(abs(p - k * q) or 1 for k in range(1 if q == 1 else 3))
    return found


def _parts(groups: list[list[tuple[str, int, int]]]) -> Iterator[tuple[Any, ...]]:
    """One or two axes of a group, which might have a letter of their own."""
    for group in groups:
        for count in range(1, min(3, len(group))):
            yield from itertools.combinations(group, count)


def _split(groups: list[list[Any]], part: tuple[Any, ...]) -> list[list[Any]]:
    home = next((g for g in groups if part[0] in g), None)
    if home is None or len(home) <= len(part) or any(axis not in home for axis in part):
        return [*groups, []]  # nothing left to split
    rest = [[axis for axis in g if axis not in part] if g is home else g for g in groups]
    return [*rest, list(part)]


def _both_made(wide: Node, node: Node) -> bool:
    """Whether both are values that a formula gives, of the same others: gradients, and sums of them."""
    made = all(n.op is not None and n.op.pattern is not None for n in (wide, node))
    return made and wide.inputs == node.inputs


def _same_program(sizes: Sizes, graph: Graph) -> bool:
    """Whether the nodes are the same, each of the size that it has in ``graph``."""
    general = sizes.graph
    if len(general.nodes) != len(graph.nodes) or general.output != graph.output:
        return False
    for wide, node in zip(general.nodes, graph.nodes, strict=True):
        if wide.label != node.label or len(wide.shape) != len(node.shape):
            return False
        if wide.op is not node.op and not _both_made(wide, node):
            return False
        if wide.value is not None and wide.shape != node.shape and uniform(wide) is None:
            return False
        if node.is_literal and wide.value != node.value:
            whole = float(wide.value).is_integer()
            if not whole or sizes.value(int(wide.value)) != node.value:
                return False
        for n, here in zip(wide.shape, node.shape, strict=True):
            if sizes.value(n) != here or (here == 1) != (n == 1):
                return False
    return True
