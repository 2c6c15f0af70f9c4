"""Faults as changes of a right claim's text: mechanical, one change each.

`mutants` yields `Mutant`; what a mutant computes is decided by its text (or by the code that
`function` makes of it), never by the checker that is tested with it.
"""

from __future__ import annotations

import ast
import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tests.mutants.cases import Case

#: Names that are equally right for a mutant of each fault: the same thing said of it.
SAME = {
    # The contribution of one use is a term of the sum of contributions.
    "missing_term": {"missing_term", "missing_accumulation"},
    "missing_accumulation": {"missing_term", "missing_accumulation"},
    "missing_off_diagonal": {"missing_off_diagonal"},
    "swapped": {"swapped"},
}


@dataclass(frozen=True)
class Mutant:
    case: Case
    fault: str
    claims: dict[str, str]
    #: The input whose claim is wrong.
    name: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    #: How code differs from the claims: see `function`.
    code: str = ""

    @property
    def title(self) -> str:
        return f"{self.case.expression}  {self.name}: {self.claims[self.name]} {self.code}".rstrip()

    def accepts(self, fault: str) -> bool:
        return fault in SAME.get(self.fault, {self.fault})


def _edited(text: str, change: Callable[[ast.AST], ast.AST | None], wanted: int) -> str | None:
    """``text`` with the wanted-th node that ``change`` applies to replaced."""
    tree = ast.parse(text, mode="eval")
    seen = -1

    class Edit(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            nonlocal seen
            new = change(copy.deepcopy(node)) if isinstance(node, ast.expr) else None
            if new is not None:
                seen += 1
                if seen == wanted:
                    return new
            return self.generic_visit(node)

    result = Edit().visit(tree)
    return None if seen < wanted else ast.unparse(ast.fix_missing_locations(result))


def _all(text: str, change: Callable[[ast.AST], ast.AST | None], most: int = 6) -> Iterator[str]:
    for place in range(most):
        found = _edited(text, change, place)
        if found is None:
            return
        yield found


def _expr(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _mentions(node: ast.AST, *names: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))


def _drop(left: bool) -> Callable[[ast.AST], ast.AST | None]:
    """A sum of two terms in ``v`` without one of them."""

    def change(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, (ast.Add, ast.Sub)):
            return None
        if not (_mentions(node.left, "v") and _mentions(node.right, "v")):
            return None
        if left:
            return (
                ast.UnaryOp(ast.USub(), node.right) if isinstance(node.op, ast.Sub) else node.right
            )
        return node.left

    return change


def _flip(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return ast.BinOp(node.left, other, node.right)
    return None


def _keyword(node: ast.AST, name: str) -> ast.keyword | None:
    if isinstance(node, ast.Call):
        return next((k for k in node.keywords if k.arg == name), None)
    return None


def _reducer(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("sum", "mean", "norm")
    )


def _other_dim(node: ast.AST) -> ast.AST | None:
    dim = _keyword(node, "dim")
    if (
        dim is None
        or not isinstance(dim.value, ast.Constant)
        or not (_reducer(node) or _softmax(node))
    ):
        return None
    dim.value = ast.Constant(1 - dim.value.value)
    return node


def _softmax(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "softmax"
    )


def _no_keepdim(node: ast.AST) -> ast.AST | None:
    keep = _keyword(node, "keepdim")
    if keep is None or not isinstance(node, ast.Call):
        return None
    node.keywords.remove(keep)
    return node


def _mean(node: ast.AST) -> ast.AST | None:
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("sum", "mean")
    ):
        node.func.attr = "mean" if node.func.attr == "sum" else "sum"
        return node
    return None


def _no_sum(node: ast.AST) -> ast.AST | None:
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sum"
    ):
        return node.func.value
    return None


def _power(step: int) -> Callable[[ast.AST], ast.AST | None]:
    def change(node: ast.AST) -> ast.AST | None:
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Pow)
            and isinstance(node.right, ast.Constant)
        ):
            return ast.BinOp(node.left, ast.Pow(), ast.Constant(node.right.value + step))
        return None

    return change


def _square_below(node: ast.AST) -> ast.AST | None:
    """``a/b`` as ``a/b**2``."""
    if (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and not isinstance(node.right, ast.Constant)
    ):
        if isinstance(node.right, ast.BinOp) and isinstance(node.right.op, ast.Pow):
            return None
        if not any(isinstance(n, ast.Name) for n in ast.walk(node.right)) or "shape" in ast.unparse(
            node.right
        ):
            return None  # a power of a number is a constant factor
        return ast.BinOp(node.left, ast.Div(), ast.BinOp(node.right, ast.Pow(), ast.Constant(2)))
    return None


def _squared_factor(node: ast.AST) -> ast.AST | None:
    """``v*y`` as ``v*y**2``."""
    if (
        isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
        and isinstance(node.right, ast.Name) and node.right.id != "v"
    ):  # fmt: skip
        return ast.BinOp(node.left, ast.Mult(), ast.BinOp(node.right, ast.Pow(), ast.Constant(2)))
    return None


def _renamed(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        tree = ast.parse(text, mode="eval")
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id == old:
                node.id = new
        return ast.unparse(tree)

    return change


def _v_as(text: str, new: str) -> str:
    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return _expr(new) if node.id == "v" else node

    return ast.unparse(Put().visit(ast.parse(text, mode="eval")))


def _untransposed(node: ast.AST) -> ast.AST | None:
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return node.value
    return None


def _made(case: Case) -> Iterator[Mutant]:
    shapes = dict(case.shapes)
    square = {n: tuple(3 if d != 1 else 1 for d in s) for n, s in case.shapes.items()}
    output = case.expression.rpartition(";")[2].strip()

    def mutant(fault: str, name: str, text: str, **others: Any) -> Mutant:
        return Mutant(
            case, fault, {**case.claims, name: text}, name, others.pop("shapes", shapes), **others
        )

    for name, claim in case.claims.items():
        for text in _all(claim, _drop(True)):
            yield mutant("missing_accumulation" if case.repeated else "missing_term", name, text)
        for text in _all(claim, _drop(False)):
            yield mutant("missing_accumulation" if case.repeated else "missing_term", name, text)
        for factor in ("5", "1/7", "-4"):
            yield mutant("constant_factor", name, f"({claim})*{factor}")
        if case.shapes[name]:
            yield mutant("constant_factor", name, f"({claim})/{name}.shape[0]")
        yield mutant("wrong_sign", name, f"-({claim})")
        for text in _all(claim, _flip):
            yield mutant("wrong_sign", name, text)
        for text in _all(claim, _other_dim):
            yield mutant("wrong_dim", name, text)
        for text in _all(claim, _mean):
            yield mutant("sum_vs_mean", name, text)
        if case.square:
            for text in _all(claim, _no_keepdim):
                yield mutant("missing_keepdim", name, text, shapes=square)
        wide = any(case.shapes[name] != s for s in case.shapes.values())
        if wide and claim != "v" and "@" not in claim:
            for text in _all(claim, _no_sum):
                yield mutant("missing_broadcast_sum", name, text)
        for step in (1, -1):
            for text in _all(claim, _power(step)):
                yield mutant("exponent", name, text)
        for text in _all(claim, _square_below):
            yield mutant("exponent", name, text)
        for text in _all(claim, _squared_factor):
            yield mutant("exponent", name, text)
        if _mentions(_expr(claim), "y") and "y" not in case.shapes:
            yield mutant("output_for_input", name, _renamed("y", name)(claim))
        if _mentions(_expr(claim), name):
            yield mutant("output_for_input", name, _renamed(name, "y")(claim))
        yield mutant("v_unused", name, _v_as(claim, "(v*0 + 1)"))
        yield mutant("v_nonlinear", name, _v_as(claim, "v**2"))
        for other, theirs in case.claims.items():
            if other != name:
                yield mutant("wrong_input", name, theirs)
                if name < other:
                    yield Mutant(
                        case, "swapped", {**case.claims, name: theirs, other: claim}, name, shapes
                    )
        if len(case.shapes[name]) == 2:
            yield mutant("transposed", name, f"({claim}).T")
        if len(case.shapes[name]) == 2 and case.square and "@" in output:
            for text in _all(claim, _untransposed):
                yield mutant("transposed", name, text, shapes=square)
        yield mutant("wrong_shape", name, f"({claim}).flatten()[:1]", code="function")
        yield mutant("none", name, "None")
    name = next(iter(case.claims))
    for name, text in case.diagonal.items():
        yield mutant("missing_off_diagonal", name, text)
    for kinked in case.kinks:
        yield Mutant(case, "kink", {**case.claims, **kinked}, next(iter(kinked)), shapes)
    first = next(iter(case.claims))
    for code in ("nondeterministic", "inplace_buffer", "float32_rounding", "detached"):
        yield mutant(code, first, case.claims[first], code=code)
    if any(n in case.claims[m] for m in case.claims for n in case.shapes):
        yield mutant("inplace_forward", first, case.claims[first], code="inplace_forward")


def mutants(case: Case) -> Iterator[Mutant]:
    """The mutants of one case, each text once."""
    seen = {repr((sorted(case.claims.items()), "", sorted(case.shapes.items())))}
    for mutant in map(_computable, _made(case)):
        if mutant is None:
            continue
        key = repr((sorted(mutant.claims.items()), mutant.code, sorted(mutant.shapes.items())))
        if key not in seen:
            seen.add(key)
            yield mutant


def _computable(mutant: Mutant) -> Mutant | None:
    """The mutant at shapes at which PyTorch can compute it: its own, else all axes alike; or
    None.
    """
    if mutant.code or "None" in mutant.claims.values():
        return mutant
    square = {n: tuple(3 if d != 1 else 1 for d in s) for n, s in mutant.shapes.items()}
    for shapes in (mutant.shapes, *([square] if mutant.case.square else [])):
        tensors = [t.detach() for t in inputs(shapes)]
        made = function(mutant.case, mutant.claims)
        ctx = _Context()
        try:
            y = made.forward(ctx, *tensors)
            made.backward(ctx, torch.ones_like(y))
        except Exception:
            continue
        return replace(mutant, shapes=shapes)
    return None


class _Context:
    """What a Function sees as ``ctx``."""

    saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *saved: Any) -> None:
        self.saved_tensors = saved


def variants(case: Case) -> Iterator[dict[str, str]]:
    """Right claims, the case's own first."""
    yield case.claims
    yield from case.variants


# -- as code ---------------------------------------------------------------------------------------


def _namespace() -> dict[str, Any]:
    names = {n: getattr(torch.nn.functional, n) for n in ("relu", "softplus")}
    names |= {n: getattr(torch, n) for n in dir(torch) if not n.startswith("_")}
    return names | {"torch": torch, "norm": torch.norm}


_NAMES = _namespace()


def function(case: Case, claims: dict[str, str], code: str = "") -> Any:
    """The case's expression with the claims as its backward, as a ``torch.autograd.Function``."""
    *statements, last = case.expression.split(";")
    names = list(case.shapes)

    def forward(ctx: Any, *tensors: Any) -> Any:
        scope = dict(zip(names, tensors, strict=True))
        if code == "inplace_forward":
            with torch.no_grad():
                first = next(n for n in names if any(n in c for c in claims.values()))
                scope[first].mul_(0.5)
                scope[first].add_(0.25)
        for statement in statements:
            name, _, text = statement.partition("=")
            scope[name.strip()] = eval(text, dict(_NAMES), scope)  # the project's own text
        y = eval(last, dict(_NAMES), scope)
        ctx.save_for_backward(*scope.values(), y)
        ctx.names = [*scope, "y"]
        if code == "detached":
            y = y + 0
            ctx.mark_non_differentiable(y)
        return y

    def backward(ctx: Any, grad: Any) -> Any:
        scope = dict(zip(ctx.names, ctx.saved_tensors, strict=True)) | {
            "v": grad,
            "grad_output": grad,
        }
        if code == "float32_rounding":
            scope = {n: t.float() for n, t in scope.items()}
        results = [
            eval(claims[n], dict(_NAMES), scope) if claims.get(n, "None") != "None" else None
            for n in names
        ]
        if code == "float32_rounding":
            results = [None if r is None else r.to(grad.dtype) for r in results]
        if code == "nondeterministic" and results[0] is not None:
            results[0] = results[0] * (1 + 0.1 * torch.rand_like(results[0]))
        if code == "inplace_buffer" and results[0] is not None:
            buffer = torch.zeros_like(scope[names[0]], requires_grad=True)
            buffer[...] = results[0]
            results[0] = buffer
        return tuple(results) if len(results) > 1 else results[0]

    parameters = ", ".join(names)
    scope: dict[str, Any] = {"run": forward}
    exec(f"def forward(ctx, {parameters}):\n    return run(ctx, {parameters})", scope)
    return type("Made", (torch.autograd.Function,), {
        "forward": staticmethod(scope["forward"]), "backward": staticmethod(backward),
    })  # fmt: skip


def inputs(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> list[Any]:
    source = torch.Generator().manual_seed(seed)
    return [
        (0.3 + 1.5 * torch.rand(s, generator=source, dtype=torch.float64)).requires_grad_()
        for s in shapes.values()
    ]


def gradcheck(
    case: Case, claims: dict[str, str], shapes: dict[str, tuple[int, ...]], code: str = ""
) -> bool:
    """Whether ``torch.autograd.gradcheck`` passes."""
    made = function(case, claims, code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(
                torch.autograd.gradcheck(made.apply, tuple(inputs(shapes)), raise_exception=False)
            )
        except Exception:
            return False


def equivalent(mutant: Mutant) -> bool:
    """Whether the mutant computes the same as the right claims, at random points to 1e-12: two of
    positive values, and two of both signs where the right claims have a value there.

    Evaluated by PyTorch on the texts alone; the points and ``v`` are general, so that two formulas
    that agree there to twelve digits, on each side of a kink at 0, are the same formula.
    """
    if mutant.code or mutant.fault == "kink":
        return False
    return all(_same_at(mutant, seed, signs=signs) for seed in (1, 2) for signs in (False, True))


def _same_at(mutant: Mutant, seed: int, *, signs: bool) -> bool:
    tensors = [t.detach() for t in inputs(mutant.shapes, seed)]
    if signs:
        tensors = [t * (1 - 2 * (torch.arange(t.numel()) % 2)).reshape(t.shape) for t in tensors]
    right = _results(mutant.case, mutant.case.claims, tensors)
    if signs and (right is None or not all(r is None or r.isfinite().all() for r in right)):
        return True
    found = _results(mutant.case, mutant.claims, tensors)
    if right is None or found is None:
        return False
    return all(
        a is b if a is None or b is None
        else a.shape == b.shape and torch.allclose(a, b, rtol=1e-12, atol=1e-12)
        for a, b in zip(right, found, strict=True)
    )  # fmt: skip


def _results(case: Case, claims: dict[str, str], tensors: list[Any]) -> tuple[Any, ...] | None:
    """What the backward of ``claims`` returns; None where it or the forward raises."""
    made, ctx = function(case, claims), _Context()
    try:
        y = made.forward(ctx, *tensors)
        v = torch.rand(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        results = made.backward(ctx, v)
    except Exception:  # a mutant may raise anything
        return None
    return results if isinstance(results, tuple) else (results,)
