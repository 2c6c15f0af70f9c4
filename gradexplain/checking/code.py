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
from gradexplain.checking.forwards import Operated, Question
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
from gradexplain.ops.base import Shape
from gradexplain.reading.language import read
from gradexplain.reading.names import free_names
from gradexplain.reading.syntax import parse
from gradexplain.recording.graphs import Recorder

torch = numeric.torch_module()


@dataclass(frozen=True)
class Asked:
    """What the user said of the arguments, by name."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    #: Integer tensors, which stay what they are.
    integers: Mapping[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    wanted: tuple[str, ...] | None = None


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
    kind = CodeSubject if texts is None else CallSubject
    return [kind(operation, way, question) for way in ways]


def varied_subjects(
    subject: Any, question: Question, asked: Asked, one: Operated, point: PointReport
) -> Iterator[Operated]:
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


def subject_of(found: Any, tensors: Sequence[str] = ()) -> CodeSubject | CallSubject:
    """An operation whose backward is checked at shapes that are given; ``tensors`` are known to be."""
    asked = Asked(tensors=tuple(tensors))
    return subjects_of(found, Question(), asked)[0]


class CallSubject(Operated):
    """A function of tensors, and claims as programs."""

    def __init__(self, operation: Operation, binding: Binding, question: Question) -> None:
        super().__init__(operation, binding, question)
        self.claimed: list[Claim] = claims_.read_claims(question.texts or (), self.names)
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
        names = claims_.upstream_names(graph, self.question.grad_name)
        found = {
            claim.name: claims_.claim_graph(claim, graph, names)
            for claim in self.claimed
            if claim.program is not None
        }
        return FormulaSetting(dict(shapes), graph, graph.out.shape, self.wanted, found, names)


class CodeSubject(Operated):
    """An operation whose own backward is the claim."""

    def __init__(self, operation: Operation, binding: Binding, question: Question) -> None:
        super().__init__(operation, binding, question)
        self.reference = None if question.against is None else _reference(question.against)
        idle = [n for n in binding.names if n not in binding.wanted]
        if idle:
            self.notes.append(f"No gradient is asked for {', '.join(idle)}.")

    @property
    def has_backward(self) -> bool:
        """Whether there is a backward that is not autograd's own, or one is compared anyway."""
        return (
            self.operation.function is not None
            or hasattr(self.operation.found, "_init_fn")
            or self.question.against is not None
            or self.question.intended is not None
        )

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
