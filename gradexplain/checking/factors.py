"""The table of edits, its second part: factors, terms, sums and elements that are missing or too many."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

from gradexplain.checking import rules  # noqa: F401  (the first part of the table)
from gradexplain.checking.rewriting import (
    REDUCTIONS,
    SWAPS,
    WRAPS,
    Found,
    Scope,
    atom,
    both,
    called,
    changed,
    forms,
    head,
    keyword,
    load,
    made,
    number,
    operand,
    replaced,
    rule,
    size,
    standing,
    summand,
    tensor,
    text,
)

_FACTORS = ("2", "0.5", "3", "4", "6", "(1 / 3)", "0.25")


@rule("extra_factor", paired=True)
def _removed(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, (ast.Mult, ast.Div)):
            code = "constant_factor" if number(node.right) is not None else "extra_factor"
            if size(node.right) and isinstance(node.op, ast.Div):
                code = "sum_vs_mean"
            yield code, node.left
            code = "constant_factor" if number(node.left) is not None else "extra_factor"
            yield (
                code,
                (node.right if isinstance(node.op, ast.Mult) else made("1 / B", B=node.right)),
            )
            inverse = "constant_factor" if number(node.right) is not None else "inverse"
            if isinstance(node.op, ast.Mult):
                yield inverse, made("A / B", A=node.left, B=node.right)
            else:
                yield inverse, made("A * B", A=node.left, B=node.right)
                yield inverse, made("B / A", A=node.left, B=node.right)
        inner = node.left
        if (
            isinstance(node.op, ast.Div)
            and isinstance(inner, ast.BinOp)
            and isinstance(inner.op, ast.Mult)
        ):
            yield "inverse", made("L * B / A", L=inner.left, A=inner.right, B=node.right)


@rule("extra_term", paired=True)
def _term(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        yield node.left
        yield node.right if isinstance(node.op, ast.Add) else ast.UnaryOp(ast.USub(), node.right)


@rule("wrong_slice")
def _places(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """Another element."""
    shown = text(node) if scope.place == "index" and isinstance(node, ast.expr) else ""
    if shown.lstrip("-").isdigit():
        yield from (made(at) for at in ("0", "1", "-1", "2") if at != shown)
        yield from (made(n) for n in scope.numbers if n.isidentifier())


# A sequence that is a step ahead, or behind.
forms(
    "wrong_slice", tensor,
    "torch.cat([{t}[None], A[:-1]])", "torch.cat([torch.zeros_like(A[:1]), A[:-1]])",
    "torch.cat([A[1:], torch.zeros_like(A[:1])])",
    "torch.cat([{t}[:, None], A[:, :-1]], 1)",
)  # fmt: skip


@rule("kernel_not_flipped", paired=True)
def _flipped(node: ast.AST, scope: Scope) -> Iterator[Found]:
    rank = scope.tensors[atom(node, scope)] if tensor(node, scope) else 0
    for dim in sorted({rank - 1, 0, max(rank - 2, 0)}, reverse=True) if rank else ():
        yield made(f"A.flip({dim})", A=node)
    if rank >= 2:
        yield made(f"A.flip({rank - 2}, {rank - 1})", A=node)
    name = called(node)
    if name == "range":
        yield made("reversed(A)", A=node)
    if name in ("cumsum", "cumprod") and isinstance(node, ast.Call):
        a, rest = operand(node)
        if rest:
            yield made(f"A.flip(D).{name}(D).flip(D)", A=a, D=rest[0])
    if name == "flip" and isinstance(node, ast.Call):
        yield operand(node)[0]
    if name == "reversed" and isinstance(node, ast.Call) and len(node.args) == 1:
        yield node.args[0]


@rule("transposed", paired=True)
def _scattered(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """Gathering is the transpose of scattering, and the inverse of an order its argsort."""
    if not isinstance(node, ast.Call):
        return
    name, (a, rest) = called(node), operand(node)
    if name == "gather" and len(rest) == 2:
        for start in ("torch.zeros_like(A)", *(f"torch.zeros_like({t})" for t in scope.values)):
            yield made(f"{start}.scatter_add_(D, I, A)", A=a, D=rest[0], I=rest[1])
    if name in ("scatter_", "scatter_add_", "scatter", "scatter_add") and len(rest) == 3:
        yield made("V.gather(D, I)", V=rest[2], D=rest[0], I=rest[1])
    if name in ("index_add_", "index_add") and len(rest) == 3:
        yield made("V[I]", V=rest[2], I=rest[1])


forms("transposed", lambda node, s: atom(node, s) in s.indices, "A.argsort(-1)", "A.argsort(0)")


@rule("wrong_slice")
def _slices(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        target = node.targets[0]
        for put, take in (("1:", ":-1"), (":-1", "1:")):
            value = node.value.value if isinstance(node.value, ast.Subscript) else node.value
            new = ast.parse(f"a[{put}] = b[{take}]").body[0]
            assert isinstance(new, ast.Assign) and isinstance(new.targets[0], ast.Subscript)
            assert isinstance(new.value, ast.Subscript)
            new.targets[0].value, new.value.value = target.value, value
            yield new
    if isinstance(node, ast.Slice) and node.step is None:
        known = [ast.parse(n, mode="eval").body for n in scope.numbers if n not in scope.sizes]
        bounds = [(node.upper, None), (None, node.lower), (ast.Constant(1), None),
                  (None, ast.parse("-1", mode="eval").body), (None, None)]  # fmt: skip
        bounds += [(n, node.upper) for n in known] + [(node.lower, n) for n in known]
        for lower, upper in bounds:
            yield ast.Slice(lower, upper)


_MIRRORED = {":-1": "1:", "1:": ":-1", "::2": "1::2", "0::2": "1::2", "1::2": "0::2"}


@rule("missing_accumulation")
def _another(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """A statement after this one: the other half of what is shared out, the end of a scan."""
    target = node.target if isinstance(node, ast.AugAssign) else (
        node.targets[0] if isinstance(node, ast.Assign) else None
    )  # fmt: skip
    if isinstance(target, ast.Subscript):
        parts = target.slice.elts if isinstance(target.slice, ast.Tuple) else [target.slice]
        shown = [text(part) for part in parts]
        if any(part in _MIRRORED for part in shown):
            at = ", ".join(_MIRRORED.get(part, part) for part in shown)
            for op in ("+=", "-="):
                other = ast.parse(f"{text(target.value)}[{at}] {op} 0").body[0]
                other.value = node.value  # type: ignore[attr-defined]
                yield both(node, other)
    call = node.value if isinstance(node, ast.Expr) else None
    if isinstance(call, ast.Call) and called(call) in ("index_add_", "scatter_add_") and (
        len(call.args) == 3
    ):  # fmt: skip
        places = [f"{text(call.args[1])} + 1", f"{text(call.args[1])} - 1", *scope.indices]
        weights = [
            part for part in ast.walk(call.args[2])
            if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub)
            and number(part.left) == 1
        ]  # fmt: skip
        put = (replaced(call.args[2], {id(w): w.right}) for w in weights)
        values = [call.args[2], ast.UnaryOp(ast.USub(), call.args[2]), *put]
        for place, value in itertools.product(places, values):
            yield both(node, ast.Expr(changed(call, args=[call.args[0], made(place), value])))
    if isinstance(node, ast.For):
        for one, two in itertools.permutations(scope.made, 2):
            for at in ("0", "-1", ":, 0", ":, -1"):
                yield "missing_term", both(node, ast.parse(f"{one}[{at}] = {two}[{at}]").body[0])


@rule("missing_term")
def _lowered(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """Softmax less one where the target is, and what else is taken from chosen elements alone."""
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return
    name = node.targets[0].id
    for i, at in itertools.product(sorted(scope.indices), ("", ".clamp(min=0)")):
        for row in sorted({*(scope.idle & scope.indices), f"torch.arange({i}.shape[0])"} - {i}):
            for amount in ("1", *sorted(scope.upstream)):
                for sign in "-+":
                    yield both(node, ast.parse(f"{name}[{row}, {i}{at}] {sign}= {amount}").body[0])


@rule("missing_accumulation")
def _accumulated(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Name, ast.Subscript)):
        yield ast.AugAssign(node.targets[0], ast.Add(), node.value)
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        target = node.targets[0]
        yield ast.Expr(
            made("T.index_put_((I,), V, accumulate=True)", T=load(target.value),
                 I=target.slice, V=node.value)
        )  # fmt: skip


forms(
    "constant_factor", lambda node, s: standing(node, s) and s.place != "head", "2 * A", "0.5 * A",
    paired=True,
)  # fmt: skip
forms(
    "missing_factor", standing,
    "exponent: A * {own}", "exponent: A / {own}",
    "mask_not_applied: A * {mask}",
    "A * {new}", "A / {new}", "A * (1 - {t})", "A * (1 - {t} ** 2)", "A * {t} * (1 - {t})",
    "A / (1 + {t})", "A / (1 - {t})", "A * {t}.sign()",
    "A * {column}.reshape(1, -1{tail})", "A * {row}.unsqueeze(-1)", "A / {row}.unsqueeze(-1)",
    "A * {number}", "A / {number}", "sum_vs_mean: A / ({number} - {number2})",
    "constant_factor: 2 * A", "constant_factor: A * {literal}", "constant_factor: A / {literal}",
    paired=True,
)  # fmt: skip
forms(
    "wrong_slice", lambda node, s: s.place == "index" and atom(node, s) in s.numbers,
    "A - 1", "A + 1",
)  # fmt: skip
forms(
    "missing_factor", standing,
    "A * {size}", "sum_vs_mean: A / {size}", "sum_vs_mean: A / ({size} * {size2})",
    "A / (1 - {number})", "A / (1 - {literal})", "A * {expression}", "A / {expression}",
    "mask_not_applied: A * ({where})",
    paired=True,
)  # fmt: skip
forms("v_unused", standing, "{v} * A")
forms(
    "v_unused", lambda node, s: s.place == "inside" and number(node) is not None, "{v}",
)  # fmt: skip
# What sums most often lack: a constant, the term through a mean, the one through a norm.
forms(
    "missing_term", summand,
    "(A + {constant})", "(A - {constant})", "({constant} - A)", "(A + {stray})",
    "(A - A.mean({dim}, keepdim=True))",
    "(A - {w} * (A * {w}).{kind}({dim}, keepdim=True))",
    "(A - {w} * A.{kind}({dim}, keepdim=True))", "(A - (A * {w}).{kind}({dim}, keepdim=True))",
    "missing_factor: {w} * (A - (A * {w}).sum({dim}, keepdim=True))",
    "(A - {other})", "(A + {other})", "(A {sign} {expression})",
    "(A - {row}.unsqueeze(-1))",
    "(A {sign} torch.outer({vector}, {vector}))",
    "(A - torch.nn.functional.one_hot({i}, A.shape[-1]))",
)  # fmt: skip


forms("missing_factor", standing, "A * {t}.exp()", paired=True)
forms("exponent", lambda node, s: tensor(node, s) and s.place not in ("size", "index"), "A ** 3")


@rule("wrong_function", paired=True)
def _functions(node: ast.AST, scope: Scope) -> Iterator[Found]:
    name = called(node)
    if isinstance(node, ast.Call):
        for group in SWAPS:
            for other in group if name in group else ():
                if other != name:
                    code = "missing_accumulation" if name.endswith("_") else "wrong_function"
                    field = "attr" if isinstance(node.func, ast.Attribute) else "id"
                    yield code, changed(node, func=changed(node.func, **{field: other}))
        if isinstance(node.func, ast.Attribute):
            inner: ast.expr | None = None
            if text(node.func.value) in ("torch", "F", "np") and len(node.args) == 1:
                inner = node.args[0]
            elif not node.args and not node.keywords and name not in ("clone", "detach", "numpy"):
                inner = node.func.value
            if inner is not None:
                crossed = atom(inner, scope) in scope.outputs and atom(inner, scope)
                yield ("output_for_input" if crossed else "wrong_function"), inner
        if "fft" in name:
            yield "missing_call", made("A.conj()", A=node)

        if name in ("tril", "triu"):
            args = node.args[: 1 if text(node.func).startswith("torch.") else 0]
            for diagonal in ("0", "1", "-1"):
                put = keyword(node, "diagonal", made(diagonal))
                yield "wrong_constant", changed(put, args=args)


forms("missing_call", tensor, *(f"A.{name}()" for name in WRAPS), paired=True)
# A factor has one triangle only.
forms(
    "missing_call", lambda node, s: (standing(node, s) or head(node, s)) and s.rank >= 2,
    *(f"torch.{half}(A{where})" for half, where in itertools.product(("tril", "triu"), ("", ", -1", ", 1"))),
)  # fmt: skip
# A matrix that multiplies, a sum that scales.
forms(
    "missing_factor", lambda node, s: standing(node, s) or s.place == "factor",
    "A @ {matrix}", "A @ {matrix}.mT", "{matrix} @ A", "{matrix}.mT @ A",
    "A * {w}.sum({dim}, keepdim=True)",
)  # fmt: skip
forms(
    "missing_call",
    lambda node, s: (standing(node, s) or s.place == "factor")
    and isinstance(node, (ast.BinOp, ast.Call)),
    "(A).sqrt()", "(A).rsqrt()", "(A).exp()", "(A).tanh()", "(A).sigmoid()",
)  # fmt: skip
forms(
    "missing_broadcast_sum", lambda node, s: standing(node, s) or tensor(node, s),
    "A.sum({dim})", "A.sum({dim}, keepdim=True)", "A.sum()",
    paired=True,
)  # fmt: skip
forms(
    "missing_unsqueeze",
    lambda node, s: (tensor(node, s) and s.tensors[atom(node, s)] >= 1)
    or (isinstance(node, (ast.Call, ast.BinOp)) and s.place != "head"),
    "A.unsqueeze({unflat})",
    paired=True,
)  # fmt: skip


# An index that is known and not used: what was taken has to be put back where it came from.
forms(
    "missing_call", lambda node, s: bool(s.indices) and (standing(node, s) or tensor(node, s)),
    "A[{i}]", "A.gather({dim}, {i})", "torch.zeros_like(A).scatter_add_({dim}, {i}, A)",
    "torch.zeros_like(A).index_add_({dim}, {i}, A)",
)  # fmt: skip


@rule("grad_output_changed")
def _in_place(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if atom(node, scope) in scope.upstream and atom(node, scope):
        yield made("A.clone()", A=node)
    name = called(node)
    if isinstance(node, ast.Call) and name.endswith("_") and not name.startswith("_"):
        yield changed(node, func=changed(node.func, attr=name[:-1]))


@rule("not_reentrant")
def _assigned(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        yield ast.Assign([node.target], node.value)


forms("constant_factor", standing, *(f"{factor} * A" for factor in _FACTORS), paired=True)
# A term that a product has, and this sum has not.
forms(
    "missing_term", summand,
    "(A - {w} * {w} * A)", "(A {sign} {w} * {t} / {other} ** 2)",
)  # fmt: skip
forms("missing_term", head, "(A {sign} {any} * {any2})", "(A {sign} {number} * {any})")
forms(
    "missing_term",
    lambda node, s: tensor(node, s) and s.tensors[atom(node, s)] == 2, "(A + A.T)",
)  # fmt: skip
# Derivatives of normalisations, which have a row of J for each element.
forms(
    "unknown", head,
    "missing_call: {made}.scatter_({dim}, {i}.unsqueeze({dim}), {v}.unsqueeze({dim}))",
    "missing_call: {made}.scatter_add_({dim}, {i}, {v})",
    "{w} * ({v} - ({v} * {w}).sum({dim}, keepdim=True))",
    "{v} - {w} * {v}.sum({dim}, keepdim=True)",
    "{v} - {w}.exp() * {v}.sum({dim}, keepdim=True)",
    "({v} - {w} * ({v} * {w}).sum({dim}, keepdim=True)) / {t}",
    "({v} - ({v} * {w}).sum({dim}, keepdim=True)) / {t}",
    "({v} - {v}.mean({dim}, keepdim=True) - {w} * ({v} * {w}).mean({dim}, keepdim=True)) * {t}",
)  # fmt: skip


@rule("v_unused")
def _inner(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """``y.sum().backward()`` in a backward, for ``y.backward(v)``; ``autograd.grad`` likewise."""
    name = called(node)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    y = node.func.value if name == "backward" else node.args[0] if node.args else node
    if called(y) in REDUCTIONS and isinstance(y, ast.Call) and isinstance(y.func, ast.Attribute):
        y = y.func.value
    for v in sorted(scope.upstream):
        if name == "backward" and not node.args:
            yield made(f"A.backward({v})", A=y)
        elif name == "grad" and len(node.args) == 2:
            yield changed(node, args=[y, node.args[1], made(v)])


@rule("v_nonlinear")
def _nonlinear(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        if text(node.right) in scope.upstream:
            yield node.left
        if text(node.left) in scope.upstream:
            yield node.right
