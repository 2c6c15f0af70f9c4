"""The language: a text becomes a `Program`, or an error with its place.  Nothing is evaluated.

It is the part of Python in which people write PyTorch::

    program    := statement ((";" | line break) statement)*       the last value is the output, or
                                                                  what backward is called on
    statement  := expression | assignment | import | "pass" | "del" NAME | "assert" expression
                | "for" targets "in" expression ":" block | "while" expression ":" block
                | "if" expression ":" block ["else" ":" block] | "with" expression ":" block
                | "def" NAME "(" arguments ")" ":" block | "return" expression | "break" | "continue"
                | "try" ":" block ("except" … ":" block)*
    assignment := (targets "=")+ expression | target ("+" | "-" | "*" | "/" | …) "=" expression
    targets    := target ("," target)* [","]                        several unpack x.split(2), …
    target     := NAME | expression "[" index "]" | expression "." NAME
    expression := NAME | NUMBER | STRING | "True" | "False" | "None" | "..."
                | "(" expression ")" | "(" items ")" | "[" items "]" | "{" key ":" expression "}"
                | ("-" | "+" | "~" | "not") expression | expression "if" expression "else" expression
                | expression ("+" | "-" | "*" | "/" | "//" | "%" | "**" | "@" | "&" | "|") expression
                | expression ("<" | "<=" | ">" | ">=" | "==" | "!=" | "and" | "or" | "in") expression
                | expression "." NAME
                | expression "(" [argument ("," argument)* [","]] ")"
                | expression "[" index ("," index)* [","] "]"
                | "[" expression "for" targets "in" expression ["if" expression] "]"
                | "lambda" arguments ":" expression
    items      := [expression ("," expression)* [","]]
    argument   := [NAME "="] expression
    index      := expression | [expression] ":" [expression] [":" [expression]]

Precedence is Python's.  ``#`` starts a comment, a line goes on inside brackets or after a final
backslash.  Names are those of Python: letters of any script, in Unicode's NFKC form.  Loops and
functions are written out as they are read; classes, files and what other modules compute are not
read.  What clings to a pasted text is taken away first (`gradexplain.reading.pasted`).

The text is read in three steps, each of which bounds the work of the next: `scan` goes over the
characters once, `ast.parse` makes the tree, `_check` goes over its nodes once, without recursion.
"""

from __future__ import annotations

import ast
import contextlib
import math
import warnings
from collections.abc import Iterator

from gradexplain.errors import GradexplainError, InputError, Span, UnsupportedError
from gradexplain.limits import MAX_DEPTH, MAX_SOURCE, MAX_TREE_NODES
from gradexplain.reading import notation
from gradexplain.reading.pasted import SCRIPT, cleaned
from gradexplain.reading.program import Program, Statement, lines, span
from gradexplain.reading.said import refused, said
from gradexplain.reading.tokens import NAME_PARTS, Token, fail, scan


def parse(text: str) -> Program:
    """The program that ``text`` spells."""
    if len(text) > MAX_SOURCE:
        raise refused("long text", count=len(text), most=MAX_SOURCE)
    source = cleaned(text)
    formula = SCRIPT.search(text) is None and "lambda" not in text
    try:
        elsewhere = formula and notation.ALSO.search(source)
        return _program(notation.plain(source) if elsewhere else source, source)
    except GradexplainError:
        with contextlib.suppress(GradexplainError):
            if formula:
                return _program(notation.plain(source), source)
        raise  # what is wrong with the text as it stands


def _program(source: str, written: str) -> Program:
    body = _parse_tree(source, scan(source))
    _check(source, body)
    statements = tuple(_statements(source, body))
    return Program(source, statements, tuple(body), notation=written if written != source else "")


# ---- the second step: Python's parser ------------------------------------------------------------

_TOO_DEEP = f"the expression holds more than {MAX_DEPTH} operations inside one another"


def _parse_tree(source: str, tokens: list[Token]) -> list[ast.stmt]:
    """Python's tree of ``source``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on code that is never run
            return ast.parse(source).body
    except SyntaxError as error:
        raise _translated(source, tokens, error) from None
    except ValueError:
        # `scan` has refused the characters that lead here; another Python may know more of them
        raise InputError("Python cannot read this text", remedy="keep to plain text") from None
    except (RecursionError, MemoryError):
        raise InputError(_TOO_DEEP, remedy=NAME_PARTS) from None


def _translated(source: str, tokens: list[Token], error: SyntaxError) -> InputError:
    """The error of Python in our words, which do not change with Python's version."""
    known = lines(source)
    start, line = known[min(max(error.lineno or 1, 1), len(known)) - 1]
    place = start + min(max((error.offset or 1) - 1, 0), len(line))
    token = next((token for token in tokens if token.span.end > place), None)
    before = [other for other in tokens if other.span.end <= place]
    missing = before and before[-1].kind != "end" and (token is None or token.kind == "end")
    if error.msg.startswith(("cannot assign", "expression cannot contain assignment")):
        message = "only a name can stand to the left of `=`"
        remedy = "write `name = expression`, or `==` for a comparison"
    elif error.msg.startswith("positional argument follows keyword"):
        message, remedy = "a value follows a named argument", "move the named arguments to the end"
    elif isinstance(error, IndentationError) and "unexpected indent" in error.msg:
        message, remedy = said("indented unlike", {})
    elif isinstance(error, IndentationError):
        message, remedy = "this line is indented wrongly", "indent what belongs to a block, alike"
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


def _statements(source: str, body: list[ast.stmt]) -> Iterator[Statement]:
    """The plain assignments to names, and the expressions."""
    for node in body:
        place = span(source, node)
        if isinstance(node, ast.Expr):
            yield Statement((), node.value, place)
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
            names = tuple(part.id for part in parts if isinstance(part, ast.Name))
            if names:
                yield Statement(names, node.value, place)


# ---- the third step: nodes -----------------------------------------------------------------------

#: Expressions of Python that are not part of the language: what they are called, and the remedy.
_REFUSED: dict[type[ast.AST], tuple[str, str]] = {
    ast.Await: ("`await` is not part of the language", "leave it out"),
    ast.AsyncFunctionDef: ("`async` is not part of the language", "leave it out"),
    ast.AsyncFor: ("`async` is not part of the language", "leave it out"),
    ast.AsyncWith: ("`async` is not part of the language", "leave it out"),
    ast.Match: ("`match` is not part of the language", "write if and else"),
}


def _check(source: str, body: list[ast.stmt]) -> None:
    """Refuse every node that the language does not have; each is seen once, in reading order."""
    pending: list[tuple[ast.AST, int]] = [(node, 0) for node in reversed(body)]
    count = 0
    while pending:
        node, depth = pending.pop()
        if isinstance(node, ast.expr):
            count += 1
        if count > MAX_TREE_NODES:
            message = (
                f"the expression has more than {MAX_TREE_NODES:,} names, numbers and operations"
            )
            raise InputError(message, remedy="shorten it")
        if depth > MAX_DEPTH and isinstance(node, ast.expr):
            fail(source, span(source, node), _TOO_DEEP, NAME_PARTS)
        _check_node(source, node)
        beside = node.left if isinstance(node, ast.BinOp) else None  # read without recursion
        pending.extend(
            (child, depth + (child is not beside))
            for child in reversed([*ast.iter_child_nodes(node)])
        )


def _check_node(source: str, node: ast.AST) -> None:
    """Refuse ``node`` for what it is; what is inside it comes later."""
    if type(node) in _REFUSED:
        fail(source, span(source, node), *_REFUSED[type(node)])
    if isinstance(node, ast.Name):
        _check_private(source, node)
    elif isinstance(node, ast.Call):
        _check_call(source, node)
    elif isinstance(node, ast.Constant):
        _check_constant(source, node)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            _check_target(source, target)


def _check_target(source: str, target: ast.expr) -> None:
    if isinstance(target, (ast.Tuple, ast.List)) and not target.elts:
        fail(source, span(source, target), "there is no name here to assign to", "write a name")


def _check_call(source: str, node: ast.Call) -> None:
    if isinstance(node.func, (ast.Constant, ast.BinOp, ast.UnaryOp)):
        kind = "a number" if isinstance(node.func, ast.Constant) else "a tensor"
        remedy = "write `*` for a product, as in `2*(a + b)`"
        fail(source, span(source, node.func), f"{kind} cannot be called", remedy)
    seen = set()
    for argument in node.keywords:
        if argument.arg is not None and argument.arg in seen:
            message = f"the argument `{argument.arg}` is given twice"
            fail(source, span(source, argument), message, "delete one of the two")
        seen.add(argument.arg)


def _check_constant(source: str, node: ast.Constant) -> None:
    """Refuse a constant that no float64 can hold."""
    value = node.value
    if isinstance(value, float) and math.isinf(value):
        message, remedy = "this number is too large for a float64", "write one below 1.8e308"
        fail(source, span(source, node), message, remedy)
    if isinstance(value, (complex, bytes)):
        what = "complex numbers are" if isinstance(value, complex) else "bytes are"
        remedy = "write the real and the imaginary part as two expressions"
        fail(source, span(source, node), f"{what} not supported", remedy, UnsupportedError)


def _check_private(source: str, node: ast.Name) -> None:
    if node.id.startswith("__") and node.id not in ("__name__", "__file__"):
        message = f"`{node.id}` is private to Python and cannot be a name here"
        remedy = "choose a name that does not start with `__`"
        fail(source, span(source, node), message, remedy)
