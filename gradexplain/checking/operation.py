"""An operation of the user's own: found, bound to its arguments by name, and run.

It is a ``torch.autograd.Function``, a module, a ``torch.library.custom_op``, a compiled function or
any callable of tensors.  It is run as it is, or *plainly*: every Function in it replaced by its
forward, so that autograd differentiates the forward itself and the backward has no part in it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import itertools
import os
import sys
import textwrap
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradexplain.checking import numeric
from gradexplain.errors import InputError, no_file
from gradexplain.supervisor import link

torch = numeric.torch_module()
_SINGLE = torch.autograd.Function.__mro__[1]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What the user's code prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def said(error: BaseException, file: Path | None = None) -> str:
    """The original error, whole, and the line of the user's file that it comes from."""
    text = f"{type(error).__name__}: {error}".strip()
    place = error.__traceback__
    line = getattr(error, "lineno", None)
    while place is not None:
        if file is not None and Path(place.tb_frame.f_code.co_filename).name == file.name:
            line = place.tb_lineno
        place = place.tb_next
    return f"{text} (line {line})" if line else text


def load(path: str, name: str, seed: int = 0) -> Any:
    """What ``name`` is in the file, which is run as ``python FILE.py`` would run it."""
    file = Path(path)
    if not os.path.isfile(path):  # unlike pathlib's it answers for a path that is too long too
        raise no_file(path, "give it as FILE.py:NAME")
    numeric.seed(seed)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    before = sys.modules.get(file.stem)
    link.foreign()
    sys.modules[file.stem] = module
    try:
        with quiet():
            spec.loader.exec_module(module)
    except SystemExit as error:
        raise InputError(
            f"{path} ends by itself when it is imported (exit {error.code})",
            remedy='put what runs under if __name__ == "__main__":',
        ) from None
    except Exception as error:  # the user's own code
        raise InputError(
            f"{path} does not import: {said(error, file)}", remedy=f"python {path} shows where"
        ) from None
    finally:
        sys.path.remove(folder)
        if before is not None:
            sys.modules[file.stem] = before
    found = getattr(module, name, None)
    if not callable(found):
        own = [
            n for n, o in vars(module).items()
            if not n.startswith("_") and (isinstance(o, type) or inspect.isfunction(o))
            and getattr(o, "__module__", "") == file.stem
        ]  # fmt: skip
        lack = f"{path} has no {name}" if name else f"{path}: no name follows the colon"
        kind = f"{path}:{name} is {type(found).__name__}, no torch.autograd.Function or function"
        raise InputError(
            kind if hasattr(module, name) else lack,
            remedy=f"it has {', '.join(own)}" if own else "check the name after the colon",
        )
    with contextlib.suppress(AttributeError, TypeError):
        found._gradexplain_title = f"{path}:{name}"
    return found


def is_function_class(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, torch.autograd.Function)


def is_new_style(function: Any) -> bool:
    """Whether the Function has a ``setup_context`` of its own."""
    own = getattr(function, "setup_context", None)
    base = torch.autograd.Function.setup_context
    return own is not None and getattr(own, "__func__", own) is not getattr(base, "__func__", base)


class Context:
    """What ``forward`` and ``backward`` see as ``ctx`` while they are run plainly."""

    def __init__(self, needs: Sequence[bool] = (True,) * 8) -> None:
        self.needs_input_grad = tuple(needs)
        self.saved_tensors: tuple[Any, ...] = ()
        self.dirty: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    save_for_forward = save_for_backward

    def mark_dirty(self, *tensors: Any) -> None:
        self.dirty = tensors

    def mark_non_differentiable(self, *tensors: Any) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        pass


@dataclass(slots=True)
class Plainly:
    """The Functions that were met, each with the context of its forward and what it returned."""

    met: list[tuple[Any, Context, Any]] = field(default_factory=list)


@contextlib.contextmanager
def plainly() -> Iterator[Plainly]:
    """Every Function that is applied inside runs as its forward alone, under autograd."""
    log = Plainly()

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        context = Context([isinstance(a, torch.Tensor) and a.is_floating_point() for a in args])
        if is_new_style(cls):
            result = cls.forward(*args, **kwargs)
            cls.setup_context(context, args, result)
        else:
            result = cls.forward(context, *args, **kwargs)
        log.met.append((cls, context, result))
        return result

    _SINGLE.apply = classmethod(apply)
    try:
        yield log
    finally:
        del _SINGLE.apply


class Operation:
    """``parameters`` are forward's, by name; a module's own parameters count among them."""

    def __init__(self, found: Any, title: str = "") -> None:
        owner = getattr(found, "__self__", None)
        if getattr(found, "__name__", "") == "apply" and is_function_class(owner):
            found = owner
        self.found = found
        self.title = str(
            title or getattr(found, "_gradexplain_title", "") or getattr(found, "__name__", "")
            or type(found).__name__
        )  # fmt: skip
        self.function: Any = found if is_function_class(found) else None
        self.module: Any = None
        if self.function is not None:
            target, skip = found.forward, 0 if is_new_style(found) else 1
        elif isinstance(found, type) and issubclass(found, torch.nn.Module):
            try:
                with quiet():
                    self.module = found()
            except Exception as error:  # the user's own code
                raise InputError(
                    f"{self.title} cannot be made without arguments: {said(error)}",
                    remedy=f"name an instance: add a line layer = {found.__name__}(…) to the file",
                ) from None
            target, skip = self.module.forward, 0
        elif isinstance(found, torch.nn.Module):
            self.module, target, skip = found, found.forward, 0
        elif callable(found) and not isinstance(found, type):
            target, skip = getattr(found, "_init_fn", found), 0
        else:
            raise InputError(
                f"{self.title} is {type(found).__name__}, not a torch.autograd.Function or a "
                "function",
                remedy="name a class with static methods forward and backward",
            )
        try:
            parameters = list(inspect.signature(target).parameters.values())[skip:]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.title}: its parameters are not known: {error}",
                remedy="wrap it in a def with named parameters",
            ) from None
        self.parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
        self.keywords = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.owned: dict[str, Any] = {}
        if self.module is not None:
            self.module = self.module.double()
            self.owned = {
                n.replace(".", "_"): (n, p)
                for n, p in self.module.named_parameters() if p.requires_grad
            }  # fmt: skip

    @property
    def plain_function(self) -> Callable[..., Any]:
        """What is run where no backward of the user's shall have a part."""
        return getattr(self.found, "_init_fn", None) or self.call

    def call(self, *args: Any, **kwargs: Any) -> Any:
        if self.function is not None:
            return self.function.apply(*args)
        return (self.module or self.found)(*args, **kwargs)

    def run(
        self, tensors: Mapping[str, Any], arguments: Mapping[str, Any], *, plain: bool = False
    ) -> Any:
        """The result for ``tensors`` and other ``arguments`` by name; no defaults are added."""
        args, kwargs = self._placed({**arguments, **tensors})
        call = self.plain_function if plain else self.call
        with quiet():
            if self.module is not None:
                held = {name: tensors[n] for n, (name, _) in self.owned.items() if n in tensors}
                return torch.func.functional_call(self.module, held, tuple(args), kwargs)
            return call(*args, **kwargs)

    def _placed(self, known: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments in forward's order; a default only where a later argument is given."""
        args: list[Any] = []
        rest = [v for n, v in known.items() if self.rest and n not in self._names]
        last = max((i for i, p in enumerate(self.parameters) if p.name in known), default=-1)
        if rest:
            last = len(self.parameters) - 1
        kwargs = {}
        for place, p in enumerate(self.parameters):
            if p.kind is p.KEYWORD_ONLY:
                if p.name in known:
                    kwargs[p.name] = known[p.name]
            elif place <= last:
                args.append(known.get(p.name, p.default))
        return [*args, *rest], kwargs

    @property
    def _names(self) -> set[str]:
        return {p.name for p in self.parameters} | set(self.owned)

    def place(self, name: str, known: Sequence[str]) -> int:
        """The place of an input among what backward returns."""
        names = [p.name for p in self.parameters]
        if name in names:
            return names.index(name)
        return len(names) + [n for n in known if n not in names].index(name)


# -- which parameters are tensors -----------------------------------------------------------------

#: Types of a parameter that is no tensor.
_PLAIN = {"int", "float", "bool", "str", "tuple", "list", "Tuple", "List", "Sequence",
          int, float, bool, str, tuple, list}  # fmt: skip
#: Parameters that no gradient is asked for where backward returns None for them.
GIVEN = ("target", "targets", "label", "labels", "mask", "onehot", "one_hot", "gt", "truth", "ground_truth", "index",
          "indices", "idx", "inds", "ids", "lengths", "cu_seqlens", "noise", "freqs", "cos", "sin",
          "running_mean", "running_var", "y_true", "t", "mapping", "weights", "rand")  # fmt: skip
OPTIONAL = ("bias", "b", "weight", "w", "gamma", "beta", "scale", "shift")
#: Numbers that a parameter may be, by its name, else in this order.
_NUMBERS: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (("dim", "axis", "dims"), (-1, 0, 1)),
    (("eps", "epsilon"), (1e-3,)),
    (("k", "n", "num", "groups", "kernel_size", "size", "order", "steps", "bits"), (2, 1, 3)),
    (("stride", "padding", "dilation"), (1, 2)),
    (("reduction", "mode"), ("mean", "sum")),
    (("training", "inplace", "causal", "is_causal", "square"), (True, False)),
)
_ANY = (0.5, 2, 1, True)
_TYPED: dict[Any, tuple[Any, ...]] = {
    int: (1, 2, -1, 3), float: (0.5,), bool: (True, False), str: ("mean", "sum"),
}  # fmt: skip


@dataclass(frozen=True)
class Binding:
    """``names`` are tensors, gradients are asked for ``wanted``; ``assumed`` is said in a note."""

    names: tuple[str, ...]
    wanted: tuple[str, ...]
    arguments: Mapping[str, Any]
    #: Tensors of integers of no known values: their shapes are searched for too.
    integers: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def bindings(
    operation: Operation,
    tensors: Sequence[str],
    arguments: Mapping[str, Any],
    frozen: Sequence[str],
    wanted: Sequence[str] | None,
) -> Iterator[Binding]:
    """The ways to read the parameters, the likeliest first.

    ``tensors`` are given as such, ``frozen`` need no gradient; ``wanted``, where it is given, are
    those that do.
    """
    none = none_places(operation.function)
    options: list[list[tuple[str, str, Any]]] = []
    for place, p in enumerate(operation.parameters):
        if p.name in arguments:
            continue
        if p.name in tensors:
            given = p.name in frozen or (place in none and p.name in GIVEN)
            options.append([(p.name, "given" if given else "wanted", None)])
        elif p.default is not p.empty:
            kinds = [(p.name, "left out", None)]
            optional = p.name in OPTIONAL or "Tensor" in str(p.annotation)
            if p.default is None and optional and place not in none:
                kinds.insert(0, (p.name, "wanted", None))
            options.append(kinds)
        else:
            options.append(list(_kinds(p, place in none)))
    rest = [n for n in tensors if n not in operation._names]
    if operation.rest and not rest:
        rest = [f"{operation.rest}{i}" for i in range(2)]
    for choice in itertools.islice(itertools.product(*options), 40):
        found = [c for c in choice if c[1] != "left out"]
        names = [n for n, kind, _ in found if kind in ("wanted", "given", "integers")]
        numbers = {n: v for n, kind, v in found if kind == "number"}
        names += [*rest, *operation.owned]
        needs = [
            n for n in names
            if n not in frozen and (n in rest or n in operation.owned
            or any(c[0] == n and c[1] == "wanted" for c in found))
        ]  # fmt: skip
        if wanted is not None:
            needs = [n for n in names if n in wanted]
        yield Binding(
            tuple(n for n in names if not any(c[0] == n and c[1] == "integers" for c in found)),
            tuple(needs),
            {**arguments, **numbers},
            tuple(n for n, kind, _ in found if kind == "integers"),
            tuple(f"{n} = {v!r}" for n, v in numbers.items()),
        )


def varied(operation: Operation, given: Container[str]) -> Iterator[tuple[str, Any, Any]]:
    """``(name, default, value)``: other values of the parameters that were left at their defaults."""
    tree = source_tree(operation.function, "forward") or ast.Module([], [])
    told = [part.value for node in ast.walk(tree) if isinstance(node, ast.Compare)
            for part in ast.walk(node) if isinstance(part, ast.Constant)]  # fmt: skip
    for p in operation.parameters:
        kind, others = type(p.default), _numbers(p)
        if kind is float:
            others = (p.default / 2, 1.5 * p.default) if p.default else (0.5,)
        elif kind is str:
            others = tuple(dict.fromkeys(t for t in told if isinstance(t, str)))
        elif kind is bool or (kind is int and not others):
            others = (not p.default if kind is bool else p.default + 1,)
        left = kind in (float, str, bool, int) and p.name not in given
        for value in others if left else ():
            if value != p.default:
                yield p.name, p.default, value


def _numbers(p: inspect.Parameter) -> tuple[Any, ...]:
    return next((values for names, values in _NUMBERS if p.name in names), ())


def _kinds(p: inspect.Parameter, none: bool) -> Iterator[tuple[str, str, Any]]:
    annotation = p.annotation
    if isinstance(annotation, str):
        annotation = annotation.partition("[")[0].strip()
        annotation = {"int": int, "float": float, "bool": bool, "str": str}.get(
            annotation, annotation
        )
    numbers = _numbers(p)
    if annotation in _PLAIN:
        for value in numbers or _TYPED.get(annotation, ((2, 3),)):
            yield p.name, "number", value
        return
    for value in numbers:
        yield p.name, "number", value
    if none and p.name in GIVEN:
        yield p.name, "given", None
        yield p.name, "integers", None
    elif none and not numbers and "Tensor" not in str(p.annotation):
        for value in _ANY:
            yield p.name, "number", value
    if not (none and p.name in GIVEN):
        yield p.name, "wanted", None
    if none:
        yield p.name, "integers", None


def none_places(function: Any) -> set[int]:
    """The places at which every return of a backward has a plain ``None``."""
    tree = source_tree(function)
    if tree is None:
        return set()
    found: set[int] | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and node.value is not None:
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            if any(isinstance(p, ast.Starred) for p in parts):
                return set()
            here = {
                i for i, p in enumerate(parts) if isinstance(p, ast.Constant) and p.value is None
            }
            found = here if found is None else found & here
    return found or set()


def source_tree(function: Any, method: str = "backward") -> ast.FunctionDef | None:
    """The source of a Function's method, its lines and columns as in its file; None where there is
    none.
    """
    found = inspect.unwrap(getattr(function, method, None) or (lambda: None))
    try:
        lines, start = inspect.getsourcelines(found)
        source = textwrap.dedent("".join(lines))
        tree = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    if not isinstance(tree, ast.FunctionDef):
        return None
    ast.increment_lineno(tree, start - 1)
    shift = len(lines[0]) - len(source.splitlines()[0]) - 1
    for node in ast.walk(tree):
        if isinstance(node, (ast.expr, ast.stmt)):
            node.col_offset += shift
            node.end_col_offset = (node.end_col_offset or 0) + shift
    return tree
