"""One operation's own derivative and contribution, derived once for each pattern of shapes.

The chain rule's steps use these: ``g`` is the upstream gradient, the formula of a contribution is
``Σ g·∂out/∂input``.  Names are the argument's place (``a0``, ``a1``, …) until they are shown, so that
two hundred nodes of one kind share a derivation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gradexplain.errors import Span
from gradexplain.formula.alike import Renamed
from gradexplain.formula.burden import burden
from gradexplain.formula.calculus import Calculus
from gradexplain.formula.kinds import names_of
from gradexplain.formula.tidy import Folds, tidy
from gradexplain.graph import Graph, Node, Ref, fact, refs
from gradexplain.ops.base import Op, Shape

#: The symbol of the upstream gradient in a local formula, and of the result.
UPSTREAM, RESULT = "g", "out"


@dataclass(frozen=True, slots=True)
class LocalRule:
    """``element`` is the result's formula; ``slopes[k]`` and ``contributions[k]`` belong to the k-th
    tensor of the node's arguments (None for one that takes no gradient).

    ``axes`` are the result's index symbols, ``places[k]`` those of the k-th tensor; ``sizes[k]`` and
    ``element_sizes`` are the ranges of the symbols in each formula.
    """

    element: Any
    axes: tuple[Any, ...]
    slopes: tuple[Any, ...]
    contributions: tuple[Any, ...]
    places: tuple[tuple[Any, ...], ...]
    sizes: tuple[dict[Any, int], ...]
    element_sizes: dict[Any, int]


def local_rule(node: Node, graph: Graph) -> LocalRule:
    """The rule of one node, by its operation, its arguments and the shapes of its tensors.

    A tensor that is used twice by one node counts once: its slope is the total one.
    """
    return _rule(graph, node.id)


@fact
def _rule(graph: Graph, id: int) -> LocalRule:
    node = graph[id]
    order = list(dict.fromkeys(ref.id for ref in refs(node.args)))
    numbers = {id: place for place, id in enumerate(order)}
    sources = tuple(
        (graph[id].shape, graph[id].value if graph[id].is_literal else None, graph[id].integer)
        for id in order
    )
    assert node.op is not None
    return _derive(node.op.pattern or node.op, _renumbered(node.args, numbers), sources, node.shape)


def _renumbered(arg: Any, numbers: dict[int, int]) -> Any:
    if isinstance(arg, Ref):
        return Ref(numbers[arg.id])
    if isinstance(arg, (tuple, list)):
        return tuple(_renumbered(part, numbers) for part in arg)
    if isinstance(arg, slice):
        return _Slice(arg.start, arg.stop, arg.step)
    return arg


@dataclass(frozen=True, slots=True)
class _Slice:
    """A slice that can be a key (Python's own cannot before 3.12)."""

    start: Any
    stop: Any
    step: Any


def _plain(arg: Any) -> Any:
    if isinstance(arg, _Slice):
        return slice(arg.start, arg.stop, arg.step)
    if isinstance(arg, tuple):
        return tuple(_plain(part) for part in arg)
    return arg


@lru_cache(maxsize=4096)
def _derive(
    op: Op, args: tuple[Any, ...], sources: tuple[tuple[Shape, Any, bool], ...], shape: Shape
) -> LocalRule:
    nowhere = Span(0, 0)
    nodes = [
        Node(place, f"a{place}", True, None, (), size, nowhere, value, integer)
        for place, (size, value, integer) in enumerate(sources)
    ]
    node = Node(len(nodes), RESULT, True, op, _plain(args), shape, nowhere)
    calculus = Calculus(Graph("", (*nodes, node), node.id))
    own = calculus.indices(shape, f"n{node.id}x")
    folds = Folds([Renamed(calculus.definition(node, own), calculus.atom(node, own), own)])

    def derived(source: Node) -> tuple[Any, Any, tuple[Any, ...], dict[Any, int]]:
        if not source.is_leaf or source.integer or not calculus.reaches(node, source.label):
            return None, None, (), {}
        slope = calculus.jacobian(node, source)
        there = calculus.indices(source.shape, "d")
        contribution = calculus.weighted(slope, UPSTREAM, shape)
        both = tidy(slope, burden, folds), tidy(contribution, burden, folds)
        return *both, there, dict(calculus.ranges)

    slopes, contributions, places, sizes = (
        zip(*map(derived, nodes), strict=True) if nodes else [()] * 4
    )
    element = calculus.definition(node, calculus.indices(shape, "o"))
    return LocalRule(
        element,
        calculus.indices(shape, "o"),
        slopes,
        contributions,
        places,
        sizes,
        dict(calculus.ranges),
    )


def renamed(e: Any, labels: Mapping[str, str]) -> Any:
    """A local formula in the names of the graph."""
    names: dict[Any, Any] = {}
    for old, new in labels.items():
        names |= zip(names_of(old), names_of(new), strict=True)
    return e.xreplace(names)
