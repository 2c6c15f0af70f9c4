"""Every gradient of one explanation by its three routes, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cached_property
from typing import Any

import numpy as np

from gradexplain.explanation import Array, Check, Difference, Gradient
from gradexplain.graph import Node
from gradexplain.plan.arrays import Pair, Relative
from gradexplain.plan.blocks import LARGE
from gradexplain.problem import Problem
from gradexplain.routes.chain import MOST_DIGITS, ChainRule, RightDigits, cleaned
from gradexplain.routes.judged import JudgedSteps, judged
from gradexplain.routes.singular import Accounted, Singular, singular_nodes
from gradexplain.verdict import compare, fold
from gradexplain.verdict.status import worst

#: Why nothing can be told where precision ran out.
NOT_ENOUGH = (
    f"the exact values may take more than {MOST_DIGITS:,} decimal digits, more than "
    "are tried: what is then left of a difference is shown as 0, and may be another number"
)


class Judging:
    """The closed form against the chain rule, with ``precision`` digits where there are digits to
    spare, and both against PyTorch's ``answer`` (None where it was not asked)."""

    def __init__(
        self, problem: Problem, chain: ChainRule, precision: int, answer: Any, *, enough: bool
    ) -> None:
        self._enough = enough
        self.problem = problem
        self.chain = chain
        self.precision = precision
        self.answer = answer
        self.differences: list[Difference] = []
        #: The gradients of which no element is a finite number by any route.
        self.numberless: set[str] = set()
        args = problem.values, problem.v, problem.wanted, problem.dtype
        self.right = RightDigits(chain, precision, *args)
        #: An element that has few right digits, in words.
        self.few = ""
        #: PyTorch's steps, each held against its own rule.
        self.steps: JudgedSteps | None = None
        if answer is not None and answer.steps is not None:
            wanted = list(problem.wanted)
            self.steps = judged(
                problem.graph,
                chain.contributions,
                answer.steps,
                wanted,
                problem.dtype,
                problem.again,
            )
            self.differences += self.steps.differences()

    def routes(self, node: Node, closed: Callable[[], Pair]) -> dict[str, Any]:
        """``∂L/∂node`` by the three routes: the fields of a `Gradient` that hold numbers.

        ``closed`` works the closed form's out: what is large is let go as early as it can.
        """
        problem, exact, label = self.problem, self.chain.exact, node.label
        zero = np.zeros(node.shape)
        pair = closed()
        value, size = cleaned(pair, exact=exact), pair[1]
        pair = self.chain.upstream.get(node.id, (zero, zero))
        by_chain, sizes = self.chain.clean(pair), (size, pair[1])
        del pair, size
        if not exact and value.size >= LARGE and node.id in self.chain.upstream:
            # Its bounds do their duty here.
            self.chain.upstream[node.id] = by_chain, Relative(by_chain)
        if exact:
            allowed = compare.exact_bound(
                np.maximum(*sizes), value, by_chain, self.precision, self.chain.decimals
            )
        else:
            allowed = compare.bound(sizes, value, problem.v, "float64")
        found: dict[str, Any] = {
            "value": value,
            "chain_rule": by_chain,
            "torch": None,
            "tolerance": allowed,
        }
        asked = self.answer is not None and not self.answer.error
        asked = asked and (node.op is None or label in self.answer.gradients)
        verdicts = [self._held(node, value, by_chain, allowed, asked=asked)]
        if asked:
            assert self.steps is not None
            kept = self.answer.gradients.get(label)
            found["torch"] = torch = zero if kept is None else kept
            verdicts.append(self.steps.on_the_way.get(node.id, "agree"))
            arrived = self.steps.sums.get(node.id)
            found["tolerance"] = zero if arrived is None else arrived.bound
            found["margin"] = None if arrived is None else arrived.margin
            lost = self.right.lost(node, torch)
            if lost.any():
                # The run whose steps were judged may have digits that PyTorch's own numbers lack.
                stepped = self.answer.stepped or {label: torch}
                astray = (lost & ~self.right.lost(node, stepped.get(label))).any()
                verdicts.append("mismatch" if astray else "convention")
                found["digits"], few = self.right.worst(node, torch)
                self.few = self.few or few
        if asked and value.size and not (np.isfinite(value) | np.isfinite(torch)).any():
            self.numberless.add(label)
            verdicts.append("convention")
        return {**found, "verdict": worst(verdicts)}

    def _held(self, node: Node, one: Array, other: Array, allowed: Array, *, asked: bool) -> str:
        """The verdict on the closed form and the chain rule; where PyTorch is not ``asked`` all that can
        be said is that they differ."""
        routes, scale = ("closed form", "chain rule"), compare.largest(self.problem.v)
        judged = compare.judge(node.label, routes, one, other, allowed, "float64", scale)
        if judged.difference is None:
            return judged.verdict if asked else "skipped"
        self.differences.append(judged.difference)
        left = self.accounted.left(compare.differs(one, other, allowed), one, other, node)
        return "mismatch" if left.any() else "convention"

    @cached_property
    def accounted(self) -> Accounted:
        """What has to do with a singular point, or with what no formula has rules for."""
        infinite = self._where(lambda array, _: np.isinf(array))
        graph, forward, wanted = self.chain.graph, self.chain.forward, self.problem.wanted
        return Accounted(graph, forward, self.special, self.singular, infinite, wanted)

    @cached_property
    def singular(self) -> list[Singular]:
        """The singular points that a gradient passes through."""
        return singular_nodes(self.problem.graph, self.chain, list(self.problem.wanted))

    @cached_property
    def special(self) -> dict[int, Any]:
        """Where there is a nan, or a -0.0 that was given, by node: no formula has rules for those."""
        return self._where(
            lambda array, given: np.isnan(array) | (given & (array == 0) & np.signbit(array))
        )

    def _where(self, odd: Callable[[Any, bool], Any]) -> dict[int, Any]:
        """Where a value is ``odd``, by node; the second argument says that it was given."""
        steps = None if self.answer is None else self.answer.steps
        found = {}
        for node in self.problem.graph.nodes:
            given = self.problem.values.get(node.label) if node.is_leaf else node.value
            value = given if steps is None else steps.forward.get(node.id, given)
            array = np.asarray(0.0 if value is None else value, dtype=np.float64)
            mask = odd(array, given is not None)
            if mask.any():
                found[node.id] = mask
        return found

    def by_kernel(self, difference: Difference) -> bool:
        """Whether a difference is PyTorch's own, whose kernel is coarser than its dtype."""
        steps = () if self.steps is None else self.steps.steps.values()
        if any(step.difference is difference and step.why == "coarse" for step in steps):
            return True
        ops = (node.op for node in self.problem.graph.nodes if node.op is not None)
        return compare.by_kernel(difference, compare.coarseness(ops), self.problem.dtype)

    def check(self, gradients: Collection[Gradient], between: Collection[Gradient]) -> Check:
        """What the routes of all gradients, and of those of values in between, come to."""
        found = [*gradients, *between]
        status, reason = "agree", ""
        if self.answer is None:
            status = "skipped"
        elif self.answer.error:
            status, reason = "cannot tell", self.answer.error
        elif not self._enough:
            status, reason = "cannot tell", NOT_ENOUGH
        check = fold.check(
            status,
            (gradient.verdict for gradient in found),
            self.problem.dtype,
            [gradient.tolerance for gradient in gradients],
            self.differences,
            reason,
            self.by_kernel,
        )
        if self.steps is None:
            return check
        check.compared, check.operations = self.steps.compared, self.steps.operations
        whys = {step.why for step in self.steps.steps.values() if step.why}
        if self.special and "overflow" not in whys:
            whys.add("special")
        if self.singular:
            whys.add("singular")
        elif self.few:  # at PyTorch's rounded numbers alone
            whys.discard("singular")
        check.reason = check.reason or fold.reason(
            check.status, whys, check.compared, check.operations, self.few
        )
        if self.numberless and check.status == "convention" and not check.differences:
            names = " and of ".join(sorted(self.numberless))
            check.reason = f"no element of the gradient of {names} is a finite number to compare"
        return check
