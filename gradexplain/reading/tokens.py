"""The first step of reading a program: its characters.

Its messages are better than those of Python's parser, and it bounds the nesting of brackets and the
length of numbers before that parser sees them.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from dataclasses import dataclass
from typing import NoReturn

from gradexplain.errors import GradexplainError, InputError, Span, UnsupportedError
from gradexplain.limits import MAX_BRACKETS, MAX_DIGITS, MAX_NAME
from gradexplain.reading.said import lacking

_TOKEN = re.compile(
    r"""
      (?P<blank> [ \t\f]+ | \\\n | \#[^\n]* )
    | (?P<end> [\n;] )
    | (?P<number> 0[xXbBoO][0-9a-fA-F_]+
                | (?: [0-9][0-9_]*\.?[0-9_]* | \.[0-9][0-9_]* ) (?: [eE][+-]?[0-9][0-9_]* )? )
    | (?P<string> (?:[rRbBuUfF]{1,2}(?=['"]))? (?: '{3}[\s\S]*?'{3} | "{3}[\s\S]*?"{3}
                | '(?:\\.|[^'\n\\])*' | "(?:\\.|[^"\n\\])*" ) )
    | (?P<foreign> >>>? | << | && | \|\| | [\^!?$`\\'"] (?!=) )
    | (?P<open> [(\[{] )
    | (?P<close> [)\]}] )
    | (?P<operator> (?: \*\* | // | [-+*/%@&|] ) = (?!=) | := | -> | \*\* | // | [<>=!]=
                | [-+*/%@&|<>=~,.:] )
    """,
    re.VERBOSE,
)

_COMMENT = re.compile(r"('[^'\n]*'|\"[^\"\n]*\")|#[^\n]*")


def one_line(text: str) -> str:
    """Python on one line, without the comments, which would swallow the rest."""
    return " ".join(_COMMENT.sub(lambda found: found[1] or "", text).split())


_CLOSING = {"(": ")", "[": "]", "{": "}"}

NAME_PARTS = "give parts of it names, as in `s = a + b; s * c`"
CONDITIONS = "write `&` or `|` between conditions in parentheses, as in `(a > 0) & (b > 0)`"

#: What is typed or pasted for something that the language has another spelling for.
_REMEDIES = {
    "^": "write `**` for a power, as in `x**2`",
    "&&": CONDITIONS,
    "||": CONDITIONS,
    "!": "write `not` for the opposite of a condition, prod() for a factorial",
    "<<": "write `*` and `**`, as in `a * 2**n`",
    ">>": "write `//` and `**`, as in `a // 2**n`",
    ">>>": "leave out Python's prompt",
    "\\": "write it in Python, as in `a/b` for \\frac{a}{b}; only the end of a line may be one",
    "'": "close the string on the same line; a transpose is `x.T`",
    '"': "close the string on the same line",
    "√": "write sqrt(x)",
    "∑": "write x.sum()",
    "∏": "write x.prod()",
    "∞": "write the limit of the expression, or bind a name: `--at c=inf`",
    "ᵀ": "write `x.T`",
    **dict.fromkeys("×·⋅∙∗•", "write `*`"),
    **dict.fromkeys("÷∕⁄", "write `/`"),
    **dict.fromkeys("−–—‐‑", "write `-`"),
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "¬": "write `not`",
    "∧": CONDITIONS,
    "∨": CONDITIONS,
    **{raised: f"write `**{digit}`" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}

#: Python reads no text with these in it, not even in a comment.
_UNREADABLE = re.compile("[\0\ud800-\udfff]")
_OPERATOR_WORDS = set(keyword.kwlist) - {"None", "True", "False"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    span: Span


def scan(source: str) -> list[Token]:
    """The tokens, but for blanks and comments; refuses what can be told from the characters alone."""
    unreadable = _UNREADABLE.search(source)
    if unreadable:
        _foreign(source, Token("foreign", unreadable.group(), Span(*unreadable.span())))
    tokens: list[Token] = []
    opened: list[Token] = []
    previous: Token | None = None  # in the same statement
    position = 0
    while position < len(source):
        token = _token(source, position)
        position = token.span.end
        if token.kind == "blank":
            continue
        if token.kind == "end":
            if token.text == ";" and opened:
                _unclosed(source, opened[-1])
            previous = previous if opened else None
        else:
            if previous is not None:
                _check_neighbours(source, previous, token)
            if token.kind in ("number", "name"):
                _check_length(source, token)
            elif token.kind == "foreign":
                _foreign(source, token)
            elif token.kind in ("open", "close"):
                _match_bracket(source, token, opened)
            previous = token
        tokens.append(token)
    if opened:
        _unclosed(source, opened[-1])
    if all(token.kind == "end" for token in tokens):
        remedy = 'write one, for example "3*a + 2*b*b + log(c)"'
        raise InputError("the expression is empty", remedy=remedy)
    return tokens


def _token(source: str, position: int) -> Token:
    """The token at ``position``; a name is what Python takes for one."""
    match = _TOKEN.match(source, position)
    if match:
        return Token(match.lastgroup or "", match.group(), Span(position, match.end()))
    end = position
    if source[position].isidentifier():
        while (
            end < len(source) and f"_{source[end]}".isidentifier() and source[end] not in _REMEDIES
        ):
            end += 1
    kind = "name" if end > position else "foreign"
    end = max(end, position + 1)
    return Token(kind, source[position:end], Span(position, end))


def _check_neighbours(source: str, left: Token, right: Token) -> None:
    """Refuse two operands without an operator between them, such as ``2x`` and ``a b``."""
    operands = ("number", "name", "string")
    if left.kind not in (*operands, "close") or right.kind not in operands:
        return
    if left.text in _OPERATOR_WORDS or right.text in _OPERATOR_WORDS:
        return
    if "\n" in source[left.span.end : right.span.start]:
        return  # more likely a bracket that was left open, which is found later
    both = Span(left.span.start, right.span.end)
    touching = left.span.end == right.span.start
    if left.kind == "number" and touching and right.text in ("j", "J"):
        raise lacking("complex numbers").at(source, both)
    if left.kind == right.kind == "string":
        return  # Python joins them
    product = f"{left.text} * {right.text}" if left.kind != "close" else f"(…) * {right.text}"
    message = f"there is no operator between `{left.text}` and `{right.text}`"
    call = f", `{left.text}({right.text})` for a call" if left.kind == "name" else ""
    fail(source, both, message, f"write `{product}` for a product{call}")


def _check_length(source: str, token: Token) -> None:
    if token.kind == "number" and len(token.text) > MAX_DIGITS:
        message = f"this number has more than {MAX_DIGITS} digits"
        fail(source, token.span, message, "write it with an exponent, as in `1e100`")
    if token.kind == "name" and len(token.text) > MAX_NAME:
        message = f"this name has more than {MAX_NAME} characters"
        fail(source, token.span, message, "choose a shorter one")


def _foreign(source: str, token: Token) -> NoReturn:
    """Refuse a character that the language does not use, and name the one that was meant."""
    remedy = _REMEDIES.get(token.text)
    if remedy is None:
        plain = unicodedata.normalize("NFKC", token.text)
        if plain != token.text and plain.isascii() and plain.isprintable() and plain.strip():
            remedy = f"write `{plain}`"
        else:
            remedy = "delete it"
    message = f"`{token.text}` is not part of the language"
    if token.text == "^":
        message = "`^` is not a power in Python but the exclusive or of bits"
    elif token.text in ("'", '"'):
        message = "this string is not closed"
    kind = UnsupportedError if token.text in ("<<", ">>") else InputError
    fail(source, token.span, message, remedy, kind)


def _match_bracket(source: str, token: Token, opened: list[Token]) -> None:
    """Open or close a bracket; ``opened`` are those that wait for their closing one."""
    if token.kind == "open":
        opened.append(token)
        if len(opened) > MAX_BRACKETS:
            message = f"more than {MAX_BRACKETS} brackets are open here"
            fail(source, token.span, message, NAME_PARTS)
        return
    if not opened:
        message = f"`{token.text}` closes a bracket that was never opened"
        fail(source, token.span, message, "delete it, or open the bracket before")
    opening = opened.pop()
    if _CLOSING[opening.text] != token.text:
        message = f"`{token.text}` cannot close `{opening.text}`"
        fail(source, token.span, message, f"write `{_CLOSING[opening.text]}`")


def _unclosed(source: str, token: Token) -> NoReturn:
    message = f"`{token.text}` is never closed"
    fail(source, token.span, message, f"write `{_CLOSING[token.text]}` where it ends")


def fail(
    source: str,
    place: Span,
    message: str,
    remedy: str,
    kind: type[GradexplainError] = InputError,
) -> NoReturn:
    raise kind(message, source=source, span=place, remedy=remedy)
