"""What of a page is wanted, and how its formulas are written."""

from __future__ import annotations

from dataclasses import dataclass

from gradexplain import numbers


@dataclass(frozen=True, slots=True)
class Options:
    """What of the page is wanted, and how formulas are written: ``index``, ``matrix`` or ``auto``."""

    full: bool = False
    brief: bool = False
    notation: str = "auto"
    layout: str = "numerator"
    precision: int = numbers.PRECISION
