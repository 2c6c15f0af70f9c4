"""Hypotheses about J: what it would be with a fault, held against what the claim implements."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from gradexplain.checking import numeric
from gradexplain.checking.case import Case, ratio
from gradexplain.checking.formula_bench import labels_of
from gradexplain.checking.report import Fault
from gradexplain.checking.told import told
from gradexplain.checking.trials import Trial, close
from gradexplain.explanation import Array
from gradexplain.graph import op_call
from gradexplain.numbers import number

# -- hypotheses about J ---------------------------------------------------------------------------


def by_zero(case: Case) -> Fault | None:
    if case.explains(lambda t: np.zeros_like(t.true[case.name])):
        return told("detached.2", name=case.name)
    return None


def by_other_input(case: Case) -> Fault | None:
    """The gradient of another input, or two swapped."""
    name = case.name
    for other in case.first.setting.wanted:
        if other == name:
            continue
        if not all(_gives(t, name, other) for t in case.regular):
            continue
        if all(
            t.shape(name) == t.shape(other) and close(t.true[name], t.true[other], t.true[name])
            for t in case.regular
        ):
            continue
        if all(_gives(t, other, name) for t in case.regular):
            return told(
                "swapped", name=name, other=other, order=", ".join(case.first.setting.shapes)
            )
        return told("wrong_input", name=name, other=other)
    # Another input about which there is no claim.
    graph = case.graph
    for leaf in graph.leaves if graph is not None else ():
        if leaf.label in case.first.setting.wanted or leaf.integer:
            continue
        if case.explains(functools.partial(_autograd, name=leaf.label)):
            return told("wrong_input.2", name=name, leaf=leaf.label)
    return None


def by_swapped(case: Case) -> Fault | None:
    fault = by_other_input(case)
    return fault if fault is not None and fault.code == "swapped" else None


def _autograd(trial: Trial, name: str) -> Array | None:
    if trial.setting.graph is None:
        return None
    return numeric.jacobians(trial.setting.graph, trial.values, [name])[name]


def _gives(trial: Trial, name: str, other: str) -> bool:
    """Whether the result for ``name`` is the true gradient of ``other``."""
    rows = trial.result(name).rows
    if rows is None or rows.shape[1:] != trial.shape(other):
        return False
    return close(rows.reshape(len(rows), -1), trial.true[other], trial.true[other], trial.dtype)


def by_sign(case: Case) -> Fault | None:
    if case.explains(lambda t: -t.true[case.name]):
        return told("wrong_sign", name=case.name)
    return None


def by_diagonal(case: Case) -> Fault | None:
    """Right on the diagonal, and 0 elsewhere."""
    name = case.name
    if not all(t.out_shape == t.shape(name) for t in case.regular):
        return None

    def diagonal(t: Trial) -> Array:
        return t.true[name] * np.eye(len(t.true[name]))

    if all(np.array_equal(diagonal(t), t.true[name]) for t in case.regular) or not case.explains(
        diagonal
    ):
        return None
    trial = case.first
    off = trial.true[name] * (1 - np.eye(len(trial.true[name])))
    count = int((off != 0).sum())
    element = f"{case.output}{_letters(trial.out_shape, 'ikmac')}"
    return told("missing_off_diagonal", element=element, name=name, count=count)


def _letters(shape: tuple[int, ...], letters: str) -> str:
    return f"[{','.join(letters[: len(shape)])}]" if shape else ""


def by_approximation(case: Case) -> Fault | None:
    """Near the truth everywhere, and not it: tanh's approximation of erf, in GELU."""
    name = case.name
    graph = case.graph
    exact = graph is not None and any(
        n.op is not None and n.op.name in ("erf", "gelu", "erfc") for n in graph.nodes
    )
    if not exact or any(t.claimed(name) is None for t in case.regular):
        return None
    for t in case.regular:
        gap = np.abs(np.asarray(t.claimed(name)) - t.true[name]).max(initial=0.0)
        if not gap <= 5e-3 * np.abs(t.true[name]).max(initial=0.0):
            return None
    return told("approximation", name=name)


def by_uses(case: Case) -> Fault | None:
    """J without the contribution of one use of a value, or with that of one use alone."""
    name = case.name
    trials = case.regular
    if not trials or any(t.setting.graph is None or t.claimed(name) is None for t in trials):
        return None
    cuts = [case.cuts(t) for t in trials]
    if len({len(c) for c in cuts}) != 1:
        return None
    graph = trials[0].setting.graph
    assert graph is not None
    uses = graph.uses()
    labels = labels_of(graph, named=True)
    for place, (node, use, _) in enumerate(cuts[0]):
        if not all(t.fits(name, c[place][2][name]) for t, c in zip(trials, cuts, strict=True)):
            continue
        source = graph[node.inputs[use]]
        into = op_call(node, labels)
        if uses.get(source.id, 0) >= 2:
            return told(
                "missing_accumulation",
                value=labels[source.id],
                times=_times(uses[source.id]),
                into=into,
                name=name,
                other=labels[node.id] if node.named else into,
            )
        return told("missing_term", name=name, value=labels[source.id], into=into)
    # One use alone, of a value that is used more than twice.
    for source in graph.nodes:
        mine = [p for p, (n, u, _) in enumerate(cuts[0]) if n.inputs[u] == source.id]
        if len(mine) < 3:
            continue
        for place in mine:

            def alone(t: Trial, c: list[Any], place: int = place, mine: list[int] = mine) -> Array:
                total = sum(t.true[name] - c[p][2][name] for p in mine if p != place)
                return np.asarray(t.true[name] - total)

            if all(t.fits(name, alone(t, c)) for t, c in zip(trials, cuts, strict=True)):
                return told(
                    "missing_accumulation.2",
                    value=labels[source.id],
                    times=_times(len(mine)),
                    name=name,
                    count=len(mine),
                )
    return None


def _times(count: int) -> str:
    return {2: "twice", 3: "three times", 4: "four times"}.get(count, f"{count} times")


def by_term(case: Case) -> Fault | None:
    """J with one additive term left out, of the wrong sign, or with a wrong factor."""
    name = case.name
    trials = case.regular
    if any(t.setting.graph is None or t.claimed(name) is None for t in trials):
        return None
    values = []
    for t in trials:
        truth = case.tries.truth(t.setting)
        assert truth is not None
        leaf = next(n for n in truth.leaves if n.label == name)
        values.append(truth.term_values(leaf, t.values))
    count = len(values[0])
    if count < 2 or count > 8 or any(len(v) != count for v in values):
        return None
    for size in (1, 2):
        if size >= count:
            break
        for group in itertools.combinations(range(count), size):
            factors = []
            for t, terms in zip(trials, values, strict=True):
                gap = np.asarray(t.claimed(name)) - t.true[name]
                term = np.asarray(sum(terms[k] for k in group))
                factors.append(ratio(gap, term, t.true[name], t.dtype))
            if any(f is None for f in factors):
                continue
            found = [f for f in factors if f is not None]
            same = max(found) - min(found) <= 1e-9 * max(map(abs, found))
            factor = found[0]
            which = "a term" if size == 1 else "two terms"
            if same and abs(factor + 1) < 1e-9:
                return told(
                    "missing_term.2", which=which, name=name, verb="is" if size == 1 else "are"
                )
            if size > 1:
                continue
            if same and abs(factor + 2) < 1e-9:
                return Fault("wrong_sign", f"one term of the gradient by {name} has the wrong sign")
            fault = case.repaired()
            if fault is not None:
                return fault
            if same:
                return told("constant_factor.3", name=name, factor=number(1 + factor))
            size_name = _size_factor([1 + f for f in found], trials, name)
            if size_name is not None:
                return told("constant_factor.4", name=name, size_name=size_name)
    return None


def by_factor(case: Case) -> Fault | None:
    """A constant times J."""
    name = case.name
    found = case.factors()
    if not found:
        return None
    nodes = case.graph.nodes if case.graph is not None else ()
    means = any(n.op is not None and n.op.name == "mean" for n in nodes)
    fault, size_name = case.repaired(), _size_factor(found, case.regular, name)
    if max(found) - min(found) <= 1e-9 * max(map(abs, found)):
        several = len({t.out_shape for t in case.regular}) > 1
        # At one shape 1/N and 1/2 may be the same number.
        counted = fault is not None and fault.code == "sum_vs_mean"
        if not several and counted and (abs(found[0]) < 1 or means):
            return fault
        sized = size_name if not several and abs(found[0]) not in (2.0, 0.5) else None
        value = sized or _fraction(found[0])
        inverse = f"/ ({value})" if sized else f"/ {value}"
        return told("constant_factor.2", name=name, value=value, inverse=inverse)
    if fault is not None and fault.code in ("sum_vs_mean", "wrong_dim"):
        return fault
    if size_name is None:
        return None
    code = "sum_vs_mean" if means and abs(found[0]) > 1 else "constant_factor"
    return told(code, name=name, size_name=size_name)


def _fraction(value: float) -> str:
    near = Fraction(value).limit_denominator(12)
    return str(near) if abs(near - value) < 1e-9 * abs(value) else number(value)


def _size_factor(found: Sequence[float], trials: Sequence[Trial], name: str) -> str | None:
    """``found`` as the sizes of dims at every trial: ``1/x.shape[0]``; None if it is none."""
    sizes = [_sizes(t, name) for t in trials]
    for inverse, what in itertools.product((False, True), sizes[0]):
        pairs = zip(found, (known[what] for known in sizes), strict=True)
        if all(abs(f - (1 / n if inverse else n)) <= 1e-9 * abs(f) for f, n in pairs if n):
            return f"1/{what}" if inverse else what
    return None


def _sizes(trial: Trial, name: str) -> dict[str, int]:
    """The sizes that a factor may be, by name."""
    shapes = trial.setting.shapes
    found: dict[str, int] = {}
    for label in (name, *(n for n in shapes if n != name)):
        found |= {f"{label}.shape[{dim}]": n for dim, n in enumerate(shapes[label])}
        found[f"{label}.numel()"] = math.prod(shapes[label])
    found |= {f"the output's size in dim {dim}": n for dim, n in enumerate(trial.out_shape)}
    return {**found, "the output's number of elements": math.prod(trial.out_shape)}


def by_transposed(case: Case) -> Fault | None:
    name = case.name
    fault = case.repaired()
    if fault is not None and fault.code == "transposed":
        return fault
    if all(len(t.true[name]) == t.true[name].shape[1] for t in case.regular) and case.explains(
        lambda t: t.true[name].T
    ):
        return told("transposed.2", name=name)
    for what, dims in ((f"the gradient by {name}", 1), (case.v, 0)):
        rank = len(case.first.shape(name) if dims else case.first.out_shape)
        for axes in itertools.permutations(range(rank)):
            turned = functools.partial(_turned, name, dims, axes)
            if list(axes) != sorted(axes) and case.explains(turned):
                return Fault("transposed", f"{what} is transposed", f"transpose {what} back (.T)")
    return None


def _turned(name: str, dims: int, axes: tuple[int, ...], t: Trial) -> Array | None:
    """J with the axes of the input, or of the output, in another order; None where it is of another
    shape then.
    """
    full, lead = t.true[name].reshape(t.out_shape + t.shape(name)), len(t.out_shape)
    inner, outer = range(lead, full.ndim), range(lead)
    turned = full.transpose((*outer, *(lead + a for a in axes)) if dims else (*axes, *inner))
    return turned.reshape(t.true[name].shape) if turned.shape == full.shape else None
