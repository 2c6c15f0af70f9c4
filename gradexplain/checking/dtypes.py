"""A claim in formats of fewer digits: how far it is off, how far rounding allows, and what is seen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradexplain.checking import numeric
from gradexplain.checking.report import DtypeReport
from gradexplain.checking.trials import Trial, Tries
from gradexplain.explanation import Array
from gradexplain.verdict.compare import FORMATS, local_bound

#: Roundings that a computation which is not known is allowed.
_UNKNOWN = 4
_LARGE = (10.0, 100.0, 1000.0)


def measured(trial: Trial, tries: Tries, dtype: str) -> list[DtypeReport]:
    """For each input the claim run in ``dtype`` at the same point, rounded to it.

    A bound that zeros would meet too tells nothing: the verdict is *cannot tell* then.
    """
    values = {n: _held(v, dtype) for n, v in trial.values.items()}
    here = tries.trial(trial.setting, trial.what, values) or trial
    try:
        found = trial.setting.implemented(values, numeric.basis(trial.out_shape), dtype)
        reports = [*_forward(trial, values, dtype)]
    except numeric.UNEVALUATED as error:  # PyTorch has some kernels for no format of few digits
        said = str(error).strip().split("\n")[0]
        return [DtypeReport(dtype, n, "cannot tell", said=said) for n in trial.setting.wanted]
    for name in trial.setting.wanted:
        result = found.results[name]
        if result.rows is None or result.rows.shape[1:] != trial.shape(name):
            reports.append(
                DtypeReport(dtype, name, "cannot tell", said=result.error or "no result")
            )
            continue
        mine, true = result.rows.reshape(len(result.rows), -1), here.true[name]
        size = here.size[name]
        if trial.setting.graph is None:
            size = _UNKNOWN * np.abs(true).max(initial=0.0)
        allowed = local_bound(size, true, np.ones(1), dtype)
        reports.append(_judged(dtype, name, mine, true, allowed, _overflow(trial, name, dtype)))
    return reports


def _forward(trial: Trial, values: dict[str, Array], dtype: str) -> Iterator[DtypeReport]:
    """The forward in ``dtype`` against its reference, where there is one."""
    pair = trial.setting.forwards(values, dtype)
    if pair is None:
        return
    mine, true = pair
    allowed = local_bound(_UNKNOWN * np.abs(true).max(initial=0.0), true, np.ones(1), dtype)
    yield _judged(dtype, "", mine, true, allowed)


def _judged(
    dtype: str, name: str, mine: Array, true: Array, allowed: Array, said: str = ""
) -> DtypeReport:
    with np.errstate(all="ignore"):
        gap = np.nan_to_num(np.abs(mine - true), nan=np.inf, posinf=np.inf)
        place = np.unravel_index(int(np.argmax(gap / allowed)), gap.shape)
        margin = float((np.abs(true) / allowed).max(initial=0.0))
    verdict = "right" if (gap <= allowed).all() else "wrong"
    if verdict == "right" and margin <= 1 and true.any():
        verdict = "cannot tell"
    return DtypeReport(dtype, name, verdict, float(gap[place]), float(allowed[place]), margin, said)


def _held(values: Array, dtype: str) -> Array:
    return numeric.array(numeric.tensor(values, dtype))


def _overflow(trial: Trial, name: str, dtype: str) -> str:
    """Where the claim is not finite at large values, though J is."""
    setting = trial.setting
    for factor in _LARGE:
        values = {
            n: _held(v * (factor if np.issubdtype(v.dtype, np.floating) else 1), dtype)
            for n, v in trial.values.items()
        }
        try:
            true = setting.reference(values, "float64")[name]
            rows = (
                setting.implemented(values, numeric.basis(trial.out_shape), dtype)
                .results[name]
                .rows
            )
        except (*numeric.UNEVALUATED, ArithmeticError):
            return ""
        largest = FORMATS[dtype].largest
        if rows is None or not (
            np.isfinite(true).all() and np.abs(true).max(initial=0.0) < largest
        ):
            return ""
        if not np.isfinite(rows).all():
            return f"not finite at {factor:g} times these values, where J is"
    return ""
