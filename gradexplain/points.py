"""Where a claim is tried: shapes whose axes all differ, and values that hide nothing.

Everything here is deterministic: the same question is tried at the same points on every machine.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from gradexplain.explanation import Array
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape

_UNIFORM: tuple[Shape, ...] = (
    (2, 3), (3,), (2, 3, 4), (), (2, 3, 4, 5), (2, 4), (4,), (3, 3), (2, 4, 6), (2, 2, 4, 4), (8,),
    (4, 8), (1, 2, 8, 8), (6, 6), (1,),
)  # fmt: skip
#: Shapes of several inputs that belong together: a layer and its weights, a convolution.
_LAYERS: tuple[tuple[Shape, ...], ...] = (
    ((4, 3), (3,)), ((2, 4, 3), (3,)), ((4, 3), (2, 3)), ((4, 3), (3, 2)), ((3,), (3, 3)),
    ((3, 3), (3,)), ((4, 3), (4,)), ((4, 3), ()), ((2, 2, 6), (3, 2, 3)), ((2, 1, 5), (1, 1, 3)),
    ((2, 2, 5, 5), (3, 2, 3, 3)), ((1, 1, 5, 5), (1, 1, 3, 3)), ((2, 2, 5, 5), (2,)),
    ((5, 5), (3, 3)), ((8,), (3,)), ((4, 4), (2,)),
    ((4, 3), (3,), (3,)), ((2, 4, 3), (3,), (3,)), ((4, 3), (2, 3), (2,)), ((4, 3), (3, 2), (2,)),
    ((4, 3), (4, 3), ()), ((3,), (3, 3), (3,)), ((2, 2, 6), (3, 2, 3), (3,)),
    ((2, 2, 5, 5), (3, 2, 3, 3), (3,)), ((2, 2, 5, 5), (2,), (2,)), ((4, 3), (), ()),
    ((3, 4), (5, 4), (5, 2)), ((2, 3, 4), (2, 5, 4), (2, 5, 2)),
)  # fmt: skip
_MIXED: tuple[Shape, ...] = (
    (2, 3), (3, 4), (4, 2), (3,), (4,), (2,), (3, 2), (4, 3), (2, 4), (2, 1), (3, 1), (1, 3), (),
    (2, 3, 4), (2, 4, 3),
)  # fmt: skip
_SQUARE: tuple[Shape, ...] = ((3, 3), (3,), (3, 3, 3))
#: At most this many choices of shapes are tried.
_TRIES = 3500
#: Another size for each: all sizes of a choice still differ from each other.
_OTHER: tuple[dict[int, int], ...] = (
    {2: 4, 3: 2, 4: 3, 5: 5}, {2: 3, 3: 5, 4: 2, 5: 4}, {2: 5, 3: 4, 4: 6, 5: 3},
    {2: 4, 4: 2}, {2: 3, 4: 6, 6: 4, 8: 4}, {4: 2}, {2: 3}, {5: 6, 6: 5}, {3: 5}, {3: 2},
)  # fmt: skip

Shapes = dict[str, Shape]


def comparable(graph: Graph, shapes: Mapping[str, Shape]) -> bool:
    """Whether the output has elements, and a Jacobian that is small enough to be compared whole."""
    largest = max([1, *(math.prod(shape) for shape in shapes.values())])
    return 0 < math.prod(graph.out.shape) * largest <= 4000


def choices(names: Sequence[str], fixed: Mapping[str, Shape]) -> Iterator[Shapes]:
    """Shapes for ``names`` to try, the likeliest first; those ``fixed`` stay."""
    free = [name for name in names if name not in fixed]
    if not free:
        yield dict(fixed)
        return
    first = next(iter(fixed.values()), None)
    wide = [(2, *first)] if first is not None and len(first) == 1 and first[0] > 1 else []
    for shape in (*wide, *((first,) if first is not None else ()), *_UNIFORM[:1]):
        yield {**fixed, **dict.fromkeys(free, shape)}
    for layer in _LAYERS:
        if len(layer) == len(free) and not fixed:
            yield dict(zip(free, layer, strict=True))
    mixed = (
        (m for m in itertools.product(_MIXED, repeat=len(free)) if len(set(m)) > 1) for _ in "12"
    )
    flat = (m for m in next(mixed) if all(len(shape) == 2 for shape in m))
    uniform = [(shape,) * len(free) for shape in _UNIFORM[1:] if shape]
    tried = itertools.chain(itertools.islice(flat, _TRIES // 2), uniform, next(mixed))
    for shapes in itertools.islice(tried, _TRIES + len(uniform)):
        yield {**fixed, **dict(zip(free, shapes, strict=True))}
    # Numbers last: at them a claim of a wrong shape would pass for right.
    yield {**fixed, **dict.fromkeys(free, ())}


def squares(names: Sequence[str], fixed: Mapping[str, Shape]) -> Iterator[Shapes]:
    """Shapes in which every axis has the same length: where a wrong broadcast goes unseen."""
    free = [name for name in names if name not in fixed]
    if free:
        for shapes in itertools.product(_SQUARE, repeat=min(len(free), 4)):
            if len(shapes) == len(free):
                yield {**fixed, **dict(zip(free, shapes, strict=True))}


def others(shapes: Shapes, fixed: Mapping[str, Shape]) -> Iterator[Shapes]:
    """The same pattern of shapes in other sizes."""
    for sizes in _OTHER:
        yield {
            name: shape if name in fixed else tuple(sizes.get(n, n) for n in shape)
            for name, shape in shapes.items()
        }


def extremes(shapes: Shapes, fixed: Mapping[str, Shape]) -> Iterator[Shapes]:
    """The same pattern of shapes with one of the sizes 1, and with one beyond those of `others`."""
    kept = {n for shape in fixed.values() for n in shape}
    sizes = dict.fromkeys(n for shape in shapes.values() for n in shape if n > 1)
    for old, new in itertools.product((n for n in sizes if n not in kept), (1, 9)):
        yield {name: tuple(new if n == old else n for n in shape) for name, shape in shapes.items()}


def spread(shape: Shape, seed: int) -> Array:
    """Values in (0, 1), no two alike, of three decimals."""
    count = np.arange(1, math.prod(shape) + 1)
    return np.round((count * 0.6180339887 + seed * 0.7548776662) % 1.0 * 0.998 + 0.001, 3).reshape(
        shape
    )


#: Ranges of values, by what they are: tried in this order until the forward is finite.
_RANGES: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("positive values", lambda u: np.round(0.4 + 1.8 * u, 3)),
    ("values between 0 and 1", lambda u: np.round(0.1 + 0.8 * u, 3)),
    ("values above 1", lambda u: np.round(1.2 + 1.5 * u, 3)),
)


def _signed(u: Array, least: float, most: float) -> Array:
    """Values of either sign with ``least`` to ``most`` in size."""
    sign = np.where((u * 1000).astype(int) % 2, 1, -1)
    return np.asarray(np.round(sign * (least + (most - least) * u), 3))


_SIGNED: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("values of both signs", lambda u: _signed(u, 0.3, 1.8)),
    ("small values of both signs", lambda u: _signed(u, 0.05, 0.9)),
)


def _heavy(shape: Shape) -> Array | float:
    """What a larger square matrix gets on its diagonal: it shall be far from singular."""
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 4:
        return 0.0
    return np.asarray(shape[0] * np.eye(shape[0]))


def regular(
    shapes: Shapes, seed: int, *, signed: bool = False
) -> Iterator[tuple[str, dict[str, Array]]]:
    """``(what, values)``: points of one kind, to be tried in turn."""
    for what, of in _SIGNED if signed else _RANGES:
        yield (
            what,
            {
                name: np.asarray(of(spread(shape, seed + 5 * place)) + _heavy(shape))
                for place, (name, shape) in enumerate(shapes.items())
            },
        )


def numbers(graph: Graph) -> list[float]:
    """The numbers of an expression."""
    found: list[float] = []
    for node in graph.nodes:
        told = [node.value] if node.is_literal else list(node.args) if node.op else []
        found += [float(n) for n in told if isinstance(n, (int, float)) and not isinstance(n, bool)]
    return found


def special(shapes: Shapes, graph: Graph | None) -> Iterator[tuple[str, dict[str, Array]]]:
    """Points at which some elements are 0, or a number of the expression, or alike."""
    for mark in list(dict.fromkeys([0.0, *(numbers(graph) if graph is not None else ())]))[:6]:
        _, values = next(regular(shapes, 3, signed=True))
        for value in values.values():
            value.reshape(-1)[::2] = mark
        yield f"every other element {mark:g}", values
    if len(shapes) > 1:
        yield (
            "inputs with equal elements",
            {
                name: np.resize(np.array([0.5, -0.75, 1.25, 0.9]), shape)
                for name, shape in shapes.items()
            },
        )
    yield "all elements alike", {name: np.full(shape, 0.5) for name, shape in shapes.items()}
