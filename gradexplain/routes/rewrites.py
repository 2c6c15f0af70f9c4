"""Rewrites that keep digits: one table, read by ``gradexplain stability`` and by the notes of ``run``.

A row is two expressions, in squares that may be products too.  The capital letters A, B and C stand for
any value, D for a dim.  A rewrite is proposed only where it was found to be equal, so a row may be tried
where it does not help: by numbers with digits to spare here, and measured to be better too by
`gradexplain.stability.search`.

Sources: D. Goldberg, *What every computer scientist should know about floating-point arithmetic* (1991);
N. Higham, *Accuracy and Stability of Numerical Algorithms* (2002), chapters 1, 2 and 27; the benchmarks
of the Herbie project; the PyTorch documentation of the functions named.
"""

from __future__ import annotations

import ast
import copy
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from gradexplain.errors import GradexplainError
from gradexplain.graph import Graph, Node, fact
from gradexplain.matching import Found, instance
from gradexplain.ops.base import Shape, normal_dims
from gradexplain.reading.language import read
from gradexplain.reading.names import free_names, functions
from gradexplain.reading.syntax import parse
from gradexplain.routes.names import free_name, own_texts


@dataclass(frozen=True, slots=True)
class Row:
    """``old`` is written as ``new``; ``why`` says what ``old`` loses."""

    old: str
    new: str
    why: str


_CANCELS = "two numbers that are nearly equal are subtracted"
_ROUNDS = "1 + a small number forgets the small number's digits"
_OVERFLOWS = "an exponential or a square leaves the range of the dtype"
_INFINITE = "the branch that is not taken has an infinite derivative, and 0·inf is nan"

_TABLE: tuple[tuple[str, str, str], ...] = (
    # a difference with 1
    ("log(sum(exp(A), D))", "logsumexp(A, D)", _OVERFLOWS),
    ("exp(A)/sum(exp(A), D)", "softmax(A, D)", _OVERFLOWS),
    ("exp(A)/sum(exp(A), D, keepdim=True)", "softmax(A, D)", _OVERFLOWS),
    ("log(softmax(A, D))", "log_softmax(A, D)", _OVERFLOWS),
    ("nll_loss(log(softmax(A, 1)), B)", "cross_entropy(A, B)", _OVERFLOWS),
    ("nll_loss(log_softmax(A, 1), B)", "cross_entropy(A, B)", _OVERFLOWS),
    ("B*exp(A)/sum(B*exp(A))", "B*exp(A - max(A))/sum(B*exp(A - max(A)))", _OVERFLOWS),
    ("log(sum(B*exp(A)))", "max(A) + log(sum(B*exp(A - max(A))))", _OVERFLOWS),
    ("binary_cross_entropy(sigmoid(A), B)", "binary_cross_entropy_with_logits(A, B)", _ROUNDS),
    ("log(sigmoid(A))", "logsigmoid(A)", _OVERFLOWS),
    ("log(1 - sigmoid(A))", "logsigmoid(-A)", _CANCELS),
    ("log(1/(1 + exp(-A)))", "logsigmoid(A)", _OVERFLOWS),
    ("A - log(1 + exp(A))", "logsigmoid(A)", _CANCELS),
    ("sigmoid(A)*(1 - sigmoid(A))", "sigmoid(A)*sigmoid(-A)", _CANCELS),
    ("1 - sigmoid(A)", "sigmoid(-A)", _CANCELS),
    ("1 - tanh(A)", "2*sigmoid(-2*A)", _CANCELS),
    ("1 - tanh(A)**2", "1/cosh(A)**2", _CANCELS),
    ("1 - erf(A)", "erfc(A)", _CANCELS),
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
    ("exp(A) - exp(B)", "exp(B)*expm1(A - B)", _CANCELS),
    ("1 - exp(A)", "-expm1(A)", _CANCELS),
    ("exp(A)/(exp(A) - 1)", "-1/expm1(-A)", _CANCELS),
    ("log((1 + A)/(1 - A))", "2*atanh(A)", _ROUNDS),
    ("log((1 - A)/(1 + A))", "-2*atanh(A)", _ROUNDS),
    ("log(1 + A) - log(1 - A)", "2*atanh(A)", _ROUNDS),
    ("log(1/(1 - A))", "-log1p(-A)", _ROUNDS),
    ("log(1 - A)/log(1 + A)", "log1p(-A)/log1p(A)", _ROUNDS),
    ("log(A + 1) - log(A)", "log1p(1/A)", _CANCELS),
    ("log(1 + A)", "log1p(A)", _ROUNDS),
    ("log(1 - A)", "log1p(-A)", _ROUNDS),
    ("log(A) - log(B)", "log(A/B)", _CANCELS),
    ("log(cosh(A))", "log1p(2*sinh(A/2)**2)", _ROUNDS),
    ("log(cosh(A))", "where(abs(A) < 1, log1p(2*sinh(clamp(A, -1, 1)/2)**2), "
     "abs(A) + log((1 + exp(-2*abs(A)))/2))", _OVERFLOWS),
    ("log(A + sqrt(A**2 + 1))", "asinh(A)", _CANCELS),
    # roots and squares
    ("sqrt(1 + A) - 1", "A/(sqrt(1 + A) + 1)", _CANCELS),
    ("1 - sqrt(1 - A)", "A/(1 + sqrt(1 - A))", _CANCELS),
    ("sqrt(A + B) - sqrt(A)", "B/(sqrt(A + B) + sqrt(A))", _CANCELS),
    ("sqrt(A) - sqrt(B)", "(A - B)/(sqrt(A) + sqrt(B))", _CANCELS),
    ("sqrt(A**2 + B) - A", "B/(sqrt(A**2 + B) + A)", _CANCELS),
    ("sqrt(A**2 - B) - A", "-B/(sqrt(A**2 - B) + A)", _CANCELS),
    ("-A + sqrt(A**2 - B)", "-B/(sqrt(A**2 - B) + A)", _CANCELS),
    ("-A - sqrt(A**2 - B)", "B/(sqrt(A**2 - B) - A)", _CANCELS),
    ("(1 + A)**B", "exp(B*log1p(A))", _ROUNDS),
    ("sqrt(A**2 + B**2 + C**2)", "hypot(hypot(A, B), C)", _OVERFLOWS),
    ("sqrt(A - 1)*sqrt(A + 1) - A", "-1/(sqrt(A - 1)*sqrt(A + 1) + A)", _CANCELS),
    ("sqrt(1 + A) - sqrt(1 - A)", "2*A/(sqrt(1 + A) + sqrt(1 - A))", _CANCELS),
    ("A/sqrt(A**2 + 1)", "A/hypot(A, ones_like(A))", _OVERFLOWS),
    ("1/sqrt(A) - 1/sqrt(A + 1)", "1/(sqrt(A)*sqrt(A + 1)*(sqrt(A) + sqrt(A + 1)))", _CANCELS),
    ("sqrt(A**2 + B**2)", "hypot(A, B)", _OVERFLOWS),
    ("sqrt(sum(A**2))", "max(abs(A))*norm(A/max(abs(A)))", _OVERFLOWS),
    ("norm(A)", "max(abs(A))*norm(A/max(abs(A)))", _OVERFLOWS),
    ("A**2 - B**2", "(A - B)*(A + B)", _CANCELS),
    ("(1 + A)**2 - 1", "A*(A + 2)", _CANCELS),
    ("(1 + A)**B - 1", "expm1(B*log1p(A))", _CANCELS),
    ("(A + B)**2 - A**2", "B*(2*A + B)", _CANCELS),
    ("mean(A**2) - mean(A)**2", "mean((A - mean(A))**2)", _CANCELS),
    # fractions
    ("1/(A + 1) - 1/A", "-1/(A*(A + 1))", _CANCELS),
    ("1/A - 1/(A + 1)", "1/(A*(A + 1))", _CANCELS),
    ("1/A - 1/B", "(B - A)/(A*B)", _CANCELS),
    ("1/(A + 1) - 2/A + 1/(A - 1)", "2/(A*(A + 1)*(A - 1))", _CANCELS),
    ("A/(A + 1) - (A + 1)/(A - 1)", "-(3*A + 1)/((A + 1)*(A - 1))", _CANCELS),
    # angles
    ("(1 - cos(A))/A**2", "0.5*sinc(A/(2*pi))**2", _CANCELS),
    ("(1 - cos(A))/sin(A)", "tan(A/2)", _CANCELS),
    ("1 - cos(A)", "2*sin(A/2)**2", _CANCELS),
    ("acos(1 - A)", "2*asin(sqrt(A/2))", _ROUNDS),
    ("cosh(A) - 1", "2*sinh(A/2)**2", _CANCELS),
    ("sin(A + B) - sin(A)", "2*cos(A + B/2)*sin(B/2)", _CANCELS),
    ("cos(A + B) - cos(A)", "-2*sin(A + B/2)*sin(B/2)", _CANCELS),
    ("tan(A + B) - tan(A)", "sin(B)/(cos(A)*cos(A + B))", _CANCELS),
    ("cos(A)**2 - sin(A)**2", "cos(2*A)", _CANCELS),
    ("atan(A/B)", "atan2(A, B)", _OVERFLOWS),
    ("atan(A + 1) - atan(A)", "atan(1/(1 + A*(A + 1)))", _CANCELS),
    # the derivative of what where() does not take
    ("where(A > 0, sqrt(A), B)", "where(A > 0, sqrt(where(A > 0, A, 1)), B)", _INFINITE),
    ("where(A > 0, log(A), B)", "where(A > 0, log(where(A > 0, A, 1)), B)", _INFINITE),
    ("where(A > 0, 1/A, B)", "where(A > 0, 1/where(A > 0, A, 1), B)", _INFINITE),
    ("where(A != 0, B/A, C)", "where(A != 0, B/where(A != 0, A, 1), C)", _INFINITE),
)  # fmt: skip

#: A square is written ``A**2`` or ``A*A``.
REWRITES = tuple(
    Row(*row)
    for old, new, why in _TABLE
    for row in dict.fromkeys(
        (
            (old, new, why),
            (*(re.sub(r"\b([A-Z])\*\*2", r"(\1*\1)", text) for text in (old, new)), why),
        )
    )
)


def filled(pattern: ast.expr, parts: dict[str, ast.expr]) -> ast.expr:
    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return copy.deepcopy(parts[node.id]) if node.id in parts else node

    made: ast.expr = Fill().visit(copy.deepcopy(pattern))
    return made


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


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A row of the table at a value of a graph.

    ``old`` and ``new`` are the row's with the dim of this place, ``letters`` the values that their
    letters stand for, by id, and ``inside`` those that ``old`` is made of.
    """

    node: Node
    row: Row
    old: str
    new: str
    letters: Mapping[str, int]
    inside: frozenset[int]

    def both(self, texts: Mapping[int, str]) -> tuple[ast.expr, ast.expr]:
        """``old`` and ``new`` in the values' own texts."""
        names = {letter: _tree(texts[id]) for letter, id in self.letters.items()}
        old, new = (ast.parse(text, mode="eval").body for text in (self.old, self.new))
        return filled(old, names), filled(new, names)


@fact
def rewrites(graph: Graph) -> list[Rewrite]:
    """The known rewrites of the values of a graph, the largest pattern first."""
    found = []
    for node in graph.nodes:
        for row, pattern in _table()[node.op.name] if node.op is not None else ():
            match = instance(pattern, graph, node, names=True, dims="D" not in row.old)
            if match is not None:
                letters = {leaf.label: match[leaf.id] for leaf in pattern.leaves}
                old, new = (t.replace("D", _dim(pattern, graph, match)) for t in (row.old, row.new))
                inside = frozenset(n for p, n in match.items() if pattern[p].op)
                found.append(Rewrite(node, row, old, new, letters, inside))
    return sorted(found, key=lambda rewrite: -len(rewrite.inside))


@cache
def _table() -> defaultdict[str, list[tuple[Row, Graph]]]:
    """The rows with their patterns, by the operation that makes the value."""
    found = defaultdict(list)
    for row in REWRITES:
        pattern = _pattern(row.old)
        if pattern is not None and pattern.out.op is not None:
            found[pattern.out.op.name].append((row, pattern))
    return found


def unnamed(graph: Graph) -> Graph:
    """The graph with every value written out."""
    return replace(graph, nodes=tuple(replace(node, named=False) for node in graph.nodes))


def rewritten(graph: Graph) -> Iterator[tuple[ast.expr, tuple[str, str, str]]]:
    """Each way to apply one row at one place: the whole anew; the part as it was and is, and why."""
    graph = unnamed(graph)
    texts = own_texts(graph, sys.maxsize)
    for found in rewrites(graph):
        # The whole with a name in the place of the part.
        name = free_name(graph, "part")
        there = replace(found.node, label=name, op=None, args=())
        nodes = (there if node.id == there.id else node for node in graph.nodes)
        whole = own_texts(replace(graph, nodes=tuple(nodes)), sys.maxsize)[graph.output]
        old, new = found.both(texts)
        yield filled(_tree(whole), {name: new}), (written(old), written(new), found.row.why)


def _pattern(text: str) -> Graph | None:
    """A row's old way as a graph; its leaves have the first shapes that fit, B perhaps of indices."""
    text = re.sub(r"\bD\b", "0", text)
    for rank, less in ((0, 0), (1, 0), (2, 0), (2, 1)):
        try:
            return _read(text, (2,) * rank, (2,) * (rank - less))
        except GradexplainError:
            continue
    return None


def _read(text: str, shape: Shape, of_b: Shape) -> Graph:
    def shape_of(name: str) -> Shape:
        return of_b if name == "B" else shape

    program = parse(text)
    return read(program, shape_of, {n: np.zeros(shape_of(n)) for n in free_names(program)})


def _dim(pattern: Graph, graph: Graph, match: Found) -> str:
    """The dim of a match: of the innermost operation that has one."""
    for p, n in sorted(match.items()):
        node = graph[n]
        if pattern[p].op is None or node.op is None:
            continue
        for parameter, arg in zip(node.op.parameters, node.args, strict=True):
            if parameter.name == "dim":
                dims = normal_dims(arg, len(graph[node.inputs[0]].shape))
                return repr(dims[0] if len(dims) == 1 else dims or 0)
    return "0"


def _tree(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return ast.Name(f"({text})" if " " in text else text, ast.Load())
