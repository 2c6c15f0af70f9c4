"""The table of edits: for each fault the rewrites of a backward's source that undo it.

A rule takes a node of the user's own source and yields what could stand in its place.  `RULES` is
in the order in which a fault is looked for: of two edits that both make a backward right, the first
names what was wrong.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

from gradexplain.checking.rewriting import (
    OVER_DIMS,
    REDUCTIONS,
    Found,
    Scope,
    atom,
    called,
    changed,
    exchanged,
    forms,
    head,
    is_eps,
    keyword,
    made,
    number,
    replaced,
    rule,
    size,
    summand,
    text,
    turned,
)

# -- the table -------------------------------------------------------------------------------------


@rule("swapped")
def _returned(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.Tuple) and scope.place == "head" and isinstance(node.ctx, ast.Load):
        for i, j in itertools.combinations(range(len(node.elts)), 2):
            yield exchanged(node, i, j)


# A gradient that is worked out and not returned, or that one product gives.
forms(
    "none", lambda node, s: s.place == "head" and text(node) == "None",
    "{made}", "{any} * {any2}", "{any}.T @ {any2}", "{any} @ {any2}", "{any} @ {any2}.T",
    "({any} * {any2}).sum(0)", "({any} * {any2}).sum()", "{any}.sum(0)", "{any}.sum()",
    "-{any}", "-{any} * {any2}",
)  # fmt: skip


# What is worked out and not used belongs somewhere.
forms(
    "missing_term", lambda node, s: bool(s.idle) and (summand(node, s) or head(node, s)),
    "missing_call: A.gather(-1, {i})", "missing_call: A[{i}]",
    "(A {sign} {idle})", "(A {sign} {idle}.unsqueeze(-1))", "(A {sign} {other} * {idle})",
    "(A {sign} {other} * {idle}[{i}])", "(A {sign} {other} * {idle}.gather(-1, {i}))",
    "(A {sign} {other} * {idle} * ({v} * {other}).sum({dim}, keepdim=True))",
    "(A {sign} {idle} / {other})",
    "(A {sign} {idle} / (1 - {other}))",
    "missing_factor: A * {idle}",
)  # fmt: skip
# A product that the chain rule has made a factor of.
forms(
    "missing_term", lambda node, s: head(node, s) and s.rank > 1,
    "(A {sign} {made} @ {matrix})", "(A {sign} {matrix} @ {made})",
    "(A {sign} {made}.mT @ {matrix})", "(A {sign} {made} @ {matrix}.mT)",
)  # fmt: skip


@rule("transposed")
def _operands(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if called(node) in ("outer", "ger", "kron", "cross") and isinstance(node, ast.Call):
        args = [*node.args[1::-1], *node.args[2:]]
        yield "wrong_sign" if called(node) == "cross" else "transposed", changed(node, args=args)


@rule("kernel_not_flipped")
def _put_back(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """Where it is taken from, and where it is put, in each other's place."""
    if not isinstance(node, (ast.Assign, ast.AugAssign)):
        return
    to = node.targets[0] if isinstance(node, ast.Assign) else node.target
    for part in ast.walk(node.value) if isinstance(to, ast.Subscript) else ():
        if isinstance(part, ast.Subscript) and isinstance(to, ast.Subscript):
            yield replaced(node, {id(to.slice): part.slice, id(part.slice): to.slice})


@rule("swapped_halves", paired=True)
def _halves(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if (
        isinstance(node, (ast.List, ast.Tuple)) and 2 <= len(node.elts) <= 9
        and scope.place not in ("head", "index", "size")
        and isinstance(node.ctx, ast.Load) and all(number(e) is None for e in node.elts)
    ):  # fmt: skip
        for i, j in itertools.combinations(range(len(node.elts)), 2):
            yield exchanged(node, i, j)
        for at in (1, -1) if len(node.elts) > 2 else ():
            yield changed(node, elts=node.elts[at:] + node.elts[:at])
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and (
        len(node.targets[0].elts) == 2 and "saved_tensors" not in text(node.value)
    ):  # fmt: skip
        yield ast.Assign([ast.Tuple(node.targets[0].elts[::-1], ast.Store())], node.value)


@rule("swapped_branches")
def _branches(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if called(node) == "where" and isinstance(node, ast.Call) and len(node.args) == 3:
        yield changed(node, args=[node.args[0], node.args[2], node.args[1]])


@rule("square_of_difference", paired=True)
def _square_of(node: ast.AST, scope: Scope) -> Iterator[Found]:
    inner: ast.AST | None = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and number(node.right) == 2:
        inner = node.left
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and (
        ast.dump(node.left) == ast.dump(node.right)
    ):  # fmt: skip
        inner = node.left
    elif called(node) in ("pow", "square") and isinstance(node, ast.Call):
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
        yield made("A - B ** 2", A=inner.left, B=inner.right)


@rule("wrong_sign", paired=True)
def _sign(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        other: ast.operator = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.BinOp(node.left, other, node.right)
        if isinstance(node.op, ast.Sub):
            yield ast.BinOp(node.right, ast.Sub(), node.left)
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, (ast.Add, ast.Sub)):
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.AugAssign(node.target, other, node.value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand
    elif called(node) in ("neg", "negative") and isinstance(node, ast.Call) and not node.args:
        yield node.func.value  # type: ignore[attr-defined]
    elif isinstance(node, ast.expr) and (
        scope.place == "head" or (scope.place == "inside" and number(node) is None)
    ) and not isinstance(node, (ast.Tuple, ast.List, ast.Constant)):  # fmt: skip
        yield ast.UnaryOp(ast.USub(), node)


@rule("missing_keepdim", paired=True)
def _keepdim(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    if node.func.attr in (*REDUCTIONS, "norm", "var", "std", "amax", "logsumexp") and (
        node.args or node.keywords
    ):
        if not any(k.arg == "keepdim" for k in node.keywords):
            yield keyword(node, "keepdim", ast.Constant(True))
        else:
            yield "extra_keepdim", keyword(node, "keepdim", None)


@rule("wrong_dim", paired=True)
def _dims(node: ast.AST, scope: Scope) -> Iterator[Found]:
    name = called(node)
    if not isinstance(node, ast.Call) or name not in OVER_DIMS:
        return
    tensors = isinstance(node.func, ast.Attribute) and text(node.func.value) not in ("torch", "F")
    if name in REDUCTIONS and not node.keywords and len(node.args) == (0 if tensors else 1):
        for dim in scope.dims:
            value = ast.parse(dim, mode="eval").body
            yield keyword(keyword(node, "dim", value), "keepdim", ast.Constant(True))
            yield keyword(node, "dim", value)
    for dim in ("0", "1", "-1", "-2", "2", "(0, 1)", "(0, 2)", "(0, 2, 3)", "(1, 2)", *scope.dims):
        value = ast.parse(dim, mode="eval").body
        named = next((k for k in node.keywords if k.arg in ("dim", "axis")), None)
        if named is not None:
            if ast.dump(named.value) == ast.dump(value):
                continue
            put = [ast.keyword(k.arg, value) if k is named else k for k in node.keywords]
            yield changed(node, keywords=put)
            continue
        place = 0 if tensors else 1
        if len(node.args) > place and ast.dump(node.args[place]) != ast.dump(value):
            yield changed(node, args=[*node.args[:place], value, *node.args[place + 1 :]])


@rule("wrong_dim")
def _all_dims(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """Another dim for every reduction of an expression."""
    if isinstance(node, ast.BinOp):
        calls = [part for part in ast.walk(node)
                 if isinstance(part, ast.Call) and called(part) in REDUCTIONS]  # fmt: skip
        ways = [{text(new): new for new in _dims(call, scope) if isinstance(new, ast.Call)
                 and len(new.args) == len(call.args)} for call in calls]  # fmt: skip
        for some in zip(*(way.values() for way in ways), strict=False) if len(calls) > 1 else ():
            yield replaced(node, {id(call): new for call, new in zip(calls, some, strict=True)})


@rule("wrong_dim")
def _permuted(node: ast.AST, scope: Scope) -> Iterator[Found]:
    reordered = called(node) in ("permute", "view", "reshape")
    if reordered and isinstance(node, ast.Call) and 2 <= len(node.args) <= 6:
        for order in itertools.permutations(node.args):
            if list(order) != node.args:
                yield "transposed", changed(node, args=list(order))


@rule("sum_vs_mean", paired=True)
def _sum_mean(node: ast.AST, scope: Scope) -> Iterator[Found]:
    name = called(node)
    if name in REDUCTIONS and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        other = "mean" if name == "sum" else "sum"
        yield changed(node, func=ast.Attribute(node.func.value, other, ast.Load()))


@rule("sum_vs_mean")
def _counted(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """Another count of what is averaged over: of a batch, of what a mask lets through."""
    if size(node) and scope.place not in ("size", "index") and isinstance(node, ast.expr):
        for name in scope.idle:
            yield made(name)
        for known in scope.numbers:
            if known != text(node) and size(ast.parse(known, mode="eval").body):
                both = ".shape[" in known and isinstance(node, ast.Subscript)
                yield ("wrong_slice" if both else "sum_vs_mean"), made(known)
        for name in scope.tensors:
            if name not in scope.upstream:
                yield made(f"{name}.sum()")
        for name, dim in itertools.product(scope.masks, scope.dims):
            yield made(f"{name}.sum({dim}, keepdim=True)")


@rule("biased_variance", paired=True)
def _variance(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and (
        number(node.right) == 1 and size(node.left)
    ):  # fmt: skip
        yield node.left
    elif size(node) and scope.place != "size" and isinstance(node, ast.expr):
        yield made("(A - 1)", A=node)
    elif isinstance(node, ast.Call):
        for k in node.keywords:
            if k.arg in ("unbiased", "correction") and isinstance(k.value, ast.Constant):
                flipped = not k.value.value
                kept = flipped if isinstance(k.value.value, bool) else int(flipped)
                yield keyword(node, k.arg, ast.Constant(kept))
        if called(node) in ("var", "std") and not any(k.arg == "unbiased" for k in node.keywords):
            yield keyword(node, "unbiased", ast.Constant(False))


@rule("eps", paired=True)
def _epsilon(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
        shown = text(node.right)
        if is_eps(shown, scope):
            yield node.left
            if called(node.left) == "sqrt" and isinstance(node.left, ast.Call):
                inner = node.left.args[0] if node.left.args else node.left.func.value  # type: ignore[attr-defined]
                yield made(f"torch.sqrt(A + {shown})", A=inner)
    if isinstance(node, ast.Call) and called(node) in ("sqrt", "rsqrt") and not node.args:
        inner = node.func.value  # type: ignore[attr-defined]
        if isinstance(inner, ast.BinOp) and is_eps(text(inner.right), scope):
            yield made(f"(A.sqrt() + {text(inner.right)})", A=inner.left)
    if isinstance(node, ast.expr) and scope.place != "head" and (
        atom(node, scope) in scope.tensors or isinstance(node, (ast.Call, ast.BinOp))
    ):  # fmt: skip
        for eps in scope.epsilons:
            if text(node) != eps:
                yield made(f"(A + {eps})", A=node)


@rule("exponent", paired=True)
def _powers(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        n = number(node.right)
        if n is not None:
            for step in (1, -1, 2, -2):
                value = n + step
                if value == 1:
                    yield node.left
                elif value != 0:
                    yield made("A ** B", A=node.left, B=ast.Constant(
                        int(value) if value == int(value) else value))  # fmt: skip
        else:
            yield made("A ** (B - 1)", A=node.left, B=node.right)
            yield made("A ** (B + 1)", A=node.left, B=node.right)
            if isinstance(node.right, ast.BinOp):
                yield made("A ** B", A=node.left, B=node.right.left)
    elif called(node) == "pow" and isinstance(node, ast.Call) and node.args:
        last = node.args[-1]
        for step in (1, -1):
            power = number(last)
            put = ast.Constant(power + step) if power is not None else (
                made(f"A {'+' if step > 0 else '-'} 1", A=last)
            )  # fmt: skip
            yield changed(node, args=[*node.args[:-1], put])
            if isinstance(last, ast.BinOp) and number(last.right) == 1:
                yield changed(node, args=[*node.args[:-1], last.left])
        if isinstance(node.func, ast.Attribute) and len(node.args) == 1:
            yield node.func.value
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and (
        ast.dump(node.left) == ast.dump(node.right)
    ):  # fmt: skip
        yield node.left
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        if number(node.right) is None:
            yield made("A / B ** 2", A=node.left, B=node.right)
            yield made("A / B ** 3", A=node.left, B=node.right)


@rule("constant_factor", paired=True)
def _constants(node: ast.AST, scope: Scope) -> Iterator[Found]:
    n = number(node)
    if n is None or scope.place in ("index", "size", "exponent") or isinstance(n, bool):
        return
    code = "constant_factor" if scope.place == "factor" else "wrong_constant"
    for value in (2 * n, n / 2, n + 1, n - 1, 3 * n, n / 3, n * n, n + 2, n**0.5 if n > 0 else n):
        if value not in (n, 0.0) and not (value == 1 and scope.place == "factor"):
            yield code, ast.Constant(int(value) if value == int(value) else value)
    for other in (*scope.numbers, *scope.epsilons):
        yield code, ast.parse(other, mode="eval").body


@rule("output_for_input", paired=True)
def _names(node: ast.AST, scope: Scope) -> Iterator[Found]:
    name = atom(node, scope)
    if name and name in scope.upstream:
        # v where what the chain rule has made of it belongs.
        for other in scope.made:
            if other != name:
                yield "missing_factor", ast.parse(other, mode="eval").body
        return
    if not name:
        return
    among = scope.tensors if name in scope.tensors else dict.fromkeys(scope.numbers, 0)
    for other in among:
        if other == name or other in scope.upstream:
            continue
        roles = {name, other}
        crossed = roles & scope.outputs and roles & scope.inputs
        code = "output_for_input" if crossed else "wrong_input"
        if name in scope.numbers:
            code = "wrong_constant"
        yield code, ast.parse(other, mode="eval").body


_FLIPS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.Gt, ast.GtE), ast.LtE: (ast.GtE, ast.Gt), ast.Gt: (ast.Lt, ast.LtE),
    ast.GtE: (ast.LtE, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
}  # fmt: skip


@rule("wrong_condition", paired=True)
def _conditions(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in _FLIPS.get(type(node.ops[0]), ()):
            yield ast.Compare(node.left, [op()], node.comparators)
        for other in scope.conditions:
            if other != text(node):
                yield made(f"({other})")
                yield made(f"(A) & ({other})", A=node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitAnd, ast.BitOr)):
        other_op: ast.operator = ast.BitOr() if isinstance(node.op, ast.BitAnd) else ast.BitAnd()
        yield ast.BinOp(node.left, other_op, node.right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Invert, ast.Not)):
        yield node.operand
    elif scope.place == "test" and isinstance(node, ast.expr):
        yield ast.UnaryOp(ast.Not(), node)
    if atom(node, scope) in scope.booleans and atom(node, scope):
        yield made("~A", A=node)


@rule("symmetric_assumption")
def _symmetric(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """``2 * A …`` for ``(A + A.mT) …``."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, (ast.Mult, ast.MatMult)):
        return
    for two in ast.walk(node):
        if not isinstance(two, ast.BinOp) or not isinstance(two.op, ast.Mult):
            continue
        for factor, rest in ((two.left, two.right), (two.right, two.left)):
            for part in ast.walk(node) if number(factor) == 2 else ():
                if scope.tensors.get(atom(part, scope), 0) < 2:
                    continue
                turned_too = "A + A.T" if scope.rank < 3 else "A + A.mT"
                put = {id(two): rest, id(part): made(turned_too, A=part)}
                yield replaced(node, put)


@rule("transposed", paired=True)
def _transposes(node: ast.AST, scope: Scope) -> Iterator[Found]:
    inner = turned(node)
    if inner is not None:
        yield inner
    product: tuple[ast.expr, ast.expr] | None = None
    shape = "A @ B"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        product = node.left, node.right
    elif called(node) in ("mm", "matmul", "bmm", "mv") and isinstance(node, ast.Call):
        if len(node.args) == 2:
            product, shape = (node.args[0], node.args[1]), f"{text(node.func)}(A, B)"
        elif len(node.args) == 1 and isinstance(node.func, ast.Attribute):
            product, shape = (node.func.value, node.args[0]), f"A.{node.func.attr}(B)"
    if product is not None:
        a, b = product

        def t(e: ast.expr) -> ast.expr:
            undone = turned(e)
            return (
                undone
                if isinstance(undone, ast.expr)
                else made("A.mT" if scope.rank > 2 else "A.T", A=e)
            )

        for left, right in ((t(a), b), (a, t(b)), (b, a), (t(a), t(b)), (t(b), a), (b, t(a)),
                            (t(b), t(a))):  # fmt: skip
            yield made(shape, A=left, B=right)
    elif isinstance(node, ast.expr) and inner is None and (
        scope.tensors.get(atom(node, scope), 0) >= 2 or scope.place == "head"
    ) and not isinstance(node, (ast.Tuple, ast.Constant)):  # fmt: skip
        yield made("A.mT" if scope.rank > 2 else "A.T", A=node)


@rule("wrong_input")
def _exchanged(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """``c*x + b*y`` for ``c*y + b*x``."""
    sums = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))
    if not sums and called(node) not in ("add", "sub", "cat", "stack"):
        return
    known: dict[str, list[ast.AST]] = {}
    for part in ast.walk(node):
        if atom(part, scope) in scope.tensors:
            known.setdefault(atom(part, scope), []).append(part)
    for one, two in itertools.combinations(list(known)[:6], 2):
        put = {id(part): made(two) for part in known[one]}
        yield replaced(node, put | {id(part): made(one) for part in known[two]})
