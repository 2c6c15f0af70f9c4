"""A claim that is right under a condition: on what needs no gradient, or on a square matrix.

A backward is written for the data that it meets: targets whose rows sum to 1, masks of 0 and 1, a
bound that is positive.  Where a claim is wrong at the points that were tried, and right at the same
points with one of these conditions met, the condition is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradexplain.checking.trials import Trial, Tries, made
from gradexplain.errors import GradexplainError
from gradexplain.explanation import Array
from gradexplain.ops.base import Shape


@dataclass(frozen=True)
class Condition:
    """``text`` says it, ``meet`` makes values of ``name`` meet it."""

    text: str
    name: str
    meet: Callable[[Array], Array]


def on_data(trial: Trial, given: Mapping[str, Array]) -> Iterator[Condition]:
    """What may be asked of data, which need no gradient, and of a number that is no main input."""
    setting = trial.setting
    for place, name in enumerate(setting.shapes):
        if name in given or trial.is_integer(name):
            continue
        shape = setting.shapes[name]
        if name not in setting.wanted:
            if shape and shape[-1] > 1:
                yield Condition(f"each row of {name} sums to 1", name, lambda a: _row(a, -1))
            if len(shape) > 1:
                yield Condition(f"each column of {name} sums to 1", name, lambda a: _row(a, 0))
            yield Condition(f"{name} is 0 or 1", name, _binary)
            yield Condition(f"{name} is 1 or −1", name, lambda a: 2 * _binary(a) - 1)
            yield Condition(f"{name} is positive", name, _positive)
        elif not shape and place:
            yield Condition(f"{name} is positive", name, _positive)


def on_matrices(trial: Trial, given: Mapping[str, Array]) -> Iterator[Condition]:
    """What a formula for matrices may have taken for granted."""
    for name, shape in trial.setting.shapes.items():
        if name not in given and len(shape) == 2 and shape[0] == shape[1]:
            yield Condition(f"{name} is symmetric", name, lambda a: (a + a.T) / 2)


def _row(a: Array, axis: int) -> Array:
    size = np.abs(a) + 1e-3
    return np.asarray(size / size.sum(axis=axis, keepdims=True))


def _positive(a: Array) -> Array:
    return np.asarray(np.abs(a) + 0.15 * (a == 0))


def _binary(a: Array) -> Array:
    found = (np.arange(a.size) % 3 != 1).astype(float).reshape(a.shape)
    return np.asarray(found)


def met(
    conditions: Iterator[Condition],
    trials: Sequence[Trial],
    tries: Tries,
    names: Sequence[str],
    given: Mapping[str, Array],
    shapes: Mapping[str, Shape],
) -> tuple[Condition, list[Trial]] | None:
    """The first condition under which the claims about ``names`` are right, and the points that met
    it.
    """
    wrong = next((t for t in trials if not t.special and any(not t.right(n) for n in names)), None)
    if wrong is None or any(wrong.result(n).rows is None for n in names):
        return None
    for condition in conditions:
        values = {**wrong.values, condition.name: condition.meet(wrong.values[condition.name])}
        try:
            one = tries.trial(wrong.setting, wrong.what, values)
            if one is None or not all(one.right(n) for n in names):
                continue
            held = Tries(tries.subject, tries.dtype, {condition.name: condition.meet})
            found = made(held, given, shapes, None)
        except GradexplainError:
            continue
        if all(t.right(n) for t in found for n in t.setting.wanted):
            return condition, found
    return None


def as_numbers(
    trials: Sequence[Trial], tries: Tries, given: Mapping[str, Array], shapes: Mapping[str, Shape]
) -> tuple[str, list[Trial]] | None:
    """The inputs that a backward takes for single numbers, as it does which adds up for a temperature
    or a scale, and the points at which they are.

    None unless everything is right then, beside an input that is right at any shape.
    """
    first = trials[0].setting
    wrong = [n for n in first.wanted if not all(t.right(n) for t in trials)]
    rest = [n for n in first.wanted if n not in wrong]
    if not rest or any(n in shapes or n in given or not first.shapes[n] for n in wrong):
        return None
    if not any(first.shapes[n] for n in rest):
        return None
    settings = {id(t.setting): t.setting for t in trials}
    found = []
    for setting in settings.values():
        own = {n: s for n, s in setting.shapes.items() if n not in given}
        try:
            found += made(tries, given, {**own, **dict.fromkeys(wrong, ())}, None)
        except GradexplainError:
            return None
        if not all(
            t.right(n) and n not in t.implemented.widened for t in found for n in first.wanted
        ):
            return None
    many = len(wrong) > 1
    return f"{' and '.join(wrong)} {'are single numbers' if many else 'is a single number'}", found
