"""The text of one step of the chain rule: the rule, the contribution, and one element in numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import sympy

from gradexplain.explanation import Array
from gradexplain.formula.kinds import Bracket, Cases, Lookup, atoms, indices_of, label_of
from gradexplain.formula.letters import Letters
from gradexplain.formula.local import RESULT, UPSTREAM, local_rule, renamed
from gradexplain.formula.printing import TextPrinter
from gradexplain.formula.sizes import Unlettered
from gradexplain.graph import Graph, fact, refs
from gradexplain.numbers import number
from gradexplain.plan.blocks import LARGE
from gradexplain.routes.chain import ChainRule, Sent
from gradexplain.routes.closed import ClosedForm

_OUT, _IN = "ikmace", "jlnbdf"

#: A line of numbers longer than this is left out.
_WIDTH = 60


def step_texts(
    c: Sent,
    graph: Graph,
    labels: Mapping[int, str],
    closed: ClosedForm,
    clean: Callable[[Any], Array],
    chain: ChainRule,
) -> tuple[str, str, str]:
    """``(local derivative, contribution, contribution in numbers)``.

    ``∂t2[i]/∂b[j] = 2·δ(i,j)``; ``2·g[j]`` with ``g`` for ``∂L/∂t2``; ``2·0.4 = 0.8``, empty where
    it would not fit on a line.  Sizes are letters where the closed form has them.
    """
    order = list(dict.fromkeys(ref.id for ref in refs(c.node.args)))
    names = {f"a{place}": labels[id] for place, id in enumerate(order)}
    names |= {RESULT: c.node.label, UPSTREAM: f"∂/∂{c.node.label}"}
    rule, contribution, text = closed.remembered(
        ("step", c.node.id, c.place), lambda: _formulas(c, graph, names, closed)
    )
    sizes = closed.sizes
    lengths = {} if sizes is None else {size: number(n) for size, n in sizes.values.items()}
    return rule, text, _numbers(c, contribution, text, names, order, clean, chain, lengths)


@fact
def _known(graph: Graph) -> tuple[frozenset[str], tuple[str, ...]]:
    """The names of a graph, and their order, in which what arrives, nobody else, is the last."""
    known = [node.label for node in graph.nodes if not node.is_literal]
    return frozenset(known), (*known, "")


def _formulas(
    c: Sent, graph: Graph, names: Mapping[str, str], closed: ClosedForm
) -> tuple[str, Any, str]:
    """The local derivative as text, the contribution, and its text."""
    slope, contribution = c.rule.slopes[c.place], c.rule.contributions[c.place]
    sizes = closed.sizes
    if sizes is not None:
        general = local_rule(sizes.graph[c.node.id], sizes.graph)
        with suppress(Unlettered):
            slope, contribution = (
                sizes.lettered(general.slopes[c.place]),
                sizes.lettered(general.contributions[c.place]),
            )
    taken, order = _known(graph)

    def printer(*axes: tuple[Sequence[Any], str]) -> TextPrinter:
        letters = Letters(taken)
        for symbols, alphabet in axes:
            letters.axes(symbols, alphabet)
        return TextPrinter(letters, order, loss=closed.loss_name)

    own, places = c.rule.axes, c.rule.places[c.place]
    shown = printer((own, _OUT), (places, _IN))
    left = shown.derivative(c.node.label, own, c.source.label, places)
    contribution = renamed(contribution, names)
    return (
        f"{left} = {shown(renamed(slope, names))}",
        contribution,
        printer((places, _IN))(contribution),
    )


def _numbers(
    c: Sent,
    contribution: Any,
    text: str,
    names: Mapping[str, str],
    order: list[int],
    clean: Callable[[Any], Array],
    chain: ChainRule,
    lengths: Mapping[Any, str],
) -> str:
    """``2·b[j]·∂L/∂t3[j] = 2·4·0.1 = 0.8`` for the first element that is not 0."""
    if contribution.has(sympy.Sum, sympy.Product, Cases, Bracket, sympy.KroneckerDelta):
        return ""
    value = clean(c.value)
    if value.size == 0 or not np.isfinite(value).all():
        return ""
    # The first that is not 0, else the first.
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(value != 0)), value.shape))
    at = {p: sympy.Integer(i) for p, i in zip(c.rule.places[c.place], place, strict=True)}
    by_name = {names[f"a{n}"]: chain.forward[id] for n, id in enumerate(order)}
    by_name[c.node.label] = chain.forward[c.node.id]
    by_name[names[UPSTREAM]] = chain.upstream[c.node.id]
    values: dict[Any, str] = {}
    elements = atoms(contribution, sympy.Indexed, Lookup)
    whole = {label_of(atom) for atom in elements}
    for atom in elements | atoms(contribution, sympy.Symbol):
        if label_of(atom) not in by_name or (atom.is_Symbol and atom.is_integer):
            continue
        if atom.is_Symbol and label_of(atom) in whole:
            continue  # the name inside an element
        pair = by_name[label_of(atom)]
        index = tuple(i.xreplace(at) for i in indices_of(atom))
        if not all(i.is_Integer for i in index):
            return ""
        spot = tuple(int(i) for i in index)
        if any(i >= n for i, n in zip(spot, pair[0].shape, strict=True)):
            return ""
        if pair[0].size >= LARGE:  # what is large is not kept cleaned
            pair, spot = (pair[0][spot], None if pair[1] is None else pair[1][spot]), ()
        values[atom] = number(float(clean(pair)[spot]), 6)
    if not values:
        return ""
    filled = _Filled({**values, **lengths})(contribution)
    if filled.strip("()") in values.values():
        return ""  # handed on as it is: there is nothing to work out
    line = f"{text} = {filled} = {number(float(value[place]), 6)}"
    return line if len(line) <= _WIDTH else ""


class _Filled(TextPrinter):
    """A formula with its elements shown by their values."""

    def __init__(self, values: Mapping[Any, str]) -> None:
        super().__init__(Letters(()))
        self._values = values

    def _show(self, e: Any) -> tuple[str, int]:
        if e in self._values:
            text = self._values[e]
            negative = text.startswith("-")
            return (f"({text})" if negative else text), 3
        return super()._show(e)
