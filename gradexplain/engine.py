"""From a request to an `Explanation`, stage by stage.

The first stage needs neither SymPy nor PyTorch; PyTorch is asked in a process of its own at the start
and answers at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from gradexplain.between import intermediates, named_between, stops
from gradexplain.errors import GradexplainError, InputError
from gradexplain.explanation import (
    FURTHER,
    STAGES,
    Array,
    Check,
    Difference,
    Explanation,
    ForwardRow,
    Gradient,
    Input,
    Jacobian,
    Note,
    Output,
    Step,
    Upstream,
)
from gradexplain.graph import Graph, Node, labels_of, op_call
from gradexplain.limits import BUDGET, CHECKED_BYTES, EXPLAINED_BYTES
from gradexplain.numbers import number
from gradexplain.ops.base import Shape, show_shape
from gradexplain.plan.cost import room
from gradexplain.plan.cost import show_size as written_size
from gradexplain.reading.arrays import ONES, Value, as_array, bind
from gradexplain.reading.inputs import Inputs
from gradexplain.reading.language import Reading, read, read_text, resized
from gradexplain.reading.program import Program
from gradexplain.reading.syntax import parse
from gradexplain.routes.names import free_name, free_names, own_texts, quoted
from gradexplain.routes.pytorch import Asked, Question
from gradexplain.routes.replay import Replay
from gradexplain.routes.shared import named, shared
from gradexplain.verdict import compare, fold
from gradexplain.verdict import digits as measure
from gradexplain.verdict.status import worst

if TYPE_CHECKING:
    from gradexplain.formula.sizes import Sizes
    from gradexplain.routes.chain import ChainRule
    from gradexplain.routes.closed import ClosedForm
    from gradexplain.routes.judged import JudgedSteps
    from gradexplain.routes.pytorch import Steps
    from gradexplain.routes.singular import Singular

DType = Literal["float64", "float32"]

#: J is shown as a matrix of numbers up to this many entries.
SHOWN_ENTRIES = 64

#: Up to this many elements in all, and multiplications, values are computed with digits to spare.
_EXACT_ELEMENTS = 2_000
_EXACT_WORK = 20_000

#: Of a graph with more nodes no short formulas are looked for.
_LARGE = 200


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.  Values are arrays in float64; ``grad`` may be `ONES`, or None for a scalar's 1."""

    expression: str
    at: Mapping[str, Value] = field(default_factory=dict)
    grad: Value | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    wrt: tuple[str, ...] | None = None
    #: None: that of the tensors which the text makes, else float64.
    dtype: str | None = None
    check: bool = True
    #: the element of a gradient that is to be explained in full: ``x[0,0]``
    element: str = ""


def request_of(
    expression: str,
    at: Mapping[str, Any] | None,
    grad: Any,
    shapes: Mapping[str, Sequence[int]] | None,
    wrt: str | Sequence[str] | None,
    dtype: str | None,
    check: bool,
) -> Request:
    """A request from what a Python program gives."""
    if not isinstance(expression, str):
        raise InputError(
            f"the expression must be a string, found {type(expression).__name__}",
            remedy='write it as text, as in explain("3*a + b")',
        )
    if dtype is not None and dtype not in compare.ROUNDOFF:
        raise InputError(f"dtype {dtype!r} is not supported", remedy="use 'float64' or 'float32'")
    names = wrt.split(",") if isinstance(wrt, str) else wrt
    return Request(
        expression,
        {name: as_array(value, f"at[{name!r}]") for name, value in (at or {}).items()},
        None if grad is None else as_array(grad, "grad"),
        {name: tuple(int(n) for n in shape) for name, shape in (shapes or {}).items()},
        None if names is None else tuple(name.strip() for name in names),
        dtype,
        check,
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """A request with everything worked out: a graph at a point, and the argument of ``backward``.

    ``values`` are the leaves' values by label, as the dtype holds them; ``wanted`` the leaves that
    require grad; ``v`` has the output's shape, and ``v_source`` is ``given``, ``ones`` or
    ``implicit``.  ``examples`` names the leaves whose values were made up.  ``source`` and
    ``statements`` are for the reader only.
    """

    graph: Graph
    values: Mapping[str, Array]
    v: Array
    wanted: tuple[str, ...]
    dtype: str = "float64"
    check: bool = True
    v_source: str = "given"
    examples: frozenset[str] = frozenset()
    source: str = ""
    statements: tuple[str, ...] = ()
    #: Computed values whose ``.grad`` is asked for (``retain_grad``).
    retain: tuple[str, ...] = ()
    #: Reads the program with its inputs in other shapes, where there is a program.
    reread: Callable[[Mapping[str, Shape]], Graph] | None = None
    #: What the graph follows from, where formulas may be used again: the program and the shapes.
    key: tuple[Any, ...] = ()
    #: Whether gradients are those of the output itself, as formulas then say: ∂S/∂x, without a v.
    scalar: bool = False
    #: Where PyTorch's answer comes from, when it is not asked for this problem alone.
    asked: Answering | None = None
    #: The name that a sub-expression was given because it makes the formulas shorter.
    shared: str = ""
    #: What is explained beside the gradients.
    extra: Extra | None = None
    #: The element of a gradient that is explained in full, where one is asked for.
    element: tuple[str, tuple[int, ...]] | None = None
    #: What is to be said of the text.
    remarks: tuple[Note, ...] = ()

    def question(self, retain: tuple[str, ...] = ()) -> Question:
        """What PyTorch is asked; ``retain`` are computed values whose gradients are wanted too."""
        return Question(self.graph, self.values, self.v, self.wanted, self.dtype, retain)


class Answering(Protocol):
    """Somebody who has asked PyTorch: see `gradexplain.routes.pytorch.Asked`."""

    def answer(self) -> Any: ...

    def drop(self) -> None: ...


class Extra(Protocol):
    """What an explanation holds beside the gradients of one backward."""

    def begin(self, run: Run) -> None:
        """Before the first section is shown."""

    def further(self, run: Run) -> list[Check]:
        """After the gradients; the verdict is the worst of the checks returned and its own."""


def problem_of(request: Request) -> Problem:
    """The problem that a request states; raises `GradexplainError` where it states none."""
    return problem_at(request, bound_of(request))


@dataclass(frozen=True, slots=True)
class Bound:
    """What a request's text says, with the leaves' values as the dtype holds them.

    The request's ``v`` is not looked at.
    """

    program: Program
    reading: Reading
    values: Mapping[str, Array]
    given: Mapping[str, Array]

    @property
    def key(self) -> tuple[Any, ...]:
        """What the graph follows from: the text, the shapes, the values of indices, the dtype."""
        leaves = tuple(
            (n.label, n.shape, self.values[n.label].tobytes() if n.integer else None)
            for n in self.graph.leaves
        )
        return self.program.source, leaves, self.dtype

    def reread(self, shapes: Mapping[str, Shape]) -> Graph:
        """The program with its inputs in other shapes."""
        if self.reading.script:
            return resized(self.program, self.reading, shapes)
        return read(
            self.program, lambda name: shapes[name], self.given.get, self.dtype, any_size=True
        )

    @property
    def graph(self) -> Graph:
        return self.reading.graph

    @property
    def dtype(self) -> str:
        return self.reading.dtype


def bound_of(request: Request) -> Bound:
    program = parse(request.expression)
    reading, values = _bound(program, request)
    _check_total(reading.graph, request.check)
    given = {name: values[name] for name, value in request.at.items() if value is not ONES}
    return Bound(program, reading, values, given)


def problem_at(request: Request, bound: Bound, graph: Graph | None = None) -> Problem:
    """The problem of ``request``, for the output of ``graph`` where that is another one."""
    program, values, reading = bound.program, bound.values, bound.reading
    graph = graph or bound.graph
    wanted = _wanted(graph, request.wrt, reading.wanted)
    grad = request.grad
    if grad is None and len(reading.calls) == 1 and graph.output == reading.calls[0].start:
        grad = reading.calls[0].v
    return Problem(
        graph=graph,
        values=values,
        v=_upstream(grad, bound.dtype, graph.out.shape, graph.out.label),
        wanted=tuple(wanted),
        dtype=bound.dtype,
        check=request.check,
        v_source="implicit" if grad is None else "ones" if grad is ONES else "given",
        examples=reading.examples,
        source=program.source,
        statements=reading.statements,
        retain=reading.retain,
        remarks=tuple(Note(remark.kind, remark.text) for remark in reading.remarks),
        reread=_rereading(bound, graph),
        key=bound.key if graph is bound.graph and not reading.script else (),
        element=_element(graph, wanted, request.element) if request.element else None,
    )


def with_shared_name(problem: Problem) -> Problem:
    """``problem`` with a name for a sub-expression that makes its formulas shorter, where one does."""
    found = shared(problem.graph, problem.wanted)
    if found is None:
        return problem
    id, name = found
    reread = problem.reread
    return replace(
        problem,
        graph=named(problem.graph, id, name),
        reread=reread and (lambda shapes: named(reread(shapes), id, name)),
        shared=name,
    )


#: Scripts that took more to read than this are not read again for the letters of sizes.
_MANY_STEPS = 2000


def _rereading(bound: Bound, graph: Graph) -> Callable[[Mapping[str, Shape]], Graph] | None:
    """What reads the program with its inputs in other shapes, ending where ``graph`` does."""
    if bound.reading.steps > _MANY_STEPS or (graph is not bound.graph and not bound.reading.script):
        return None
    return lambda shapes: replace(bound.reread(shapes), output=graph.output)


def stages_of(problem: Problem) -> Iterator[tuple[str, Explanation]]:
    """The stages of one problem's explanation, see `stages`."""
    run = Run(problem)
    try:
        for stage in STAGES:
            if stage == "check" and problem.extra is not None:
                run._further(problem.extra)
                yield FURTHER, run.explanation
            run.do(stage)
            yield stage, run.explanation
    finally:
        run.close()


def explanation_of(problem: Problem) -> Explanation:
    """The complete explanation of one problem."""
    *_, (_, explanation) = stages_of(problem)
    return explanation


def is_small(graph: Graph) -> bool:
    """Whether the tensors are small enough for digits to spare."""
    elements, work = 0, 0
    for node in graph.nodes:
        sizes = [math.prod(graph[i].shape) for i in node.inputs] + [math.prod(node.shape)]
        elements += sizes[-1]
        work += max(max(sizes), round(math.prod(sizes) ** (1 / 2)) if len(sizes) == 3 else 0)
    return elements <= _EXACT_ELEMENTS and work <= _EXACT_WORK


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
                )
                for node in graph.leaves
            },
            output=Output(graph.out.label, graph.out.shape),
            grad=Upstream(
                self.v,
                problem.v_source,
                _loss(self.v, graph.out.label, loss_name, v_name),
                v_name,
            ),
            statements=problem.statements,
            notes=list(problem.remarks),
            shared=problem.shared,
        )
        #: Whether values are computed with digits to spare.
        self.exact = is_small(graph)
        self._others: list[Check] = []
        self._typicals: dict[str, float] = {}
        self._cleaned: dict[int, tuple[Any, Array]] = {}
        self._singular: list[Singular] | None = None
        self._closed: ClosedForm | None = None
        self._chain: ChainRule | None = None
        self._answer: Any = None
        #: Decimal digits of the exact arithmetic.
        self.precision = 0
        #: PyTorch's steps, each held against its own rule.
        self.judged: JudgedSteps | None = None

    def close(self) -> None:
        if self.asked is not None:
            self.asked.drop()

    @property
    def closed(self) -> ClosedForm:
        if self._closed is None:
            self._closed = self._formed()
        return self._closed

    def _formed(self) -> ClosedForm:
        """The closed form, with formulas that were derived before for the same program and shapes."""
        from gradexplain.routes.closed import ClosedForm, Known

        key = self.problem.key and (self.problem.key, self.problem.scalar, *self.wanted)
        known = Known.of_this_thread()
        if key in known:
            return known[key].at(self.values, self.v, exact=self.exact)

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
        if key:
            known[key] = found.at({}, self.v, exact=self.exact)
        return found

    @property
    def chain(self) -> ChainRule:
        """The chain rule's values and contributions, with as many digits as they need."""
        if self._chain is None:
            from gradexplain.routes.chain import settled_chain

            self._chain, self.precision = settled_chain(
                self.graph, self.values, self.v, self.wanted, exact=self.exact
            )
        return self._chain

    @property
    def answer(self) -> Any:
        """PyTorch's answer; None where it was not asked."""
        if self._answer is None and self.asked is not None:
            self._answer = self.asked.answer()
        return self._answer

    @property
    def real(self) -> Steps | None:
        """PyTorch's own numbers on the way."""
        return None if self.answer is None else self.answer.steps

    def clean(self, pair: Any) -> Array:
        from gradexplain.routes.chain import cleaned

        kept = self._cleaned.get(id(pair[0]))
        if kept is None or kept[0] is not pair:
            kept = self._cleaned[id(pair[0])] = pair, cleaned(pair, exact=self.exact)
        return kept[1]

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
            self.closed.shown_jacobian(leaf)
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
            shown, structure = self.closed.shown_jacobian(leaf)
            shape = self.graph.out.shape + leaf.shape
            value = None
            if math.prod(shape) <= SHOWN_ENTRIES:
                pair = self.closed.jacobian_value(leaf)
                value = None if pair is None else self.clean(pair)
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
                        ("sent", c.node.id, c.place),
                        partial(step_said, c, self.graph, names, g, self.closed.sizes),
                    ),
                )
            )

    def _gradients(self) -> None:
        self._differences: list[Difference] = []
        self._judge_steps()
        for leaf in self.leaves:
            shown = self.closed.shown_gradient(leaf)
            gradient = Gradient(
                leaf.label, shown.formula, shown.text, shown.latex, shown.where, shown.ranges,
                *self.routes(leaf, self._closed_value(leaf)),
            )  # fmt: skip
            self.explanation.gradients[leaf.label] = gradient
        if self.between:
            self.explanation.intermediates = intermediates(self)
        self._answers()

    def _closed_value(self, leaf: Node) -> Any:
        """The closed form's value, with more digits where those of the chain rule leave too few."""
        from gradexplain.arithmetic import mp
        from gradexplain.routes.chain import MORE_DIGITS, certain

        pair, digits = self.closed.gradient_value(leaf), self.precision
        if self.exact and digits < MORE_DIGITS and not certain(pair, digits):
            with mp.workdps(MORE_DIGITS):
                again = self.closed.at(self.values, self.v, exact=True)
                value, size = again.gradient_value(leaf)
                noise = mp.mpf(10) ** (10 - MORE_DIGITS)
                with np.errstate(all="ignore"):  # where there is no bound
                    small = np.abs(value) <= noise * size
                return np.where(small, mp.zero, value), np.zeros_like(size)
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

    def _judge_steps(self) -> None:
        """Each step of PyTorch's backward pass at its own numbers."""
        if self.real is None:
            return
        from gradexplain.routes import judged as steps

        chain, dtype = self.chain, self.problem.dtype
        made = steps.judged(self.graph, chain.contributions, self.real, self.wanted, dtype)
        self.judged = made
        self._differences += made.differences()
        for step, c in zip(self.explanation.steps, chain.contributions, strict=True):
            found = made.steps.get((c.node.id, c.source.id))
            if found is not None:
                for name, value in found.numbers().items():
                    setattr(step, name, value)

    def routes(
        self, node: Node, closed: Any
    ) -> tuple[Array, Array, Array | None, Array, str, float | None]:
        """``∂L/∂node`` by the three routes, the bound, the verdict and PyTorch's right digits."""
        dtype, label = self.problem.dtype, node.label
        zero = np.zeros(node.shape)
        chain = self.chain.upstream.get(node.id, (zero, zero))
        value, by_chain = self.clean(closed), self.clean(chain)
        size = np.maximum(closed[1], chain[1])
        allowed = compare.bound(size, value, self.v, "float64")
        if self.exact:
            allowed = compare.exact_bound(
                size, value, by_chain, self.precision, self.chain.decimals
            )
        routes = "closed form", "chain rule"
        scale = compare.largest(self.v)
        between = compare.judge(label, routes, value, by_chain, allowed, "float64", scale)
        found = [] if between.difference is None else [between.difference]
        verdicts = [between.verdict]
        answer = self.answer
        if answer is None or answer.error or not self._asked_of(node, answer):
            verdicts = [fold.verdict(found, asked=False, singular=bool(found and (self.singular or self.special)),
                                     by_kernel=self.by_kernel)]  # fmt: skip
            self._differences += found
            return value, by_chain, None, allowed, verdicts[0], None
        kept = answer.gradients.get(label)
        torch = zero if kept is None else kept
        digits = None
        if self.judged is None:
            allowed = compare.bound(size, value, self.v, dtype)
            routes = "closed form", "PyTorch"
            result = compare.judge(label, routes, value, torch, allowed, dtype, scale)
            verdicts.append(result.verdict)
            found += [] if result.difference is None else [result.difference]
        else:
            steps = self.judged.on_the_way(self.graph, node)
            verdicts += [step.verdict for step in steps]
            allowed = self.judged.arriving(node)
            digits = measure.whole(torch, value, dtype, scale)
            if measure.few(digits, dtype):
                verdicts.append("convention")
            else:
                digits = None
        self._differences += found
        if found and (self.singular or self.special or all(map(self.by_kernel, found))):
            verdicts = ["convention" if v == "mismatch" else v for v in verdicts]
        return value, by_chain, torch, allowed, worst(verdicts), digits

    def _asked_of(self, node: Node, answer: Any) -> bool:
        return node.op is None or node.label in answer.gradients

    @property
    def singular(self) -> list[Singular]:
        """The singular points that a gradient passes through."""
        if self._singular is None:
            from gradexplain.routes.singular import singular_nodes

            self._singular = singular_nodes(self.graph, self.chain, self.wanted)
        return self._singular

    @property
    def special(self) -> bool:
        """Whether there is a nan or a -0.0 among the values: no formula has rules for those."""
        given = [*self.values.values()]
        given += [np.asarray(n.value) for n in self.graph.nodes if n.is_literal]
        if any(((a == 0) & np.signbit(a)).any() for a in given):
            return True
        real = {} if self.real is None else self.real.forward
        return any(np.isnan(array).any() for array in (*given, *real.values()))

    def by_kernel(self, difference: Difference) -> bool:
        """Whether a difference is PyTorch's own, whose kernel is coarser than its dtype."""
        steps = () if self.judged is None else self.judged.steps.values()
        if any(step.difference is difference and step.why == "coarse" for step in steps):
            return True
        relative = compare.coarseness(node.op for node in self.graph.nodes if node.op is not None)
        return compare.by_kernel(difference, relative, self.problem.dtype)

    def _further(self, extra: Extra) -> None:
        with np.errstate(all="ignore"):
            self._others = extra.further(self)

    def _check(self) -> None:
        from gradexplain.notes import notes
        from gradexplain.questions import questions

        explanation = self.explanation
        found = self._found()
        status, reason = "agree", ""
        if self.answer is None:
            status = "skipped"
        elif self.answer.error:
            status, reason = "cannot tell", self.answer.error
        explanation.check = fold.check(
            status,
            (gradient.verdict for gradient in found),
            self.problem.dtype,
            (gradient.tolerance for gradient in explanation.gradients.values()),
            self._differences,
            reason,
            self.by_kernel,
        )
        if self.judged is not None:
            explanation.check.compared = self.judged.compared
            explanation.check.operations = self.judged.operations
            if not explanation.check.reason:
                explanation.check.reason = self._reason(explanation.check)
        explanation.check = fold.fold([explanation.check, *self._others])
        explanation.notes += notes(self, self.singular)
        explanation.notes += questions(self)

    def _reason(self, check: Check) -> str:
        assert self.judged is not None
        whys = {step.why for step in self.judged.steps.values() if step.why}
        if self.special and "overflow" not in whys:
            whys.add("special")
        if self.singular:
            whys.add("singular")
        few = any(gradient.digits is not None for gradient in self._found())
        return fold.reason(check.status, whys, check.compared, check.operations, few=few)

    def _found(self) -> list[Gradient]:
        x = self.explanation
        return [*x.gradients.values(), *x.intermediates.values()]

    # -- what notes ask --------------------------------------------------------------------------

    def jacobian_is_not_zero(self, leaf: Node) -> bool:
        """Whether J by ``leaf`` has an entry that is not 0 here."""
        jacobian = self.explanation.jacobian.get(leaf.label)
        if jacobian is not None and jacobian.value is not None:
            return bool(jacobian.value.any())
        if jacobian is None or jacobian.formula == 0:
            return False
        # Another v, of no pattern, sees what this one does not.
        return self._typical(leaf) > 0

    def constant_sums(self) -> tuple[int, ...] | None:
        """The dims over which the output's sum does not depend on any input; None if there are none.

        One dim where that is enough, else () for all of them.  Looked for by numbers: here and at
        other inputs, with weights of no pattern over the other dims.
        """
        shape = self.graph.out.shape
        choices: list[tuple[int, ...]] = [(d,) for d in range(len(shape)) if len(shape) > 1]
        moved = {name: value * _random(value.shape, 1) for name, value in self.values.items()}
        for dims in [*choices, ()]:
            kept = tuple(1 if d in dims or not dims else n for d, n in enumerate(shape))
            weights = np.broadcast_to(_random(kept, 2), shape)
            if all(
                self._vanishes(leaf, weights, values)
                for leaf in self.leaves
                for values in (self.values, moved)
            ):
                return dims
        return None

    def _vanishes(self, leaf: Node, v: Array, values: Mapping[str, Array]) -> bool:
        """Whether ``Jᵀv`` is 0 at ``values``; of large tensors, beside what it is for a typical v."""
        form = self.closed.at(values, v, exact=self.exact, magnitudes=self.exact)
        pair = form.gradient_value(leaf)
        if self.exact:
            return not self.clean(pair).any()
        return not compare.largest(pair[0]) > 1e-9 * self._typical(leaf)

    def _typical(self, leaf: Node) -> float:
        """The largest element of ``Jᵀv`` for a ``v`` of no pattern."""
        if leaf.label not in self._typicals:
            form = self.closed.at(self.values, _random(self.v.shape, 0), exact=self.exact)
            self._typicals[leaf.label] = compare.largest(self.clean(form.gradient_value(leaf)))
        return self._typicals[leaf.label]


def _shown_apart(value: Array, exact: Array, dtype: str) -> bool:
    """Whether two arrays differ in the digits that a page shows and the dtype has."""
    shown = min(6.0, measure.in_format(dtype) - 1)
    return any(
        (measure.right(value[part], exact[part], dtype) < shown).any()
        for part in compare.blocks(value.shape)
    )


def _random(shape: Shape, seed: int) -> Array:
    """Numbers of no pattern, the same ones every time."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape)


# -- binding what was given to the graph ---------------------------------------------------------


def _bound(program: Program, request: Request) -> tuple[Reading, dict[str, Array]]:
    """What the text says, and the value of each leaf as the dtype holds it."""
    given = {name: value for name, value in request.at.items() if value is not ONES}
    example = _example_shape(request)

    def shape_of(name: str) -> Shape:
        return given[name].shape if name in given else example

    inputs = Inputs(given, frozenset(request.at) - frozenset(given), request.shapes, shape_of)
    reading = read_text(program, inputs, request.dtype, Replay(_gradient_text))
    leaves = {node.label: node for node in reading.graph.leaves}
    for name in (*request.at, *request.shapes):
        if name not in leaves:
            known = ", ".join(leaves) or "none"
            raise InputError(
                f"{name} is not an input of the expression; its inputs are: {known}",
                remedy="check the spelling, or leave the option out",
            )
        shape = given[name].shape if name in given else leaves[name].shape
        if tuple(request.shapes.get(name, shape)) != shape:
            raise InputError(
                f"{name} has shape {show_shape(shape)} by --at but "
                f"{show_shape(tuple(request.shapes[name]))} by --shape",
                remedy="leave one of the two out",
            )
    values = {
        name: bind(value, reading.dtype, f"--at {name}" if name in given else name)  # type: ignore[arg-type]
        for name, value in reading.values.items()
    }
    return reading, values


def _gradient_text(graph: Graph, name: str, v_name: str) -> str:
    """The gradient of an input as PyTorch; loaded only where a text differentiates a gradient."""
    from gradexplain.codegen.line import gradient_text

    try:
        return gradient_text(graph, name, v_name)
    except (GradexplainError, SyntaxError):
        return ""


def _example_shape(request: Request) -> Shape:
    """The shape of example values: v's, or (3,) for ``ones``, or a scalar's."""
    if request.grad is ONES:
        return () if request.at or request.shapes else (3,)
    if request.grad is None:
        return ()
    return tuple(request.grad.shape)


def _wanted(graph: Graph, wrt: tuple[str, ...] | None, own: tuple[str, ...] | None) -> list[str]:
    """The leaves to differentiate by: those of ``wrt``, else those that the text says, else all."""
    leaves = [node.label for node in graph.leaves if not node.integer]
    if own is not None and wrt is None:
        leaves = [label for label in leaves if label in own]
    if not leaves:
        raise InputError(
            f"{graph.out.label} depends on no input that requires grad; PyTorch says: element 0 of "
            "tensors does not require grad and does not have a grad_fn",
            remedy="use a name for the value to differentiate by, as in 3*x",
        )
    if wrt is None:
        return leaves
    for name in wrt:
        node = graph.by_label(name)
        if name in leaves:
            continue
        if node is not None and node.integer and node.is_leaf:
            raise InputError(
                f"{name} holds integers used as an index: it has no gradient",
                remedy=f"leave {name} out of --wrt",
            )
        if node is not None and node.op is not None:
            raise InputError(
                f"{name} is computed, not an input: PyTorch keeps no .grad for it",
                remedy=f"name inputs in --wrt ({', '.join(leaves)}); the chain rule shows what "
                f"flows into {name}",
            )
        raise InputError(
            f"{name or 'an empty name'} in --wrt is not an input; the inputs are: "
            f"{', '.join(leaves) or 'none'}",
            remedy="name inputs of the expression, separated by commas",
        )
    return [name for name in leaves if name in wrt]


def _element(graph: Graph, wanted: Sequence[str], text: str) -> tuple[str, tuple[int, ...]]:
    """``x[0,0]`` as a name and an index; `InputError` where there is no such element."""
    found = re.fullmatch(r"\s*([^\W\d]\w*)\s*(?:\[([\d\s,-]*)\])?\s*", text)
    name = found[1] if found else ""
    if found is None or name not in wanted:
        raise InputError(
            f"{text.strip() or 'an empty text'} is no element of an input's gradient",
            remedy=f"name one as in {wanted[0]}[0]; the inputs are: {', '.join(wanted)}",
        )
    node = graph.by_label(name)
    assert node is not None
    parts = [part.strip() for part in (found[2] or "").split(",") if part.strip()]
    try:
        index = tuple(int(part) for part in parts)
    except ValueError:
        index = (math.inf,)  # type: ignore[assignment]
    shape = node.shape
    if len(index) != len(shape) or not all(-n <= i < n for i, n in zip(index, shape, strict=True)):
        example = ",".join("0" for _ in shape)
        raise InputError(
            f"{text.strip()} is no element of {name}, whose shape is {show_shape(shape)}",
            remedy=f"give {len(shape)} indices, as in {name}[{example}]"
            if shape
            else f"write {name}",
        )
    return name, tuple(i % n for i, n in zip(index, shape, strict=True))


def _check_total(graph: Graph, check: bool) -> None:
    """Refuse what does not fit, before anything is computed."""
    total = sum(math.prod(node.shape) for node in graph.nodes)
    size = total * (CHECKED_BYTES if check else EXPLAINED_BYTES)
    if BUDGET.memory is None or size <= BUDGET.memory:
        return
    largest = max(graph.nodes, key=lambda node: (math.prod(node.shape), node.op is not None))
    name = largest.op.name if largest.op is not None else largest.label
    raise InputError(
        f"the values of all {len(graph.nodes)} steps, the largest of {name}, have {total:,} elements: "
        f"that takes {written_size(size)} here; {written_size(BUDGET.memory)} allowed",
        remedy="use smaller shapes: the formulas are the same at any size; "
        f"or allow more: --memory {room(size // 2)}",
    )


def _upstream(grad: Value | None, dtype: str, shape: Shape, name: str) -> Array:
    """v in the output's shape, or the error that PyTorch would raise."""
    if grad is None:
        if math.prod(shape) != 1:
            flat = len(shape) == 1
            example = ",".join(["1"] * min(shape[0], 4)) if flat and shape[0] <= 4 else "ones"
            raise InputError(
                "grad can be implicitly created only for scalar outputs; "
                f"{name} has shape {show_shape(shape)}",
                remedy=f"give v in that shape, as in --grad {example}; or make the output a scalar, "
                f"as in {name}.sum()",
            )
        return np.ones(shape)
    if grad is ONES:
        return np.ones(shape)
    v = bind(grad, dtype, "--grad")  # type: ignore[arg-type]
    if v.shape == () and math.prod(shape) == 1:
        return v.reshape(shape)  # one number for one element, whatever the dimensions
    if v.shape != shape:
        if math.prod(shape) == v.size and math.prod(shape) > 0:
            remedy = f"v has the right number of elements: nest it as shape {show_shape(shape)}"
        elif math.prod(shape) == 1:
            remedy = "give one number, or let the inputs have the shape of v (--shape, --at)"
        else:
            remedy = (
                f"give v in shape {show_shape(shape)} (ones is one that always fits), or let the "
                "inputs have other shapes (--shape, --at)"
            )
        raise InputError(
            f"mismatch in shape: v has shape {show_shape(v.shape)} and {name} has shape "
            f"{show_shape(shape)}; the argument of backward has the output's shape",
            remedy=remedy,
        )
    return v


# -- words ---------------------------------------------------------------------------------------


def _loss(v: Array, name: str, loss: str, v_name: str) -> str:
    """The scalar whose gradient is asked for, written out where it is short."""
    if v.size <= 4:
        if v.shape == ():
            return f"{loss} = {number(float(v))}·{name}"
        terms = [
            (float(v[place]), f"{name}[{','.join(map(str, place))}]")
            for place in np.ndindex(*v.shape)
        ]
        text = ""
        for value, element in terms:
            sign = " − " if value < 0 and text else " + " if text else "−" if value < 0 else ""
            text += f"{sign}{number(abs(value))}·{element}"
        return f"{loss} = {text}"
    letters = "ikmacegopqrstuwx"[: v.ndim]
    index = ",".join(letters)
    under = letters if len(letters) == 1 else f"{{{index}}}"
    return f"{loss} = Σ_{under} {v_name}[{index}]·{name}[{index}]"
