"""A program in mpmath, with as many digits as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import sympy

from gradexplain.arithmetic import mp
from gradexplain.formula.functions import DECIMALS, KERNELS
from gradexplain.plan import contraction
from gradexplain.plan.arrays import as_array, scattered, to_exact
from gradexplain.plan.numeric import Numeric
from gradexplain.plan.program import Node


class Exact(Numeric):
    """Values as mpmath numbers.  The digits are those of the context (`digits`) while it runs.

    ``decimals`` are the fractions that stand for doubles: 1/10 where the program says 0.1.
    """

    dtype = np.dtype(object)

    def __init__(
        self,
        tensor: Callable[[str], Any],
        table: Callable[[str], Any] | None = None,
        decimals: frozenset[Any] = frozenset(),
    ) -> None:
        super().__init__(tensor, table)
        self.zero, self.one = mp.zero, mp.one
        self._decimals = decimals

    def number_of(self, value: Any) -> Any:
        return _number(value, self._decimals, mp.prec)

    def real(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        return to_exact(np.asarray(args[0], dtype=np.float64))

    def map(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        what, arrays = node.data, self.arrays(node, args)
        if what == "divide":
            return _divide(*arrays)
        if what == "power":
            return _power(*arrays)
        if what == "sqrt":
            return _power(arrays[0], mp.mpf(0.5))
        return super().map(node, args, spare)

    def whole_power(self, base: Any, n: int) -> Any:
        return _power(base, mp.mpf(n))

    def function(self, what: Any, arrays: Sequence[Any]) -> Any:
        kernel = KERNELS[what].exact
        assert kernel is not None
        return as_array(np.frompyfunc(kernel, len(arrays), 1)(*arrays))

    def contract(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        axes = [arg.axes for arg in node.args]
        masks = [arg.type != "real" for arg in node.args]
        return contraction.masked(args, axes, masks, node.axes, mp.zero)

    def scatter(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        tables = node.data[1]

        def add(where: Any, terms: Any, room: int) -> Any:
            total = np.full(room, mp.zero, dtype=object)
            np.add.at(total, where, terms)
            return total

        return scattered(node, args[0], args[1 : 1 + tables], args[1 + tables :], add)


@lru_cache(maxsize=1024)
def _number(value: Any, decimals: frozenset[Any], _digits: int) -> Any:
    """A number of a formula, with the context's digits; those of ``decimals`` are doubles."""
    size = abs(value)
    return mp.mpf(float(value)) if size in decimals or size in DECIMALS else constant(value)


_NOT_FINITE = {sympy.oo: mp.inf, -sympy.oo: -mp.inf, sympy.nan: mp.nan}


def constant(e: Any) -> Any:
    """A number of a formula."""
    if e.is_Rational:
        return mp.mpf(int(e.p)) / int(e.q)
    if e in _NOT_FINITE:
        return _NOT_FINITE[e]
    return +mp.make_mpf(sympy.N(e, mp.dps + 10)._mpf_)  # a text of so many digits Python refuses


def divide(a: Any, b: Any) -> Any:
    """IEEE's division."""
    if b == 0:
        return mp.nan if a == 0 or mp.isnan(a) else mp.inf if a > 0 else -mp.inf
    if mp.isinf(b):
        return mp.nan if mp.isinf(a) else mp.zero
    return a / b


def power(a: Any, b: Any) -> Any:
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
    if mp.mag(b) + abs(mp.mag(a)).bit_length() > 60:
        exponent = b * mp.log(abs(a))
        if exponent and mp.mag(exponent) > 60:  # an exponent of astronomic length
            size = mp.inf if exponent > 0 else mp.zero
            return -size if a < 0 and odd else size
    result = mp.power(a, int(b) if whole and abs(b) < 10**6 else b)
    return result.real if isinstance(result, mp.mpc) else result


_divide = np.frompyfunc(divide, 2, 1)
_power = np.frompyfunc(power, 2, 1)
