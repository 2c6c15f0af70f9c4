"""Remarks worth having: where the function is singular, where an infinity arose, a blind ``v``."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gradexplain.explaining.running import Run
from gradexplain.explanation import Array, Note
from gradexplain.graph import Node
from gradexplain.numbers import number
from gradexplain.ops.base import Shape, show_shape
from gradexplain.plan.arrays import to_float, within
from gradexplain.routes.names import own_texts, quoted
from gradexplain.tensors import spot
from gradexplain.texts import listed
from gradexplain.verdict.compare import FORMATS, differs, largest

if TYPE_CHECKING:
    from gradexplain.routes.chain import Sent
    from gradexplain.routes.singular import Singular


def notes(run: Run) -> list[Note]:
    """Every note that applies, in a fixed order."""
    singular = run.judging.singular
    found = _kinks(run, singular)
    explained = {note.data["node"] for note in found}
    lost = _lost(run)
    explained |= {note.data["node"] for note in lost}
    found += [note for note in _infinities(run) if note.data["node"] not in explained]
    found += _stopped(run)
    found += _stretched(run)
    found += _coarse(run)
    found += _conventions(run, singular)
    found += lost
    found += _unreached(run)
    found += _retained(run)
    found += _blind(run)
    return found


def _kinks(run: Run, singular: list[Singular]) -> list[Note]:
    return [kink(point) for point in singular if point.node.op and point.node.op.kink]


def kink(point: Singular) -> Note:
    """What an operation that has no derivative at a point says of it."""
    op, where = point.node.op, spot(point.node.label, point.index)
    assert op is not None
    more = f" (and {point.count - 1} more)" if point.count > 1 else ""
    text = f"{op.name} has no derivative where {where}{more} is computed: {op.kink}."
    data = {"node": point.node.label, "index": list(point.index), "count": point.count}
    return Note("kink", text, data)


def _infinities(run: Run) -> list[Note]:
    """The first node whose value is not finite though its inputs are, forward and backward."""
    graph, chain = run.graph, run.chain
    for node in graph.nodes:
        if node.op is None or node.id not in chain.forward:
            continue
        value = to_float(chain.forward[node.id][0])
        if np.isfinite(value).all():
            continue
        if any(not np.isfinite(to_float(chain.forward[i][0])).all() for i in node.inputs):
            continue
        return [_infinity(run, node, value)]
    c = _first(run, lambda array: ~np.isfinite(array))
    if c is not None:
        value = to_float(c.value[0])
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
        found = _word(float(value[index]))
        source = float(np.asarray(to_float(chain.forward[c.source.id][0]))[index])
        return [
            Note(
                "infinity",
                f"The gradient becomes {found} in {_defined(run, c.node)}, whose derivative is not finite at "
                f"{spot(c.source.label, index)} = {number(source)}.",
                {"node": c.node.label, "index": list(index), "value": found},
            )
        ]
    return []


def _infinity(run: Run, node: Node, value: Array) -> Note:
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(value))[0])
    found = _word(float(value[index]))
    inputs = []
    for id in dict.fromkeys(node.inputs):
        source = run.graph[id]
        array = to_float(run.chain.forward[id][0])
        if source.is_literal:
            continue
        if array.shape == value.shape:
            inputs.append(f"{spot(source.label, index)} = {number(float(array[index]))}")
        elif array.shape == ():
            inputs.append(f"{source.label} = {number(float(array))}")
    place = f" ({', '.join(inputs)})" if inputs else ""
    return Note(
        "infinity",
        f"{spot(node.label, index)} is {found}: it first arises in {_defined(run, node)}{place}.",
        {"node": node.label, "index": list(index), "value": found},
    )


def _defined(run: Run, node: Node) -> str:
    """``y = log(x)``; of a value without a name its text alone."""
    text = own_texts(run.graph)[node.id]
    return f"{node.label} = {_call(run, node)}" if text == node.label else text


def _call(run: Run, node: Node) -> str:
    return next(row.expression for row in run.explanation.forward if row.node == node.label)


def _word(value: float) -> str:
    return "nan" if value != value else "inf" if value > 0 else "-inf"


def _stopped(run: Run) -> list[Note]:
    """What stops a gradient that would have come this way: ``detach``, ``floor``, a comparison."""
    graph = run.graph
    needed = graph.needed()
    reach = graph.reach(run.wanted)
    found: dict[str, Note] = {}
    for node in graph.nodes:
        if node.op is None or not node.op.remark or node.id not in needed:
            continue
        if node.op.name in found or not any(i in reach for i in node.inputs):
            continue
        text = f"{_defined(run, node)}: {node.op.remark}."
        found[node.op.name] = Note("stop", text, {"node": node.label, "op": node.op.name})
    return list(found.values())


def _stretched(run: Run) -> Iterator[Note]:
    """Losses of two tensors that are broadcast against each other, of which PyTorch warns."""
    for node in run.graph.nodes:
        pair = [run.graph[id] for id in node.inputs[:2]]
        if node.op is None or node.op.family != "loss" or len(pair) < 2 or pair[1].integer:
            continue
        one, other = (part.shape for part in pair)
        with suppress(ValueError):  # shapes of its own
            whole = np.broadcast_shapes(one, other)
            if one != other:
                text = (
                    f"{node.op.name} broadcasts {show_shape(one)} against {show_shape(other)} to "
                    f"{show_shape(whole)}: each element of one with each of the other, of which "
                    "PyTorch warns. Where pairs were meant, give both one shape, as by squeeze."
                )
                yield Note("broadcast loss", text, {"node": node.label})


def _coarse(run: Run) -> list[Note]:
    """Where PyTorch's own backward is coarser than its dtype, and it shows."""
    found = next(filter(run.judging.by_kernel, run.judging.differences), None)
    if found is None:
        return []
    ours, theirs = found.values
    place = spot(f"{found.input}.grad", found.index)
    ops = {node.op.name: node.op for node in run.graph.nodes if node.op is not None}
    return [
        Note(
            "precision",
            f"{name}: {kernel.why}. The closed form's number stands; PyTorch's {place} differs from "
            f"it by {number(abs(theirs - ours))}.",
            {"op": name, "relative": kernel.relative},
        )
        for name, op in ops.items()
        for kernel in op.coarse
        if kernel.order == 1
    ]


#: So many places where digits are lost are named.
_PLACES = 3


def _lost(run: Run) -> list[Note]:
    """Where PyTorch's digits went, where a gradient or the output has few of them left."""
    from gradexplain.verdict import digits

    if run.real is None:
        return []
    x, dtype = run.explanation, run.problem.dtype
    gradients = [*x.gradients.values(), *x.intermediates.values()]
    pairs = ((id, run.clean(pair), pair[0]) for id, pair in run.chain.forward.items())
    exact = {id: np.where(np.isinf(array), within(of), array) for id, array, of in pairs}
    end = run.graph.output
    real, true = run.real.forward.get(end), exact.get(end)
    alone = all(gradient.digits is None for gradient in gradients)
    if alone:
        # The gradients have their digits: the output itself may have lost its own.
        if real is None or true is None or not np.isfinite(true).all():
            return []
        if not digits.few(digits.whole(real, true, dtype, 0.0), dtype):
            return []
    names = quoted(run.graph, own_texts(run.graph))
    found = []
    for loss in digits.forward_losses(run.graph, run.real.forward, exact, dtype)[:_PLACES]:
        node, place = loss.node, spot(names.get(loss.node.label, loss.node.label), loss.index)
        call = f"{place} in {node.label} = {_call(run, node)}" if node.named else place
        if call.startswith(f"{node.label} in "):
            call = call.removeprefix(f"{node.label} in ")
        if loss.overflow and not abs(loss.exact) < FORMATS[dtype].largest:
            text = f"{call} is too large for {dtype}: PyTorch has {number(loss.found)}."
        elif loss.overflow:
            text = f"{call} is {number(loss.found)} in PyTorch; its value is {number(loss.exact)}."
        else:
            kept = f"{round(loss.after)} of {loss.of:.0f} digits"
            text = (
                f"{call} has {kept} left in PyTorch, {number(loss.found)} for "
                f"{number(loss.exact)}: they are lost here."
            )
        data = {"node": node.label, "index": list(loss.index), "digits": round(loss.after)}
        text += _instead(run, node, data)
        found.append(Note("overflow" if loss.overflow else "cancellation", text, data))
    return found if found or alone else _lost_on_the_way_back(run)


def _instead(run: Run, node: Node, data: dict[str, Any]) -> str:
    """A known way to write a value that ``node`` is a part of, where it is equal at this point."""
    from gradexplain.arithmetic import mp
    from gradexplain.errors import GradexplainError
    from gradexplain.reading.language import read
    from gradexplain.reading.syntax import parse
    from gradexplain.routes.chain import ChainRule
    from gradexplain.routes.rewrites import rewrites, written

    def value(text: str, values: dict[str, Array]) -> Any:
        graph = read(parse(text), lambda name: values[name].shape, values)
        return np.ravel(ChainRule(graph, values, exact=True).forward[graph.output][0])

    def equal(old: str, new: str, letters: Mapping[str, int]) -> bool:
        values = {letter: to_float(run.chain.forward[id][0]) for letter, id in letters.items()}
        if not run.exact:
            source = np.random.default_rng(0)
            values = {n: source.uniform(0.5, 1.5, (2,) * a.ndim) for n, a in values.items()}
        try:
            with mp.workdps(max(100, run.precision)):
                pairs = [*zip(value(old, values), value(new, values), strict=True)]
                near = mp.mpf(10) ** -30
                known = [(a, b) for a, b in pairs if mp.isfinite(a)]
                return bool(known) and all(abs(a - b) <= near * abs(a) for a, b in known)
        except (GradexplainError, ValueError, ZeroDivisionError):
            return False

    for found in rewrites(run.graph):
        if node.id in found.inside and equal(found.old, found.new, found.letters):
            old, new = found.both(own_texts(run.graph, 60))
            data["instead"] = written(new)
            return f" Write {written(new)} for {ast.unparse(old)}."
    return ""


def _lost_on_the_way_back(run: Run) -> list[Note]:
    """The first value whose gradient has few digits though what was sent to it came of many."""
    from gradexplain.verdict import digits

    assert run.real is not None
    dtype = run.problem.dtype
    for c in run.chain.contributions:
        real = run.real.upstream.get(c.source.id)
        if real is None:
            continue
        left, _ = run.judging.right.worst(c.source, real)
        sources = (run.real.forward.get(i) for i in c.node.inputs)
        if any(a is not None and not np.isfinite(a).all() for a in sources):
            return []  # IEEE's rules for nan and infinities
        if left is not None:
            chosen = any(point.node.id == c.node.id for point in run.judging.singular)
            if chosen or (c.node.op is not None and c.node.op.coarse):
                return []  # said to be a choice of PyTorch's, or its coarse kernel
            sends = _defined(run, c.node)
            text = (
                f"What arrives at {c.source.label} on the way back has {round(left)} of "
                f"{digits.in_format(dtype):.0f} digits left in PyTorch: "
            )
            text += (
                f"what {sends} sends there is a difference of nearly equal numbers."
                if np.isfinite(real).all()
                else f"the backward of {sends} meets 0·inf or 0/0, or overflows, in its arithmetic."
            )
            data = {"node": c.node.label, "input": c.source.label, "digits": round(left)}
            return [Note("cancellation", text, data)]
    return []


def _conventions(run: Run, singular: list[Singular]) -> list[Note]:
    """Why PyTorch's gradient differs at a singular point: one note for each input that is concerned."""
    notes = []
    for gradient in run.explanation.gradients.values():
        torch = gradient.torch
        if gradient.verdict != "convention" or torch is None or not singular:
            continue
        off = differs(gradient.value, torch, gradient.tolerance)
        if not off.any():
            continue
        index = tuple(int(i) for i in np.argwhere(off)[0])
        name = spot(f"{gradient.name}.grad", index)
        ours, theirs = number(float(gradient.value[index])), number(float(torch[index]))
        point = singular[-1].node
        text = (
            f"{name} is {ours} by the closed form and {theirs} in PyTorch: "
            f"{_defined(run, point)} is singular here"
        )
        step = _first(run, np.isnan)
        if np.isnan(torch[index]) and step is not None:
            text += (
                f", and backward multiplies 0 by its infinite derivative: 0·inf = nan arises on the "
                f"way from {step.node.label} to {step.source.label}, an artefact of going step by step."
            )
        elif np.isnan(torch[index]):
            text += ", and PyTorch's arithmetic meets 0/0 or inf - inf there."
        else:
            text += ", and PyTorch's choice is not the limit that the formula has."
        data: dict[str, Any] = {"input": gradient.name, "index": list(index)}
        text += _instead(run, point, data) if np.isnan(torch[index]) else ""
        notes.append(Note("convention", text, data))
    return notes


def _first(run: Run, odd: Callable[[Array], Array]) -> Sent | None:
    """The first step of the backward pass that makes something ``odd`` of what is not."""
    for c in run.chain.contributions:
        made = odd(to_float(c.value[0])).any()
        if made and not odd(to_float(run.chain.upstream[c.node.id][0])).any():
            return c
    return None


def _unreached(run: Run) -> list[Note]:
    names = [
        leaf.label for leaf in run.leaves if not run.graph.reach([leaf.label]) & {run.graph.output}
    ]
    if not names:
        return []
    shown = listed(names)
    them = "it" if len(names) == 1 else "them"
    return [
        Note(
            "no gradient",
            f"No gradient flows from {run.graph.out.label} to {shown}: PyTorch leaves .grad of "
            f"{them} None.",
            {"inputs": names},
        )
    ]


def _retained(run: Run) -> list[Note]:
    names = list(run.problem.retain)
    if not names:
        return []
    shown = listed(names)
    one = names[0]
    return [
        Note(
            "non-leaf",
            f"{shown} {'is computed, not a leaf' if len(names) == 1 else 'are computed, not leaves'}: "
            f"PyTorch keeps the gradient that arrives there in {one}.grad where {one}.retain_grad() is "
            "called before backward; else it goes on with it, drops it, and .grad is None.",
            {"nodes": names},
        )
    ]


def _blind(run: Run) -> list[Note]:
    """A ``v`` for which ``Jᵀv`` is 0 for every input although J is not."""
    gradients = run.explanation.gradients
    if not run.v.any() or not gradients or run.graph.out.shape == ():
        return []
    if any(not np.isfinite(g.value).all() or g.value.any() for g in gradients.values()):
        return []
    if not any(_jacobian_is_not_zero(run, leaf) for leaf in run.leaves):
        return []
    y, v = run.graph.out.label, run.explanation.grad.name
    text = (
        f"{v} is blind: Jᵀ·{v} is 0 for every input although J is not 0, so {y} changes only in "
        f"directions that {v} does not see."
    )
    data: dict[str, Any] = {}
    if (run.v == run.v.flat[0]).all():
        dims = _constant_sums(run)
        if dims is not None:
            if dims == ():
                what = f"the sum of all elements of {y} is"
            else:
                shown = f"dim={dims[0]}" if len(dims) == 1 else f"dim={dims}"
                what = f"the sums {y}.sum({shown}) are"
            text += (
                f" Here {what} the same whatever the inputs are, so ones is a blind test vector."
            )
            data["constant_sum"] = list(dims)
    return [Note("blind vector", text, data)]


def _jacobian_is_not_zero(run: Run, leaf: Node) -> bool:
    """Whether J by ``leaf`` has an entry that is not 0 here."""
    jacobian = run.explanation.jacobian.get(leaf.label)
    if jacobian is not None and jacobian.value is not None:
        return bool(jacobian.value.any())
    if jacobian is None or jacobian.formula == 0:
        return False
    # Another v, of no pattern, sees what this one does not.
    return _typical(run, leaf) > 0


def _constant_sums(run: Run) -> tuple[int, ...] | None:
    """The dims over which the output's sum does not depend on any input; None if there are none.

    One dim where that is enough, else () for all of them.  Looked for by numbers: here and at
    other inputs, with weights of no pattern over the other dims.
    """
    shape = run.graph.out.shape
    choices: list[tuple[int, ...]] = [(d,) for d in range(len(shape)) if len(shape) > 1]
    moved = {name: value * _random(value.shape, 1) for name, value in run.values.items()}
    for dims in [*choices, ()]:
        kept = tuple(1 if d in dims or not dims else n for d, n in enumerate(shape))
        weights = np.broadcast_to(_random(kept, 2), shape)
        if all(
            _vanishes(run, leaf, weights, values)
            for leaf in run.leaves
            for values in (run.values, moved)
        ):
            return dims
    return None


def _vanishes(run: Run, leaf: Node, v: Array, values: Mapping[str, Array]) -> bool:
    """Whether ``Jᵀv`` is 0 at ``values``; of large tensors, beside what it is for a typical v."""
    form = run.closed.at(values, v, exact=run.exact, magnitudes=run.exact)
    pair = form.gradient_value(leaf)
    if run.exact:
        return not run.clean(pair).any()
    return not largest(pair[0]) > 1e-9 * _typical(run, leaf)


def _typical(run: Run, leaf: Node) -> float:
    """The largest element of ``Jᵀv`` for a ``v`` of no pattern."""
    if leaf.label not in run.typical:
        v = _random(run.v.shape, 0)
        form = run.closed.at(run.values, v, exact=run.exact)
        run.typical[leaf.label] = largest(run.clean(form.gradient_value(leaf)))
    return run.typical[leaf.label]


@lru_cache(maxsize=8)
def _random(shape: Shape, seed: int) -> Array:
    """Numbers of no pattern, the same ones every time."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape)
