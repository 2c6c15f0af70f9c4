"""A Function's own backward, run with its source changed."""

from __future__ import annotations

import ast
import copy
import inspect
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from gradexplain import points
from gradexplain.checking import numeric
from gradexplain.checking.operation import quiet, source_tree
from gradexplain.checking.places import Edit
from gradexplain.checking.rewriting import SLOPES, Scope, multiplied, text
from gradexplain.checking.setting import CodeSetting
from gradexplain.checking.trials import Trial

torch = numeric.torch_module()


# -- running them ----------------------------------------------------------------------------------


class Bench:
    """One Function's backward, run with its source changed, against the truth at every trial."""

    #: At most so many edits are looked at, and run.
    most, run = 20000, 8000
    #: So many have been run.
    tried = 0

    def __init__(
        self,
        function: Any,
        trials: Sequence[Trial],
        names: Sequence[str],
        others: Sequence[Trial] = (),
        special: Sequence[Trial] = (),
        beside: Sequence[Sequence[Trial]] = (),
    ) -> None:
        self.function = function
        self.trials = list(trials)
        #: Points that may be kinks, at which what is right everywhere else is judged as a claim is.
        self.special = special
        #: Further trials, at which what is right at these is run too.
        self.others = Bench(function, others, names) if others else None
        #: The same at each of other arguments.
        self.beside = [Bench(function, some, names) for some in beside if some]
        #: The edits that are right but for other arguments.
        self.nearly: list[Edit] = []
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
        tree = source_tree(function)
        self.tree = tree if code is not None and not code.co_freevars else None
        if self.tree is None:
            return
        self.source = own
        self.original = inspect.getattr_static(function, "backward")
        #: The output and the leaves of each trial, and what its Function keeps.
        self.made: list[tuple[Any, Any]] = []
        self.kept: list[list[bytes]] = []
        try:
            for k in range(len(self.trials)):
                self._make(k)
        except Exception:  # the user's own code: there is nothing to edit where it does not run
            self.tree = None
            return
        if not self.made or not all(y.requires_grad for y, _ in self.made):
            self.tree = None
            return
        operation = cast(CodeSetting, self.trials[0].setting).subject.operation
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

    def _make(self, k: int) -> None:
        """Run the forward of the k-th trial, for the first time or anew."""
        setting = cast(CodeSetting, self.trials[k].setting)
        made = setting.applied(self.trials[k].values, "float64")
        self.made[k : k + 1] = [made]
        self.kept[k : k + 1] = [_kept(made[0])]

    def compiled(self, known: Mapping[str, Any] | None = None) -> Any:
        """The tree, as it is now, as a function; ``known`` are names that it may use besides."""
        assert self.tree is not None
        body = copy.copy(self.tree)
        body.decorator_list = []
        module = ast.fix_missing_locations(ast.Module([body], []))
        space: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            # The user's own source, edited.
            names = {**self.source.__globals__, **known} if known else self.source.__globals__
            exec(compile(module, "<edited>", "exec"), names, space)
        return space[self.tree.name]

    def gradients(
        self, backward: Any, k: int, v: Any, *, again: bool = True, graph: bool = False
    ) -> list[Any] | None:
        """What ``backward`` gives at the k-th trial for each input that is looked at."""
        y, leaves = self.made[k]
        upstream = numeric.tensor(v, "float64")
        self.function.backward = staticmethod(backward)
        try:
            with quiet():
                found = torch.autograd.grad(
                    y, leaves, upstream, retain_graph=True, create_graph=graph, allow_unused=True
                )
        except Exception as error:  # the user's own code, edited
            if "modified by an inplace" in str(error) and again:
                # By this edit, or by one before it: what was saved is made anew.
                self._make(k)
                return self.gradients(backward, k, v, again=False, graph=graph)
            return None
        finally:
            self.function.backward = self.original
            if _kept(y) != self.kept[k]:
                self._make(k)
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
        return all(
            self.right_at(made, k, v) for k in range(len(self.trials)) for v in self.vs[k]
        ) and (self.others is None or self.others.tree is None or self.others.right(made)) and (
            all(self._judged(made, trial) for trial in self.special)
        )  # fmt: skip

    def right_beside(self) -> bool:
        """Whether the backward, as the tree is now, is right at other arguments too."""
        return all(one.tree is None or one.right(self.compiled()) for one in self.beside)

    def again(self, backward: Any, trial: Trial) -> Trial | None:
        """A trial of ``backward`` at the point of ``trial``; None where it raises."""
        one = trial.again()
        self.function.backward = staticmethod(backward)
        try:
            one.run()
            one.wrong(self.names[0])
        except Exception:  # the user's own code, edited
            return None
        finally:
            self.function.backward = self.original
        return one

    def _judged(self, backward: Any, trial: Trial) -> bool:
        one = self.again(backward, trial)
        return one is not None and all(
            one.right(n) and not (n in one.holes and trial.finite(n)) for n in self.names
        )

    def runs(self) -> bool:
        """Whether the backward, as the tree is now, gives gradients of the right shapes."""
        try:
            return self.gradients(self.compiled(), 0, self.vs[0][0]) is not None
        except (SyntaxError, ValueError, TypeError):
            return False

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


def _kept(y: Any) -> list[bytes]:
    """What a Function keeps, as it is now: an edit may change it in place, unnoticed by PyTorch."""
    found: list[bytes] = []
    for node in (y.grad_fn, *(f for f, _ in y.grad_fn.next_functions)):
        try:
            kept = [*getattr(node, "saved_tensors", ()), *getattr(node, "__dict__", {}).values()]
        except RuntimeError:  # PyTorch noticed
            return []
        found += [
            t.detach().numpy().tobytes() for t in kept
            if isinstance(t, torch.Tensor) and t.layout is torch.strided and t.device.type == "cpu"
            and t.dtype is not torch.bfloat16
        ]  # fmt: skip
    return found


def _scope(tree: ast.FunctionDef, seen: dict[str, Any], made: Any, function: Any) -> Scope:
    arguments = [a.arg for a in tree.args.args]
    context = seen.pop(arguments[0], None) if arguments else None
    upstream = frozenset(arguments[1:])
    known = dict(seen)
    for name, value in vars(context).items() if hasattr(context, "__dict__") else ():
        known[f"{arguments[0]}.{name}"] = value
    y, leaves = made
    tensors, numbers, booleans, outputs, inputs = {}, [], set(), set(), set()
    # What is only changed in place is not used.
    changed = [n.func.value for n in ast.walk(tree) if isinstance(n, ast.Call)
               and isinstance(n.func, ast.Attribute) and n.func.attr.endswith("_")]  # fmt: skip
    loads = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
             and isinstance(n.ctx, ast.Load) and n not in changed]  # fmt: skip
    for name, value in known.items():
        if isinstance(value, torch.Tensor):
            tensors[name] = value.ndim
            value = value.to_dense()
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
    forward = dims_of(source_tree(function, "forward") or ast.Module([], []))
    # What the forward's dims are called here, before any number that they are at this argument.
    named = [_in_names(ast.parse(d, mode="eval").body, known) for d in forward if d.isidentifier()]
    dims = list(dict.fromkeys([*filter(None, named), "-1", "0", "1", *dims_of(tree)]))
    conditions, epsilons, constants, result = _of_forward(function, known)
    numbers = [*constants, *numbers]
    outputs |= {result} - {""}
    idle = {n for n in seen if n not in loads and n in tensors}
    masks = {n for n, v in known.items() if isinstance(v, torch.Tensor) and not v.is_sparse
             and v.numel() > 1 and bool(((v == 0) | (v == 1)).all())}  # fmt: skip
    indices = {n for n, v in known.items() if isinstance(v, torch.Tensor)
               and not v.is_floating_point() and not v.is_complex()} - booleans  # fmt: skip
    indices -= multiplied(tree)
    return Scope(
        tensors,
        tuple(dict.fromkeys(numbers))[:24],
        frozenset(booleans),
        upstream,
        frozenset(outputs),
        frozenset(inputs),
        conditions,
        epsilons,
        frozenset(idle),
        made=tuple(n for n in _assigned(tree) if n in tensors),
        rank=max([y.ndim, *(t.ndim for t in leaves)]),
        dims=tuple(dims[:6]),
        masks=frozenset(booleans | masks - upstream),
        expressions=tuple(_expressions(tree, function, known)[:12]),
        indices=frozenset(indices),
    )


def _assigned(tree: ast.AST) -> list[str]:
    """The names that a source assigns one by one: not what it unpacks."""
    return [
        target.id for node in ast.walk(tree) if isinstance(node, ast.Assign)
        for target in node.targets if isinstance(target, ast.Name)
    ]  # fmt: skip


def dims_of(tree: ast.AST) -> list[str]:
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
    conditions: list[str] = []
    epsilons = [n for n in known if "eps" in n.lower() or "smooth" in n.lower()]
    tree = source_tree(function, "forward")
    if tree is None:
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


def _expressions(tree: ast.AST, function: Any, known: dict[str, Any]) -> list[str]:
    """What the source works out by calls, in the backward's names."""
    found: dict[str, None] = {}
    for source in (tree, source_tree(function, "forward")):
        for node in ast.walk(source) if source is not None else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                shown = _in_names(node, known)
                inner = _in_names(node.args[0], known) if node.args else ""
                if inner and node.func.attr in SLOPES and len(inner) < 40:
                    found.setdefault(f"({SLOPES[node.func.attr].format(inner)})")
                if shown and len(shown) < 40 and "ctx.needs" not in shown and "saved" not in shown:
                    found.setdefault(shown)
    return list(found)


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
