"""The table of edits, its end: what a sum, or a whole formula, may lack."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

from gradexplain.checking.rewriting import (
    Found,
    Scope,
    atom,
    made,
    rule,
    text,
)


@rule("missing_term", paired=False)
def _terms(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """A term that a product has, and this sum has not."""
    if not isinstance(node, ast.expr) or isinstance(node, (ast.Tuple, ast.List, ast.Constant)):
        return
    if scope.place not in ("head", "term", "result", "inside", "factor") and not atom(node, scope):
        return
    tensors = [n for n in scope.tensors if n not in scope.upstream and n not in scope.booleans]
    for constant in (*scope.numbers, *scope.epsilons):
        yield made(f"(A + {constant})", A=node)
        yield made(f"(A - {constant})", A=node)
        yield made(f"({constant} - A)", A=node)
    if scope.place == "head":
        both = [n for n in scope.tensors if n not in scope.booleans]
        for one, two in itertools.combinations(both, 2):
            yield made(f"(A + {one} * {two})", A=node)
            yield made(f"(A - {one} * {two})", A=node)
    for name in tensors:
        yield made(f"(A - {name} * {name} * A)", A=node)
        if scope.tensors[name] == 2 and atom(node, scope) == name:
            yield made("(A + A.T)", A=node)


@rule("unknown")
def _forms(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """Derivatives of normalisations, which have a row of J for each element."""
    if scope.place != "head" or isinstance(node, (ast.Tuple, ast.Constant)):
        return
    tensors = [n for n in scope.tensors if n not in scope.upstream and n not in scope.booleans]
    for v in scope.upstream:
        for dim in scope.dims:
            for y in tensors:
                yield made(f"{y} * ({v} - ({v} * {y}).sum({dim}, keepdim=True))")
                yield made(f"{v} - {y} * {v}.sum({dim}, keepdim=True)")
                yield made(f"{v} - {y}.exp() * {v}.sum({dim}, keepdim=True)")
                for s in tensors:
                    yield made(f"({v} - {y} * ({v} * {y}).sum({dim}, keepdim=True)) / {s}")
                    yield made(f"({v} - ({v} * {y}).sum({dim}, keepdim=True)) / {s}")
                    yield made(f"({v} - {v}.mean({dim}, keepdim=True) - {y} * ({v} * {y})"
                               f".mean({dim}, keepdim=True)) * {s}")  # fmt: skip


@rule("v_nonlinear")
def _nonlinear(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        if text(node.right) in scope.upstream:
            yield node.left
        if text(node.left) in scope.upstream:
            yield node.right
