"""The edit of the user's own source that makes a backward right: the fault by its mend.

Every rule of `gradexplain.checking.rules` is tried at every place of the source, the changed
backward is run, and the first that is right at every trial names the fault.  Where no single edit
is right, pairs are tried.  What is found is shown as the changed line, which has been run.
"""

from __future__ import annotations

import ast
import copy
import inspect
import itertools
import linecache
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gradexplain.checking import numeric, points
from gradexplain.checking.codes import BY_NAME
from gradexplain.checking.operation import backward_tree, quiet
from gradexplain.checking.report import Fault, Patch
from gradexplain.checking.rules import RULES, Scope, text

if TYPE_CHECKING:
    from gradexplain.checking.code import CodeSetting
    from gradexplain.checking.trials import Trial

torch = numeric.torch_module()
#: At most so many edits are run, and so many pairs.
_SINGLE, _PAIRS = 5000, 2500


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
        return f"{BY_NAME[self.code].title}: {text(self.old)} should be {text(self.new)}"


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
            return "inside"
        if isinstance(owner, ast.Attribute):
            return "inside"
        if isinstance(owner, ast.Subscript):
            return "size"
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
            method = isinstance(node, ast.Call) and name == "func"
            if not method and not isinstance(child, ast.keyword):
                yield Slot(node, name, i, here, inner)
            if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and (
                child.value.id == "ctx"
            ):  # fmt: skip
                continue
            yield from walk(child, here, inner)

    yield from walk(tree, "", None)


def edits(tree: ast.FunctionDef, scope: Scope, places: Sequence[int]) -> Iterator[Edit]:
    """Every edit of the table at every place that bears on the returned values at ``places``, in
    the table's order.
    """
    found = [slot for slot in slots(tree) if _bears(slot, _statements(tree, places))]
    for one in RULES:
        for slot in found:
            node = slot.get()
            scope.place = slot.place
            output = isinstance(node, ast.expr) and text(node) in scope.outputs
            for new in one.rewrite(node, scope):
                code, made = new if isinstance(new, tuple) else (one.code, new)
                if output and code in ("extra_factor", "wrong_function", "extra_term"):
                    code = "output_for_input"
                if isinstance(made, ast.AST):
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
                if stored & names:
                    kept.add(node)
                    names |= used
            elif isinstance(node, (ast.If, ast.For, ast.With)):
                kept.add(node)
    return kept


def _bears(slot: Slot, kept: set[ast.AST]) -> bool:
    return slot.within is None or slot.within in kept


# -- running them ----------------------------------------------------------------------------------


class Bench:
    """One Function's backward, run with its source changed, against the truth at every trial."""

    def __init__(self, function: Any, trials: Sequence[Trial], names: Sequence[str]) -> None:
        self.function = function
        self.trials = list(trials)
        #: Those to be mended, and those that are right and have to stay so.
        self.names = (
            *names,
            *(
                n for n in (self.trials[0].setting.wanted if self.trials else ())
                if n not in names and all(t.right(n) for t in self.trials)
            ),
        )  # fmt: skip
        own = inspect.unwrap(function.backward)
        code = getattr(own, "__code__", None)
        tree = backward_tree(function)
        self.tree = tree if code is not None and not code.co_freevars else None
        if self.tree is None:
            return
        self.source = own
        self.original = inspect.getattr_static(function, "backward")
        try:
            self.made: list[tuple[Any, Any]] = [
                cast("CodeSetting", t.setting).applied(t.values, "float64") for t in self.trials
            ]
        except Exception:  # the user's own code: there is nothing to edit where it does not run
            self.tree = None
            return
        if not self.made or not all(y.requires_grad for y, _ in self.made):
            self.tree = None
            return
        operation = cast("CodeSetting", self.trials[0].setting).subject.operation
        #: Where the gradients stand in what backward returns; every place, where that is unknown.
        self.returned = (
            [operation.place(n, list(self.trials[0].setting.shapes)) for n in names]
            if operation.function is function else list(range(16))
        )  # fmt: skip
        self.places = [t.setting.wanted.index(n) for t in self.trials[:1] for n in self.names]
        self.vs = [
            [0.5 + points.spread(t.out_shape, 7), points.spread(t.out_shape, 11) - 0.5]
            for t in self.trials
        ]

    def compiled(self) -> Any:
        """The tree, as it is now, as a function."""
        assert self.tree is not None
        body = copy.copy(self.tree)
        body.decorator_list = []
        module = ast.fix_missing_locations(ast.Module([body], []))
        space: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            # The user's own source, edited.
            exec(compile(module, "<edited>", "exec"), self.source.__globals__, space)
        return space[self.tree.name]

    def gradients(self, backward: Any, k: int, v: Any, *, again: bool = True) -> list[Any] | None:
        """What ``backward`` gives at the k-th trial for each input that is looked at."""
        y, leaves = self.made[k]
        upstream = numeric.tensor(v, "float64")
        self.function.backward = staticmethod(backward)
        try:
            with quiet():
                found = torch.autograd.grad(
                    y, leaves, upstream, retain_graph=True, allow_unused=True
                )
        except Exception as error:  # the user's own code, edited
            if "modified by an inplace" in str(error) and again:
                # By this edit, or by one before it: what was saved is made anew.
                setting = cast("CodeSetting", self.trials[k].setting)
                self.made[k] = setting.applied(self.trials[k].values, "float64")
                return self.gradients(backward, k, v, again=False)
            return None
        finally:
            self.function.backward = self.original
        if not np.array_equal(upstream.numpy(), v):
            return None
        return [found[p] for p in self.places]

    def right_at(self, backward: Any, k: int, v: Any) -> bool:
        found = self.gradients(backward, k, v)
        if found is None:
            return False
        trial = self.trials[k]
        for name, grad in zip(self.names, found, strict=True):
            true = v.reshape(-1) @ trial.true[name]
            mine = np.zeros(true.shape) if grad is None else numeric.array(grad).ravel()
            slack = np.abs(v.reshape(-1)) @ np.broadcast_to(
                trial.setting.slack(trial.values, name), trial.true[name].shape
            )
            scale = np.abs(v.reshape(-1)) @ np.abs(trial.true[name])
            with np.errstate(all="ignore"):
                if (
                    mine.shape != true.shape
                    or not (np.abs(mine - true) <= 1e-8 * scale.max(initial=1e-6) + 4 * slack).all()
                ):
                    return False
        return True

    def right(self, backward: Any | None = None) -> bool:
        """Whether the backward, as the tree is now, is right at every trial and several v."""
        try:
            made = self.compiled() if backward is None else backward
        except (SyntaxError, ValueError, TypeError):
            return False
        return all(self.right_at(made, k, v) for k in range(len(self.trials)) for v in self.vs[k])

    def scope(self) -> Scope:
        """What the backward can name, seen by running it once."""
        assert self.tree is not None
        seen: dict[str, Any] = {}

        def watch(frame: Any, event: str, _: Any) -> None:
            if event == "return" and frame.f_code is self.source.__code__:
                seen.update(frame.f_locals)

        sys.setprofile(watch)
        try:
            self.gradients(self.source, 0, self.vs[0][0])
        finally:
            sys.setprofile(None)
        self.seen = dict(seen)
        return _scope(self.tree, seen, self.made[0], self.function)


def _scope(tree: ast.FunctionDef, seen: dict[str, Any], made: Any, function: Any) -> Scope:
    arguments = [a.arg for a in tree.args.args]
    context = seen.pop(arguments[0], None) if arguments else None
    upstream = frozenset(arguments[1:])
    known = dict(seen)
    for name, value in vars(context).items() if hasattr(context, "__dict__") else ():
        known[f"{arguments[0]}.{name}"] = value
    y, leaves = made
    tensors, numbers, booleans, outputs, inputs = {}, [], set(), set(), set()
    loads = [
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    ]
    for name, value in known.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value.ndim
            if value.dtype is torch.bool:
                booleans.add(name)
            if value.shape == y.shape and torch.equal(value.to(y.dtype), y.detach()):
                outputs.add(name)
            if any(value.shape == t.shape and torch.equal(value.to(t.dtype), t.detach())
                   for t in leaves):  # fmt: skip
                inputs.add(name)
        elif isinstance(value, np.ndarray):
            tensors[name] = value.ndim
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers.append(name)
        elif isinstance(value, (tuple, torch.Size)) and len(value) and all(
            isinstance(v, int) for v in value
        ) and "needs" not in name:  # fmt: skip
            numbers += [f"{name}[{i}]" for i in range(min(len(value), 4))]
    others = [n for n in tensors if n not in upstream | inputs and "." not in n][:3]
    for name in [*sorted(upstream | inputs), *others]:
        if tensors.get(name):
            numbers += [f"{name}.shape[{i}]" for i in range(tensors[name])] + [f"{name}.numel()"]
    dims = list(dict.fromkeys(["-1", "0", "1", *_dims_of(tree)]))
    conditions, epsilons, constants, result = _of_forward(function, known)
    numbers += constants
    outputs |= {result} - {""}
    idle = {n for n in seen if n not in loads and n in tensors and n not in upstream}
    return Scope(
        tensors, tuple(dict.fromkeys(numbers))[:24], frozenset(booleans), upstream,
        frozenset(outputs), frozenset(inputs), conditions, epsilons, frozenset(idle), "",
        tuple(dims[:6]),
    )  # fmt: skip


def _dims_of(tree: ast.AST) -> list[str]:
    """The dims that reductions of a source run over."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (
            node.func.attr in ("sum", "mean", "unsqueeze", "var", "std", "norm")
        ):  # fmt: skip
            found += [text(k.value) for k in node.keywords if k.arg in ("dim", "axis")]
            found += [text(a) for a in node.args[:1]]
    return [d for d in found if len(d) < 16]


def _of_forward(
    function: Any, known: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...], list[str], str]:
    """Of the forward, in the backward's names: its conditions, its small constants, its others, and
    the expression that it returns.
    """
    import textwrap

    conditions: list[str] = []
    epsilons = [n for n in known if "eps" in n.lower() or "smooth" in n.lower()]
    try:
        lines, _ = inspect.getsourcelines(inspect.unwrap(function.forward))
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return (), tuple(epsilons), [], ""
    constants, result = [], ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            shown = _in_names(node, known)
            if shown:
                conditions += [shown, _opposite(shown)]
        conditions += _clamped(node, known)
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, float)
            and 0 < node.value < 0.1
        ):
            epsilons.append(repr(node.value))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float) and (
            node.value not in (0, 1, 2, -1)
        ):  # fmt: skip
            constants.append(repr(node.value))
        if isinstance(node, ast.Return) and node.value is not None:
            result = _in_names(node.value, known)
    return (
        tuple(dict.fromkeys(conditions))[:6], tuple(dict.fromkeys(epsilons))[:4], constants[:4],
        result,
    )  # fmt: skip


def _opposite(condition: str) -> str:
    for a, b in ((" <= ", " > "), (" >= ", " < "), (" < ", " >= "), (" > ", " <= ")):
        if a in condition:
            return condition.replace(a, b)
    return f"~({condition})"


def _clamped(node: ast.AST, known: dict[str, Any]) -> list[str]:
    """Where a clamp or a relu of the forward lets its argument through."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return []
    module = text(node.func.value) in ("torch", "F")
    inner = node.args[0] if module and node.args else node.func.value
    rest = node.args[1:] if module else node.args
    if node.func.attr == "relu":
        low: ast.AST | None = ast.Constant(0)
        high: ast.AST | None = None
    elif node.func.attr in ("clamp", "clip", "clamp_min"):
        given = {k.arg: k.value for k in node.keywords}
        low = given.get("min", rest[0] if rest else None)
        high = given.get("max", rest[1] if len(rest) > 1 else None)
    else:
        return []
    x = _in_names(inner, known)
    bounds = [(op, _in_names(b, known)) for op, b in ((">", low), ("<", high)) if b is not None]
    if not x or not all(b for _, b in bounds):
        return []
    found = [f"{x} {op} {b}" for op, b in bounds]
    return [" & ".join(f"({f})" for f in found), *found] if len(found) > 1 else found


def _in_names(node: ast.AST, known: dict[str, Any]) -> str:
    """An expression of the forward as the backward could write it; "" where it could not."""
    new = copy.deepcopy(node)
    for part in ast.walk(new):
        if isinstance(part, ast.Name) and part.id not in ("torch", "F", "math", "np"):
            if part.id in known:
                continue
            if f"ctx.{part.id}" not in known:
                return ""
            part.id = f"ctx.{part.id}"
    return text(new)


# -- looking ---------------------------------------------------------------------------------------


def find(
    function: Any, trials: Sequence[Trial], names: Sequence[str], *, pairs: bool = True
) -> list[Edit]:
    """The edit, or the two, that make a Function's backward right for ``names``; none where there
    are none.
    """
    bench = Bench(function, trials[:4], names)
    if bench.tree is None or bench.right():
        return []
    scope = bench.scope()
    kept: list[Edit] = []
    for edit in itertools.islice(edits(bench.tree, scope, bench.returned), _SINGLE):
        edit.slot.put(edit.new)
        right = bench.right()
        edit.slot.put(edit.old)
        if right:
            return [edit]
        if edit.paired:
            kept.append(edit)
    return _pair(bench, kept) if pairs else []


def written(function: Any, trials: Sequence[Trial], name: str, line: str) -> list[Edit]:
    """The returned value replaced by the right gradient as a line of PyTorch, in the backward's
    own names; none where it cannot be said in them, or is not right.
    """
    bench = Bench(function, trials[:4], [name])
    if bench.tree is None or not line:
        return []
    scope = bench.scope()
    leaves = dict(zip(trials[0].setting.wanted, bench.made[0][1], strict=True))
    known = bench.seen
    put: dict[str, str] = {"v": next(iter(sorted(scope.upstream)), "v")}
    put["grad_output"] = put["v"]
    for label, leaf in leaves.items():
        same = [n for n, t in known.items() if isinstance(t, torch.Tensor) and t.shape == leaf.shape
                and torch.equal(t.to(leaf.dtype), leaf.detach())]  # fmt: skip
        if same:
            put[label] = same[0]
    put.setdefault("y", next(iter(sorted(scope.outputs)), "y"))
    expression = ast.parse(line.partition(" = ")[2], mode="eval").body
    for part in ast.walk(expression):
        if isinstance(part, ast.Name):
            part.id = put.get(part.id, part.id)
    for slot in slots(bench.tree):
        returns = isinstance(slot.owner, ast.Return) and not isinstance(slot.get(), ast.Tuple)
        element = isinstance(slot.owner, ast.Tuple) and slot.place == "head"
        if not isinstance(slot.within, ast.AST) or not (
            returns or (element and slot.index in bench.returned)
        ):
            continue
        edit = Edit("unknown", slot, slot.get(), expression, False)
        slot.put(edit.new)
        right = bench.right()
        slot.put(edit.old)
        if right:
            return [edit]
    return []


def _pair(bench: Bench, kept: list[Edit]) -> list[Edit]:
    """The first two edits that are right together, of those whose result has the right shape."""
    running: list[Edit] = []
    for edit in kept:
        edit.slot.put(edit.new)
        try:
            runs = bench.gradients(bench.compiled(), 0, bench.vs[0][0]) is not None
        except (SyntaxError, ValueError, TypeError):
            runs = False
        edit.slot.put(edit.old)
        if runs:
            running.append(edit)
    for count, (one, two) in enumerate(_likely(running)):
        if count > _PAIRS:
            break
        if one.slot is two.slot:
            continue
        if _inside(one, two) or _inside(two, one):
            outer, inner = (two, one) if _inside(one, two) else (one, two)
            if any(part is inner.slot.owner for part in ast.walk(outer.new)):
                outer.slot.put(outer.new)
                inner.slot.put(inner.new)
                right = bench.right()
                inner.slot.put(inner.old)
                outer.slot.put(outer.old)
                if right:
                    return [one, two]
                continue
            if not (_operator(outer.old) and _operator(outer.new)):
                continue
            # An operator is changed where it stands, so that the other edit keeps its place.
            kept_op, outer.old.op = outer.old.op, outer.new.op
            inner.slot.put(inner.new)
            right = bench.right()
            inner.slot.put(inner.old)
            outer.old.op = kept_op
        else:
            one.slot.put(one.new)
            two.slot.put(two.new)
            right = bench.right()
            two.slot.put(two.old)
            one.slot.put(one.old)
        if right:
            return [one, two]
    return []


def _operator(node: Any) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub))


_LIKELY = ("wrong_sign", "exponent", "transposed", "missing_factor", "square_of_difference",
           "constant_factor", "output_for_input", "sum_vs_mean", "missing_keepdim", "eps")  # fmt: skip


def _likely(found: list[Edit]) -> Iterator[tuple[Edit, Edit]]:
    order = {code: i for i, code in enumerate(_LIKELY)}
    ranked = sorted(found, key=lambda e: order.get(e.code, 20))
    yield from sorted(
        itertools.islice(itertools.combinations(ranked, 2), 60_000),
        key=lambda pair: order.get(pair[0].code, 20) + order.get(pair[1].code, 20),
    )


def _inside(one: Edit, two: Edit) -> bool:
    """Whether an edit's place is within what another replaces."""
    return any(part is one.slot.owner for part in ast.walk(two.old))


# -- saying it -------------------------------------------------------------------------------------


def fault(function: Any, found: Sequence[Edit], codes: Sequence[str] = ()) -> Fault:
    """The fault that edits undo: its name, the line that mends it, and where it stands."""
    file = inspect.getsourcefile(inspect.unwrap(function.backward)) or ""
    tree = backward_tree(function)
    assert tree is not None
    patches: dict[int, Patch] = {}
    sentences = []
    joined = _joined(file, found) if len(found) == 2 else None
    for edit in found:
        sentences.append(edit.sentence)
        patch = joined or _patched(file, edit, patches)
        if patch is not None:
            patches[patch.line] = patch
    code = "+".join(sorted(set(codes or [e.code for e in found])))
    remedy = "; ".join(p.text.strip() for p in patches.values())
    return Fault(code, "; and ".join(sentences), remedy, tuple(patches.values()))


def _joined(file: str, found: Sequence[Edit]) -> Patch | None:
    """Two edits of one statement, which is written anew."""
    one, two = found
    statement = one.slot.within
    if statement is None or statement is not two.slot.within:
        return None
    line, end = statement.lineno, statement.end_lineno  # type: ignore[attr-defined]
    lines = [linecache.getline(file, n).rstrip("\n") for n in range(line, end + 1)]
    outer, inner = (two, one) if _inside(one, two) else (one, two)
    nested = _inside(inner, outer) and not any(
        part is inner.slot.owner for part in ast.walk(outer.new)
    )
    if nested:
        kept, outer.old.op = outer.old.op, outer.new.op
    else:
        outer.slot.put(outer.new)
    inner.slot.put(inner.new)
    shown = text(statement)
    inner.slot.put(inner.old)
    if nested:
        outer.old.op = kept
    else:
        outer.slot.put(outer.old)
    column: int = statement.col_offset  # type: ignore[attr-defined]
    tail = lines[-1][statement.end_col_offset :]  # type: ignore[attr-defined]
    whole = lines[0][:column] + shown + tail
    return Patch(line, end, whole, "\n".join(lines), column, len(lines[0].rstrip()) - column)


def _patched(file: str, edit: Edit, before: dict[int, Patch]) -> Patch | None:
    """The user's own lines with the edit made, everything else as it was written."""
    old, slot = edit.old, edit.slot
    if not hasattr(old, "lineno"):  # a slice: its subscript is written anew
        return None
    line, end = old.lineno, old.end_lineno
    lines = [linecache.getline(file, n).rstrip("\n") for n in range(line, end + 1)]
    start = len(lines[0].encode()[: old.col_offset].decode())
    stop = len(lines[-1].encode()[: old.end_col_offset].decode())
    head, tail, new = lines[0][:start], lines[-1][stop:], text(edit.new)
    earlier = before.get(line)
    if earlier is not None:
        return None
    bare = slot.field in ("value", "elts", "args", "slice", "body", "targets") and not isinstance(
        slot.owner, (ast.Attribute, ast.Subscript)
    )
    compound = isinstance(edit.new, (ast.BinOp, ast.UnaryOp, ast.Compare, ast.IfExp))
    if compound and not bare and not (head.endswith("(") and tail.startswith(")")):
        new = f"({new})"
    elif isinstance(edit.new, ast.Tuple) and new.startswith("(") and slot.field == "value":
        new = new[1:-1]
    width = stop - start if line == end else len(lines[0]) - start
    return Patch(line, end, head + new + tail, "\n".join(lines), start, width)
