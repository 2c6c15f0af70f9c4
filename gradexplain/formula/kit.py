"""What a record's ``element`` and ``jacobian`` see: indices, sums, elements and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partialmethod
from math import isfinite
from typing import Any, ClassVar

import sympy
from sympy.logic.boolalg import And, Or

from gradexplain.formula.contract import close_sum, delta
from gradexplain.formula.functions import PRIMITIVES, build, by_name, choose, named_function
from gradexplain.formula.indices import Ranges
from gradexplain.formula.kinds import (
    Bracket,
    Cases,
    FirstGreatest,
    FirstLeast,
    Greatest,
    Least,
    Lookup,
)
from gradexplain.graph import Graph, NamedNumber, fact
from gradexplain.ops.base import Shape


@dataclass(eq=False)
class Tensor:
    """A tensor argument: ``x[i, j]`` is the SymPy expression of one element, ``x.shape`` its shape."""

    shape: Shape
    element: Callable[[tuple[Any, ...]], Any]

    @property
    def rank(self) -> int:
        return len(self.shape)

    def __getitem__(self, indices: Any) -> Any:
        at = tuple(indices) if isinstance(indices, (tuple, list)) else (indices,)
        if len(at) != len(self.shape):
            raise ValueError(f"{len(at)} indices for shape {self.shape}")
        return self.element(
            tuple(
                sympy.S.Zero if n == 1 else sympy.sympify(i)
                for i, n in zip(at, self.shape, strict=True)
            )
        )

    def broadcast(self, indices: Sequence[Any]) -> Any:
        """The element that broadcasting puts at ``indices`` of the result."""
        return self[tuple(indices[len(indices) - len(self.shape) :])]


@dataclass(eq=False)
class Kit:
    """The names for one element of the result.  See `gradexplain.ops.base`."""

    S: ClassVar[Any] = sympy
    pi: ClassVar[Any] = sympy.pi

    ranges: Ranges
    #: The shape of the result, and the indices of the element that is asked for.
    shape: Shape
    i: tuple[Any, ...]
    #: In a Jacobian: the indices of the input's element, the argument's name, for a list of tensors
    #: which of them, and the result.
    j: tuple[Any, ...] = ()
    wrt: str = ""
    part: int = 0
    out: Tensor | None = None

    # -- indices ---------------------------------------------------------------------------------

    def bound(self, size: int) -> Any:
        """A bound index over an axis of ``size``."""
        return self.ranges.fresh(size)

    def bounds(self, sizes: Sequence[int]) -> list[Any]:
        return [self.bound(n) for n in sizes]

    def below(self, i: Any, n: int) -> Any:
        """``i``, an element of an integer tensor whose elements are known to be below ``n``."""
        if isinstance(i, Lookup):
            label = i.args[0].name
            self.ranges.tables[label] = max(n, self.ranges.tables.get(label, 0))
        return i

    def put(self, indices: Sequence[Any], dim: int, value: Any) -> tuple[Any, ...]:
        """``indices`` with the one at ``dim`` replaced."""
        return (*indices[:dim], value, *indices[dim + 1 :])

    def ravel(self, indices: Sequence[Any], shape: Shape) -> Any:
        return self.ranges.ravel(indices, shape)

    def unravel(self, flat: Any, shape: Shape) -> tuple[Any, ...]:
        return self.ranges.unravel(sympy.sympify(flat), shape)

    def floordiv(self, e: Any, n: int) -> Any:
        return self.ranges.floordiv(sympy.expand(e), n)

    def modulo(self, e: Any, n: int) -> Any:
        return self.ranges.modulo(sympy.expand(e), n)

    # -- sums and choices ------------------------------------------------------------------------

    def sum(self, body: Any, *over: Any) -> Any:
        return close_sum(body, list(over), self.ranges)

    def greatest(self, body: Any, *over: Any, kind: Any = Greatest) -> Any:
        over_ = [q for q in over if not q.is_Integer]
        return close_sum(body, over_, self.ranges, kind) if over_ else body

    product = partialmethod(greatest, kind=sympy.Product)
    least = partialmethod(greatest, kind=Least)
    argmax = partialmethod(greatest, kind=FirstGreatest)
    argmin = partialmethod(greatest, kind=FirstLeast)

    def delta(self, a: Any, b: Any) -> Any:
        return delta(sympy.sympify(a), sympy.sympify(b), self.ranges)

    def deltas(self, a: Sequence[Any], b: Sequence[Any]) -> Any:
        return sympy.Mul(*(self.delta(x, y) for x, y in zip(a, b, strict=True)))

    def bracket(self, condition: Any) -> Any:
        return self.ranges.bracket(condition)

    def choose(self, condition: Any, then: Any, otherwise: Any) -> Any:
        return choose(self.ranges.decide(condition), then, otherwise)

    def cases(self, *pieces: tuple[Any, Any]) -> Any:
        """The value of the first piece whose condition holds; the last condition is True."""
        decide = self.ranges.decide
        return Cases(*((value, decide(sympy.sympify(condition))) for value, condition in pieces))

    all = staticmethod(And)
    any = staticmethod(Or)
    #: A formula in the language of pointwise records.
    build = staticmethod(build)
    eq = staticmethod(sympy.Eq)
    ne = staticmethod(sympy.Ne)
    iverson = staticmethod(Bracket)

    #: A literal as PyTorch's user wrote it: 0.1 is 1/10, shown as 0.1.
    number = staticmethod(lambda value: number(value))

    def __getattr__(self, name: str) -> Any:
        """A function by its name: ``k.exp``, or a pointwise record's: ``k.sigmoid``."""
        if name in PRIMITIVES:
            return PRIMITIVES[name].symbolic
        try:
            return named_function(by_name(name))
        except KeyError:
            raise AttributeError(name) from None


def number(value: float) -> Any:
    """A Python number as SymPy's, decimals as the fraction that their text means."""
    if isinstance(value, NamedNumber):
        return {"pi": sympy.pi, "e": sympy.E}[value.name]
    if isinstance(value, int):
        return sympy.Integer(value)
    if value != value:
        return sympy.nan
    if value in (float("inf"), float("-inf")):
        return sympy.oo if value > 0 else -sympy.oo
    return sympy.Rational(repr(value))


@fact
def decimals(graph: Graph) -> frozenset[Any]:
    """The fractions that stand for a double of the program which is another number, as 1/10 for 0.1.

    A fraction that was derived, the 1/25 of a mean, is none of them.
    """

    def numbers(arg: Any) -> Iterator[float]:
        if isinstance(arg, tuple):
            for part in arg:
                yield from numbers(part)
        elif getattr(arg, "size", 0) and (arg == arg.flat[0]).all():
            yield from numbers(float(arg.flat[0]))
        elif isinstance(arg, float) and not isinstance(arg, NamedNumber) and isfinite(arg):
            yield arg

    values = (v for node in graph.nodes for v in numbers((node.value, *node.args)))
    pairs = ((number(value), value) for value in values)
    return frozenset(shown for shown, value in pairs if shown != sympy.Rational(value))
