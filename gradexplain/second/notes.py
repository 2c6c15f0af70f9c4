"""What is to be noted of a Hessian at its point."""

from __future__ import annotations

from collections.abc import Iterator

from gradexplain.explanation import Note
from gradexplain.second.making import Making
from gradexplain.second.model import WHOLE
from gradexplain.tensors import spot


def notes(made: Making) -> Iterator[Note]:
    """What ``made.hessian`` says beside its numbers."""
    h = made.hessian
    kinks = [point.node for point in made.singular if point.node.op and point.node.op.kink]
    if kinks and not made.broken:
        names = list(dict.fromkeys(node.op.name for node in kinks if node.op))
        yield Note(
            "second-order kink",
            f"There is no second derivative there either: PyTorch differentiates the "
            f"formula that its backward of {' and '.join(names)} chose for the first one.",
            {"nodes": [node.label for node in kinks]},
        )
    for border in made.borders:
        node, at = border.node, border.index
        if node.op is None or node in kinks:
            continue
        yield Note(
            "second-order kink",
            f"{spot(node.label, at)} is where the formula of {node.op.name} "
            "changes: its second derivative may differ on the two sides, and PyTorch takes "
            "that of the side on which its backward stands.",
            {"nodes": [node.label], "index": list(at)},
        )
    if made.undefined:
        yield Note(
            "second-order artefact",
            "The second derivative exists, and the difference quotients of the gradient "
            "tend to the closed form's number: PyTorch's nan is an artefact of its double "
            "backward, which meets 0/0 or 0·inf here.",
        )
    if made.corner:
        yield Note(
            "second-order kink",
            "The gradient has a corner here: its difference quotients tend to the closed "
            "form's number on one side and to PyTorch's on the other.",
        )
    long = [block for block in h.blocks.values() if block.formula is None]
    if long and made.asked.whole:
        yield Note(
            "long",
            f"{len(long)} of the {len(h.blocks)} second derivatives have no formula here: "
            "for these the chain rule and PyTorch alone are compared.",
        )
    if not made.asked.whole:
        yield Note(
            "large",
            f"H has more than {WHOLE}×{WHOLE} entries: it is not computed whole, and the "
            "routes are compared along "
            + ("the vector." if made.asked.u is not None else "a direction of no pattern."),
        )
    if h.symmetric is False:
        yield Note(
            "not symmetric",
            "The mixed derivatives differ with their order here: the point is singular, "
            "and the order in which limits are taken matters.",
        )
    if h.definiteness and not h.constant:
        gradients = h.first.gradients.values()
        if all(not g.value.any() for g in gradients):
            word = {
                "positive definite": "a strict local minimum",
                "negative definite": "a strict local maximum",
                "indefinite": "a saddle point",
            }.get(h.definiteness)
            if word:
                yield Note("stationary", f"The gradient is 0 here, so this is {word}.")
