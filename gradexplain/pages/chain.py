"""The chain rule: a row for each contribution, and the product of the local derivatives of a chain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.explanation import Array, Step
from gradexplain.pages.graph import constants
from gradexplain.pages.page import Page
from gradexplain.pages.steps import factor, in_words, work
from gradexplain.pages.words import definitions, grouped, ranges_in, unwrapped

#: A value of the backward pass with more elements is shown with ``--full`` only.
_STEP = 9

#: A matrix among the steps is shown where there are no more steps than this.
_FEW = 8


def chain(made: Page) -> Iterable[doc.Block]:
    x, g = made.x, made.arriving
    if not x.steps:
        return
    yield heading(x.output.name, g)
    yield doc.Table(tuple(_rows(made, g)))
    used = " ".join(step.short for step in x.steps)
    sizes = [ranges_in(gradient.ranges, used, sizes=True) for gradient in x.gradients.values()]
    if known := grouped(sizes):
        yield doc.remark(known, indent=4)
    yield from products(made, g)
    if made.options.full:
        yield from _everything(made)


def heading(start: str, g: str) -> doc.Heading:
    arrives = f"{g} is what arrives at an operation (PyTorch's grad_output)"
    return doc.Heading("Chain rule", f"from {start} back; {arrives}")


def _rows(made: Page, g: str) -> Iterable[tuple[doc.Cell, ...]]:
    x = made.x
    fixed = constants(x)
    for node, group in groupby(x.steps, key=lambda step: step.node):
        steps = list(group)
        shown = made.expression(node)
        stops = [stop for stop in x.stops if stop.node == node and stop.input not in fixed]
        passing = [s for s in steps if s.short == g and s.contribution.shape == s.upstream.shape]
        if len(passing) == len(steps) > 1 and all(s.total is None for s in steps) and not stops:
            to = ", ".join(made.said.get(s.input, s.input) for s in steps)
            on = doc.label(" on to both" if len(steps) == 2 else " on to all")
            passes = doc.line(doc.label("passes "), doc.Span(g, "flow", "math"), on)
            yield doc.row(doc.math(shown), doc.line(doc.label("to "), doc.name(to)), passes)
        else:
            for place, step in enumerate(steps):
                yield _row(made, step, "" if place else shown, g)
        for stop in stops:
            target = doc.name(made.said.get(stop.input, stop.input))
            reason = doc.label(f"stops here: {made.renamed(stop.reason)}")
            yield doc.row("", doc.line(doc.label("to "), target), reason)


def _row(made: Page, step: Step, shown: str, g: str) -> tuple[doc.Cell, ...]:
    """One contribution: what it is by, its formula with one element's numbers, its value."""
    target = made.said.get(step.input, step.input)
    parts: list[doc.Line | doc.Tensor] = []
    if said := in_words(step, g):
        parts.append(doc.line(doc.label(said)))
    else:
        worked = work(step)
        rule = made.renamed(step.short or step.contribution_rule)
        parts.append(doc.line(doc.math(rule), doc.label(f"    {worked}" if worked else "")))
        known = step.total is None and made.is_answer(step.input, step.contribution)
        if not known and _fits(made, step.contribution):
            parts.append(doc.Tensor(step.contribution))
    if step.total is not None:
        many = f"the {step.uses} contributions to {target}"
        if step.input in made.x.inputs:
            parts.append(doc.line(doc.label(f"{many} add up to "), doc.name(f"{step.input}.grad")))
        elif _fits(made, step.total):
            parts.append(doc.Tensor(step.total, f"the sum of {many}"))
        else:
            parts.append(doc.line(doc.label(f"{many} add up")))
    to = doc.line(doc.label("to "), doc.name(target))
    return doc.row(doc.math(shown) if shown else "", to, tuple(parts))


def _fits(made: Page, value: Array) -> bool:
    """Whether a value of the backward pass is shown on the page, or in full only."""
    short = value.ndim < 2 or len(made.x.steps) <= _FEW
    return made.options.full or (value.size <= _STEP and short)


# -- the product of a chain ------------------------------------------------------------------------


def products(made: Page, g: str) -> Iterable[doc.Block]:
    """``∂y/∂x = 2·(x + 2) · 3 · 1/N`` for each input whose gradient comes along one chain of
    operations that are taken element by element: a factor for each, the innermost first."""
    x = made.x
    shown: list[str] = []
    after: dict[str, list[Step]] = {}
    for step in x.steps:
        after.setdefault(step.input, []).append(step)
    for gradient in x.gradients.values():
        way = _way(after, gradient.name, x.output.name)
        product = _matrices(made, way, g) or _elementwise(made, way, g, made.without_v(gradient))
        shown += [f"∂{x.output.name}/∂{gradient.name} = {product}"] * bool(product)
    if shown:
        yield doc.Paragraph(())
        order = "first operation's first" + ": the diagonal of J" * bool(x.output.shape)
        order = "last operation's first" if any(" @ " in text for text in shown) else order
        yield doc.prose(f"The local derivatives of a chain multiplied, the {order}")
        yield doc.Table(tuple((doc.cell(doc.math(text)),) for text in shown), indent=4)


def _elementwise(made: Page, way: list[Step], g: str, merged: str) -> str:
    factors = [factor(step.short, g) for step in way]
    telling = [_held(made.renamed(f)) for f in factors if f not in ("1", None)]
    if None in factors or len(telling) < 2 or re.search(r"\w\[", merged):
        return ""
    once = merged.replace(" ", "") in ("", "·".join(telling).replace(" ", ""))
    return " · ".join(telling) + ("" if once else f" = {merged}")


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
    outside = re.sub(r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)", "", text)
    return f"({text})" if re.match("−", text) or re.search(" [+−] ", outside) else text


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


# -- everything ------------------------------------------------------------------------------------


def _everything(made: Page) -> Iterable[doc.Block]:
    """What ``--full`` adds: the values of every operation, every local derivative."""
    x = made.x
    yield doc.Heading("Forward", "each operation and its value")
    yield doc.Table(
        tuple(
            doc.row(
                doc.math(f"{row.node} = {row.expression}"),
                doc.label(numbers.shape(row.shape)),
                doc.Tensor(row.value),
            )
            for row in x.forward
        )
    )
    yield doc.Heading("Local derivatives", "of each operation by what it is made from")
    for step in x.steps:
        if step.rule:
            yield doc.prose(doc.math(step.rule))
    for gradient in x.gradients.values():
        formula = doc.Formula(gradient.text, gradient.ranges)
        yield doc.Fold("index notation", (formula, *definitions(gradient.where)))
