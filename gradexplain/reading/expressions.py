"""Expressions: each node of the tree to its value, a `Tensor` or plain Python."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import Any

from gradexplain.reading import attributes
from gradexplain.reading.calls import call
from gradexplain.reading.names import CONSTANTS, DEFAULTS
from gradexplain.reading.objects import (
    Class,
    Function,
    Layer,
    Method,
    Module,
    Own,
    Tensor,
    Unread,
    formatted,
    what,
)
from gradexplain.reading.operators import COMPARE, binary, compare, subscript, unary
from gradexplain.reading.plain import TRACE
from gradexplain.reading.program import attribute_span, span
from gradexplain.reading.session import Session
from gradexplain.reading.targets import assign, iterated, under


def value(s: Session, node: ast.expr) -> Any:
    """The value of an expression; raises `GradexplainError` with the place of what is wrong."""
    s.step(span(s.program, node))
    match node:
        case ast.Constant(value=constant):
            return constant
        case ast.Name(id=name):
            return name_of(s, node, name)
        case ast.BinOp():
            return _chain(s, node)
        case ast.UnaryOp(op=op, operand=operand):
            return unary(s, op, value(s, operand), span(s.program, node), operand)
        case ast.BoolOp(op=op, values=parts):
            return _bool_op(s, op, parts)
        case ast.Compare():
            return _compare(s, node)
        case ast.IfExp(test=test, body=body, orelse=other):
            return value(s, body if truth(s, value(s, test), test) else other)
        case ast.Call():
            return _call(s, node)
        case ast.Attribute():
            return attribute(s, node)
        case ast.Subscript(value=owner, slice=index):
            return subscript(s, value(s, owner), value(s, index), span(s.program, node))
        case ast.Slice(lower=lower, upper=upper, step=step):
            return _slice(s, node, [lower, upper, step])
        case ast.Tuple(elts=parts):
            return tuple(_items(s, parts))
        case ast.List(elts=parts):
            return _items(s, parts)
        case ast.Set(elts=parts):
            return list(dict.fromkeys(_items(s, parts)))
        case ast.Dict(keys=keys, values=values):
            return _dict(s, keys, values)
        case ast.JoinedStr(values=parts):
            return _joined(s, node, parts) if s.python else s.text(span(s.program, node))
        case ast.ListComp(elt=element, generators=loops):
            return list(_comprehension(s, element, loops))
        case ast.GeneratorExp(elt=element, generators=loops):
            return s.generated(_comprehension(s, element, loops), [node], ())
        case ast.SetComp(elt=element, generators=loops):
            return list(dict.fromkeys(_comprehension(s, element, loops)))
        case ast.DictComp(key=key, value=element, generators=loops):
            pair = ast.Tuple([key, element], ast.Load())
            ast.copy_location(pair, element)
            return {n: under(n, part) for n, part in _comprehension(s, pair, loops)}
        case ast.Lambda(args=arguments, body=expression):
            return Own(
                "lambda", arguments, expression, defaults(s, arguments), s.scopes,
                span(s.program, node), s.program.place is not None,
            )  # fmt: skip
        case ast.NamedExpr(target=target, value=part):
            found = value(s, part)
            around = next(scope for scope in reversed(s.scopes) if _COMPREHENSION not in scope)
            with s.scope((around,)):
                s.assign(target.id, found)
            return found
        case ast.Yield(value=part) if s.yielded:
            s.yielded[-1].append(None if part is None else value(s, part))
            return None
        case ast.YieldFrom(value=part) if s.yielded:
            s.yielded[-1] += iterated(s, value(s, part), span(s.program, node))
            return None
        case ast.Starred(value=part):
            s.refuse("cannot unpack values here", span(s.program, part))
    what = "`yield`" if isinstance(node, (ast.Yield, ast.YieldFrom)) else "this"
    s.fail(f"{what} is not part of the language", span(s.program, node), "leave it out")


def _chain(s: Session, node: ast.BinOp) -> Any:
    """``a + b − c …`` from the left: its tree is as deep as it is long."""
    parts = [node]
    while isinstance(node.left, ast.BinOp):
        node = node.left
        s.step(span(s.program, node))
        parts.append(node)
    found = value(s, node.left)
    for part in reversed(parts):
        both = part.left, part.right
        other = value(s, part.right)
        found = binary(s, type(part.op), found, other, span(s.program, part), both)
    return found


def name_of(s: Session, node: ast.expr, name: str) -> Any:
    """What a name stands for: what was assigned, a constant, a module, else an input."""
    place = span(s.program, node)
    try:
        return s.lookup(name)
    except KeyError:
        pass
    given = name in s.inputs.given or name in s.inputs.ones
    if name in CONSTANTS and not given:
        return CONSTANTS[name]
    if name in ("torch", "F", "nn") and not given:
        s.refuse("a module", place, name=name)
    if name in ("__name__", "__file__"):
        return "__main__"
    if s.python and name in PLAIN and not given:
        return Function(name)
    return s.free(name, place)


#: Python's own functions that may be handed on by name, as in ``map(float, …)``.
PLAIN = frozenset({"float", "int", "str", "bool", "abs", "len", "print", "tuple", "list", "dict",
                   "isinstance", "getattr", "sum", "min", "max", "range"})  # fmt: skip


def truth(s: Session, found: Any, node: ast.expr) -> bool:
    """Whether a condition holds; one of a tensor is computed."""
    place = span(s.program, node)
    if isinstance(found, Tensor):
        if math.prod(found.shape) != 1:
            s.refuse("truth of a tensor", place)
        if s.before is not None:
            if not s.before:
                s.unsupported("this condition was not met before", place, TRACE)
            return s.before.pop(0)
        numbers = s.number(found, place)
        nodes = s.builder.nodes
        if found.ref is None or any(nodes[id].is_leaf for id in s.needed(found.ref.id)):
            s.decided(place, "another way")
        s.ways.append(bool(numbers.reshape(-1)[0]))
        return s.ways[-1]
    s.need(place, found)
    return bool(found)


def defaults(s: Session, arguments: ast.arguments) -> dict[str, Any]:
    """The default values of a function's arguments, worked out where it is written."""
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    last = names[len(names) - len(arguments.defaults) :]
    found = {name: value(s, node) for name, node in zip(last, arguments.defaults, strict=True)}
    for argument, node in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if node is not None:
            found[argument.arg] = value(s, node)
    return found


def attribute(s: Session, node: ast.Attribute) -> Any:
    """``x.shape``, ``torch.pi``, a method that is about to be called."""
    owner = _owner(s, node.value)
    return attributes.attribute(
        s, owner, node.attr, attribute_span(s.program, node), span(s.program, node)
    )


def _owner(s: Session, node: ast.expr) -> Any:
    """What stands before a dot: there, the name of a module is the module."""
    if isinstance(node, ast.Name) and not s.assigned(node.id) and node.id in DEFAULTS:
        if node.id not in s.inputs.given and node.id not in s.inputs.ones:
            return Module(DEFAULTS[node.id])
    return value(s, node)


def _call(s: Session, node: ast.Call) -> Any:
    place = span(s.program, node)
    where = place
    if isinstance(node.func, ast.Name):
        where = span(s.program, node.func)
        name = node.func.id
        function = s.lookup(name) if s.assigned(name) else Function(name)
    elif isinstance(node.func, ast.Attribute):
        owner = _owner(s, node.func.value)
        whole = isinstance(owner, Module)
        where = (span if whole else attribute_span)(s.program, node.func)
        held = owner.children | owner.attributes if isinstance(owner, Layer) else ()
        if whole or node.func.attr in held:
            function = attribute(s, node.func)
        else:
            function = Method(owner, node.func.attr, span(s.program, node.func.value))
    else:
        where = span(s.program, node.func)
        function = value(s, node.func)
    args = _items(s, node.args)
    kwargs: dict[str, Any] = {}
    for keyword in node.keywords:
        found = value(s, keyword.value)
        if keyword.arg is not None:
            kwargs[keyword.arg] = found
        elif isinstance(found, dict):
            kwargs |= {str(key): part for key, part in found.items()}
        else:
            s.refuse("cannot unpack", span(s.program, keyword), what=what(found))
    if not isinstance(function, (Function, Own, Class, Layer, Method, Unread, Module)):
        s.refuse("cannot be called", where, what=what(function))
    return call(s, function, tuple(args), kwargs, place, where)


def _joined(s: Session, node: ast.expr, parts: list[ast.expr]) -> Any:
    """An f-string of names that stand for numbers and texts; any other is not read."""
    inside = [n for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Call, ast.Attribute))]
    template, given = "", []
    for part in parts:
        if isinstance(part, ast.FormattedValue):
            template += f"{{:{ast.unparse(part.format_spec)[2:-1] if part.format_spec else ''}}}"
            given.append(part.value)
        else:
            template += ast.literal_eval(part).replace("{", "{.").replace("}", "{.")
    plain = all(isinstance(n, ast.Name) and s.assigned(n.id) for n in inside)
    found = formatted(str.format, template, *(value(s, n) for n in given)) if plain else None
    return Unread(s.text(span(s.program, node)), TRACE) if found is None else found


def _items(s: Session, nodes: list[ast.expr]) -> list[Any]:
    """The values of a list's elements, ``*parts`` spread."""
    found: list[Any] = []
    for node in nodes:
        if isinstance(node, ast.Starred):
            found += iterated(s, value(s, node.value), span(s.program, node))
        else:
            found.append(value(s, node))
    return found


def _dict(s: Session, keys: list[ast.expr | None], values: list[ast.expr]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, node in zip(keys, values, strict=True):
        part = value(s, node)
        if key is None:
            found |= part if isinstance(part, dict) else {}
            continue
        name = value(s, key)
        found[name if isinstance(name, (str, int, float)) else str(name)] = under(name, part)
    return found


def _slice(s: Session, node: ast.Slice, ends: list[ast.expr | None]) -> slice:
    parts = [None if end is None else value(s, end) for end in ends]
    parts = [
        int(s.number(p, span(s.program, node)).reshape(-1)[0])
        if isinstance(p, Tensor) and math.prod(p.shape) == 1 and p.dtype in ("int64", "int32")
        else p
        for p in parts
    ]
    if any(p is not None and (isinstance(p, bool) or not isinstance(p, int)) for p in parts):
        s.fail("a slice takes integers", span(s.program, node), "write whole numbers")
    return slice(*parts)


def _bool_op(s: Session, op: ast.boolop, parts: list[ast.expr]) -> Any:
    found: Any = None
    for part in parts:
        found = value(s, part)
        if isinstance(found, Tensor) and not s.python:
            place = span(s.program, part)
            s.refuse("and of tensors", place)
        if truth(s, found, part) != isinstance(op, ast.And):
            break
    return found


def _compare(s: Session, node: ast.Compare) -> Any:
    """A comparison; a chain of them is one of each pair, as in Python."""
    left = value(s, node.left)
    found: Any = True
    for op, right_node in zip(node.ops, node.comparators, strict=True):
        right = value(s, right_node)
        place = span(s.program, node)
        words = (ast.Is, ast.IsNot, ast.In, ast.NotIn)
        if isinstance(op, words) and not s.python:
            s.fail("`in` and `is` do not compare tensors", place, "compare with `==` or `!=`")
        if isinstance(op, (ast.Is, ast.IsNot)):
            found = (left is right) == isinstance(op, ast.Is)
        elif isinstance(op, (ast.In, ast.NotIn)):
            s.need(place, right)
            held = right if isinstance(right, (list, tuple, dict, str, range)) else ()
            found = (not isinstance(left, Tensor) and left in held) == isinstance(op, ast.In)
        else:
            found = compare(s, COMPARE[type(op)], left, right, place)
        if len(node.ops) > 1 and not truth(s, found, node):
            return False
        left = right
    return found


#: What the scope of a comprehension holds: ``:=`` in it assigns to the one around it.
_COMPREHENSION = "[]"


def _comprehension(s: Session, element: ast.expr, loops: list[ast.comprehension]) -> Iterator[Any]:
    """The elements of a comprehension, in a scope of its own."""
    with s.scope((*s.scopes, {_COMPREHENSION: True})):
        yield from _looped(s, element, loops)


def _looped(s: Session, element: ast.expr, loops: list[ast.comprehension]) -> Iterator[Any]:
    if not loops:
        yield value(s, element)
        return
    loop = loops[0]
    for part in iterated(s, value(s, loop.iter), span(s.program, loop.iter)):
        assign(s, loop.target, part, span(s.program, loop.target))
        if all(truth(s, value(s, test), test) for test in loop.ifs):
            yield from _looped(s, element, loops[1:])
