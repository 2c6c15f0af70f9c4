"""What rules of editing are made of: what a backward can name, and small makers of nodes."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

#: ``(node, scope)`` to the nodes that could stand in its place, each with the fault's code if it
#: is not the rule's own.
Found = ast.AST | tuple[str, ast.AST]
Rewrite = Callable[[ast.AST, "Scope"], Iterator[Found]]

REDUCTIONS = ("sum", "mean")
SWAPS = (
    ("sin", "cos"), ("sinh", "cosh", "tanh"), ("exp", "log", "sigmoid"), ("erf", "tanh"),
    ("sqrt", "rsqrt"), ("max", "min"), ("amax", "amin"), ("scatter_", "scatter_add_"),
    ("index_copy_", "index_add_"), ("sigmoid", "tanh"), ("cumsum", "cumprod"), ("sin", "tan"),
    ("floor", "ceil"), ("ones_like", "zeros_like"),
)  # fmt: skip
WRAPS = ("exp", "log", "sqrt", "sigmoid", "tanh", "abs", "sign")


@dataclass
class Scope:
    """What a backward can name: tensors with their ranks, numbers, and what the names are."""

    tensors: Mapping[str, int] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    booleans: frozenset[str] = frozenset()
    upstream: frozenset[str] = frozenset()
    #: Names of the output, and of inputs.
    outputs: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    #: Conditions of the forward that the backward can state, and its small constants.
    conditions: tuple[str, ...] = ()
    epsilons: tuple[str, ...] = ()
    #: Names that are assigned and not used.
    idle: frozenset[str] = frozenset()
    #: Where a node stands: "head", "term", "inside", "factor", "exponent", "base", "size" or "".
    place: str = ""
    #: Tensors that the backward itself makes, and the output's rank.
    made: tuple[str, ...] = ()
    rank: int = 0
    #: Dims that reductions of this source run over.
    dims: tuple[str, ...] = ("-1", "0", "1")


@dataclass(frozen=True)
class Rule:
    code: str
    rewrite: Rewrite
    #: Tried in pairs too, where no single edit will do.
    paired: bool = False


RULES: list[Rule] = []


def rule(code: str, *, paired: bool = False) -> Callable[[Rewrite], Rewrite]:
    def enter(rewrite: Rewrite) -> Rewrite:
        RULES.append(Rule(code, rewrite, paired))
        return rewrite

    return enter


# -- small makers ----------------------------------------------------------------------------------


def text(node: ast.AST) -> str:
    return ast.unparse(node)


def made(source: str, **parts: ast.AST) -> ast.expr:
    """An expression in which the names of ``parts`` stand for nodes."""

    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return parts.get(node.id, node)

    tree: ast.expr = Put().visit(ast.parse(source, mode="eval").body)
    return tree


def atom(node: ast.AST, scope: Scope) -> str:
    """The name of a tensor, a number of ctx included; "" for anything else."""
    if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(
        getattr(node, "ctx", None), ast.Load
    ):
        name = text(node)
        return name if name in scope.tensors or name in scope.numbers else ""
    return ""


def number(node: ast.AST) -> float | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return None if isinstance(node.value, bool) else float(node.value)
    return None


def called(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            return node.func.attr
        if isinstance(node.func, ast.Name):
            return node.func.id
    return ""


def is_eps(name: str, scope: Scope) -> bool:
    return name in scope.epsilons or any(w in name.lower() for w in ("eps", "smooth"))


def keyword(node: ast.Call, name: str, value: ast.expr | None) -> ast.Call:
    new = copy.copy(node)
    new.keywords = [k for k in node.keywords if k.arg != name]
    if value is not None:
        new.keywords.append(ast.keyword(name, value))
    return new


def size(node: ast.AST) -> bool:
    """Whether a node reads as a size: ``n``, ``x.shape[0]``, ``x.numel()``."""
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Attribute) and node.value.attr == "shape"
    if isinstance(node, ast.Name):
        return node.id in ("n", "N", "m", "M", "d", "D", "count", "B", "batch", "size", "H", "C")
    return called(node) in ("numel", "size", "len")


def turned(node: ast.AST) -> ast.AST | None:
    """What is transposed in a transpose, else None."""
    if isinstance(node, ast.Attribute) and node.attr in ("T", "mT"):
        return node.value
    if called(node) in ("t", "transpose") and isinstance(node, ast.Call):
        return node.func.value if isinstance(node.func, ast.Attribute) else None
    return None


def load(node: ast.AST) -> ast.AST:
    new = copy.deepcopy(node)
    for part in ast.walk(new):
        if hasattr(part, "ctx"):
            part.ctx = ast.Load()
    return new


def factors_of(node: ast.AST) -> Iterator[ast.AST]:
    """The factors of a product."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
        yield from factors_of(node.left)
        yield from factors_of(node.right)
    else:
        yield node


def standing(node: ast.AST, scope: Scope) -> bool:
    """Whether a factor may be missing here."""
    return isinstance(node, ast.expr) and not isinstance(
        node, (ast.Tuple, ast.List, ast.Constant, ast.Compare)
    ) and scope.place in ("head", "term", "inside", "result")  # fmt: skip
