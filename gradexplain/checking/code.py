"""A backward written as code: a ``torch.autograd.Function`` of the user's own, imported and run."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradexplain.checking import claims as claims_
from gradexplain.checking import numeric, points
from gradexplain.checking.claims import Claim
from gradexplain.checking.subjects import (
    FormulaSetting,
    Implemented,
    Result,
    Setting,
    claim_rows,
)
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape, show_shape
from gradexplain.recording.graphs import Recorder
from gradexplain.supervisor import link

torch = numeric.torch_module()

#: Types of a parameter that is no tensor.
_PLAIN = {"int", "float", "bool", "str", "tuple", int, float, bool, str, tuple}


# -- finding it ----------------------------------------------------------------------------------


def load(path: str, name: str, seed: int = 0) -> Any:
    """What ``name`` is in the file, which is run as ``python FILE.py`` would run it."""
    file = Path(path)
    if not os.path.isfile(path):  # unlike pathlib's it answers for a path that is too long too
        raise InputError(f"there is no file {path}", remedy="give it as FILE.py:NAME")
    torch.manual_seed(seed)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    before = sys.modules.get(file.stem)
    link.mark_foreign()
    sys.modules[file.stem] = module
    try:
        with _quiet():
            spec.loader.exec_module(module)
    except SystemExit as error:
        raise InputError(
            f"{path} ends by itself when it is imported (exit {error.code})",
            remedy='put what runs under if __name__ == "__main__":',
        ) from None
    except Exception as error:
        raise InputError(
            f"{path} does not import: {_said(error, file)}", remedy=f"python {path} shows where"
        ) from None
    finally:
        sys.path.remove(folder)
        if before is not None:
            sys.modules[file.stem] = before
    found = getattr(module, name, None)
    if found is None:
        own = [
            n for n, o in vars(module).items()
            if not n.startswith("_") and (_is_function_class(o) or inspect.isfunction(o))
            and getattr(o, "__module__", "") == file.stem
        ]  # fmt: skip
        raise InputError(
            f"{path} has no {name}",
            remedy=f"it has {', '.join(own)}" if own else "check the name after the colon",
        )
    with contextlib.suppress(AttributeError, TypeError):
        found._gradexplain_title = f"{path}:{name}"
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the user's code prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _said(error: BaseException, file: Path | None = None) -> str:
    text = f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]
    place = error.__traceback__
    line = getattr(error, "lineno", None)
    while place is not None:
        if file is not None and Path(place.tb_frame.f_code.co_filename).name == file.name:
            line = place.tb_lineno
        place = place.tb_next
    return f"{text} (line {line})" if line else text


def _is_function_class(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, torch.autograd.Function)


def subject_of(
    found: Any,
    texts: Sequence[str] | Mapping[str, str] | None,
    grad_name: str | None,
    arguments: Mapping[str, Any],
    seed: int = 0,
) -> CodeSubject | CallSubject:
    """A Function, or a function of tensors with claims, as something to check."""
    owner = getattr(found, "__self__", None)
    if getattr(found, "__name__", "") == "apply" and _is_function_class(owner):
        found = owner
    title = getattr(found, "_gradexplain_title", None) or getattr(found, "__name__", "the function")
    if _is_function_class(found):
        forward, names = _forward_of(found, arguments)
        if texts is None:
            return CodeSubject(found, forward, names, str(title), arguments, seed)
    elif callable(found) and not isinstance(found, type):
        names = _tensor_names(inspect.signature(found), arguments, str(title))

        def forward(*tensors: Any) -> Any:
            return found(**dict(zip(names, tensors, strict=True)), **arguments)

        if texts is None:
            raise InputError(
                f"{title} is a function, not a torch.autograd.Function: it has no backward to "
                f"check",
                remedy="give a claim about its gradient, as in --claim "
                f'"{next(iter(names), "x")}: v*…"',
            )
    else:
        raise InputError(
            f"{title} is {type(found).__name__}, not a torch.autograd.Function or a function",
            remedy="name a class with static methods forward and backward",
        )
    return CallSubject(forward, names, str(title), texts, grad_name, seed)


def _tensor_names(
    signature: inspect.Signature, arguments: Mapping[str, Any], title: str, skip: int = 0
) -> tuple[str, ...]:
    """The parameters that are tensors: those without a default, a plain type or a value given."""
    names = []
    parameters = list(signature.parameters.values())[skip:]
    for p in parameters:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise InputError(
                f"{title} takes any number of arguments ({p}): which are tensors is not known",
                remedy="name its parameters",
            )
        annotation = p.annotation
        if isinstance(annotation, str):
            annotation = annotation.partition("[")[0].strip()
        if p.name in arguments or p.default is not p.empty or annotation in _PLAIN:
            if p.name not in arguments and p.default is p.empty:
                raise InputError(
                    f"{title} needs a value for its argument {p.name}",
                    remedy=f"give it, as in --arg {p.name}=0",
                )
            continue
        names.append(p.name)
    unknown = set(arguments) - {p.name for p in parameters}
    if unknown:
        raise InputError(
            f"{title} has no argument {sorted(unknown)[0]}",
            remedy=f"it has {', '.join(p.name for p in parameters)}",
        )
    if not names:
        raise InputError(f"{title} takes no tensors", remedy="there is no gradient to check")
    return tuple(names)


class _Context:
    """What ``forward`` and ``backward`` see as ``ctx`` while they are recorded."""

    def __init__(self, count: int) -> None:
        self.needs_input_grad = (True,) * count
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


def _is_new_style(function: Any) -> bool:
    own = getattr(function, "setup_context", None)
    base = torch.autograd.Function.setup_context
    return own is not None and getattr(own, "__func__", own) is not getattr(base, "__func__", base)


def _forward_of(
    function: Any, arguments: Mapping[str, Any]
) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """``forward(*tensors, context=None)`` as a plain function, and its tensors' names."""
    new_style = _is_new_style(function)
    signature = inspect.signature(function.forward)
    names = _tensor_names(signature, arguments, function.__name__, 0 if new_style else 1)

    def forward(*tensors: Any, context: Any = None) -> Any:
        context = context or _Context(len(signature.parameters))
        values = _positional(signature, names, tensors, arguments, 0 if new_style else 1)
        if not new_style:
            return function.forward(context, *values)
        result = function.forward(*values)
        function.setup_context(context, tuple(values), result)
        return result

    return forward, names


def _positional(
    signature: inspect.Signature,
    names: Sequence[str],
    tensors: Sequence[Any],
    arguments: Mapping[str, Any],
    skip: int,
) -> list[Any]:
    """All arguments of forward, in order."""
    by_name = dict(zip(names, tensors, strict=True))
    return [
        by_name[p.name] if p.name in by_name else arguments.get(p.name, p.default)
        for p in list(signature.parameters.values())[skip:]
    ]


# -- running it ----------------------------------------------------------------------------------


class _Subject:
    """What both kinds of code share: a forward that is run to see what it does."""

    def __init__(
        self, forward: Callable[..., Any], names: tuple[str, ...], title: str, seed: int
    ) -> None:
        self.forward = forward
        self.names = names
        self.wanted = names
        self.title = title
        self.output = "y"
        self.seed = seed
        self.notes: list[str] = []
        self._refusal: Exception | None = None

    def values(
        self, shapes: Mapping[str, Shape], given: Mapping[str, Array], number: int = 0
    ) -> dict[str, Array]:
        kinds = list(points.regular(dict(shapes), 1 + number))
        return {**kinds[0][1], **given}

    def accepts(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> bool:
        tensors = [numeric.tensor(v, "float64") for v in self.values(shapes, values).values()]
        try:
            with torch.no_grad():
                y = self.run(*tensors)
        except GradexplainError:
            raise
        except Exception as error:
            self._refusal = error
            return False
        entries = y.numel() * max([1, *(t.numel() for t in tensors)])
        return bool(0 < entries <= 4000)

    def run(self, *tensors: Any, **others: Any) -> Any:
        """The forward's one output, or `InputError` for any other."""
        torch.manual_seed(self.seed)
        with _quiet():
            return self.one(self.forward(*tensors, **others))

    def one(self, y: Any) -> Any:
        if isinstance(y, (tuple, list)) and len(y) == 1 and isinstance(y[0], torch.Tensor):
            return y[0]
        if not isinstance(y, torch.Tensor):
            what = f"{len(y)} results" if isinstance(y, (tuple, list)) else type(y).__name__
            raise InputError(
                f"{self.title} returns {what}; check takes a function of one output",
                remedy="return one tensor, or check one output at a time",
            )
        if not y.is_floating_point():
            raise InputError(
                f"{self.title} returns a tensor of {y.dtype}, which has no gradient",
                remedy="return a floating-point tensor",
            )
        return y

    def recorded(
        self, shapes: Mapping[str, Shape], given: Mapping[str, Array]
    ) -> tuple[Graph | None, Recorder, Any, dict[str, Any], Any]:
        """The forward's graph, which is None where a call has no record, and the recording."""
        values = self.values(shapes, given)
        tensors = {n: numeric.tensor(v, "float64") for n, v in values.items()}
        context = _Context(8)
        recorder = Recorder()
        for name, tensor in tensors.items():
            recorder.leaf(name, tensor)
        with torch.no_grad(), recorder:
            y = self._recorded_run(tensors, context)
        graph = recorder.graph(y)
        if graph is not None and not self._true_to(graph, shapes, given):
            graph = None
            recorder.reason = recorder.reason or "a step that PyTorch does not report"
        if graph is None:
            note = (
                f"The forward uses {recorder.reason.strip('_') or 'an operation'}, which is not "
                "known here: compared with autograd of the forward instead of a closed form."
            )
            if note not in self.notes:
                self.notes.append(note)
        return graph, recorder, y, tensors, context

    def graph_at(self, shapes: Mapping[str, Shape]) -> Graph | None:
        try:
            return self.recorded(shapes, {})[0]
        except Exception:  # the user's own code, at shapes it may not take
            return None

    def _recorded_run(self, tensors: Mapping[str, Any], context: Any) -> Any:
        return self.run(*tensors.values())

    def _true_to(
        self, graph: Graph, shapes: Mapping[str, Shape], given: Mapping[str, Array]
    ) -> bool:
        """Whether the graph computes what the forward computes, at two other points."""
        for number in (2, 3):
            values = self.values(shapes, given, number)
            leaves = {n: numeric.tensor(v, "float64") for n, v in values.items()}
            copies = [t.clone() for t in leaves.values()]
            with torch.no_grad():
                try:
                    mine = numeric.run(graph, leaves, "float64")[graph.output]
                except numeric.UNEVALUATED:
                    return False
                try:
                    theirs = self.run(*copies)
                except Exception:  # the user's own code
                    return False
            if not torch.allclose(mine, theirs.double(), rtol=1e-5, atol=1e-6, equal_nan=True):
                return False
        return True

    def refuse(self) -> GradexplainError:
        said = _said(self._refusal) if self._refusal is not None else "no value"
        return InputError(
            f"{self.title}: forward raises at every shape that was tried: {said}",
            remedy=f"give the shapes, as in --shape {self.names[0]}=2,3; other arguments as in "
            "--arg dim=0",
        )

    def check_here(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> None:
        """Raises `InputError` where the forward does not run at these shapes."""
        if not self.accepts(shapes, values) and self._refusal is not None:
            at = ", ".join(f"{n} {show_shape(s)}" for n, s in shapes.items())
            raise InputError(
                f"{self.title}: forward raises at {at}: {_said(self._refusal)}",
                remedy="give other shapes or values with --shape and --at",
            )


class CallSubject(_Subject):
    """A function of tensors, and claims as programs."""

    def __init__(
        self,
        forward: Callable[..., Any],
        names: tuple[str, ...],
        title: str,
        texts: Sequence[str] | Mapping[str, str],
        grad_name: str | None,
        seed: int,
    ) -> None:
        super().__init__(forward, names, title, seed)
        self._grad_name = grad_name
        self.claimed: list[Claim] = claims_.read_claims(texts, names)
        self.wanted = tuple(c.name for c in self.claimed)

    def setting(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> Setting:
        self.check_here(shapes, values)
        graph, recorder, *_ = self.recorded(shapes, values)
        if graph is None:
            raise UnsupportedError(
                f"{self.title} uses {recorder.reason.strip('_')}, which is not supported yet: a "
                f"claim "
                "cannot be compared with its closed form",
                remedy="write the claim as the backward of a torch.autograd.Function, which is "
                "compared with autograd of the forward",
            )
        names = claims_.upstream_names(graph, self._grad_name)
        found = {
            claim.name: claims_.claim_graph(claim, graph, names)
            for claim in self.claimed
            if claim.program is not None
        }
        return FormulaSetting(dict(shapes), graph, graph.out.shape, self.wanted, found, names)


class CodeSubject(_Subject):
    """A ``torch.autograd.Function``: its own backward is the claim."""

    def __init__(
        self,
        function: Any,
        forward: Callable[..., Any],
        names: tuple[str, ...],
        title: str,
        arguments: Mapping[str, Any],
        seed: int,
    ) -> None:
        super().__init__(forward, names, title, seed)
        self.function = function
        self.arguments = arguments
        self._skip = 0 if _is_new_style(function) else 1
        self.signature = inspect.signature(function.forward)
        order = list(self.signature.parameters)[self._skip :]
        #: The place of each tensor among what backward returns.
        self.places = {name: order.index(name) for name in names}

    def apply(self, *tensors: Any) -> Any:
        values = _positional(self.signature, self.names, tensors, self.arguments, self._skip)
        torch.manual_seed(self.seed)
        with _quiet():
            return self.one(self.function.apply(*values))

    def _recorded_run(self, tensors: Mapping[str, Any], context: Any) -> Any:
        return self.run(*tensors.values(), context=context)

    def setting(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> CodeSetting:
        self.check_here(shapes, values)
        graph, recorder, y, tensors, context = self.recorded(shapes, values)
        setting = CodeSetting(
            dict(shapes), graph, tuple(y.shape), self.names, {}, ("grad_output",), self
        )
        setting.dirty = tuple(
            name for name, tensor in tensors.items() if any(tensor is d for d in context.dirty)
        )
        if graph is not None:
            setting.grad_names = claims_.upstream_names(graph, None)
            setting.claims = self._backward_graphs(graph, recorder, y, context, setting)
        return setting

    def _backward_graphs(
        self, graph: Graph, forward: Recorder, y: Any, context: Any, setting: CodeSetting
    ) -> dict[str, Graph]:
        """What the backward computes, where it can be recorded; held against the real one."""
        recorder = Recorder()
        for id_, (tensor, ref) in forward.refs.items():
            node = graph[ref.id] if ref.id < len(graph.nodes) else None
            if node is not None and not node.is_literal and id_ not in forward.tainted:
                recorder.known(tensor, node.label)
        for tensor in forward.tainted.values():
            recorder.tainted[id(tensor)] = tensor
        v = numeric.tensor(0.5 + points.spread(tuple(y.shape), 7), "float64")
        recorder.known(v, setting.grad_names[0])
        try:
            with torch.no_grad(), _quiet(), recorder:
                found = self.function.backward(context, v)
        except Exception:  # the user's own code
            return {}
        results = found if isinstance(found, (tuple, list)) else (found,)
        graphs = {}
        for name, place in self.places.items():
            if place < len(results) and isinstance(results[place], torch.Tensor):
                try:
                    one = recorder.graph(results[place])
                except GradexplainError:
                    continue
                if one is not None and self._backs(one, graph, name, setting):
                    graphs[name] = one
        return graphs

    def _backs(self, claim: Graph, graph: Graph, name: str, setting: CodeSetting) -> bool:
        """Whether the recorded backward computes what the real one does, at another point."""
        values = self.values(setting.shapes, {}, 2)
        vs = [points.spread(setting.out_shape, 9)]
        real = setting.implemented(values, vs, "float64").results[name]
        try:
            with torch.no_grad():
                leaves = {n: numeric.tensor(v, "float64") for n, v in values.items()}
                tensors = numeric.run(graph, leaves, "float64", everything=True)
            known = {graph[i].label: t for i, t in tensors.items() if hasattr(t, "detach")}
            mine = claim_rows(claim, known, setting.grad_names, vs, "float64")
        except numeric.UNEVALUATED:
            return False
        if real.rows is None or real.rows.shape != mine.shape:
            return real.rows is not None
        return bool(np.allclose(real.rows, mine, rtol=1e-6, atol=1e-9, equal_nan=True))


@dataclass(slots=True)
class CodeSetting(Setting):
    """A claim that is code: it is run."""

    subject: CodeSubject
    #: Inputs that forward says it changes, by ctx.mark_dirty.
    dirty: tuple[str, ...] = ()

    def reference(self, values: Mapping[str, Array], dtype: str) -> dict[str, Array]:
        if self.graph is not None:
            return numeric.jacobians(self.graph, values, self.wanted, dtype)
        leaves = [numeric.tensor(values[n], dtype, grad=True) for n in self.wanted]
        copies = [leaf.clone() for leaf in leaves]
        return numeric.rows_of(self.subject.run(*copies), leaves, self.wanted)

    def implemented(
        self, values: Mapping[str, Array], vs: Sequence[Array], dtype: str
    ) -> Implemented:
        subject = self.subject
        leaves = [numeric.tensor(values[n], dtype, grad=True) for n in self.wanted]
        # Not leaves: a Function that marks its input as dirty may change it in place.
        inputs = [leaf.clone() for leaf in leaves]
        versions = [t._version for t in inputs]
        try:
            y = subject.apply(*inputs)
        except GradexplainError:
            raise
        except Exception as error:
            return Implemented(
                {n: Result(problem="raises", error=_said(error)) for n in self.wanted}
            )
        mutated = tuple(
            name
            for name, leaf, tensor, version in zip(
                self.wanted, leaves, inputs, versions, strict=True
            )
            if (tensor._version != version or not torch.equal(tensor, leaf))
            and name not in self.dirty
        )
        if not y.requires_grad:
            return Implemented({n: Result(problem="detached") for n in self.wanted}, mutated)
        rows: dict[str, list[Any]] = {n: [] for n in self.wanted}
        problem: dict[str, Result] = {}
        widened: tuple[str, ...] = ()
        for place, v in enumerate(vs):
            grads = self._gradients(y, leaves, numeric.tensor(v, dtype), problem)
            if grads is None:
                break
            for name, grad in zip(self.wanted, grads, strict=True):
                if grad is None:
                    rows[name].append(None)
                else:
                    rows[name].append(numeric.array(grad))
            if place == 0:
                widened = self._widened(y, numeric.tensor(v, dtype))
        if not problem:
            for name, found in rows.items():
                if all(row is None for row in found):
                    problem[name] = Result(problem="none")
                elif len({None if r is None else r.shape for r in found}) > 1:
                    shape = next(r.shape for r in found if r is not None)
                    found[:] = [np.zeros(shape) if r is None else r for r in found]
        results = {name: problem.get(name) or Result(np.array(rows[name])) for name in self.wanted}
        return Implemented(
            results, mutated, self._unsteady(y, leaves, dtype, problem), self._buffer(y, leaves,
            dtype), widened,
        )  # fmt: skip

    def _gradients(
        self, y: Any, leaves: Sequence[Any], v: Any, problem: dict[str, Result]
    ) -> Sequence[Any] | None:
        try:
            with _quiet():
                return tuple(
                    torch.autograd.grad(y, leaves, v, retain_graph=True, allow_unused=True)
                )
        except Exception as error:
            said = str(error).strip().split("\n")[0]
            raw = self._raw(y, v)
            if raw is not None and "shape" in said:
                return raw
            for name in self.wanted:
                problem[name] = Result(problem="raises", error=_said(error))
            return None

    def _raw(self, y: Any, v: Any) -> list[Any] | None:
        """What backward itself returns, before PyTorch fits it to the inputs."""
        try:
            with torch.no_grad(), _quiet():
                found = self.subject.function.backward(y.grad_fn, v)
        except Exception:  # the user's own code
            return None
        results = found if isinstance(found, (tuple, list)) else (found,)
        return [
            results[self.subject.places[n]] if self.subject.places[n] < len(results) else None
            for n in self.wanted
        ]

    def _widened(self, y: Any, v: Any) -> tuple[str, ...]:
        raw = self._raw(y, v)
        return tuple(
            name
            for name, grad in zip(self.wanted, raw or (), strict=False)
            if isinstance(grad, torch.Tensor) and tuple(grad.shape) != self.shapes[name]
        )

    def _unsteady(
        self, y: Any, leaves: Sequence[Any], dtype: str, problem: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """The inputs whose gradient is not the same each time."""
        if problem:
            return ()
        v = numeric.tensor(0.5 + points.spread(self.out_shape, 7), dtype)
        scratch: dict[str, Result] = {}
        runs = [self._gradients(y, leaves, v, scratch) for _ in range(3)]
        found = []
        for place, name in enumerate(self.wanted):
            grads = [r[place] for r in runs if r is not None and r[place] is not None]
            if grads and not all(
                g.shape == grads[0].shape
                and torch.allclose(g, grads[0], rtol=1e-6, atol=1e-9, equal_nan=True)
                for g in grads
            ):
                found.append(name)
        return tuple(found)

    def _buffer(self, y: Any, leaves: Sequence[Any], dtype: str) -> str:
        """The message, where the backward assigns in place to a leaf that requires grad."""
        v = numeric.tensor(np.ones(self.out_shape), dtype)
        raw = self._raw(y, v)
        if any(isinstance(g, torch.Tensor) and g.requires_grad and g.is_leaf for g in raw or ()):
            return "the buffer requires grad"
        try:
            with _quiet():
                torch.autograd.grad(
                    y,
                    leaves,
                    v.requires_grad_(),
                    retain_graph=True,
                    create_graph=True,
                    allow_unused=True,
                )
        except RuntimeError as error:
            said = str(error)
            if "leaf Variable that requires grad" in said and "in-place" in said:
                return said.split("\n")[0]
        except Exception:
            return ""
        return ""
