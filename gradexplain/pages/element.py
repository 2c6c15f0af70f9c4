"""One element of a gradient in full: the sum that ``backward`` is, and by paths where there are several."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

from gradexplain.document import model as doc
from gradexplain.explanation import Element
from gradexplain.pages.page import Page
from gradexplain.pages.verdict import verdict
from gradexplain.pages.words import letters_for, signed, value
from gradexplain.tensors import spot


def element(made: Page) -> Iterable[doc.Block]:
    found = made.x.element
    if found is None or not all(isfinite(path.value) for path in found.paths):
        return  # what is infinite on one way does not add up to what the formula gives
    lines = list(sums(made, found))
    if not lines:
        return
    where = spot(f"{found.input}.grad", found.index)
    yield doc.Heading("One element", f"{where} is a sum")
    yield from lines


def sums(made: Page, found: Element) -> Iterable[doc.Block]:
    v, y = made.x.grad.name, made.x.output.name
    where = spot(f"{found.input}.grad", found.index)
    below = spot(found.input, found.index)
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
        yield doc.Formula(
            f"{where} = Σ_{under} {v}[{index}]·∂{y}[{index}]/∂{below} = {worked}{more} = {total}"
        )
        if found.asked:
            rows = [
                doc.row(
                    doc.math(spot(y, e.output)),
                    doc.math(f"∂{spot(y, e.output)}/∂{below} = {made.number(e.slope)}"),
                    doc.math(f"{spot(v, e.output)} = {made.number(e.v)}"),
                    doc.math(f"{made.number(e.v * e.slope)}"),
                )
                for e in found.entries
            ]
            yield doc.Table(tuple(rows), indent=4)
    if len(found.paths) > 1 or (found.asked and found.paths):
        sides: list[str | doc.Span] = [doc.math(where), " ="]
        for place, (way, value) in enumerate(ways(found).items()):
            sides += [" +" * bool(place) + f" (via {way}) "]
            sides.append(doc.math(signed(made.number(value))))
        if len(found.paths) > 1:
            sides += [" = ", doc.math(total)]
        yield doc.prose(*sides, hang=4)
        if found.asked:
            for path in found.paths:
                way = " → ".join([found.input, *path.through])
                yield doc.prose(
                    doc.math(way), doc.label(f"  contributes {made.number(path.value)}"), indent=4
                )


def ways(found: Element) -> dict[str, float]:
    """What comes along each path, by where it leaves the others; by the first step, where paths that
    part and meet again and again cannot be told by one."""
    names = []
    for path in found.paths:
        others = [p.through[0] for p in found.paths if p.through != path.through]
        names.append(next((step for step in path.through if step not in others), path.through[0]))
    if len(set(names)) < len(names):
        names = [path.through[0] for path in found.paths]
    values = dict.fromkeys(names, 0.0)
    for way, path in zip(names, found.paths, strict=True):
        values[way] += path.value
    return values


def entry(made: Page) -> Iterable[doc.Block]:
    """What is left to say of an element that was asked for: the whole gradient, the verdict."""
    found = made.x.element
    if found is None:
        return
    gradient = made.x.gradients[found.input]
    left, right = made.formula(gradient)
    yield doc.Heading("The whole")
    yield doc.Formula(f"{left} = {right}")
    yield value(gradient.value, found.input)
    yield from verdict(made.x.check, [gradient], made.options.precision)
