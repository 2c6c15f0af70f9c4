"""The chain rule through the recorded calls, each step held against what PyTorch sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradexplain.arithmetic import mp
from gradexplain.explanation import (
    Array,
    Difference,
    Gradient,
)
from gradexplain.plan.arrays import Pair
from gradexplain.routes.chain import DIGITS
from gradexplain.routes.held import JudgedStep, Local, hold, hold_sum
from gradexplain.routes.singular import singular_nodes
from gradexplain.trace.call import TracedStep
from gradexplain.trace.forward import FAILURES, Forward
from gradexplain.trace.links import clean
from gradexplain.trace.snapshot import Accumulated, Operation
from gradexplain.verdict import compare
from gradexplain.verdict.status import worst

#: What a Function may consist of that returns what it is given, and what has derivative 0.
_PASSING = {"positive", "reshape", "clone"}
STEPS = {"round", "floor", "ceil", "trunc", "sign", "sgn", "heaviside", "fix", "floor_divide"}


def _is_meant(operation: Operation, pair: Pair, real: Array) -> bool:
    """Whether a custom Function is there for its backward: its forward is constant between its steps,
    or the identity, and the gradient is reversed."""
    made = (node.op for graph in operation.graphs.values() for node in graph.nodes)
    ops = [op for op in made if op is not None]
    if any(op.name in STEPS or op.family == "comparison" for op in ops):
        return not np.any(pair[0])
    return is_identity(operation) and bool((real * pair[0] <= 0).all())


def is_identity(operation: Operation) -> bool:
    """Whether a custom Function returns what it is given."""
    made = (node.op for graph in operation.graphs.values() for node in graph.nodes)
    return bool(operation.graphs) and all(op is None or op.name in _PASSING for op in made)


class Backward(Forward):
    """What each call sends to its inputs, at PyTorch's own inputs and upstream gradient."""

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
            and any(link.sends_to(number) for link in links)
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
            unit = compare.FORMATS[self._dtype([number])].unit
            tolerance = 64 * unit * np.abs(value.arrived)
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
            labels = [self.labels[i] for i in wanted if i in link.inputs]
            for point in singular_nodes(link.graph, link.chain, labels):
                whole = point.node.id == link.graph.output and link.pointwise
                mask = self.at_singular.get(operation.id, False)
                self.at_singular[operation.id] = mask | (point.mask if whole else np.True_)
                if point not in self.singular:
                    self.singular.append(point)
        for number in operation.sent if operation.graphs else ():  # its forward has no slope there
            zero = np.zeros(self.values[number].shape)
            sent.setdefault(number, (zero, zero))
        return sent

    def _own(self, number: int) -> Pair:
        """PyTorch's own gradient of a value where it is known, else what the formulas send there."""
        real = self.values[number].upstream
        if real is None or number in self.bent or self.values[number].hidden:
            return self.upstream[number]
        return compare.given(real, self._dtype([number]))

    def _step(self, operation: Operation, number: int, pair: Pair, uses: int, last: bool) -> None:
        opaque = self.opaque.get(operation.id, "")
        rule = contribution = text = ""
        output = next((o for o in operation.outputs if o in self.upstream), operation.outputs[0])
        link = self.links.get(output)
        if link is not None and not opaque and number in link.inputs:
            try:
                rule, contribution, text = link.texts(number)
            except FAILURES:
                rule = contribution = text = ""
        up = self.upstream.get(output)
        real = operation.sent.get(number) if operation.id not in self.indirect else None
        dtype = self._dtype([number, *operation.outputs])
        self.explanation.contributions += not opaque
        judged = None
        if not opaque and real is not None and real.shape == np.shape(pair[0]) and self.checkable:
            self.explanation.compared += 1
            judged = self._held(operation, number, pair, real, dtype)
        total = None
        if last and uses > 1:
            arrived = None if number in self.bent else self.values[number].arrived
            total = self._as_shown(self.upstream[number], arrived, dtype)
        site = operation.site
        self.explanation.steps.append(
            TracedStep(
                node=self.labels[output],
                op=operation.name,
                input=self.labels[number],
                upstream=self._as_shown(
                    up, None if output in self.bent else self.values[output].upstream, dtype
                ),
                rule=rule if not opaque else "",
                contribution_rule=contribution,
                numbers=text,
                contribution=self._as_shown(pair, real, dtype),
                total=total,
                uses=uses,
                **({} if judged is None else judged.numbers()),
                line=site.line if site is not None else None,
                kind="opaque" if opaque else "formula",
            )
        )

    def _as_shown(self, pair: Pair | None, real: Array | None, dtype: str) -> Array:
        """PyTorch's numbers where they are known; those of the formulas, what is rounding of the dtype
        and nothing else as 0."""
        if real is not None and (pair is None or real.shape == np.shape(pair[0])):
            return real
        if pair is None:
            return np.full((), np.nan)
        return compare.settled(clean(pair), pair[1], compare.FORMATS[dtype].unit)

    def _held(
        self, operation: Operation, number: int, pair: Pair, real: Array, dtype: str
    ) -> JudgedStep:
        """What a call sends held against what PyTorch sent, at PyTorch's own numbers."""
        outputs = [o for o in operation.outputs if o in self.upstream and o in self.links]
        links = {o: self.links[o] for o in outputs}

        def exactly(move: compare.Move) -> Pair:
            arrays = {n: p[0] for n, p in self.pairs.items()}
            floats = (n for n in arrays if self.values[n].dtype in compare.FORMATS)
            arrays |= {n: move(arrays[n]) for n in floats}
            parts = [
                link.exactly(arrays, move(self._own(o)[0]), number)
                for o, link in links.items()
                if number in link.inputs
            ]
            return sum(part[0] for part in parts), sum(part[1] for part in parts)

        arrays = {f"value {n}": self.pairs[n][0] for n in operation.inputs if n in self.pairs}
        local = Local(
            (operation.name, self.labels[number]),
            real,
            [self._own(o)[0] for o in outputs],
            arrays,
            [self.pairs[o][0] for o in outputs],
            pointwise=all(link.pointwise for link in links.values()),
            singular=self.at_singular.get(operation.id),
            coarse=sum(link.coarse() for link in links.values()),
            kernel=lambda _: None,  # its terms are in the pair's size already
            exactly=exactly,
            parts=None,
            contributions=[c for link in links.values() for c in link.chain.contributions],
        )
        with mp.workdps(DIGITS):
            found = hold(local, lambda: pair, dtype)
        if found.verdict == "mismatch" and _is_meant(operation, pair, real):
            found = replace(found, verdict="convention", difference=None)
            self.meant[operation.id] = operation
        self.judged[operation.id, number] = found
        if found.difference is not None:
            self.differences.append(found.difference)
        if found.verdict == "mismatch" and operation.graphs:
            self.wrong[operation.id] = operation
        return found

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
            dtype = self._dtype([value.id, *(n for o in senders for n in o.outputs)])
            whole = not self.snapshot.spent or all(
                value.id in o.sent for o in self.snapshot.operations if value.id in o.inputs
            )
            verdict, tolerance, margin = "skipped", np.zeros(value.shape), None
            added = entry.added
            if self.checkable and whole and value.id not in self.hooked:
                made = self._arrived(entry, pair or (found, found), senders, dtype)
                steps = (self.judged.get((o.id, value.id)) for o in senders)
                verdict = worst([made.verdict, *(step.verdict for step in steps if step)])
                tolerance, margin = made.bound, made.margin
                if made.difference is not None:
                    self.differences.append(made.difference)
            if pair is not None:
                found = self._as_shown(pair, None, dtype)
            if entry.kind == "retained":
                continue
            self.explanation.gradients[label] = Gradient(
                label, None, "", "", (), "", found, found, added, tolerance, verdict, margin=margin
            )

    def _arrived(
        self, entry: Accumulated, pair: Pair, senders: Sequence[Operation], dtype: str
    ) -> JudgedStep:
        """What was added to a ``.grad`` against the sum of what was sent, or of the formulas'."""
        assert entry.added is not None
        beside = 0.0 if entry.before is None else entry.before
        parts = [self.judged.get((o.id, entry.value)) for o in senders]
        known = [part for part in parts if part is not None]
        if known and len(known) == len(parts):
            return hold_sum(entry.name, known, entry.added, dtype, beside)
        found, upstream = clean(pair), np.concatenate([np.ravel(v) for v in self.snapshot.v])
        bound = compare.local_bound(pair[1] + np.abs(beside), found, upstream, dtype)
        scale = float(np.abs(upstream).max(initial=0.0))
        routes = "chain rule", "PyTorch"
        made = compare.judge(entry.name, routes, found, entry.added, bound, dtype, scale)
        return JudgedStep(made.verdict, entry.added, found, bound, made.margin, made.difference)

    def _by_kernel(self, difference: Difference) -> bool:
        relative = sum(link.coarse() for link in self.links.values())
        return compare.by_kernel(difference, relative, self.dtype)
