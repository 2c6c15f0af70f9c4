"""Where a backward's source can be edited."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gradexplain.checking import factors  # noqa: F401  (it enters its rules, after those of rules)
from gradexplain.checking.codes import BY_NAME
from gradexplain.checking.rewriting import AXES, OVER_DIMS, RULES, Scope, called, text


@dataclass(eq=False)
class Slot:
    """A place in a tree that an edit can fill."""

    owner: ast.AST
    field: str
    index: int | None
    place: str
    #: The statement, or the part of a return, that it belongs to.
    within: ast.AST | None = None

    def get(self) -> Any:
        found = getattr(self.owner, self.field)
        return found if self.index is None else found[self.index]

    def put(self, node: Any) -> None:
        if self.index is None:
            setattr(self.owner, self.field, node)
        else:
            getattr(self.owner, self.field)[self.index] = node


@dataclass(eq=False)
class Edit:
    code: str
    slot: Slot
    old: Any
    new: Any
    paired: bool

    @property
    def sentence(self) -> str:
        if isinstance(self.new, ast.If) and self.old in self.new.body:
            first, *_ = text(self.old).split("\n")
            return f"{BY_NAME[self.code].title}: after {first} belongs {text(self.new.body[-1])}"
        shown = (text(node).replace("\n", "; ") for node in (self.old, self.new))
        return f"{BY_NAME[self.code].title}: {' should be '.join(shown)}"


_UNTOUCHED = ("saved_tensors", "needs_input_grad", "torch", "F", "np", "numpy", "math", "nn")


# -- where edits go --------------------------------------------------------------------------------


def slots(tree: ast.AST) -> Iterator[Slot]:
    """Every place of a function's body that can be edited, in source order."""

    def children(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                for i, item in enumerate(value):
                    if isinstance(item, ast.AST):
                        yield name, i, item
            elif isinstance(value, ast.AST):
                yield name, None, value

    def place(owner: ast.AST, name: str, node: ast.AST, above: str) -> str:
        if isinstance(owner, (ast.Return, ast.Assign, ast.AugAssign)) and name == "value":
            return "head"
        if isinstance(owner, ast.Tuple) and above == "head":
            return "head"
        if isinstance(owner, (ast.If, ast.IfExp)) and name == "test":
            return "test"
        if isinstance(owner, ast.BinOp):
            if isinstance(owner.op, (ast.Add, ast.Sub)):
                return "term"
            if isinstance(owner.op, (ast.Mult, ast.Div)):
                return "factor"
            if isinstance(owner.op, ast.Pow):
                return "exponent" if name == "right" else "base"
        if isinstance(owner, ast.UnaryOp):
            return above or "term"
        if isinstance(owner, ast.Subscript) and name == "slice":
            return "index"
        if above == "index" and isinstance(owner, (ast.Tuple, ast.Slice, ast.UnaryOp)):
            return "index"
        if isinstance(owner, ast.keyword):
            return "index"
        if isinstance(owner, ast.Call) and name == "args":
            whole = node.operand if isinstance(node, ast.UnaryOp) else node
            dim = called(owner) in (*OVER_DIMS, *AXES) and isinstance(whole, ast.Constant)
            return "index" if dim else "inside"
        if isinstance(owner, ast.Attribute):
            return "inside"
        if isinstance(owner, ast.Subscript):
            return "size" if isinstance(node, ast.Attribute) and node.attr == "shape" else "inside"
        return ""

    def walk(node: ast.AST, above: str, within: ast.AST | None) -> Iterator[Slot]:
        for name, i, child in children(node):
            if isinstance(child, (ast.Assign, ast.AugAssign, ast.Return)) or (
                isinstance(child, ast.Expr)
            ) or (isinstance(within, ast.Return) and node is within.value and isinstance(node, ast.Tuple)):  # fmt: skip
                inner: ast.AST | None = child
            else:
                inner = within
            if name in ("decorator_list", "args") and isinstance(node, ast.FunctionDef):
                continue
            if name == "func" and isinstance(child, ast.Name):
                continue
            if isinstance(child, (ast.expr_context, ast.operator, ast.cmpop, ast.unaryop)):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            here = place(node, name, child, above)
            fixed = isinstance(node, ast.Call) and name == "func" or isinstance(child, ast.keyword)
            if not fixed and not _untouched(node, child):
                yield Slot(node, name, i, here, inner)
            if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and (
                child.value.id == "ctx"
            ):  # fmt: skip
                continue
            yield from walk(child, here, inner)

    yield from walk(tree, "", None)


def _untouched(owner: ast.AST, node: ast.AST) -> bool:
    """A module, what ctx says of the inputs, and what is unpacked by its name: nothing to edit."""
    if isinstance(owner, ast.Assign) and isinstance(owner.targets[0], (ast.Tuple, ast.List)):
        return isinstance(node, (ast.Name, ast.Attribute))
    return getattr(node, "attr", getattr(node, "id", "")) in _UNTOUCHED


def edits(found: Sequence[Slot], scope: Scope, first: Collection[str] = ()) -> Iterator[Edit]:
    """Every edit of the table at every place of ``found``, in the table's order; faults of the codes
    ``first`` before the others.
    """
    seen = set()
    for one in sorted(RULES, key=lambda r: r.code not in first):
        for slot in found:
            node = slot.get()
            scope.place = slot.place
            output = isinstance(node, ast.expr) and text(node) in scope.outputs
            for new in one.rewrite(node, scope):
                code, made = new if isinstance(new, tuple) else (one.code, new)
                if output and code in ("extra_factor", "wrong_function", "extra_term"):
                    code = "output_for_input"
                if code == "swapped" and not isinstance(slot.owner, ast.Return):
                    code = "swapped_halves"
                if slot.place == "index":
                    dim = getattr(slot.owner, "arg", "") in ("dim", "dims", "axis") or (
                        called(slot.owner) in OVER_DIMS
                    )
                    code = "wrong_dim" if dim else "wrong_slice"
                if isinstance(made, ast.AST) and (slot, text(made)) not in seen:
                    seen.add((slot, text(made)))
                    yield Edit(code, slot, node, made, one.paired)


def _statements(tree: ast.FunctionDef, places: Sequence[int]) -> set[ast.AST]:
    """The statements, and parts of returns, that the returned values at ``places`` come from."""
    kept: set[ast.AST] = set()
    names: set[str] = set()
    whole = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            kept.add(node)
            if isinstance(node.value, ast.Tuple) and not any(
                isinstance(e, ast.Starred) for e in node.value.elts
            ):
                parts = [e for i, e in enumerate(node.value.elts) if i in places]
            else:
                parts = [node.value]
                whole = whole or not isinstance(node.value, ast.Name)
            kept.update(parts)
            names |= {n.id for p in parts for n in ast.walk(p) if isinstance(n, ast.Name)}
    for _ in range(8):
        for node in ast.walk(tree):
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)):
                used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                targets = node.targets if isinstance(node, ast.Assign) else [
                    node.target if isinstance(node, ast.AugAssign) else node.value
                ]  # fmt: skip
                stored = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
                inner = isinstance(node, ast.Expr) and called(node.value) == "backward"
                if stored & names or inner:
                    kept.add(node)
                    names |= used
            elif isinstance(node, (ast.If, ast.For, ast.With)):
                kept.add(node)
    return kept


def bearing(tree: ast.FunctionDef, places: Sequence[int]) -> list[Slot]:
    """The places that bear on the returned values at ``places``."""
    kept = _statements(tree, places)
    return [slot for slot in slots(tree) if slot.within is None or slot.within in kept]
