"""From a snapshot to its explanation: names, formulas, the three routes held against each other.

The chain rule is carried through the recorded calls in float64 with the records' formulas, from
the values of the leaves; PyTorch's own numbers, caught on their way, are compared with it at every
step.  Where an operation has no record its part is PyTorch's own, marked so.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from gradexplain import numbers
from gradexplain.adjoint import moving
from gradexplain.document.keys import HIDDEN, Key, Keys
from gradexplain.engine import Problem, _loss, explanation_of
from gradexplain.errors import GradexplainError
from gradexplain.explanation import (
    Array,
    Check,
    Difference,
    Explanation,
    ForwardRow,
    Gradient,
    Input,
    Note,
    Output,
    Shape,
    Step,
    Upstream,
)
from gradexplain.graph import Graph
from gradexplain.plan.arrays import Pair
from gradexplain.routes.singular import singular_nodes
from gradexplain.trace.links import Assignment, Link, Reading, clean, is_literal
from gradexplain.trace.snapshot import Accumulated, Arg, LeftOut, Operation, Snapshot, Value
from gradexplain.verdict import compare, fold
from gradexplain.verdict import digits as measure
from gradexplain.verdict.status import worst

#: The closed form of the whole is given for chains of at most so many operations and elements.
SHORT = 12
_FEW = 2_000

#: A name that stands for more values than this is numbered, ``y@1``, ``y@2``, instead of primed.
_PRIMES = 3

#: What a formula may fail with on a call that it was not made for; the call is then opaque.
_FAILURES = (
    ArithmeticError, ValueError, TypeError, KeyError, IndexError, StopIteration, AttributeError,
    NotImplementedError, RecursionError, AssertionError,
)  # fmt: skip


@dataclass(slots=True)
class TracedRow(ForwardRow):
    """One operation as it was executed; ``opaque`` says why it has no formula here."""

    line: int | None = None
    source: str = ""
    opaque: str = ""
    #: False where the value was overwritten before it could be read.
    known: bool = True


@dataclass(slots=True)
class TracedStep(Step):
    """One contribution; ``kind`` is ``formula``, ``opaque`` (PyTorch's own) or ``hook``."""

    line: int | None = None
    kind: str = "formula"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of PyTorch's in a call, ``why`` it came and the ``remedy``."""

    type: str
    message: str
    why: str
    remedy: str


@dataclass(slots=True)
class Root:
    """A tensor that ``backward`` was called on, with its v."""

    name: str
    shape: Shape
    v: Array


@dataclass(slots=True)
class TracedCall(Explanation):
    """One ``backward`` of a script.  The numbers are PyTorch's, where they agree with the formulas
    (within the bound) printed as the formulas give them, so that no processor's last bit shows.
    """

    index: int = 0
    function: str = "backward"
    file: str = ""
    line: int | None = None
    source: str = ""
    roots: list[Root] = field(default_factory=list)
    retain_graph: bool = False
    create_graph: bool = False
    accumulated: list[Accumulated] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    #: What PyTorch raised, why, and what to do.
    error: tuple[str, str] | None = None
    why: str = ""
    remedy: str = ""
    #: Whether every operation has a formula, so that the chain rule is independent of PyTorch.
    complete: bool = True
    #: How many operations of the backward pass were held against their formula, how many have none.
    checked: int = 0
    unchecked: int = 0
    #: How many contributions the steps with a formula make, and how many of them were compared with
    #: what PyTorch sent: the rest count in the gradients alone.
    contributions: int = 0
    compared: int = 0

    PAGE: ClassVar[str] = "gradexplain.pages.trace"
    JSON: ClassVar[Keys] = {
        "index": Key("call"),
        "forward": Key(of=list[TracedRow]),
        "steps": Key(of=list[TracedStep]),
        "left_out": Key("got_nothing"),
        "error": HIDDEN,
        "why": HIDDEN,
        "remedy": HIDDEN,
        "refusal": Key("error"),
    }

    @property
    def refusal(self) -> Refusal | None:
        """What PyTorch raised, why, and what to do."""
        if self.error is None:
            return None
        message = " ".join(self.error[1].split())
        return Refusal(self.error[0], message, self.why, self.remedy)


def explained(snapshot: Snapshot, until: float = math.inf) -> TracedCall:
    """The explanation of one captured call; formulas are evaluated ``until`` that time."""
    return _Explainer(snapshot, until).explained()


#: Unit roundoff of the dtypes that are held against PyTorch.
_UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}

#: So many roundings of the largest element are allowed everywhere.
_BLOCKS = 16

#: An operation of more products than this is not worked out by its formula.
_WORK = 1e8

#: A half-precision kernel computes in float32 and rounds at its end, a few times at the most.
_HALF = 0.25


def _bound(pair: Pair, found: Array, unit: float, beside: Array | None = None) -> Array:
    """What one operation's roundings may come to, from its own magnitudes alone."""
    size = pair[1] if beside is None else pair[1] + np.abs(beside)
    scale = unit / compare.ROUNDOFF["float32"]
    bound = compare.bound(size, found, np.zeros(0), "float32") * scale
    # A kernel that works in blocks (attention, convolution) rounds by the size of its largest.
    with np.errstate(all="ignore"):
        bound = bound + _BLOCKS * unit * np.abs(found[np.isfinite(found)]).max(initial=0.0)
    return np.asarray(bound * (_HALF if unit > 2.0**-20 else 1.0), dtype=np.float64)


def unexplained(snapshot: Snapshot, why: str) -> TracedCall:
    """A call of which nothing can be said but what failed."""
    blank = Snapshot(snapshot.index, snapshot.function, snapshot.site, error=snapshot.error)
    call = _Explainer(blank).explained()
    call.check = Check("cannot tell", call.dtype, None, [], f"it could not be explained: {why}.")
    return call


class _Explainer:
    def __init__(self, snapshot: Snapshot, until: float = math.inf) -> None:
        self.snapshot = snapshot
        self.until = until
        self.values = snapshot.values
        self.labels = labels_of(snapshot)
        self.links: dict[int, Link | Assignment] = {}  # by output
        self.pairs: dict[int, Pair] = {}
        #: What the records make of PyTorch's own inputs.
        self.made: dict[int, Pair] = {}
        self.upstream: dict[int, Pair] = {}
        self.contributions: dict[tuple[int, int], Pair] = {}
        self.differences: list[Difference] = []
        self.singular: list[Any] = []
        self.hooked: list[int] = []
        self.opaque: dict[int, str] = {}
        #: Values that a backward pass reads within the calls it goes back through, and the calls
        #: between which PyTorch sends by way of them.
        #: Custom Functions whose backward is not the derivative of their forward.
        self.wrong: dict[int, Operation] = {}
        self.bent: set[int] = set()
        self.indirect: set[int] = set()
        floats = {v.dtype for v in self.values if v.dtype.startswith(("float", "bfloat", "half"))}
        self.dtype = "float64" if floats == {"float64"} else "float32"
        self.checkable = floats <= _UNIT.keys()
        #: Operations that have been held against PyTorch, and those at a singular point of theirs.
        self.compared: set[int] = set()
        self.at_singular: set[int] = set()
        self.verdicts: list[str] = []
        self.explanation = self._begun()

    def explained(self) -> TracedCall:
        x = self.explanation
        if self.snapshot.operations or self.snapshot.roots:
            self._forward()
            if self.snapshot.error is None:
                self._backward()
                self._gradients()
                self._whole()
            self._check()
        self._notes()
        return x

    # -- question --------------------------------------------------------------------------------

    def _begun(self) -> TracedCall:
        s = self.snapshot
        site = s.site
        leaves = {
            self.labels[v.id]: Input(
                self.labels[v.id], v.shape, _known(v), given=True, wanted=v.kind == "leaf"
            )
            for v in self.values
            if v.kind not in ("result", "part") and not is_literal(v)
        }
        roots = [
            Root(self.labels[i], self.values[i].shape, v)
            for i, v in zip(s.roots, s.v, strict=False)
        ]
        taken = set(self.labels.values())
        v_name = next(n for n in ("v", "g", "upstream", "grad_output") if n not in taken)
        loss = next(n for n in ("L", "S", "loss_L") if n not in taken)
        first = roots[0] if roots else Root("y", (), np.ones(()))
        texts = [_loss(r.v, r.name, loss, v_name).partition(" = ")[2] for r in roots]
        return TracedCall(
            expression=site.source if site is not None else "",
            dtype=self.dtype,
            inputs=leaves,
            output=Output(first.name, first.shape),
            grad=Upstream(
                first.v, "implicit" if s.implicit else "given",
                f"{loss} = {' + '.join(texts)}", v_name,
            ),
            index=s.index,
            function=s.function,
            file=site.file if site is not None else "",
            line=site.line if site is not None else None,
            source=site.source if site is not None else "",
            roots=roots,
            retain_graph=s.retain_graph,
            create_graph=s.create_graph,
            accumulated=s.accumulated,
            left_out=s.left_out,
            error=s.error,
            why=s.error_help[0],
            remedy=s.error_help[1],
        )  # fmt: skip

    # -- forward ---------------------------------------------------------------------------------

    def _forward(self) -> None:
        for value in self.values:
            if value.kind != "result" and value.array is not None:
                self.pairs[value.id] = value.array, np.abs(value.array)
        for operation in self.snapshot.operations:
            opaque = operation.opaque or self._spent(operation) or self._linked(operation)
            if opaque:
                self._make_opaque(operation, opaque)
        self._settle_within()
        for operation in self.snapshot.operations:
            opaque = self.opaque.get(operation.id, "")
            for output in operation.outputs:
                if not self.values[output].hidden:
                    self.explanation.forward.append(self._row(operation, output, opaque))
        for root, i in zip(self.explanation.roots[:1], self.snapshot.roots, strict=False):
            del root
            self.explanation.output.value = self._value(i)

    def _spent(self, operation: Operation) -> str:
        """Why an operation is not worked out: the budget."""
        if time.monotonic() > self.until:
            return "the time for comparing was spent"
        if self.snapshot.spent:
            flows = [self.values[n].upstream for n in operation.outputs]
            given = [n for n in operation.inputs if self.values[n].kind != "constant"]
            if any(flow is None for flow in flows) or not operation.sent.keys() >= set(given):
                return "it was not kept, for want of memory"
        shapes = [self.values[n].shape for n in (*operation.inputs, *operation.outputs)]
        sizes = [math.prod(shape) for shape in shapes]
        work = float(max(sizes, default=0))
        if operation.name.startswith(("conv", "linear", "__matmul__", "matmul", "bmm")):
            weights = [
                self.values[n].shape for n in operation.inputs if len(self.values[n].shape) > 1
            ]
            if len(weights) > 1:
                work = math.prod(self.values[operation.outputs[0]].shape) * float(
                    math.prod(weights[1][1:])
                )
        return "it is too large to be compared within the budget" if work > _WORK else ""

    def _make_opaque(self, operation: Operation, why: str) -> None:
        self.opaque[operation.id] = why
        for output in operation.outputs:
            self.links.pop(output, None)
            array = self.values[output].array
            if array is not None:
                self.pairs[output] = array, np.abs(array)

    def _settle_within(self) -> None:
        """A differentiated backward pass may read what forward calls made, within them or as their
        result.  The formulas write those calls out, so what PyTorch sends by way of them is in
        what the formulas send to the calls' inputs: only the two together can be compared.
        """
        operations = self.snapshot.operations
        changed = True
        while changed:
            changed = False
            written_out: set[int] = set()
            for operation in operations:
                if not operation.within or operation.id in self.opaque:
                    continue
                calls = {self.values[number].call for number in operation.within}
                if calls & self.opaque.keys():
                    self._make_opaque(operation, "it goes back through a call without a formula")
                    changed = True
                else:
                    written_out.update(operation.within)
            # What a call without a formula sends within another call arrives there as it is.
            written_out -= {n for o in operations if o.id in self.opaque for n in o.sent}
            for operation in operations:
                hidden = {o for o in operation.outputs if self.values[o].hidden}
                if operation.id not in self.opaque and not hidden <= written_out:
                    self._make_opaque(operation, "a backward pass reads a part of it")
                    changed = True
        self.bent = written_out | {value.id for value in self.values if value.inside}
        self.indirect = {self.values[number].call for number in written_out} | {
            operation.id
            for operation in operations
            if operation.within and operation.id not in self.opaque
        }

    def _linked(self, operation: Operation) -> str:
        """Make the links of a call; why there are none, where it must be opaque."""
        known = [i for i in operation.inputs if i not in self.pairs]
        if known:
            return f"the value of {self.labels[known[0]]} was not kept"
        for output in operation.outputs:
            value = self.values[output]
            if value.hidden:
                continue
            try:
                assigns = operation.name == "__setitem__" and operation.view is None
                kind = Assignment if assigns else Link
                link = kind(self.snapshot, operation, output, self.labels)
                pair = link.forward(self.pairs)
                if value.array is not None and self._differ(pair, value) is not None:
                    return "its value is not the one that its record gives"
            except GradexplainError:
                return "it has no record"
            except _FAILURES:
                return "its record does not fit here"
            self.links[output] = link
            self.made[output] = pair
            # What comes after is held against PyTorch at PyTorch's own value.
            own = value.array
            self.pairs[output] = pair if own is None else (own, np.abs(own))
        return "" if operation.outputs else "nothing is known of it"

    def _differ(self, pair: Pair, value: Value) -> Difference | None:
        assert value.array is not None
        found = clean(pair)
        if found.shape != value.array.shape:
            return Difference(self.labels[value.id], ("record", "PyTorch"), (), (0, 0), 0, 1)
        tolerance = _bound(pair, found, self._unit([value.id, *self._inputs_of(value)])) * 4
        return compare.worst(
            self.labels[value.id], ("record", "PyTorch"), found, value.array, tolerance
        )

    def _inputs_of(self, value: Value) -> list[int]:
        return self.snapshot.operations[value.call].inputs if value.call >= 0 else []

    def _unit(self, ids: list[int]) -> float:
        """The unit roundoff of the coarsest of these values."""
        return max((_UNIT.get(self.values[n].dtype, 0.0) for n in ids), default=0.0) or 2.0**-24

    def _row(self, operation: Operation, output: int, opaque: str) -> TracedRow:
        link = self.links.get(output)
        site = operation.site
        text = link.expression() if link is not None else ""
        return TracedRow(
            node=self.labels[output],
            op=operation.name,
            inputs=tuple(self.labels[i] for i in operation.inputs),
            expression=text or self._call(operation),
            shape=self.values[output].shape,
            value=self._value(output),
            line=site.line if site is not None else None,
            source=site.source if site is not None else "",
            opaque=opaque,
            known=self.values[output].array is not None or output in self.pairs,
        )

    def _call(self, operation: Operation) -> str:
        """The call in the values' names, as PyTorch spells it."""
        shown = [self._shown(arg) for arg in operation.args]
        shown += [
            f"{name}={self._shown(arg)}"
            for name, arg in operation.kwargs.items()
            if not name.startswith("_") and arg is not None
        ]
        if operation.view is not None and operation.view.part is None:
            return f"part of {self.labels[operation.view.base.id]}"
        if operation.name == "__setitem__" and len(shown) == 3:
            return f"{shown[0]} with [{shown[1]}] = {shown[2]}"
        name = operation.name
        if operation.gradients:
            calls = [self._call(term.call) for terms in operation.gradients for term in terms]
            return f"what {' and '.join(dict.fromkeys(calls))} sent back"
        called = f"{name.strip('_') if name.startswith('__') else name}({', '.join(shown)})"
        if operation.view is not None:
            return f"{self.labels[operation.view.base.id]} after {called}"
        return called

    def _shown(self, arg: Any) -> str:
        if isinstance(arg, Arg):
            return self.labels[arg.id]
        if type(arg) in (list, tuple):
            inner = ", ".join(self._shown(part) for part in arg)
            return f"[{inner}]" if type(arg) is list else f"({inner})"
        if isinstance(arg, slice):
            ends = ["" if e is None else self._shown(e) for e in (arg.start, arg.stop, arg.step)]
            return ":".join(ends if ends[2] else ends[:2])
        if arg is Ellipsis:
            return "..."
        if isinstance(arg, float):
            return numbers.number(arg)
        if isinstance(arg, (int, str, bool)) or arg is None:
            return repr(arg)
        text = str(arg)
        return text if text.startswith("torch.") else type(arg).__name__

    def _value(self, number: int) -> Array:
        """A value as it is shown: PyTorch's, settled on the formula's where they agree."""
        value = self.values[number]
        pair = self.pairs.get(number)
        if value.array is None:
            return clean(pair) if pair is not None else np.full(value.shape, np.nan)
        if pair is None or number not in self.links:
            return value.array
        found = clean(self.made.get(number, pair))
        tolerance = _bound(
            self.made.get(number, pair), found, self._unit([number, *self._inputs_of(value)])
        )
        return numbers.settled(value.array, found, tolerance * 4)

    # -- backward --------------------------------------------------------------------------------

    def _backward(self) -> None:
        s = self.snapshot
        for root, v in zip(s.roots, s.v, strict=False):
            self._add(root, (v, np.abs(v)))
        uses: dict[int, int] = {}
        for operation in s.operations:
            for number in self._receivers(operation):
                uses[number] = uses.get(number, 0) + 1
        seen: dict[int, int] = {}
        for operation in reversed(s.operations):
            sent = self._sent(operation)
            for number in self._receivers(operation):
                if number not in sent:
                    continue
                self._add(number, sent[number])
                self.contributions[operation.id, number] = sent[number]
                seen[number] = seen.get(number, 0) + 1
                last = seen[number] == uses[number]
                self._step(operation, number, sent[number], uses[number], last)
                if last:
                    self._hooks(number)
        for number in s.roots:
            if self.values[number].kind == "leaf":
                self._hooks(number)

    def _receivers(self, operation: Operation) -> list[int]:
        """The inputs to which a call sends something."""
        if not operation.within or operation.id in self.opaque:
            return [number for number in operation.inputs if number in operation.sent]
        links = [self.links[o] for o in operation.outputs if o in self.links]
        return [
            number
            for number in operation.inputs
            if self.values[number].kind != "constant"
            and any(isinstance(link, Link) and link.sends_to(number) for link in links)
        ]

    def _add(self, number: int, pair: Pair) -> None:
        if number in self.upstream:
            before = self.upstream[number]
            with np.errstate(all="ignore"):
                pair = before[0] + pair[0], before[1] + pair[1]
        self.upstream[number] = pair

    def _hooks(self, number: int) -> None:
        """Where a hook replaced the gradient, go on with what it returned."""
        value = self.values[number]
        if value.upstream is None or value.arrived is None or value.hidden or value.inside:
            return
        with np.errstate(all="ignore"):
            tolerance = 64 * self._unit([number]) * np.abs(value.arrived)
        if not compare.differs(value.arrived, value.upstream, tolerance + 1e-300).any():
            return
        self.hooked.append(number)
        self.explanation.complete = False
        before, after = value.arrived, value.upstream
        self.upstream[number] = after, np.abs(after)
        self.explanation.steps.append(
            TracedStep(
                node=self.labels[number],
                op="hook",
                input=self.labels[number],
                upstream=before,
                rule="",
                contribution_rule="",
                numbers="",
                contribution=after,
                kind="hook",
            )
        )

    def _sent(self, operation: Operation) -> dict[int, Pair]:
        """What a call sends to its inputs: by its record, or as PyTorch did."""
        if operation.id in self.opaque:
            if operation.sent:
                self.explanation.complete = False
            return {number: (a, np.abs(a)) for number, a in operation.sent.items()}
        wanted = [i for i in operation.inputs if self.values[i].kind != "constant"]
        sent: dict[int, Pair] = {}
        for output in operation.outputs:
            if output not in self.upstream:
                continue
            link = self.links[output]
            for number, pair in link.backward(self._own(output), wanted).items():
                if number in sent:
                    pair = sent[number][0] + pair[0], sent[number][1] + pair[1]
                sent[number] = pair
            if isinstance(link, Assignment):
                continue
            assert link.chain is not None
            labels = [self.labels[i] for i in wanted if i in link.inputs]
            for point in singular_nodes(link.graph, link.chain, labels):
                self.at_singular.add(operation.id)
                if point not in self.singular:
                    self.singular.append(point)
        return sent

    def _own(self, number: int) -> Pair:
        """PyTorch's own gradient of a value where it is known, else what the formulas send there."""
        real = self.values[number].upstream
        if real is None or number in self.bent or self.values[number].hidden:
            return self.upstream[number]
        return real, np.abs(real)

    def _step(self, operation: Operation, number: int, pair: Pair, uses: int, last: bool) -> None:
        opaque = self.opaque.get(operation.id, "")
        rule = contribution = text = ""
        output = next((o for o in operation.outputs if o in self.upstream), operation.outputs[0])
        link = self.links.get(output)
        if link is not None and not opaque and number in link.inputs:
            try:
                rule, contribution, text = link.texts(number)
            except _FAILURES:
                rule = contribution = text = ""
        up = self.upstream.get(output)
        real = operation.sent.get(number) if operation.id not in self.indirect else None
        unit = self._unit([number, *operation.outputs])
        shown = self._settled(pair, real, unit)
        self.explanation.contributions += not opaque
        if not opaque and real is not None and real.shape == shown.shape and self.checkable:
            self.explanation.compared += 1
            self.compared.add(operation.id)
            found = clean(pair)
            routes = f"{operation.name} by its formula", "PyTorch"
            self._hold(
                self.labels[number], routes, found, real, _bound(pair, found, unit), operation
            )
        total = None
        if last and uses > 1:
            value = self.values[number]
            arrived = None if number in self.bent else value.arrived
            total = self._settled(self.upstream[number], arrived, unit)
        site = operation.site
        self.explanation.steps.append(
            TracedStep(
                node=self.labels[output],
                op=operation.name,
                input=self.labels[number],
                upstream=self._settled(
                    up, None if output in self.bent else self.values[output].upstream, unit
                ),
                rule=rule if not opaque else "",
                contribution_rule=contribution,
                numbers=text,
                contribution=shown,
                total=total,
                uses=uses,
                line=site.line if site is not None else None,
                kind="opaque" if opaque else "formula",
            )
        )

    def _settled(self, pair: Pair | None, real: Array | None, unit: float) -> Array:
        if pair is None:
            return real if real is not None else np.full((), np.nan)
        found = clean(pair)
        if real is None or real.shape != found.shape:
            return found
        # What is rounding of the dtype it was computed in, and nothing else, is 0.
        shown = compare.settled(found, pair[1], unit)
        return numbers.settled(real, shown, _bound(pair, found, unit))

    def _hold(
        self,
        name: str,
        routes: tuple[str, str],
        found: Array,
        real: Array,
        bound: Array,
        operation: Operation,
    ) -> None:
        """Hold what a call sends against what PyTorch sent, at PyTorch's own numbers."""
        difference = compare.worst(name, routes, found, real, bound)
        if difference is None:
            return
        self.differences.append(difference)
        links = [self.links[o] for o in operation.outputs if o in self.links]
        relative = sum(link.coarse() for link in links)
        if operation.id in self.at_singular or compare.by_kernel(difference, relative, self.dtype):
            self.verdicts.append("convention")
            return
        self.verdicts.append("mismatch")
        if operation.graphs:
            self.wrong[operation.id] = operation

    # -- gradients -------------------------------------------------------------------------------

    def _gradients(self) -> None:
        for entry in self.snapshot.accumulated:
            value = self.values[entry.value] if entry.value >= 0 else None
            if value is None or entry.added is None:
                continue
            label = self.labels[value.id]
            entry.name = entry.name or label
            entry.hooked = value.id in self.hooked
            pair = self.upstream.get(value.id)
            found = clean(pair) if pair is not None else np.zeros(value.shape)
            senders = [o for o in self.snapshot.operations if value.id in o.sent]
            tolerance = _bound(
                pair or (found, found), found,
                self._unit([value.id, *(n for o in senders for n in o.outputs)]),
                # .grad is rounded with what it held before
                None if entry.before is None else entry.before,
            ) * max(1, len(senders))  # fmt: skip
            differences = []
            whole = not self.snapshot.spent or all(
                value.id in o.sent for o in self.snapshot.operations if value.id in o.inputs
            )
            if self.checkable and whole and value.id not in self.hooked:
                routes = ("chain rule", "PyTorch")
                differences = compare.differences(label, [(routes, found, entry.added, tolerance)])
            verdict = fold.verdict(
                differences,
                asked=self.checkable and whole,
                singular=any(o.id in self.at_singular for o in senders),
                by_kernel=self._by_kernel,
            )
            if differences:
                self.differences += differences
                self.verdicts.append(verdict)
            if pair is not None:
                found = compare.settled(found, pair[1], self._unit([value.id]))
            entry.added = numbers.settled(entry.added, found, tolerance)
            if entry.kind == "retained":
                continue
            self.explanation.gradients[label] = Gradient(
                label, None, "", "", (), "", found, found, entry.added, tolerance, verdict
            )

    def _by_kernel(self, difference: Difference) -> bool:
        relative = sum(link.coarse() for link in self.links.values())
        return compare.by_kernel(difference, relative, self.dtype)

    def _verdict(self, differences: list[Difference]) -> str:
        return fold.verdict(
            differences,
            asked=self.checkable,
            singular=bool(self.singular),
            by_kernel=self._by_kernel,
        )

    # -- the whole in closed form ----------------------------------------------------------------

    def _whole(self) -> None:
        """J and Jᵀv of the whole chain in closed form, where that is short enough to read."""
        s = self.snapshot
        elements = sum(int(np.prod(v.shape)) for v in self.values)
        graph = None
        if (
            len(s.roots) == 1
            and self.values[s.roots[0]].kind == "result"
            and not self.opaque
            and not self.hooked
            # A formula by tables of places would be no help to a reader.
            and not any(operation.view is not None for operation in s.operations)
            and len(s.operations) <= SHORT
            and elements <= _FEW
        ):
            graph = self._graph()
        if graph is None or sum(node.op is not None for node in graph.nodes) > 4 * SHORT:
            return
        wanted = tuple(
            node.label for node in graph.leaves if node.label in self.explanation.gradients
        )
        by_label = {self.labels[v.id]: v for v in self.values}
        values = {node.label: by_label[node.label].array for node in graph.leaves}
        if not wanted or any(array is None for array in values.values()):
            return
        problem = Problem(
            graph=graph, values=values, v=s.v[0], wanted=wanted, dtype=self.dtype, check=False,  # type: ignore[arg-type]
            v_source="implicit" if s.implicit else "given",
        )  # fmt: skip
        try:
            whole = explanation_of(problem)
        except GradexplainError:
            return  # it takes too much room, say
        self.explanation.jacobian = whole.jacobian
        self.explanation.notes += [n for n in whole.notes if n.kind == "blind vector"]
        steps = worst(self.verdicts)
        coarsest = max((v.dtype for v in self.values if v.dtype in _UNIT), key=_UNIT.__getitem__)
        # What is no more than a rounding of what went in is 0 to every route.
        with np.errstate(all="ignore"):
            sizes = [np.abs(step.contribution).max(initial=0.0) for step in self.explanation.steps]
            noise = 8 * _UNIT[coarsest] * max(filter(math.isfinite, sizes), default=0.0)
        for label, closed in whole.gradients.items():
            mine = self.explanation.gradients[label]
            for name in ("formula", "text", "latex", "where", "ranges", "value"):
                setattr(mine, name, getattr(closed, name))
            if closed.verdict == "mismatch":  # closed form and chain rule, with digits to spare
                mine.verdict = "mismatch"
            elif self.checkable and mine.torch is not None and steps != "mismatch":
                # Each step is right at PyTorch's numbers: how much is left of the whole?
                scale = float(np.abs(s.v[0]).max(initial=0.0))
                digits = measure.whole(mine.torch, closed.value, coarsest, scale)
                both = np.abs([mine.torch, closed.value])
                if measure.few(digits, coarsest) and not (both <= noise).all():
                    mine.digits = digits
                    mine.verdict = worst([mine.verdict, "convention"])
        if whole.check is not None:
            self.differences += whole.check.differences

    def _graph(self) -> Graph | None:
        """All calls in one graph, with the script's names."""
        for explicit in (False, True):
            reading = Reading(self.snapshot, self.labels)
            builder = reading.applier.builder
            try:
                for operation in self.snapshot.operations:
                    made = reading.apply(operation)
                    for number in operation.outputs:
                        ref = reading.output(operation, number, made)
                        if self.values[number].names or explicit:
                            ref = builder.name(ref, self.labels[number])
                        reading.refs[number] = ref
                graph = builder.graph(reading.refs[self.snapshot.roots[0]])
                if any(operation.gradients for operation in self.snapshot.operations):
                    graph = replace(graph, nodes=tuple(map(moving, graph.nodes)))
            except GradexplainError:
                return None
            if all(graph[r.id].label == self.labels[n] for n, r in reading.refs.items()):
                return graph
        return None

    # -- verdict and notes -----------------------------------------------------------------------

    def _check(self) -> None:
        x = self.explanation
        reason = ""
        sending = [
            operation.id
            for operation in self.snapshot.operations
            if operation.sent or self.snapshot.spent
        ]
        x.unchecked = sum(number in self.opaque for number in sending)
        x.checked = len(sending) - x.unchecked
        verdicts: list[str] = []
        if self.snapshot.error is not None:
            status, reason = "skipped", "PyTorch raised an error."
        elif any(v.dtype.startswith("complex") for v in self.values):
            status, reason = (
                "cannot tell",
                "the formulas are for real numbers, and these are complex.",
            )
        elif not self.checkable:
            kinds = sorted({v.dtype for v in self.values} - _UNIT.keys())
            status, reason = "cannot tell", f"no formula here is for {', '.join(kinds)}."
        elif x.unchecked and not x.checked:
            status, reason = "cannot tell", "no operation of this chain has a formula."
        else:
            status = worst(self.verdicts)
            verdicts = [g.verdict for g in x.gradients.values()]
            if x.unchecked and worst([status, *verdicts]) != "mismatch":
                status, verdicts = "cannot tell", []
                of = x.checked + x.unchecked
                reason = f"{x.checked} of {of} operations were compared, and they agree."
            elif any(g.digits is not None for g in x.gradients.values()):
                reason = "PyTorch's arithmetic runs out: every step is right at its numbers, the whole is not"
        bounds = [g.tolerance for g in x.gradients.values()]
        x.check = fold.check(
            status, verdicts, self.dtype, bounds, self.differences[:8], reason, self._by_kernel
        )

    def _notes(self) -> None:
        x, s = self.explanation, self.snapshot
        notes = [Note(kind, text) for kind, text in s.notes]
        seen = set()
        for point in self.singular:
            op = point.node.op
            if op.kink and op.name not in seen:
                seen.add(op.name)
                place = f"[{','.join(map(str, point.index))}]" if point.index else ""
                more = f" and {point.count - 1} more" if point.count > 1 else ""
                where = f"{point.node.label}{place}{more}"
                notes.append(
                    Note(
                        "kink",
                        f"{op.name} has no derivative at {where}: {op.kink}.",
                        {"node": point.node.label, "count": point.count},
                    )
                )
        notes += self._infinities()
        made = [o for o in s.operations if o.gradients and o.id not in self.opaque]
        if made:
            names = [self.labels[o.outputs[0]] for o in made if o.outputs]
            verb = "is a gradient" if len(names) == 1 else "are gradients"
            indirect = [name for name, o in zip(names, made, strict=False) if o.within]
            text = (
                f"{', '.join(names)} {verb} of an earlier backward pass with create_graph=True: what "
                "it did is on the record like any other operation, and differentiated here."
            )
            if indirect:
                text += (
                    f" In {', '.join(indirect)} PyTorch reads results that the forward calls had "
                    "saved; the formulas have those written out, so the two are compared where "
                    "both ways have come together."
                )
            notes.append(Note("create_graph", text, {"nodes": names}))
        for operation in self.wrong.values():
            function = operation.name.removesuffix(".apply")
            file = f"{s.site.file}:{function}" if s.site is not None else function
            notes.append(
                Note(
                    "wrong backward",
                    f"The backward of {function} is not the derivative of its forward: gradexplain "
                    f"check {file} says what is wrong with it. A backward that is meant to differ "
                    "(a straight-through estimator, a reversed gradient) has no derivative to be "
                    "held against.",
                    {"node": self.labels[operation.outputs[0]], "function": function},
                )
            )
        for operation in s.operations:
            why = self.opaque.get(operation.id)
            if why and operation.sent and operation.outputs:
                name = self.labels[operation.outputs[0]]
                advice = ""
                if operation.name.endswith(".apply") and s.site is not None:
                    function = operation.name.removesuffix(".apply")
                    advice = f" gradexplain check {s.site.file}:{function} checks its backward."
                notes.append(
                    Note(
                        "opaque",
                        f"{name} = {self._call(operation)}: {why}; what it sends back is PyTorch's "
                        f"own local result.{advice}",
                        {"node": name, "function": operation.name, "why": why},
                    )
                )
        for number in self.hooked:
            name = self.labels[number]
            notes.append(
                Note(
                    "hook",
                    f"A hook on {name} replaced the gradient that arrived there.",
                    {"node": name},
                )
            )
        again = [e for e in s.accumulated if e.before is not None and e.kind == "leaf"]
        if again and any(e.before is not None and e.before.any() for e in again):
            names = [e.name for e in again]
            shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
            notes.append(
                Note(
                    "accumulated",
                    f"{shown} held a gradient from before: backward adds to .grad, it does not "
                    "replace it. zero_grad() (or .grad = None) between the calls starts anew.",
                    {"inputs": names},
                )
            )
        x.notes = notes + x.notes

    def _infinities(self) -> list[Note]:
        gradients = self.explanation.gradients.values()
        ends = [self.explanation.output.value, *(gradient.torch for gradient in gradients)]
        if all(array is None or np.isfinite(array).all() for array in ends):
            return []  # the -inf of a mask, say
        rows: list[TracedRow] = self.explanation.forward  # type: ignore[assignment]
        for row in rows:
            if not row.known or np.isfinite(row.value).all():
                continue
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(row.value))[0])
            place = f"[{','.join(map(str, index))}]" if index else ""
            word = numbers.number(float(row.value[index]))
            return [
                Note(
                    "infinity",
                    f"{row.node}{place} is {word}: it first arises in {row.node} = {row.expression}"
                    + (f" (line {row.line})." if row.line else "."),
                    {"node": row.node, "index": list(index)},
                )
            ]
        for step in self.explanation.steps:
            if np.isfinite(step.contribution).all() or not np.isfinite(step.upstream).all():
                continue
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(step.contribution))[0])
            word = numbers.number(float(step.contribution[index]))
            return [
                Note(
                    "infinity",
                    f"The gradient becomes {word} on the way from {step.node} to {step.input}.",
                    {"node": step.node, "index": list(index)},
                )
            ]
        return []


def _known(value: Value) -> Array:
    return value.array if value.array is not None else np.full(value.shape, np.nan)


def labels_of(snapshot: Snapshot) -> dict[int, str]:
    """A name for each value, each once: the script's, versions told apart, or t1, t2, …"""
    versions: dict[str, list[int]] = {}
    for value in snapshot.values:
        if value.names:
            versions.setdefault(value.names[0], []).append(value.id)
    labels: dict[int, str] = {}
    for name, ids in versions.items():
        for place, number in enumerate(ids):
            if len(ids) <= _PRIMES:
                labels[number] = name + "′" * place
            else:
                labels[number] = f"{name}@{place + 1}"
    taken = set(labels.values())
    for prefix, kind in (("t", "result"), ("c", "constant"), ("p", "leaf")):
        count = 0
        for value in snapshot.values:
            if value.id in labels or value.kind != kind:
                continue
            if value.hidden:
                inside = snapshot.operations[value.call].outputs[0]
                labels[value.id] = f"part of {labels.get(inside, 'a call')}"
                continue
            if is_literal(value):
                assert value.array is not None
                labels[value.id] = numbers.number(float(value.array))
                continue
            count += 1
            while f"{prefix}{count}" in taken:
                count += 1
            labels[value.id] = f"{prefix}{count}"
    for operation in snapshot.operations:
        view = operation.view
        if view is not None and view.part is not None:
            labels[view.part] = f"part of {labels[view.base.id]}"
    return labels
