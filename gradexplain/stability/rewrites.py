"""The table of rewrites applied to an expression's text, one row at one place at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator

from gradexplain.verdict.rewrites import REWRITES, filled, written


def inlined(body: tuple[ast.stmt, ...]) -> ast.expr | None:
    """Assignments and a last expression as one expression; None where there is more to the text."""
    names: dict[str, ast.expr] = {}
    last: ast.expr | None = None
    for node in body:
        if isinstance(node, ast.Expr):
            last = _plain(node.value, names)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            last = names[node.targets[0].id] = _plain(node.value, names)
        else:
            return None
    return last


def _plain(node: ast.expr, names: dict[str, ast.expr]) -> ast.expr:
    """The expression with calls as ``name(x, …)`` and assigned names written out."""

    class Plain(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            args = [self.visit(arg) for arg in node.args]
            words = [ast.keyword(k.arg, self.visit(k.value)) for k in node.keywords]
            if [k.arg for k in words] == ["dim"] and len(args) < 2:
                args, words = [*args, words[0].value], []
            function = node.func
            if isinstance(function, ast.Attribute):
                owner = function.value
                while isinstance(owner, ast.Attribute):
                    owner = owner.value
                module = isinstance(owner, ast.Name) and owner.id in ("torch", "F", "math", "nn")
                if not module:
                    args = [self.visit(function.value), *args]
                function = ast.Name(function.attr, ast.Load())
            return ast.Call(function, args, words)

        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(names[node.id]) if node.id in names else node

    made: ast.expr = Plain().visit(copy.deepcopy(node))
    return made


def rewritten(expression: ast.expr) -> Iterator[tuple[ast.expr, tuple[str, str, str]]]:
    """Each way to apply one row at one place: the new expression; the part as it was and is, and why."""
    for row, (old, new) in zip(REWRITES, _TREES, strict=True):
        for path, part in _parts(expression, ()):
            found = _matched(old, part, {})
            if found is not None:
                instead = filled(new, found)
                said = written(part), written(instead), row.why
                yield _replaced(expression, path, instead), said


def _parts(
    node: ast.AST, path: tuple[tuple[str, int], ...]
) -> Iterator[tuple[tuple[tuple[str, int], ...], ast.expr]]:
    if isinstance(node, ast.expr):
        yield path, node
    for name, value in ast.iter_fields(node):
        for place, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                yield from _parts(child, (*path, (name, place)))


def _replaced(node: ast.expr, path: tuple[tuple[str, int], ...], new: ast.expr) -> ast.expr:
    if not path:
        return new
    made = copy.deepcopy(node)
    at: ast.AST = made
    for step, (name, place) in enumerate(path):
        value = getattr(at, name)
        if step == len(path) - 1:
            if isinstance(value, list):
                value[place] = new
            else:
                setattr(at, name, new)
        else:
            at = value[place] if isinstance(value, list) else value
    return made


def _matched(
    pattern: ast.AST, node: ast.AST, known: dict[str, ast.expr]
) -> dict[str, ast.expr] | None:
    """What the capital letters of a pattern stand for; sums and products match either way round."""
    if isinstance(pattern, ast.Name) and pattern.id in ("A", "B", "C", "D"):
        if not isinstance(node, ast.expr):
            return None
        if pattern.id in known:
            same = ast.dump(known[pattern.id]) == ast.dump(node)
            return known if same else None
        return {**known, pattern.id: node}
    if type(pattern) is not type(node):
        return None
    if isinstance(pattern, ast.Constant) and isinstance(node, ast.Constant):
        return known if pattern.value == node.value else None
    if isinstance(pattern, ast.Name) and isinstance(node, ast.Name):
        return known if pattern.id == node.id else None
    if isinstance(pattern, ast.BinOp) and isinstance(node, ast.BinOp):
        if type(pattern.op) is not type(node.op):
            return None
        sides = [(node.left, node.right)]
        if isinstance(node.op, (ast.Add, ast.Mult)):
            sides.append((node.right, node.left))
        for left, right in sides:
            found = _matched(pattern.left, left, known)
            if found is not None:
                found = _matched(pattern.right, right, found)
            if found is not None:
                return found
        return None
    if isinstance(pattern, ast.Call) and isinstance(node, ast.Call):
        last = pattern.args[-1]
        if len(node.args) == len(pattern.args) - 1 and getattr(last, "id", "") == "D":
            # A sum over everything: over dim 0 where there is one dim, as measuring shows.
            node = ast.Call(node.func, [*node.args, ast.Constant(0)], node.keywords)
    children, others = [*ast.iter_child_nodes(pattern)], [*ast.iter_child_nodes(node)]
    if len(children) != len(others):
        return None
    found = known
    for child, other in zip(children, others, strict=True):
        step = _matched(child, other, found)
        if step is None:
            return None
        found = step
    return found


_TREES = [
    (ast.parse(row.old, mode="eval").body, ast.parse(row.new, mode="eval").body) for row in REWRITES
]
