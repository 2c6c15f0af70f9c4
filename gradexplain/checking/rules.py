"""The table of edits: for each fault the rewrites of a backward's source that undo it.

A rule takes a node of the user's own source and yields what could stand in its place.  `RULES` is
in the order in which a fault is looked for: of two edits that both make a backward right, the first
names what was wrong.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator

from gradexplain.checking.rewriting import (
    REDUCTIONS,
    SWAPS,
    WRAPS,
    Found,
    Scope,
    atom,
    called,
    factors_of,
    is_eps,
    keyword,
    load,
    made,
    number,
    rule,
    size,
    standing,
    text,
    turned,
)

# -- the table -------------------------------------------------------------------------------------


@rule("swapped")
def _returned(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.Tuple) and scope.place == "head" and isinstance(node.ctx, ast.Load):
        for i, j in itertools.combinations(range(len(node.elts)), 2):
            elts = list(node.elts)
            elts[i], elts[j] = elts[j], elts[i]
            yield ast.Tuple(elts, ast.Load())


@rule("swapped_halves", paired=True)
def _halves(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if (
        isinstance(node, (ast.List, ast.Tuple)) and len(node.elts) == 2 and scope.place != "head"
        and isinstance(node.ctx, ast.Load) and all(number(e) is None for e in node.elts)
    ):  # fmt: skip
        yield type(node)(node.elts[::-1], ast.Load())
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple) and (
        len(node.targets[0].elts) == 2 and "saved_tensors" not in text(node.value)
    ):  # fmt: skip
        yield ast.Assign([ast.Tuple(node.targets[0].elts[::-1], ast.Store())], node.value)


@rule("swapped_branches")
def _branches(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if called(node) == "where" and isinstance(node, ast.Call) and len(node.args) == 3:
        new = copy.copy(node)
        new.args = [node.args[0], node.args[2], node.args[1]]
        yield new


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


@rule("missing_term")
def _idle(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """What is worked out and not used belongs somewhere."""
    if not scope.idle or not isinstance(node, ast.expr) or isinstance(node, (ast.Tuple, ast.List)):
        return
    if scope.place not in ("head", "term", "factor", "inside", "result"):
        return
    for name in scope.idle:
        for op in "-+":
            yield made(f"(A {op} {name})", A=node)
            others = [t for t in scope.tensors if t not in scope.upstream | scope.booleans | {name}]
            for other in others:
                yield made(f"(A {op} {other} * {name})", A=node)
            if scope.place == "head":
                for one, two in itertools.permutations(others, 2):
                    yield made(f"(A {op} {name} * {one} / {two})", A=node)


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
    if not isinstance(node, ast.Call) or name not in (
        *REDUCTIONS, "norm", "var", "std", "softmax", "log_softmax", "cumsum", "flip", "unsqueeze",
        "logsumexp", "cat", "stack", "scatter_add_", "scatter_", "index_add_", "gather", "chunk",
    ):  # fmt: skip
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
        new = copy.copy(node)
        if named is not None:
            if ast.dump(named.value) == ast.dump(value):
                continue
            new.keywords = [ast.keyword(k.arg, value) if k is named else k for k in node.keywords]
            yield new
            continue
        place = 0 if tensors else 1
        if len(node.args) > place and ast.dump(node.args[place]) != ast.dump(value):
            new.args = [value if i == place else a for i, a in enumerate(node.args)]
            yield new


@rule("wrong_dim")
def _permuted(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if called(node) == "permute" and isinstance(node, ast.Call) and 2 <= len(node.args) <= 4:
        for order in itertools.permutations(node.args):
            if list(order) != node.args:
                new = copy.copy(node)
                new.args = list(order)
                yield "transposed", new


@rule("sum_vs_mean", paired=True)
def _sum_mean(node: ast.AST, scope: Scope) -> Iterator[Found]:
    name = called(node)
    if name in REDUCTIONS and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        new = copy.copy(node)
        new.func = ast.Attribute(node.func.value, "mean" if name == "sum" else "sum", ast.Load())
        yield new


@rule("sum_vs_mean")
def _counted(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """Another count of what is averaged over: of a batch, of what a mask lets through."""
    if size(node) and scope.place not in ("size", "index") and isinstance(node, ast.expr):
        for known in scope.numbers:
            if known != text(node) and size(ast.parse(known, mode="eval").body):
                both = ".shape[" in known and isinstance(node, ast.Subscript)
                yield ("wrong_slice" if both else "sum_vs_mean"), made(known)
        for name in scope.tensors:
            if name not in scope.upstream:
                yield made(f"{name}.sum()")


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
            new = copy.copy(node)
            power = number(last)
            new.args = [*node.args[:-1], ast.Constant(power + step) if power is not None
                        else made(f"A {'+' if step > 0 else '-'} 1", A=last)]  # fmt: skip
            yield new
            if isinstance(last, ast.BinOp) and number(last.right) == 1:
                new = copy.copy(node)
                new.args = [*node.args[:-1], last.left]
                yield new
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


_FACTORS = ("2", "0.5", "3", "4", "6", "(1 / 3)", "0.25")


@rule("constant_factor", paired=True)
def _constants(node: ast.AST, scope: Scope) -> Iterator[Found]:
    n = number(node)
    if n is None or scope.place in ("index", "size", "exponent") or isinstance(n, bool):
        return
    code = "constant_factor" if scope.place == "factor" else "wrong_constant"
    for value in (2 * n, n / 2, n + 1, n - 1, 3 * n, n / 3, n * n, n + 2, n**0.5 if n > 0 else n):
        if value not in (n, 0.0):
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
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for two, other in ((node.left, node.right), (node.right, node.left)):
            if number(two) == 2 and scope.tensors.get(atom(other, scope)) == 2:
                yield made("(A + A.T)", A=other)
        left = node.left
        if (
            isinstance(left, ast.BinOp)
            and isinstance(left.op, ast.Mult)
            and number(left.right) == 2
            and scope.tensors.get(atom(node.right, scope)) == 2
        ):
            yield made("L * (A + A.T)", L=left.left, A=node.right)


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
            return undone if isinstance(undone, ast.expr) else made("A.mT", A=e)

        yield made(shape, A=b, B=a)
        for left, right in ((t(a), b), (a, t(b)), (t(a), t(b)), (t(b), a), (b, t(a)), (t(b), t(a))):
            yield made(shape, A=left, B=right)
    elif isinstance(node, ast.expr) and inner is None and (
        scope.tensors.get(atom(node, scope), 0) >= 2 or scope.place == "head"
    ) and not isinstance(node, (ast.Tuple, ast.Constant)):  # fmt: skip
        yield made("A.mT", A=node)


@rule("extra_factor", paired=True)
def _removed(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, (ast.Mult, ast.Div)):
            code = "constant_factor" if number(node.right) is not None else "extra_factor"
            if size(node.right) and isinstance(node.op, ast.Div):
                code = "sum_vs_mean"
            yield code, node.left
            if isinstance(node.op, ast.Mult):
                code = "constant_factor" if number(node.left) is not None else "extra_factor"
                yield code, node.right
            inverse = "constant_factor" if number(node.right) is not None else "inverse"
            if isinstance(node.op, ast.Mult):
                yield inverse, made("A / B", A=node.left, B=node.right)
            else:
                yield inverse, made("A * B", A=node.left, B=node.right)
                yield inverse, made("B / A", A=node.left, B=node.right)
        elif isinstance(node.op, (ast.Add, ast.Sub)):
            yield "extra_term", node.left
            yield (
                "extra_term",
                (
                    node.right
                    if isinstance(node.op, ast.Add)
                    else ast.UnaryOp(ast.USub(), node.right)
                ),
            )
        inner = node.left
        if (
            isinstance(node.op, ast.Div)
            and isinstance(inner, ast.BinOp)
            and isinstance(inner.op, ast.Mult)
        ):
            yield "inverse", made("L * B / A", L=inner.left, A=inner.right, B=node.right)


@rule("missing_factor", paired=True)
def _factors(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if not standing(node, scope):
        return
    for name in scope.tensors:
        if name in scope.upstream:
            continue
        if name in {text(part) for part in factors_of(node)}:
            yield "exponent", made(f"A * {name}", A=node)
        masked = name in scope.booleans or any(w in name.lower() for w in ("mask", "keep"))
        code = "mask_not_applied" if masked else "missing_factor"
        yield code, made(f"A * {name}", A=node)
        if not masked:
            yield code, made(f"A / {name}", A=node)
            yield code, made(f"A * (1 - {name})", A=node)
            yield code, made(f"A * (1 - {name} ** 2)", A=node)
            yield code, made(f"A * {name} * (1 - {name})", A=node)
            yield code, made(f"A / (1 + {name})", A=node)
            yield code, made(f"A * {name}.sign()", A=node)
            yield code, made(f"A * {name}.exp()", A=node)
        if scope.tensors[name] == 1 and scope.rank > 2:
            yield code, made(f"A * {name}.reshape(1, -1{', 1' * (scope.rank - 2)})", A=node)
        if scope.tensors[name] == scope.rank - 1:
            yield code, made(f"A * {name}.unsqueeze(-1)", A=node)
            yield code, made(f"A / {name}.unsqueeze(-1)", A=node)
    for known in scope.numbers:
        if not known[0].isdigit() and not size(ast.parse(known, mode="eval").body):
            yield "missing_factor", made(f"A * {known}", A=node)
            yield "missing_factor", made(f"A / {known}", A=node)
    yield "constant_factor", made("2 * A", A=node)
    if scope.place != "head":
        yield "constant_factor", made("0.5 * A", A=node)
    for known in scope.numbers:
        sized = size(ast.parse(known, mode="eval").body)
        plain = "constant_factor" if known[0].isdigit() else "missing_factor"
        yield plain, made(f"A * {known}", A=node)
        yield ("sum_vs_mean" if sized else plain), made(f"A / {known}", A=node)
        if not sized:
            yield "missing_factor", made(f"A / (1 - {known})", A=node)
    for condition in scope.conditions:
        yield "mask_not_applied", made(f"A * ({condition})", A=node)


@rule("v_unused")
def _upstream(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if standing(node, scope):
        for name in scope.upstream:
            yield made(f"{name} * A", A=node)


@rule("missing_term")
def _usual_terms(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """What sums most often lack: a constant, the term through a mean, the one through a norm."""
    if not isinstance(node, ast.expr) or isinstance(node, (ast.Tuple, ast.List, ast.Constant)):
        return
    if scope.place not in ("head", "term", "result", "inside", "factor") and not atom(node, scope):
        return
    for constant in ("1", "2"):
        yield made(f"(A + {constant})", A=node)
        yield made(f"(A - {constant})", A=node)
        yield made(f"({constant} - A)", A=node)
    tensors = [n for n in scope.tensors if n not in scope.upstream and n not in scope.booleans]
    for dim in scope.dims:
        yield made(f"(A - A.mean({dim}, keepdim=True))", A=node)
        for kind in REDUCTIONS:
            for name in tensors:
                yield made(f"(A - {name} * (A * {name}).{kind}({dim}, keepdim=True))", A=node)
                yield made(f"(A - {name} * A.{kind}({dim}, keepdim=True))", A=node)
    for name in tensors:
        if name != text(node):
            yield made(f"(A - {name})", A=node)
            yield made(f"(A + {name})", A=node)


@rule("missing_factor")
def _inner_factors(node: ast.AST, scope: Scope) -> Iterator[Found]:
    name = atom(node, scope)
    if not name or scope.place in ("size", "index"):
        return
    for other in (*scope.tensors, *scope.numbers):
        if other in scope.upstream:
            continue
        same = other == name
        if other in scope.tensors or name in scope.numbers:
            yield ("exponent" if same else "missing_factor"), made(f"A * {other}", A=node)
        if not same:
            yield "missing_factor", made(f"(A / {other})", A=node)
    yield "exponent", made("A ** 3", A=node)


@rule("wrong_function", paired=True)
def _functions(node: ast.AST, scope: Scope) -> Iterator[Found]:
    name = called(node)
    if isinstance(node, ast.Call):
        for group in SWAPS:
            for other in group if name in group else ():
                if other != name:
                    new = copy.copy(node)
                    new.func = (
                        ast.Attribute(node.func.value, other, ast.Load())
                        if isinstance(node.func, ast.Attribute) else ast.Name(other, ast.Load())
                    )  # fmt: skip
                    code = "missing_accumulation" if name.endswith("_") else "wrong_function"
                    yield code, new
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
    if atom(node, scope) in scope.tensors and atom(node, scope):
        for other in WRAPS:
            yield "missing_call", made(f"A.{other}()", A=node)


@rule("missing_factor")
def _products(node: ast.AST, scope: Scope) -> Iterator[Found]:
    """A matrix that multiplies, a sum that scales."""
    if not standing(node, scope) and scope.place != "factor":
        return
    matrices = [n for n, rank in scope.tensors.items() if rank >= 2 and n not in scope.upstream]
    for name in matrices:
        for shown in (f"A @ {name}", f"A @ {name}.mT", f"{name} @ A", f"{name}.mT @ A"):
            yield made(shown, A=node)
    for name in scope.tensors:
        if name not in scope.upstream and name not in scope.booleans:
            for dim in scope.dims:
                yield made(f"A * {name}.sum({dim}, keepdim=True)", A=node)
    if isinstance(node, (ast.BinOp, ast.Call)):
        yield "missing_call", made("(A).sqrt()", A=node)
        yield "missing_call", made("(A).rsqrt()", A=node)
        yield "missing_call", made("(A).exp()", A=node)


@rule("missing_broadcast_sum", paired=True)
def _sums(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if not standing(node, scope) and not (atom(node, scope) in scope.tensors and atom(node, scope)):
        return
    if isinstance(node, ast.Name) and called(node):
        return
    for dim in scope.dims:
        yield made(f"A.sum({dim})", A=node)
        yield made(f"A.sum({dim}, keepdim=True)", A=node)
    yield made("A.sum()", A=node)
    if isinstance(node, ast.Call) and called(node) == "sum":
        yield "wrong_dim", made("A.sum((0, 1))", A=node.func.value)  # type: ignore[attr-defined]


@rule("missing_unsqueeze", paired=True)
def _unsqueezed(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.expr) and (
        (atom(node, scope) in scope.tensors and scope.tensors[atom(node, scope)] >= 1)
        or (isinstance(node, (ast.Call, ast.BinOp)) and scope.place != "head")
    ):
        for dim in ("1", "-1", "0", *(d for d in scope.dims if "." in d)):
            yield made(f"A.unsqueeze({dim})", A=node)


@rule("kernel_not_flipped", paired=True)
def _flipped(node: ast.AST, scope: Scope) -> Iterator[Found]:
    name = atom(node, scope)
    rank = scope.tensors.get(name, 0) if name else 0
    if rank >= 1:
        for dim in sorted({rank - 1, 0, max(rank - 2, 0)}, reverse=True):
            yield made(f"A.flip({dim})", A=node)
        if rank >= 2:
            yield made(f"A.flip({rank - 2}, {rank - 1})", A=node)
    if called(node) == "cumsum" and isinstance(node, ast.Call) and len(node.args) == 2:
        a, d = node.args
        yield made("torch.cumsum(A.flip(D), D).flip(D)", A=a, D=d)
    if called(node) == "flip" and isinstance(node, ast.Call):
        yield node.args[0] if len(node.args) == 2 else node.func.value  # type: ignore[attr-defined]
    if called(node) == "reversed" and isinstance(node, ast.Call) and len(node.args) == 1:
        yield node.args[0]


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
    if isinstance(node, ast.Slice):
        for lower, upper in ((node.upper, None), (None, node.lower)):
            if (lower or upper) is not None:
                yield ast.Slice(lower, upper, node.step)
    if scope.place == "index" and number(node) is not None:
        place = int(number(node) or 0)
        for at in (0, 1, 2, -1):
            if at != place:
                yield ast.Constant(at)


@rule("missing_accumulation")
def _accumulated(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        target = node.targets[0]
        yield ast.Expr(
            made("T.index_put_((I,), V, accumulate=True)", T=load(target.value),
                 I=target.slice, V=node.value)
        )  # fmt: skip


@rule("grad_output_changed")
def _in_place(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if atom(node, scope) in scope.upstream and atom(node, scope):
        yield made("A.clone()", A=node)
    name = called(node)
    if isinstance(node, ast.Call) and name.endswith("_") and not name.startswith("_"):
        new = copy.copy(node)
        new.func = ast.Attribute(node.func.value, name[:-1], ast.Load())  # type: ignore[attr-defined]
        yield new


@rule("not_reentrant")
def _assigned(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        yield ast.Assign([node.target], node.value)


@rule("constant_factor", paired=True)
def _scaled(node: ast.AST, scope: Scope) -> Iterator[Found]:
    if standing(node, scope):
        for factor in _FACTORS:
            yield made(f"{factor} * A", A=node)
