"""Values of a graph that a formula gives, where no record does: gradients, and sums of them.

Such a value is a node like any other, with an operation made for it, whose element formula is the
sum of its `Term`s; so everything that reads a graph reads it, and it can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import sympy

from gradexplain.errors import Span
from gradexplain.formula.indices import index
from gradexplain.formula.kinds import Lookup, Sum, atoms, element_symbol, indices_of, label_of
from gradexplain.formula.letters import IN, Letters
from gradexplain.formula.local import renamed
from gradexplain.formula.printing import TextPrinter
from gradexplain.graph import Node, Ref
from gradexplain.ops.base import Op, Shape

NOWHERE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Term:
    """A formula in the index symbols ``places``; ``names`` says which node each name in it is.

    A name whose node is None is the constant 1.
    """

    formula: Any
    places: tuple[Any, ...]
    names: Mapping[str, int | None]


def term(formula: Any, places: tuple[Any, ...], names: Mapping[str, int | None]) -> Term:
    """The term, with those of ``names`` that its formula mentions (index letters are integers)."""
    used = {s.name for s in atoms(formula, sympy.Symbol) if not s.is_integer}
    return Term(formula, places, {name: names[name] for name in names if name in used})


def formula_node(
    nodes: Sequence[Node],
    label: str,
    terms: Sequence[Term],
    shape: Shape,
    *,
    named: bool,
    show: Callable[[], str],
) -> Node:
    """The next node after ``nodes``: the value whose element is the sum of ``terms``.

    Formulas speak of it by its name if it is ``named``, and write it out otherwise, as they do a
    constant.  ``show`` says how the operation reads, if anybody asks.
    """
    order = sorted({id for t in terms for id in t.names.values() if id is not None})
    at = {id: place for place, id in enumerate(order)}
    parts = tuple(
        (t.formula, t.places, tuple((n, None if i is None else at[i]) for n, i in t.names.items()))
        for t in terms
    )
    kinds = tuple("IntTensor" if nodes[id].integer else "Tensor" for id in order)
    pattern = _pattern(parts, kinds, shape)
    op = replace(
        pattern, schema=f"{label}({_arguments(kinds)})", moves=not named or not order,
        show=lambda *a: show(), pattern=pattern,
    )  # fmt: skip
    args = tuple(map(Ref, order))
    return Node(len(nodes), label, named and bool(order), op, args, shape, NOWHERE)


def _arguments(kinds: Sequence[str]) -> str:
    return ", ".join(f"{kind} a{n}" for n, kind in enumerate(kinds))


@lru_cache(maxsize=1024)
def _pattern(parts: tuple[Any, ...], kinds: tuple[str, ...], shape: Shape) -> Op:
    """The operation that all values of these terms and this shape share, whatever they are called."""

    def element(k: Any, *tensors: Any) -> Any:
        total = sympy.S.Zero
        for formula, places, names in parts:
            values = {name: None if n is None else tensors[n] for name, n in names}
            at = dict(zip(places, k.i, strict=True))
            total += _Element(k, values)(formula.xreplace(at))
        return total

    return Op(
        f"value({_arguments(kinds)})", "gradient", ("",), element=element, shape=lambda *a: shape
    )


class _Element:
    """A formula in the terms of a record's ``element``: values are tensors, sums are made."""

    def __init__(self, kit: Any, values: Mapping[str, Any]) -> None:
        self.kit = kit
        self.values = values

    def __call__(self, e: Any) -> Any:
        if isinstance(e, (sympy.Sum, sympy.Product)):
            bound = {q: self.kit.bound(int(last) + 1) for q, _, last in e.limits}
            body = self(e.function.xreplace(bound))
            close = self.kit.sum if isinstance(e, sympy.Sum) else self.kit.product
            return close(body, *bound.values())
        if isinstance(e, Lookup):
            return self._element(e.args[0].name, tuple(map(self, e.args[1:])))
        if isinstance(e, sympy.Indexed):
            return self._element(label_of(e), tuple(map(self, indices_of(e))))
        if e.is_Symbol:
            return e if e.name not in self.values or e.is_integer else self._element(e.name, ())
        if isinstance(e, sympy.KroneckerDelta):
            return self.kit.delta(*map(self, e.args))
        if isinstance(e, sympy.Piecewise):
            pieces = [(self(value), self(condition)) for value, condition in e.args]
            return sympy.Piecewise(*pieces, evaluate=False)
        return e.func(*map(self, e.args)) if e.args else e

    def _element(self, label: str, at: tuple[Any, ...]) -> Any:
        tensor = self.values[label]
        return sympy.S.One if tensor is None else tensor[at]


def formula_text(nodes: Sequence[Node], terms: Sequence[Term]) -> tuple[str, str]:
    """``[j,l]`` and the sum of ``terms``, in the names of ``nodes``."""
    names = [n.label for n in nodes if not n.is_literal]
    letters = Letters(names)
    places = terms[0].places
    letters.axes(places, IN)
    printer = TextPrinter(letters, names)
    total = sympy.S.Zero
    for t in terms:
        labels = {name: nodes[id].label for name, id in t.names.items() if id is not None}
        formula = renamed(t.formula, labels)
        ones = {
            s: sympy.S.One
            for s in formula.atoms(sympy.Symbol, sympy.Indexed)
            if t.names.get(label_of(s), 0) is None and not s.is_integer
        }
        total += formula.xreplace(ones)
    at = f"[{','.join(map(printer, places))}]" if places else ""
    return at, printer(total)


def element_sum(shape: Shape, *labels: str) -> Any:
    """``Σ x·u`` over every element of values of one shape."""
    bound = [sympy.S.Zero if n == 1 else index(f"q_w{axis}") for axis, n in enumerate(shape)]
    body = sympy.Mul(*(element_symbol(label, bound) for label in labels))
    over = [(q, 0, n - 1) for q, n in zip(bound, shape, strict=True) if n != 1]
    return Sum(body, *over) if over else body
