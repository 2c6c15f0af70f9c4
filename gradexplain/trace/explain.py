"""From a snapshot to its explanation: names, formulas, the three routes held against each other.

The chain rule is carried through the recorded calls in float64 with the records' formulas, from
the values of the leaves; PyTorch's own numbers, caught on their way, are compared with it at every
step.  Where an operation has no record its part is PyTorch's own, marked so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from gradexplain.adjoint import moving
from gradexplain.errors import GradexplainError
from gradexplain.explaining.engine import stages_of
from gradexplain.explaining.notes import kink
from gradexplain.explaining.running import Run
from gradexplain.explanation import Check, Note
from gradexplain.graph import Graph
from gradexplain.problem import Problem
from gradexplain.trace.backward import Backward
from gradexplain.trace.call import TracedCall
from gradexplain.trace.links import Reading
from gradexplain.trace.snapshot import Operation, Snapshot
from gradexplain.verdict import compare, fold
from gradexplain.verdict.status import worst

#: The closed form of the whole is given for chains of at most so many operations and elements.
SHORT, _FEW = 12, 2_000

#: What is said of a custom Function whose backward is not the derivative of its forward.
_WRONG = (
    "The backward of {function} is not the derivative of its forward: gradexplain check {file} says what "
    "is wrong with it."
)
_OWN = "the backward of a custom Function is meant to be another than the derivative"
_MEANT = (
    "The forward of {function} is constant between steps, or returns its input: its backward is meant to "
    "be another than the derivative (a straight-through estimator, a reversed gradient), and is held "
    "against nothing."
)


def explained(snapshot: Snapshot, until: float = math.inf) -> TracedCall:
    """The explanation of one captured call; formulas are evaluated ``until`` that time."""
    return _Explainer(snapshot, until).explained()


def unexplained(snapshot: Snapshot, why: str) -> TracedCall:
    """A call of which nothing can be said but what failed."""
    blank = Snapshot(snapshot.index, snapshot.function, snapshot.site, fault=snapshot.fault)
    call = _Explainer(blank).explained()
    call.check = Check("cannot tell", call.dtype, None, [], f"it could not be explained: {why}.")
    return call


class _Explainer(Backward):
    """From a snapshot to what is said of it."""

    def explained(self) -> TracedCall:
        x = self.explanation
        if self.snapshot.operations or self.snapshot.roots:
            self._forward()
            if self.snapshot.fault is None:
                self._backward()
                self._gradients()
                self._whole()
            self._check()
        self._notes()
        return x

    def _whole(self) -> None:
        """J and Jᵀv of the whole chain in closed form, where that is short enough to read."""
        x, s = self.explanation, self.snapshot
        graph = self._graph() if self._is_short() else None
        if graph is None or sum(node.op is not None for node in graph.nodes) > 4 * SHORT:
            return
        wanted = tuple(node.label for node in graph.leaves if node.label in x.gradients)
        by_label = {self.labels[v.id]: v for v in self.values}
        values = {node.label: by_label[node.label].array for node in graph.leaves}
        if not wanted or any(array is None for array in values.values()):
            return
        problem = Problem(
            graph=graph, values=values, v=s.v[0], wanted=wanted, dtype=self.dtype, check=False,  # type: ignore[arg-type]
            v_source="implicit" if s.implicit else "given",
        )  # fmt: skip
        try:
            run = Run(problem)
            *_, (_, whole) = stages_of(run)
        except GradexplainError:
            return  # it takes too much room, say
        if self.singular and any(
            (~np.isfinite(g.value) & np.isfinite(x.gradients[n].value)).any()
            for n, g in whole.gradients.items()
        ):
            return  # it multiplies what is infinite by 0 where the chain rule passes by
        x.jacobian = whole.jacobian
        x.notes += [n for n in whole.notes if n.kind == "blind vector"]
        for label, closed in whole.gradients.items():
            mine = x.gradients[label]
            for name in ("formula", "text", "latex", "where", "ranges", "value"):
                setattr(mine, name, getattr(closed, name))
            if closed.verdict == "mismatch":  # closed form and chain rule, with digits to spare
                mine.verdict = "mismatch"
        self._digits_left(run)
        if whole.check is not None:
            self.differences += whole.check.differences

    def _is_short(self) -> bool:
        """Whether a formula of the whole would be a help to a reader: one of tables of places is not."""
        s = self.snapshot
        return (
            len(s.roots) == 1
            and self.values[s.roots[0]].kind == "result"
            and not (self.opaque or self.meant or self.hooked)
            and not any(o.view is not None or o.name == "__setitem__" for o in s.operations)
            and len(s.operations) <= SHORT
            and sum(int(np.prod(v.shape)) for v in self.values) <= _FEW
        )

    def _digits_left(self, run: Run) -> None:
        """Where each step is right at PyTorch's numbers: how much is left of the whole?"""
        if not self.checkable or "mismatch" in {step.verdict for step in self.judged.values()}:
            return
        coarsest = self._dtype([value.id for value in self.values])
        right = replace(run.judging.right, dtype=coarsest)
        for leaf in run.leaves:
            mine = self.explanation.gradients.get(leaf.label)
            if mine is None or mine.torch is None or mine.verdict == "mismatch":
                continue
            mine.digits, few = right.worst(leaf, mine.torch)
            self.few = self.few or few
            if few:
                mine.verdict = worst([mine.verdict, "convention"])

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

    def _check(self) -> None:
        x = self.explanation
        sending = [o.id for o in self.snapshot.operations if o.sent or self.snapshot.spent]
        x.unchecked = sum(number in self.opaque for number in sending)
        x.checked = len(sending) - x.unchecked
        status = worst(step.verdict for step in self.judged.values())
        verdicts = [g.verdict for g in x.gradients.values()]
        whole = worst([status, *verdicts])
        reason = self._not_compared(whole)
        if self.snapshot.fault is not None:
            status, verdicts, reason = "skipped", [], "PyTorch raised an error."
        elif reason:
            status, verdicts = "cannot tell", []
        elif self.meant:
            reason = _OWN
        else:
            left = {id for (id, _), step in self.judged.items() if step.verdict == "cannot tell"}
            whys = {step.why for step in self.judged.values()}
            reason = fold.reason(whole, whys, x.checked - len(left), x.checked, self.few)
        bounds = [g.tolerance for g in x.gradients.values()]
        x.check = fold.check(
            status, verdicts, self.dtype, bounds, self.differences[:8], reason, self._by_kernel
        )

    def _not_compared(self, whole: str) -> str:
        """Why there is no verdict on the whole call, where something of it was held against nothing."""
        x = self.explanation
        if any(v.dtype.startswith("complex") for v in self.values):
            return "the formulas are for real numbers, and these are complex."
        if not self.checkable:
            kinds = sorted({v.dtype for v in self.values} - compare.FORMATS.keys())
            return f"no formula here is for {', '.join(kinds)}."
        if x.unchecked and not x.checked:
            return "no operation of this chain has a formula."
        if x.unchecked and whole != "mismatch":
            of = x.checked + x.unchecked
            return f"{x.checked} of {of} operations were compared, and they agree."
        return ""

    def _notes(self) -> None:
        x, s = self.explanation, self.snapshot
        first = {point.node.op.name: point for point in reversed(self.singular)}
        x.notes = [
            *(Note(kind, text) for kind, text in s.notes),
            *(kink(p) for p in self.singular if p is first[p.node.op.name] and p.node.op.kink),
            *self._of_gradients(),
            *self._of_functions(),
            *self._of_opaque(),
            *self._of_ends(),
            *x.notes,
        ]

    def _of_gradients(self) -> Iterator[Note]:
        made = [o for o in self.snapshot.operations if o.gradients and o.id not in self.opaque]
        if not made:
            return
        names = [self.labels[o.outputs[0]] for o in made if o.outputs]
        verb = "is a gradient" if len(names) == 1 else "are gradients"
        text = (
            f"{', '.join(names)} {verb} of an earlier backward pass with create_graph=True: what "
            "it did is on the record like any other operation, and differentiated here."
        )
        yield Note("create_graph", text, {"nodes": names})

    def _of_functions(self) -> Iterator[Note]:
        """What is said of the script's own backwards that are not the derivative of their forward."""
        for kind, text, found in (
            ("wrong backward", _WRONG, self.wrong), ("own backward", _MEANT, self.meant),
        ):  # fmt: skip
            for operation in found.values():
                function, file = self._function(operation)
                node = self.labels[operation.outputs[0]]
                said = text.format(function=function, file=file)
                yield Note(kind, said, {"node": node, "function": function})

    def _function(self, operation: Operation) -> tuple[str, str]:
        """A Function of the script, and what ``gradexplain check`` takes for it."""
        function, site = operation.name.removesuffix(".apply"), self.snapshot.site
        return function, function if site is None else f"{site.file}:{function}"

    def _of_opaque(self) -> Iterator[Note]:
        for operation in self.snapshot.operations:
            why = self.opaque.get(operation.id)
            if not (why and operation.sent and operation.outputs):
                continue
            name = self.labels[operation.outputs[0]]
            text = (
                f"{name} = {self._call(operation)}: {why}; what it sends back is PyTorch's own "
                "local result."
            )
            if operation.name.endswith(".apply") and self.snapshot.site is not None:
                text += f" gradexplain check {self._function(operation)[1]} checks its backward."
            yield Note("opaque", text, {"node": name, "function": operation.name, "why": why})

    def _of_ends(self) -> Iterator[Note]:
        """Hooks, and gradients that were there before."""
        for number in self.hooked:
            name = self.labels[number]
            text = f"A hook on {name} replaced the gradient that arrived there."
            yield Note("hook", text, {"node": name})
        leaves = [e for e in self.snapshot.accumulated if e.kind == "leaf"]
        names = [e.name for e in leaves if e.before is not None]
        if any(e.before is not None and e.before.any() for e in leaves):
            shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
            text = (
                f"{shown} held a gradient from before: backward adds to .grad, it does not replace "
                "it. zero_grad() (or .grad = None) between the calls starts anew."
            )
            yield Note("accumulated", text, {"inputs": names})
