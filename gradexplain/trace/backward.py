"""The chain rule through the recorded calls, each step held against what PyTorch sent."""

from __future__ import annotations

import numpy as np

from gradexplain import numbers
from gradexplain.explanation import (
    Array,
    Difference,
    Gradient,
)
from gradexplain.plan.arrays import Pair
from gradexplain.routes.singular import singular_nodes
from gradexplain.trace.call import TracedStep
from gradexplain.trace.forward import FAILURES, Forward, allowed
from gradexplain.trace.links import Assignment, Link, clean
from gradexplain.trace.snapshot import Operation
from gradexplain.verdict import compare, fold


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
            except FAILURES:
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
                self.labels[number], routes, found, real, allowed(pair, found, unit), operation
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
        return numbers.settled(real, shown, allowed(pair, found, unit))

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
        if self._overflows(found, real, bound):
            self.overflowed = True
            self.verdicts.append("convention")
            return
        if operation.id in self.at_singular or compare.by_kernel(difference, relative, self.dtype):
            self.verdicts.append("convention")
            return
        self.verdicts.append("mismatch")
        if operation.graphs:
            self.wrong[operation.id] = operation

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
            tolerance = allowed(
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
                singular=any(o.id in self.at_singular for o in senders)
                or self._overflows(found, entry.added, tolerance),
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

    def _overflows(self, found: Array, real: Array, bound: Array) -> bool:
        """Whether the two differ only where the exact number is too large for the dtype."""
        wrong = compare.differs(found, real, bound)
        too_large = (np.abs(found) > compare.FORMATS[self.dtype].largest) & ~np.isfinite(real)
        return bool(wrong.any() and not (wrong & ~too_large).any())

    def _by_kernel(self, difference: Difference) -> bool:
        relative = sum(link.coarse() for link in self.links.values())
        return compare.by_kernel(difference, relative, self.dtype)
