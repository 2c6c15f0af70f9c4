"""The text of one step of the chain rule: the rule, the contribution, and one element in numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy

from gradexplain.explanation import Array
from gradexplain.formula.alike import marks, standing, told
from gradexplain.formula.kinds import Bracket, Cases, Lookup, atoms, indices_of, label_of
from gradexplain.formula.letters import IN, OUT, Letters
from gradexplain.formula.local import RESULT, UPSTREAM, LocalRule, local_rule, renamed
from gradexplain.formula.printing import TextPrinter
from gradexplain.formula.sizes import Unlettered
from gradexplain.graph import Graph, fact, refs
from gradexplain.numbers import number
from gradexplain.plan.arrays import Pair
from gradexplain.plan.blocks import LARGE
from gradexplain.routes.chain import ChainRule, Sent
from gradexplain.routes.closed import ClosedForm

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
    ids = list(dict.fromkeys(ref.id for ref in refs(c.node.args)))
    here = [*(labels[id] for id in ids), c.node.label]
    general = (
        None
        if closed.sizes is None
        else local_rule(closed.sizes.graph[c.node.id], closed.sizes.graph)
    )
    step = closed.remembered(
        ("step", id(c.rule), id(general), c.place, standing(here, graph)),
        lambda: _formulas(c, general, graph, here, closed),
    )
    sent = told(step.sent, here)
    pairs = {f"a{place}": chain.forward[id] for place, id in enumerate(ids)}
    pairs |= {RESULT: chain.forward[c.node.id], UPSTREAM: chain.upstream[c.node.id]}
    return told(step.rule, here), sent, _numbers(c, step, sent, pairs, clean)


@dataclass(frozen=True, slots=True)
class _Step:
    """The texts of one step's local ``rule`` and of what is ``sent``, with marks for the names; and the
    latter with marks for its ``elements``, ``filled`` with numbers where there are any.

    ``of`` are the rules that they belong to.
    """

    of: Sequence[LocalRule | None]
    rule: str
    sent: str
    filled: str = ""
    elements: Sequence[tuple[str, tuple[Any, ...]]] = ()


@fact
def _known(graph: Graph) -> tuple[frozenset[str], tuple[str, ...]]:
    """The names of a graph, and their order, in which what arrives, nobody else, is the last."""
    known = [node.label for node in graph.nodes if not node.is_literal]
    return frozenset(known), (*known, "")


def _formulas(
    c: Sent, general: LocalRule | None, graph: Graph, here: Sequence[str], closed: ClosedForm
) -> _Step:
    slope, contribution = c.rule.slopes[c.place], c.rule.contributions[c.place]
    sizes = closed.sizes
    if sizes is not None and general is not None:
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
        return TextPrinter(letters, order, loss=closed.loss_name, names=marks(here))

    own, places = c.rule.axes, c.rule.places[c.place]
    shown = printer((own, OUT), (places, IN))
    left = shown.derivative(c.node.label, own, c.source.label, places)
    names = {f"a{place}": label for place, label in enumerate(here[:-1])}
    names |= {RESULT: c.node.label, UPSTREAM: f"∂/∂{c.node.label}"}
    contribution = renamed(contribution, names)
    rule = f"{left} = {shown(renamed(slope, names))}"
    sent = printer((places, IN))(contribution)
    of = c.rule, general
    if contribution.has(sympy.Sum, sympy.Product, Cases, Bracket, sympy.KroneckerDelta):
        return _Step(of, rule, sent)
    there = {label: name for name, label in names.items()}
    elements = atoms(contribution, sympy.Indexed, Lookup)
    whole = {label_of(atom) for atom in elements}  # the names inside elements
    single = {
        s for s in atoms(contribution, sympy.Symbol) if not s.is_integer and s.name not in whole
    }
    found = [atom for atom in elements | single if label_of(atom) in there]
    values: dict[Any, str] = marks(found)
    if sizes is not None:
        values |= {size: number(n) for size, n in sizes.values.items()}
    filled = _Filled(values)(contribution) if found else ""
    return _Step(of, rule, sent, filled, [(there[label_of(a)], indices_of(a)) for a in found])


def _numbers(
    c: Sent, step: _Step, sent: str, pairs: Mapping[str, Pair], clean: Callable[[Any], Array]
) -> str:
    """``2·b[j]·∂L/∂t3[j] = 2·4·0.1 = 0.8`` for the first element that is not 0."""
    value = clean(c.value)
    if not step.filled or value.size == 0 or not np.isfinite(value).all():
        return ""
    # The first that is not 0, else the first.
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(value != 0)), value.shape))
    at = {p: sympy.Integer(i) for p, i in zip(c.rule.places[c.place], place, strict=True)}
    values = []
    for name, indices in step.elements:
        pair = pairs[name]
        index = tuple(i.xreplace(at) for i in indices)
        if not all(i.is_Integer for i in index):
            return ""
        spot = tuple(int(i) for i in index)
        if any(i >= n for i, n in zip(spot, pair[0].shape, strict=True)):
            return ""
        if pair[0].size >= LARGE:  # what is large is not kept cleaned
            pair, spot = (pair[0][spot], None if pair[1] is None else pair[1][spot]), ()
        values.append(number(float(clean(pair)[spot]), 6))
    filled = told(step.filled, [f"({text})" if text.startswith("-") else text for text in values])
    if filled.strip("()") in values:
        return ""  # handed on as it is: there is nothing to work out
    line = f"{sent} = {filled} = {number(float(value[place]), 6)}"
    return line if len(line) <= _WIDTH else ""


class _Filled(TextPrinter):
    """A formula with other texts for some of its parts."""

    def __init__(self, values: Mapping[Any, str]) -> None:
        super().__init__(Letters(()))
        self._values = values

    def _show(self, e: Any) -> tuple[str, int]:
        return (self._values[e], 3) if e in self._values else super()._show(e)
