"""What rules of editing are made of: what a backward can name, and small makers of nodes."""

from __future__ import annotations

import ast
import copy
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: ``(node, scope)`` to the nodes that could stand in its place, each with the fault's code if it
#: is not the rule's own.
Found = ast.AST | tuple[str, ast.AST]
Rewrite = Callable[[ast.AST, "Scope"], Iterator[Found]]

REDUCTIONS = ("sum", "mean")
SWAPS = (
    ("sin", "cos"), ("sinh", "cosh", "tanh"), ("exp", "log", "sigmoid"), ("erf", "tanh"),
    ("sqrt", "rsqrt"), ("max", "min"), ("amax", "amin"), ("scatter_", "scatter_add_"),
    ("index_copy_", "index_add_"), ("sigmoid", "tanh"), ("cumsum", "cumprod"), ("sin", "tan"),
    ("floor", "ceil"), ("ones_like", "zeros_like"), ("tril", "triu"), ("fft", "ifft"),
)  # fmt: skip
#: The derivative of each function: the factor that is forgotten with it.
SLOPES = {
    "exp": "torch.exp({0})", "log": "1 / ({0})", "sin": "torch.cos({0})", "cos": "-torch.sin({0})",
    "tanh": "(1 - torch.tanh({0}) ** 2)", "softplus": "torch.sigmoid({0})",
    "sigmoid": "torch.sigmoid({0}) * (1 - torch.sigmoid({0}))", "sqrt": "0.5 / torch.sqrt({0})",
    "rsqrt": "-0.5 * ({0}) ** -1.5", "abs": "torch.sign({0})", "square": "2 * ({0})",
    "relu": "(({0}) > 0)", "log1p": "1 / (1 + {0})", "reciprocal": "-1 / ({0}) ** 2",
    "lgamma": "torch.digamma({0})", "erf": "2 / torch.pi ** 0.5 * torch.exp(-({0}) ** 2)",
}  # fmt: skip
#: Calls whose numbers are dims.
OVER_DIMS = (
    *REDUCTIONS, "norm", "var", "std", "softmax", "log_softmax", "cumsum", "flip", "unsqueeze",
    "logsumexp", "cat", "stack", "scatter_add_", "scatter_", "index_add_", "gather", "chunk",
)  # fmt: skip
#: Other calls whose numbers are dims.
AXES = ("transpose", "swapaxes", "movedim", "permute", "flatten", "unflatten", "narrow", "select")
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
    #: Tensors of 0 and 1, and what else the source writes out: factors that may be forgotten.
    masks: frozenset[str] = frozenset()
    expressions: tuple[str, ...] = ()
    #: Tensors of integers, which choose elements, but for those that are multiplied.
    indices: frozenset[str] = frozenset()

    @property
    def values(self) -> list[str]:
        """Tensors of numbers that are no upstream gradient."""
        kept = self.upstream | self.booleans | self.indices
        return [n for n in self.tensors if n not in kept]

    @property
    def sizes(self) -> list[str]:
        return [n for n in self.numbers if size(ast.parse(n, mode="eval").body)]


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
    if isinstance(node, ast.If) and isinstance(node.test, ast.Constant):
        return "\n".join(map(text, node.body))
    if isinstance(node, ast.stmt):
        ast.fix_missing_locations(node)
    return ast.unparse(node)


def both(first: ast.AST, second: ast.AST) -> ast.AST:
    """One statement and another after it, where one stands."""
    return ast.If(ast.Constant(True), [first, second], [])  # type: ignore[list-item]


def made(source: str, **parts: ast.AST) -> ast.expr:
    """An expression in which the names of ``parts`` stand for nodes."""

    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return parts.get(node.id, node)

    tree: ast.expr = Put().visit(ast.parse(source, mode="eval").body)
    return tree


def replaced(node: ast.AST, put: Mapping[int, ast.AST]) -> ast.AST:
    """A copy of ``node`` in which each part of that id is another."""
    if not isinstance(node, ast.AST):
        return node
    if id(node) in put:
        return replaced(put[id(node)], {k: new for k, new in put.items() if k != id(node)})
    new = copy.copy(node)
    for name, value in ast.iter_fields(new):
        if isinstance(value, list):
            setattr(new, name, [replaced(v, put) for v in value])
        elif isinstance(value, ast.AST):
            setattr(new, name, replaced(value, put))
    return new


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


def operand(node: ast.Call) -> tuple[ast.expr, list[ast.expr]]:
    """What a call works on, and its other arguments: of ``torch.f(a, d)``, ``a.f(d)``, ``a.f(dim=d)``."""
    given = [
        *node.args,
        *(k.value for k in node.keywords if k.arg in ("dim", "dims", "index", "src")),
    ]
    if isinstance(node.func, ast.Attribute) and text(node.func.value) not in ("torch", "F", "np"):
        return node.func.value, given
    return (given or [node.func])[0], given[1:]


def changed(node: ast.AST, **fields: Any) -> Any:
    """A copy of ``node`` with other fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def exchanged(node: ast.Tuple | ast.List, i: int, j: int) -> Any:
    """A copy of ``node`` with two elements in each other's place."""
    put = {i: node.elts[j], j: node.elts[i]}
    return changed(node, elts=[put.get(k, e) for k, e in enumerate(node.elts)])


def is_eps(name: str, scope: Scope) -> bool:
    return name in scope.epsilons or any(w in name.lower() for w in ("eps", "smooth"))


def keyword(node: ast.Call, name: str, value: ast.expr | None) -> ast.Call:
    rest = [k for k in node.keywords if k.arg != name]
    new: ast.Call = changed(node, keywords=rest + ([ast.keyword(name, value)] if value else []))
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


def multiplied(tree: ast.AST) -> set[str]:
    """The names that stand in products, and in sums of theirs: numbers, and no places."""
    found: set[str] = set()

    def enter(node: ast.AST) -> None:
        if isinstance(node, ast.BinOp):
            enter(node.left)
            enter(node.right)
        else:
            found.add(text(node))

    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div, ast.MatMult)):
            enter(node)
    return found


def standing(node: ast.AST, scope: Scope) -> bool:
    """Whether a factor may be missing here."""
    return isinstance(node, ast.expr) and not isinstance(
        node, (ast.Tuple, ast.List, ast.Constant, ast.Compare)
    ) and scope.place in ("head", "term", "inside", "result")  # fmt: skip


def summand(node: ast.AST, scope: Scope) -> bool:
    """Whether a term may be missing here."""
    if not isinstance(node, ast.expr) or isinstance(node, (ast.Tuple, ast.List, ast.Constant)):
        return False
    return scope.place in ("head", "term", "result", "inside", "factor") or bool(atom(node, scope))


def tensor(node: ast.AST, scope: Scope) -> bool:
    return bool(atom(node, scope)) and atom(node, scope) in scope.tensors


def head(node: ast.AST, scope: Scope) -> bool:
    return scope.place == "head" and not isinstance(node, (ast.Tuple, ast.Constant))


# -- forms: rules that are text --------------------------------------------------------------------


def masked(name: str, scope: Scope) -> bool:
    return name in scope.masks or any(w in name.lower() for w in ("mask", "keep"))


#: What a hole of a form may be filled with: names of the backward, by what they are.
HOLES: dict[str, Callable[[ast.AST, Scope], Iterable[str]]] = {
    "t": lambda node, s: [n for n in s.values if not masked(n, s)],
    "w": lambda node, s: [n for n in s.values if not masked(n, s)],
    "other": lambda node, s: [n for n in s.values if n != text(node)],
    "any": lambda node, s: [n for n in s.tensors if n not in s.booleans],
    "any2": lambda node, s: [n for n in s.tensors if n not in s.booleans],
    "mask": lambda node, s: [n for n in s.tensors if masked(n, s) and n not in s.upstream],
    "own": lambda node, s: [n for n in s.values if n in {text(f) for f in factors_of(node)}],
    "new": lambda node, s: [n for n in s.values if not masked(n, s)
                            and n not in {text(f) for f in factors_of(node)}],
    "matrix": lambda node, s: [n for n in s.values if s.tensors[n] >= 2],
    "row": lambda node, s: [n for n in s.values if s.tensors[n] == s.rank - 1],
    "vector": lambda node, s: [n for n in s.values if s.tensors[n] == 1],
    "column": lambda node, s: [n for n in s.values if s.tensors[n] == 1 and s.rank > 2],
    "tail": lambda node, s: ["".join(", 1" for _ in range(s.rank - 2))],
    "v": lambda node, s: sorted(s.upstream),
    "number": lambda node, s: [n for n in s.numbers if n not in s.sizes and not n[0].isdigit()],
    "number2": lambda node, s: [n for n in s.numbers if n not in s.sizes and not n[0].isdigit()],
    "literal": lambda node, s: [n for n in s.numbers if n[0].isdigit()],
    "expression": lambda node, s: [e for e in s.expressions if e != text(node)],
    "size": lambda node, s: s.sizes,
    "eps": lambda node, s: [e for e in s.epsilons if e != text(node)],
    "where": lambda node, s: s.conditions,
    "dim": lambda node, s: s.dims,
    "kind": lambda node, s: REDUCTIONS,
    "made": lambda node, s: s.made,
    "i": lambda node, s: sorted(s.indices),
    "idle": lambda node, s: [n for n in s.idle if n not in s.indices and not masked(n, s)],
    "sign": lambda node, s: "-+",
    "constant": lambda node, s: ("1", "2"),
    "size2": lambda node, s: s.sizes,
    "stray": lambda node, s: [n for n in s.upstream if n in s.idle],
    "unflat": lambda node, s: ("1", "-1", "0", *(d for d in s.dims if "." in d)),
}  # fmt: skip


def forms(
    code: str, where: Callable[[ast.AST, Scope], bool], *lines: str, paired: bool = False
) -> None:
    """A rule that is a list of texts, in which ``A`` is the node and ``{…}`` one of `HOLES`; a text
    may begin with a code of its own and a colon.
    """
    read = []
    for line in lines:
        own, colon, shown = line.rpartition(": ")
        holes = list(dict.fromkeys(re.findall(r"{(\w+)}", shown)))
        shown = re.sub(r"\bA\b", "__A", shown)  # a user may have an A
        read.append((own if colon else code, shown, holes))

    @rule(code, paired=paired)
    def rewrite(node: ast.AST, scope: Scope) -> Iterator[Found]:
        if not where(node, scope):
            return
        for named, shown, holes in read:
            for chosen in itertools.product(*(list(HOLES[h](node, scope)) for h in holes)):
                if len(set(chosen)) == len(chosen):
                    filled = shown.format_map(dict(zip(holes, chosen, strict=True)))
                    yield named, made(filled, __A=node)
