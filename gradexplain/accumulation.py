"""Several ``backward`` calls, and calls on a value in the middle of the computation.

Each call is a problem of its own (`gradexplain.problem.Problem`) on its part of the graph; what they
leave in ``.grad`` is the sum of what each gives, until it is zeroed.  PyTorch makes the very calls,
in one process, and says what its nodes keep and free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradexplain.errors import InputError
from gradexplain.explaining.engine import explanation_of, stages_of
from gradexplain.explaining.running import Extra, Run
from gradexplain.explanation import (
    Accumulated,
    Array,
    Call,
    Check,
    Difference,
    Explanation,
    Note,
    Upstream,
)
from gradexplain.graph import Graph, Node
from gradexplain.numbers import number
from gradexplain.problem import (
    Bound,
    DType,
    Problem,
    Request,
    bound_of,
    problem_at,
    request_of,
)
from gradexplain.reading.arrays import Value, as_array
from gradexplain.routes.calls import CallsQuestion, Part
from gradexplain.routes.pytorch import Asked
from gradexplain.supervisor.within import within
from gradexplain.verdict import compare


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls to make: ``starts`` and ``grads`` pair up, either may be left out or given once.

    Without a start it is the output's ``backward``, without a grad a scalar's 1.
    """

    starts: tuple[str, ...] = ()
    grads: tuple[Value | None, ...] = ()
    zero_grad: bool = False
    retain_graph: bool = True
    retain_grad: tuple[str, ...] = ()
    #: 2: the first backward pass is differentiated too.
    order: int = 1


def explain(
    expression: str,
    *,
    at: Mapping[str, Any] | None = None,
    grad: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    wrt: str | Sequence[str] | None = None,
    dtype: DType | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> Explanation:
    """Explain ``expression.backward(grad)``.

    ``at`` gives the inputs' values and ``grad`` the argument of ``backward`` (in the output's shape),
    each a number, a nested list, a NumPy array, a tensor or ``"ones"``.  ``shapes`` gives the shapes
    of example values for inputs that are not in ``at``; ``wrt`` names the inputs to differentiate by,
    all of them by default; ``dtype`` is float64, or that of the tensors which the expression makes
    itself (``torch.tensor(…, requires_grad=True)``).  ``J`` has the shape ``y.shape + x.shape``
    (numerator layout); a gradient has its input's shape.  Without ``check`` PyTorch is not asked.  With
    ``timeout`` it is done in a process of its own, which is ended after so many seconds, or at 2 GiB.

    Raises `GradexplainError` (`InputError`, `UnsupportedError`, `BudgetError`) with the message of the
    command line.
    """
    grads = () if grad is None else (as_array(grad, "grad"),)
    request = request_of(expression, at, None, shapes, wrt, dtype, check)
    plan = Plan(grads=grads)
    return within(timeout, _explained, request, plan)


def explain_calls(
    expression: str,
    grads: Sequence[Any] = (),
    *,
    starts: Sequence[str] = (),
    at: Mapping[str, Any] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    wrt: str | Sequence[str] | None = None,
    zero_grad: bool = False,
    retain_graph: bool = True,
    retain_grad: str | Sequence[str] = (),
    order: int = 1,
    dtype: DType | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> Explanation:
    """Explain ``start.backward(grad)`` for each of ``starts`` and ``grads``, one after another.

    Without ``starts`` every call is on the output; a grad that is None is a scalar's 1.
    ``zero_grad`` zeroes between calls, ``retain_graph=False`` lets each call free the graph.
    ``retain_grad`` names computed values whose ``.grad`` is kept.  ``order=2`` differentiates the
    first backward pass.  ``timeout`` is `gradexplain.explain`'s.
    """
    names = (retain_grad,) if isinstance(retain_grad, str) else tuple(retain_grad)
    plan = Plan(
        tuple(starts),
        tuple(None if grad is None else as_array(grad, "grads") for grad in grads),
        zero_grad,
        retain_graph,
        names,
        order,
    )
    request = request_of(expression, at, None, shapes, wrt, dtype, check)
    return within(timeout, _explained, request, plan)


def _explained(request: Request, plan: Plan) -> Explanation:
    return explanation_of(*problem_of(request, plan))


def stages(request: Request, plan: Plan) -> Iterator[tuple[str, Explanation]]:
    """``(stage, explanation so far)`` as each stage of `gradexplain.explanation.STAGES` is done."""
    problem, extra = problem_of(request, plan)
    yield from stages_of(Run(problem), extra)


@dataclass(frozen=True, slots=True)
class _Made:
    """One call of backward: ``zeroed`` are the values whose ``.grad`` is zeroed before it."""

    start: Node
    grad: Value | None
    retain_graph: bool
    zeroed: frozenset[str] = frozenset()
    #: The inputs that it asks for; None for all.
    wanted: tuple[str, ...] | None = None


def problem_of(request: Request, plan: Plan) -> tuple[Problem, Extra | None]:
    """The problem of the first call, and what is explained beside it: the others, or a second pass."""
    calls = _paired(plan)
    bound = bound_of(replace(request, grad=calls[0][1]))
    if len(bound.reading.calls) > 1:
        made = _of_text(bound, plan)
    else:
        every = frozenset(node.label for node in bound.graph.nodes)
        made = [
            _Made(
                _start(bound.graph, name), grad, plan.retain_graph,
                every if plan.zero_grad and place else frozenset(),
            )
            for place, (name, grad) in enumerate(calls)
        ]  # fmt: skip
    starts = [call.start for call in made]
    retain = tuple(_retained(bound.graph, name, starts) for name in plan.retain_grad)
    retain = tuple(dict.fromkeys((*bound.reading.retain, *retain)))
    problems = [
        _problem(request, bound, call, retain, reached_only=place > 0)
        for place, call in enumerate(made)
    ]
    if plan.order == 2:
        from gradexplain.second.twice import SecondPass

        if len(made) > 1 or plan.zero_grad or not plan.retain_graph:
            raise InputError(
                "--order 2 differentiates one backward call, found several",
                remedy="leave --order out, or give one --grad",
            )
        return SecondPass.added_to(problems[0])
    if len(made) == 1:
        if plan.zero_grad:
            raise InputError(
                "--zero-grad zeroes between calls of backward, and there is one call",
                remedy="give --grad or --from once for each call",
            )
        if plan.retain_graph:
            return replace(problems[0], shared=None), None
        # The second call is the one that the user asks about.
        made, problems = made * 2, problems * 2
    several = _Several(bound, made, problems, retain)
    return replace(problems[0], asked=several.part(0, last=True)), several


def _of_text(bound: Bound, plan: Plan) -> list[_Made]:
    """The calls that the text makes."""
    if plan.starts or plan.grads or plan.zero_grad:
        raise InputError(
            f"the text calls backward {len(bound.reading.calls)} times itself",
            remedy="leave --grad, --from and --zero-grad out, or delete the calls in the text",
        )
    return [
        _Made(bound.graph[call.start], call.v, call.retain_graph, call.zeroed, call.wanted)
        for call in bound.reading.calls
    ]


def _paired(plan: Plan) -> list[tuple[str | None, Value | None]]:
    """``(start, grad)`` of each call."""
    starts: tuple[str | None, ...] = plan.starts or (None,)
    grads: tuple[Value | None, ...] = plan.grads or (None,) * len(starts)
    if len(starts) == 1:
        starts *= len(grads)
    if len(starts) != len(grads):
        raise InputError(
            f"--from is given {len(starts)} times and --grad {len(grads)} times: each start takes "
            "its own v",
            remedy="give one --grad for each --from, in the same order (ones and 1 are values too)",
        )
    return list(zip(starts, grads, strict=True))


def _problem(
    request: Request, bound: Bound, call: _Made, retain: tuple[str, ...], *, reached_only: bool
) -> Problem:
    start = call.start
    graph = bound.graph
    if start.id != graph.output:
        graph = graph.at(start.id)
    problem = problem_at(replace(request, grad=call.grad), bound, graph)
    if call.wanted is not None:
        wanted = tuple(name for name in problem.wanted if name in call.wanted)
        problem = replace(problem, wanted=wanted or problem.wanted)
    if start.id not in bound.graph.reach(problem.wanted):
        raise InputError(
            f"{start.label} does not require grad: it depends on no input that does",
            remedy="start from a value that depends on one of the inputs in --wrt "
            f"({', '.join(problem.wanted) or 'none'})",
        )
    if reached_only:
        reached = [n for n in problem.wanted if start.id in graph.reach([n])]
        problem = replace(problem, wanted=tuple(reached))
    return replace(problem, retain=retain)


# -- names ---------------------------------------------------------------------------------------


def _start(graph: Graph, name: str | None) -> Node:
    """The value on which backward is called."""
    if name is None:
        return graph.out
    node = _named(graph, name, "--from")
    if node.op is None:
        raise InputError(
            f"{name} is an input: nothing was computed, so there is nothing to go back through",
            remedy=f"backward starts from a computed value: {_computed(graph)}; on {name} itself "
            f"it would only add v to {name}.grad",
        )
    return node


def _retained(graph: Graph, name: str, starts: Sequence[Node]) -> str:
    """The label of a value whose ``.grad`` is kept."""
    node = _named(graph, name, "--retain-grad")
    if node.op is None:
        raise InputError(
            f"{name} is an input: PyTorch keeps its .grad anyway",
            remedy=f"--retain-grad is for computed values: {_computed(graph)}",
        )
    if not any(node.id in graph.at(start.id).needed() for start in starts):
        where = ", ".join(dict.fromkeys(start.label for start in starts))
        raise InputError(
            f"{name} plays no part in {where}, so no gradient flows into it",
            remedy="name a value on the way",
        )
    return node.label


def _named(graph: Graph, name: str, option: str) -> Node:
    """The value that a name stands for at the end of the program: ``x = x*2`` gives x a new one."""
    found = graph.latest(name)
    if found is None:
        known = _computed(graph)
        raise InputError(
            f"{option} {name}: no value has that name; the computed values are: {known}",
            remedy="give the value a name in the expression, as in `h = x*w; (h**2).sum()`",
        )
    if found.integer:
        raise InputError(
            f"{option} {name}: {name} holds no real numbers, so no gradient flows into it",
            remedy=f"name one of the computed values: {_computed(graph)}",
        )
    return found


def _computed(graph: Graph) -> str:
    names = [n.label for n in graph.nodes if n.op is not None and n.named and not n.integer]
    return ", ".join(names[-12:]) or "none"


# -- several calls -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Several:
    """The calls beyond the first, and what all of them leave in ``.grad``."""

    bound: Bound
    made: list[_Made]
    problems: list[Problem]
    retain: tuple[str, ...]
    shared: Asked | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        first = self.problems[0]
        if not first.check:
            return
        question = CallsQuestion(
            self.bound.graph,
            self.bound.values,
            tuple(call.start.id for call in self.made),
            tuple(problem.v for problem in self.problems),
            tuple(dict.fromkeys(name for problem in self.problems for name in problem.wanted)),
            self.retain,
            first.dtype,
            tuple(call.zeroed for call in self.made),
            tuple(call.retain_graph for call in self.made),
            tuple(problem.wanted for problem in self.problems),
            not self.bound.reading.returned and any(call.wanted for call in self.made),
        )
        self.shared = Asked(question)

    def part(self, number: int, *, last: bool = False) -> Part | None:
        """PyTorch's answer to one call, as if it were the only one."""
        if self.shared is None:
            return None
        return Part(self.shared, lambda answer: answer.alone[number], last)

    def begin(self, run: Run) -> None:
        for place, (made, problem) in enumerate(zip(self.made, self.problems, strict=True)):
            grad = run.explanation.grad
            if place:
                grad = Upstream(problem.v, problem.v_source, "", grad.name)
            zeroed = place > 0 and set(problem.wanted) <= made.zeroed
            run.explanation.calls.append(
                Call(place + 1, made.start.label, grad, made.retain_graph, zeroed)
            )

    def further(self, run: Run) -> list[Check]:
        x = run.explanation
        explanations = [x]
        for place, (call, problem) in enumerate(zip(x.calls, self.problems, strict=True)):
            if place == 0:
                continue
            made = explanation_of(replace(problem, asked=self.part(place)))
            call.explanation = made
            call.grad = made.grad
            explanations.append(made)
        answer = None if self.shared is None else self.shared.answer()
        if answer is not None and answer.error:
            answer = None
        differences = self._accumulate(x, explanations, answer)
        frees = any(not call.retain_graph for call in self.made[:-1])
        if self.bound.reading.calls:
            # The text's own calls may each have a graph of their own.
            frees = any(call.error for call in x.calls)
        if answer is not None and frees:
            # Of the values that the first call goes through.
            first = self.bound.graph.at(self.made[0].start.id)
            used = {first[id].label for id in first.needed()}
            x.saved = [saved for saved in answer.saved if saved.node in used]
        x.notes += _notes(x, answer, frees=frees, returned=self.bound.reading.returned)
        checks = [made.check for made in explanations[1:] if made.check is not None]
        if differences:
            checks.append(Check("mismatch", run.problem.dtype, None, differences))
        # The notes of a later call that the first one's do not have.
        said = {note.text for note in x.notes}
        for made in explanations[1:]:
            x.notes += [n for n in made.notes if n.text not in said and n.kind != "no gradient"]
            said |= {note.text for note in made.notes}
        return checks

    def _accumulate(
        self, x: Explanation, explanations: Sequence[Explanation], answer: Any
    ) -> list[Difference]:
        """Fill each call's ``gradients``; where PyTorch has other sums, the differences."""
        differences: list[Difference] = []
        names = [*dict.fromkeys(n for x in explanations for n in x.gradients), *self.retain]
        total: dict[str, Array | None] = dict.fromkeys(names)
        #: The same sum of PyTorch's own numbers, with what adding them may round away.
        real: dict[str, Array | None] = dict.fromkeys(names)
        slack: dict[str, Any] = dict.fromkeys(names, 0.0)
        unit = 4 * compare.FORMATS[explanations[0].dtype].unit
        for place, (call, made) in enumerate(zip(x.calls, explanations, strict=True)):
            if answer is not None and place >= len(answer.after):
                break
            if answer is not None and answer.failed and place == len(answer.after) - 1:
                call.error, call.failed_at = answer.failed, answer.failed_at
            start, zeroed = self.made[place].start, self.made[place].zeroed
            for name in names:
                node = self.bound.graph.by_label(name)
                assert node is not None
                gradient = made.gradients.get(name) or made.intermediates.get(name)
                added = None
                if gradient is not None and start.id in self.bound.graph.downstream({node.id}):
                    added = gradient.value
                before = None if name in zeroed else total[name]
                allowed = 0.0 if name in zeroed else slack[name]
                after = before
                own = None if name in zeroed else real[name]
                if added is not None and gradient is not None:
                    after = added if before is None else before + added
                    if gradient.torch is not None:
                        own = gradient.torch if own is None else own + gradient.torch
                        with np.errstate(all="ignore"):
                            rounded = np.nan_to_num(unit * np.abs(own), nan=0.0, posinf=0.0)
                        allowed = allowed + rounded
                kept = None if answer is None else answer.after[place].get(name)
                tolerance = np.broadcast_to(np.asarray(allowed, dtype=np.float64), node.shape)
                entry = Accumulated(added, after, kept, tolerance)
                if call.error:
                    # How far the call got is PyTorch's own affair.
                    entry.added = entry.after = None
                elif answer is not None:
                    entry.verdict = "agree"
                    difference = _differs(name, own, kept, tolerance)
                    if difference is not None:
                        entry.verdict = "mismatch"
                        differences.append(difference)
                call.gradients[name] = entry
                total[name], real[name], slack[name] = after, own, allowed
        return differences


def _differs(
    name: str, after: Array | None, kept: Array | None, tolerance: Array
) -> Difference | None:
    routes = "the sum of PyTorch's calls", "PyTorch's .grad"
    if after is None or kept is None:
        if after is None and kept is None:
            return None
        one, other = (float("nan") if a is None else float(a.flat[0]) for a in (after, kept))
        return Difference(name, routes, (), (one, other), 0.0, 1)
    return compare.worst(name, routes, after, kept, tolerance)


# -- notes ---------------------------------------------------------------------------------------


_SAID = {
    "zeroed": "optimizer.zero_grad() sets every .grad to None before each call after the first, so that "
    ".grad holds the last call's gradient alone.",
    "returned": "torch.autograd.grad returns the gradients of each call and adds nothing to any .grad.",
}


def _notes(x: Explanation, answer: Any, *, frees: bool, returned: bool) -> list[Note]:
    zeroed = all(call.zeroed for call in x.calls[1:])
    kind = "returned" if returned else "zeroed" if zeroed else ""
    notes = [Note(kind, _SAID[kind]) if kind else _summed(x)]
    if frees:
        notes.append(_freed(x, answer))
    return [note for note in notes if note is not None]


def _summed(x: Explanation) -> Note | None:
    """The sum that ``.grad`` is by now, in numbers where it is short."""
    last = [call for call in x.calls if call.gradients and not call.error]
    since = max((place for place, call in enumerate(last) if call.zeroed), default=0)
    last = last[since:]
    if len(last) < 2:
        return None
    for name, entry in last[-1].gradients.items():
        parts = [call.gradients[name].added for call in last]
        if entry.after is None or any(part is None or part.size == 0 for part in parts):
            continue
        place = (0,) * entry.after.ndim
        where = f"[{','.join('0' * entry.after.ndim)}]" if place else ""
        shown = [number(float(part[place])) for part in parts if part is not None]
        total = " + ".join(f"({n})" if n.startswith("-") and k else n for k, n in enumerate(shown))
        sentence = (
            f"After call {last[-1].number} {name}.grad{where} is {total} = "
            f"{number(float(entry.after[place]))}: backward adds to .grad, it does not replace it. "
            f"It goes on until .grad is zeroed, by optimizer.zero_grad() or {name}.grad = None "
            "(--zero-grad)."
        )
        return Note("accumulation", sentence, {"input": name})
    return Note(
        "accumulation",
        "backward adds to .grad, it does not replace it, until .grad is zeroed (--zero-grad).",
    )


def _freed(x: Explanation, answer: Any) -> Note | None:
    """Why a further call fails, or why it does not."""
    failed = next((call for call in x.calls if call.error), None)
    holding = list(dict.fromkeys(saved.node for saved in x.saved if saved.names))
    if answer is None or failed is None:
        text = "No call fails although the graph was not retained: "
        if answer is None:
            text = (
                "Without retain_graph=True each call frees what the operations it went through have "
                "saved; whether a further call fails is for PyTorch to say, which was not asked."
            )
        elif holding:
            text += "what call 1 freed is needed by none of the others."
        else:
            text += "the operations on the way save no tensors for backward, so there was nothing to free."
        return Note("freed graph", text)
    moved = []
    before = x.calls[failed.number - 2]
    for name, entry in failed.gradients.items():
        earlier = before.gradients[name].torch
        if entry.torch is not None and (
            earlier is None or not np.array_equal(entry.torch, earlier, True)
        ):
            moved.append(name)
    partly = ""
    if moved:
        partly = (
            f" Beware: it had come as far as {' and '.join(f'{name}.grad' for name in moved)} by "
            "then, and what it added there stays."
        )
    at = f" in the backward of {failed.failed_at}" if failed.failed_at else ""
    return Note(
        "freed graph",
        f"Call {failed.number} fails{at}: call 1 freed the tensors that its operations had saved "
        f"(of {', '.join(holding[:8])}{', …' if len(holding) > 8 else ''}).{partly} Remedies: "
        "retain_graph=True on every call but the last; or one call on the sum of the losses; or "
        "the forward computation again.",
        {"call": failed.number, "node": failed.failed_at, "moved": moved},
    )
