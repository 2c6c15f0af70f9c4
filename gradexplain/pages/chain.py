"""The chain rule: a row for each contribution, and the product of the local derivatives of a chain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from gradexplain import numbers
from gradexplain.document.model import (
    Block,
    Cell,
    Fold,
    Formula,
    Heading,
    Line,
    Paragraph,
    Span,
    Table,
    Tensor,
    cell,
    label,
    line,
    math,
    name,
)
from gradexplain.explanation import Array, Step
from gradexplain.pages.words import grouped, ranges_in, spot_of, unwrapped

if TYPE_CHECKING:
    from gradexplain.pages.run import Page

#: A value of the backward pass with more elements is shown with ``--full`` only.
_STEP = 9

#: A matrix among the steps is shown where there are no more steps than this.
_FEW = 8


def chain(made: Page) -> Iterable[Block]:
    x, g = made.x, made.arriving
    if not x.steps:
        return
    yield Heading(
        "Chain rule",
        f"from {x.output.name} back; {g} is what arrives at an operation (PyTorch's grad_output)",
    )
    rows = tuple(_rows(made, g))
    yield Table(rows)
    used = " ".join(step.short for step in x.steps)
    sizes = [ranges_in(gradient.ranges, used, sizes=True) for gradient in x.gradients.values()]
    if known := grouped(sizes):
        yield Paragraph(line(label(known)), indent=4)
    yield from products(made, g)
    if made.options.full:
        yield from _everything(made)


def _rows(made: Page, g: str) -> Iterable[tuple[Cell, ...]]:
    x = made.x
    for node, group in groupby(x.steps, key=lambda step: step.node):
        steps = list(group)
        shown = made.expression(node)
        stops = [stop for stop in x.stops if stop.node == node]
        passing = [s for s in steps if s.short == g and s.contribution.shape == s.upstream.shape]
        if len(passing) == len(steps) > 1 and all(s.total is None for s in steps) and not stops:
            to = ", ".join(made.said.get(s.input, s.input) for s in steps)
            on = label(" on to both" if len(steps) == 2 else " on to all")
            passes = line(label("passes "), Span(g, "flow", "math"), on)
            yield cell(math(shown)), cell(line(label("to "), name(to))), cell(passes)
        else:
            for place, step in enumerate(steps):
                yield _row(made, step, "" if place else shown, g)
        for stop in stops:
            target = name(made.said.get(stop.input, stop.input))
            reason = label(f"stops here: {made.renamed(stop.reason)}")
            yield cell(), cell(line(label("to "), target)), cell(reason)


def _row(made: Page, step: Step, shown: str, g: str) -> tuple[Cell, ...]:
    """One contribution: what it is by, its formula with one element's numbers, its value."""
    target = made.said.get(step.input, step.input)
    parts: list[Line | Tensor] = []
    if said := in_words(step, g):
        parts.append(line(label(said)))
    else:
        worked = work(step)
        rule = made.renamed(step.short or step.contribution_rule)
        parts.append(line(math(rule), label(f"    {worked}" if worked else "")))
        known = step.total is None and made.is_answer(step.input, step.contribution)
        if not known and _fits(made, step.contribution):
            parts.append(Tensor(step.contribution))
    if step.total is not None:
        many = f"the {step.uses} contributions to {target}"
        if step.input in made.x.inputs:
            parts.append(line(label(f"{many} add up to "), name(f"{step.input}.grad")))
        elif _fits(made, step.total):
            parts.append(Tensor(step.total, f"the sum of {many}"))
        else:
            parts.append(line(label(f"{many} add up")))
    head = cell(math(shown)) if shown else cell()
    return head, cell(line(label("to "), name(target))), tuple(parts)


def _fits(made: Page, value: Array) -> bool:
    """Whether a value of the backward pass is shown on the page, or in full only."""
    short = value.ndim < 2 or len(made.x.steps) <= _FEW
    return made.options.full or (value.size <= _STEP and short)


def in_words(step: Step, g: str) -> str:
    """A trivial step in words."""
    if step.short != g:
        return ""
    if step.contribution.shape == step.upstream.shape:
        return f"passes {g} on"
    return f"{g} for every element" if step.contribution.size > step.upstream.size else ""


def work(step: Step) -> str:
    """One element with its numbers, and which: ``3·0.1 = 0.3 at [0]``."""
    if not step.numbers:
        return ""
    _, _, worked = step.numbers.replace("-", "−").partition(" = ")
    left, _, right = worked.rpartition(" = ")
    if left == right:
        return ""
    nonzero = np.argwhere(step.contribution != 0)
    place = tuple(int(i) for i in nonzero[0]) if len(nonzero) else (0,) * step.contribution.ndim
    return f"{worked} at {spot_of('', place)}" if place else worked


# -- the product of a chain ------------------------------------------------------------------------


def products(made: Page, g: str) -> Iterable[Block]:
    """``∂y/∂x = 2·(x + 2) · 3 · 1/N`` for each input whose gradient comes along one chain of
    operations that are taken element by element: a factor for each, the innermost first."""
    x = made.x
    rows: list[tuple[Cell, ...]] = []
    after: dict[str, list[Step]] = {}
    for step in x.steps:
        after.setdefault(step.input, []).append(step)
    for gradient in x.gradients.values():
        way = _way(after, gradient.name, x.output.name)
        if matrices := _matrices(made, way, g):
            rows.append((cell(math(f"∂{x.output.name}/∂{gradient.name} = {matrices}")), ()))
            continue
        factors = [factor(step.short, g) for step in way]
        telling = [_held(made.renamed(f)) for f in factors if f not in ("1", None)]
        merged = made.without_v(gradient)
        if None in factors or len(telling) < 2 or "[" in merged:
            continue
        product = " · ".join(telling)
        text = f"∂{x.output.name}/∂{gradient.name} = {product}"
        text += f" = {merged}" if merged else ""
        rows.append((cell(math(text)), cell(label(_worked(made, way)))))
    if rows:
        yield Paragraph(())
        shown = " ".join(str(span) for row in rows for line in row[0] for span in line)
        order = "the last operation's first" if " @ " in shown else "the first operation's first"
        diagonal = ": the diagonal of J" if x.output.shape and " @ " not in shown else ""
        yield Paragraph(line(f"The local derivatives of a chain multiplied, {order}{diagonal}"))
        yield Table(tuple(rows), indent=4, stacked=True)


def _matrices(made: Page, way: list[Step], g: str) -> str:
    """``W2 @ diag(h·(1 − h)) @ W1``: the Jacobians of a chain of vectors, that of the last operation
    first; "" where it is no such chain."""
    found, held = [], ""
    for step in reversed(way):
        if step.upstream.ndim != 1 or step.contribution.ndim != 1:
            return ""
        rule = made.renamed(step.short)
        if rule.endswith(f" @ {g}"):
            left = rule.removesuffix(f" @ {g}")
            found.append(left[:-1] if left.endswith("ᵀ") else f"{left}ᵀ")
            held = left
        elif step.upstream.shape != step.contribution.shape or (local := factor(rule, g)) is None:
            return ""
        elif local != "1":
            plain = re.fullmatch(r"−?[\d.]+", local)
            found.append(f"({local}·I)" if plain else f"diag({unwrapped(local)})")
    return " @ ".join(found) if held and len(found) > 1 else ""


def _held(text: str) -> str:
    """A factor as it stands in a product."""
    depth, loose = 0, text.startswith("−")
    for place, ch in enumerate(text):
        depth += (ch in "([") - (ch in ")]")
        loose |= depth == 0 and place > 0 and ch in "+−" and text[place - 1] == " "
    return f"({text})" if loose else text


def _way(after: Mapping[str, list[Step]], name: str, output: str) -> list[Step]:
    """The steps from an input to the output, where there is one way; ``after`` those of each value."""
    way: list[Step] = []
    while name != output:
        found = after.get(name, [])
        if len(found) != 1:
            return []
        way += found
        name = found[0].node
    return way


def factor(short: str, g: str) -> str | None:
    """What multiplies ``g``: ``2·y`` of ``2·y·g``, ``1/N`` of ``g/N``; None where it is no factor."""
    if short == g:
        return "1"
    here = rf"(?<!\w){re.escape(g)}(?!\w)"
    bare = re.sub(
        r"\([^()]*\)|(?<![\w)])\[[^\[\]]*\]",
        lambda m: "·" * len(m[0]) if not re.search(here, m[0]) else m[0],
        short,
    )
    if re.search(r"[@ᵀ \[]", bare) or len(re.findall(here, short)) != 1:
        return None
    if re.fullmatch(rf".*·{here}(/.*)?|−?{here}(/.*)?", bare) is None:
        return None
    place = re.search(here, short)
    assert place is not None
    before, after = short[: place.start()].removesuffix("·"), short[place.end() :]
    return (f"{before}1" if before in ("", "−") else before) + after


def _worked(made: Page, way: list[Step]) -> str:
    """The product with one element's numbers: each factor is what a step sent over what arrived."""
    found = made.x.element
    if found is None or found.input != way[0].input:
        return ""
    index = found.index
    factors = []
    for step in way:
        up, sent = step.upstream, step.contribution
        if sent.shape != index_shape(sent, index):
            return ""
        there = index if up.shape == sent.shape else () if up.ndim == 0 else None
        if there is None or up[there] == 0 or not np.isfinite(sent[index]):
            return ""
        factors.append(float(sent[index] / up[there]))
        index = there
    shown = [made.number(f) for f in factors if made.number(f) != "1"]
    if len(shown) < 2:
        return ""
    total = made.number(float(np.prod(factors)))
    spot = spot_of(way[0].input, found.index)
    worked = "·".join(f"({f})" if f.startswith("−") else f for f in shown)
    return f"{worked} = {total} at {spot}"


def index_shape(values: Array, index: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of ``values`` where ``index`` is a place in it."""
    fits = len(index) == values.ndim and all(
        i < n for i, n in zip(index, values.shape, strict=True)
    )
    return values.shape if fits else (-1,)


# -- everything ------------------------------------------------------------------------------------


def _everything(made: Page) -> Iterable[Block]:
    """What ``--full`` adds: the values of every operation, every local derivative."""
    x = made.x
    yield Heading("Forward", "each operation and its value")
    yield Table(
        tuple(
            (
                cell(math(f"{row.node} = {row.expression}")),
                cell(label(numbers.shape(row.shape))),
                (Tensor(row.value),),
            )
            for row in x.forward
        )
    )
    yield Heading("Local derivatives", "of each operation by what it is made from")
    for step in x.steps:
        if step.rule:
            yield Paragraph(line(math(step.rule)))
    for gradient in x.gradients.values():
        yield Fold("index notation", (Formula(gradient.text, gradient.ranges, gradient.where),))
