"""The chain rule, one operation at a time: forward values, then contributions from output to leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.formula.calculus import literal_value
from gradexplain.formula.local import RESULT, UPSTREAM, LocalRule, local_rule
from gradexplain.graph import Graph, Node, Ref, refs
from gradexplain.plan.arrays import Pair, as_array, to_exact, to_float
from gradexplain.plan.evaluate import Evaluator


@dataclass(frozen=True, slots=True)
class Contribution:
    """What ``node`` sends to ``source``: the pair of values and magnitudes, and the rule behind it."""

    node: Node
    source: Node
    rule: LocalRule
    place: int
    value: Pair


class ChainRule:
    """The values of every node, and the gradient of ``L = Σ v·y`` by each.

    ``values`` are the leaves' by label; ``exact`` chooses mpmath.  After `backward`,
    ``upstream[id]`` is ∂L/∂node as a pair of values and magnitudes, ``contributions`` the steps in
    the order in which they are made.
    """

    def __init__(self, graph: Graph, values: Mapping[str, Array], *, exact: bool) -> None:
        self.graph = graph
        self.exact = exact
        self.forward: dict[int, Pair] = {}
        self.upstream: dict[int, Pair] = {}
        self.contributions: list[Contribution] = []
        needed = graph.needed()
        for node in graph.nodes:
            if node.id in needed:
                self.forward[node.id] = self._value(node, values)

    def _pair(self, array: Any) -> Pair:
        array = np.asarray(array, dtype=np.float64)
        return (to_exact(array) if self.exact else array), np.abs(array)

    def _value(self, node: Node, values: Mapping[str, Array]) -> Pair:
        if node.op is None:
            return self._pair(values[node.label] if node.is_leaf else node.value)
        if node.op.value is not None and not (self.exact and node.op.element is not None):
            return self._kernel(node)
        rule = local_rule(node, self.graph)
        evaluator = self._evaluator(node, rule.element_sizes)
        return evaluator.value(rule.element, rule.axes, node.shape)

    def _kernel(self, node: Node) -> Pair:
        """The record's own numeric kernel."""
        assert node.op is not None and node.op.value is not None
        value, size = node.op.value(self.exact, *(self._argument(arg) for arg in node.args))
        return value, size() if callable(size) else size

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, Ref):
            return self.forward[arg.id]
        if isinstance(arg, tuple):
            return tuple(self._argument(part) for part in arg)
        return arg

    def _evaluator(
        self, node: Node, sizes: Mapping[Any, int], upstream: Pair | None = None
    ) -> Evaluator:
        order = list(dict.fromkeys(ref.id for ref in refs(node.args)))

        def resolve(label: str) -> Pair:
            if label == UPSTREAM:
                assert upstream is not None
                return upstream
            literal = literal_value(label)
            if literal is not None:
                return self._pair(literal)
            if label == RESULT:
                return self.forward[node.id]
            return self.forward[order[int(label[1:])]]

        def lookup(label: str) -> Any:
            return self.integers(self.graph[order[int(label[1:])]])

        return Evaluator(resolve, sizes, exact=self.exact, lookup=lookup)

    def integers(self, node: Node) -> Any:
        """The values of an integer tensor; negative ones count from the end where it is an index."""
        return to_float(self.forward[node.id][0]).astype(int)

    def backward(self, v: Array, wanted: list[str]) -> None:
        """From the output to the leaves ``wanted``."""
        reach = self.graph.reach(wanted)
        needed = self.graph.needed()
        self.upstream[self.graph.output] = self._pair(v)
        for node in reversed(self.graph.nodes):
            if node.op is None or node.id not in reach or node.id not in needed:
                continue
            if node.id not in self.upstream:
                continue
            rule = local_rule(node, self.graph)
            order = list(dict.fromkeys(ref.id for ref in refs(node.args)))
            helpers = {
                arg.id
                for parameter, arg in zip(node.op.parameters, node.args, strict=True)
                if parameter.is_aux and isinstance(arg, Ref)
            }
            for place, id in enumerate(order):
                if id not in reach or id in helpers or rule.contributions[place] is None:
                    continue
                source = self.graph[id]
                evaluator = self._evaluator(node, rule.sizes[place], self.upstream[node.id])
                value = evaluator.value(rule.contributions[place], rule.places[place], source.shape)
                self.contributions.append(Contribution(node, source, rule, place, value))
                if id in self.upstream:
                    before = self.upstream[id]
                    with np.errstate(all="ignore"):
                        value = as_array(before[0] + value[0]), as_array(before[1] + value[1])
                self.upstream[id] = value
