"""The arithmetic with digits to spare: mpmath in a context of our own.

``mp`` is made when it is first asked for: the first lines of a page, which need the records of all
operations, do not wait for mpmath.  What is imported for them asks for ``arithmetic.mp`` where it computes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mpmath

    #: 50 digits are three times a float64's; more where two evaluations do not agree.
    mp: mpmath.MPContext


def __getattr__(name: str) -> Any:
    if name != "mp":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mpmath import MPContext

    made = globals()[name] = MPContext()
    made.dps = 50
    return made
