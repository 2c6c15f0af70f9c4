"""What a person who asks this may have misunderstood: a one-hot v, v of ones, calls that agree, a
gradient that vanished."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from gradexplain.explaining.running import Run
from gradexplain.explanation import Array, Note
from gradexplain.numbers import number
from gradexplain.plan.arrays import to_float

if TYPE_CHECKING:
    from gradexplain.routes.chain import Sent

#: An operation that lets less of the gradient through than this is flat where it stands.
_FLAT = 1e-4


def questions(run: Run) -> list[Note]:
    """The notes, in a fixed order."""
    if run.problem.scalar:
        return []
    found = [*_kind_of_v(run), *_calls(run), *_vanished(run)]
    taken = {note.kind for note in run.explanation.notes}
    return [note for note in found if not taken & {note.kind, "blind vector"}]


def _kind_of_v(run: Run) -> Iterable[Note]:
    x, v = run.explanation, run.v
    y, name = x.output.name, x.grad.name
    if v.size < 2 or not any(g.value.any() for g in x.gradients.values()):
        return
    places = np.argwhere(v != 0)
    if len(places) == 1:
        index = [int(i) for i in places[0]]
        spot, value = f"{y}[{','.join(map(str, index))}]", float(v[tuple(index)])
        times = "" if value == 1 else f"{number(value)} times "
        same = f", the same as {spot}.backward()" if value == 1 else ""
        text = (
            f"{name} is 0 but at {spot}: it picks that row of J, so each .grad is {times}the gradient "
            f"of {spot} alone{same}."
        )
        yield Note("one-hot vector", text, {"index": index})
    elif (v == 1).all():
        text = (
            f"{name} of ones adds up the rows of J: the same as {y}.sum().backward(). Each .grad says "
            f"how the sum of {y} changes, not how one element of {y} does."
        )
        yield Note("ones", text)


def _calls(run: Run) -> Iterable[Note]:
    """Calls that give the same because v is the gradient that arrives there anyway."""
    calls = run.explanation.calls
    for first in calls[:1]:
        for later in calls[1:]:
            node = run.graph.by_label(later.start)
            if node is None or later.start == first.start or node.id not in run.chain.upstream:
                continue
            both = run.clean(run.chain.upstream[node.id]), later.grad.value
            if both[0].shape == both[1].shape and np.allclose(*both, 1e-9, 0, equal_nan=True):
                z, y, v = later.start, first.start, first.grad
                loss = y if v.source == "implicit" else v.loss.partition(" ")[0]
                text = (
                    f"Call {later.number} adds what call {first.number} adds by way of {z}: its v is "
                    f"∂{loss}/∂{z}, just what {y}.backward() sends to {z}."
                )
                yield Note("same gradient", text, {"calls": [first.number, later.number]})


def _vanished(run: Run) -> Iterable[Note]:
    """The first operation, from the output back, that lets next to nothing of the gradient through."""
    for c in run.chain.contributions:
        if len(set(c.node.inputs)) != 1 or c.node.op is None or c.node.op.infix:
            continue
        up = np.abs(to_float(run.chain.upstream[c.node.id][0]))
        sent = np.abs(to_float(c.value[0]))
        finite = np.isfinite(up).all() and np.isfinite(sent).all()
        if not (sent.size and up.any() and finite and sent.max() <= _FLAT * up.max()):
            continue
        texts = {row.node: row.text if not row.named and row.text else row.node
                 for row in run.explanation.forward}  # fmt: skip
        called = texts.get(c.node.label, c.node.label)
        text = _why(run, c, called, up, sent)
        if text:
            yield Note("vanished gradient", text, {"node": c.node.label})
            return


def _why(run: Run, c: Sent, called: str, up: Array, sent: Array) -> str:
    constant = up.size > 1 and (up == up.flat[0]).all() and c.source.shape == c.node.shape
    sums = to_float(run.chain.forward[c.node.id][0]).sum(axis=-1 if constant else None)
    if constant and np.allclose(sums, sums.flat[0], rtol=1e-9, atol=1e-9):  # as those of a softmax
        return (
            f"What arrives at {called} is {number(float(up.flat[0]))} for every element, and that is "
            "cancelled there: the sum of its elements is the same whatever it is made from. Weigh "
            "them differently, as a loss does, and the gradient is not 0."
        )
    values = to_float(run.chain.forward[c.source.id][0])
    if not np.isfinite(values).all() or c.source.shape != c.node.shape:
        return ""
    share = sent.max() / up.max()
    much = "nothing" if share == 0 else f"no more than {number(float(share), 2)}"
    low, high = number(float(values.min()), 3), number(float(values.max()), 3)
    where = low if low == high else f"{low} to {high}"
    other = "; --at gives others" if run.problem.examples else ""
    return (
        f"{called} passes on {much} of the gradient that arrives there: it is flat at the values "
        f"it is made from, {where}{other}."
    )
