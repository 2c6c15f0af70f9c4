"""Formulas as they are written elsewhere: ``3a + 2b²``, ``|x|``, ``\\frac{a}{b}``, ``a.*b``, in Python.

Only what can be meant in one way is read; a text that Python reads is left as it is.
"""

from __future__ import annotations

import re
import unicodedata

_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+", strict=True))
_FUNCTIONS = "(?:arc|a)?(?:sin|cos|tan)h?|exp|log|sqrt|sigmoid|relu|erf"
#: Names of functions elsewhere, by those that they have here.
_NAMES = {"ln": "log", "lg": "log10", "tg": "tan", "arctg": "arctan", "sen": "sin"}
#: What Python reads too, but not as it is meant.
ALSO = re.compile(rf"\b(?:{'|'.join(_NAMES)})\s*\(|\bMath\.[a-z]")
_LATEX = re.compile(
    r"\\(?:left|right|displaystyle|operatorname|math\w+|text|boldsymbol|quad|[,;:! ])|\$|(?<=})\s+(?={)"
)
_POWER = rf"\b({_FUNCTIONS})\s*(?:\^|\*\*)\s*([2-9])"
#: Each until none changes anything: what is inside comes before what is around it.
_RULES = (
    (r"\\[dt]?frac{([^{}]*)}{([^{}]*)}", r"((\1)/(\2))"),
    (r"\\sqrt{([^{}]*)}", r"sqrt(\1)"),
    (r"\^{([^{}]*)}", r"^(\1)"),
    (r"_{(\w*)}", r"_\1"),
    (r"(?<![}\w]){([^{}]*)}(?!{)", r"(\1)"),
    (r"\\(?:cdot|times|odot)\b|[×·⋅∙∗•⊙]|\.\*(?!\*)", "*"),
    (r"\\div\b|[÷∕⁄]|\./", "/"),
    (r"≤|\\leq?\b", "<="), (r"≥|\\geq?\b", ">="), (r"≠|\\neq?\b", "!="),
    (r"\\(?=(?!frac|sqrt|sum|int|prod|partial)[A-Za-z])", ""),
    (r"\.?\^", "**"), (r"\*\*\((\d+)\)", r"**\1"),
    (r"(?<![^\W\d])π\s*(?=[A-Za-z(])", "pi*"), (r"(?<![^\W\d])π(?!\w)", "pi"),
    (r"σ(?=\s*\()", "sigmoid"), (r"\bMath\.(?=[a-z])", ""),
    *((rf"\b{name}(?=\s*\(|\s+\w)", other) for name, other in _NAMES.items()),
    (r"√\s*(?=\()", "sqrt"), (r"√\s*(\w+)", r"sqrt(\1)"),
    (r"[∑Σ]\s*(?=\()", "sum"), (r"[∑Σ]\s*(\w+)", r"sum(\1)"),
    (r"(?:\|\||‖)([^|‖]+)(?:\|\||‖)", r"norm(\1)"),
    (r"(^|[-+*/(,=]\s*)\|([^|]+)\|(?=\s*(?:[-+*/),]|$))", r"\1abs(\2)"),
    (rf"\b({_FUNCTIONS})\s+([A-Za-z]\w*)(?=\s*(?:[-+),]|$))", r"\1(\2)"),
    (r"(?<!\w)(?<!\w\.)(?!0[xXbBoO])((?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*"
     r"(?![jJ]\b)(?=[A-DF-Za-df-z_(]|e\b(?![-+]?\d))", r"\1*"),
    (r"\)\s*(?=[\w(])", ")*"),
)  # fmt: skip
#: What may be meant in two ways: ``1/2x``, ``x^2y``; and a function that nothing is given to.
_OPEN = re.compile(r"(?:/|\^)\s*\d+(?:\.\d+)?\s*[A-Za-z(]|/\s*\([^()]*\)\s*[A-Za-z(]")
_BARE = re.compile(rf"\b(?:{_FUNCTIONS})\b(?!\s*\()")


def plain(text: str) -> str:
    """``text`` in Python's notation, where it is a formula in another one; else as it is."""
    return "\n".join(map(_line, text.split("\n")))


def _line(text: str) -> str:
    found = _LATEX.sub("", text.strip("`"))
    found = re.sub(
        r"^[A-Za-z]\s*\(\s*[A-Za-z]\w*(?:\s*,\s*[A-Za-z]\w*)*\s*\)\s*=(?!=)\s*", "", found
    )  # f(x) = …
    found = re.sub(f"[{''.join(_RAISED)}]+", lambda raised: f"**{_digits(raised[0])}", found)
    found = re.sub(rf"{_POWER}\s*(\([^()]*\))", r"\1\3**\2", found)  # sin²(x)
    found = re.sub(rf"{_POWER}\s+([A-Za-z]\w*)(?=\s*(?:[-+),]|$))", r"\1(\3)**\2", found)
    if _OPEN.search(found) or "'" in found or '"' in found:
        return text
    found = re.sub("[₀-₉½⅓¼¾⅔]", lambda one: _digits(one[0]), found)
    for _ in range(40):
        before = found
        for rule, new in _RULES:
            found = re.sub(rule, new, found)
        if found == before:
            return text if _BARE.search(found) else found
    return text


def _digits(text: str) -> str:
    found = "".join(_RAISED.get(c) or unicodedata.normalize("NFKC", c) for c in text)
    return f"({found.replace('⁄', '/')})" if "⁄" in found else found
