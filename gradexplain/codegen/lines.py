"""Statements of PyTorch as a person lays them out: one name each, in lines of 88 columns.

A formula comes here as text.  What it computes twice is named and computed once; what is too long for
a line is named in parts; the rest is written as ruff would format it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 88

_INFIX: dict[type[ast.operator], tuple[str, int]] = {
    ast.BitOr: ("|", 2), ast.BitAnd: ("&", 3), ast.Add: ("+", 4), ast.Sub: ("-", 4),
    ast.Mult: ("*", 5), ast.Div: ("/", 5), ast.FloorDiv: ("//", 5), ast.Mod: ("%", 5),
    ast.MatMult: ("@", 5), ast.Pow: ("**", 7),
}  # fmt: skip
_RELATIONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Is: "is",
}  # fmt: skip
_COMPARE, _UNARY, _POWER, _ATOM = 1, 6, 7, 8

#: Calls whose result is changed in place afterwards: each is a tensor of its own.
_FRESH = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_full", "empty_like")


@dataclass
class Statement:
    """``target = value``; ``only`` is the one input whose gradient it is for, "" for all."""

    target: str
    value: ast.expr
    only: str = ""

    def renamed(self, old: str, new: str) -> Statement:
        target = new if self.target == old else self.target
        return Statement(target, put(self.value, old, ast.Name(new, ast.Load())), self.only)


def statement(target: str, text: str, only: str = "") -> Statement:
    return Statement(target, ast.parse(text, mode="eval").body, only)


def joined(terms: Sequence[str]) -> str:
    """The sum of ``terms``, those that begin with a minus taken off."""
    (total,) = unsigned([statement("", " + ".join(f"({t})" for t in terms))])
    return show(total.value)


def inlined(body: Sequence[Statement], results: Collection[str] = ()) -> list[Statement]:
    """What is used once, and is short, stands where it is used; so does a transpose."""
    found = list(body)
    for target in [s.target for s in body]:
        s = next(o for o in found if o.target == target)
        uses = [n for o in found for n in ast.walk(o.value) if getattr(n, "id", "") == s.target]
        turned = show(s.value).endswith((".T", ".mT", ".transpose(-2, -1)"))
        turned = turned and not s.target.startswith("grad_")  # which is a product, most often
        alone = [o.target for o in found].count(target) == 1 and not s.only
        if target not in results and alone and (len(uses) == 1 or (uses and turned)):
            put_in = [Statement(o.target, put(copy.deepcopy(o.value), s.target, s.value), o.only)
                      if s.target in names_in(o.value) else o for o in found if o.target != s.target]  # fmt: skip
            longest = max(len(show(o.value)) for o in put_in if o not in found)
            found = put_in if longest <= WIDTH - 30 else found
    return found


def unsigned(body: Sequence[Statement]) -> list[Statement]:
    """Signs gathered: ``a - -b`` is ``a + b``, ``2 * -b`` is ``-2 * b``, ``-(a - b)`` stays."""
    signs = [_sign(s.value) for s in body]
    shown = [show(e) for _, e in signs]
    return [
        Statement(
            s.target,
            # what another statement is too is named: -grad, grad
            ast.UnaryOp(ast.USub(), e) if less and shown.count(text) > 1 else _with_sign(less, e),
            s.only,
        )
        for s, (less, e), text in zip(body, signs, shown, strict=True)
    ]


def _sign(e: ast.expr) -> tuple[bool, ast.expr]:
    """Whether a minus can be taken off ``e``, and what is left."""
    match e:
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            negative, rest = _sign(operand)
            return not negative, rest
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div() | ast.MatMult() as op, right=right):
            (a, left), (b, right) = _sign(left), _sign(right)
            one = isinstance(op, ast.Mult) and isinstance(left, ast.Constant) and left.value == 1
            return a != b, right if one else ast.BinOp(left, op, right)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            negative, rest = _sign(right)
            minus = isinstance(op, ast.Sub) != negative
            left = _with_sign(*_sign(left))
            return False, ast.BinOp(left, ast.Sub() if minus else ast.Add(), rest)
        case ast.Constant(value=-1):
            return True, ast.Constant(1)
        case ast.Call(func=ast.Attribute(attr="sign" | "abs" as attr), args=[operand]):
            negative, rest = _sign(operand)
            return negative and attr == "sign", ast.Call(e.func, [rest], [])
        case ast.Call(func=ast.Attribute(attr="where"), args=[mask, yes, no]):
            (a, yes), (b, no) = _sign(yes), _sign(no)
            values = (yes, no) if a and b else (_with_sign(a, yes), _with_sign(b, no))
            return a and b, ast.Call(e.func, [_with_sign(*_sign(mask)), *values], [])
        case _:
            for name, value in ast.iter_fields(e):
                if isinstance(value, ast.expr):
                    setattr(e, name, _with_sign(*_sign(value)))
                elif isinstance(value, list):
                    value[:] = [
                        _with_sign(*_sign(v)) if isinstance(v, ast.expr) else v for v in value
                    ]
            return False, e


def _with_sign(negative: bool, e: ast.expr) -> ast.expr:
    """``-e``, the minus at the first factor."""
    if not negative:
        return e
    if isinstance(e, ast.BinOp) and isinstance(e.op, (ast.Mult, ast.Div, ast.MatMult)):
        return ast.BinOp(_with_sign(True, e.left), e.op, e.right)
    return ast.UnaryOp(ast.USub(), e)


# -- as text ---------------------------------------------------------------------------------------


def show(node: ast.expr, least: int = 0) -> str:
    """An expression on one line, as ruff writes it; in parentheses where it binds less than ``least``."""
    text, level = _show(node)
    return text if level >= least else f"({text})"


def _show(node: ast.expr) -> tuple[str, int]:
    match node:
        case ast.Name(id=name):
            return name, _ATOM
        case ast.Constant(value=str() as text):
            return f'"{text}"', _ATOM
        case ast.Constant(value=value):
            return "..." if value is ... else repr(value), _ATOM
        case ast.Attribute(value=owner, attr=attr):
            shown = show(owner, _ATOM)
            if isinstance(owner, ast.Constant):
                shown = f"({shown})"
            return f"{shown}.{attr}", _ATOM
        case ast.Call(func=func, args=args, keywords=keywords):
            inner = [show(a) for a in args] + [_keyword(k) for k in keywords]
            return f"{show(func, _ATOM)}({', '.join(inner)})", _ATOM
        case ast.Subscript(value=owner, slice=ast.Tuple(elts=[_, _, *_] as parts)):
            return f"{show(owner, _ATOM)}[{', '.join(show(p) for p in parts)}]", _ATOM
        case ast.Subscript(value=owner, slice=place):
            return f"{show(owner, _ATOM)}[{show(place)}]", _ATOM
        case ast.Slice(lower=lower, upper=upper, step=step):
            simple = all(
                e is None or isinstance(e, (ast.Name, ast.Constant, ast.UnaryOp))
                for e in (lower, upper)
            )
            colon = ":" if simple else " : "
            text = f"{show(lower) if lower else ''}{colon}{show(upper) if upper else ''}"
            return (text if step is None else f"{text}:{show(step)}").strip(), _ATOM
        case ast.Tuple(elts=parts):
            comma = "," if len(parts) == 1 else ""
            return f"({', '.join(show(p) for p in parts)}{comma})", _ATOM
        case ast.List(elts=parts):
            return f"[{', '.join(show(p) for p in parts)}]", _ATOM
        case ast.Starred(value=value):
            return f"*{show(value, _ATOM)}", _ATOM
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            least = _POWER + 1 if isinstance(operand, ast.BinOp) else _UNARY
            return f"-{show(operand, least)}", _UNARY
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return f"~{show(operand, _POWER + 1)}", _UNARY
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return f"{show(left, 2)} {_RELATIONS[type(op)]} {show(right, 2)}", _COMPARE
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            sign = "**" if _is_simple(left) and _is_simple(right) else " ** "
            return f"{show(left, _POWER + 1)}{sign}{show(right, _UNARY)}", _POWER
        case ast.BinOp(left=left, op=op, right=right):
            sign, level = _INFIX[type(op)]
            # Products of matrices and of elements side by side are told apart by parentheses.
            first = _ATOM if _mixed(op, left) else level
            return f"{show(left, first)} {sign} {show(right, level + 1)}", level
    raise TypeError(f"no such expression in generated code: {ast.unparse(node)}")


def _mixed(op: ast.operator, left: ast.expr) -> bool:
    if not isinstance(left, ast.BinOp) or _INFIX[type(left.op)][1] != _INFIX[type(op)][1]:
        return False
    return isinstance(op, ast.MatMult) != isinstance(left.op, ast.MatMult)


def _keyword(k: ast.keyword) -> str:
    return f"{k.arg}={show(k.value)}" if k.arg else f"**{show(k.value)}"


def _is_simple(node: ast.expr) -> bool:
    """An operand around which ``**`` has no blanks."""
    if isinstance(node, ast.UnaryOp):
        return _is_simple(node.operand)
    if isinstance(node, ast.Attribute):
        return _is_simple(node.value)
    return isinstance(node, (ast.Name, ast.Constant))


def laid_out(target: str, value: ast.expr, indent: int) -> list[str]:
    """``target = value``, broken at its brackets where it is too long."""
    head = "return " if target == "return" else f"{target} = " if target else ""
    return _broken(head, value, "", indent)


def _broken(head: str, value: ast.expr, tail: str, indent: int) -> list[str]:
    pad = " " * indent
    line = f"{pad}{head}{show(value)}{tail}"
    parts: Sequence[tuple[str, ast.expr]]
    match value:
        case _ if len(line) <= WIDTH:
            return [line]
        case ast.Call(func=func, args=args, keywords=keywords):
            opening, closing = f"{show(func, _ATOM)}(", ")"
            parts = [("", a) for a in args] + [(f"{k.arg}=", k.value) for k in keywords]
        case ast.List(elts=elts):
            opening, closing, parts = "[", "]", [("", e) for e in elts]
        case ast.Tuple(elts=elts):
            opening, closing, parts = "(", ")", [("", e) for e in elts]
        case _:
            return [line]
    inner = " " * (indent + 4) + ", ".join(f"{name}{show(v)}" for name, v in parts)
    if len(inner) <= WIDTH and isinstance(value, ast.Call):
        return [f"{pad}{head}{opening}", inner, f"{pad}{closing}{tail}"]
    found = [f"{pad}{head}{opening}"]
    for name, part in parts:
        found += _broken(name, part, ",", indent + 4)
    return [*found, f"{pad}{closing}{tail}"]


# -- names for parts -------------------------------------------------------------------------------


class Names:
    """Gives names that are free."""

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken)

    def free(self, hint: str) -> str:
        name, count = hint, 1
        while name in self.taken:
            count += 1
            name = f"{hint}_{count}"
        self.taken.add(name)
        return name


def _hint(node: ast.expr) -> str:
    match node:
        case ast.Compare() | ast.UnaryOp(op=ast.Invert()):
            return "mask"
        case ast.Call(func=ast.Attribute(attr=attr)):
            return _WORTH.get(attr, attr)
        case ast.BinOp(op=op):
            return _MADE.get(type(op), "part")
    return "part"


_MADE: dict[type[ast.operator], str] = {
    ast.BitAnd: "mask", ast.BitOr: "mask", ast.Sub: "diff", ast.Mult: "product",
    ast.MatMult: "product", ast.Div: "ratio", ast.Pow: "power",
}  # fmt: skip
_WORTH = {
    "sum": "total", "sum_to_size": "total", "mean": "total", "softmax": "p", "sqrt": "root",
    "where": "chosen", "abs": "size", "inv": "inverse", "zeros_like": "zeros",
    "new_zeros": "zeros", "ones_like": "ones", "new_ones": "ones", "arange": "places",
    "cat": "joined", "flatten": "flat", "reshape": "shaped", "pad": "padded", "to": "cast",
    "max": "largest", "min": "smallest", "pow": "power", "round": "rounded", "T": "turned",
    "amax": "largest", "amin": "smallest", "median": "middle", "kthvalue": "picked",
}  # fmt: skip


def _parts(node: ast.AST) -> Iterator[ast.expr]:
    """The subexpressions that may be named, outermost first; not those that are only arguments'
    numbers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.BinOp, ast.Compare, ast.UnaryOp)) or (
            isinstance(child, ast.Call) and not isinstance(node, ast.Attribute)
        ):
            if has_tensor(child):
                yield child
        yield from _parts(child)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
        yield node.value


def has_tensor(node: ast.expr) -> bool:
    """Whether it computes with tensors: numbers, sizes and dtypes do not."""
    match node:
        case ast.Attribute(value=ast.Name(id="math" | "torch" | "F" | "ctx")):
            return False
        case ast.Attribute(attr="shape" | "dtype" | "device"):
            return False
        case ast.Call(func=ast.Attribute(attr="numel" | "size")):
            return False
        case ast.Call(func=ast.Attribute(attr="arange" | "eye")):
            return True
        case ast.Name(id=name):
            return name not in ("math", "torch", "F", "ctx")
    return any(has_tensor(c) for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr))


def _numbered(node: Any, numbers: dict[Any, int]) -> Any:
    """The same number for equal trees, which each node of them has as ``number`` from now on."""
    if isinstance(node, list):
        return tuple(_numbered(part, numbers) for part in node)
    if not isinstance(node, ast.AST):
        return repr(node)
    key = type(node), *(_numbered(value, numbers) for _, value in ast.iter_fields(node))
    node.number = numbers.setdefault(key, len(numbers))  # type: ignore[attr-defined]
    return node.number  # type: ignore[attr-defined]


def _named(node: ast.expr, number: int, name: str) -> ast.expr:
    """A name in the place of an expression, wherever it stands."""

    def change(e: ast.expr) -> ast.expr | None:
        return ast.Name(name, ast.Load()) if getattr(e, "number", None) == number else None

    return changed(node, change)


def put(node: ast.expr, name: str, value: ast.expr) -> ast.expr:
    """``value`` in the place of a name."""
    return changed(node, lambda e: value if isinstance(e, ast.Name) and e.id == name else None)


def _cheap(node: ast.expr, calls: Collection[str] = ()) -> bool:
    """What costs nothing to write twice: a view, a sign."""
    made = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr
    return made in calls if calls else isinstance(node, ast.UnaryOp) or made in _CHEAP


_VIEWS = {
    "unsqueeze", "squeeze", "expand", "expand_as", "reshape", "permute", "transpose", "movedim",
    "unflatten", "flatten", "detach", "diagonal", "narrow", "select", "t",
}  # fmt: skip
_CHEAP = {*_VIEWS, *_FRESH}


def renumbered(statements: Sequence[Statement], taken: Iterable[str]) -> list[Statement]:
    """``sigma`` instead of ``sigma_2`` where nothing else is called so."""
    found = list(statements)
    used = set(taken).union(*(names_in(s.value) | {s.target} for s in found))
    for target in dict.fromkeys(s.target for s in found):
        plain, _, number = target.rpartition("_")
        if number.isdigit() and plain.isidentifier() and plain not in used:
            used.add(plain)
            found = [s.renamed(target, plain) for s in found]
    return found


def lean(statements: Sequence[Statement], results: Iterable[str]) -> list[Statement]:
    """Without second names of one value, and without what ``results`` are not made from."""
    results, found = set(results), list(statements)
    while alias := next(
        (s for s in found if isinstance(s.value, ast.Name) and s.target not in results), None
    ):
        assert isinstance(alias.value, ast.Name)
        name = alias.value.id
        found = [o.renamed(alias.target, name) for o in found if o is not alias]
    needed, kept = set(results), []
    for s in reversed(found):
        if s.target in needed:
            needed |= names_in(s.value)
            kept.append(s)
    return kept[::-1]


def once(
    statements: Sequence[Statement], names: Names, results: Iterable[str] = ()
) -> list[Statement]:
    """What several statements compute, or one computes twice, is computed once.

    With ``results`` nothing else is left than what they are made from.
    """
    found = [Statement(s.target, copy.deepcopy(s.value), s.only) for s in statements]
    results = tuple(results)
    numbers: dict[Any, int] = {}
    order: dict[int, tuple[int, str]] = {}  # the longest goes first
    while True:
        found = lean(found, results) if results else found
        seen: dict[int, list[tuple[int, ast.expr]]] = {}
        for place, s in enumerate(found):
            _numbered(s.value, numbers)
            # A view that has two names is one too.
            view = results and s.target not in results and _cheap(s.value, _VIEWS)
            for part in [s.value, *_parts(s.value)]:
                cheap = isinstance(part, (ast.Name, ast.Constant)) or _cheap(part)
                if not cheap or (view and part is s.value):
                    seen.setdefault(part.number, []).append((place, part))  # type: ignore[attr-defined]
        repeated = {k: at for k, at in seen.items() if len(at) > 1}
        if not repeated:
            return found
        for k in repeated.keys() - order.keys():
            part = repeated[k][0][1]
            order[k] = len(show(part)), ast.dump(part)
        key = max(repeated, key=order.__getitem__)
        places = repeated[key]
        first, part = places[0]
        if found[first].value is part and found[first].target.isidentifier():
            name, start = found[first].target, first + 1
        else:
            users = {found[place].only for place, _ in places}
            name, start = names.free(_hint(part)), first
            only = users.pop() if len(users) == 1 else ""
            part = ast.parse(ast.unparse(part), mode="eval").body
            found.insert(first, Statement(name, part, only))
            start = first + 1
        changed = [
            Statement(s.target, _named(s.value, key, name), s.only) if k >= start else s
            for k, s in enumerate(found)
        ]
        if found[first].only and any(found[place].only != found[first].only for place, _ in places):
            changed[first] = Statement(changed[first].target, changed[first].value, "")
        found = changed


def split(s: Statement, names: Names, room: int) -> list[Statement]:
    """A statement in parts that each fit in ``room`` columns."""
    width = room - len(s.target) - 3
    if len(show(s.value)) <= width:
        return [s]
    best: tuple[int, ast.expr] | None = None
    for part in _parts(s.value):
        size = len(show(part))
        left = len(show(s.value)) - size
        if size < 8:
            continue
        worst = max(size, left)
        if best is None or worst < best[0]:
            best = worst, part
    if best is None:
        return [s]
    name = names.free(_hint(best[1]))
    first = Statement(name, best[1], s.only)
    numbers: dict[Any, int] = {}
    _numbered(s.value, numbers)
    rest = Statement(s.target, _named(s.value, _numbered(best[1], numbers), name), s.only)
    return [*split(first, names, room), *split(rest, names, room)]


# -- reading ---------------------------------------------------------------------------------------


def names_in(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def cost(statements: Iterable[Statement]) -> float:
    """A rough count of passes over memory."""
    return sum(_price(s.value) for s in statements)


def _price(node: ast.AST) -> float:
    own = 0.0
    if isinstance(node, ast.Subscript):
        own = 8 * show(node.slice).count("None")  # an outer product, as a rule summed again
    elif isinstance(node, (ast.BinOp, ast.Compare, ast.UnaryOp)) and has_tensor(node):
        own = 8 if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult) else 1
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        own = call_cost(node.func.attr)
    return own + sum(_price(child) for child in ast.iter_child_nodes(node))


def call_cost(name: str) -> float:
    return 0 if name in _VIEWS or name in ("T", "mT") else _COSTLY.get(name, 1)


#: What takes longer than one pass over memory.  ndtr is a scalar loop, einsum a matrix product.
_COSTLY = dict.fromkeys(
    ("exp", "log", "tanh", "sigmoid", "erf", "sin", "cos", "softmax", "log_softmax", "lgamma",
     "digamma", "inv", "cumprod", "softplus", "logsumexp"), 3
) | {"einsum": 8, "matmul": 8, "mm": 8, "bmm": 8, "ndtr": 20}  # fmt: skip


def unpacked(found: Sequence[Statement]) -> list[Statement]:
    """``values = z.values`` and ``idx = z.indices`` of one call ``z`` as ``values, idx = …``, the
    same of ``u = z[0]``, ``s = z[1]``, …"""
    left = list(found)
    for s in found:
        users = [o for o in left if o is not s and s.target in names_in(o.value)]
        picked = sorted((_pick(o.value, s.target), o.target) for o in users)
        whole = isinstance(s.value, ast.Call) and len({o.only for o in users}) == 1
        if whole and len(users) > 1 and [p for p, _ in picked] == list(range(len(users))):
            pair = Statement(", ".join(t for _, t in picked), s.value, users[0].only)
            left = [pair if o is s else o for o in left if not any(o is u for u in users)]
    return left


def _pick(e: ast.expr, name: str) -> int:
    """Which of several results ``e`` takes, -1 for none."""
    match e:
        case ast.Attribute(value=ast.Name(id=owner), attr=("values" | "indices") as attr):
            return ("values", "indices").index(attr) if owner == name else -1
        case ast.Subscript(value=ast.Name(id=owner), slice=ast.Constant(value=int() as place)):
            return place if owner == name else -1
    return -1


def changed(node: ast.expr, change: Callable[[ast.expr], ast.expr | None]) -> ast.expr:
    """``node`` with every expression for which ``change`` gives another replaced by it."""

    class Change(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            new = change(node) if isinstance(node, ast.expr) else None
            return self.generic_visit(node) if new is None else new

    found: ast.expr = Change().visit(node)
    return found
