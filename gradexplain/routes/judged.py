"""Each step of PyTorch's backward pass by itself: at PyTorch's own inputs and own upstream gradient.

What an operation sends back is computed by its record from the numbers that PyTorch had there, so no
rounding of an earlier step is in it, and the bound is that of one operation.  What arrives at a value
is held against the sum of what was sent to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradexplain.adjoint import Contribution
from gradexplain.explanation import Array, Difference
from gradexplain.formula.kit import decimals
from gradexplain.graph import Graph, Node
from gradexplain.plan.arrays import Pair, to_exact, to_float
from gradexplain.routes.chain import ChainRule, cleaned
from gradexplain.routes.pytorch import Steps
from gradexplain.routes.singular import singular_nodes
from gradexplain.verdict import compare
from gradexplain.verdict.status import worst

#: An operation of no more elements than this is computed again with digits to spare where needed.
_FEW = 4_000


@dataclass(slots=True)
class JudgedStep:
    """One contribution: what PyTorch computed, what the record gives there, and what that comes to.

    ``why`` says of a convention which it is: ``singular``, ``overflow``, ``special`` (nan, inf or −0.0
    among the operands) or ``coarse``.
    """

    verdict: str
    torch: Array
    expected: Array
    bound: Array
    margin: float
    difference: Difference | None = None
    why: str = ""


@dataclass(slots=True)
class JudgedSteps:
    """Every contribution by ``(node, source)``, and every sum of several by the value's id."""

    steps: dict[tuple[int, int], JudgedStep] = field(default_factory=dict)
    sums: dict[int, JudgedStep] = field(default_factory=dict)
    #: Operations whose backward was compared, and all of those on the way.
    compared: int = 0
    operations: int = 0

    def on_the_way(self, graph: Graph, leaf: Node) -> list[JudgedStep]:
        """The steps that the gradient of ``leaf`` is made of."""
        reach = graph.downstream({leaf.id})
        found = [step for (_, source), step in self.steps.items() if source in reach]
        return found + [step for id, step in self.sums.items() if id in reach]

    def arriving(self, node: Node) -> Array:
        """The bound of what arrives at ``node``, of the last operations alone."""
        if node.id in self.sums:
            return self.sums[node.id].bound
        return np.zeros(node.shape)

    def differences(self) -> list[Difference]:
        every = (*self.steps.values(), *self.sums.values())
        return [step.difference for step in every if step.difference is not None]


class AtPyTorch(ChainRule):
    """The records' rules at PyTorch's own values."""

    def __init__(self, graph: Graph, steps: Steps, dtype: str, *, exact: bool = False) -> None:
        self.graph = graph
        self._dtype = dtype
        self.exact = exact
        self.forward: dict[int, Pair] = {}
        self.contributions = []
        self._decimals = decimals(graph) if exact else frozenset()
        aside = graph.parts()
        needed = graph.needed()
        for node in graph.nodes:
            if node.id in aside and node.id in needed:
                # A part of another operation, which computes it for itself.
                self.forward[node.id] = self._value(node, {})
            elif node.id in steps.forward:
                self.forward[node.id] = self._given(steps.forward[node.id])
            elif node.is_literal:
                self.forward[node.id] = self._pair(node.value)
        self.upstream = {id: self._given(array) for id, array in steps.upstream.items()}
        self._steps = steps
        self._exactly: AtPyTorch | None = None

    @property
    def exactly(self) -> AtPyTorch:
        """The same with digits to spare."""
        if self._exactly is None:
            self._exactly = AtPyTorch(self.graph, self._steps, self._dtype, exact=True)
        return self._exactly

    def _given(self, array: Array) -> Pair:
        # A rounding each allows for those of sums; in formats of few digits most are float32's.
        size = np.abs(array) * (0.25 if compare.is_coarse(self._dtype) else 1.0)
        return (to_exact(array) if self.exact else array), size

    def _result(self, node: Node) -> Pair:
        """PyTorch's own; exactly, what it would be without its rounding."""
        if self.exact and np.isfinite(self._steps.forward[node.id]).all():
            return self._value(node, {})
        return self.forward[node.id]

    def contribution(self, c: Contribution) -> Pair:
        """What ``c.node`` sends to ``c.source``, with the bound of this operation alone."""
        return self.sent(c, self.upstream[c.node.id])


def judged(
    graph: Graph, contributions: Sequence[Contribution], steps: Steps, wanted: list[str], dtype: str
) -> JudgedSteps:
    """Each of the chain rule's ``contributions`` as PyTorch made it, judged."""
    found = JudgedSteps()
    at = AtPyTorch(graph, steps, dtype)
    singular = {point.node.id: point for point in singular_nodes(graph, at, wanted)}
    sent: dict[int, list[JudgedStep]] = {}
    decided: dict[int, list[str]] = {}
    for c in contributions:
        node, source = c.node, c.source
        if node.id not in steps.upstream:
            continue
        torch = steps.contributions.get((node.id, source.id))
        point = singular.get(node.id)
        step = _judge(at, steps, c, torch, None if point is None else point.mask, dtype)
        found.steps[node.id, source.id] = step
        sent.setdefault(source.id, []).append(step)
        decided.setdefault(node.id, []).append(step.verdict)
    for id, parts in sent.items():
        if id in steps.upstream:
            found.sums[id] = _sum(graph[id], parts, steps.upstream[id], dtype)
    found.operations = len(decided)
    found.compared = sum("cannot tell" not in verdicts for verdicts in decided.values())
    return found


def _judge(
    at: AtPyTorch,
    steps: Steps,
    c: Contribution,
    torch: Array | None,
    singular: Any,
    dtype: str,
) -> JudgedStep:
    node, source = c.node, c.source
    assert node.op is not None
    given = np.zeros(source.shape) if torch is None else torch
    upstream = steps.upstream[node.id]
    value, size = at.contribution(c)
    expected = to_float(value)
    scale = float(np.abs(upstream[np.isfinite(upstream)]).max(initial=0.0))
    routes = f"{node.op.name} by its formula", "PyTorch"

    def judge() -> tuple[Array, compare.Judged]:
        allowed = compare.local_bound(size, expected, upstream, dtype)
        found = compare.judge(source.label, routes, expected, given, allowed, dtype, scale)
        return allowed, found

    allowed, result = judge()
    if result.verdict != "agree" and singular is None:
        # It may be the formula's own arithmetic that ran out, which says nothing of PyTorch's.
        expected = compare.settled(expected, size, compare.FORMATS["float64"].unit)
        if expected.size <= _FEW:
            value, size = at.exactly.contribution(c)
            expected = cleaned((value, size), exact=True)
        allowed, result = judge()
    summed = not node.op.pointwise or node.shape != source.shape
    if result.verdict == "cannot tell" and summed:
        # A sum that cancels altogether is nothing beside what it is a sum of.
        noise = max(np.abs(expected).max(initial=0.0), np.abs(given).max(initial=0.0))
        if noise <= allowed.max(initial=0.0) <= compare.SEEN * scale:
            result = replace(result, verdict="agree")
    step = JudgedStep(result.verdict, given, expected, allowed, result.margin, result.difference)
    if result.verdict != "mismatch":
        return step
    wrong = compare.differs(expected, given, allowed)
    special = _special(at.graph, steps, node, source, upstream)
    with np.errstate(all="ignore"):
        large = ~(np.asarray(size, dtype=np.float64) <= compare.FORMATS[dtype].largest)
        over = ~np.isfinite(given) & np.isfinite(expected)
    overflowed = over & (large | ~np.isfinite(steps.forward[node.id]).all())
    relative = compare.coarseness([node.op])
    if singular is not None and not (wrong & ~_at(singular, node, source)).any():
        step.verdict, step.why = "convention", "singular"
    elif wrong.any() and not (wrong & np.isfinite(expected)).any() and not special.any():
        # The derivative is infinite or does not exist where PyTorch has something else.
        step.verdict, step.why = "convention", "singular"
    elif not (wrong & ~(special | overflowed)).any() and wrong.any():
        special_only = not overflowed.any() or not _finite_inputs(steps, node)
        step.verdict, step.why = "convention", "special" if special_only else "overflow"
    elif result.difference is not None and (
        compare.by_kernel(result.difference, relative, dtype)
        or _rounded_more(at.terms(c, upstream), expected, given, allowed, dtype)
    ):
        step.verdict, step.why = "convention", "coarse"
    return step


def _rounded_more(
    terms: Array | None, expected: Array, given: Array, allowed: Array, dtype: str
) -> bool:
    """Whether roundings of a kernel's larger ``terms`` explain a difference."""
    if terms is None:
        return False
    with np.errstate(all="ignore"):
        kernel = compare.ROUNDINGS * compare.FORMATS[dtype].unit * np.nan_to_num(terms, posinf=0.0)
    return not compare.differs(expected, given, allowed + kernel).any()


def _special(graph: Graph, steps: Steps, node: Node, source: Node, upstream: Array) -> Any:
    """Where IEEE's arithmetic has rules that no formula has: nan and inf, and an operand of −0.0."""
    assert node.op is not None
    operands = [
        np.asarray(graph[id].value) if graph[id].is_literal else steps.forward[id]
        for id in node.inputs
        if graph[id].is_literal or id in steps.forward
    ]
    odd = [~np.isfinite(array) for array in (*operands, upstream, steps.forward[node.id])]
    mask = np.zeros(source.shape, dtype=bool)
    if node.op.pointwise:
        odd += [(array == 0) & np.signbit(array) for array in operands]
    for one in odd:
        if node.op.pointwise and one.shape == source.shape:
            mask |= one
        elif one.any():
            mask |= True
    return mask


def _at(mask: Any, node: Node, source: Node) -> Any:
    """The elements of ``source`` that the elements of ``node`` in ``mask`` may go back to."""
    assert node.op is not None
    if node.op.pointwise and node.shape == source.shape:
        return mask
    return np.ones(source.shape, dtype=bool)


def _finite_inputs(steps: Steps, node: Node) -> bool:
    return all(np.isfinite(steps.forward[id]).all() for id in node.inputs if id in steps.forward)


def _sum(node: Node, parts: Sequence[JudgedStep], arrived: Array, dtype: str) -> JudgedStep:
    """What arrived at a value against the sum of what was sent to it, all PyTorch's own."""
    with np.errstate(all="ignore"):
        total = np.sum([part.torch for part in parts], axis=0)
        size = np.sum([np.abs(part.torch) for part in parts], axis=0) * len(parts)
        allowed = np.sum([part.bound for part in parts], axis=0)
        allowed = np.nan_to_num(
            allowed + 2 * compare.FORMATS[dtype].unit * size, nan=0.0, posinf=0.0
        )
    routes = "the sum of what was sent", "PyTorch"
    scale = float(size[np.isfinite(size)].max(initial=0.0))
    result = compare.judge(node.label, routes, total, arrived, allowed, dtype, scale)
    return JudgedStep(result.verdict, arrived, total, allowed, result.margin, result.difference)


def verdict(steps: Iterable[JudgedStep]) -> str:
    """What several steps come to."""
    return worst(step.verdict for step in steps)
