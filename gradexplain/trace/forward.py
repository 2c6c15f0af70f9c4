"""The recorded calls of one ``backward`` by their records: what each computed, at PyTorch's values."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradexplain import numbers
from gradexplain.errors import GradexplainError, first_line
from gradexplain.explanation import (
    Array,
    Difference,
    Input,
    Output,
    Upstream,
)
from gradexplain.plan.arrays import Pair
from gradexplain.problem import loss_text
from gradexplain.routes.held import JudgedStep
from gradexplain.trace.call import Root, TracedCall, TracedRow, known_or_nan, labels_of
from gradexplain.trace.links import Link, clean, is_literal
from gradexplain.trace.snapshot import Arg, Operation, Snapshot, Value
from gradexplain.verdict import compare

#: What a formula may fail with on a call that it was not made for; the call is then opaque.
FAILURES = (
    ArithmeticError, ValueError, TypeError, KeyError, IndexError, StopIteration, AttributeError,
    NotImplementedError, RecursionError, AssertionError,
)  # fmt: skip


#: An operation of more products than this is not worked out by its formula.
_WORK = 1e8


class Forward:
    """The values of a snapshot, and a link to its record for each call that has one."""

    def __init__(self, snapshot: Snapshot, until: float = math.inf) -> None:
        self.snapshot = snapshot
        self.until = until
        self.values = snapshot.values
        #: What goes into an operation, or is differentiated.
        self.read = {*snapshot.roots, *(n for o in snapshot.operations for n in o.inputs)}
        self.labels = labels_of(snapshot)
        self.links: dict[int, Link] = {}  # by output
        self.pairs: dict[int, Pair] = {}
        #: What the records make of PyTorch's own inputs.
        self.upstream: dict[int, Pair] = {}
        self.contributions: dict[tuple[int, int], Pair] = {}
        #: Contributions held against PyTorch's, by operation and value.
        self.judged: dict[tuple[int, int], JudgedStep] = {}
        self.differences: list[Difference] = []
        self.singular: list[Any] = []
        self.hooked: list[int] = []
        self.opaque: dict[int, str] = {}
        #: Custom Functions whose backward is not the derivative of their forward.
        self.wrong: dict[int, Operation] = {}
        #: An element of a gradient that has few right digits, in words.
        self.few = ""
        #: Those whose backward is meant to be another than the derivative.
        self.meant: dict[int, Operation] = {}
        #: Values that a backward pass reads within the calls it goes back through, and the calls
        #: between which PyTorch sends by way of them.
        self.bent: set[int] = set()
        self.indirect: set[int] = set()
        floats = {v.dtype for v in self.values if v.dtype.startswith(("float", "bfloat", "half"))}
        self.dtype = "float64" if floats == {"float64"} else "float32"
        self.checkable = floats <= compare.FORMATS.keys()
        #: Operations at a singular point of theirs, and where in their result.
        self.at_singular: dict[int, Any] = {}
        self.explanation = self._begun()

    def _begun(self) -> TracedCall:
        s = self.snapshot
        site = s.site
        leaves = {
            self.labels[v.id]: Input(
                self.labels[v.id], v.shape, known_or_nan(v), given=True, wanted=v.kind == "leaf"
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
        texts = [loss_text(r.v, r.name, loss, v_name).partition(" = ")[2] for r in roots]
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
            fault=s.fault,
        )  # fmt: skip

    def _forward(self) -> None:
        for value in self.values:
            if value.kind != "result" and value.array is not None:
                self.pairs[value.id] = compare.given(value.array, self._dtype([value.id]))
        for operation in self.snapshot.operations:
            opaque = operation.opaque or self._spent(operation) or self._linked(operation)
            if opaque:
                self._make_opaque(operation, opaque)
        for operation in self.snapshot.operations if self.links else ():
            read = {n for o in operation.outputs if o in self.links for n in self.links[o].inputs}
            operation.inputs += sorted(read.intersection(operation.within) - {*operation.inputs})
            operation.within = tuple(n for n in operation.within if n not in read)
        self._settle_within()
        for operation in self.snapshot.operations:
            opaque = self.opaque.get(operation.id, "")
            for output in operation.outputs:
                if not self.values[output].hidden:
                    self.explanation.forward.append(self._row(operation, output, opaque))
        for i, _ in zip(self.snapshot.roots[:1], self.explanation.roots, strict=False):
            self.explanation.output.value = self._value(i)

    def _spent(self, operation: Operation) -> str:
        """Why an operation is not worked out: the budget."""
        if time.thread_time() > self.until:
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
                self.pairs[output] = compare.given(array, self._dtype([output]))

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
            why = "" if self.values[output].hidden else self._link(operation, output)
            # Of what nobody reads no gradient comes: the vectors beside eigenvalues.
            if why and (output in self.read or len(operation.outputs) == 1):
                return why
        return "" if operation.outputs else "nothing is known of it"

    def _link(self, operation: Operation, output: int) -> str:
        """Make the link of one output; why there is none."""
        value = self.values[output]
        try:
            link = Link(self.snapshot, operation, output, self.labels)
            pair = link.forward(self.pairs)
            if value.array is not None and self._differ(pair, value) is not None:
                return "its value is not the one that its record gives"
        except GradexplainError as error:
            return first_line(error)
        except FAILURES:
            return "its record does not fit here"
        self.links[output] = link
        # What comes after is held against PyTorch at PyTorch's own value.
        self.pairs[output] = pair
        if value.array is not None:
            self.pairs[output] = compare.given(value.array, self._dtype([value.id]))
            link.at_own_result(self.pairs[output])
        return ""

    def _differ(self, pair: Pair, value: Value) -> Difference | None:
        assert value.array is not None
        found = clean(pair)
        if found.shape != value.array.shape:
            return Difference(self.labels[value.id], ("record", "PyTorch"), (), (0, 0), 0, 1)
        bound = self._bound(pair, value)
        return compare.worst(
            self.labels[value.id], ("record", "PyTorch"), found, value.array, bound
        )

    def _inputs_of(self, value: Value) -> list[int]:
        return self.snapshot.operations[value.call].inputs if value.call >= 0 else []

    def _dtype(self, ids: Sequence[int]) -> str:
        """The coarsest dtype of these values."""
        found = [self.values[n].dtype for n in ids if self.values[n].dtype in compare.FORMATS]
        return max(found, key=lambda name: compare.FORMATS[name].unit, default="float32")

    def _bound(self, pair: Pair, value: Value) -> Array:
        """How far the roundings of the call that made a value may take it from its formula."""
        inputs = self._inputs_of(value)
        given = [np.ravel(self.pairs[n][0]) for n in inputs if n in self.pairs]
        arriving = np.concatenate(given) if given else np.zeros(0)
        return compare.local_bound(pair[1], clean(pair), arriving, self._dtype([value.id, *inputs]))

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
        """A value as it is shown: PyTorch's, where it was kept."""
        value, pair = self.values[number], self.pairs.get(number)
        if value.array is not None:
            return value.array
        return clean(pair) if pair is not None else np.full(value.shape, np.nan)
