"""How much there is to read in a formula."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import sympy

from gradexplain.formula.letters import Letters
from gradexplain.formula.printing import TextPrinter

_LONG = re.compile(r"(?<![\d.e-])\d{4,}(?![\d.])")


class _Measure(TextPrinter):
    """Texts of which only the length matters: any letter will do, and any order of factors.

    So a part of a formula has one text wherever it stands, which is written once.
    """

    def __init__(self) -> None:
        super().__init__(_AnyLetter(()))
        self._known: dict[Any, tuple[str, int]] = {}

    def _show(self, e: Any) -> tuple[str, int]:
        found = self._known.get(e)
        if found is None:
            if len(self._known) > 20_000:
                self._known.clear()
            found = self._known[e] = super()._show(e)
        return found

    def _term_key(self, term: Any) -> tuple[Any, ...]:
        return (term.could_extract_minus_sign(),)

    def _factor_key(self, factor: Any) -> tuple[Any, ...]:
        base = factor.base if factor.is_Pow else factor
        return (isinstance(base, (sympy.Sum, sympy.Product)),)


class _AnyLetter(Letters):
    def __getitem__(self, symbol: Any) -> str:
        return "i"


_MEASURE = _Measure()


@lru_cache(maxsize=4096)
def burden(e: Any) -> float:
    """How much there is to read in a formula: its characters, a fraction within a fraction more.

    Of two that are equally long the one with fewer products and quotients reads better.
    """
    text = _MEASURE(e)
    depth = extra = 0
    for found in _MARKS.finditer(text):
        if found[0] in "([":
            depth += 1
        elif found[0] in ")]":
            depth -= 1
        elif depth:
            extra += 3
    # 26829/200000 is no coefficient that anybody would write.
    extra += sum(4 * (len(number) - 3) for number in _LONG.findall(text))
    return len(text) + extra + (text.count("·") + text.count("/")) / 1000


#: Parentheses, and a quotient that is no number.
_MARKS = re.compile(r"[()\[\]]|/(?!\d)")
