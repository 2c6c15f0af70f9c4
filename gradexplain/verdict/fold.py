"""One verdict made of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from gradexplain.explanation import Array, Check, Difference
from gradexplain.verdict.compare import COARSE
from gradexplain.verdict.status import worst

_RAN_OUT = {
    "overflow": "PyTorch's arithmetic overflows",
    "range": "PyTorch's arithmetic leaves the range of the dtype on its way to these numbers",
    "underflow": "these numbers are smaller than any normal number of the dtype",
}


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


def reason(status: str, whys: AbstractSet[str], compared: int, operations: int, few: str) -> str:
    """Why PyTorch's numbers are no plain agreement though each of its steps may be right.

    ``whys`` are the steps' (`gradexplain.routes.judged`); ``few`` says which
    element of the whole has few digits, if one has.
    """
    if status == "cannot tell":
        left = operations - compared
        if left and "range" in whys:
            return f"{_RAN_OUT['range']}, or may: an error besides would not be seen"
        return (
            f"in {left} of {operations} operations of the backward pass PyTorch's "
            "own roundings may be as large as its numbers, so that an error would not be seen."
            if left
            else "the closed form cannot be told from the chain rule in this arithmetic."
        )
    if status != "convention" or "singular" in whys:
        return ""
    if "special" in whys:
        return "nan, inf and -0.0 follow IEEE's rules here, which no formula has"
    for why, text in _RAN_OUT.items():
        if why in whys:
            return text
    every = "PyTorch's arithmetic runs out there, though every step is right at its own numbers"
    return f"{few}: {every}" if few else ""


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
