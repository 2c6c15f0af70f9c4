"""How an answer is said: each gradient in its shortest right notation, unnamed values by their text.

Where the closed form needs indices but the chain of the program's own values does not
(``Wq.grad = xᵀ @ ∂L/∂Q``), the chain is given, and each derivative in it is defined once for the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy

from gradexplain.explaining.running import Run
from gradexplain.explanation import Element, Entry, Path
from gradexplain.formula.alike import kind_of, marks, standing, told
from gradexplain.formula.calculus import ADJOINT
from gradexplain.formula.kinds import element_symbol, indices_of, label_of
from gradexplain.formula.letters import IN, Letters
from gradexplain.formula.local import RESULT, UPSTREAM, local_rule, renamed
from gradexplain.formula.printing import TextPrinter
from gradexplain.formula.short import short
from gradexplain.formula.sizes import Unlettered
from gradexplain.graph import Graph, Node, fact, labels_of, refs
from gradexplain.numbers import one_line
from gradexplain.ops.base import Shape
from gradexplain.routes.chain import Sent
from gradexplain.routes.closed import ClosedForm
from gradexplain.routes.names import own_texts, quoted

#: A formula of more characters is given by the chain of its parts, where there is one.
_LONG = 48

#: Beside a chain a shorter formula is given by its parts too where this much of it is left.
_MUCH = 0.6


@dataclass(slots=True)
class Said:
    """``gradients[name]`` is the right side of a gradient's shortest formula, and ``definitions``
    the lines that say what the derivatives in them are, once for all."""

    gradients: dict[str, str] = field(default_factory=dict)
    definitions: list[str] = field(default_factory=list)


def said(run: Run) -> Said:
    """Every gradient of ``run`` as it reads best."""
    found = Said()
    names = quoted(run.graph, own_texts(run.graph))
    wanted: list[str] = []
    whole = []
    for leaf in run.leaves:
        leaf = run.closed.graph[leaf.id]
        frame = run.closed.calculus.indices(leaf.shape, "d")
        formula = run.closed.gradient(leaf)
        whole.append((leaf, frame, formula, _said(run, formula, frame, names)))
    # One long formula makes a chain of all: its definitions serve the others too.
    short_enough = all(
        len(text or _indexed(run, formula, frame, names)) <= _LONG
        for _, frame, formula, text in whole
    )
    for leaf, frame, formula, text in whole:
        if (text is None or not short_enough) and run.closed.has_parts(leaf):
            chained = run.closed.chained(leaf, ADJOINT)
            shorter = _said(run, chained, frame, names)
            most = len(text or "") * (_MUCH if len(text or "") <= _LONG else 1)
            if shorter is not None and (text is None or len(shorter) < most):
                text, formula = shorter, chained
        if text is not None:
            found.gradients[leaf.label] = text
            wanted += _parts(_one(run, formula))
    done: dict[int, str] = {}
    while wanted:
        node = run.closed.calculus.node(wanted.pop(0))
        if node is None or node.id in done:
            continue
        formula, _, own = run.closed.part(node, ADJOINT).here
        text = _said(run, formula, own, names)
        label = names.get(node.label, node.label)
        if text is None:
            done[node.id] = _indexed(run, formula, own, names, f"{ADJOINT}{label}")
        else:
            done[node.id] = f"∂{_loss(run)}/∂{label} = {text}"
        wanted += _parts(_one(run, formula))
    found.definitions = [done[id] for id in sorted(done, reverse=True)]
    shown = " ".join([*found.gradients.values(), *found.definitions])
    found.definitions += [
        f"{node.label} = {one_line(node.value)}"
        for node in run.graph.nodes
        if node.value is not None and not node.is_literal and node.op is None
        if re.search(rf"(?<!\w){re.escape(node.label)}(?!\w)", shown)
    ]
    return found


def _said(run: Run, formula: Any, frame: tuple[Any, ...], names: Mapping[str, str]) -> str | None:
    order = [node.label for node in run.graph.nodes if not node.is_literal]
    order += [run.closed.v_name]
    graph = run.closed.graph
    shapes = {node.label: node.shape for node in graph.nodes}
    shapes[run.closed.v_name] = graph.out.shape
    return short(run.closed.lettered(_one(run, formula)), frame, shapes, names, order, _loss(run))


def _indexed(
    run: Run, formula: Any, frame: tuple[Any, ...], names: Mapping[str, str], left: str = ""
) -> str:
    """``formula`` element by element; with a ``left`` side as an equation."""
    letters = Letters(names)
    letters.axes(frame, IN)
    printer = TextPrinter(letters, list(names), loss=_loss(run))
    right = printer(run.closed.lettered(_one(run, formula)))
    return f"{printer.element(left, frame)} = {right}" if left else right


def _loss(run: Run) -> str:
    """What is differentiated: the scalar output itself, or ``L = Σ v·y``."""
    return run.graph.out.label if run.problem.v_source == "implicit" else run.closed.loss_name


def _one(run: Run, formula: Any) -> Any:
    """``formula`` without a v that is 1 because the output is a scalar, and with the derivatives put in
    that are numbers or another one."""
    closed, implicit = run.closed, run.problem.v_source == "implicit"
    known: dict[Any, Any] = {}
    if implicit:
        places = closed.calculus.indices(closed.graph.out.shape, "o")
        known[element_symbol(closed.v_name, places)] = sympy.S.One
    met: dict[int, Node] = {}
    pending = [formula]
    while pending:
        for name in _parts(pending.pop()):
            node = closed.calculus.node(name)
            if (
                node is not None
                and node.id not in met
                and ("one", node.id, implicit) not in closed.known
            ):
                met[node.id] = node
                pending.append(closed.part(node, ADJOINT).here[0])

    def put(e: Any) -> Any:
        found = {}
        for a in e.atoms(sympy.Indexed, sympy.Symbol):
            node = closed.calculus.node(label_of(a).removeprefix(ADJOINT))
            if label_of(a).startswith(ADJOINT) and node is not None:
                value, own = closed.known["one", node.id, implicit]
                bare = value.is_Symbol or isinstance(value, sympy.Indexed)
                if len(indices_of(a)) == len(own) and (
                    value.is_Rational or (bare and _parts(value))
                ):
                    found[a] = value.xreplace(dict(zip(own, indices_of(a), strict=True)))
        return e.xreplace(known | found)

    for id in sorted(
        met, reverse=True
    ):  # those nearer to the output, which others are made of, first
        value, _, own = closed.part(met[id], ADJOINT).here
        closed.known["one", id, implicit] = put(value), own
    return put(formula)


def _parts(formula: Any) -> list[str]:
    labels: Iterable[Any] = formula.atoms(sympy.Indexed, sympy.Symbol)
    found = {label_of(a) for a in labels}
    return sorted(name.removeprefix(ADJOINT) for name in found if name.startswith(ADJOINT))


def step_said(c: Sent, graph: Graph, names: Mapping[str, str], g: str, closed: ClosedForm) -> str:
    """What a step sends on, in terms of ``g``, the gradient that arrives there: ``b·g``, ``g/N``."""
    ids = list(dict.fromkeys(ref.id for ref in refs(c.node.args)))
    labels = [*(labels_of(graph)[id] for id in ids), c.node.label]
    sizes = closed.sizes
    rule = c.rule if sizes is None else local_rule(sizes.graph[c.node.id], sizes.graph)

    def said(names: Mapping[str, str]) -> str:
        formula, places, here = c.term.formula, c.term.places, graph
        if sizes is not None:
            with suppress(Unlettered):
                formula = sizes.lettered(rule.contributions[c.place])
                places, here = rule.places[c.place], sizes.graph
        shown, shapes = _of_graph(here)
        called = {f"a{place}": label for place, label in enumerate(labels[:-1])}
        formula = renamed(formula, called | {RESULT: c.node.label, UPSTREAM: g})
        known = [*shown, g]
        text = short(formula, places, shapes | {g: here[c.node.id].shape}, names, known)
        if text is not None:
            return text
        letters = Letters(known)
        letters.axes(places, IN)
        return TextPrinter(letters, known, names=names)(formula)

    texts = [names.get(label, label) for label in labels]
    if any(text.endswith(".T") or " @ " in text for text in texts):
        return said(names)  # there is more than a name in them
    key = "sent", id(c.rule), id(rule), c.place, standing(labels, graph), tuple(map(kind_of, texts))
    put = marks(labels, texts)
    text, *_ = closed.remembered(key, lambda: (said(put), c.rule, rule))
    return told(text, texts)


@fact
def _of_graph(graph: Graph) -> tuple[Sequence[str], dict[str, Shape]]:
    """The names of the values that are no numbers, and every shape by name."""
    known = tuple(node.label for node in graph.nodes if not node.is_literal)
    return known, {node.label: node.shape for node in graph.nodes}


#: No more paths than this are listed.
MOST_PATHS = 24


def element_in_full(run: Run, asked: tuple[str, tuple[int, ...]] | None) -> Element | None:
    """The element that was ``asked`` for, or one that shows something: not 0 where there is
    another, and the most paths and terms."""
    x = run.explanation
    if asked is None:
        found = [c for name, g in x.gradients.items() if (c := _telling(run, name, g.value))]
        if not found:
            return None
        _, name, index = max(found, key=lambda c: c[0])
    else:
        name, index = asked
    node = run.graph.by_label(name)
    assert node is not None
    value = float(x.gradients[name].value[index])
    return Element(
        name, index, value, _entries(run, name, index), _paths(run, node, index), asked is not None
    )


def _telling(run: Run, name: str, value: Any) -> tuple[Any, str, tuple[int, ...]] | None:
    """How much an input's best element shows, and which it is."""
    if not value.size or not np.isfinite(value).all():
        return None
    places = np.argwhere(value != 0)
    if not len(places):
        return None
    index = tuple(int(i) for i in places[0])
    uses = sum(step.input == name for step in run.explanation.steps)
    terms = len(_entries(run, name, index))
    return (uses > 1, terms > 1, -len(name)), name, index


def _entries(run: Run, name: str, index: tuple[int, ...]) -> list[Entry]:
    jacobian = run.explanation.jacobian.get(name)
    if jacobian is None or jacobian.value is None:
        return []
    rows = jacobian.value.reshape(*run.v.shape, -1)[..., _flat(index, run, name)]
    return [
        Entry(tuple(int(i) for i in place), float(run.v[tuple(place)]), float(rows[tuple(place)]))
        for place in np.argwhere((rows != 0) & (run.v != 0))
    ]


def _flat(index: tuple[int, ...], run: Run, name: str) -> int:
    return int(np.ravel_multi_index(index, run.explanation.inputs[name].shape)) if index else 0


def _paths(run: Run, leaf: Node, index: tuple[int, ...]) -> list[Path]:
    """Every way from ``leaf`` to the output, the one nearest to the output first."""
    by_node: dict[int, list[Sent]] = {}
    for c in run.chain.contributions:
        by_node.setdefault(c.node.id, []).append(c)
    ways: list[list[Sent]] = []
    pending: list[tuple[int, list[Sent]]] = [(run.graph.output, [])]
    while pending:
        at, before = pending.pop()
        for c in reversed(by_node.get(at, [])):
            if c.source.id == leaf.id:
                ways.append([*before, c])
            else:
                pending.append((c.source.id, [*before, c]))
        if len(ways) + len(pending) > MOST_PATHS:
            return []
    texts = own_texts(run.graph)
    # All that arrives came along a single one.
    sent = [run.chain.along(way, run.v) for way in ways] if len(ways) > 1 else [
        run.chain.upstream[leaf.id] for _ in ways]  # fmt: skip
    return [
        Path(tuple(texts[c.node.id] for c in reversed(way)), float(run.clean(value)[index]))
        for way, value in zip(ways, sent, strict=True)
    ]
