"""Hypotheses about what a backward returns, before its J can be spoken of."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from gradexplain.checking.case import Case
from gradexplain.checking.jacobian import by_other_input
from gradexplain.checking.report import Fault
from gradexplain.checking.told import told
from gradexplain.checking.trials import Trial, close
from gradexplain.explanation import Array
from gradexplain.numbers import number
from gradexplain.ops.base import show_shape

# -- before J can be spoken of -------------------------------------------------------------------


def by_in_place(case: Case) -> Fault | None:
    changed = case.first.implemented.mutated
    if not changed:
        return None
    names = " and ".join(changed)
    return told("inplace_forward", names=names, first=changed[0])


def by_forward_differs(case: Case) -> Fault | None:
    for t in case.regular:
        gap = t.setting.forward_gap(t.values, t.dtype)
        if gap is not None:
            return told("forward_differs", gap=number(gap))
    return None


def by_upstream_changed(case: Case) -> Fault | None:
    if not any(t.implemented.v_changed for t in case.trials):
        return None
    return told("grad_output_changed", v=case.v)


def by_buffer(case: Case) -> Fault | None:
    if not any(t.implemented.buffer for t in case.trials):
        return None
    return told("inplace_buffer", name=case.name)


def by_detached(case: Case) -> Fault | None:
    if any(t.result(case.name).problem == "detached" for t in case.trials):
        return told("detached", output=case.output, name=case.name)
    return None


def by_none(case: Case) -> Fault | None:
    if any(t.result(case.name).problem == "none" for t in case.trials):
        return told("none", name=case.name)
    return None


def by_unsteady(case: Case) -> Fault | None:
    if any(t.implemented.leftover for t in case.trials):
        return told("not_reentrant", v=case.v)
    if any(case.name in t.implemented.unsteady for t in case.trials):
        return told("nondeterministic", v=case.v, name=case.name)
    return None


def by_raises(case: Case) -> Fault | None:
    trial = next((t for t in case.trials if t.result(case.name).problem == "raises"), None)
    if trial is None:
        return None
    return Fault("raises", f"the backward raises: {trial.result(case.name).error}")


def by_shape(case: Case) -> Fault | None:
    """A result whose shape is not the input's: what would make it right?"""
    name = case.name
    bad = [t for t in case.trials if _result_shape(t, name) not in (None, t.shape(name))]
    if not bad:
        return None
    first = bad[0]
    found, expected = _result_shape(first, name), first.shape(name)
    assert found is not None
    shapes = f"{show_shape(found)} instead of {show_shape(expected)}"

    def all_right(change: Callable[[Trial, Array], Array | None]) -> bool:
        for t in case.regular:
            rows = t.result(name).rows
            if rows is None:
                return False
            try:
                changed = np.array([change(t, row) for row in rows])
            except (ValueError, IndexError):
                return False
            if changed.shape[1:] != t.shape(name):
                return False
            if not close(changed.reshape(len(changed), -1), t.true[name], t.true[name], t.dtype):
                return False
        return True

    other = by_other_input(case)
    if other is not None and other.code == "swapped":
        return other
    if all_right(lambda t, row: _sum_to(row, t.shape(name))):
        dims = _summed(found, expected)
        keep = ", keepdim=True" if len(found) == len(expected) else ""
        dim = dims[0] if len(dims) == 1 else tuple(dims)
        return told("missing_broadcast_sum", name=name, shapes=shapes, dim=dim, keep=keep)
    for axes in itertools.permutations(range(len(found))):
        if list(axes) != sorted(axes) and all_right(functools.partial(_turned, axes)):
            fix = ".T" if len(axes) == 2 else f".permute{axes}"
            return told("transposed", name=name, shapes=shapes, fix=fix)
    fault = other or case.repaired()
    if fault is not None:
        return fault
    if all_right(lambda t, row: row.reshape(t.shape(name))):
        return told("wrong_shape", name=name, shapes=shapes)
    wide = first.out_shape == found and found != expected
    of = f": that is the shape of {case.output}" if wide else ""
    return told("wrong_shape.2", name=name, shapes=shapes, of=of)


def _result_shape(trial: Trial, name: str) -> tuple[int, ...] | None:
    rows = trial.result(name).rows
    return None if rows is None else rows.shape[1:]


def _turned(axes: tuple[int, ...], _: Trial, row: Array) -> Array:
    return np.transpose(row, axes)


def _sum_to(row: Array, shape: tuple[int, ...]) -> Array | None:
    lead = row.ndim - len(shape)
    if lead < 0 or any(m != n and m != 1 for n, m in zip(row.shape[lead:], shape, strict=True)):
        return None
    axes = tuple(i + lead for i, m in enumerate(shape) if m == 1 and row.shape[i + lead] != 1)
    return np.asarray(row.sum(axis=(*range(lead), *axes))).reshape(shape)


def _summed(found: tuple[int, ...], expected: tuple[int, ...]) -> list[int]:
    lead = len(found) - len(expected)
    return [*range(lead), *(i + lead for i, m in enumerate(expected) if m != found[i + lead])]


def by_linearity(case: Case) -> Fault | None:
    kinds = {is_linear(t, case.name) for t in case.regular}
    v = case.v
    if "nonlinear" in kinds:
        return told("v_nonlinear", name=case.name, v=v)
    if "constant" in kinds:
        held = "" if not all(_at_ones(t, case.name) for t in case.regular) else (
            f"; it is right for loss.backward(), where {v} = 1, not for any other {v}: "
            f"multiply by {v}"
        )  # fmt: skip
        return told("v_unused", name=case.name, v=v, held=held)
    if "affine" in kinds:
        return told("v_unused.2", name=case.name, v=v)
    return None


def _at_ones(trial: Trial, name: str) -> bool:
    """Whether a claim that does not depend on v is right for v = 1."""
    rows, true = trial.result(name).rows, trial.true[name]
    return rows is not None and rows[0].size == true.shape[1] and (
        close(rows[0].reshape(1, -1), true.sum(0, keepdims=True), true, trial.dtype)
    )  # fmt: skip


def by_kink(case: Case) -> Fault | None:
    """Wrong at special points only."""
    name = case.name
    wrong = [t for t in case.trials if not t.right(name)]
    if not wrong or not all(t.special for t in wrong) or all(t.special for t in case.trials):
        return None
    graph, trial = wrong[0].setting.graph, wrong[0]
    place = np.argwhere(trial.wrong(name))[0]
    index = np.unravel_index(int(place[1]), trial.shape(name))
    at = f"{name}[{','.join(map(str, map(int, index)))}]" if index else name
    value = number(float(trial.values[name][tuple(index)]))
    want = number(float(trial.reference[name][tuple(place)]))
    got_matrix = trial.claimed(name)
    got = number(float(got_matrix[tuple(place)])) if got_matrix is not None else "nothing"
    kinks = [n.op.kink for n in graph.nodes if n.op is not None and n.op.kink] if graph else []
    kinked = any(
        n.op is not None and (n.op.kink or n.op.singular or n.op.singular_at)
        for n in (graph.nodes if graph else ())
    )
    convention = f" ({kinks[0]})" if kinks else ""
    fault = told("kink", name=name, at=at, value=value, want=want, convention=convention, got=got)
    return fault if kinked else replace(fault, code="one_point")


def by_rounding(case: Case) -> Fault | None:
    """Every difference is within what float32 explains."""
    name = case.name
    if case.first.dtype == "float32" or all(
        t.right(name) and is_linear(t, name) == "linear" for t in case.regular
    ):
        return None
    for trial in case.regular:
        if is_linear(trial, name, "float32") != "linear":
            return None
        claimed = trial.claimed(name)
        if claimed is None:
            return None
        with np.errstate(all="ignore"):
            gap = np.abs(claimed - trial.true[name])
        if not (gap <= trial.tolerance(name, "float32")).all():
            return None
        scale = np.abs(trial.true[name]).max(initial=0.0)
        if not 1e-10 * scale < gap.max(initial=0.0) <= 1e-5 * max(scale, 1e-3):
            return None  # float32 would be seen in the eighth digit
    return told("float32_rounding", name=name)


def is_linear(trial: Trial, name: str, dtype: str | None = None) -> str:
    """How the claim depends on ``v``: ``linear``, ``constant``, ``affine`` or ``nonlinear``."""
    result = trial.result(name)
    if result.rows is None or not trial.probes:
        return "linear"
    rows = result.rows.reshape(len(result.rows), -1)
    at = [row[name].rows for _, row in trial.probes]
    if any(r is None for r in at):
        return "linear"
    zero, general, twice, other = (np.asarray(r).ravel() for r in at[:4])
    if not all(np.isfinite(r).all() for r in (rows, zero, general, twice, other)):
        return "linear"
    vs = [v.ravel() for v, _ in trial.probes[:4]]
    # As large as what J's entries are made of, which may cancel: 1 − y of a saturated softmax.
    scale = trial.size.get(name, np.abs(rows))
    if not zero.any():
        for v, found in zip(vs[1:], (general, twice, other), strict=False):
            if not close(v @ rows, found, scale, dtype or trial.dtype):
                return "nonlinear"
        return "linear"
    if close(general, zero, scale, dtype or trial.dtype) and close(
        other, zero, scale, dtype or trial.dtype
    ):
        return "constant"
    slopes = rows - zero
    for v, found in zip(vs[1:], (general, twice, other), strict=False):
        if not close(v @ slopes, found - zero, scale, dtype or trial.dtype):
            return "nonlinear"
    return "affine"
