"""Which trials there are of one check: shapes, and values of many kinds at them."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gradexplain import points
from gradexplain.checking import edits, numeric
from gradexplain.checking.subjects import (
    Setting,
    Subject,
    alike,
    no_shapes,
    setting_at,
    shapes_text,
)
from gradexplain.checking.trials import Trial, Tries, forward_tensors
from gradexplain.errors import GradexplainError, InputError
from gradexplain.explanation import Array
from gradexplain.ops.base import Shape

#: J is compared entry by entry up to this size.
MAX_ENTRIES = 4_000_000
MAX_ROWS = 3_000


def made(
    tries: Tries,
    given: Mapping[str, Array],
    shapes: Mapping[str, Shape],
    grad: Array | None,
) -> list[Trial]:
    """The trials of a check: at the point given, or at several of our own."""
    subject = tries.subject
    fixed = {name: value.shape for name, value in given.items()} | dict(shapes)
    fixed |= {n: s for n, s in getattr(subject, "owned", {}).items() if n not in fixed}
    for name in fixed:
        if name not in subject.names:
            raise InputError(
                f"{name} is not an input; the inputs are: {', '.join(subject.names) or 'none'}",
                remedy="check the spelling, or leave the option out",
            )
    if all(name in given for name in subject.names):
        setting = subject.setting(fixed, given)
        _check_size(setting)
        trial = tries.trial(setting, "the values given", dict(given), finite=False, grad=grad)
        assert trial is not None
        return [trial]
    fallback, settings = _settings(subject, fixed, given)
    trials = _at_settings(tries, settings, given, grad)
    right = all(t.right(n) for t in trials for n in t.setting.wanted)
    if right and grad is None:
        trials += _extreme(tries, settings[0], fixed, given)
    if fallback and not (right and _is_broadcast(trials[0])):
        # The shapes were chosen to suit the claim.  Where it is wrong there too the likeliest shapes
        # show better what is wrong; of code, where one edit makes it right at them.
        _, settings = _settings(subject, fixed, given, plain=True)
        if settings[0].functions:
            others = _at_settings(tries, settings[:1], given, grad)
            if edits.mendable([t for t in others if not t.special]):
                return others
        elif not right:
            return _at_settings(tries, settings, given, grad)
    return trials


def _is_broadcast(trial: Trial) -> bool:
    """Whether an input has a smaller shape of its own, to which the backward itself sums: that is
    right, though at inputs of one shape it is not.
    """
    shapes = {n: trial.shape(n) for n in trial.setting.wanted}
    least = min(shapes, key=lambda n: math.prod(shapes[n]))
    return len(set(shapes.values())) > 1 and least not in trial.implemented.widened


def _at_settings(
    tries: Tries, settings: list[Setting], given: Mapping[str, Array], grad: Array | None
) -> list[Trial]:
    """Trials at the first of the settings, and one at each of the others."""
    if grad is not None:
        settings = settings[:1]
    trials: list[Trial] = []
    for number, setting in enumerate(settings):
        _check_size(setting)
        free = {n: s for n, s in setting.shapes.items() if n not in given}
        kinds = [(1, False), (1, True)] if number == 0 else [(number + 1, False)]
        if number == 0 and any(not setting.shapes[n] for n in list(free)[1:]):
            # A number that bounds others is tried below some of them, and above some.
            kinds += [(seed, signed) for seed in (3, 4, 6) for signed in (False, True)]
        found = (tries.at(setting, given, seed, signed=signed, grad=grad) for seed, signed in kinds)
        trials += [trial for trial in found if trial is not None]
        if number == 0 and grad is None and not given and setting.kinked:
            for what, values in points.special(free, setting.graph):
                here = tries.held(setting, values, given)
                trial = tries.trial(setting, what, here, special=True)
                if trial is not None:
                    trials.append(trial)
    if grad is None:
        trials += _covering(tries, settings[0], given, trials)
    if not any(not t.special for t in trials):
        setting = settings[0]
        free = {n: s for n, s in setting.shapes.items() if n not in given}
        _, values = next(points.regular(free, 1))
        trial = tries.trial(
            setting,
            "positive values",
            tries.held(setting, values, given),
            finite=False,
            grad=grad,
        )
        assert trial is not None
        trials.insert(0, trial)
    wrong = {n for t in trials if not t.special for n in t.setting.wanted if not t.right(n)}
    for trial in trials:
        trial.hopeless = wrong if trial.special else set()
    return trials


def _extreme(
    tries: Tries, setting: Setting, fixed: Mapping[str, Shape], given: Mapping[str, Array]
) -> list[Trial]:
    """Trials with a size of 1, or a large one, of those at which the claim is wrong."""
    found = []
    for shapes in points.extremes(setting.shapes, fixed):
        other = setting_at(tries.subject, shapes, given)
        if other is not None and alike(setting, other):
            trial = tries.at(other, given, 2, signed=True)
            found += [trial] if trial and not all(map(trial.right, other.wanted)) else []
    return found


#: So many points are looked at for those at which conditions meet that have not met, so many tried.
_LOOKED, _COVERED = 24, 4
#: Ranges of the values looked at, of the largest: about 0, further out, and where a logarithm has
#: a value.  The largest is beyond the numbers that the claim compares with, up to a bound of ours:
#: where saturated functions cancel there is nothing to compare.
_WIDE, _LARGEST = ((-0.36, 0.36), (-1.0, 1.0), (0.004, 1.0)), (5.0, 15.0)


def _covering(
    tries: Tries, setting: Setting, given: Mapping[str, Array], trials: Sequence[Trial]
) -> list[Trial]:
    """Trials at which conditions of the forward and of the claim, and the signs of the inputs, are
    true and false together as they have not been at one element.

    The values of different inputs are independent here; a branch is wrong only where it is taken.
    """
    free = {n: s for n, s in setting.shapes.items() if n not in given}
    seen = {one for t in trials if t.setting is setting and not t.special
            for one in _met(setting, t.values, free)}  # fmt: skip
    found: list[Trial] = []
    told = (abs(n) for graph in setting.claims.values() for n in points.numbers(graph))
    most = max([_LARGEST[0], *(1.5 * n for n in told if 1.5 * n <= _LARGEST[1])])
    chance = np.random.RandomState(0)  # the same on every machine
    for place in range(_LOOKED if free else 0):
        low, high = (most * share for share in _WIDE[place % len(_WIDE)])
        values = {n: np.round(chance.uniform(low, high, shape), 3) for n, shape in free.items()}
        here = tries.held(setting, values, given)
        met = _met(setting, here, free) - seen
        what = f"other values between {low:g} and {high:g}"
        trial = tries.trial(setting, what, here) if met or place < 2 else None
        if trial is not None:
            found.append(trial)
            seen |= met
        if len(found) == _COVERED:
            break
    return found


#: So many conditions are looked at by pairs.
_PAIRED = 10


def _met(
    setting: Setting, values: Mapping[str, Array], free: Mapping[str, Shape]
) -> set[tuple[int, int, int]]:
    """Pairs of conditions, with how the two are true and false at one element."""
    told = [values[n] < 0 for n in free]
    with contextlib.suppress(*numeric.UNEVALUATED):
        known = forward_tensors(setting, values) if setting.graph is not None else {}
        nodes = () if setting.graph is None else setting.graph.nodes
        for node in nodes:
            if node.op is not None and node.op.kink and node.label in known:
                told += [numeric.array(known[n]) <= 0 for n in (node.label, *(
                    nodes[i].label for i in node.inputs)) if n in known]  # fmt: skip
        v = dict.fromkeys(setting.grad_names, numeric.tensor(np.ones(setting.out_shape), "float64"))
        tensors = [*known.values()]
        for graph in setting.claims.values():
            tensors += numeric.run(graph, {**known, **v}, "float64", everything=True).values()
        told += [numeric.array(t) > 0 for t in tensors
                 if str(getattr(t, "dtype", "")) == "torch.bool"]  # fmt: skip
    pairs = itertools.combinations_with_replacement(enumerate(told[:_PAIRED]), 2)
    return {(i, j, int(both)) for (i, a), (j, b) in pairs
            if a.shape == b.shape for both in np.unique(2 * a + b)}  # fmt: skip


def _check_size(setting: Setting) -> None:
    rows = math.prod(setting.out_shape)
    entries = rows * max([math.prod(setting.shapes[n]) for n in setting.wanted] or [1])
    if rows > MAX_ROWS or entries > MAX_ENTRIES:
        raise InputError(
            f"J has {rows:,} rows and {entries:,} entries here; at most {MAX_ROWS:,} rows and "
            f"{MAX_ENTRIES:,} entries are compared",
            remedy="check at smaller shapes: the formulas are the same at any size",
        )


#: So many shapes at which the forward runs and the backward does not are passed over.
_PASSED_OVER = 12


def _settings(
    subject: Subject,
    fixed: Mapping[str, Shape],
    given: Mapping[str, Array],
    *,
    plain: bool = False,
) -> tuple[bool, list[Setting]]:
    """Settings at several shapes of one pattern, at which the forward and the claim have values.

    Also whether likelier shapes were passed over because the claim's result has another shape
    there, or none; ``plain`` takes these.
    """
    pattern: Setting | None = None
    fallback: Setting | None = None
    refused: GradexplainError | None = None
    passed = 0
    for shapes in points.choices(subject.names, fixed):
        if not subject.accepts(shapes, given):
            continue
        try:
            setting = subject.setting(shapes, given)
        except GradexplainError as error:
            refused = refused or error
            continue
        if setting.has_shapes(given):
            pattern = setting
            break
        fallback = fallback or setting
        passed += 1
        if plain or passed > _PASSED_OVER:
            break
    if pattern is None and refused is not None:
        for shapes in points.squares(subject.names, fixed):
            square = setting_at(subject, shapes, given)
            if square is not None and square.has_shapes(given):
                return False, [square]
    chosen = pattern or fallback
    if chosen is None:
        if refused is not None:
            raise refused
        refuse = getattr(subject, "refuse", None)
        if refuse is not None:
            raise refuse()
        if len(fixed) == len(subject.names):
            subject.setting(fixed, given)  # it says why there is no value
        raise no_shapes(subject)
    found = [chosen]
    seen = [chosen.shapes]
    for shapes in points.others(chosen.shapes, fixed):
        other = None if shapes in seen else setting_at(subject, shapes, given)
        seen.append(shapes)
        if other is None or (
            fallback is not None and pattern is not None and not other.has_shapes(given)
        ):
            continue
        found.append(other)
        if len(found) == 3:
            break
    return fallback is not None and pattern is not None, found


def where(trial: Trial) -> str:
    return f"{trial.what}, {shapes_text(trial.setting.shapes)}"
