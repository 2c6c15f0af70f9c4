"""A closed form as it is read: text, LaTeX, the lines that say what its names are, its ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy

from gradexplain.formats.notation import latex
from gradexplain.formula.alike import Renamed, marks, told, upper_of
from gradexplain.formula.arranging import joined
from gradexplain.formula.calculus import TOTAL
from gradexplain.formula.indices import index
from gradexplain.formula.kinds import (
    BIG,
    Lookup,
    atoms,
    indices_of,
    label_of,
    text_of,
)
from gradexplain.formula.letters import IN, OUT, Letters
from gradexplain.formula.printing import TextPrinter
from gradexplain.formula.structure import structure
from gradexplain.graph import Node, labels_of, op_call
from gradexplain.numbers import one_line
from gradexplain.routes.closed import ClosedForm, once


@dataclass(frozen=True, slots=True)
class Shown:
    """A formula as it is shown: see `gradexplain.explanation.Formula`."""

    formula: Any
    text: str
    latex: str
    where: tuple[str, ...]
    ranges: str


@dataclass(frozen=True, slots=True)
class _Line:
    """A line under a formula, as it was written first: marks stand in it for the ``names``, which are
    those of the formula that was derived, as are the names and the places that it ``mentions``.

    ``letters`` are those that were given on the way, ``sizes`` those that are spoken of.
    """

    text: str
    names: Sequence[str]
    mentions: tuple[tuple[str, tuple[Any, ...]], ...]
    letters: Sequence[tuple[Any, str]]
    sizes: tuple[str, ...]


def _mentions(e: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """The names of elements and values in a formula, each with its indices, in order."""
    found = atoms(e, sympy.Indexed, sympy.Symbol, Lookup)
    values = sorted((a for a in found if not (a.is_Symbol and a.is_integer)), key=text_of)
    return tuple((label_of(atom), indices_of(atom)) for atom in values)


class Written:
    """The formulas of one closed form, written down."""

    def __init__(self, form: ClosedForm) -> None:
        self.form = form
        self.graph = form.graph
        self.calculus = form.calculus

    @once
    def jacobian(self, leaf: Node) -> tuple[Shown, str]:
        """J as it is shown, and its structure in words."""
        out = self.calculus.indices(self.graph.out.shape, "o")
        places = self.calculus.indices(leaf.shape, "d")
        formula = self.form.jacobian(leaf)
        letters = Letters(self.form.names)
        letters.axes(out, OUT)
        letters.axes(places, IN)
        left = ("∂", self.graph.out, out), ("∂", leaf, places)
        if formula is not None:
            words = structure(formula, self.graph, leaf, out, places, letters)
            shown = self._shown(left, formula, letters, (*out, *places))
            counts = self._counts(leaf) if self.form.sizes is None else []
            return replace(shown, where=(*shown.where, *counts)), words
        # The rows' index symbols keep their letters in every line below.
        row = self.form.row
        letters.share(dict(zip(row, out, strict=True)))
        formula = self.form.chained(leaf, TOTAL, row)
        shown = self._shown(left, formula, letters, (*out, *places), row)
        return shown, "the chain of the Jacobians of its parts"

    def _counts(self, leaf: Node) -> list[str]:
        """Where a denominator comes from: ``6 = 2·3``, the elements that a mean averages."""
        lines: dict[str, None] = {}
        reach = self.graph.reach([leaf.label])
        for node in self.graph.nodes:
            if node.op is None or node.op.averages is None or node.id not in reach:
                continue
            sizes = [n for n in node.op.averages(*self.calculus.arguments(node)) if n > 1]
            if len(sizes) > 1 and node.id in self.graph.needed():
                product = "·".join(map(str, sizes))
                what = f"the number of elements that {node.op.name} averages"
                lines[f"{math.prod(sizes)} = {product}, {what}"] = None
        return list(lines)

    @once
    def gradient(self, leaf: Node) -> Shown:
        """``leaf.grad[j] = …`` as it is shown."""
        places = self.calculus.indices(leaf.shape, "d")
        letters = Letters(self.form.names)
        letters.axes(places, IN)
        left: Sequence[tuple[str, Node, Sequence[Any]]] = (("grad", leaf, places),)
        if self.form.scalar:
            left = ("∂", self.graph.out, ()), ("∂", leaf, places)
        return self._shown(left, self.form.gradient(leaf), letters, places)

    def _shown(
        self,
        left: Sequence[tuple[str, Node, Sequence[Any]]],
        formula: Any,
        letters: Letters,
        axes: Sequence[Any],
        row: tuple[Any, ...] = (),
    ) -> Shown:
        formula = joined(formula)
        ranks = {node.label: len(node.shape) for node in self.graph.nodes}
        printer = TextPrinter(
            letters, self.form.names, ranks, self.form.loss_name, self.graph.out.label
        )
        text = f"{_left(left, printer)} = {printer(self.form.lettered(formula))}"
        where = self.definitions(formula, letters, printer, row)
        # Deriving the lines below took the same symbols for other axes.
        for _, node, places in left:
            # A scalar of a shape such as (1, 1) is spoken of without its indices.
            for symbol, n in zip(places, node.shape if places else (), strict=True):
                if not symbol.is_Integer:
                    self.calculus.ranges[symbol] = n
        symbols = [a for a in axes if not a.is_Integer]
        ranges = self.ranges(symbols, letters, printer.sizes)
        tex = re.sub(r"^(.+)\.grad(?=[\[ ])", rf"∂{self.form.loss_name}/∂\1", text)
        return Shown(formula, text, latex(tex), tuple(where), ranges)

    def definitions(
        self, formula: Any, letters: Letters, printer: TextPrinter, row: tuple[Any, ...]
    ) -> list[str]:
        """A line for each name in ``formula``: ``s[k] = Σ_p x[p,k]``, and those it uses in turn.

        Derivatives by parts come first, in the order of the backward pass; then values, in order.
        """
        slopes: dict[int, str] = {}
        values: dict[int, str] = {}
        pending = [(_mentions(formula), Renamed(formula, None, ()))]
        while pending:
            mentions, current = pending.pop(0)
            for name, places in mentions:
                label = current.label(name)
                upper = upper_of(label)
                node = self.calculus.node(label.removeprefix(upper))
                if node is not None and node.value is not None and not node.is_literal:
                    values.setdefault(node.id, f"{node.label} = {one_line(node.value)}")
                if node is None or node.op is None:
                    continue
                at = [current.places.get(i, i) for i in places]
                at = at[len(row) if upper == TOTAL else 0 :]
                lines = slopes if upper else values
                if node.id in lines or len(at) != len(node.shape):
                    continue  # done, or the bare name inside an element
                made = self.form.part(node, upper, row) if upper else self.form.definition(node)
                if made.formula == made.name:
                    # No formula for an element: the call itself, and what it is called with.
                    call = op_call(node, labels_of(self.graph))
                    lines[node.id] = "" if call == node.label else f"{node.label} = {call}"
                    for source in map(self.graph.nodes.__getitem__, node.inputs):
                        own = self.calculus.indices(source.shape, f"n{source.id}x")
                        plain = self.calculus.atom(source, own)
                        pending.append((_mentions(plain), Renamed(plain, None, ())))
                    continue
                own = self.calculus.indices(node.shape, f"n{node.id}x")
                # The row's letters are taken in its lines: ∂y[i]/∂h[i] is one entry of many.
                tied = not set(at).isdisjoint(row)
                letters.adopt(own, () if tied else at, OUT + "pqrstuw", self.calculus.ranges)
                line = self._line(made, own, printer, row)
                lines[node.id] = told(line.text, map(made.label, line.names))
                pending.append((line.mentions, made))
        ordered = [slopes[id] for id in sorted(slopes, reverse=True)]
        return [text for text in ordered + [values[id] for id in sorted(values)] if text]

    def _line(self, made: Renamed, own: Sequence[Any], printer: TextPrinter, row: Any) -> _Line:
        """The line of a value whose index symbols ``own`` have their letters."""
        letters = printer.letters
        known = [letters.known(i) for i in (*own, *row)]
        key = "line", made.name, made.formula, *known, letters.state(), printer.loss
        line: _Line | None = self.form.known.get(key)
        if line is None:
            count, sizes = len(letters.given), printer.sizes
            formula, name, _ = made.here
            found = joined(self._bound(formula, own, letters))
            labels = [label for e in (made.formula, made.name) for label, _ in _mentions(e)]
            names = list(dict.fromkeys(label.removeprefix(upper_of(label)) for label in labels))
            printer.names = marks([*map(made.label, names)])
            printer.sizes = {}
            text = f"{printer(name)} = {printer(self.form.lettered(found))}"
            there = {made.label(label): label for label, _ in _mentions(made.formula)}
            places = dict(zip(own, made.own, strict=True))
            mentions = tuple(
                (there[label], tuple(places.get(i, i) for i in at))
                for label, at in _mentions(found)
            )
            line = _Line(text, names, mentions, letters.given[count:], tuple(printer.sizes))
            self.form.known[key] = line
            printer.names, printer.sizes = {}, sizes
        letters.again(line.letters)
        printer.sizes.update(dict.fromkeys(line.sizes))
        return line

    def _bound(self, definition: Any, own: Sequence[Any], letters: Letters) -> Any:
        """``definition`` with bound indices of its own, whose letters none of ``own`` has."""
        bound: dict[Any, Any] = {}
        for total in atoms(definition, *BIG):
            for q, *_ in total.limits:
                bound[q] = None
        mine = {letters.known(symbol) for symbol in own}
        taken: set[str | None] = set()
        for q in sorted(bound, key=text_of):
            n = self.calculus.ranges[q]
            letter = letters.reuse(n, self.calculus.ranges, mine | taken)
            symbol = index(f"{q.name}_{letter or f'new{own}'}")
            self.calculus.ranges[symbol] = n
            if letter is not None:
                letters.share({symbol: letters.symbol(letter)})
            taken.add(letters[symbol])
            bound[q] = symbol
        return definition.xreplace(bound)

    def ranges(self, symbols: Sequence[Any], letters: Letters, sizes: Iterable[str]) -> str:
        """``i, j = 0…2; k, l = 0…1; N = 3``: every letter that was used, with its range or value.

        Where sizes have no values, ``j = 0…N − 1``.
        """
        groups: dict[int | str, list[str]] = {}
        for symbol, letter in letters.used(symbols):
            n = self.calculus.ranges[symbol]
            last: int | str = n - 1
            if self.form.sizes is not None:
                known = self.form.sizes.values
                last = self.form.sizes.value(n) - 1 if known else self.form.sizes.text(n - 1)
            groups.setdefault(last, []).append(letter)
        shown = [f"{', '.join(sorted(set(ls)))} = 0…{last}" for last, ls in groups.items()]
        if self.form.sizes is not None:
            known = {size.name: n for size, n in self.form.sizes.values.items()}
            said = ", ".join(f"{name} = {known[name]}" for name in known if name in set(sizes))
            shown += [said] if said else []
        elif self.form.only_here:
            shown.append("at these sizes")
        return "; ".join(shown)


def _left(left: Sequence[tuple[str, Node, Sequence[Any]]], printer: TextPrinter) -> str:
    if len(left) == 1:
        _, node, places = left[0]
        return printer.gradient(node.label, places)
    (_, out, at), (_, leaf, places) = left
    return printer.derivative(out.label, at, leaf.label, places)
