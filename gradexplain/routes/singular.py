"""Singular points on the way of a gradient: where an operation has no derivative, or no value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import sympy

from gradexplain.adjoint import Contribution
from gradexplain.errors import GradexplainError
from gradexplain.explanation import Array
from gradexplain.formula.functions import build
from gradexplain.formula.kinds import element_symbol
from gradexplain.formula.kit import number
from gradexplain.graph import Graph, Node, Ref, put
from gradexplain.ops.base import Op, Shape
from gradexplain.plan.arrays import Pair, to_float
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
            index = tuple(int(i) for i in np.argwhere(mask)[0])
            found.append(Singular(node, index, int(mask.sum()), mask))
    return found


def _mask(node: Node, graph: Graph, chain: ChainRule) -> Any:
    """True at each element of the result where the node is singular."""
    op = node.op
    assert op is not None
    if op.singular_at is not None:
        values = put(node.args, lambda id: to_float(chain.forward[id][0]))
        return np.asarray(op.singular_at(to_float(chain.forward[node.id][0]), *values))
    if not op.singular:
        return None
    arrays = {
        parameter.name: np.broadcast_to(to_float(chain.forward[arg.id][0]), node.shape)
        for parameter, arg in zip(op.parameters, node.args, strict=True)
        if isinstance(arg, Ref)
    }
    given = tuple(None if isinstance(a, Ref) else (type(a), a) for a in node.args)
    axes, conditions = _conditions(op, given, len(node.shape))
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
    op: Op, given: tuple[tuple[type, Any] | None, ...], rank: int
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
    return axes, [build(condition, names) for condition in op.singular]


class Marked(ChainRule):
    """What certain elements of certain nodes have a part in, of the values and of the gradients.

    ``marks`` are masks by node.  There nan is put in the place of a value and followed, forward and
    back; an operation whose value drops nan hands it on to all that it makes.
    """

    def __init__(self, chain: ChainRule, marks: Mapping[int, Array], wanted: Sequence[str]) -> None:
        self._plain, self._marks = chain.forward, marks
        super().__init__(chain.graph, {}, exact=False)
        self.backward(np.ones(chain.graph.out.shape), wanted)

    def gradient(self, node: Node) -> Any:
        """True at each element of the gradient of ``node`` that a mark has a part in."""
        pair = self.upstream.get(node.id)
        return np.zeros(node.shape, dtype=bool) if pair is None else np.isnan(pair[0])

    def _value(self, node: Node, values: Mapping[str, Array]) -> Pair:
        value = np.array(to_float(self._plain[node.id][0]), dtype=np.float64)
        mask = np.array(np.broadcast_to(self._marks.get(node.id, False), value.shape))
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
        here = (
            np.isnan(self.forward[c.node.id][0]) if pointwise else self._marks.get(c.node.id, False)
        )
        up = np.where(here, np.nan, upstream[0])
        marked = [np.isnan(up), *(np.isnan(self.forward[i][0]) for i in c.node.inputs)]
        mask = np.zeros(shape, dtype=bool)
        if pointwise:
            axes = tuple(range(len(c.node.shape) - len(shape)))
            axes += tuple(len(axes) + i for i, n in enumerate(shape) if n == 1)
            mask = np.isnan(up).any(axis=axes).reshape(shape)
        elif any(part.any() for part in marked):
            mask = self._followed(shape, lambda: super(Marked, self).sent(c, (up, np.abs(up))))
        value = np.where(mask, np.nan, 1.0)
        return value, np.abs(value)

    @staticmethod
    def _followed(shape: Shape, made: Callable[[], Pair]) -> Array:
        try:
            return np.isnan(np.asarray(made()[0], dtype=np.float64))
        except (GradexplainError, ArithmeticError, LookupError, ValueError):  # a nan in a kernel
            return np.ones(shape, dtype=bool)
