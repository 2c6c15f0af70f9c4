"""Random valid problems of every operation, the same ones for the same seed."""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradexplain.catalogue import goes_by
from gradexplain.errors import GradexplainError, InputError
from gradexplain.examples import SHARES
from gradexplain.ops import all_ops
from gradexplain.ops.base import Shape
from gradexplain.ops.samples import parse
from gradexplain.problem import Request, problem_of
from gradexplain.reading.arrays import ONES, as_array

#: Intervals that values are drawn from; the first at which the forward pass is finite is taken.
_INTERVALS = ((-2.0, 2.0), (0.1, 0.9), (1.1, 3.0))


def problems(names: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """``count`` lines, of the operations that go by ``names`` in turn, or of all."""
    ops = [op for op in all_ops() if not names or any(goes_by(op, name) for name in names)]
    for name in names:
        if not any(goes_by(op, name) for op in ops):
            raise InputError(
                f"`{name}` is not among the operations", remedy="`gradexplain ops` lists them all"
            )
    chance = random.Random(seed)
    # An operation without a spelling is a number or a comparison.
    samples = [(op.name, sample) for op in ops for sample in op.samples if op.spellings]
    if not samples:
        raise InputError("there is no operation to make problems of", remedy="name another")
    made, place, missed = 0, 0, 0
    while made < count:
        found = _problem(*samples[place % len(samples)], chance)
        place += 1
        if found is None:
            missed += 1
            if missed > 3 * len(samples) and not made:
                raise InputError(
                    "no valid problem was found", remedy="name another operation, or use --all"
                )
            continue
        made += 1
        found = {"id": f"{seed}-{made}"} | found
        yield json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n"


def _problem(named: str, sample: str, chance: random.Random) -> dict[str, Any] | None:
    """A sample at random values with a random v; None where it has no value at any that was tried."""
    expression, shapes = parse(sample)
    for low, high in _INTERVALS[named in SHARES :]:
        try:
            at = _values(expression, shapes, chance, low, high)
            given = {name: as_array(value, name) for name, value in at.items()}
            problem = problem_of(Request(expression, at=given, shapes=shapes, grad=ONES))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of NumPy: what has no value is not taken
                finite = _is_finite(problem)
        except (GradexplainError, ArithmeticError, ValueError):  # no value: a singular matrix, …
            continue
        if finite:
            grad = _drawn(problem.graph.out.shape, chance, -1, 1)
            return {"expression": expression, "at": at, "grad": grad}
    return None


def _values(
    expression: str, shapes: Mapping[str, Shape], chance: random.Random, low: float, high: float
) -> dict[str, Any]:
    """Random values for the inputs; an index keeps the value that an example gives it."""
    graph = problem_of(Request(expression, shapes=shapes, grad=ONES)).graph
    return {
        node.label: _drawn(node.shape, chance, low, high)
        for node in graph.leaves
        if not node.integer
    }


def _drawn(shape: Shape, chance: random.Random, low: float, high: float) -> Any:
    if not shape:
        return round(chance.uniform(low, high), 3)
    return [_drawn(shape[1:], chance, low, high) for _ in range(shape[0])]


def _is_finite(problem: Any) -> bool:
    from gradexplain.plan.arrays import to_float
    from gradexplain.routes.chain import ChainRule

    value = ChainRule(problem.graph, problem.values, exact=False).forward[problem.graph.output][0]
    return all(map(math.isfinite, to_float(value).ravel()))
