"""Look for the places of a range where digits are lost, and for a rewrite that keeps them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gradexplain.document.keys import Key, Keys
from gradexplain.document.shows import Shows
from gradexplain.errors import GradexplainError, InputError
from gradexplain.examples import example_values
from gradexplain.explanation import Array, Shape
from gradexplain.graph import Graph, Node, labels_of, op_call
from gradexplain.reading.language import read
from gradexplain.reading.syntax import parse
from gradexplain.routes.names import own_texts
from gradexplain.routes.rewrites import rewritten, unnamed, written
from gradexplain.stability.measure import FULL, Measured, digits, measure, same

#: Samples of a range: as many evenly spaced as over its powers of ten.
_SAMPLES = 24
#: An operation that loses fewer digits than this is not named.
LOSS = 1.0
#: Digits short of all that do not matter: some operations end with one or two less.
_ENOUGH = 1.6
#: An operation is named by its text in the inputs' names up to so many characters.
_TEXT = 60
#: How many rewrites may be applied one after the other.
_ROUNDS = 3

#: Digits are counted in PyTorch's own numbers, whose last ones are the machine's.
_MEASURED = Key(computed="PyTorch")


@dataclass(frozen=True, slots=True)
class Lost:
    """The operation that lost digits at the worst sample, forward or backward."""

    JSON: ClassVar[Keys] = dict.fromkeys(("before", "after"), _MEASURED)

    operation: str
    backward: bool
    before: float
    after: float


@dataclass(slots=True)
class Stability(Shows):
    """What was found.  ``points`` are the samples of the first input that varies, in order.

    ``rewrite`` is the whole expression as code, "" where none was found to be better; ``applied`` are
    the rows of the table that led to it.
    """

    SCHEMA: ClassVar[str] = "gradexplain-stability/1"
    PAGE: ClassVar[str] = "gradexplain.stability.page"
    JSON: ClassVar[Keys] = dict.fromkeys(
        ("forward", "backward", "worst", "forward_after", "backward_after"), _MEASURED
    )

    expression: str
    dtype: str
    full: float
    ranges: dict[str, tuple[float, float]]
    points: tuple[float, ...]
    forward: tuple[float, ...]
    backward: tuple[float, ...]
    worst: float
    lost: Lost | None = None
    rewrite: str = ""
    applied: tuple[tuple[str, str, str], ...] = ()
    #: A rewrite that is better at some samples and worse at others: its code, and how many.
    partial: tuple[str, int, int] | None = None
    forward_after: tuple[float, ...] = field(default=())
    backward_after: tuple[float, ...] = field(default=())

    @property
    def status(self) -> str:
        """``stable`` or ``loses``."""
        return "stable" if self.lost is None else "loses"


def parse_range(text: str) -> tuple[str, float, float]:
    """``x=LOW,HIGH``."""
    match = re.fullmatch(r"\s*([^\W\d]\w*)\s*=\s*([^,]+),([^,]+)", text)
    try:
        if match is None:
            raise ValueError
        name, low, high = match[1], float(match[2]), float(match[3])
    except ValueError:
        raise InputError(
            f"--range takes NAME=LOW,HIGH, not `{text[:40]}`", remedy="write `--range x=0,1`"
        ) from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise InputError(
            f"--range {name}: {low:g} is not below {high:g}",
            remedy="write two finite numbers, the smaller one first",
        )
    return name, low, high


def samples(low: float, high: float, dtype: str) -> Array:
    """Points of a range as the dtype holds them: evenly spaced, and over the powers of ten to 0."""
    even = np.linspace(low, high, _SAMPLES)
    smallest = 10.0 ** (-16 if dtype == "float64" else -8)
    parts = [even]
    for sign, end in ((1, high), (-1, -low)):
        if end > 0:
            start = max(end * smallest, low if sign > 0 else -high)
            parts.append(sign * np.geomspace(start, end, _SAMPLES))
    points = np.unique(np.concatenate(parts))
    points = points[(points >= low) & (points <= high)]
    if dtype == "float32":
        points = np.unique(points.astype(np.float32).astype(np.float64))
    return points


def stability(
    expression: str,
    ranges: Mapping[str, tuple[float, float]],
    *,
    at: Mapping[str, Array] | None = None,
    shapes: Mapping[str, Shape] | None = None,
    dtype: str = "float64",
) -> Stability:
    """Digits of ``expression`` and of its gradient over ``ranges``, and a rewrite that has more.

    An input of a shape has the range's point times 1, and times numbers below 1 in its other
    elements.  Raises `GradexplainError`.
    """
    program = parse(expression)
    shapes = dict(shapes or {})
    fixed = dict(at or {})

    def shape_of(name: str) -> Shape:
        return fixed[name].shape if name in fixed else tuple(shapes.get(name, ()))

    graph = read(program, shape_of, fixed, dtype)
    labels = [n.label for n in graph.leaves]
    for name in ranges:
        if name not in labels:
            raise InputError(
                f"{name} is not an input of the expression; its inputs are: {', '.join(labels)}",
                remedy="check the spelling in --range",
            )
    points, values = _values(graph, ranges, fixed, dtype)
    wanted = [name for name in labels if name in ranges]
    first = measure(graph, values, wanted, dtype)
    made = Stability(
        expression, dtype, FULL[dtype], dict(ranges), points, first.forward, first.backward,
        points[first.worst], _lost(graph, first, dtype),
    )  # fmt: skip
    if made.lost is not None:
        _improve(made, graph, first, values, wanted, fixed)
    return made


def _values(
    graph: Graph,
    ranges: Mapping[str, tuple[float, float]],
    fixed: Mapping[str, Array],
    dtype: str,
) -> tuple[tuple[float, ...], list[dict[str, Array]]]:
    """The points of the first range, and every leaf's value at each."""
    unit = np.float32 if dtype == "float32" else np.float64
    others = example_values(graph, [n for n in graph.leaves if n.label not in ranges])
    columns = {name: samples(low, high, dtype) for name, (low, high) in ranges.items()}
    count = min(map(len, columns.values()))
    columns = {n: c[np.linspace(0, len(c) - 1, count).astype(int)] for n, c in columns.items()}
    found = []
    for place in range(count):
        values: dict[str, Array] = {}
        for leaf in graph.leaves:
            if leaf.label in ranges:
                size = int(np.prod(leaf.shape))
                weights = np.concatenate([[1.0], 0.618034 * np.arange(1, size) % 1])[:size]
                value = columns[leaf.label][place] * weights.reshape(leaf.shape)
            else:
                value = fixed.get(leaf.label, others[leaf.label])
            values[leaf.label] = np.asarray(value).astype(unit).astype(np.float64)
        found.append(values)
    return tuple(columns[next(iter(ranges))].tolist()), found


def _lost(graph: Graph, found: Measured, dtype: str) -> Lost | None:
    """The operation where most digits go at the worst sample, None where hardly any do."""
    worst = found.worst
    got, true = found.pytorch[worst], found.exact[worst]
    full = FULL[dtype]
    if found.digits(worst) > full - 3 * LOSS:
        return None
    texts, labels = own_texts(unnamed(graph), _TEXT), labels_of(graph)
    drops: list[tuple[float, Lost]] = []

    def called(node: Node) -> str:
        return texts[node.id] if texts[node.id] != node.label else op_call(node, labels)

    for node in graph.nodes:
        if node.op is None or node.id not in got:
            continue
        value = got[node.id][0]
        here = digits(value, true.forward.get(node.id), dtype)
        if value is not None and not np.isfinite(value).all():
            here = 0.0  # an overflow is right only where it is the answer
        before = min(
            (digits(got[i][0], true.forward.get(i), dtype) for i in node.inputs if i in got),
            default=full,
        )
        drops.append((before - here, Lost(called(node), False, before, here)))
        above = digits(got[node.id][1], true.upstream.get(node.id), dtype)
        for i in node.inputs:
            if i in got and i in true.upstream:
                below = digits(got[i][1], true.upstream[i], dtype)
                drops.append((above - below, Lost(called(node), True, above, below)))
    # Digits that are gone forward are gone backward too: the first place is the cause.
    forward = [drop for drop in drops if not drop[1].backward and drop[0] > LOSS]
    candidates = forward or [drop for drop in drops if drop[0] > LOSS]
    return max(candidates, key=lambda drop: drop[0])[1] if candidates else None


def _improve(
    made: Stability,
    graph: Graph,
    first: Measured,
    values: Sequence[Mapping[str, Array]],
    wanted: Sequence[str],
    fixed: Mapping[str, Array],
) -> None:
    """Apply rewrites as long as one is equal and better at every sample, as measured."""
    shapes = {n.label: n.shape for n in graph.leaves}
    best, best_graph, applied = first, graph, []
    for _ in range(_ROUNDS):
        found = None
        for candidate, said in rewritten(best_graph):
            measured = _measured(candidate, shapes, values, wanted, made.dtype, fixed)
            if measured is None:
                continue
            other, result = measured
            if not _equal(best_graph, best, other, result):
                continue
            gain, loss = _counted(best, result, made.dtype)
            if gain and loss and (made.partial is None or gain - loss > made.partial[1] - made.partial[2]):  # fmt: skip
                made.partial = written(candidate), gain, loss
            if _better(best, result, made.dtype) and (found is None or _better(found[2], result, made.dtype)):  # fmt: skip
                found = candidate, other, result, said
        if found is None:
            break
        expression, best_graph, best, said = found
        applied.append(said)
        if best.digits(best.worst) > made.full - LOSS:
            break
    if applied:
        made.rewrite = written(expression)
        made.applied = tuple(applied)
        made.forward_after, made.backward_after = best.forward, best.backward


def _measured(
    expression: ast.expr,
    shapes: Mapping[str, Shape],
    values: Sequence[Mapping[str, Array]],
    wanted: Sequence[str],
    dtype: str,
    fixed: Mapping[str, Array],
) -> tuple[Graph, Measured] | None:
    """A candidate at the samples; None where it cannot be read or computed."""
    text = ast.unparse(ast.fix_missing_locations(expression))
    try:
        graph = read(parse(text), lambda name: shapes[name], fixed, dtype)
        if set(wanted) - {n.label for n in graph.leaves}:
            return None
        return graph, measure(graph, values, wanted, dtype)
    except (GradexplainError, KeyError, ZeroDivisionError):
        return None


def _equal(graph: Graph, first: Measured, other: Graph, second: Measured) -> bool:
    by_label = {n.label: n.id for n in other.leaves}
    leaves = [(n.id, by_label[n.label]) for n in graph.leaves if n.label in by_label]
    return same(first, second, (graph.output, other.output), leaves)


def _counted(old: Measured, new: Measured, dtype: str) -> tuple[int, int]:
    """At how many samples, forward or backward, one has more digits, and at how many fewer.

    Digits that the old way has by luck alone are not held against the new one, nor the last of all.
    """
    most = FULL[dtype] - _ENOUGH
    better = worse = 0
    pairs = ((old.forward, new.forward), (old.backward, new.backward))
    for (before, after), sure in zip(pairs, old.sure, strict=True):
        for a, b, s in zip(before, after, sure, strict=True):
            better += b > a + LOSS
            worse += b < min(a, s, most)
    return better, worse


def _better(old: Measured, new: Measured, dtype: str) -> bool:
    """Better where most was lost, forward or backward, and nowhere worse."""
    if _counted(old, new, dtype)[1]:
        return False
    pairs = ((old.forward, new.forward), (old.backward, new.backward))
    return any(min(after) > min(before) + LOSS for before, after in pairs) or any(
        b > a + 3 * LOSS for before, after in pairs for a, b in zip(before, after, strict=True)
    )
