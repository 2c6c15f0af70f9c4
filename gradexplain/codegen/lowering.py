"""Formulas as array programs that a person would compute: nothing is reordered or written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import sympy

from gradexplain.formula.functions import RecordFunction
from gradexplain.formula.kinds import Bracket, SincSlope
from gradexplain.plan.forms import at_least
from gradexplain.plan.lower import Lowering
from gradexplain.plan.program import Node

TURNED = {"less": "greater", "less_equal": "greater_equal", "greater": "less",
           "greater_equal": "less_equal"}  # fmt: skip

#: A comparison and the one that holds where it does not.
_COMPLEMENT = {"less": "greater_equal", "greater": "less_equal", "equal": "not_equal"}
_COMPLEMENT |= {b: a for a, b in _COMPLEMENT.items()}


class CodeLowering(Lowering):
    """Formulas as a person computes them: named functions stay what they are, nothing is reordered."""

    large = math.inf

    def _made(self, e: Any, scope: Any) -> Node:
        if isinstance(e, RecordFunction):
            tensors = [a for p, a in zip(parameters(e), e.args, strict=True) if p.is_tensor]
            return self._map(e, *(self._real(a, scope) for a in tensors))
        if isinstance(e, SincSlope):
            return self._real(e.written(), scope)
        return super()._made(e, scope)

    def _element(
        self, label: str, indices: Sequence[Any], scope: Any, *, table: bool = False
    ) -> Node:
        """A gradient that is the same along an axis has one element there, or not the axis at all."""
        shape = self._shape(label)
        indices = list(indices)[len(indices) - len(shape) :]
        indices = [sympy.S.Zero if n == 1 else i for i, n in zip(indices, shape, strict=True)]
        return super()._element(label, indices, scope, table=table)

    def _terms(self, terms: Sequence[Any], scope: Any) -> Node:
        """``a if c else b`` where one term has it that c holds, and another that it does not."""
        args = [self._real(term, scope) for term in terms]
        node = self._folded("add", args)
        one = self._number(sympy.S.One)
        parts = {
            a: a.args if a.kind == "select" else (a.args[0], one)
            for a in args
            if a.kind == "select" or (a.kind == "real" and a.args[0].type == "mask")
        }
        for first, second in itertools.combinations(parts, 2):
            if first in args and second in args and complement(parts[first][0], parts[second][0]):
                if parts[second][0].data in ("greater", "greater_equal"):
                    first, second = second, first
                choice = self.program.add("choose", (*parts[first], parts[second][1]))
                args = [*(a for a in args if a is not first and a is not second), choice]
                node = args[0] if len(args) == 1 else self._map("add", *args)
        return node

    def _product(self, factors: Iterable[Any], scope: Any) -> Node:
        """Without the conditions that say where a view ends: it is 0 outside."""
        factors, outside = list(factors), set()
        for factor in factors:
            if isinstance(factor, sympy.Indexed):
                outside |= self._outside(factor, scope)
        left = []
        for factor in factors:
            if isinstance(factor, Bracket):
                inside = [c for c in sympy.And.make_args(factor.condition)
                          if at_least(c, scope) not in outside]  # fmt: skip
                factor = Bracket(sympy.And(*inside)) if inside else sympy.S.One
            left.append(factor)
        return super()._product([f for f in left if f != 1] or [sympy.S.One], scope)


def parameters(e: RecordFunction) -> list[Any]:
    return [next(p for p in e.op.parameters if p.name == name) for name in e.names]


def complement(a: Node, b: Node) -> bool:
    if a.kind != "map" or b.kind != "map" or a.data not in _COMPLEMENT:
        return False
    return (b.data, b.args) == (_COMPLEMENT[a.data], a.args) or (
        TURNED.get(b.data, b.data), b.args[::-1]) == (_COMPLEMENT[a.data], a.args)  # fmt: skip
