"""Every gradient of one explanation by its three routes, and what they come to."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import Any

import numpy as np

from gradexplain.explanation import Check, Difference, Gradient
from gradexplain.graph import Node
from gradexplain.plan.arrays import sized
from gradexplain.problem import Problem
from gradexplain.routes.chain import MOST_DIGITS, ChainRule, cleaned
from gradexplain.routes.judged import JudgedSteps, judged
from gradexplain.routes.singular import Singular, singular_nodes
from gradexplain.verdict import compare, digits, fold
from gradexplain.verdict.status import worst


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
        self._scale = compare.largest(problem.v)
        #: PyTorch's steps, each held against its own rule.
        self.steps: JudgedSteps | None = None
        if answer is not None and answer.steps is not None:
            wanted = list(problem.wanted)
            self.steps = judged(
                problem.graph, chain.contributions, answer.steps, wanted, problem.dtype
            )
            self.differences += self.steps.differences()

    def routes(self, node: Node, closed: Any) -> dict[str, Any]:
        """``∂L/∂node`` by the three routes: the fields of a `Gradient` that hold numbers."""
        problem, exact, label = self.problem, self.chain.exact, node.label
        zero = np.zeros(node.shape)
        chain = self.chain.upstream.get(node.id, (zero, zero))
        value, by_chain = (cleaned(pair, exact=exact) for pair in (closed, chain))
        sizes = closed[1], sized(chain)[1]
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
        verdicts = [self._held(("closed form", "chain rule"), node, value, by_chain, allowed,
                               "float64" if asked else "")]  # fmt: skip
        if asked:
            kept = self.answer.gradients.get(label)
            found["torch"] = torch = zero if kept is None else kept
        if asked and self.steps is not None:
            verdicts += [step.verdict for step in self.steps.on_the_way(problem.graph, node)]
            arrived = self.steps.sums.get(node.id)
            found["tolerance"] = zero if arrived is None else arrived.bound
            found["margin"] = None if arrived is None else arrived.margin
            right = digits.whole(torch, value, problem.dtype, self._scale)
            if digits.few(right, problem.dtype):
                verdicts.append("convention")
                found["digits"] = right
        elif asked:
            found["tolerance"] = allowed = compare.bound(sizes, value, problem.v, problem.dtype)
            routes = "closed form", "PyTorch"
            verdicts.append(self._held(routes, node, value, torch, allowed, problem.dtype))
        return {**found, "verdict": worst(verdicts)}

    def _held(
        self, routes: tuple[str, str], node: Node, one: Any, other: Any, allowed: Any, dtype: str
    ) -> str:
        """The verdict on two routes; without a dtype PyTorch is not asked, and all that can be said
        is that they differ."""
        judged = compare.judge(
            node.label, routes, one, other, allowed, dtype or "float64", self._scale
        )
        if judged.difference is None:
            return judged.verdict if dtype else "skipped"
        self.differences.append(judged.difference)
        excused = self.singular or self.special or self.by_kernel(judged.difference)
        return "convention" if excused else "mismatch"

    @cached_property
    def singular(self) -> list[Singular]:
        """The singular points that a gradient passes through."""
        return singular_nodes(self.problem.graph, self.chain, list(self.problem.wanted))

    @cached_property
    def special(self) -> bool:
        """Whether there is a nan or a -0.0 among the values: no formula has rules for those."""
        given = [*self.problem.values.values()]
        given += [np.asarray(n.value) for n in self.problem.graph.nodes if n.is_literal]
        if any(((a == 0) & np.signbit(a)).any() for a in given):
            return True
        steps = None if self.answer is None else self.answer.steps
        real = {} if steps is None else steps.forward
        return any(np.isnan(array).any() for array in (*given, *real.values()))

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
            status = "cannot tell"
            reason = (
                f"the exact values would take more than {MOST_DIGITS:,} decimal digits, the most that "
                "are tried: what is then left of a difference is shown as 0, and may be another number"
            )
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
        few = any(gradient.digits is not None for gradient in found)
        check.reason = check.reason or fold.reason(
            check.status, whys, check.compared, check.operations, few=few
        )
        return check
