"""One verdict made of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gradexplain.explanation import Array, Check, Difference
from gradexplain.verdict.compare import COARSE
from gradexplain.verdict.status import worst


def verdict(
    differences: Sequence[Difference],
    *,
    asked: bool,
    singular: bool,
    by_kernel: Callable[[Difference], bool],
) -> str:
    """What the differences found for one array of numbers come to.

    They are a convention's where a singular point is on the way, or where PyTorch's kernel is coarse.
    """
    if differences:
        return "convention" if singular or all(map(by_kernel, differences)) else "mismatch"
    return "agree" if asked else "skipped"


def check(
    status: str,
    verdicts: Iterable[str],
    dtype: str,
    bounds: Iterable[Array],
    differences: list[Difference],
    reason: str,
    by_kernel: Callable[[Difference], bool],
) -> Check:
    """The check of a whole: ``status`` is what PyTorch's side came to, ``verdicts`` the
    arrays' (one that was not computed counts for nothing)."""
    status = worst([status, *(verdict for verdict in verdicts if verdict != "skipped")])
    if status == "convention" and differences and all(map(by_kernel, differences)):
        reason = COARSE
    largest = [float(bound.max()) for bound in bounds if bound.size]
    return Check(status, dtype, max(largest, default=None), differences, reason)


def fold(checks: Iterable[Check]) -> Check:
    """Several checks as one; there is at least one."""
    first, *others = checks
    for other in others:
        tolerances = [t for t in (first.tolerance, other.tolerance) if t is not None]
        first = Check(
            worst([first.status, other.status]),
            first.dtype,
            max(tolerances, default=None),
            first.differences + other.differences,
            first.reason or other.reason,
            first.compared + other.compared,
            first.operations + other.operations,
        )
    return first
