"""``jvp``: the tangent of each value from those of its inputs, in the order of the forward pass."""

from __future__ import annotations

from typing import Any

import sympy

from gradexplain.codegen.draft import Draft, value_names
from gradexplain.codegen.forward import Writer, is_spelled
from gradexplain.codegen.idioms import idiomatic
from gradexplain.codegen.lines import Names, Statement, joined, once, statement, unpacked
from gradexplain.codegen.source import Source
from gradexplain.codegen.steps import Sent, broadcast, local_names
from gradexplain.errors import UnsupportedError
from gradexplain.formula.burden import burden
from gradexplain.formula.contract import contract
from gradexplain.formula.indices import Ranges
from gradexplain.formula.kinds import Cases, element_symbol, label_of
from gradexplain.formula.local import RESULT, LocalRule, local_rule
from gradexplain.formula.tidy import tidy
from gradexplain.graph import Node, refs

#: The name of an input's tangent in a local formula.
_TANGENT = "t"


class Tangents:
    """The ``jvp`` of a class in the making."""

    def __init__(self, making: Draft) -> None:
        self._making = making
        self._graph = making.graph
        self._names = making.names
        self._tangents: dict[int, str] = {}

    def lines(self) -> list[str]:
        """The method; `UnsupportedError` where an operation's derivative cannot be written."""
        making, graph = self._making, self._graph
        free = Names(making.by_name)
        for leaf in graph.leaves:
            if not leaf.integer:
                self._tangents[leaf.id] = free.free(f"{self._names[leaf.label]}_t")
        body: list[Statement] = []
        needed = graph.needed()
        for node in graph.nodes:
            if node.op is None or node.id not in needed or node.integer or node.op.stops:
                continue
            text = self._sum(node)
            if text is not None:
                self._tangents[node.id] = free.free(f"{self._names[node.label]}_t")
                body.append(statement(self._tangents[node.id], text))
        if graph.output not in self._tangents:
            raise UnsupportedError("codegen cannot write jvp: no gradient reaches an input")
        return self._method(body)

    def _method(self, body: list[Statement]) -> list[str]:
        making, graph = self._making, self._graph
        names = [self._names[n.label] for n in graph.leaves]
        given = [self._tangents.get(n.id, "_") for n in graph.leaves]
        lines = ["    @staticmethod", f"    def jvp(ctx, {', '.join(_apart(given))}):"]
        left = f"({names[0]},)" if len(names) == 1 else ", ".join(names)
        lines.append(f"        {left} = ctx.saved_tensors")
        if len(names) > 1:
            # An input without a tangent stands still.
            for name, tangent in zip(names, given, strict=True):
                if tangent != "_":
                    lines.append(f"        if {tangent} is None:")
                    lines.append(f"            {tangent} = torch.zeros_like({name})")
        body = once(body, making.free)
        used = {n for s in body for n in value_names(s.value)}
        wanted = {making.by_name[n].id for n in used if n in making.by_name}
        known = {n.id for n in graph.nodes if n.is_leaf}
        making.writer.like = names[0]
        body = once(idiomatic([*making.computed(wanted, known), *body], making.shapes), making.free)
        body = unpacked(body)
        body[-1].target = "return"
        return [*lines, *making.written(making.fitted(body))]

    def _sum(self, node: Node) -> str | None:
        """The tangent of a node; None where no input of it has one."""
        places = {
            place: id for place, id in enumerate(dict.fromkeys(ref.id for ref in refs(node.args)))
            if id in self._tangents
        }  # fmt: skip
        if not places:
            return None
        rule = local_rule(node, self._graph)
        places = {p: id for p, id in places.items() if rule.slopes[p] not in (None, 0)}
        if len(places) > 1 and self._linear(node, list(places), rule):
            return self._carried(node, list(places.values()))
        found = [self._term(node, p, self._graph[id], rule) for p, id in places.items()]
        if not found:
            return None
        text = joined([text for text, _ in found])
        if broadcast(shape for _, shape in found) == node.shape:
            return text
        sizes = ", ".join(map(self._making.writer.number, node.shape))
        return f"({text}).expand({sizes})"

    def _carried(self, node: Node, ids: list[int]) -> str:
        """The operation itself, with tangents where the values stand."""
        tangents = {self._graph[id].label: self._tangents[id] for id in ids}
        writer = Writer(self._graph, {**self._names, **tangents}, self._making.size)
        writer.like = self._tangents[ids[0]]
        return writer.text(node, {n.id for n in self._graph.nodes})

    def _term(self, node: Node, place: int, source: Node, rule: LocalRule) -> Sent:
        if self._linear(node, [place], rule):
            return self._carried(node, [source.id]), node.shape
        ranges = Ranges(rule.sizes[place])
        there = rule.places[place]
        formula = contract(rule.slopes[place] * element_symbol(_TANGENT, there), there, ranges)
        formula = tidy(formula, burden)
        names, shapes = local_names(self._graph, self._names, node, "")
        names[_TANGENT], shapes[_TANGENT] = self._tangents[source.id], source.shape
        written = Source(names, shapes, self._making.size, ranges)
        text = written.full(formula, rule.axes, self._names[node.label], node.shape, whole=False)
        alone = isinstance(formula, sympy.Indexed) or formula.is_Symbol
        return (text if alone else f"({text})"), written.layout

    def _linear(self, node: Node, places: list[int], rule: LocalRule) -> bool:
        """Whether the operation is linear in these inputs together, so that it takes their tangents
        as they are.
        """
        if not is_spelled(node) or len(set(node.inputs)) < len(node.inputs):
            return False
        assert node.op is not None
        if any(p.is_aux for p in node.op.parameters):  # which it makes of the values
            return False
        names = {f"a{place}" for place in places}
        if any(_has(rule.slopes[p], n) for p in places for n in (*names, RESULT)):
            return False
        own = [a for a in rule.element.atoms(sympy.Indexed, sympy.Symbol) if label_of(a) in names]
        without = rule.element.xreplace(dict.fromkeys(own, sympy.S.Zero))
        values = [v for v, _ in without.args] if isinstance(without, Cases) else [without.doit()]
        return not any(values)


def _has(e: Any, label: str) -> bool:
    return any(label_of(a) == label for a in e.atoms(sympy.Indexed, sympy.Symbol))


def _apart(names: list[str]) -> list[str]:
    """``_`` for each input without a tangent, no two of one name."""
    return [n if n != "_" else "_" * (1 + names[:k].count("_")) for k, n in enumerate(names)]
