"""What a formula says in several calls and PyTorch in one: norms, counts, shapes, common factors."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

from gradexplain.codegen.lines import Statement, changed, has_tensor, show, statement
from gradexplain.ops.base import Shape

#: ``N`` is a size or a number, ``C`` a number as it is written; other single letters are any expression.
_RULES = """
a.T.T -> a
a.mT.mT -> a
a.transpose(-2, -1).mT -> a
(a.T @ b).T -> b.T @ a
(a @ b.T).T -> b @ a.T
(a.mT @ b).mT -> b.mT @ a
(a @ b.mT).mT -> b @ a.mT
a.sum(dim=D, keepdim=True).squeeze(D) -> a.sum(dim=D)
(-a).squeeze() -> -a.squeeze()
(-a).squeeze(D) -> -a.squeeze(D)
a.sum() / a.numel() -> a.mean()
a.sum(dim=D) / a.shape[D] -> a.mean(dim=D)
a.sum(dim=D, keepdim=True) / a.shape[D] -> a.mean(dim=D, keepdim=True)
(a**C).sum(dim=D, keepdim=True) / a.shape[D] -> (a**C).mean(dim=D, keepdim=True)
((a - b) ** C).sum(dim=D, keepdim=True) / a.shape[D] -> ((a - b) ** C).mean(dim=D, keepdim=True)
1 / N * a -> a / N
a * (b / N) -> a * b / N
a / N + b / N -> (a + b) / N
a / N - b / N -> (a - b) / N
C * a + C * b -> C * (a + b)
C * a - C * b -> C * (a - b)
math.sqrt(C) * a / math.sqrt(N) -> math.sqrt(C / N) * a
torch.sqrt((a**2).sum()) -> a.norm()
torch.sqrt((a**2).sum(dim=D)) -> a.norm(dim=D)
torch.sqrt((a**2).sum(dim=D, keepdim=True)) -> a.norm(dim=D, keepdim=True)
(torch.arange(n, device=d) == i.unsqueeze(-1)).to(t) -> F.one_hot(i, n).to(t)
"""
_PATTERNS = [
    [statement("", side).value for side in line.split(" -> ")]
    for line in _RULES.strip().splitlines()
]
_SIZED = ("new_zeros", "new_ones", "reshape", "expand")

Found = dict[str, ast.expr]


def _matches(pattern: object, e: object, found: Found) -> bool:
    match pattern, e:
        case ast.Name(id=name), ast.expr() if len(name) == 1 and name != "F":
            plain = {"N": not has_tensor(e), "C": isinstance(e, ast.Constant)}.get(name, True)
            return plain and show(found.setdefault(name, e)) == show(e)
        case [*parts], [*others]:
            return len(parts) == len(others) and all(
                map(_matches, parts, others, [found] * len(parts))
            )
        case ast.AST(), ast.AST() if type(pattern) is type(e):
            return _matches(
                [v for _, v in ast.iter_fields(pattern)], [v for _, v in ast.iter_fields(e)], found
            )
    return not isinstance(pattern, ast.AST) and pattern == e


def _named(found: Found, e: ast.expr) -> ast.expr | None:
    return found.get(getattr(e, "id", ""))


class _Idioms(ast.NodeTransformer):
    """Rewrites an expression from its leaves up."""

    def __init__(self, shapes: Mapping[str, Shape] | None) -> None:
        self.shapes = shapes or {}
        # The first ten say only in which order axes stand.
        self.patterns = _PATTERNS[:10] if shapes is None else _PATTERNS

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        for pattern, better in self.patterns if isinstance(node, ast.expr) else ():
            found: Found = {}
            if _matches(pattern, node, found):
                new = changed(copy.deepcopy(better), partial(_named, found))
                return cast(ast.AST, self.visit(new))
        match node:
            case ast.BinOp(op=ast.Mult()) if name := self._whole(show(node).split(" * ")):
                return statement("", f"{name}.numel()").value
            case ast.Call(func=ast.Attribute(attr=attr), args=args) if attr in _SIZED and (
                name := self._whole([show(a) for a in args])
            ):
                node.args = [statement("", f"{name}.shape").value]
        return node

    def _whole(self, texts: Sequence[str]) -> str:
        """The tensor whose sizes these are, all of them in their order."""
        name = texts[0].partition(".")[0] if len(texts) > 1 else ""
        own = [f"{name}.shape[{d}]" for d in range(len(self.shapes.get(name, ())))]
        return name if texts == own else ""


def idiomatic(body: Sequence[Statement], shapes: Mapping[str, Shape] | None) -> list[Statement]:
    """``body`` in PyTorch's own words; of ``a - b`` and ``b - a`` one is minus the other.

    Without the shapes of names only the order of axes is looked at.
    """
    idioms, seen = _Idioms(shapes), set[tuple[str, str]]()
    found = [Statement(s.target, idioms.visit(s.value), s.only) for s in body]
    for e in (e for s in found for e in ast.walk(s.value)):
        if isinstance(e, ast.BinOp) and isinstance(e.op, ast.Sub):
            pair = show(e.left), show(e.right)
            if pair[::-1] in seen:
                less = ast.BinOp(e.right, ast.Sub(), e.left)
                e.left, e.op, e.right = ast.Constant(-1), ast.Mult(), less
            else:
                seen.add(pair)
    return found
