"""One explanation at work: the problem, the three routes, each computed when it is first asked for,
and the `Explanation` so far."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from gradexplain.explanation import Array, Check, Explanation, Input, Output, Upstream
from gradexplain.graph import Graph, Node
from gradexplain.problem import Answering, Problem, is_small, loss_text, with_shared_name
from gradexplain.routes.names import free_names
from gradexplain.routes.pytorch import Asked

if TYPE_CHECKING:
    from gradexplain.explaining.judging import Judging
    from gradexplain.formula.sizes import Sizes
    from gradexplain.routes.chain import ChainRule
    from gradexplain.routes.closed import ClosedForm
    from gradexplain.routes.pytorch import Steps
    from gradexplain.routes.written import Written

#: No more values than this are explained without being asked for: those nearest to the output.
_MOST = 12

#: In a graph of more operations only the values that are asked for are explained.
_LARGE = 200


class Extra(Protocol):
    """What an explanation holds beside the gradients of one backward."""

    def begin(self, run: Run) -> None:
        """Before the first section is shown."""

    def further(self, run: Run) -> list[Check]:
        """After the gradients; the verdict is the worst of the checks returned and its own."""


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
        between = _named_between(graph, problem.wanted, loss, problem.retain)
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
            shared=problem.shared or "",
        )
        #: Whether values are computed with digits to spare.
        self.exact = is_small(graph)
        #: What a gradient is at its largest for a v of no pattern, where that was asked.
        self.typical: dict[str, float] = {}
        #: Decimal digits of the exact arithmetic.
        self.precision = 0
        #: Whether they were enough; without more of them the exact values are not known.
        self.enough = True

    def name(self) -> None:
        """Name a sub-expression that makes the formulas shorter, where one is to be looked for."""
        if self.problem.shared is None:
            self.problem = with_shared_name(self.problem)
            self.graph, self.explanation.shared = self.problem.graph, self.problem.shared or ""

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
        from gradexplain.explaining.judging import Judging

        return Judging(self.problem, self.chain, self.precision, self.answer, enough=self.enough)

    def clean(self, pair: Any) -> Array:
        return self.chain.clean(pair)


def _named_between(
    graph: Graph, wanted: Sequence[str], scalar: bool, retain: Sequence[str]
) -> list[Node]:
    """The values whose own gradient is explained: of a scalar, those that the user named."""
    reach, needed = graph.reach(wanted), graph.needed()
    named = [
        node
        for node in graph.nodes
        if node.op is not None
        and node.named
        and node.id in reach & needed
        and node.id != graph.output
    ]
    if not scalar or len(graph.nodes) > _LARGE:
        named = []
    asked = [node for node in graph.nodes if node.label in retain]
    return sorted({*named[-_MOST:], *asked}, key=lambda node: node.id)
