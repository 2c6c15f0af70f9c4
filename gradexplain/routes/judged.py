"""Each step of PyTorch's backward pass by itself: at PyTorch's own inputs and own upstream gradient.

What an operation sends back is computed by its record from the numbers that PyTorch had there, so no
rounding of an earlier step is in it, and the bound is that of one operation.  What arrives at a value
is held against the sum of what was sent to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import sympy

from gradexplain.adjoint import Contribution, sends
from gradexplain.explanation import Array, Difference
from gradexplain.formula.kinds import Bracket, Cases, Greatest, Lookup, indices_of, label_of
from gradexplain.formula.kit import decimals
from gradexplain.formula.local import RESULT, UPSTREAM
from gradexplain.graph import Graph, Node, Ref
from gradexplain.plan.arrays import Pair, Relative, added, to_exact, to_float
from gradexplain.plan.blocks import LARGE
from gradexplain.routes.chain import ChainRule, cleaned
from gradexplain.routes.double import Pass
from gradexplain.routes.pytorch import Steps
from gradexplain.routes.singular import Marked, narrowed, singular_nodes
from gradexplain.verdict import compare
from gradexplain.verdict.status import worst

#: An operation of no more elements than this is computed again with digits to spare where needed.
_FEW = 4_000


@dataclass(slots=True)
class JudgedStep:
    """One contribution: what PyTorch computed, what the record gives there, and what that comes to.

    ``why`` says of a convention which it is: ``singular``, ``overflow``, ``underflow``, ``range`` (on the
    way), ``special`` (nan, inf or −0.0 among the operands) or ``coarse``.  A ``range`` that nothing
    bears out *cannot tell*.  Of a large array that agrees ``expected`` is not kept (None), and
    ``bound`` is the largest for all elements.
    """

    verdict: str
    torch: Array
    expected: Array | None
    bound: Array
    margin: float
    difference: Difference | None = None
    why: str = ""

    def numbers(self) -> dict[str, Any]:
        """The fields of a `gradexplain.explanation.Step` that are this comparison's."""
        return {
            "torch": self.torch,
            "expected": self.expected,
            "tolerance": self.bound,
            "margin": self.margin,
            "verdict": self.verdict,
        }


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
            kept = steps.forward.get(node.id)
            if kept is not None and not (node.id in aside and node.id in needed):
                self.forward[node.id] = self._given(kept)
            elif node.is_literal:
                self.forward[node.id] = self._pair(node.value)
            elif node.op is not None and node.id in needed:
                self.forward[node.id] = self._part(node, kept)
        self.upstream = {
            id: self._given(array)
            for id, array in steps.upstream.items()
            if graph[id].op is not None
        }
        self._steps = steps

    @cached_property
    def exactly(self) -> AtPyTorch:
        """The same with digits to spare."""
        return AtPyTorch(self.graph, self._steps, self._dtype, exact=True)

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
            return value, size * compare.single_in(self._dtype)
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
        for id in sorted(self.through & found.keys(), reverse=True):
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
        value, size = self._pair(self.at.exactly, id)
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
            exactly=lambda: self._pair(at.exactly, id),
            parts=None
            if self.through or c is None
            else lambda: at.sent_in_parts(c, at.upstream[node.id]),
            contributions=() if c is None else (c,),
            wider=None if self.through else steps.wider.get((node.id, id)),
        )
        return hold(local, lambda: self._pair(at, id), dtype)


def _as_results(*arrays: Array) -> list[tuple[str, Array]]:
    """Arrays in the shape of an operation's result by its name in formulas."""
    return [(RESULT, array) for array in arrays]


_COMPARE = (Bracket, Cases, Greatest, Lookup)
_PLAIN = (sympy.Symbol, sympy.IndexedBase, sympy.Indexed, sympy.Number, sympy.Add, sympy.Mul,
          sympy.Sum, sympy.Tuple, sympy.KroneckerDelta, Bracket)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Local:
    """What PyTorch sent back through one operation, and what it had there to make it from.

    ``routes`` are the names of the operation and of the input; ``given`` is what was sent to that
    input, ``wider`` the same where PyTorch computes it in float64 (None where it was not asked).
    ``operands`` are by the names that ``contributions``, the formulas, have for them.  ``singular`` is
    true at the elements of the result that have no derivative, None without any; ``kernel`` what is
    known of PyTorch's, `ChainRule.by_kernel`; ``exactly`` works the contribution out with digits to
    spare, ``parts`` part by part, None where there is nothing to gain.
    """

    names: tuple[str, str]
    given: Array
    upstreams: Sequence[Array]
    operands: Mapping[str, Array]
    results: Sequence[Array]
    pointwise: bool
    singular: Any
    coarse: float
    kernel: Callable[[str], Any]
    exactly: Callable[[], Pair]
    parts: Callable[[], Iterable[tuple[slice, Pair]]] | None = None
    contributions: Sequence[Contribution] = ()
    wider: Array | None = None

    @property
    def elementwise(self) -> bool:
        """Whether each element of the result is made from the same one of the input."""
        return self.pointwise and all(r.shape == self.given.shape for r in self.results)

    def special(self, expected: Array, bound: Array) -> Any:
        """Where IEEE's arithmetic has rules that no formula has.

        What comes of an infinity is no finite number; nan makes a choice where the operation compares;
        of an operand of −0.0 a sign is left, or an infinity's.
        """
        nan, infinite = self.has(np.isnan), self.has(np.isinf)
        negative = self.pointwise and self.has(
            lambda a: (a == 0) & np.signbit(a), self.operands.items()
        )
        endless = ~np.isfinite(self.given) | ~np.isfinite(expected)
        flipped = ~compare.differs(-expected, self.given, bound)
        # What compares may choose another element.
        formulas = [c.term.formula for c in self.contributions]
        compares = not formulas or any(formula.atoms(*_COMPARE) for formula in formulas)
        chosen = nan if compares else nan & endless
        return chosen | (infinite & endless) | (negative & (endless | flipped))

    def has(
        self, odd: Callable[[Array], Any], arrays: Iterable[tuple[str, Array]] | None = None
    ) -> Any:
        """Where something ``odd`` has a part in what was sent: among all arrays, or among these."""
        if arrays is None:
            arrays = [*self.operands.items(), *_as_results(*self.results, *self.upstreams)]
        mask = np.zeros(self.given.shape, dtype=bool)
        for name, array in arrays:
            if (one := odd(array)).any():
                mask |= self._part_of(name, one)
        return mask

    def _part_of(self, name: str, one: Any) -> Any:
        """True at each element that is made from one that ``one`` marks, as far as indices tell.

        An axis that runs with one of the input's wherever the array is read does so here too.  What is
        sent may depend on all of the input that goes into the same elements of the result, though its
        formula has a mean instead, say.
        """
        shape = self.given.shape
        if self.pointwise:
            return narrowed(np.broadcast_to(one, np.broadcast_shapes(one.shape, shape)), shape)
        if len(self.contributions) != 1:
            return True
        (c,) = self.contributions
        place, own = c.rule.places[c.place], f"a{c.place}"
        read = c.rule.contributions[c.place].atoms(sympy.Indexed)
        labels = (RESULT, UPSTREAM) if name in (RESULT, own) else (name,)
        found = [indices_of(atom) for atom in read if label_of(atom) in labels]
        if name == own:
            together = tuple(i if all(i in at for at in found) else sympy.S.Zero for i in place)
            found = [together] if found else []
        if not found:
            return True
        mask = np.zeros(shape, dtype=bool)
        for indices in found:
            tied = {i: axis for axis, i in enumerate(indices) if i in place and i.is_Symbol}
            there = [place.index(i) for i in tied]
            others = tuple(axis for axis in range(one.ndim) if axis not in tied.values())
            kept = one.any(axis=others).transpose(np.argsort(there))
            mask |= kept.reshape([n if axis in there else 1 for axis, n in enumerate(shape)])
        return mask

    def beyond(self, dtype: str) -> Any:
        """Where a kernel that takes powers of its operands may leave the range of the dtype on its way.

        Formats of few digits are computed with in float32.
        """
        formulas = [c.term.formula for c in self.contributions]
        parts = (part for formula in formulas for part in sympy.preorder_traversal(formula))
        if formulas and all(isinstance(part, _PLAIN) for part in parts):
            return np.zeros(self.given.shape, dtype=bool)
        return self.has(lambda array: compare.extreme(array, dtype))

    def borne_out(self, expected: Array, dtype: str) -> Any:
        """Where PyTorch has what is expected when it computes in float64: its rule is right, and what
        differs is the arithmetic of ``dtype``."""
        if self.wider is None:
            return np.zeros(self.given.shape, dtype=bool)
        if expected.size <= _FEW:  # the result that PyTorch has may have left the range too
            expected = cleaned(self.exactly(), exact=True)
        near = compare.SEEN / 2 * np.abs(expected)
        return ~compare.differs(expected, self.wider, near)


def hold(local: Local, pair: Callable[[], Pair], dtype: str) -> JudgedStep:
    """What PyTorch sent back against ``pair``, the record's contribution at PyTorch's own numbers.

    The bound is that of this operation alone, in ``dtype``.  What is large is judged part by part
    first: its bounds, and what is expected, are never there as a whole unless something differs.
    """
    given, name = local.given, local.names[1]
    scale = max((compare.largest(u) for u in local.upstreams), default=0.0)
    routes = f"{local.names[0]} by its formula", "PyTorch"

    def cancels(result: compare.Judged, most: float, bound: Array) -> bool:
        """A sum that cancels altogether is nothing beside what it is a sum of."""
        noise = result.verdict == "cannot tell" and not local.elementwise
        return noise and most <= bound.max(initial=0.0) <= compare.SEEN * scale

    if local.parts is not None and given.size >= LARGE and not compare.is_coarse(dtype):
        bound = np.empty(given.shape)
        for clean in (False, True) if local.singular is None else (False,):
            tally = compare.Tally(name, routes)
            for part, (value, size) in local.parts():
                if clean:
                    value = compare.settled(value, size, compare.FORMATS["float64"].unit)
                bound[part] = allowed = compare.local_bound(size, value, scale, dtype)
                tally.add(value, given[part], allowed, part.start or 0)
            result = tally.judged(dtype, scale)
            most = max(tally.size, compare.largest(given))
            if result.verdict == "agree" or (clean and cancels(result, most, bound)):
                return JudgedStep("agree", given, None, bound, result.margin)
    value, size = pair()
    expected = to_float(value)

    def judge() -> tuple[Array, compare.Judged]:
        allowed = compare.local_bound(size, expected, scale, dtype)
        return allowed, compare.judge(name, routes, expected, given, allowed, dtype, scale)

    allowed, result = judge()
    if result.verdict != "agree" and local.singular is None:
        # It may be the formula's own arithmetic that ran out, which says nothing of PyTorch's.
        expected = compare.settled(expected, size, compare.FORMATS["float64"].unit)
        fine = dtype == "float64" or not (np.isfinite(expected).all() and np.isfinite(size).all())
        if expected.size <= _FEW and fine:
            value, size = local.exactly()
            expected = cleaned((value, size), exact=True)
        allowed, result = judge()
    most = max(np.abs(array).max(initial=0.0) for array in (expected, given))
    if cancels(result, most, allowed):
        result = replace(result, verdict="agree")
    step = JudgedStep(result.verdict, given, expected, allowed, result.margin, result.difference)
    if step.verdict == "cannot tell" and most < compare.FORMATS[dtype].smallest and expected.any():
        step.why = "underflow"
        if local.borne_out(expected, dtype).all():
            step.verdict = "convention"
    if step.verdict == "mismatch":
        step.verdict, step.why = _explained(local, step, size, dtype)
    return step


def _explained(local: Local, step: JudgedStep, size: Any, dtype: str) -> tuple[str, str]:
    """Whether PyTorch may differ here though its backward is right, and why: see `JudgedStep`.

    Each element that differs must have a reason of its own.
    """
    given, expected = step.torch, step.expected
    assert expected is not None
    wrong = compare.differs(expected, given, step.bound)
    special = local.special(expected, step.bound)
    with np.errstate(all="ignore"):
        large = ~(np.asarray(size, dtype=np.float64) <= compare.FORMATS[dtype].largest)
        over = ~np.isfinite(given) & np.isfinite(expected)
    overflowed = over & (large | local.has(lambda y: ~np.isfinite(y), _as_results(*local.results)))
    points = () if local.singular is None else (np.asarray(local.singular),)
    singular = local.has(lambda mask: mask, _as_results(*points))
    # The derivative is infinite or does not exist where PyTorch has something else.
    missing = ~np.isfinite(expected) & ~special
    reasons = {
        "singular": singular | missing,
        "special": special,
        "overflow": overflowed,
    }
    left = wrong & ~reduce(np.logical_or, reasons.values())
    if left.any() and not (left & ~local.beyond(dtype)).any():
        if local.wider is None:
            return "cannot tell", "range"
        if not (left & ~local.borne_out(expected, dtype)).any():
            return "convention", "range"
    if wrong.any() and not left.any():
        found = [why for why, mask in reasons.items() if (wrong & mask).any()]
        inputs = all(np.isfinite(operand).all() for operand in local.operands.values())
        if found[:2] == ["special", "overflow"] and inputs:
            return "convention", "overflow"
        return "convention", found[0]
    terms, own = local.kernel("terms"), local.kernel("kernel")
    if step.difference and compare.by_kernel(step.difference, local.coarse, dtype):
        return "convention", "coarse"
    if terms is None or step.difference is None:
        return "mismatch", ""
    # Roundings of the kernel's larger terms may explain it, and hide an error too; endless ones explain
    # nothing.
    basis, terms = (expected, terms) if own is None else own
    bound = step.bound + compare.roundings(dtype) * np.nan_to_num(terms, posinf=0.0)
    name, routes, scale = local.names[1], step.difference.routes, compare.largest(given)
    told = compare.judge(name, routes, basis, given, bound, dtype, scale).verdict
    if told == "agree" or (told == "cannot tell" and local.borne_out(expected, dtype).all()):
        return "convention", "coarse"
    return told, "coarse" if told == "cannot tell" else ""


def hold_sum(
    name: str, parts: Sequence[JudgedStep], arrived: Array, dtype: str, beside: Any = 0.0
) -> JudgedStep:
    """What arrived at a value against the sum of what was sent to it, all PyTorch's own.

    ``beside`` is what it was added to on the way.
    """
    routes = "the sum of what was sent", "PyTorch"
    allowed, tally = np.empty(arrived.shape), compare.Tally(name, routes)
    # A format of few digits is looked at as a whole, see `compare.judge`.
    total = np.empty(arrived.shape) if compare.is_coarse(dtype) else None
    beside, scale = np.broadcast_to(beside, arrived.shape), 0.0
    with np.errstate(all="ignore"):
        for own in compare.blocks(arrived.shape):
            sent = [part.torch[own] for part in parts]
            size = reduce(np.add, [np.abs(array) for array in sent]) * len(parts)
            size = size + np.abs(beside[own])
            bound = reduce(np.add, [part.bound[own] for part in parts])
            bound = bound + 2 * compare.FORMATS[dtype].unit * size
            scale = max(scale, compare.largest(np.asarray(size)))
            # Within an endless bound nothing is allowed: what differs there has to be explained.
            whole, allowed[own] = reduce(np.add, sent), np.nan_to_num(bound, posinf=0.0)
            if total is None:
                tally.add(whole, arrived[own], allowed[own], 0 if own is ... else own.start)
            else:
                total[own] = whole
    if total is None:
        result = tally.judged(dtype, scale)
    else:
        result = compare.judge(name, routes, total, arrived, allowed, dtype, scale)
    return JudgedStep(result.verdict, arrived, None, allowed, result.margin, result.difference)
