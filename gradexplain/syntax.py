"""The language: a text becomes a `Program`, or an error with its place.  Nothing is evaluated.

It is the part of Python that reads as a formula in PyTorch::

    program    := [statement] ((";" | line break) [statement])*     the last one is the output
    statement  := [targets "="] expression
    targets    := NAME | NAME ("," NAME)* [","]                     several unpack x.split(2), …
    expression := NAME | NUMBER | "True" | "False" | "None"
                | "(" expression ")" | "(" items ")" | "[" items "]"
                | ("-" | "+" | "~" | "not") expression
                | expression ("+" | "-" | "*" | "/" | "//" | "%" | "**" | "@" | "&" | "|") expression
                | expression ("<" | "<=" | ">" | ">=" | "==" | "!=") expression   (no chains)
                | expression "." NAME
                | function "(" [argument ("," argument)* [","]] ")"
                | expression "[" index ("," index)* [","] "]"
    items      := [expression ("," expression)* [","]]
    function   := NAME | expression "." NAME
    argument   := [NAME "="] (expression | STRING)
    index      := expression | "..." | [expression] ":" [expression] [":" [expression]]

Precedence is Python's.  ``#`` starts a comment, a line goes on inside brackets or after a final
backslash, and all statements are indented alike, by any depth, so pasted text needs no tidying.
Names are those of Python: letters of any script, in Unicode's NFKC form.

The text is read in three steps, each of which bounds the work of the next: `_scan` goes over the
characters once, `ast.parse` makes the tree, `_check` goes over its nodes once, without recursion.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import unicodedata
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

from gradexplain.errors import GradexplainError, InputError, Span, UnsupportedError
from gradexplain.limits import (
    MAX_BRACKETS,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_NAME,
    MAX_SOURCE,
    MAX_TREE_NODES,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: ``targets`` are the names that it assigns, none for a bare expression.

    ``unpacks`` tells ``q, = x.split(2)`` (the only part of the result) from ``q = x.split(2)``.
    """

    targets: tuple[str, ...]
    target_spans: tuple[Span, ...]
    unpacks: bool
    value: ast.expr
    span: Span


@dataclass(frozen=True, slots=True)
class Program:
    """The statements of a text, at least one.  Every span is a range of ``source``.

    ``source`` is the text as given, but for line ends (always a line feed) and a byte order mark.
    """

    source: str
    statements: tuple[Statement, ...]


def parse(text: str) -> Program:
    """The program that ``text`` spells."""
    source = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if len(source) > MAX_SOURCE:
        raise InputError(
            f"the expression has {len(source):,} characters; at most {MAX_SOURCE:,} are read",
            remedy="shorten it; values belong in --at, as in `--at x=@file.npy`",
        )
    tokens = _scan(source)
    statements = tuple(_statement(source, node) for node in _parse_tree(source, tokens))
    _check(source, [statement.value for statement in statements])
    return Program(source, statements)


def span(program: Program | str, node: ast.AST) -> Span:
    """The characters of the program's source that ``node`` was made from.

    ``ast`` counts lines, and UTF-8 bytes within a line; people and strings count characters.
    """
    source = program if isinstance(program, str) else program.source
    start = _position(source, getattr(node, "lineno", 1), getattr(node, "col_offset", 0))
    end = _position(source, getattr(node, "end_lineno", 1), getattr(node, "end_col_offset", 0))
    return Span(start, end)


def attribute_span(program: Program | str, node: ast.Attribute) -> Span:
    """The characters of the name after the dot: ``log`` in ``x.log``."""
    source = program if isinstance(program, str) else program.source
    end = span(source, node).end
    name = source[source.rfind(".", 0, end) + 1 : end].split()[-1]  # after a dot and a line break
    return Span(end - len(name), end)


@lru_cache(maxsize=8)
def _lines(source: str) -> tuple[tuple[int, str], ...]:
    """Each line without its indentation, and where in ``source`` it starts."""
    lines = []
    start = 0
    for line in source.split("\n"):
        text = line.lstrip(" \t\f")
        lines.append((start + len(line) - len(text), text))
        start += len(line) + 1
    return tuple(lines)


def _position(source: str, lineno: int, byte: int) -> int:
    start, text = _lines(source)[lineno - 1]
    return start + len(text.encode()[:byte].decode())


# ---- the first step: characters ------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
      (?P<blank> [ \t\f]+ | \\\n | \#[^\n]* )
    | (?P<end> [\n;] )
    | (?P<number> 0[xXbBoO][0-9a-fA-F_]+
                | (?: [0-9][0-9_]*\.?[0-9_]* | \.[0-9][0-9_]* ) (?: [eE][+-]?[0-9][0-9_]* )? )
    | (?P<string> '[^'\n\\]*' | "[^"\n\\]*" )
    | (?P<augmented> (?: \*\* | // | [-+*/%@&|] ) = (?!=) )
    | (?P<foreign> >>>? | << | && | \|\| | := | -> | [\^!?$`\\{}'"] (?!=) )
    | (?P<open> [(\[] )
    | (?P<close> [)\]] )
    | (?P<operator> \*\* | // | [<>=!]= | [-+*/%@&|<>=~,.:] )
    """,
    re.VERBOSE,
)

_CLOSING = {"(": ")", "[": "]"}

_CONDITIONS = "write `&` or `|` between conditions in parentheses, as in `(a > 0) & (b > 0)`"
_ASSIGN = "write a statement of its own, as in `s = x.sum(); x / s`"

#: What is typed or pasted for something that the language has another spelling for.
_REMEDIES = {
    "^": "write `**` for a power, as in `x**2`",
    "&&": _CONDITIONS,
    "||": _CONDITIONS,
    "!": "write `not` for the opposite of a condition, prod() for a factorial",
    "<<": "write `*` and `**`, as in `a * 2**n`",
    ">>": "write `//` and `**`, as in `a // 2**n`",
    ">>>": "leave out Python's prompt",
    ":=": _ASSIGN,
    "->": "leave it out",
    "\\": "leave it out; only the end of a line may be one, to go on in the next line",
    "{": "write ( ) around a part, [ ] around a list",
    "}": "write ( ) around a part, [ ] around a list",
    "'": "close the string on the same line",
    '"': "close the string on the same line",
    "√": "write sqrt(x)",
    "∑": "write x.sum()",
    "∏": "write x.prod()",
    "∞": "write the limit of the expression, or bind a name: `--at c=inf`",
    "ᵀ": "write `x.T`",
    "\u00a0": "it is a no-break space; write an ordinary one",
    **dict.fromkeys("×·⋅∙∗•", "write `*`"),
    **dict.fromkeys("÷∕⁄", "write `/`"),
    **dict.fromkeys("−–—‐‑", "write `-`"),
    **dict.fromkeys("“”„«»", 'write `"`'),
    **dict.fromkeys("‘’‚", "write `'`"),
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "¬": "write `not`",
    "∧": _CONDITIONS,
    "∨": _CONDITIONS,
    **{raised: f"write `**{digit}`" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}

#: Words that start a statement of Python, and what to write instead.
_STATEMENTS = {
    "import": "leave it out: torch.log, F.relu and the like are known without it",
    "from": "leave it out: torch.log, F.relu and the like are known without it",
    "def": "write the body's lines alone; the last one is the output",
    "return": "write the expression alone; the last statement is the output",
    "for": "write a reduction such as x.sum(dim=0), or each term",
    "while": "write a reduction such as x.sum(dim=0), or each term",
    "if": "write where(condition, a, b)",
    "assert": "leave it out",
    "del": "leave it out",
    "with": "leave it out and write the lines inside it alone",
}
#: Python reads no text with these in it, not even in a comment.
_UNREADABLE = re.compile("[\0\ud800-\udfff]")
_INDENTATION = re.compile(r"[ \t\f]*")
_STATEMENT_WORDS = set(keyword.kwlist) - {
    *("None", "True", "False", "not", "and", "or", "in", "is", "lambda", "await", "yield"),
}
_OPERATOR_WORDS = set(keyword.kwlist) - {"None", "True", "False"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    span: Span


def _scan(source: str) -> list[_Token]:
    """The tokens, but for blanks and comments; refuses what can be told from the characters alone.

    Its messages are better than Python's, and it bounds the nesting of brackets and the length of
    numbers before Python sees them.
    """
    unreadable = _UNREADABLE.search(source)
    if unreadable:
        _foreign(source, _Token("foreign", unreadable.group(), Span(*unreadable.span())))
    tokens: list[_Token] = []
    opened: list[_Token] = []
    previous: _Token | None = None  # in the same statement
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
            if previous is None:
                _check_start(source, token, tokens)
            else:
                _check_neighbours(source, previous, token)
            if token.kind in ("number", "name"):
                _check_length(source, token)
            elif token.kind == "augmented":
                _augmented(source, token, previous)
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


def _token(source: str, position: int) -> _Token:
    """The token at ``position``; a name is what Python takes for one."""
    match = _TOKEN.match(source, position)
    if match:
        return _Token(match.lastgroup or "", match.group(), Span(position, match.end()))
    end = position
    if source[position].isidentifier():
        while (
            end < len(source) and f"_{source[end]}".isidentifier() and source[end] not in _REMEDIES
        ):
            end += 1
    kind = "name" if end > position else "foreign"
    end = max(end, position + 1)
    return _Token(kind, source[position:end], Span(position, end))


def _check_start(source: str, token: _Token, before: list[_Token]) -> None:
    """Refuse a statement of another kind than the language's, or indented unlike the first.

    Without the second rule, a line ``+ b`` that was meant to go on with the line before it would be
    read as a statement of its own.
    """
    if token.kind == "name" and token.text in _STATEMENT_WORDS:
        message = (
            f"`{token.text}` belongs to Python's statements; "
            "only expressions and `name = expression` are read"
        )
        remedy = _STATEMENTS.get(token.text, "write expressions and `name = expression` alone")
        _fail(source, token.span, message, remedy)
    first = next((other for other in before if other.kind != "end"), token)
    if (
        before
        and before[-1].text == "\n"
        and _indentation(source, token) != _indentation(source, first)
    ):
        message = "this line is indented unlike the first one"
        remedy = "indent all statements alike, or put ( ) around one of several lines"
        _fail(source, token.span, message, remedy)


def _indentation(source: str, token: _Token) -> str:
    """The blanks at the start of the line that holds ``token``."""
    match = _INDENTATION.match(source, source.rfind("\n", 0, token.span.start) + 1)
    return match.group() if match else ""


def _check_neighbours(source: str, left: _Token, right: _Token) -> None:
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
        _fail(
            source,
            both,
            "complex numbers are not supported",
            "write the real and the imaginary part as two expressions",
            UnsupportedError,
        )
    if left.kind == "name" and touching and right.kind == "string":
        message = f"a string with the prefix `{left.text}` is not part of the language"
        _fail(source, both, message, f"write the string alone: {right.text}")
    if left.kind == right.kind == "string":
        _fail(source, both, "two strings stand side by side", "write one string")
    product = f"{left.text} * {right.text}" if left.kind != "close" else f"(…) * {right.text}"
    message = f"there is no operator between `{left.text}` and `{right.text}`"
    call = f", `{left.text}({right.text})` for a call" if left.kind == "name" else ""
    _fail(source, both, message, f"write `{product}` for a product{call}")


def _check_length(source: str, token: _Token) -> None:
    if token.kind == "number" and len(token.text) > MAX_DIGITS:
        message = f"this number has more than {MAX_DIGITS} digits"
        _fail(source, token.span, message, "write it with an exponent, as in `1e100`")
    if token.kind == "name" and len(token.text) > MAX_NAME:
        message = f"this name has more than {MAX_NAME} characters"
        _fail(source, token.span, message, "choose a shorter one")


def _augmented(source: str, token: _Token, previous: _Token | None) -> NoReturn:
    name = previous.text if previous and previous.kind == "name" else "x"
    message = f"`{token.text}` changes a value in place; only `name = expression` assigns"
    _fail(source, token.span, message, f"write `{name} = {name} {token.text[:-1]} …`")


def _foreign(source: str, token: _Token) -> NoReturn:
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
    _fail(source, token.span, message, remedy, kind)


def _match_bracket(source: str, token: _Token, opened: list[_Token]) -> None:
    """Open or close a bracket; ``opened`` are those that wait for their closing one."""
    if token.kind == "open":
        opened.append(token)
        if len(opened) > MAX_BRACKETS:
            message = f"more than {MAX_BRACKETS} brackets are open here"
            _fail(source, token.span, message, _NAME_PARTS)
        return
    if not opened:
        message = f"`{token.text}` closes a bracket that was never opened"
        _fail(source, token.span, message, "delete it, or open the bracket before")
    opening = opened.pop()
    if _CLOSING[opening.text] != token.text:
        message = f"`{token.text}` cannot close `{opening.text}`"
        _fail(source, token.span, message, f"write `{_CLOSING[opening.text]}`")


def _unclosed(source: str, token: _Token) -> NoReturn:
    message = f"`{token.text}` is never closed"
    _fail(source, token.span, message, f"write `{_CLOSING[token.text]}` where it ends")


# ---- the second step: Python's parser ------------------------------------------------------------

_NAME_PARTS = "give parts of it names, as in `s = a + b; s * c`"
_TOO_DEEP = f"the expression holds more than {MAX_DEPTH} operations inside one another"


def _parse_tree(source: str, tokens: list[_Token]) -> list[ast.stmt]:
    """Python's tree of ``source``, its indentation taken away."""
    text = "\n".join(line for _, line in _lines(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on code that is never run
            return ast.parse(text).body
    except SyntaxError as error:
        raise _translated(source, tokens, error) from None
    except ValueError:
        # `_scan` has refused the characters that lead here; another Python may know more of them
        raise InputError("Python cannot read this text", remedy="keep to plain text") from None
    except (RecursionError, MemoryError):
        raise InputError(_TOO_DEEP, remedy=_NAME_PARTS) from None


def _translated(source: str, tokens: list[_Token], error: SyntaxError) -> InputError:
    """The error of Python in our words, which do not change with Python's version."""
    lines = _lines(source)
    start, line = lines[min(max(error.lineno or 1, 1), len(lines)) - 1]
    place = start + min(max((error.offset or 1) - 1, 0), len(line))
    token = next((token for token in tokens if token.span.end > place), None)
    before = [other for other in tokens if other.span.end <= place]
    missing = before and before[-1].kind != "end" and (token is None or token.kind == "end")
    if error.msg.startswith(("cannot assign", "expression cannot contain assignment")):
        message = "only a name can stand to the left of `=`"
        remedy = "write `name = expression`, or `==` for a comparison"
    elif error.msg.startswith("positional argument follows keyword"):
        message, remedy = "a value follows a named argument", "move the named arguments to the end"
    elif error.msg.startswith("expected 'else'"):
        message, remedy = "`if` stands without `else`", "write where(condition, a, b)"
    elif token and token.kind == "number":
        message = f"`{token.text}` is not a number"
        remedy = "write it without leading zeros and doubled underscores"
    elif missing:
        token = before[-1]
        message = f"something is missing after `{token.text}`"
        remedy = "finish the expression; one that goes on in the next line needs ( ) around it"
    else:
        token = token or tokens[-1]
        message = f"`{token.text}` cannot stand here"
        remedy = "write a value or a name before it, or delete it"
    return InputError(
        message, source=source, span=token.span if token else Span(place, place), remedy=remedy
    )


def _statement(source: str, node: ast.stmt) -> Statement:
    """``node`` as a `Statement`; its expression is not checked yet."""
    place = span(source, node)
    if isinstance(node, ast.Expr):
        return Statement((), (), False, node.value, place)
    if isinstance(node, ast.AnnAssign):
        remedy = "write `name = expression`"
        _fail(source, place, "annotations are not part of the language", remedy)
    if not isinstance(node, ast.Assign):  # `_scan` has refused the words that start one
        _fail(source, place, "only expressions and `name = expression` are read", "leave it out")
    if len(node.targets) > 1:
        message = "one statement can assign only once"
        _fail(source, place, message, "write two statements, as in `a = x + 1; b = a`")
    target = node.targets[0]
    unpacks = isinstance(target, (ast.Tuple, ast.List))
    names = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
    for name in names:
        _check_target(source, name)
    if not names:
        _fail(source, span(source, target), "there is no name here to assign to", "write a name")
    return Statement(
        tuple(name.id for name in names if isinstance(name, ast.Name)),
        tuple(span(source, name) for name in names),
        unpacks,
        node.value,
        place,
    )


def _check_target(source: str, node: ast.expr) -> None:
    place = span(source, node)
    if isinstance(node, ast.Name):
        _check_private(source, node)
    elif isinstance(node, (ast.Subscript, ast.Attribute)):
        message = "assigning to a part of a tensor is not supported"
        remedy = "build a new tensor with where(), cat() or stack()"
        _fail(source, place, message, remedy, UnsupportedError)
    else:
        _fail(source, place, "only a name can stand to the left of `=`", "write a plain name")


# ---- the third step: nodes -----------------------------------------------------------------------

_REDUCE = "write a reduction such as x.sum(dim=0), or each element in a list"

#: Expressions of Python that are not part of the language: what they are called, and the remedy.
_REFUSED: dict[type[ast.expr], tuple[str, str]] = {
    ast.BoolOp: ("`and` and `or` are not part of the language", _CONDITIONS),
    ast.IfExp: (
        "`if … else` is not part of the language",
        "write where(condition, a, b)",
    ),
    ast.Lambda: ("`lambda` is not part of the language", "write the expression itself"),
    ast.ListComp: ("comprehensions are not part of the language", _REDUCE),
    ast.GeneratorExp: ("comprehensions are not part of the language", _REDUCE),
    ast.Starred: ("`*` cannot unpack values here", "write each value out, as in `x.permute(1, 0)`"),
    ast.NamedExpr: ("`:=` is not part of the language", _ASSIGN),
    ast.Await: ("`await` is not part of the language", "leave it out"),
    ast.Yield: ("`yield` is not part of the language", "leave it out"),
    ast.YieldFrom: ("`yield` is not part of the language", "leave it out"),
}
_ALLOWED = (
    *(ast.Name, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Attribute),
    *(ast.Subscript, ast.Slice, ast.List, ast.Tuple),
)


def _check(source: str, expressions: list[ast.expr]) -> None:
    """Refuse every node that the language does not have; each is seen once, in reading order."""
    strings: set[ast.expr] = set()  # where a string may stand
    ellipses: set[ast.expr] = set()  # where `...` may stand
    pending = [(node, 1) for node in reversed(expressions)]
    count = 0
    while pending:
        node, depth = pending.pop()
        count += 1
        if count > MAX_TREE_NODES:
            message = (
                f"the expression has more than {MAX_TREE_NODES:,} names, numbers and operations"
            )
            raise InputError(message, remedy="shorten it")
        if depth > MAX_DEPTH:
            _fail(source, span(source, node), _TOO_DEEP, _NAME_PARTS)
        _check_node(source, node)
        if isinstance(node, ast.Constant):
            _check_constant(source, node, node in strings, node in ellipses)
        elif isinstance(node, ast.Call):
            strings.update(node.args)
            strings.update(keyword.value for keyword in node.keywords)
        elif isinstance(node, ast.Subscript):
            index = node.slice
            ellipses.update(index.elts if isinstance(index, ast.Tuple) else [index])
        pending.extend((child, depth + 1) for child in reversed(_children(node)))


def _children(node: ast.expr) -> list[ast.expr]:
    """The expressions directly inside ``node``, in reading order."""
    children = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            children.append(child)
        elif isinstance(child, ast.keyword):
            children.append(child.value)
    return children


def _check_node(source: str, node: ast.expr) -> None:
    """Refuse ``node`` for what it is; what is inside it comes later."""
    if not isinstance(node, _ALLOWED):
        refused = _REFUSED.get(type(node), ("this is not part of the language", "leave it out"))
        _fail(source, span(source, node), *refused)
    if isinstance(node, ast.Name):
        _check_private(source, node)
    elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        message = f"`{node.attr}` is private to Python; only methods and functions can be named"
        _fail(source, attribute_span(source, node), message, "write a method, as in `x.log()`")
    elif isinstance(node, ast.Compare):
        _check_comparison(source, node)
    elif isinstance(node, ast.Call):
        _check_call(source, node)


def _check_comparison(source: str, node: ast.Compare) -> None:
    if len(node.ops) > 1:
        remedy = "write where() for each, as in `where(0 < x, where(x < 1, a, b), b)`"
        message = "chained comparisons are not part of the language"
        _fail(source, span(source, node), message, remedy)
    if isinstance(node.ops[0], (ast.In, ast.NotIn, ast.Is, ast.IsNot)):
        message = "`in` and `is` are not part of the language"
        _fail(source, span(source, node), message, "compare with `==` or `!=`")


def _check_call(source: str, node: ast.Call) -> None:
    if isinstance(node.func, ast.Call):
        message = "the result of a call cannot be called"
        remedy = "write the function, as in `F.relu(x)` for `nn.ReLU()(x)`"
        _fail(source, span(source, node), message, remedy, UnsupportedError)
    if not isinstance(node.func, (ast.Name, ast.Attribute)):
        message = "only a function's name can stand before `(`"
        _fail(source, span(source, node), message, "write `*` for a product, as in `2*(a + b)`")
    seen = set()
    for argument in node.keywords:
        if argument.arg is None:
            message = "`**` cannot unpack arguments here"
            remedy = "write each argument out, as in `x.sum(dim=0)`"
            _fail(source, span(source, argument), message, remedy)
        if argument.arg in seen:
            message = f"the argument `{argument.arg}` is given twice"
            _fail(source, span(source, argument), message, "delete one of the two")
        seen.add(argument.arg)


def _check_constant(source: str, node: ast.Constant, string: bool, ellipsis: bool) -> None:
    """Refuse a constant that is of no use where it stands, or that no float64 can hold."""
    value = node.value
    if isinstance(value, str) and not string:
        message = 'a string can only be an argument, as in `reduction="mean"`'
        remedy = "write a name without quotes"
    elif value is ... and not ellipsis:
        message, remedy = (
            "`...` can only stand in an index, as in `x[..., 0]`",
            "write the terms out",
        )
    elif isinstance(value, float) and math.isinf(value):
        message, remedy = "this number is too large for a float64", "write one below 1.8e308"
    else:
        return
    _fail(source, span(source, node), message, remedy)


def _check_private(source: str, node: ast.Name) -> None:
    if node.id.startswith("__"):
        message = f"`{node.id}` is private to Python and cannot be a name here"
        remedy = "choose a name that does not start with `__`"
        _fail(source, span(source, node), message, remedy)


def _fail(
    source: str,
    place: Span,
    message: str,
    remedy: str,
    kind: type[GradexplainError] = InputError,
) -> NoReturn:
    raise kind(message, source=source, span=place, remedy=remedy)
