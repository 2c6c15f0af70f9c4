"""The notation of formulas, read, and written as LaTeX and as MathML.

    line    := sum (relation sum)*                   a = b, i ≠ j, p → q
    sum     := [−] product ((+ | −) product)*
    product := power ((· | * | × | / | @) power)*    a quotient is a fraction
    power   := atom (superscript | ^ power | ᵀ | [line, …])*
    atom    := number | name | name(line, …) | (line) | [line] | ∂atom/∂atom | Σ_i product | …

What is written otherwise (a remark, a program's own text) is text, never an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from html import escape

from gradexplain.errors import printable

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:e[+\-−]?\d+)?|∞)"
    r"|(?P<big>(?:[ΣΠ]|argmax|argmin|max|min)_(?:\{[^}]*\}|\w))"
    r"|(?P<name>[^\W\d²³¹⁰⁴-⁹ᵀ](?:[^\W²³¹⁰⁴-⁹ᵀ]|̂)*[′″]*(?:\.[^\W\d]\w*)*(?:@\d+)?)"
    r"|(?P<power>[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)"
    r"|(?P<sign>\*\*|[-−+·*×/@=<>≤≥≠→,()\[\]^ᵀ∂….:√∇⌊⌋]))"
)
_POWERS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RELATIONS = {"=", "<", ">", "≤", "≥", "≠", "→", ":"}
_WORDS = {"if", "else", "and", "or", "not", "mod", "for", "in"}


@dataclass(frozen=True, slots=True)
class Tree:
    """``kind`` says what stands in ``parts``; ``text`` is a leaf's own."""

    kind: str
    text: str = ""
    parts: tuple[Tree, ...] = ()


class _Unreadable(Exception):
    """Text that is no formula."""


@lru_cache(maxsize=2048)
def read(text: str) -> Tree:
    """The tree of a formula; of anything else a leaf of kind ``text``."""
    try:
        reader = _Reader(text)
        found = reader.line()
        if reader.kind:
            raise _Unreadable
    except (_Unreadable, RecursionError):
        return Tree("text", text)
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        place = 0
        text = re.sub(r"\.T(?![\w.(])", "ᵀ", text.strip())  # as a program writes it
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None or found.lastgroup is None:
                raise _Unreadable
            self._tokens.append((found.lastgroup, found[found.lastgroup]))
            place = found.end()
        self._at = 0

    @property
    def kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    @property
    def token(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.token
        if not token or (wanted and token != wanted):
            raise _Unreadable
        self._at += 1
        return token

    def line(self) -> Tree:
        parts = [] if self.token in _RELATIONS else [self.sum()]
        while self.token in _RELATIONS or self.token in _WORDS:
            parts += [Tree("op", self.take()), self.sum()]
        return parts[0] if len(parts) == 1 else Tree("row", parts=tuple(parts))

    def sum(self) -> Tree:
        parts: list[Tree] = []
        if self.token in ("−", "-", "+", "not"):
            parts.append(Tree("op", self.take()))
        parts.append(self.product())
        while self.token in ("+", "−", "-"):
            parts += [Tree("op", self.take()), self.product()]
        return parts[0] if len(parts) == 1 else Tree("row", parts=tuple(parts))

    def product(self) -> Tree:
        parts = [self.power()]
        while self.token in ("·", "*", "×", "/", "@", "mod"):
            sign = self.take()
            following = self.power()
            if sign == "/":
                above = Tree("row", parts=tuple(parts)) if len(parts) > 1 else parts[0]
                parts = [Tree("fraction", parts=(_inner(above), _inner(following)))]
            else:
                parts += [Tree("op", sign), following]
        return parts[0] if len(parts) == 1 else Tree("row", parts=tuple(parts))

    def power(self) -> Tree:
        found = self.atom()
        while True:
            if self.kind == "power":
                found = Tree("power", parts=(found, Tree("number", self.take().translate(_POWERS))))
            elif self.token in ("^", "**"):
                self.take()
                sign = (Tree("op", self.take()),) if self.token in ("-", "−") else ()
                raised = self.power()
                found = Tree("power", parts=(found, Tree("row", parts=(*sign, _inner(raised)))))
            elif self.token == "ᵀ":
                self.take()
                found = Tree("power", parts=(found, Tree("op", "ᵀ")))
            elif self.token == ".":
                parts = found, Tree("op", self.take()), Tree("name", self.take())
                found = Tree("row", parts=parts)
            elif self.token == "[" and found.kind not in ("number",):
                self.take()
                found = Tree("index", parts=(found, *self.list("]")))
            else:
                return found

    def list(self, end: str) -> list[Tree]:
        items: list[Tree] = []
        while self.token != end:
            if self.token == ":":
                items.append(Tree("op", self.take()))
            else:
                items.append(self.line())
            if self.token == ",":
                self.take()
        self.take(end)
        return items

    def atom(self) -> Tree:
        if self.kind == "number":
            return Tree("number", self.take())
        if self.kind == "big":
            sign, _, under = self.take().partition("_")
            bound = Tree("list", parts=tuple(read(part) for part in under.strip("{}").split(",")))
            return Tree("big", sign, (bound, self.product()))
        if self.token == "∂":
            return self.derivative()
        if self.kind == "name":
            if self.token in _WORDS:
                raise _Unreadable
            word = self.take()
            if self.token == "(":
                self.take()
                return Tree("call", word, tuple(self.list(")")))
            return Tree("name", word)
        if self.token in ("∇", "…"):
            sign = self.take()
            following = (self.power(),) if sign == "∇" else ()
            return Tree("row", parts=(Tree("op", sign), *following))
        if self.token == "(":
            self.take()
            return Tree("paren", "()", tuple(self.list(")")))
        if self.token in ("[", "⌊"):
            ends = {"[": "[]", "⌊": "⌊⌋"}[self.take()]
            return Tree("paren", ends, tuple(self.list(ends[1])))
        raise _Unreadable

    def derivative(self) -> Tree:
        above = self.slopes()
        if self.token == "/" and self._tokens[self._at + 1][1] == "∂":
            self.take()
            return Tree("fraction", parts=(above, self.slopes()))
        return above

    def slopes(self) -> Tree:
        """``∂²y``, or ``∂x∂z``."""
        parts: list[Tree] = []
        while self.token == "∂":
            sign = Tree("op", self.take())
            if self.kind == "power":
                sign = Tree("power", parts=(sign, Tree("number", self.take().translate(_POWERS))))
            parts += [sign]
            if self.kind == "name" or self.token == "(":
                parts.append(self.power())
        return Tree("row", parts=tuple(parts))


def _inner(tree: Tree) -> Tree:
    """What stands in parentheses that a fraction or a raised place makes unnecessary."""
    if tree.kind == "paren" and tree.text == "()" and len(tree.parts) == 1:
        return tree.parts[0]
    return tree


_Leaves = Mapping[str, Callable[[str], str]]
_Forms = Mapping[str, tuple[str, str]]


def _written(tree: Tree, leaves: _Leaves, forms: _Forms) -> str:
    """A tree in one of the two languages."""
    if tree.kind in ("text", "number", "name", "op"):
        return leaves[tree.kind](tree.text)
    parts = [_written(part, leaves, forms) for part in tree.parts]
    own = tree.kind == "paren" or tree.text in ("sqrt", "δ")
    between, form = forms[tree.text if own else tree.kind]
    text = leaves[tree.kind](tree.text) if tree.kind in leaves else ""
    first, rest = "".join(parts[:1]), between.join(parts[1:])
    return form.format(text=text, first=first, rest=rest, all=between.join(parts))


# -- LaTeX -----------------------------------------------------------------------------------------

_LATEX = {
    "·": r" \cdot ", "*": r" \cdot ", "×": r" \times ", "@": r" \, ", "−": "-", "∂": r"\partial ",
    "≤": r" \le ", "≥": r" \ge ", "≠": r" \ne ", "→": r" \to ", "…": r"\dots ", "ᵀ": r"\top",
    "∇": r"\nabla ", "Σ": r"\sum", "Π": r"\prod", "∞": r"\infty", "=": " = ", "+": " + ",
}  # fmt: skip
_GREEK = {
    ch: "\\" + unicodedata.name(ch).rpartition(" ")[2].replace("LAMDA", "lambda").lower()
    for ch in "αβγδζηθικλμνξπρστυφχψω"
} | {"ε": r"\varepsilon", "x̂": r"\hat{x}"}
_GREEK |= {c.upper(): f"\\{_GREEK[c][1:].capitalize()}" for c in "γδθλξφψω"}
_FUNCTIONS = {"exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "max", "min"}
_ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "#$%&_{}"} | {"\\": r"\backslash ", "~": r"\sim ", "^": r"\hat{}"}
)


def latex(text: str) -> str:
    """A formula as LaTeX, for inside ``$…$``."""
    return _written(read(text), _LATEX_LEAVES, _LATEX_FORMS)


#: What prose has instead of a sign of mathematics; two dashes are no longer one.
_PROSE = {
    ord("\\"): r"\textbackslash{}",
    ord("~"): r"\textasciitilde{}",
    ord("^"): r"\textasciicircum{}",
}

#: A sum's sign in prose, with what it runs over.
UNDER = re.compile(r"([ΣΠ])_(?:\{([^}]*)\}|(\w))")


def plain_latex(text: str) -> str:
    """Prose as LaTeX."""
    if found := UNDER.search(text):
        before, after = plain_latex(text[: found.start()]), plain_latex(text[found.end() :])
        return f"{before}${_LATEX[found[1]]}_{{{found[2] or found[3]}}}${after}"
    shown = printable(text).replace("--", "-\u200b-").translate(_ESCAPES | _PROSE)
    return "".join(map(_prose, shown))


def _prose(ch: str) -> str:
    if ch in "<>|":
        return f"${ch}$"
    if ch.isascii():
        return ch
    return f"${_LATEX[ch].strip()}$" if ch in _LATEX else f"${_GREEK[ch]}$" if ch in _GREEK else {
        "‘": "`", "’": "'", "“": "``", "”": "''", "–": "--", "—": "---", "²": "$^2$", "³": "$^3$",
        "ᵀ": r"$^\top$", "\u200b": "{}", "√": r"$\surd$", "ⁿ": "$^n$", "̂": "",
    }.get(ch) or _letters(ch)  # fmt: skip


def _latex_number(text: str) -> str:
    mantissa, e, power = text.replace("−", "-").partition("e")
    shown = _LATEX.get(mantissa, mantissa)
    return rf"{shown} \cdot 10^{{{int(power)}}}" if e else shown


def _latex_word(word: str) -> str:
    """A function's name."""
    return rf"\{word}" if word in _FUNCTIONS else rf"\operatorname{{{word.translate(_ESCAPES)}}}"


def _latex_name(word: str) -> str:
    word, _, version = word.partition("@")
    if version:
        return rf"{_latex_name(word)}^{{({version})}}"
    primes = word.count("′") + 2 * word.count("″")
    word = word.rstrip("′″")
    if word in _GREEK:
        return _GREEK[word] + "'" * primes
    if word.endswith(".grad"):
        return rf"\mathrm{{{_letters(word)}}}"
    stem = word.rstrip("0123456789")
    if len(stem) == 1 and stem.isascii():
        digits = word[1:]
        return (rf"{stem}_{{{digits}}}" if digits else stem) + "'" * primes
    return rf"\mathrm{{{_letters(word)}}}" + "'" * primes


def _letters(word: str) -> str:
    """A name in what pdfLaTeX has: accents are left out, other letters are said by their number."""

    def letter(ch: str) -> str:
        plain = unicodedata.normalize("NFKD", ch)[0]
        return _GREEK.get(ch) or (plain if plain.isascii() else f"U{ord(ch):X}")

    return "".join(map(letter, word.translate(_ESCAPES)))


#: How the text of each kind of tree is written; what is not listed here is escaped or left as it is.
_LATEX_LEAVES: _Leaves = {
    "text": lambda text: rf"\text{{{plain_latex(text)}}}",
    "number": _latex_number,
    "name": _latex_name,
    "op": lambda text: _LATEX.get(text, rf" \ \text{{{text}}}\ " if text in _WORDS else text),
    "big": lambda text: _LATEX.get(text, rf"\operatorname*{{{text}}}"),
    "call": _latex_word,
}

#: Each kind, or function, with parts: what stands between them, and where they go.
_LATEX_FORMS: _Forms = {
    "row": ("", "{all}"),
    "list": (",", "{all}"),
    "fraction": ("", r"\frac{{{first}}}{{{rest}}}"),
    "power": ("", "{{{first}}}^{{{rest}}}"),
    "index": (",", "{{{first}}}_{{{rest}}}"),
    "big": ("", "{text}_{{{first}}} {rest}"),
    "()": (", ", r"\left({all}\right)"),
    "[]": (", ", r"\left[{all}\right]"),
    "⌊⌋": (", ", r"\left\lfloor {all} \right\rfloor"),
    "sqrt": (", ", r"\sqrt{{{all}}}"),
    "δ": (", ", r"\delta_{{{all}}}"),
    "call": (", ", r"{text}\left({all}\right)"),
}


# -- MathML ----------------------------------------------------------------------------------------


def mathml(text: str) -> str:
    """A formula as a MathML element, with its own text as what a screen reader says."""
    found = _written(read(text), _MATHML_LEAVES, _MATHML_FORMS)
    return f'<math aria-label="{escape(text)}">{found}</math>'


def _sign(text: str) -> str:
    signs = {"ᵀ": "⊤", "*": "·", "-": "−"}
    return f" {text} " if text in _WORDS else signs.get(text, text)


_MATHML_LEAVES: _Leaves = {
    "text": lambda text: f"<mtext>{escape(text)}</mtext>",
    "number": lambda text: f"<mn>{escape(text)}</mn>",
    "name": lambda text: f"<mi>{escape(text)}</mi>",
    "op": lambda text: f"<mo>{escape(_sign(text))}</mo>",
    "big": escape,
    "call": escape,
}

_COMMA = "<mo>,</mo>"
_MATHML_FORMS: _Forms = {
    "row": ("", "<mrow>{all}</mrow>"),
    "list": (_COMMA, "<mrow>{all}</mrow>"),
    "fraction": ("", "<mfrac>{first}{rest}</mfrac>"),
    "power": ("", "<msup><mrow>{first}</mrow><mrow>{rest}</mrow></msup>"),
    "index": (_COMMA, "<msub><mrow>{first}</mrow><mrow>{rest}</mrow></msub>"),
    "big": ("", "<mrow><munder><mo>{text}</mo><mrow>{first}</mrow></munder>{rest}</mrow>"),
    "()": (_COMMA, "<mrow><mo>(</mo>{all}<mo>)</mo></mrow>"),
    "[]": (_COMMA, "<mrow><mo>[</mo>{all}<mo>]</mo></mrow>"),
    "⌊⌋": (_COMMA, "<mrow><mo>⌊</mo>{all}<mo>⌋</mo></mrow>"),
    "sqrt": (_COMMA, "<msqrt>{all}</msqrt>"),
    "δ": (_COMMA, "<msub><mi>δ</mi><mrow>{all}</mrow></msub>"),
    "call": (_COMMA, "<mrow><mi>{text}</mi><mo>(</mo>{all}<mo>)</mo></mrow>"),
}
