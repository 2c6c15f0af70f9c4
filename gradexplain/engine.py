"""From a request to an `Explanation`, stage by stage.

The first stage needs neither SymPy nor PyTorch; PyTorch is asked in a process of its own at the start
and answers at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property, partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from gradexplain.between import intermediates, named_between, stops
from gradexplain.explanation import (
    FURTHER,
    STAGES,
    Array,
    Check,
    Explanation,
    ForwardRow,
    Gradient,
    Input,
    Jacobian,
    Output,
    Step,
    Upstream,
)
from gradexplain.graph import Node, labels_of, op_call
from gradexplain.problem import Answering, Problem, is_small, loss_text
from gradexplain.routes.names import free_name, free_names, own_texts, quoted
from gradexplain.routes.pytorch import Asked
from gradexplain.verdict import compare, fold
from gradexplain.verdict import digits as measure

if TYPE_CHECKING:
    from gradexplain.formula.sizes import Sizes
    from gradexplain.judging import Judging
    from gradexplain.routes.chain import ChainRule
    from gradexplain.routes.closed import ClosedForm
    from gradexplain.routes.pytorch import Steps
    from gradexplain.routes.written import Written

#: J is shown as a matrix of numbers up to this many entries.
SHOWN_ENTRIES = 64

#: Of a graph with more nodes no short formulas are looked for.
_LARGE = 200


def stages_of(problem: Problem) -> Iterator[tuple[str, Explanation]]:
    """The stages of one problem's explanation, see `stages`."""
    run = Run(problem)
    try:
        for stage in STAGES:
            if stage == "check" and problem.extra is not None:
                run._others = problem.extra.further(run)
                yield FURTHER, run.explanation
            run.do(stage)
            yield stage, run.explanation
    finally:
        run.close()


def explanation_of(problem: Problem) -> Explanation:
    """The complete explanation of one problem."""
    *_, (_, explanation) = stages_of(problem)
    return explanation


class Run:
    """One explanation in the making."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.graph = graph = problem.graph
        self.values = problem.values
        self.v = problem.v
        self.wanted = list(problem.wanted)
        self.leaves = [n for n in graph.leaves if n.label in self.wanted and not n.integer]
        self.asked: Answering | None = problem.asked if problem.check else None
        loss = self.v.size == 1 and not problem.scalar
        between = named_between(graph, problem.wanted, loss, problem.retain)
        self.between = [node for node in between if node.label != problem.shared]
        if problem.check and problem.asked is None:
            names = tuple(node.label for node in self.between)
            self.asked = Asked(problem.question(names))
        v_name, loss_name = free_names(graph)
        self.explanation = Explanation(
            expression=problem.source,
            dtype=problem.dtype,
            inputs={
                node.label: Input(
                    node.label,
                    node.shape,
                    self.values[node.label],
                    given=node.label not in problem.examples,
                    wanted=node.label in self.wanted,
                    integer=node.integer,
                    boolean=node.integer and graph.is_mask(node.id),
                )
                for node in graph.leaves
            },
            output=Output(graph.out.label, graph.out.shape),
            grad=Upstream(
                self.v,
                problem.v_source,
                loss_text(self.v, graph.out.label, loss_name, v_name),
                v_name,
            ),
            statements=problem.statements,
            notes=list(problem.remarks),
            shared=problem.shared,
        )
        #: Whether values are computed with digits to spare.
        self.exact = is_small(graph)
        self._others: list[Check] = []
        #: What a gradient is at its largest for a v of no pattern, where that was asked.
        self.typical: dict[str, float] = {}
        #: Decimal digits of the exact arithmetic.
        self.precision = 0
        #: Whether they were enough; without more of them the exact values are not known.
        self.enough = True

    def close(self) -> None:
        if self.asked is not None:
            self.asked.drop()

    @property
    def written(self) -> Written:
        """The closed form as it is read."""
        from gradexplain.routes.written import Written

        return Written(self.closed)

    @cached_property
    def closed(self) -> ClosedForm:
        """The closed form, with formulas that were derived before for the same program and shapes."""
        from gradexplain.routes.closed import ClosedForm

        known: dict[Any, tuple[int, ClosedForm]] = self.graph.facts if self.problem.key else {}
        key, thread = (ClosedForm, self.problem.scalar, *self.wanted), get_ident()
        before = known.get(key)
        if before is not None and before[0] == thread:  # another thread's may be at work
            return before[1].at(self.values, self.v, exact=self.exact)

        def form(sizes: Sizes | None) -> ClosedForm:
            made = ClosedForm(self.graph, self.values, self.v, exact=self.exact, sizes=sizes)
            if self.problem.scalar:
                made.scalar = made.loss_name = self.graph.out.label
            return made

        found = form(None)
        if self.problem.reread is not None:
            from gradexplain.formula.sizes import generalised

            sizes = generalised(self.graph, self.problem.reread)
            found = found if sizes is None else form(sizes).in_letters(self.leaves)
        known[key] = thread, found.at({}, self.v, exact=self.exact)
        return found

    @cached_property
    def chain(self) -> ChainRule:
        """The chain rule's values and contributions, with as many digits as they need."""
        from gradexplain.routes.chain import settled_chain

        chain, self.precision, self.enough = settled_chain(
            self.graph, self.values, self.v, self.wanted, exact=self.exact
        )
        return chain

    @cached_property
    def answer(self) -> Any:
        """PyTorch's answer; None where it was not asked."""
        return None if self.asked is None else self.asked.answer()

    @property
    def real(self) -> Steps | None:
        """PyTorch's own numbers on the way."""
        return None if self.answer is None else self.answer.steps

    @cached_property
    def judging(self) -> Judging:
        """The routes held against each other; PyTorch's answer is waited for."""
        from gradexplain.judging import Judging

        return Judging(self.problem, self.chain, self.precision, self.answer, enough=self.enough)

    def clean(self, pair: Any) -> Array:
        return self.chain.clean(pair)

    # -- stages ----------------------------------------------------------------------------------

    def do(self, stage: str) -> None:
        """One of `STAGES`, with the digits that the values need."""
        make = getattr(self, f"_{stage}")
        if stage == "question":
            make()
            return
        from gradexplain.arithmetic import mp

        with np.errstate(all="ignore"):  # inf and nan are answers
            assert self.chain is not None
            with mp.workdps(self.precision or mp.dps):
                make()

    def _question(self) -> None:
        """Filled when the run was made: nothing is left to derive."""
        if self.problem.extra is not None:
            self.problem.extra.begin(self)

    def _forward(self) -> None:
        for leaf in self.leaves:
            # What takes longest, while PyTorch computes.
            self.written.jacobian(leaf)
        labels = labels_of(self.graph)
        needed = self.graph.needed()
        parts = self.graph.parts()
        texts = own_texts(self.graph)
        real = self.real
        for node in self.graph.nodes:
            if node.op is None or node.id not in needed:
                continue
            exact = self.clean(self.chain.forward[node.id])
            value = exact if real is None else real.forward.get(node.id, exact)
            row = ForwardRow(
                node=node.label,
                op=node.op.name,
                inputs=tuple(labels[i] for i in node.inputs),
                expression=op_call(node, labels),
                shape=node.shape,
                value=value,
                part_of=parts.get(node.id),
                named=node.named,
                text=texts[node.id],
                grad_fn=""
                if real is None
                else real.functions.get(node.id, "").rstrip("0123456789"),
            )
            if real is not None and _shown_apart(value, exact, self.problem.dtype):
                row.exact = exact
            self.explanation.forward.append(row)
            if node.id == self.graph.output:
                self.explanation.output.value = value
        if self.explanation.output.value is None:
            self.explanation.output.value = self.clean(self.chain.forward[self.graph.output])

    def _jacobian(self) -> None:
        for leaf in self.leaves:
            shown, structure = self.written.jacobian(leaf)
            shape = self.graph.out.shape + leaf.shape
            value = None
            if math.prod(shape) <= SHOWN_ENTRIES:
                value = self.clean(self.closed.jacobian_value(leaf))
            self.explanation.jacobian[leaf.label] = Jacobian(
                leaf.label, shown.formula, shown.text, shown.latex, shown.where, shown.ranges,
                structure, shape, value,
            )  # fmt: skip

    def _steps(self) -> None:
        from gradexplain.routes.answers import step_said
        from gradexplain.routes.steps import step_texts

        self.explanation.stops = stops(self.graph, self.wanted)

        uses: dict[int, int] = {}
        for c in self.chain.contributions:
            uses[c.source.id] = uses.get(c.source.id, 0) + 1
        seen: dict[int, int] = {}
        labels = labels_of(self.graph)
        names = quoted(self.graph, own_texts(self.graph))
        g = free_name(self.graph, "g", "g_out", "grad_output")
        for c in self.chain.contributions:
            seen[c.source.id] = seen.get(c.source.id, 0) + 1
            last = seen[c.source.id] == uses[c.source.id] > 1
            rule, contribution, numbers = step_texts(
                c, self.graph, labels, self.closed, self.clean, self.chain
            )
            assert c.node.op is not None
            self.explanation.steps.append(
                Step(
                    node=c.node.label,
                    op=c.node.op.name,
                    input=c.source.label,
                    upstream=self.clean(self.chain.upstream[c.node.id]),
                    rule=rule,
                    contribution_rule=contribution,
                    numbers=numbers,
                    contribution=self.clean(c.value),
                    total=self.clean(self.chain.upstream[c.source.id]) if last else None,
                    uses=uses[c.source.id],
                    short=self.closed.remembered(
                        ("said", c.node.id, c.place),
                        partial(step_said, c, self.graph, names, g, self.closed),
                    ),
                )
            )

    def _gradients(self) -> None:
        if self.judging.steps is not None:
            for step, c in zip(self.explanation.steps, self.chain.contributions, strict=True):
                found = self.judging.steps.steps.get((c.node.id, c.source.id))
                for name, value in {} if found is None else found.numbers().items():
                    setattr(step, name, value)
        for leaf in self.leaves:
            shown = self.written.gradient(leaf)
            gradient = Gradient(
                leaf.label, shown.formula, shown.text, shown.latex, shown.where, shown.ranges,
                **self.judging.routes(leaf, partial(self._closed_value, leaf)),
            )  # fmt: skip
            self.explanation.gradients[leaf.label] = gradient
        if self.between:
            self.explanation.intermediates = intermediates(self)
        self._answers()

    def _closed_value(self, leaf: Node) -> Any:
        """The closed form's value, with more digits where those of the chain rule leave too few."""
        from gradexplain.arithmetic import mp
        from gradexplain.routes.chain import MORE_DIGITS, certain, noise

        pair, digits = self.closed.gradient_value(leaf), self.precision
        if not self.exact and leaf is self.leaves[-1]:
            self.closed.release()
        if self.exact and digits < MORE_DIGITS and not certain(pair, digits):
            with mp.workdps(MORE_DIGITS):
                again = self.closed.at(self.values, self.v, exact=True)
                value, size = again.gradient_value(leaf)
                return np.where(noise((value, size)), mp.zero, value), np.zeros_like(size)
        return pair

    def _answers(self) -> None:
        """The gradients in their shortest notation, and one element in full."""
        if self.problem.scalar or len(self.graph.nodes) > _LARGE:
            return
        from gradexplain.codegen.beside import lines
        from gradexplain.routes.answers import element_in_full, said

        key = "answers", self.problem.v_source
        found = self.closed.remembered(key, lambda: said(self))
        for name, text in found.gradients.items():
            self.explanation.gradients[name].short = text
        for name, text in lines(self).items():
            self.explanation.gradients[name].line = text
        self.explanation.definitions = found.definitions
        self.explanation.element = element_in_full(self, self.problem.element)

    def _check(self) -> None:
        from gradexplain.notes import notes
        from gradexplain.questions import questions

        explanation = self.explanation
        found = explanation.gradients.values(), explanation.intermediates.values()
        explanation.check = fold.fold([self.judging.check(*found), *self._others])
        explanation.notes += notes(self)
        explanation.notes += questions(self)


def _shown_apart(value: Array, exact: Array, dtype: str) -> bool:
    """Whether two arrays differ in the digits that a page shows and the dtype has."""
    shown = min(6.0, measure.in_format(dtype) - 1)
    near = 10.0 ** (-shown - 0.1)
    return any(
        not (np.abs(value[part] - exact[part]) <= near * np.abs(exact[part])).all()
        and (measure.right(value[part], exact[part], dtype) < shown).any()
        for part in compare.blocks(value.shape)
    )
