"""Reads the formulas that are printed, as a reader would, and works them out.

A parser and evaluator of its own, which knows nothing of the program's formulas but their text: what
is printed must have the value that is claimed for it.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<slope>∂[\w\u0302]+′*(?:\[[^\]]*\])?/∂[\w\u0302]+′*(?:\[[^\]]*\])?)"
    r"|(?P<power>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)"
    r"|(?P<element>[^\W\d][\w\u0302]*′*(?:\.grad)?\[(?:[^\[\]]|\[[^\[\]]*\])*\])"
    r"|(?P<number>\d+\.?\d*(?:e[+-]?\d+)?)"
    r"|(?P<big>(?:[ΣΠ]|max|min|argmax|argmin)_(?:\{[^}]*\}|\w))"
    r"|(?P<name>[^\W\d](?:(?![⁰¹²³⁴⁵⁶⁷⁸⁹])[\w\u0302])*′*)"
    r"|(?P<sign>[-+−·/()\[\],^⌊⌋<>≤≥=≠δπ∞])"
    r")"
)
_CALL = re.compile(r"(\w+)\([^\[\]Σ]*\)(?:\.\w+)?")
_PLAIN = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_FUNCTIONS: dict[str, Any] = {
    "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "sin": math.sin, "cos": math.cos,
    "tan": math.tan, "tanh": math.tanh, "sinh": math.sinh, "cosh": math.cosh, "abs": abs,
    "sign": lambda x: (x > 0) - (x < 0), "relu": lambda x: max(x, 0.0), "log1p": math.log1p,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)), "expm1": math.expm1, "log2": math.log2,
    "log10": math.log10, "softplus": lambda x: math.log1p(math.exp(x)), "erf": math.erf,
    "max": max, "min": min, "atan": math.atan, "floor": math.floor, "ceil": math.ceil,
    "trunc": math.trunc, "round": round, "exp2": lambda x: 2**x, "isfinite": math.isfinite,
    "logaddexp": lambda a, b: math.log(math.exp(a) + math.exp(b)), "asin": math.asin,
    "acos": math.acos, "asinh": math.asinh, "acosh": math.acosh, "atanh": math.atanh,
    "sinc": lambda x: float(np.sinc(x)), "lgamma": math.lgamma, "erfc": math.erfc,
    "atan2": math.atan2, "copysign": math.copysign,
}  # fmt: skip


def ranges(text: str) -> dict[str, int]:
    """``i, j = 0…2; k = 0…1`` as the size of each letter's range."""
    sizes = {}
    for group in filter(None, text.split("; ")):
        letters, found, last = group.partition(" = 0…")
        if found:
            sizes.update(dict.fromkeys(letters.split(", "), int(last) + 1))
    return sizes


def lengths(text: str) -> dict[str, int]:
    """``i = 0…2; N = 3, M = 2`` as the value of each letter that stands for a size."""
    return {letter: int(n) for letter, n in re.findall(r"(\w) = (\d+)(?!…)\b", text)}


_JOIN: dict[str, Any] = {
    "Σ": lambda a, b: a + b, "Π": lambda a, b: a * b, "max": max, "min": min,
}  # fmt: skip


class Reader:
    """The value of a formula's right side, given arrays for the names that it uses.

    ``where`` are lines ``s[k] = …`` for the other names.
    """

    def __init__(
        self, arrays: dict[str, Any], where: tuple[str, ...], sizes: dict[str, int]
    ) -> None:
        self.arrays = {name: np.asarray(value, dtype=float) for name, value in arrays.items()}
        self.sizes = sizes
        self.definitions: dict[str, tuple[list[str], str]] = {}
        for line in where:
            left, _, right = line.partition(" = ")
            if re.fullmatch(r"[\[\]\d\s,.e+-]+", right):
                self.arrays[left] = np.asarray(json.loads(right), dtype=float)
                continue
            name, indices = _split(left)
            call = _CALL.fullmatch(right)
            whole = self.arrays.get(name, np.zeros(())).ndim > 0
            if not indices and (whole or (call and call[1] not in _FUNCTIONS)):
                continue  # a value by the call that makes it, as in `M = inverse(x)`
            self.definitions[name] = indices, right
        self._known: dict[tuple[str, tuple[int, ...]], float] = {}

    def value(self, text: str, letters: dict[str, int]) -> float:
        return _Parse(self, text, letters).all()

    def atom(self, text: str, letters: dict[str, int]) -> float:
        name, indices = _split(text)
        at = tuple(round(_Parse(self, i, letters).all()) for i in indices)
        if name in self.arrays and name not in self.definitions:
            array = self.arrays[name]
            assert len(at) == array.ndim, f"{text}: {array.ndim} indices wanted"
            # An index out of range is read only under a bracket that is 0.
            inside = all(0 <= i < n for i, n in zip(at, array.shape, strict=True))
            return float(array[at]) if inside else math.nan
        if name not in self.definitions:
            raise KeyError(f"{name} is not said to be anything")
        own, right = self.definitions[name]
        if (name, at) not in self._known:
            values = {}
            for letter, value in zip(own, at, strict=True):
                if not letter.isdigit():
                    values[letter] = value
            self._known[name, at] = self.value(right, values)
        return self._known[name, at]


def _split(text: str) -> tuple[str, list[str]]:
    """``∂y[i]/∂h[p]`` as ``∂y/∂h`` and its indices; ``s[k]`` as ``s`` and ``k``."""
    name, depth = "", 0
    groups: list[str] = []
    for character in text:
        if character == "]":
            depth -= 1
        if depth:
            groups[-1] += character
        elif character not in "[]":
            name += character
        if character == "[":
            if not depth:
                groups.append("")
            depth += 1
    return name, [i for group in groups for i in _commas(group)]


def _commas(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([⌊") - (character in ")]⌋")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


class _Parse:
    def __init__(self, reader: Reader, text: str, letters: dict[str, int]) -> None:
        self.reader, self.letters = reader, letters
        self.tokens: list[tuple[str, str]] = []
        place = 0
        text = text.strip()
        while place < len(text):
            match = _TOKEN.match(text, place)
            assert match, f"cannot read {text[place:]!r}"
            self.tokens.append((str(match.lastgroup), match[match.lastgroup or 0]))
            place = match.end()
        self.place = 0

    def all(self) -> float:
        value = self.sum()
        assert self.place == len(self.tokens), f"left over: {self.tokens[self.place :]}"
        return value

    def peek(self) -> str:
        return self.tokens[self.place][1] if self.place < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        assert not expected or token == expected, f"{expected!r} wanted, {token!r} found"
        self.place += 1
        return token

    def sum(self) -> float:
        negative = self.peek() == "−" and bool(self.take())
        value = self.product()
        value = -value if negative else value
        while self.peek() in ("+", "−"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        if self.peek() == "mod":
            self.take()
            value = value % self.product()
        return value

    def product(self) -> float:
        value = self.factor()
        while self.peek() in ("·", "/"):
            above = self.take() == "·"
            factor = self.factor()
            if above:
                # A bracket or delta that is 0 selects: nothing else counts.
                value = 0.0 if 0 in (value, factor) else value * factor
            else:
                value = 0.0 if value == 0 else value / factor
        return value

    def factor(self) -> float:
        if self.tokens[self.place][0] == "big":
            return self.big()
        value = self.primary()
        while self.place < len(self.tokens):
            if self.tokens[self.place][0] == "power":
                value = value ** int(self.take().translate(_PLAIN))
            elif self.peek() == "^":
                self.take()
                value = value ** self.primary()
            else:
                break
        return value

    def big(self) -> float:
        sign, _, under = self.take().partition("_")
        under = under.strip("{}")
        if sign.startswith("arg"):
            raise KeyError(sign)
        condition = ""
        if re.fullmatch(r"\w+(,\w+)*", under):
            letters = under.split(",")
        else:
            letters, condition = [re.split(r"\W", under)[0]], under
        start = self.place
        total = {"Σ": 0.0, "Π": 1.0, "max": -math.inf, "min": math.inf}[sign]
        join = _JOIN[sign]
        before = dict(self.letters)
        for at in np.ndindex(*(self.reader.sizes[letter] for letter in letters)):
            self.letters = {**before, **dict(zip(letters, map(int, at), strict=True))}
            self.place = start
            if condition and not _Parse(self.reader, condition, self.letters).condition():
                self.skip()
                continue
            value = self.product()
            total = join(total, value)
        self.letters = before
        self.place = start
        self.skip()
        return total

    def skip(self) -> None:
        """Past one product, whatever its value."""
        depth = 0
        while self.place < len(self.tokens):
            token = self.peek()
            if depth == 0 and token in ("+", "−", ")", "]", ",", "⌋", "if", "else", "mod"):
                return
            if depth == 0 and token in "<>≤≥=≠":
                return
            depth += (token in ("(", "[", "⌊")) - (token in (")", "]", "⌋"))
            self.place += 1

    def primary(self) -> float:
        kind, token = self.tokens[self.place]
        self.place += 1
        if kind == "number":
            return float(token)
        if kind in ("slope", "element"):
            return self.reader.atom(token, self.letters)
        if token in ("π", "∞"):
            return math.pi if token == "π" else math.inf
        if token == "(":
            value = self.choice()
            self.take(")")
            return value
        if token == "[":
            holds = self.condition()
            self.take("]")
            return float(holds)
        if token == "⌊":
            value = math.floor(self.sum())
            self.take("⌋")
            return float(value)
        if token == "δ":
            self.take("(")
            a = self.sum()
            self.take(",")
            b = self.sum()
            self.take(")")
            return float(a == b)
        assert kind == "name", f"cannot read {token!r}"
        if self.peek() == "(" and token in _FUNCTIONS:
            self.take("(")
            arguments = [self.sum()]
            while self.peek() == ",":
                self.take()
                arguments.append(self.sum())
            self.take(")")
            return float(_FUNCTIONS[token](*arguments))
        if token in self.letters:
            return float(self.letters[token])
        if token == "e" and "e" not in self.reader.arrays:
            return math.e
        return self.reader.atom(token, self.letters)

    def choice(self) -> float:
        """``a if condition else b``, or a plain sum."""
        start = self.place
        try:
            value = self.sum()
        except (ValueError, ZeroDivisionError, OverflowError):
            value = math.nan
            self.place = start
            self.skip()
        if self.peek() != "if":
            return value
        self.take("if")
        holds = self.condition()
        self.take("else")
        other = self.choice()
        return value if holds else other

    def condition(self) -> bool:
        holds = self.comparison()
        while self.peek() in ("and", "or"):
            joined = self.take()
            other = self.comparison()
            holds = (holds and other) if joined == "and" else (holds or other)
        return holds

    def comparison(self) -> bool:
        values = [self.sum()]
        holds = True
        while self.peek() in ("<", ">", "≤", "≥", "=", "≠"):
            sign = self.take()
            values.append(self.sum())
            a, b = values[-2:]
            holds = holds and {
                "<": a < b, ">": a > b, "≤": a <= b, "≥": a >= b, "=": a == b, "≠": a != b,
            }[sign]  # fmt: skip
        return holds
