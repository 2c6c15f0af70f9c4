"""Each step of PyTorch's backward pass by itself: at PyTorch's own inputs and own upstream gradient.

What an operation sends back is computed by its record from the numbers that PyTorch had there, so no
rounding of an earlier step is in it, and the bound is that of one operation.  What arrives at a value
is held against the sum of what was sent to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, reduce
from typing import Any

import numpy as np

from gradexplain.adjoint import Contribution, sends
from gradexplain.explanation import Array, Difference
from gradexplain.formula.kit import decimals
from gradexplain.graph import Graph, Node, Ref
from gradexplain.plan.arrays import Pair, Relative, added, to_exact, to_float
from gradexplain.plan.blocks import LARGE
from gradexplain.routes.chain import ChainRule
from gradexplain.routes.double import Pass
from gradexplain.routes.held import JudgedStep, Local, hold, hold_sum
from gradexplain.routes.pytorch import Steps
from gradexplain.routes.singular import Marked, singular_nodes
from gradexplain.verdict import compare
from gradexplain.verdict.status import worst


@dataclass
class JudgedSteps:
    """Every contribution by ``(node, source)``, and every sum of several by the value's id."""

    steps: dict[tuple[int, int], JudgedStep] = field(default_factory=dict)
    sums: dict[int, JudgedStep] = field(default_factory=dict)
    #: Operations whose backward was compared, and all of those on the way.
    compared: int = 0
    operations: int = 0

    @cached_property
    def on_the_way(self) -> dict[int, str]:
        """The verdict on the steps that the gradient of a value is made of, by the value's id."""
        found = {id: step.verdict for id, step in self.sums.items()}
        for id, source in sorted(self.steps, reverse=True):  # from the output on
            verdicts = found.get(id, "agree"), found.get(source, "agree")
            found[source] = worst([*verdicts, self.steps[id, source].verdict])
        return found

    def every(self) -> list[JudgedStep]:
        return [*self.steps.values(), *self.sums.values()]

    def differences(self) -> list[Difference]:
        return [step.difference for step in self.every() if step.difference is not None]


class AtPyTorch(ChainRule):
    """The records' rules at PyTorch's own values."""

    def __init__(
        self, graph: Graph, steps: Steps, dtype: str, *, exact: bool = False,
        move: compare.Move = compare.still,
    ) -> None:  # fmt: skip
        self.graph = graph
        #: The same with digits to spare, at numbers moved so.
        self.exactly = cache(lambda move: AtPyTorch(graph, steps, dtype, exact=True, move=move))
        self._dtype = dtype
        self.exact = exact
        self.forward: dict[int, Pair] = {}
        self.contributions = []
        self._decimals = decimals(graph) if exact else frozenset()
        aside = graph.parts()
        needed = graph.needed()
        for node in graph.nodes:
            kept = steps.forward.get(node.id)
            if kept is not None and not (node.id in aside and node.id in needed):
                self.forward[node.id] = self._given(kept if node.integer else move(kept))
            elif node.is_literal:
                self.forward[node.id] = self._pair(node.value)
            elif node.op is not None and node.id in needed:
                self.forward[node.id] = self._part(node, kept)
        self.upstream = {
            id: self._given(move(array))
            for id, array in steps.upstream.items()
            if graph[id].op is not None
        }
        self._steps = steps

    def _given(self, array: Array) -> Pair:
        if not self.exact and array.size >= LARGE and not compare.is_coarse(self._dtype):
            return array, Relative(array)
        value, size = compare.given(array, self._dtype)
        return (to_exact(value) if self.exact else value), size

    def _part(self, node: Node, kept: Array | None) -> Pair:
        """A part of another operation, which computes it for itself: as PyTorch ``kept`` it, where that
        is what it should be but for its roundings."""
        value, size = self._value(node, {})
        if kept is None:
            return value, size
        own = to_float(value)
        allowed = compare.local_bound(size, own, own, self._dtype)
        return (value, size) if compare.differs(own, kept, allowed).any() else self._given(kept)

    def _result(self, node: Node) -> Pair:
        """PyTorch's own; exactly, what it would be without its rounding."""
        kept = self._steps.forward.get(node.id)
        if self.exact and kept is not None and np.isfinite(kept).all():
            return self._value(node, {})
        return self.forward[node.id]

    def coarse(self, made: Pass, behind: Iterable[Contribution]) -> float:
        """How many roundings of a recorded gradient PyTorch's kernels, which made it, may be off by."""
        total, arrived = 0.0, {n: up for n, _, up in made.sent}
        for c in behind:
            assert c.node.op is not None
            up = arrived[c.node.id]
            upstream = np.ones(c.node.shape) if up is None else self._steps.forward[up]
            terms = self.by_kernel(c, upstream, "terms")
            total += compare.coarseness([c.node.op], order=2) / compare.roundings(self._dtype)
            if terms is not None:
                size = compare.largest(self._steps.forward[made.id])
                total += compare.largest(np.asarray(terms)) / size if size else 0.0
        return total

    def contribution(self, c: Contribution) -> Pair:
        """What ``c.node`` sends to ``c.source``, with the bound of this operation alone."""
        value, size = self.sent(c, self.upstream[c.node.id])
        if c.node.op is None or not c.node.op.single or not compare.is_coarse(self._dtype):
            return value, size
        names = c.node.parameters.items()
        if all(n in c.node.op.single for n, a in names if a == Ref(c.source.id)):
            return value, size * compare.roundings("float32") / compare.roundings(self._dtype)
        rows = math.prod(c.node.shape) / math.prod(c.source.shape)
        return value, size * 4 * math.sqrt(rows)


def judged(
    graph: Graph,
    contributions: Sequence[Contribution],
    steps: Steps,
    wanted: list[str],
    dtype: str,
    again: Mapping[int, Pass] | None = None,
) -> JudgedSteps:
    """Each of the chain rule's ``contributions`` as PyTorch made it, judged.

    ``again`` are the values of a recorded backward pass.  Such a value may read results of operations
    that PyTorch makes again there from their inputs: what it sends to such a result goes on to those.
    It is singular, and coarse, where the backward of its operations is.
    """
    found = JudgedSteps()
    by_node: dict[int, dict[int, Contribution]] = {}
    for c in contributions:
        by_node.setdefault(c.node.id, {})[c.source.id] = c
    last = {source: id for id, own in by_node.items() if id in steps.upstream for source in own}
    last = {} if again else last
    at = AtPyTorch(graph, steps, dtype)
    singular = {point.node.id: point for point in singular_nodes(graph, at, wanted)}
    real: dict[int, dict[int, Array]] = {}
    for (id, source), array in steps.contributions.items():
        real.setdefault(id, {})[source] = array
    sent: dict[int, list[JudgedStep]] = {}
    for id, own in by_node.items():
        if id not in steps.upstream:
            continue
        made = (again or {}).get(id, Pass(id, ()))
        every = ((to, c) for n, to, up in made.sent for c in sends(graph, graph[n], up))
        behind = [c for to, c in every if c.source.id == to]
        judge = _Sent(at, steps, own, by_node, made.again, at.coarse(made, behind))
        point, given = singular.get(id), real.get(id, {})
        mask = None if point is None else point.mask
        if any(c.node.id in singular for c in behind):
            marked = Marked(graph, at.forward, {}, list(singular.values()), wanted)
            sent_on = (marked.sent(c, at._pair(np.ones(c.node.shape)))[0] for c in behind)
            mask = np.isnan(reduce(np.add, sent_on))
        here = judge.judged(given, mask, dtype)
        found.steps |= {(id, source): step for source, step in here.items()}
        for source in dict.fromkeys((*here, *given)):
            part = here.get(source)
            if judge.through or part is None:
                raw = given.get(source, np.zeros(graph[source].shape))
                bound = compare.local_bound(np.abs(raw), raw, raw, dtype)
                part = JudgedStep("agree", raw, None, bound, 0.0)
            sent.setdefault(source, []).append(part)
            if last.get(source) == id:
                _add_up(found, graph[source], sent[source], steps, dtype)
    for source in sent.keys() - last.keys():
        _add_up(found, graph[source], sent[source], steps, dtype)
    found.sums = {id: found.sums[id] for id in sent if id in found.sums}
    untold = {id for (id, _), step in found.steps.items() if step.verdict == "cannot tell"}
    found.operations = len({id for id, _ in found.steps})
    found.compared = found.operations - len(untold)
    return found


def _add_up(
    found: JudgedSteps, source: Node, parts: list[JudgedStep], steps: Steps, dtype: str
) -> None:
    """The sum of what was sent to ``source``, judged; of what is large one bound is kept then."""
    if source.id not in steps.upstream:
        return
    total = found.sums[source.id] = hold_sum(source.label, parts, steps.upstream[source.id], dtype)
    for step in (*parts, *(() if source.is_leaf else [total])):
        if step.torch.size >= LARGE and step.verdict == "agree":
            step.bound = np.broadcast_to(step.bound.max(), step.bound.shape)


@dataclass(frozen=True)
class _Sent:
    """What one value sends to its inputs, by the contributions ``own``; what the values ``through``
    receive goes on to theirs."""

    at: AtPyTorch
    steps: Steps
    own: Mapping[int, Contribution]
    by_node: Mapping[int, Mapping[int, Contribution]]
    through: frozenset[int]
    coarse: float

    def judged(self, real: Mapping[int, Array], singular: Any, dtype: str) -> dict[int, JudgedStep]:
        """PyTorch's contributions, ``real``, by the values that receive them in the end."""
        receivers, given = [*self.own], real
        if self.through:
            whole = ((id, (array, np.abs(array))) for id, array in real.items())
            given = {id: to_float(pair[0]) for id, pair in self._onwards(self.at, whole).items()}
            sent = [id for id, array in given.items() if array.any()]
            receivers = [*dict.fromkeys((*self._expected, *sent))]
        return {id: self._judge(id, given.get(id), singular, dtype) for id in receivers}

    @cached_property
    def _expected(self) -> dict[int, Pair]:
        return self._by_formula(self.at)

    def _by_formula(self, at: AtPyTorch) -> dict[int, Pair]:
        return self._onwards(at, ((id, at.contribution(c)) for id, c in self.own.items()))

    def _onwards(self, at: AtPyTorch, pairs: Iterable[tuple[int, Pair]]) -> dict[int, Pair]:
        """``pairs`` by their receivers, those in ``through`` replaced by what these send."""
        found: dict[int, Pair] = {}

        def add(id: int, pair: Pair) -> None:
            found[id] = added(found[id], pair) if id in found else pair

        for id, pair in pairs:
            add(id, pair)
        for id in sorted(self.through, reverse=True):
            if id not in found:
                continue
            whole = found.pop(id)
            for c in self.by_node.get(id, {}).values():
                add(c.source.id, at.sent(c, whole))
        return found

    def _pair(self, at: AtPyTorch, id: int) -> Pair:
        """What the value ``id`` receives by the formulas."""
        if not self.through:
            return at.contribution(self.own[id])
        zero = np.zeros(at.graph[id].shape)
        found = self._by_formula(at) if at.exact else self._expected
        return found.get(id, (to_exact(zero) if at.exact else zero, zero))

    def _kernel(self, c: Contribution | None, id: int, upstream: Array, what: str) -> Any:
        """What is known of PyTorch's kernel, `ChainRule.by_kernel`, or of those that made this value."""
        if not self.coarse or what == "kernel":
            return None if c is None else self.at.by_kernel(c, upstream, what)
        value, size = self._pair(self.at.exactly(compare.still), id)
        # What is not known excuses nothing.
        known = np.nan_to_num(np.asarray(size, dtype=np.float64), posinf=0.0)
        return self.coarse * (np.abs(to_float(value)) + known)

    def _judge(self, id: int, torch: Array | None, singular: Any, dtype: str) -> JudgedStep:
        at, steps, c = self.at, self.steps, self.own.get(id)
        node, source = next(iter(self.own.values())).node, at.graph[id]
        assert node.op is not None
        upstream = steps.upstream[node.id]
        operands = {
            f"a{place}": np.asarray(at.graph[i].value)
            if at.graph[i].is_literal
            else steps.forward[i]
            for place, i in enumerate(dict.fromkeys(node.inputs))
            if at.graph[i].is_literal or i in steps.forward
        }
        local = Local(
            (node.op.name, source.label),
            np.zeros(source.shape) if torch is None else torch,
            [upstream],
            operands,
            [steps.forward[node.id]],
            pointwise=node.op.pointwise,
            singular=singular,
            coarse=compare.coarseness([node.op]),
            kernel=lambda what: self._kernel(c, id, upstream, what),
            exactly=lambda move: self._pair(at.exactly(move), id),
            parts=None
            if self.through or c is None
            else lambda: at.sent_in_parts(c, at.upstream[node.id]),
            contributions=() if c is None else (c,),
            wider=None if self.through else steps.wider.get((node.id, id)),
        )
        return hold(local, lambda: self._pair(at, id), dtype)
