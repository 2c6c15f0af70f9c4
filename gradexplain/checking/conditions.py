"""A claim that is right under a condition: on what needs no gradient, or on a square matrix.

A backward is written for the data that it meets: targets whose rows sum to 1, masks of 0 and 1, a
bound that is positive.  Where a claim is wrong at the points that were tried, and right at the same
points with one of these conditions met, the condition is said.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from gradexplain.checking import edits
from gradexplain.checking.bench import Bench
from gradexplain.checking.making import made
from gradexplain.checking.operation import source_tree
from gradexplain.checking.trials import Trial, Tries
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
            if len(shape) > 1 and shape[0] > 1:
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

    Where it is wrong then too, and one edit makes it right, the condition is empty.  None unless the
    others are right at any shape.
    """
    first = trials[0].setting
    wrong = [n for n in first.wanted if not all(t.right(n) for t in trials)]
    rest = [n for n in first.wanted if n not in wrong]
    if not rest or any(n in shapes or n in given or not first.shapes[n] for n in wrong):
        return None
    if not any(first.shapes[n] for n in rest):
        return None
    if any(_fills(f, wrong) for f in first.functions):
        return None
    settings = {id(t.setting): t.setting for t in trials}
    found = []
    for setting in settings.values():
        own = {n: s for n, s in setting.shapes.items() if n not in given}
        try:
            found += made(tries, given, {**own, **dict.fromkeys(wrong, ())}, None)
        except GradexplainError:
            return None
    if any(n in t.implemented.widened for t in found for n in first.wanted):
        return None
    if not all(t.right(n) for t in found for n in first.wanted):
        likely = [t for t in found if not t.special]
        mends = all(t.right(n) for t in found for n in rest) and edits.mendable(likely)
        return ("", found) if mends else None
    many = len(wrong) > 1
    return f"{' and '.join(wrong)} {'are single numbers' if many else 'is a single number'}", found


def _fills(function: Any, names: Sequence[str]) -> bool:
    """Whether a backward looks at the shape of one of ``names``: then it is no number to it, and a sum
    that it spreads over that shape is wrong."""
    for node in ast.walk(source_tree(function) or ast.Module([], [])):
        if isinstance(node, ast.Attribute) and node.attr in ("shape", "size", "numel"):
            looked = [node.value]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("_like", "_as")):
            looked = node.args
        else:
            continue
        if any(isinstance(one, ast.Name) and one.id in names for one in looked):
            return True
    return False


#: A constant that keeps from dividing by 0 is as tiny as this; one that is rounded has so many
#: digits or more.
_TINY, _DIGITS = 1e-8, 6


def but_for_constants(trials: Sequence[Trial]) -> list[str]:
    """Notes on gradients that are right but for a constant of the backward's own: a tiny one, which
    keeps it from dividing by 0, or one that is written with some digits.  They are excused where
    they are off by no more than what that constant, or the digits that are not there, bring about.
    """
    first, regular = trials[0].setting, [t for t in trials if not t.special]
    wrong = [n for n in first.wanted if not all(t.right(n) for t in regular)]
    close = wrong and all((_gap(t, n) <= 1e-5 * np.abs(t.true[n]).max(initial=0.0)).all()
                          for t in regular for n in wrong)  # fmt: skip
    for function in first.functions if close else ():
        bench = Bench(function, regular[:3], wrong)
        room = {(t, n): t.tolerance(n) for t in trials for n in wrong}
        named: dict[str, None] = {}
        for node in ast.walk(bench.tree or ast.Module([], [])):
            if isinstance(node, ast.Constant) and isinstance(value := node.value, float):
                _, digits, exponent = Decimal(repr(value)).as_tuple()
                lacking = 0.5 * 10.0 ** int(exponent) if len(digits) >= _DIGITS else 0.0
                node.value = value - (value if 0 < value <= _TINY else lacking)
                if node.value != value:
                    named[repr(value)] = None
                    moved = bench.compiled()
                    room |= {
                        (t, n): size + _moved(bench, moved, t, n) for (t, n), size in room.items()
                    }
                node.value = value
        if named and all((_gap(t, n) <= room[t, n]).all() for t in regular for n in wrong):
            for trial in trials:
                trial.excuse([n for n in wrong if (_gap(trial, n) <= room[trial, n]).all()])
            said = " and ".join(named)
            return [
                f"The gradient by {n} is right but for the backward's own {said}." for n in wrong
            ]
    return []


def _gap(trial: Trial, name: str) -> Array:
    """How far each entry is off; infinite where nothing of the right shape came back."""
    claimed, true = trial.claimed(name), trial.true[name]
    return np.full(true.shape, np.inf) if claimed is None else np.abs(claimed - true)


def _moved(bench: Bench, backward: Any, trial: Trial, name: str) -> Any:
    """By how much another backward changes each entry."""
    other = bench.again(backward, trial)
    there, here = None if other is None else other.claimed(name), trial.claimed(name)
    return 0.0 if there is None or here is None else np.abs(there - here)
