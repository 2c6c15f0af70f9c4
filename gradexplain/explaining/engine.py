"""From a request to an `Explanation`, stage by stage.

The first stage needs neither SymPy nor PyTorch; PyTorch is asked in a process of its own at the start
and answers at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from gradexplain.explaining.between import intermediates, stops
from gradexplain.explaining.running import Extra, Run
from gradexplain.explanation import (
    FURTHER,
    STAGES,
    Array,
    Check,
    Explanation,
    ForwardRow,
    Gradient,
    Jacobian,
    Step,
)
from gradexplain.graph import Node, labels_of, op_call
from gradexplain.problem import Problem
from gradexplain.routes.names import free_name, own_texts, quoted
from gradexplain.verdict import compare, fold
from gradexplain.verdict import digits as measure

#: J is shown as a matrix of numbers up to this many entries.
SHOWN_ENTRIES = 64

#: Of a graph with more nodes no short formulas are looked for.
_LARGE = 200


def stages_of(run: Run, extra: Extra | None = None) -> Iterator[tuple[str, Explanation]]:
    """The stages of one problem's explanation, see `stages`; ``extra`` is explained beside it."""
    try:
        if extra is not None:
            extra.begin(run)
        # Filled when the run was made: nothing is left to derive.
        yield STAGES[0], run.explanation
        run.name()
        made = _forward, _jacobian, _steps, _gradients
        for stage, make in zip(STAGES[1:-1], made, strict=True):
            with _digits(run):
                make(run)
            yield stage, run.explanation
        others = []
        if extra is not None:
            others = extra.further(run)
            yield FURTHER, run.explanation
        with _digits(run):
            _check(run, others)
        yield STAGES[-1], run.explanation
    finally:
        run.close()


def explanation_of(problem: Problem, extra: Extra | None = None) -> Explanation:
    """The complete explanation of one problem."""
    *_, (_, explanation) = stages_of(Run(problem), extra)
    return explanation


@contextmanager
def _digits(run: Run) -> Iterator[None]:
    """The arithmetic of a stage, with the digits that the values need; inf and nan are answers."""
    from gradexplain.arithmetic import mp

    _ = run.chain  # with it the digits are settled
    with np.errstate(all="ignore"), mp.workdps(run.precision or mp.dps):
        yield


def _forward(run: Run) -> None:
    for leaf in run.leaves:
        # What takes longest, while PyTorch computes.
        run.written.jacobian(leaf)
    labels = labels_of(run.graph)
    needed = run.graph.needed()
    parts = run.graph.parts()
    texts = own_texts(run.graph)
    real = run.real
    for node in run.graph.nodes:
        if node.op is None or node.id not in needed:
            continue
        exact = run.clean(run.chain.forward[node.id])
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
            grad_fn="" if real is None else real.functions.get(node.id, "").rstrip("0123456789"),
        )
        if real is not None and _shown_apart(value, exact, run.problem.dtype):
            row.exact = exact
        run.explanation.forward.append(row)
        if node.id == run.graph.output:
            run.explanation.output.value = value
    if run.explanation.output.value is None:
        run.explanation.output.value = run.clean(run.chain.forward[run.graph.output])


def _jacobian(run: Run) -> None:
    for leaf in run.leaves:
        shown, structure = run.written.jacobian(leaf)
        shape = run.graph.out.shape + leaf.shape
        value = None
        if math.prod(shape) <= SHOWN_ENTRIES:
            value = run.clean(run.closed.jacobian_value(leaf))
        run.explanation.jacobian[leaf.label] = Jacobian(
            leaf.label, shown.formula, shown.text, shown.latex, shown.where, shown.ranges,
            structure, shape, value,
        )  # fmt: skip


def _steps(run: Run) -> None:
    from gradexplain.explaining.answers import step_said
    from gradexplain.routes.steps import step_texts

    run.explanation.stops = stops(run.graph, run.wanted)

    uses: dict[int, int] = {}
    for c in run.chain.contributions:
        uses[c.source.id] = uses.get(c.source.id, 0) + 1
    seen: dict[int, int] = {}
    labels = labels_of(run.graph)
    names = quoted(run.graph, own_texts(run.graph))
    g = free_name(run.graph, "g", "g_out", "grad_output")
    for c in run.chain.contributions:
        seen[c.source.id] = seen.get(c.source.id, 0) + 1
        last = seen[c.source.id] == uses[c.source.id] > 1
        rule, contribution, numbers = step_texts(
            c, run.graph, labels, run.closed, run.clean, run.chain
        )
        assert c.node.op is not None
        run.explanation.steps.append(
            Step(
                node=c.node.label,
                op=c.node.op.name,
                input=c.source.label,
                upstream=run.clean(run.chain.upstream[c.node.id]),
                rule=rule,
                contribution_rule=contribution,
                numbers=numbers,
                contribution=run.clean(c.value),
                total=run.clean(run.chain.upstream[c.source.id]) if last else None,
                uses=uses[c.source.id],
                short=run.closed.remembered(
                    ("said", c.node.id, c.place),
                    partial(step_said, c, run.graph, names, g, run.closed),
                ),
            )
        )


def _gradients(run: Run) -> None:
    if run.judging.steps is not None:
        for step, c in zip(run.explanation.steps, run.chain.contributions, strict=True):
            found = run.judging.steps.steps.get((c.node.id, c.source.id))
            for name, value in {} if found is None else found.numbers().items():
                setattr(step, name, value)
    for leaf in run.leaves:
        shown = run.written.gradient(leaf)
        gradient = Gradient(
            leaf.label, shown.formula, shown.text, shown.latex, shown.where, shown.ranges,
            **run.judging.routes(leaf, partial(_closed_value, run, leaf)),
        )  # fmt: skip
        run.explanation.gradients[leaf.label] = gradient
    if run.between:
        run.explanation.intermediates = intermediates(run)
    _answers(run)


def _closed_value(run: Run, leaf: Node) -> Any:
    """The closed form's value, with more digits where those of the chain rule leave too few."""
    from gradexplain.arithmetic import mp
    from gradexplain.routes.chain import MORE_DIGITS, certain, noise

    pair, digits = run.closed.gradient_value(leaf), run.precision
    if not run.exact and leaf is run.leaves[-1]:
        run.closed.release()
    if run.exact and digits < MORE_DIGITS and not certain(pair, digits):
        with mp.workdps(MORE_DIGITS):
            again = run.closed.at(run.values, run.v, exact=True)
            value, size = again.gradient_value(leaf)
            return np.where(noise((value, size)), mp.zero, value), np.zeros_like(size)
    return pair


def _answers(run: Run) -> None:
    """The gradients in their shortest notation, and one element in full."""
    if run.problem.scalar or len(run.graph.nodes) > _LARGE:
        return
    from gradexplain.explaining.answers import element_in_full, said

    key = "answers", run.problem.v_source
    found = run.closed.remembered(key, lambda: said(run))
    for name, text in found.gradients.items():
        run.explanation.gradients[name].short = text
    if run.problem.check:
        from gradexplain.explaining.beside import lines

        each, run.explanation.code = lines(run)
        for name, text in each.items():
            run.explanation.gradients[name].line = text
    run.explanation.definitions = found.definitions
    run.explanation.element = element_in_full(run, run.problem.element)


def _check(run: Run, others: Sequence[Check]) -> None:
    from gradexplain.explaining.notes import notes
    from gradexplain.explaining.questions import questions

    explanation = run.explanation
    found = explanation.gradients.values(), explanation.intermediates.values()
    explanation.check = fold.fold([run.judging.check(*found), *others])
    explanation.notes += notes(run)
    explanation.notes += questions(run)


def _shown_apart(value: Array, exact: Array, dtype: str) -> bool:
    """Whether two arrays differ in the digits that a page shows and the dtype has."""
    shown = min(6.0, measure.in_format(dtype) - 1)
    near = 10.0 ** (-shown - 0.1)
    return any(
        not (np.abs(value[part] - exact[part]) <= near * np.abs(exact[part])).all()
        and (measure.right(value[part], exact[part], dtype) < shown).any()
        for part in compare.blocks(value.shape)
    )
