"""One element of a gradient in full: the sum that ``backward`` is, and by paths where there are several."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import TYPE_CHECKING

from gradexplain.document.model import (
    Block,
    Formula,
    Heading,
    Paragraph,
    Span,
    Table,
    Tensor,
    cell,
    label,
    line,
    math,
)
from gradexplain.explanation import Element
from gradexplain.pages.verdict import verdict
from gradexplain.pages.words import letters_for, signed, spot_of

if TYPE_CHECKING:
    from gradexplain.pages.run import Page


def element(made: Page) -> Iterable[Block]:
    found = made.x.element
    if found is None or not all(isfinite(path.value) for path in found.paths):
        return  # what is infinite on one way does not add up to what the formula gives
    lines = list(sums(made, found))
    if not lines:
        return
    spot = spot_of(f"{found.input}.grad", found.index)
    yield Heading("One element", f"{spot} is a sum")
    yield from lines


def sums(made: Page, found: Element) -> Iterable[Block]:
    v, y = made.x.grad.name, made.x.output.name
    spot = spot_of(f"{found.input}.grad", found.index)
    below = spot_of(found.input, found.index)
    total = made.number(found.value)
    if not made.scalar and found.entries and (len(found.entries) > 1 or found.asked):
        shown = found.entries[:8]
        more = " + …" if len(found.entries) > len(shown) else ""
        letters = letters_for(len(made.x.output.shape), {*made.x.inputs, v, y})
        index = ",".join(letters)
        under = index if len(letters) == 1 else "{" + index + "}"
        worked = " + ".join(
            f"{signed(made.number(e.v))}·{signed(made.number(e.slope))}" for e in shown
        )
        yield Formula(
            f"{spot} = Σ_{under} {v}[{index}]·∂{y}[{index}]/∂{below} = {worked}{more} = {total}"
        )
        if found.asked:
            rows = [
                (
                    cell(math(spot_of(y, e.output))),
                    cell(math(f"∂{spot_of(y, e.output)}/∂{below} = {made.number(e.slope)}")),
                    cell(math(f"{spot_of(v, e.output)} = {made.number(e.v)}")),
                    cell(math(f"{made.number(e.v * e.slope)}")),
                )
                for e in found.entries
            ]
            yield Table(tuple(rows), indent=4)
    if len(found.paths) > 1 or (found.asked and found.paths):
        sides: list[str | Span] = [math(spot), " ="]
        for place, path in enumerate(found.paths):
            sides += [" +" * bool(place) + f" (via {via(found, path.through)}) "]
            sides.append(math(signed(made.number(path.value))))
        if len(found.paths) > 1:
            sides += [" = ", math(total)]
        yield Paragraph(line(*sides), hang=4)
        if found.asked:
            for path in found.paths:
                way = " → ".join([found.input, *path.through])
                yield Paragraph(
                    line(math(way), label(f"  contributes {made.number(path.value)}")), indent=4
                )


def via(found: Element, through: tuple[str, ...]) -> str:
    """What tells one path from the others: where it leaves them."""
    others = [p.through for p in found.paths if p.through != through]
    return next(
        (step for step in through if all(step != other[0] for other in others)),
        through[0],
    )


def entry(made: Page) -> Iterable[Block]:
    """What is left to say of an element that was asked for: the whole gradient, the verdict."""
    found = made.x.element
    if found is None:
        return
    gradient = made.x.gradients[found.input]
    left, right = made.formula(gradient)
    yield Heading("The whole")
    yield Formula(f"{left} = {right}")
    yield Table(((cell(label("value")), (Tensor(gradient.value, of=found.input),)),), indent=4)
    yield from verdict(made.x.check, [gradient], made.options.precision)
