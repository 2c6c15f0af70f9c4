"""Formulas as LaTeX, without any package but amsmath."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import sympy

from gradexplain.formula.printing import TextPrinter

_LATEX_RELATIONS = {"≤": r"\le", "≥": r"\ge", "≠": r"\ne"}


class LatexPrinter(TextPrinter):
    """LaTeX, without any package but amsmath."""

    times = r" \, "
    minus = " - "
    plus = " + "
    negative = "-"
    sum_sign, product_sign = r"\sum", r"\prod"
    greatest_sign, least_sign = r"\max", r"\min"
    no = r"\text{not } "
    constants = {sympy.pi: r"\pi", sympy.E: "e", sympy.oo: r"\infty", sympy.nan: r"\mathrm{nan}"}

    def derivative(self, above: str, at: Sequence[Any], below: str, places: Sequence[Any]) -> str:
        top, bottom = self._at(above, at), self._at(below, places)
        return rf"\frac{{\partial {top}}}{{\partial {bottom}}}"

    def gradient(self, label: str, places: Sequence[Any]) -> str:
        return self.derivative(self.loss, (), label, places)

    def name(self, label: str) -> str:
        if label.startswith("∂"):
            return self._slope(label, ())
        primes = label.count("′")
        version = "".join(re.findall(r"@(\d+)", label))
        label = re.sub(r"@\d+", "", label)
        word = label.replace("′", "").replace("_", r"\_")
        above = f"^{{({version})}}" if version else "'" * primes
        stem = word.rstrip("0123456789")
        if stem in _LATEX_NAMES:
            number = f"_{{{word[len(stem) :]}}}" if word != stem else ""
            return _LATEX_NAMES[stem] + number + above
        return (word if len(word) == 1 else rf"\mathrm{{{word}}}") + above

    def element(self, label: str, indices: Sequence[Any]) -> str:
        if label.startswith("∂"):
            return self._slope(label, indices)
        return f"{self.name(label)}_{{{','.join(map(self, indices))}}}"

    def power(self, base: str, exponent: Any) -> str:
        return f"{base}^{{{self(exponent)}}}"

    def fraction(self, above: str, below: str, above_level: int, below_level: int) -> str:
        return rf"\frac{{{above}}}{{{below}}}"

    def call(self, name: str, arguments: Sequence[str]) -> str:
        word = rf"\{name}" if name in _LATEX_FUNCTIONS else rf"\operatorname{{{name}}}"
        word = word.replace("_", r"\_")
        return rf"{word}\left({', '.join(arguments)}\right)"

    paren, bracket = r"\left({}\right)".format, r"\left[{}\right]".format
    kronecker = r"\delta_{{{},{}}}".format
    floored = r"\left\lfloor \frac{{{}}}{{{}}} \right\rfloor".format
    modulo = r"{} \bmod {}".format

    def root(self, inside: str) -> str:
        return rf"\sqrt{{{inside}}}"

    def big(self, sign: str, under: str, body: str) -> str:
        return rf"{sign}_{{{under}}} {body}"

    def cases(self, pieces: Sequence[tuple[str, str]]) -> str:
        rows = [
            rf"{value} & \text{{if }} {condition}"
            if condition
            else rf"{value} & \text{{otherwise}}"
            for value, condition in pieces
        ]
        return r"\begin{cases} " + r" \\ ".join(rows) + r" \end{cases}"

    def relation(self, sign: str) -> str:
        return _LATEX_RELATIONS.get(sign, sign)


#: Names that records give to parts of their formulas.
_LATEX_NAMES = {"μ": r"\mu", "σ": r"\sigma", "x̂": r"\hat{x}"}

_LATEX_FUNCTIONS = {
    "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "max", "min",
}  # fmt: skip
