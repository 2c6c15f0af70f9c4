"""Singular points on the way of a gradient: where an operation has no derivative, or no value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from typing import Any

import numpy as np
import sympy
from sympy.core.relational import Relational

from gradexplain.adjoint import Contribution
from gradexplain.errors import GradexplainError
from gradexplain.explanation import Array
from gradexplain.formula.functions import build
from gradexplain.formula.kinds import element_symbol
from gradexplain.formula.kit import number
from gradexplain.graph import Graph, Node, Ref, put
from gradexplain.ops.base import Op, Shape
from gradexplain.plan.arrays import Pair, to_float, within
from gradexplain.plan.evaluate import Evaluator
from gradexplain.routes.chain import ChainRule


@dataclass(frozen=True, slots=True)
class Singular:
    """A node at a point where its record says that there is no derivative, or no value."""

    node: Node
    index: tuple[int, ...]
    count: int
    #: True at each element of the result where it is.
    mask: Any

    @classmethod
    def at(cls, node: Node, mask: Any) -> Singular:
        return cls(node, tuple(int(i) for i in np.argwhere(mask)[0]), int(mask.sum()), mask)


def narrowed(mask: Any, shape: Shape) -> Any:
    """True at each element of ``shape`` that was broadcast to a place that ``mask`` marks."""
    lead = mask.ndim - len(shape)
    axes = (*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1))
    return mask.any(axis=axes).reshape(shape)


def singular_nodes(graph: Graph, chain: ChainRule, wanted: list[str]) -> list[Singular]:
    """The singular points that a gradient passes through, looked for node by node.

    The formula of the whole would not show them: ``x/x`` and ``exp(log(x))`` simplify as they are
    built.
    """
    reach = graph.reach(wanted)
    found = []
    for node in graph.nodes:
        known = {node.id, *node.inputs} <= chain.forward.keys()
        if node.op is None or node.id not in reach or not known:
            continue
        mask = _mask(node, graph, chain)
        if mask is not None and mask.any():
            found.append(Singular.at(node, mask))
    return found


def _mask(node: Node, graph: Graph, chain: ChainRule) -> Any:
    """True at each element of the result where the node is singular."""
    op = node.op
    assert op is not None
    if op.singular_at is not None:
        values = put(node.args, lambda id: within(chain.forward[id][0]))
        return np.asarray(op.singular_at(within(chain.forward[node.id][0]), *values))
    return where_any(node, chain) if op.singular else None


def where_any(node: Node, chain: ChainRule, *, edges: bool = False) -> Any:
    """Where one of the record's conditions for a singular point holds; or, of an operation by a
    formula, where a condition in that is about to change."""
    op = node.op
    assert op is not None
    arrays = {
        parameter.name: np.broadcast_to(within(chain.forward[arg.id][0]), node.shape)
        for parameter, arg in zip(op.parameters, node.args, strict=True)
        if isinstance(arg, Ref)
    }
    given = tuple(None if isinstance(a, Ref) else (type(a), a) for a in node.args)
    axes, conditions = _conditions(op, given, len(node.shape), edges)
    evaluator = Evaluator(
        lambda name: (arrays[name], np.abs(arrays[name])),
        dict(zip(axes, node.shape, strict=True)),
        exact=False,
    )
    mask = np.zeros(node.shape, dtype=bool)
    for condition in conditions:
        mask |= evaluator.holds(condition, axes, node.shape)
    return mask


@lru_cache(maxsize=512)
def _conditions(
    op: Op, given: tuple[tuple[type, Any] | None, ...], rank: int, edges: bool
) -> tuple[tuple[Any, ...], list[Any]]:
    """Index symbols, and the record's conditions there; None in ``given`` stands for a tensor."""
    axes = tuple(sympy.Symbol(f"i{n}", integer=True) for n in range(rank))
    names: dict[str, Any] = {}
    for parameter, arg in zip(op.parameters, given, strict=True):
        if arg is None:
            names[parameter.name] = element_symbol(parameter.name, axes)
        else:
            kind, value = arg
            plain = issubclass(kind, (int, float)) and kind is not bool
            names[parameter.name] = number(value) if plain else value
    if edges:
        relations = build(op.formula, names).atoms(Relational)
        return axes, [sympy.Eq(r.lhs, r.rhs, evaluate=False) for r in relations]
    return axes, [build(condition, names) for condition in op.singular]


@dataclass(frozen=True)
class Accounted:
    """What of a difference between routes there is a reason for, element by element.

    A reason are singular ``points`` and values that are ``special`` (see `Marked`).  Where one route
    alone has nan it is an infinity too, in whatever row of a Jacobian: whether it meets 0 depends on
    the order.  ``infinite`` says where there is one.
    """

    graph: Graph
    forward: Mapping[int, Pair]
    special: Mapping[int, Array]
    points: Sequence[Singular]
    infinite: Mapping[int, Array]
    wanted: Sequence[str]

    @cached_property
    def marked(self) -> Marked:
        return Marked(self.graph, self.forward, self.special, self.points, self.wanted)

    @cached_property
    def _infinite(self) -> Marked:
        return Marked(self.graph, self.forward, self.infinite, (), self.wanted)

    def left(self, wrong: Any, one: Array, other: Array, node: Node) -> Any:
        """What is left of ``wrong``, where two gradients of ``node`` differ, or two Jacobians by it."""
        if not wrong.any():
            return wrong
        own = self.marked.gradient(node)
        row = np.isnan(self.marked.forward[self.graph.output][0])
        wrong = wrong & ~(own if wrong.ndim == len(node.shape) else np.logical_and.outer(row, own))
        nan = wrong & (np.isnan(one) != np.isnan(other))
        return wrong & ~(nan & (own | self._infinite.gradient(node))) if nan.any() else wrong


class Marked(ChainRule):
    """What certain elements of certain nodes have a part in, of the values and of the gradients.

    ``special`` are masks by node of values, ``points`` have no derivative, and no value where that is
    not finite.  There nan is put in the place of a value, or of what is sent, and followed, forward
    and back; an operation whose value drops nan hands it on to all that it makes.
    """

    def __init__(
        self,
        graph: Graph,
        forward: Mapping[int, Pair],
        special: Mapping[int, Array],
        points: Sequence[Singular],
        wanted: Sequence[str],
    ) -> None:
        self._plain, self._special = forward, special
        self._points = {point.node.id: point.mask for point in points}
        super().__init__(graph, {}, exact=False)
        self.backward(np.ones(graph.out.shape), wanted)

    def gradient(self, node: Node) -> Any:
        """True at each element of the gradient of ``node`` that a mark has a part in."""
        pair = self.upstream.get(node.id)
        return np.zeros(node.shape, dtype=bool) if pair is None else np.isnan(pair[0])

    def _value(self, node: Node, values: Mapping[str, Array]) -> Pair:
        value = np.array(to_float(self._plain[node.id][0]), dtype=np.float64)
        mask = self._points.get(node.id, False) & (node.integer | ~np.isfinite(value))
        mask = np.array(np.broadcast_to(mask | self._special.get(node.id, False), value.shape))
        given = [np.isnan(self.forward[i][0]) for i in node.inputs if i in self.forward]
        if any(part.any() for part in given):
            if node.op is not None and node.op.pointwise:
                mask |= reduce(np.logical_or, given)
            else:
                found = self._followed(node.shape, lambda: super(Marked, self)._value(node, {}))
                mask |= found if found.any() else True  # what compares drops nan
        value[mask] = np.nan
        return value, np.abs(value)

    def sent(self, c: Contribution, upstream: Pair) -> Pair:
        """Nan where a mark has a part in what ``c.node`` sends."""
        pointwise, shape = c.node.op is not None and c.node.op.pointwise, c.source.shape
        here = self._special.get(c.node.id, False) | self._points.get(c.node.id, np.False_)
        read = [self.forward[i][0] for i in c.term.names.values() if i in self.forward]
        odd = [np.isnan(array) for array in read]
        up = np.where(reduce(np.logical_or, odd, here) if pointwise else here, np.nan, upstream[0])
        mask = np.zeros(shape, dtype=bool)
        if pointwise:
            mask = narrowed(np.isnan(up), shape)
        elif np.isnan(up).any() or any(part.any() for part in odd):
            mask = self._followed(shape, lambda: super(Marked, self).sent(c, (up, np.abs(up))))
        value = np.where(mask, np.nan, 1.0)
        return value, np.abs(value)

    @staticmethod
    def _followed(shape: Shape, made: Callable[[], Pair]) -> Array:
        try:
            return np.isnan(np.asarray(made()[0], dtype=np.float64))
        except (GradexplainError, ArithmeticError, LookupError, ValueError):  # a nan in a kernel
            return np.ones(shape, dtype=bool)
