"""Formulas that are alike: the same but for the names in them.

The statements of a long program repeat few patterns.  What is derived for one of them is said of the
others in their own names (`Renamed`), where nothing that a formula depends on tells them apart
(`Signature`): operations, numbers and shapes, how long the names are, since the shortest form is
chosen by what is printed, and how they are ordered, since terms and factors are.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gradexplain.formula.calculus import ADJOINT, TOTAL, Calculus
from gradexplain.formula.kinds import label_of, names_of
from gradexplain.graph import Graph, Node, Ref, fact

#: What the names of index symbols begin with, and of derivatives: where a name stands among them counts.
_INDICES = ("b", "d", "n", "o", "q", "∂")


@dataclass(eq=False)
class Renamed:
    """``name[own…] = formula``, in the names of the value that it was derived for.

    ``labels`` are what these are called here, where they are called otherwise, ``places`` the index
    symbols ``own`` here.
    """

    formula: Any
    name: Any
    own: tuple[Any, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[Any, Any] = field(default_factory=dict)

    def label(self, there: str) -> str:
        """What a name of ``formula`` is here."""
        upper = upper_of(there)
        return upper + self.labels.get(there.removeprefix(upper), there.removeprefix(upper))

    @property
    def label_here(self) -> str:
        """What the value itself is called here."""
        return self.label(label_of(self.name))

    @cached_property
    def here(self) -> tuple[Any, Any, tuple[Any, ...]]:
        """The formula, the name and its index symbols as they are here."""
        put: dict[Any, Any] = dict(self.places)
        for old, new in self.labels.items():
            for upper in ("", ADJOINT, TOTAL):
                put |= zip(names_of(upper + old), names_of(upper + new), strict=True)
        own = tuple(put.get(i, i) for i in self.own)
        return self.formula.xreplace(put), self.name.xreplace(put), own


def upper_of(label: str) -> str:
    """What the name of a derivative begins with."""
    return next((upper for upper in (ADJOINT, TOTAL) if label.startswith(upper)), "")


class Signature:
    """What a formula of ``node`` depends on that is made of those of ``tops``, but for the names: ``key``.

    ``nodes`` are the values that these name, ``node`` first, in one order for all of one key.
    """

    def __init__(self, calculus: Calculus, node: Node, tops: Sequence[Node], *more: Any) -> None:
        self._calculus = calculus
        self._numbers = {node.id: 0}
        made = [(self._number(top), self._operation(top)) for top in tops]
        self.nodes = [calculus.graph[id] for id in self._numbers]
        labels = [node.label for node in self.nodes]
        named = tuple((node.shape, len(node.label)) for node in self.nodes)
        self.key = tuple(made), more, named, standing(labels, calculus.graph)

    def _number(self, node: Node) -> int:
        return self._numbers.setdefault(node.id, len(self._numbers))

    def _operation(self, node: Node) -> Any:
        if node.op is None:
            return node.id if node.value is not None else None
        return id(node.op.pattern or node.op), node.shape, tuple(map(self._argument, node.args))

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, tuple):
            return tuple(map(self._argument, arg))
        if not isinstance(arg, Ref):
            return repr(arg)
        node = self._calculus.graph[arg.id]
        if node.is_literal:
            return type(node.value), repr(node.value)
        if node.integer or node.op is None and node.value is not None:
            return node.label, self._number(node)
        if self._calculus.is_atom(node):
            return self._number(node)
        return self._operation(node)


def standing(labels: Sequence[str], graph: Graph) -> Any:
    """What terms and factors are ordered by: how their names are, and their places in a graph."""
    places = _places(graph)
    return (
        tuple(bisect(_INDICES, label) for label in labels),
        *(_ranks(list(found)) for found in (
            labels, (label + "[" for label in labels), (places.get(label, -1) for label in labels)
        )),
    )  # fmt: skip


@fact
def _places(graph: Graph) -> Mapping[str, int]:
    return {node.label: node.id for node in graph.nodes if not node.is_literal}


def _ranks(found: Sequence[Any]) -> tuple[int, ...]:
    order = {each: place for place, each in enumerate(sorted(set(found)))}
    return tuple(order[each] for each in found)


#: The character that stands in a text for the first of its names.
_MARK, _SUM = 0xE000, 0xE100


def marks(labels: Sequence[Any], texts: Sequence[str] = ()) -> dict[Any, str]:
    """A character for each name, that stands for it in a text until it is `told`; in parentheses where
    its own text is."""
    kinds = [*map(kind_of, texts)] or [_MARK] * len(labels)
    shown = (chr(kind + n) for n, kind in enumerate(kinds))
    pairs = zip(labels, kinds, shown, strict=True)
    return {label: mark if kind == _MARK else f"({mark})" for label, kind, mark in pairs}


def told(text: str, labels: Iterable[str]) -> str:
    """A text with `marks`, in these names."""
    put: dict[int, str] = {}
    for n, label in enumerate(labels):
        put |= {_MARK + n: label, _SUM + n: label[1:-1], _SUM + 256 + n: label[1:-1]}
    return text.translate(put)


def kind_of(text: str) -> int:
    """The first mark of texts of this kind: names, sums in parentheses, others in them."""
    enclosed = re.fullmatch(r"\((?:[^()]|\([^()]*\))*\)", text)
    return _MARK if not enclosed else _SUM if re.search(" [-+] ", text) else _SUM + 256
