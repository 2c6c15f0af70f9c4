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

The text is read in three steps, each of which bounds the work of the next: `scan` goes over the
characters once, `ast.parse` makes the tree, `_check` goes over its nodes once, without recursion.
"""

from __future__ import annotations

import ast
import math
import warnings

from gradexplain.errors import InputError, Span, UnsupportedError
from gradexplain.limits import MAX_DEPTH, MAX_SOURCE, MAX_TREE_NODES
from gradexplain.reading.program import Program, Statement, attribute_span, lines, span
from gradexplain.reading.tokens import ASSIGN, CONDITIONS, NAME_PARTS, Token, fail, scan


def parse(text: str) -> Program:
    """The program that ``text`` spells."""
    source = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if len(source) > MAX_SOURCE:
        raise InputError(
            f"the expression has {len(source):,} characters; at most {MAX_SOURCE:,} are read",
            remedy="shorten it; values belong in --at, as in `--at x=@file.npy`",
        )
    tokens = scan(source)
    statements = tuple(_statement(source, node) for node in _parse_tree(source, tokens))
    _check(source, [statement.value for statement in statements])
    return Program(source, statements)


# ---- the second step: Python's parser ------------------------------------------------------------

_TOO_DEEP = f"the expression holds more than {MAX_DEPTH} operations inside one another"


def _parse_tree(source: str, tokens: list[Token]) -> list[ast.stmt]:
    """Python's tree of ``source``, its indentation taken away."""
    text = "\n".join(line for _, line in lines(source))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on code that is never run
            return ast.parse(text).body
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
        fail(source, place, "annotations are not part of the language", remedy)
    if not isinstance(node, ast.Assign):  # `scan` has refused the words that start one
        fail(source, place, "only expressions and `name = expression` are read", "leave it out")
    if len(node.targets) > 1:
        message = "one statement can assign only once"
        fail(source, place, message, "write two statements, as in `a = x + 1; b = a`")
    target = node.targets[0]
    unpacks = isinstance(target, (ast.Tuple, ast.List))
    names = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
    for name in names:
        _check_target(source, name)
    if not names:
        fail(source, span(source, target), "there is no name here to assign to", "write a name")
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
        fail(source, place, message, remedy, UnsupportedError)
    else:
        fail(source, place, "only a name can stand to the left of `=`", "write a plain name")


# ---- the third step: nodes -----------------------------------------------------------------------

_REDUCE = "write a reduction such as x.sum(dim=0), or each element in a list"

#: Expressions of Python that are not part of the language: what they are called, and the remedy.
_REFUSED: dict[type[ast.expr], tuple[str, str]] = {
    ast.BoolOp: ("`and` and `or` are not part of the language", CONDITIONS),
    ast.IfExp: (
        "`if … else` is not part of the language",
        "write where(condition, a, b)",
    ),
    ast.Lambda: ("`lambda` is not part of the language", "write the expression itself"),
    ast.ListComp: ("comprehensions are not part of the language", _REDUCE),
    ast.GeneratorExp: ("comprehensions are not part of the language", _REDUCE),
    ast.Starred: ("`*` cannot unpack values here", "write each value out, as in `x.permute(1, 0)`"),
    ast.NamedExpr: ("`:=` is not part of the language", ASSIGN),
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
            fail(source, span(source, node), _TOO_DEEP, NAME_PARTS)
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
        fail(source, span(source, node), *refused)
    if isinstance(node, ast.Name):
        _check_private(source, node)
    elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        message = f"`{node.attr}` is private to Python; only methods and functions can be named"
        fail(source, attribute_span(source, node), message, "write a method, as in `x.log()`")
    elif isinstance(node, ast.Compare):
        _check_comparison(source, node)
    elif isinstance(node, ast.Call):
        _check_call(source, node)


def _check_comparison(source: str, node: ast.Compare) -> None:
    if len(node.ops) > 1:
        remedy = "write where() for each, as in `where(0 < x, where(x < 1, a, b), b)`"
        message = "chained comparisons are not part of the language"
        fail(source, span(source, node), message, remedy)
    if isinstance(node.ops[0], (ast.In, ast.NotIn, ast.Is, ast.IsNot)):
        message = "`in` and `is` are not part of the language"
        fail(source, span(source, node), message, "compare with `==` or `!=`")


def _check_call(source: str, node: ast.Call) -> None:
    if isinstance(node.func, ast.Call):
        message = "the result of a call cannot be called"
        remedy = "write the function, as in `F.relu(x)` for `nn.ReLU()(x)`"
        fail(source, span(source, node), message, remedy, UnsupportedError)
    if not isinstance(node.func, (ast.Name, ast.Attribute)):
        message = "only a function's name can stand before `(`"
        fail(source, span(source, node), message, "write `*` for a product, as in `2*(a + b)`")
    seen = set()
    for argument in node.keywords:
        if argument.arg is None:
            message = "`**` cannot unpack arguments here"
            remedy = "write each argument out, as in `x.sum(dim=0)`"
            fail(source, span(source, argument), message, remedy)
        if argument.arg in seen:
            message = f"the argument `{argument.arg}` is given twice"
            fail(source, span(source, argument), message, "delete one of the two")
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
    fail(source, span(source, node), message, remedy)


def _check_private(source: str, node: ast.Name) -> None:
    if node.id.startswith("__"):
        message = f"`{node.id}` is private to Python and cannot be a name here"
        remedy = "choose a name that does not start with `__`"
        fail(source, span(source, node), message, remedy)
