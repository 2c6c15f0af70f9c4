"""A backward written as code, checked as it is: run, and held against the plain forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradexplain import points
from gradexplain.checking import claims as claims_
from gradexplain.checking import numeric
from gradexplain.checking.claims import Claim
from gradexplain.checking.operation import (
    Binding,
    Operation,
    Plainly,
    bindings,
    plainly,
    quiet,
    said,
    varied,
)
from gradexplain.checking.report import PointReport
from gradexplain.checking.setting import CodeSetting
from gradexplain.checking.subjects import (
    FormulaSetting,
    Setting,
    claim_rows,
)
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape, show_shape
from gradexplain.reading.language import read
from gradexplain.reading.names import free_names
from gradexplain.reading.syntax import parse
from gradexplain.recording.graphs import Recorder

torch = numeric.torch_module()

#: A recorded forward of more calls than this has no closed form that anyone would read.
_LONG = 60


@dataclass(frozen=True)
class Asked:
    """What the user said of the arguments, by name."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    #: Integer tensors, which stay what they are.
    integers: Mapping[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    wanted: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Question:
    """What is compared with what: the backward, or ``texts`` as claims, with J of the forward, of
    ``against``, or with what is ``intended``.
    """

    texts: Sequence[str] | Mapping[str, str] | None = None
    grad_name: str | None = None
    seed: int = 0
    intended: str | Sequence[str] | Mapping[str, str] | None = None
    against: Any = None


def integers(value: Any) -> Any:
    """A value that is made of integers as a tensor of them, else None."""
    if isinstance(value, torch.Tensor):
        return None if value.is_floating_point() or value.is_complex() else value.detach()
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):
        return None
    whole = found.astype(bool if found.dtype.kind == "b" else np.int64) if found.size else found
    return torch.from_numpy(whole) if found.dtype.kind in "iub" else None


def subjects_of(found: Any, question: Question, asked: Asked) -> list[CodeSubject | CallSubject]:
    """A callable of tensors as something to check: one subject for each way to read its
    parameters.
    """
    texts = question.texts
    operation = Operation(found)
    known = {p.name for p in operation.parameters} | set(operation.owned)
    for name in (*asked.arguments, *asked.tensors, *asked.integers, *asked.frozen):
        if name not in known and not operation.rest and not operation.keywords:
            raise InputError(
                f"{operation.title} has no argument {name}",
                remedy=f"it has {', '.join(p.name for p in operation.parameters)}",
            )
    ways = list(
        bindings(
            operation, asked.tensors, {**asked.arguments, **asked.integers}, asked.frozen,
            asked.wanted,
        )
    )  # fmt: skip
    ways = [way for way in ways if way.names and (way.wanted or texts is not None)]
    if not ways:
        raise InputError(
            f"{operation.title} takes no tensors that need a gradient",
            remedy="there is no gradient to check",
        )
    if texts is not None:
        return [
            CallSubject(operation, way, texts, question.grad_name, question.seed) for way in ways
        ]
    return [CodeSubject(operation, way, question) for way in ways]


def varied_subjects(
    subject: Any, question: Question, asked: Asked, one: _Subject, point: PointReport
) -> Iterator[_Subject]:
    """The operation of the same inputs, an argument that it has a default for at another value, of
    those that the forward depends on: what the backward alone takes is its own affair.
    """
    if replace(question, seed=0) != Question():
        return  # a reference need not know of them, nor need what is declared
    for name, default, value in varied(Operation(subject), asked.arguments):
        unlike = replace(asked, arguments={**asked.arguments, name: value})
        found = subjects_of(subject, question, unlike)
        same = (s for s in found if (s.names, s.wanted) == (one.names, one.wanted))
        other = next(same, None)
        if other is not None and other.accepts(point.shapes, point.values) and not (
            np.array_equal(other.forward(point.values), one.forward(point.values))
        ):  # fmt: skip
            other.notes.insert(0, f"With {name}={default!r}, the default, it is right.")
            other.title += f" with {name}={value!r}"
            yield other


def subject_of(found: Any, tensors: Sequence[str] = ()) -> CodeSubject:
    """An operation whose backward is checked at shapes that are given; ``tensors`` are known to be."""
    asked = Asked(tensors=tuple(tensors))
    return subjects_of(found, Question(), asked)[0]  # type: ignore[return-value]


class _Subject:
    """What both kinds of code share: a forward that is run to see what it does."""

    output = "y"

    def __init__(self, operation: Operation, binding: Binding, seed: int) -> None:
        self.operation = operation
        self.binding = binding
        self.title = operation.title
        self.names = (*binding.names, *binding.integers)
        self.wanted = binding.wanted
        self.seed = seed
        self.notes: list[str] = []
        if binding.assumed:
            self.notes.append(
                f"Run with {', '.join(binding.assumed)}: no value was given (--arg gives others)."
            )
        idle = [n for n in binding.names if n not in binding.wanted]
        if idle and isinstance(self, CodeSubject):
            self.notes.append(f"No gradient is asked for {', '.join(idle)}.")
        self.refusal: Exception | None = None
        #: What J is held against, once that is settled: see `CodeSetting.by`.
        self.by: str | None = None
        #: Inputs whose J is that of the first, or minus it: no data, though no gradient comes back.
        self.mirrored: frozenset[str] = frozenset()
        #: Which of the outputs have a gradient, once the operation has been run.
        self.kept: tuple[int, ...] | None = None

    def values(
        self, shapes: Mapping[str, Shape], given: Mapping[str, Array], number: int = 0
    ) -> dict[str, Array]:
        free = {n: s for n, s in shapes.items() if n not in given}
        values = next(points.regular(free, 1 + number))[1]
        return {n: given[n] if n in given else values[n] for n in shapes}

    def tensors(self, values: Mapping[str, Array], dtype: str, *, grad: bool = False) -> Any:
        found = {}
        for name, value in values.items():
            if name in self.binding.integers:
                found[name] = torch.arange(value.size).reshape(value.shape) % 2
            else:
                found[name] = numeric.tensor(value, dtype, grad=grad and name in self.wanted)
        return found

    def run(self, tensors: Mapping[str, Any], *, plain: bool = False) -> Any:
        """The outputs that have a gradient, as one tensor."""
        found = self.parts(tensors, plain=plain)
        return found[0] if len(found) == 1 else torch.cat([part.reshape(-1) for part in found])

    def parts(self, tensors: Mapping[str, Any], *, plain: bool = False) -> list[Any]:
        """The outputs that have a gradient."""
        numeric.seed(self.seed)
        return self.chosen(self.operation.run(tensors, self.binding.arguments, plain=plain))

    def chosen(self, result: Any) -> list[Any]:
        parts = list(result) if isinstance(result, (tuple, list)) else [result]
        parts = [p for p in parts if p is not None]
        floats = [
            i for i, p in enumerate(parts) if isinstance(p, torch.Tensor) and p.is_floating_point()
        ]
        if not floats:
            what = parts[0] if len(parts) == 1 else parts
            kind = f"a tensor of {what.dtype}" if isinstance(what, torch.Tensor) else (
                f"{len(parts)} results" if len(parts) != 1 else type(what).__name__
            )  # fmt: skip
            raise InputError(
                f"{self.title} returns {kind}, which has no gradient",
                remedy="return a floating-point tensor",
            )
        if self.kept is not None:
            floats = [i for i in self.kept if i < len(parts)]
        return [parts[i] for i in floats]

    def accepts(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> bool:
        """Whether the operation runs at these shapes, and what comes out depends on what goes in."""
        try:
            tensors = self.tensors(self.values(shapes, values), "float64", grad=True)
            y = self.run({n: t.clone() for n, t in tensors.items()})
        except GradexplainError as error:
            self.refusal = error
            return False
        except Exception as error:  # the user's own code, at shapes that it may not take
            self.refusal = error
            return False
        sizes = [int(np.prod(s)) for s in shapes.values()]
        return bool(0 < y.numel() * max([1, *sizes]) <= 6000)

    def plain(self, tensors: Mapping[str, Any]) -> Any:
        return self.run(tensors, plain=True)

    def recorded(
        self, shapes: Mapping[str, Shape], given: Mapping[str, Array]
    ) -> tuple[Graph | None, Recorder, Any, dict[str, Any], Any]:
        """The plain forward's graph, None where a call has no record, and the recording."""
        tensors = self.tensors(self.values(shapes, given), "float64")
        recorder = Recorder()
        for name, tensor in tensors.items():
            if name not in self.binding.integers:
                recorder.leaf(name, tensor)
        with torch.no_grad(), plainly() as log, recorder:
            y = self.plain(tensors)
        graph = recorder.graph(y)
        if graph is not None and len(graph.nodes) > _LONG:
            graph, recorder.reason = None, "too many steps for a formula"
        if graph is not None and not self._true_to(graph, shapes, given):
            graph = None
            recorder.reason = recorder.reason or "a step that PyTorch does not report"
        return graph, recorder, y, tensors, log

    def graph_at(self, shapes: Mapping[str, Shape]) -> Graph | None:
        try:
            return self.recorded(shapes, {})[0]
        except Exception:  # the user's own code, at shapes it may not take
            return None

    def forward(self, values: Mapping[str, Array]) -> Array:
        """The operation's own numbers, in float64."""
        with torch.no_grad():
            found: Array = numeric.array(self.run(self.tensors(values, "float64")))
            return found

    def _true_to(
        self, graph: Graph, shapes: Mapping[str, Shape], given: Mapping[str, Array]
    ) -> bool:
        """Whether the graph computes what the forward computes, at two other points."""
        for number in (2, 3):
            values = self.values(shapes, {}, number)
            leaves = {n: numeric.tensor(v, "float64") for n, v in values.items()}
            with torch.no_grad():
                try:
                    mine = numeric.run(graph, leaves, "float64")[graph.output]
                    theirs = numeric.array(self.plain(self.tensors(values, "float64")))
                except Exception:  # the user's own code, and PyTorch's refusals of ours
                    return False
            if not np.allclose(numeric.array(mine), theirs, rtol=1e-9, atol=1e-12, equal_nan=True):
                return False
        return True

    def refuse(self, tried: str = "") -> GradexplainError:
        if isinstance(self.refusal, GradexplainError):
            return self.refusal
        why = said(self.refusal) if self.refusal is not None else "no value"
        return InputError(
            f"{self.title}: forward raises at every shape that was tried{tried}: {why}",
            remedy=f"give the shapes, as in --shape {self.names[0]}=2,3; other arguments as in "
            "--arg dim=0",
        )

    def check_here(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> None:
        """Raises `InputError` where the forward does not run at these shapes."""
        if not self.accepts(shapes, values):
            if isinstance(self.refusal, GradexplainError) or self.refusal is None:
                raise self.refusal or InputError(
                    f"{self.title}: J is too large at these shapes", remedy="use smaller ones"
                )
            at = ", ".join(f"{n} {show_shape(s)}" for n, s in shapes.items())
            raise InputError(
                f"{self.title}: forward raises at {at}: {said(self.refusal)}",
                remedy="give other shapes or values with --shape and --at",
            )


class CallSubject(_Subject):
    """A function of tensors, and claims as programs."""

    def __init__(
        self,
        operation: Operation,
        binding: Binding,
        texts: Sequence[str] | Mapping[str, str],
        grad_name: str | None,
        seed: int,
    ) -> None:
        super().__init__(operation, binding, seed)
        self._grad_name = grad_name
        self.claimed: list[Claim] = claims_.read_claims(texts, self.names)
        self.wanted = tuple(c.name for c in self.claimed)

    def setting(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> Setting:
        self.check_here(shapes, values)
        graph, recorder, *_ = self.recorded(shapes, values)
        if graph is None:
            raise UnsupportedError(
                f"{self.title} uses {recorder.reason.strip('_')}, which is not supported yet: a "
                "claim cannot be compared with its closed form",
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
    """An operation whose own backward is the claim."""

    def __init__(self, operation: Operation, binding: Binding, question: Question) -> None:
        super().__init__(operation, binding, question.seed)
        self.question = question
        self.reference = None if question.against is None else _reference(question.against)

    @property
    def has_backward(self) -> bool:
        """Whether there is a backward that is not autograd's own, or one is compared anyway."""
        return (
            self.operation.function is not None
            or hasattr(self.operation.found, "_init_fn")
            or self.question.against is not None
            or self.question.intended is not None
        )

    def plain(self, tensors: Mapping[str, Any]) -> Any:
        """The forward as J is asked of it: the operation's own, or the reference's."""
        if self.reference is None:
            return self.run(tensors, plain=True)
        numeric.seed(self.seed)
        found = self.chosen(self.reference(tensors, self.binding.arguments))
        return found[0] if len(found) == 1 else torch.cat([part.reshape(-1) for part in found])

    def setting(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> CodeSetting:
        self.check_here(shapes, values)
        tensors = self.tensors(self.values(shapes, values), "float64", grad=True)
        self._keep(tensors)
        graph, recorder, y, log = None, Recorder(), None, None
        leaves: dict[str, Any] = {}
        try:
            graph, recorder, y, leaves, log = self.recorded(shapes, values)
        except Exception as error:  # a forward that runs in its Function only
            recorder.reason = said(error)
        with torch.no_grad():
            out_shape = tuple(self.run({n: t.detach().clone() for n, t in tensors.items()}).shape)
        setting = CodeSetting(
            dict(shapes), graph, out_shape, self.wanted, {}, ("grad_output",), self
        )
        if log is not None and not log.met and not self.has_backward:
            raise InputError(
                f"{self.title} applies no torch.autograd.Function: it has no backward to check",
                remedy="give a claim about its gradient, as in --claim "
                f'"{next(iter(self.names), "x")}: v*…", or a reference with --against',
            )
        setting.settle(self.values(shapes, values), recorder.reason)
        setting.functions = self._functions(log, tensors)
        if log is not None:
            setting.dirty = tuple(
                n for n, t in leaves.items()
                if any(t is d for _, context, _ in log.met for d in context.dirty)
            )  # fmt: skip
        if setting.graph is not None:
            setting.grad_names = claims_.upstream_names(setting.graph, None)
            if log is not None and len(log.met) == 1 and log.met[0][2] is y:
                setting.claims = self._backward_graphs(recorder, log.met[0], setting)
        return setting

    def _functions(self, log: Plainly | None, tensors: Mapping[str, Any]) -> tuple[Any, ...]:
        """The Functions that the operation applies, in order."""
        if self.reference is not None or log is None:
            # What was recorded is the reference, or could not be.
            try:
                with torch.no_grad(), plainly() as log:
                    self.run({n: t.detach().clone() for n, t in tensors.items()}, plain=True)
            except Exception:  # the user's own code
                return ()
        return tuple(dict.fromkeys(cls for cls, _, _ in log.met))

    def _keep(self, tensors: Mapping[str, Any]) -> None:
        """Look which outputs have a gradient."""
        self.kept = None
        numeric.seed(self.seed)
        copies = {n: t.clone() if t.is_floating_point() else t for n, t in tensors.items()}
        try:
            result = self.operation.run(copies, self.binding.arguments)
        except Exception:  # the user's own code: `implemented` says what it raises
            return
        parts = list(result) if isinstance(result, (tuple, list)) else [result]
        parts = [p for p in parts if p is not None]
        kept = tuple(
            i for i, p in enumerate(parts)
            if isinstance(p, torch.Tensor) and p.is_floating_point() and p.requires_grad
        )  # fmt: skip
        self.kept = kept or None

    def _backward_graphs(
        self, forward: Recorder, met: tuple[Any, Any, Any], setting: CodeSetting
    ) -> dict[str, Graph]:
        """What the backward computes, where it can be recorded; held against the real one."""
        function, context, y = met
        graph = setting.graph
        assert graph is not None
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
            with torch.no_grad(), quiet(), recorder:
                found = inspect.unwrap(function.backward)(context, v)
        except Exception:  # the user's own code
            return {}
        results = found if isinstance(found, (tuple, list)) else (found,)
        graphs = {}
        for name in self.wanted:
            place = self.operation.place(name, self.names)
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
        real = setting.implemented(values, vs, "float64", quick=True).results[name]
        try:
            with torch.no_grad():
                leaves = {n: numeric.tensor(v, "float64") for n, v in values.items()}
                tensors = numeric.run(graph, leaves, "float64", everything=True)
            known = {graph[i].label: t for i, t in tensors.items() if hasattr(t, "detach")}
            mine = claim_rows(claim, known, setting.grad_names, vs, "float64")
        except numeric.UNEVALUATED:
            return False
        if real.rows is None or real.rows.shape != mine.shape:
            return False
        return bool(np.allclose(real.rows, mine, rtol=1e-6, atol=1e-9, equal_nan=True))


def _reference(against: Any) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Any]:
    """The reference as a function of tensors and other arguments by name."""
    if isinstance(against, str):
        program = parse(against)
        free = free_names(program)

        def formula(tensors: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
            known = {n: t for n, t in tensors.items() if n in free}
            missing = [n for n in free if n not in known]
            if missing:
                raise InputError(
                    f"the reference uses {missing[0]}, which is no input of the operation; its "
                    f"inputs are: {', '.join(tensors)}",
                    remedy="name the reference's inputs as forward's parameters are named",
                )
            graph = read(program, lambda n: tuple(known[n].shape))
            dtype = str(next(iter(known.values())).dtype).removeprefix("torch.")
            return numeric.run(graph, known, dtype)[graph.output]

        return formula
    other = Operation(against)
    names = {p.name for p in other.parameters}

    def function(tensors: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
        kept = {n: v for n, v in arguments.items() if n in names}
        own = [p.name for p in other.parameters if p.name not in kept]
        placed = (
            tensors if set(tensors) <= names
            else dict(zip(own, tensors.values(), strict=False))
        )  # fmt: skip
        return other.run(placed, kept)

    return function
