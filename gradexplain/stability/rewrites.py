"""Rewrites that keep digits: one table, read by ``gradexplain stability`` and by the notes of ``run``.

A row is two expressions with capital letters for their parts.  A rewrite is *proposed* only where it
was measured to be equal and better (`gradexplain.stability.search`), so a row may be tried where it
does not help.  Sources: D. Goldberg, *What every computer scientist should know about floating-point
arithmetic* (1991); N. Higham, *Accuracy and Stability of Numerical Algorithms* (2002), chapter 1; the
benchmarks of the Herbie project.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

from gradexplain.reading.names import functions


@dataclass(frozen=True, slots=True)
class Rewrite:
    """``old`` is written as ``new``; ``why`` says what ``old`` loses."""

    old: str
    new: str
    why: str


_CANCELS = "two numbers that are nearly equal are subtracted"
_ROUNDS = "1 + a small number forgets the small number's digits"
_OVERFLOWS = "an exponential or a square leaves the range of the dtype"
_INFINITE = "the branch that is not taken has an infinite derivative, and 0·inf is nan"

REWRITES: tuple[Rewrite, ...] = tuple(Rewrite(*row) for row in (
    # a difference with 1
    ("log(sum(exp(A)))", "logsumexp(A, 0)", _OVERFLOWS),
    ("log(sum(exp(A), B))", "logsumexp(A, B)", _OVERFLOWS),
    ("exp(A)/sum(exp(A))", "softmax(A, 0)", _OVERFLOWS),
    ("log(softmax(A, B))", "log_softmax(A, B)", _OVERFLOWS),
    ("nll_loss(log(softmax(A, 1)), B)", "cross_entropy(A, B)", _OVERFLOWS),
    ("binary_cross_entropy(sigmoid(A), B)", "binary_cross_entropy_with_logits(A, B)", _ROUNDS),
    ("log(sigmoid(A))", "logsigmoid(A)", _OVERFLOWS),
    ("log(1 - sigmoid(A))", "logsigmoid(-A)", _CANCELS),
    ("log(1/(1 + exp(-A)))", "logsigmoid(A)", _OVERFLOWS),
    ("log(1 + exp(A))", "softplus(A)", _OVERFLOWS),
    ("log(1 + exp(A))", "logaddexp(A, zeros_like(A))", _OVERFLOWS),
    ("log(exp(A) + exp(B))", "logaddexp(A, B)", _OVERFLOWS),
    ("1/(1 + exp(-A))", "sigmoid(A)", _OVERFLOWS),
    ("1/(1 + exp(A))", "sigmoid(-A)", _OVERFLOWS),
    ("exp(A)/(1 + exp(A))", "sigmoid(A)", _OVERFLOWS),
    ("(exp(A) - exp(-A))/(exp(A) + exp(-A))", "tanh(A)", _OVERFLOWS),
    ("(exp(A) - exp(-A))/2", "sinh(A)", _CANCELS),
    ("exp(A) - exp(-A)", "2*sinh(A)", _CANCELS),
    ("exp(A) - 2 + exp(-A)", "4*sinh(A/2)**2", _CANCELS),
    ("exp(A) - 1", "expm1(A)", _CANCELS),
    ("1 - exp(A)", "-expm1(A)", _CANCELS),
    ("exp(A)/(exp(A) - 1)", "-1/expm1(-A)", _CANCELS),
    ("log((1 + A)/(1 - A))", "2*atanh(A)", _ROUNDS),
    ("log((1 - A)/(1 + A))", "-2*atanh(A)", _ROUNDS),
    ("log(1 - A)/log(1 + A)", "log1p(-A)/log1p(A)", _ROUNDS),
    ("log(A + 1) - log(A)", "log1p(1/A)", _CANCELS),
    ("log(1 + A)", "log1p(A)", _ROUNDS),
    ("log(1 - A)", "log1p(-A)", _ROUNDS),
    ("log(A) - log(B)", "log(A/B)", _CANCELS),
    ("log(A + sqrt(A*A + 1))", "asinh(A)", _CANCELS),
    ("log(A + sqrt(A**2 + 1))", "asinh(A)", _CANCELS),
    # roots and squares
    ("sqrt(1 + A) - 1", "A/(sqrt(1 + A) + 1)", _CANCELS),
    ("1 - sqrt(1 - A)", "A/(1 + sqrt(1 - A))", _CANCELS),
    ("sqrt(A + B) - sqrt(A)", "B/(sqrt(A + B) + sqrt(A))", _CANCELS),
    ("sqrt(A) - sqrt(B)", "(A - B)/(sqrt(A) + sqrt(B))", _CANCELS),
    ("sqrt(A*A + B) - A", "B/(sqrt(A*A + B) + A)", _CANCELS),
    ("sqrt(A**2 + B) - A", "B/(sqrt(A**2 + B) + A)", _CANCELS),
    ("1/sqrt(A) - 1/sqrt(A + 1)", "1/(sqrt(A)*sqrt(A + 1)*(sqrt(A) + sqrt(A + 1)))", _CANCELS),
    ("sqrt(A*A + B*B)", "hypot(A, B)", _OVERFLOWS),
    ("sqrt(A**2 + B**2)", "hypot(A, B)", _OVERFLOWS),
    ("sqrt(sum(A*A))", "norm(A)", _OVERFLOWS),
    ("sqrt(sum(A**2))", "norm(A)", _OVERFLOWS),
    ("A*A - B*B", "(A - B)*(A + B)", _CANCELS),
    ("A**2 - B**2", "(A - B)*(A + B)", _CANCELS),
    ("(1 + A)**2 - 1", "A*(A + 2)", _CANCELS),
    ("(A + B)**2 - A**2", "B*(2*A + B)", _CANCELS),
    ("mean(A*A) - mean(A)**2", "mean((A - mean(A))**2)", _CANCELS),
    ("mean(A**2) - mean(A)**2", "mean((A - mean(A))**2)", _CANCELS),
    # fractions
    ("1/(A + 1) - 1/A", "-1/(A*(A + 1))", _CANCELS),
    ("1/A - 1/(A + 1)", "1/(A*(A + 1))", _CANCELS),
    ("1/(A + 1) - 2/A + 1/(A - 1)", "2/(A*(A + 1)*(A - 1))", _CANCELS),
    ("A/(A + 1) - (A + 1)/(A - 1)", "-(3*A + 1)/((A + 1)*(A - 1))", _CANCELS),
    # angles
    ("(1 - cos(A))/A**2", "0.5*sinc(A/(2*pi))**2", _CANCELS),
    ("(1 - cos(A))/(A*A)", "0.5*sinc(A/(2*pi))**2", _CANCELS),
    ("(1 - cos(A))/sin(A)", "tan(A/2)", _CANCELS),
    ("1 - cos(A)", "2*sin(A/2)**2", _CANCELS),
    ("sin(A + B) - sin(A)", "2*cos(A + B/2)*sin(B/2)", _CANCELS),
    ("cos(A + B) - cos(A)", "-2*sin(A + B/2)*sin(B/2)", _CANCELS),
    ("tan(A + B) - tan(A)", "sin(B)/(cos(A)*cos(A + B))", _CANCELS),
    ("cos(A)**2 - sin(A)**2", "cos(2*A)", _CANCELS),
    ("atan(A + 1) - atan(A)", "atan(1/(1 + A*(A + 1)))", _CANCELS),
    # the derivative of what where() does not take
    ("where(A > 0, sqrt(A), B)", "where(A > 0, sqrt(where(A > 0, A, 1)), B)", _INFINITE),
    ("where(A > 0, log(A), B)", "where(A > 0, log(where(A > 0, A, 1)), B)", _INFINITE),
    ("where(A > 0, 1/A, B)", "where(A > 0, 1/where(A > 0, A, 1), B)", _INFINITE),
    ("where(A != 0, B/A, C)", "where(A != 0, B/where(A != 0, A, 1), C)", _INFINITE),
))  # fmt: skip


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
                    if words == [] and len(args) == 2 and node.keywords:
                        pass
                function = ast.Name(function.attr, ast.Load())
            return ast.Call(function, args, words)

        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(names[node.id]) if node.id in names else node

    made: ast.expr = Plain().visit(copy.deepcopy(node))
    return made


def rewritten(expression: ast.expr) -> Iterator[tuple[Rewrite, ast.expr, str]]:
    """Each way to apply one row at one place: the row, the new expression, the old part's text."""
    for row, (old, new) in zip(REWRITES, _TREES, strict=True):
        for path, part in _parts(expression, ()):
            found = _matched(old, part, {})
            if found is not None:
                made = _replaced(expression, path, _filled(new, found))
                yield row, made, written(part)


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
    if isinstance(pattern, ast.Name) and pattern.id in ("A", "B", "C"):
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


def _filled(pattern: ast.expr, parts: dict[str, ast.expr]) -> ast.expr:
    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(parts[node.id]) if node.id in parts else node

    made: ast.expr = Fill().visit(copy.deepcopy(pattern))
    return made


_TREES = [
    (ast.parse(row.old, mode="eval").body, ast.parse(row.new, mode="eval").body) for row in REWRITES
]


def written(expression: ast.expr) -> str:
    """The expression as PyTorch code: ``torch.expm1(x)``."""

    class Homes(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            records = functions("", node.func.id) if isinstance(node.func, ast.Name) else []
            if records:
                spelling = records[0].spellings[0]
                path = spelling if not spelling.startswith("Tensor.") else f"torch.{node.func.id}"  # type: ignore[attr-defined]
                if spelling.startswith(("special.", "linalg.")):
                    path = f"torch.{spelling}"
                node.func = ast.Name(path, ast.Load())
            return node

        def visit_Name(self, node: ast.Name) -> ast.AST:
            return ast.Name("torch.pi", ast.Load()) if node.id == "pi" else node

    return ast.unparse(ast.fix_missing_locations(Homes().visit(copy.deepcopy(expression))))
