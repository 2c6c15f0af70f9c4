"""The backward pass as a graph of operations, which can be differentiated in its turn.

With ``create_graph=True`` PyTorch records the backward pass while it runs: every contribution is
an operation on forward values and upstream gradients like any other.  `backward_graph` makes that
graph from the chain rule's own local formulas; `formula_graph` makes the gradient one value by its
closed form.  Both are plain graphs, so everything that explains a graph explains them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy

from gradexplain.engine import Problem, Run, explanation_of
from gradexplain.errors import Span, UnsupportedError
from gradexplain.explanation import BackwardRow, Check, Note, Second
from gradexplain.formula.calculus import indices_of, label_of
from gradexplain.formula.functions import Lookup
from gradexplain.formula.local import RESULT, UPSTREAM, local_rule, renamed
from gradexplain.formula.printing import Letters, TextPrinter
from gradexplain.graph import Graph, Node, Ref, refs
from gradexplain.ops.base import Op, Shape, no_slope
from gradexplain.routes.calls import Part, Shared
from gradexplain.routes.pytorch import Asked
from gradexplain.routes.second import SecondQuestion

_IN = "jlnbdf"
_NOWHERE = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Term:
    """A formula in the index symbols ``places``; ``names`` says which value each name in it is.

    A value that is None is the constant 1.
    """

    formula: Any
    places: tuple[Any, ...]
    names: Mapping[str, int | None]


@dataclass(slots=True)
class GradientGraph:
    """A graph that goes on to gradients: ``gradients[label]`` is the id of ``∂L/∂label``."""

    nodes: list[Node]
    gradients: dict[str, int]
    #: The formula of each gradient as text, by its id, with the index letters of its left side.
    texts: dict[int, tuple[str, str]]

    def at(self, id: int) -> Graph:
        return Graph("", tuple(self.nodes), id)

    def add(self, label: str, named: bool, terms: Sequence[Term], shape: Shape, show: str) -> int:
        """A node whose element is the sum of ``terms``; formulas name it if it is ``named``.

        A constant is written out all the same.
        """
        order = sorted({id for t in terms for id in t.names.values() if id is not None})
        kinds = ["IntTensor" if self.nodes[id].integer else "Tensor" for id in order]
        arguments = ", ".join(f"{kind} a{n}" for n, kind in enumerate(kinds))

        def element(k: Any, *tensors: Any) -> Any:
            by_id = dict(zip(order, tensors, strict=True))
            total = sympy.S.Zero
            for term in terms:
                values = {
                    name: None if id is None else by_id[id] for name, id in term.names.items()
                }
                places = dict(zip(term.places, k.i, strict=True))
                total += _Rewrite(k, values)(term.formula.xreplace(places))
            return total

        op = Op(
            f"{label}({arguments})", "gradient", ("",), element=element, shape=lambda *a: shape,
            moves=not named or not order, show=lambda *a: show,
        )  # fmt: skip
        id = len(self.nodes)
        args = tuple(Ref(source) for source in order)
        self.nodes.append(Node(id, label, named and bool(order), op, args, shape, _NOWHERE))
        return id

    def add_leaf(self, label: str, shape: Shape) -> int:
        id = len(self.nodes)
        self.nodes.append(Node(id, label, True, None, (), shape, _NOWHERE))
        return id


class _Rewrite:
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


def moving(node: Node) -> Node:
    """A node as the second pass sees it: a helper's value moves with its inputs.

    The first pass takes a record's mean or softmax as it is: its own derivative is in the record's.
    """
    op = node.op
    if op is None or not op.stops or op.spellings or op.integer or node.integer:
        return node
    if op.element is None and op.jacobian in (None, no_slope):
        raise UnsupportedError(
            f"second derivatives are not supported through {op.name}, which the first derivative "
            "is made of",
            remedy="gradexplain run explains the first derivative",
        )
    return Node(
        node.id, node.label, node.named, replace(op, stops=False), node.args, node.shape,
        node.span, node.value, node.integer,
    )  # fmt: skip


def _start(graph: Graph, v_name: str, implicit: bool) -> tuple[GradientGraph, int | None]:
    """The graph with v as one more input (None where it is an unmentioned 1)."""
    made = GradientGraph([moving(node) for node in graph.nodes], {}, {})
    return made, None if implicit else made.add_leaf(v_name, graph.out.shape)


def backward_graph(
    graph: Graph, wanted: Sequence[str], v_name: str, *, implicit: bool
) -> GradientGraph:
    """``graph`` and its backward pass, one node for each value's gradient."""
    made, v = _start(graph, v_name, implicit)
    reach, needed = graph.reach(wanted), graph.needed()
    terms: dict[int, list[Term]] = {}
    arrived: dict[int, int | None] = {graph.output: v}
    labels = {node.id: node.label for node in graph.nodes}
    for node in reversed(graph.nodes):
        if node.id not in reach or node.id not in needed:
            continue
        if node.id in terms:
            label = f"{node.label}.grad"
            letters, text = _text(made, node, terms[node.id], labels)
            id = made.add(label, True, terms[node.id], node.shape, text)
            arrived[node.id] = made.gradients[node.label] = id
            made.texts[id] = letters, text
            labels[id] = label
        if node.op is None or node.id not in arrived:
            continue
        rule = local_rule(node, graph)
        order = list(dict.fromkeys(ref.id for ref in refs(node.args)))
        names: dict[str, int | None] = {f"a{place}": id for place, id in enumerate(order)}
        names[RESULT], names[UPSTREAM] = node.id, arrived[node.id]
        for place, id in enumerate(order):
            formula = rule.contributions[place]
            if id not in reach or formula is None:
                continue
            used = {name: names[name] for name in names if _mentions(formula, name)}
            terms.setdefault(id, []).append(Term(formula, rule.places[place], used))
    if v is not None and graph.out.label in wanted:
        made.gradients.setdefault(graph.out.label, v)
    return made


def _mentions(formula: Any, name: str) -> bool:
    return any(symbol.name == name for symbol in formula.atoms(sympy.Symbol))


def _text(
    made: GradientGraph, node: Node, terms: Sequence[Term], labels: Mapping[int, str]
) -> tuple[str, str]:
    """``[j,l]`` and the formula, in the names of the graph and of the gradients so far."""
    names = [n.label for n in made.nodes if not n.is_literal]
    letters = Letters(names)
    places = terms[0].places
    letters.axes(places, _IN)
    printer = TextPrinter(letters, names)
    total = sympy.S.Zero
    for term in terms:
        by_name = {
            name: labels.get(id, made.nodes[id].label)
            for name, id in term.names.items()
            if id is not None
        }
        formula = renamed(term.formula, by_name)
        ones = {s: sympy.S.One for s in formula.atoms(sympy.Symbol, sympy.Indexed)
                if label_of(s) in term.names and term.names[label_of(s)] is None
                and not s.is_integer}  # fmt: skip
        total += formula.xreplace(ones)
    at = f"[{','.join(map(printer, places))}]" if places else ""
    return at, printer(total)


def formula_graph(run: Run, v_name: str, *, implicit: bool) -> GradientGraph | None:
    """The graph with each wanted leaf's gradient as one value, by its closed form.

    None where a gradient has no single formula.
    """
    graph = run.graph
    if any(run.closed.is_long(leaf) for leaf in run.leaves):
        return None
    made, v = _start(graph, v_name, implicit)
    ids: dict[str, int | None] = {node.label: node.id for node in graph.nodes}
    ids[v_name] = v
    for leaf in run.leaves:
        formula = run.closed.gradient(leaf)
        places = run.closed.calculus.indices(leaf.shape, "d")
        used = {
            name: ids[name]
            for name in sorted({symbol.name for symbol in formula.atoms(sympy.Symbol)})
            if name in ids and _is_value(formula, name)
        }
        made.gradients[leaf.label] = made.add(
            f"{leaf.label}.grad", False, [Term(formula, places, used)], leaf.shape, ""
        )
    return made


def _is_value(formula: Any, name: str) -> bool:
    """Whether a name stands for a value: index letters are integers."""
    return any(s.name == name and not s.is_integer for s in formula.atoms(sympy.Symbol))


def add_weighted_sum(
    made: GradientGraph, wanted: Sequence[Node], label: str, weights: Mapping[str, int]
) -> int:
    """``Σ u·x.grad`` over every wanted leaf, as one more node; without weights the plain sum."""
    terms, shown = [], []
    for leaf in wanted:
        if leaf.label not in made.gradients:
            continue
        bound = [sympy.Symbol(f"q_w{axis}", integer=True, nonnegative=True)
                 for axis, n in enumerate(leaf.shape)]  # fmt: skip
        names: dict[str, int | None] = {"x": made.gradients[leaf.label]}
        body = _at("x", leaf.shape, bound)
        text = f"{leaf.label}.grad" + (".sum()" if leaf.shape else "")
        if leaf.label in weights:
            names["u"] = weights[leaf.label]
            body *= _at("u", leaf.shape, bound)
            weight = made.nodes[weights[leaf.label]].label
            text = f"({weight}*{leaf.label}.grad).sum()"
        over = [(q, 0, n - 1) for q, n in zip(bound, leaf.shape, strict=True) if n != 1]
        terms.append(Term(sympy.Sum(body, *over) if over else body, (), names))
        shown.append(text)
    return made.add(label, True, terms, (), " + ".join(shown))


def _at(label: str, shape: Shape, bound: Sequence[Any]) -> Any:
    symbol = sympy.Symbol(label, real=True)
    at = [sympy.S.Zero if n == 1 else q for q, n in zip(bound, shape, strict=True)]
    return sympy.Indexed(sympy.IndexedBase(symbol), *at) if at else symbol


def free_label(graph: Graph, *choices: str) -> str:
    """The first of ``choices`` that no value has, or one with primes."""
    taken = {node.label for node in graph.nodes}
    for name in choices:
        if name not in taken:
            return name
    name = choices[0]
    while name in taken:
        name += "′"
    return name


# -- run --order 2 ----------------------------------------------------------------------------


@dataclass(slots=True)
class SecondPass:
    """The derivative of the first backward pass: of ``S = Σ x.grad`` over every wanted input."""

    shared: Shared | None

    @classmethod
    def added_to(cls, problem: Problem) -> Problem:
        """``problem`` with its second pass."""
        if not problem.check:
            return replace(problem, extra=cls(None))
        between = Run(replace(problem, check=False)).between
        question = SecondQuestion(problem.question(tuple(node.label for node in between)))
        shared = Shared(Asked(question))
        first = Part(shared, lambda answer: answer.first, last=True)
        return replace(problem, extra=cls(shared), asked=first)

    def begin(self, run: Run) -> None:
        """Nothing: the first pass is explained as it always is."""

    def further(self, run: Run) -> list[Check]:
        problem = run.problem
        implicit = problem.v_source == "implicit"
        v_name = run.explanation.grad.name
        made = backward_graph(run.graph, problem.wanted, v_name, implicit=implicit)
        label = free_label(run.graph, "S", "M", "T")
        if not made.gradients:
            return []
        end = add_weighted_sum(made, run.leaves, label, {})
        values = dict(problem.values)
        if not implicit:
            values[v_name] = problem.v
        asked = None
        if self.shared is not None:
            asked = Part(self.shared, lambda answer: answer.second)
        second = explanation_of(
            Problem(
                made.at(end), values, np.ones(()), problem.wanted, problem.dtype, problem.check,
                v_source="implicit", scalar=True, asked=asked,
            )
        )  # fmt: skip
        for stop in second.stops:
            if stop.input == v_name:
                stop.kind = "constant"
                stop.reason = f"{v_name} is the argument of backward: a constant here"
        rows = {row.node: row for row in second.forward}
        run.explanation.second = Second(
            label,
            made.nodes[end].op.show(),  # type: ignore[union-attr, misc]
            [
                BackwardRow(
                    made.nodes[id].label, at, text, made.nodes[id].shape,
                    rows[made.nodes[id].label].value,
                )
                for id, (at, text) in made.texts.items()
                if made.nodes[id].label in rows
            ],
            second,
        )  # fmt: skip
        run.explanation.notes.append(_note(label))
        run.explanation.notes += [n for n in second.notes if n.kind in ("kink", "infinity")]
        return [] if second.check is None else [second.check]


def _note(label: str) -> Note:
    return Note(
        "create_graph",
        "backward(create_graph=True) records the backward pass as it runs: each .grad is then a "
        f"value with a history, and {label}.backward() goes through that history, through the "
        "upstream gradients as well as through the forward values in the local derivatives.",
    )
