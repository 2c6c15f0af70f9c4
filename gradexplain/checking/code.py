"""A backward written as code, checked as it is: run, and held against the plain forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain.checking import claims as claims_
from gradexplain.checking import differences, numeric, points
from gradexplain.checking.claims import Claim
from gradexplain.checking.operation import (
    Binding,
    Operation,
    Plainly,
    bindings,
    plainly,
    quiet,
    said,
)
from gradexplain.checking.subjects import (
    FormulaSetting,
    Implemented,
    Result,
    Setting,
    claim_rows,
    free_names,
)
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape, show_shape
from gradexplain.reading.language import read
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
    return torch.from_numpy(found.astype(np.int64)) if found.dtype.kind in "iub" else None


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


def subject_of(found: Any) -> CodeSubject:
    """An operation whose backward is checked at shapes that are given."""
    return subjects_of(found, Question(), Asked())[0]  # type: ignore[return-value]


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
        #: The shapes of a module's own parameters, which are what they are.
        self.owned = {n: tuple(p.shape) for n, (_, p) in operation.owned.items() if n in self.names}
        #: What J is held against, once that is settled: see `CodeSetting.by`.
        self.by: str | None = None
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
        torch.manual_seed(self.seed)
        result = self.operation.run(tensors, self.binding.arguments, plain=plain)
        return self.one(result)

    def one(self, result: Any) -> Any:
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
        if len(floats) == 1:
            return parts[floats[0]]
        return torch.cat([parts[i].reshape(-1) for i in floats])

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
        torch.manual_seed(self.seed)
        return self.one(self.reference(tensors, self.binding.arguments))

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
        if log is not None:
            setting.functions = self._functions(log, tensors)
            setting.dirty = tuple(
                n for n, t in leaves.items()
                if any(t is d for _, context, _ in log.met for d in context.dirty)
            )  # fmt: skip
        if setting.graph is not None:
            setting.grad_names = claims_.upstream_names(setting.graph, None)
            if log is not None and len(log.met) == 1 and log.met[0][2] is y:
                setting.claims = self._backward_graphs(recorder, log.met[0], setting)
        return setting

    def _functions(self, log: Plainly, tensors: Mapping[str, Any]) -> tuple[Any, ...]:
        """The Functions that the operation applies, in order."""
        met = log.met
        if self.reference is not None:
            try:
                with torch.no_grad(), plainly() as own:
                    self.run({n: t.detach().clone() for n, t in tensors.items()}, plain=True)
            except Exception:  # the user's own code
                return ()
            met = own.met
        return tuple(dict.fromkeys(cls for cls, _, _ in met))

    def _keep(self, tensors: Mapping[str, Any]) -> None:
        """Look which outputs have a gradient."""
        self.kept = None
        torch.manual_seed(self.seed)
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


@dataclass(slots=True)
class CodeSetting(Setting):
    """A claim that is code: it is run."""

    subject: CodeSubject
    #: Inputs that forward says it changes, by ctx.mark_dirty.
    dirty: tuple[str, ...] = ()
    #: The Functions that are applied, in order.
    functions: tuple[Any, ...] = ()
    #: What J is held against: "" for the closed form or autograd, else "differences".
    by: str = ""
    #: What is declared as the gradient of each input, where it is.
    meant: dict[str, Graph] = field(default_factory=dict)
    _slack: dict[bytes, dict[str, Array]] = field(default_factory=dict)

    def settle(self, values: Mapping[str, Array], reason: str) -> None:
        """Choose what J is held against: autograd of the forward must agree with differences."""
        if self.subject.question.intended is not None:
            self.graph, self.by = None, "intended"
            self._intend()
            return
        if self.subject.reference is not None:
            return
        if self.subject.by is not None:
            self.by = self.subject.by
            self.graph = None if self.by else self.graph
            return
        found = differences.jacobians(self.subject.forward, values, self.wanted, most=10)
        try:
            mine = self._autograd(values, "float64")
        except Exception as error:  # the user's own code, which autograd cannot follow
            mine, reason = {}, reason or said(error)
        agrees = all(
            n in mine and mine[n].shape == j.shape and _near(mine[n], j, error)
            for n, (j, error) in found.items()
        )
        notes = self.subject.notes
        self.subject.by = "" if agrees else "differences"
        if not agrees:
            self.graph, self.by = None, "differences"
            note = (
                "Autograd does not see through the forward: compared with central differences of "
                "it in float64, extrapolated by Richardson."
            )
        elif self.graph is None:
            note = (
                f"The forward uses {reason.strip('_') or 'an operation'}, which is not known here: "
                "compared with autograd of the forward instead of a closed form."
            )
        else:
            return
        if note not in notes:
            notes.append(note)

    def _intend(self) -> None:
        """The declared backward of each input as a graph."""
        texts = self.subject.question.intended
        if isinstance(texts, str):
            texts = dict.fromkeys(self.wanted, "v") if texts == "straight-through" else [texts]
        known = {**self.shapes, "v": self.out_shape, "grad_output": self.out_shape,
                 "y": self.out_shape}  # fmt: skip
        for claim in claims_.read_claims(texts or (), self.wanted):
            self.meant[claim.name] = claims_.declared(claim, known)
        missing = [n for n in self.wanted if n not in self.meant]
        if missing:
            raise InputError(
                f"nothing is declared of the gradient by {missing[0]}",
                remedy=f'say it too: --as "{missing[0]}: …", or --no-grad {missing[0]}',
            )

    def _autograd(self, values: Mapping[str, Array], dtype: str) -> dict[str, Array]:
        if self.graph is not None:
            return numeric.jacobians(self.graph, values, self.wanted, dtype)
        leaves = self.subject.tensors(values, dtype, grad=True)
        copies = {n: t.clone() if t.requires_grad else t for n, t in leaves.items()}
        with plainly():
            y = self.subject.plain(copies)
        return numeric.rows_of(y, [leaves[n] for n in self.wanted], self.wanted)

    def reference(self, values: Mapping[str, Array], dtype: str) -> dict[str, Array]:
        if self.by == "intended":
            known = {n: numeric.tensor(v, dtype) for n, v in values.items()}
            known["y"] = numeric.tensor(self.subject.forward(values), dtype)
            units = numeric.basis(self.out_shape)
            return {
                n: claim_rows(self.meant[n], known, ("v",), units, dtype).reshape(len(units), -1)
                for n in self.wanted
            }
        if self.by != "differences":
            return self._autograd(values, dtype)
        found = differences.jacobians(self.subject.forward, values, self.wanted)
        self._slack[_key(values)] = {n: 10 * e + 1e-7 * np.abs(j).max(initial=0.0)
                                     for n, (j, e) in found.items()}  # fmt: skip
        # What differences cannot tell is no truth: a point that has such entries is left out.
        return {n: np.where(_told(j, e), j, np.nan) for n, (j, e) in found.items()}

    def has_shapes(self, given: Mapping[str, Array]) -> bool:
        values = self.subject.values(self.shapes, given)
        found = self.implemented(values, [points.spread(self.out_shape, 7)], "float64", quick=True)
        return all(
            r.problem != "raises" and (r.rows is None or r.rows.shape[1:] == self.shapes[n])
            for n, r in found.results.items()
        )

    def mendable(self, trials: Sequence[Any]) -> bool:
        """Whether one edit of the source makes the backward right here."""
        from gradexplain.checking import edits

        return any(edits.find(f, trials, self.wanted, pairs=False) for f in self.functions)

    @property
    def kinked(self) -> bool:
        return self.by == ""

    def slack(self, values: Mapping[str, Array], name: str) -> Any:
        """What the truth itself may be off by."""
        return self._slack.get(_key(values), {}).get(name, 0.0)

    def between(
        self, values: Mapping[str, Array], name: str, wrong: Array, claimed: Array
    ) -> Array:
        """``wrong`` without the entries at which the claim is a slope to one side, or between the
        two: at a kink of the forward any of them is right.
        """
        left_wrong: Array = wrong.copy()
        for place in np.unique(np.argwhere(wrong)[:, 1]):
            sides = [
                differences.one_sided(self.subject.forward, values, name, int(place), side)
                for side in (-1, 1)
            ]
            low, high = np.minimum(*sides), np.maximum(*sides)
            room = 1e-4 * (1 + np.maximum(np.abs(low), np.abs(high)))
            here = claimed[:, place]
            with np.errstate(all="ignore"):
                inside = (here >= low - room) & (here <= high + room)
                inside |= ~np.isfinite(here)
            left_wrong[inside, place] = False
        return left_wrong

    def forward_gap(self, values: Mapping[str, Array], dtype: str) -> float | None:
        """By how much the forward differs from the reference's, beyond rounding; None where it does
        not, or there is no reference.
        """
        subject = self.subject
        if subject.reference is None:
            return None
        with torch.no_grad():
            mine = numeric.array(subject.run(subject.tensors(values, dtype)))
            theirs = numeric.array(subject.plain(subject.tensors(values, "float64")))
        if mine.shape != theirs.shape:
            return float("inf")
        gap = float(np.abs(mine - theirs).max(initial=0.0))
        scale = float(np.abs(theirs).max(initial=0.0))
        return gap if gap > (1e-9 if dtype == "float64" else 1e-4) * max(scale, 1e-12) else None

    # -- the claim ---------------------------------------------------------------------------------

    def applied(self, values: Mapping[str, Array], dtype: str) -> tuple[Any, list[Any]]:
        """The output of the operation and the leaves it depends on."""
        leaves = self.subject.tensors(values, dtype, grad=True)
        # Not leaves: a Function that marks its input as dirty may change it in place.
        inputs = {n: t.clone() if t.requires_grad else t for n, t in leaves.items()}
        return self.subject.run(inputs), [leaves[n] for n in self.wanted]

    def implemented(
        self, values: Mapping[str, Array], vs: Sequence[Array], dtype: str, *, quick: bool = False
    ) -> Implemented:
        subject = self.subject
        leaves = subject.tensors(values, dtype, grad=True)
        inputs = {n: t.clone() if t.is_floating_point() else t for n, t in leaves.items()}
        versions = {n: t._version for n, t in inputs.items()}
        try:
            y = subject.run(inputs)
        except GradexplainError:
            raise
        except Exception as error:  # the user's own code
            return Implemented(
                {n: Result(problem="raises", error=said(error)) for n in self.wanted}
            )
        mutated = tuple(
            name for name, tensor in inputs.items()
            if (tensor._version != versions[name] or not torch.equal(tensor, leaves[name]))
            and name not in self.dirty
        )  # fmt: skip
        wanted = [leaves[n] for n in self.wanted]
        if not y.requires_grad:
            return Implemented({n: Result(problem="detached") for n in self.wanted}, mutated)
        rows: dict[str, list[Any]] = {n: [] for n in self.wanted}
        problem: dict[str, Result] = {}
        changed = False
        for v in vs:
            upstream = numeric.tensor(v, dtype)
            kept = upstream.clone()
            grads = self._gradients(y, wanted, upstream, problem)
            changed = changed or not torch.equal(upstream, kept)
            if grads is None:
                break
            for name, grad in zip(self.wanted, grads, strict=True):
                rows[name].append(None if grad is None else numeric.array(grad))
        if not problem:
            for name, found in rows.items():
                if all(row is None for row in found):
                    problem[name] = Result(problem="none")
                elif len({None if r is None else r.shape for r in found}) > 1:
                    shape = next(r.shape for r in found if r is not None)
                    found[:] = [np.zeros(shape) if r is None else r for r in found]
        results = {name: problem.get(name) or Result(np.array(rows[name])) for name in self.wanted}
        implemented = Implemented(results, mutated, v_changed=changed)
        if quick:
            return implemented
        if not problem:
            self._steadiness(implemented, y, wanted, values, dtype)
            implemented.widened = self._widened(y, numeric.tensor(vs[0], dtype)) if len(vs) else ()
        implemented.buffer = self._buffer(y, wanted, dtype)
        return implemented

    def _gradients(
        self, y: Any, leaves: Sequence[Any], v: Any, problem: dict[str, Result]
    ) -> Sequence[Any] | None:
        try:
            with quiet():
                return tuple(
                    torch.autograd.grad(y, leaves, v, retain_graph=True, allow_unused=True)
                )
        except Exception as error:  # the user's own code
            first = str(error).strip().split("\n")[0]
            raw = self._raw(y, v)
            if raw is not None and "shape" in first and all(r is not None for r in raw):
                return raw
            for name in self.wanted:
                problem[name] = Result(problem="raises", error=said(error))
            return None

    def _raw(self, y: Any, v: Any) -> list[Any] | None:
        """What backward itself returns, before PyTorch fits it to the inputs."""
        function = self.subject.operation.function
        if function is None:
            return None
        try:
            with torch.no_grad(), quiet():
                found = inspect.unwrap(function.backward)(y.grad_fn, v)
        except Exception:  # the user's own code
            return None
        results = found if isinstance(found, (tuple, list)) else (found,)
        places = [self.subject.operation.place(n, self.subject.names) for n in self.wanted]
        return [results[p] if p < len(results) else None for p in places]

    def _widened(self, y: Any, v: Any) -> tuple[str, ...]:
        return tuple(
            name for name, grad in zip(self.wanted, self._raw(y, v) or (), strict=False)
            if isinstance(grad, torch.Tensor) and tuple(grad.shape) != self.shapes[name]
        )  # fmt: skip

    def _steadiness(
        self, found: Implemented, y: Any, leaves: Sequence[Any], values: Mapping[str, Array],
        dtype: str,
    ) -> None:  # fmt: skip
        """Note the inputs whose gradient is not the same each time, and whether chance or what the
        backward leaves behind is to blame.
        """
        v = numeric.tensor(0.5 + points.spread(self.out_shape, 7), dtype)

        def several(seeded: bool) -> list[Sequence[Any] | None]:
            runs = []
            for _ in range(3):
                if seeded:
                    torch.manual_seed(self.subject.seed)
                run = self._gradients(y, leaves, v.clone(), {})
                # Copies: what a backward keeps and returns may change the next time.
                runs.append(None if run is None else [g if g is None else g.clone() for g in run])
            return runs

        def differ(runs: list[Sequence[Any] | None]) -> list[str]:
            names = []
            for place, name in enumerate(self.wanted):
                grads = [r[place] for r in runs if r is not None and r[place] is not None]
                if grads and not all(
                    g.shape == grads[0].shape
                    and torch.allclose(g, grads[0], rtol=1e-6, atol=1e-9, equal_nan=True)
                    for g in grads
                ):
                    names.append(name)
            return names

        found.unsteady = tuple(differ(several(seeded=False)))
        if found.unsteady:
            found.leftover = bool(differ(several(seeded=True)))

    def _buffer(self, y: Any, leaves: Sequence[Any], dtype: str) -> str:
        """The message, where the backward assigns in place to a leaf that requires grad."""
        v = numeric.tensor(np.ones(self.out_shape), dtype)
        raw = self._raw(y, v)
        if any(isinstance(g, torch.Tensor) and g.requires_grad and g.is_leaf for g in raw or ()):
            return "the buffer requires grad"
        try:
            with quiet():
                torch.autograd.grad(
                    y, leaves, v.requires_grad_(), retain_graph=True, create_graph=True,
                    allow_unused=True,
                )  # fmt: skip
        except RuntimeError as error:
            text = str(error)
            if "leaf Variable that requires grad" in text and "in-place" in text:
                return text.split("\n")[0]
        except Exception:  # the user's own code
            return ""
        return ""


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
            graph = read(program, lambda n: tuple(known[n].shape), lambda n: None)
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


def _near(a: Array, b: Array, error: Array) -> bool:
    """Whether autograd's J is that of the differences, as far as they can tell."""
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    told = _told(b, error)
    with np.errstate(all="ignore"):
        return bool(
            (np.logical_not(told) | (np.abs(a - b) <= 100 * error + 1e-6 * max(scale, 1e-6))).all()
        )


def _told(j: Array, error: Array) -> Array:
    """Where the differences have digits."""
    scale = np.abs(j[np.isfinite(j)]).max(initial=0.0)
    return np.asarray(np.isfinite(j) & (error <= 1e-3 * max(scale, 1e-6)))


def _key(values: Mapping[str, Array]) -> bytes:
    return b"".join(v.tobytes() for v in values.values())
