"""The page of ``run``: the question, the graph, the answer, one element in full, then the derivation.

Answer first, everything said once, what is trivial in words.  `Options.full` adds what is left out,
`Options.brief` leaves the answer alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.explanation import Explanation
from gradexplain.pages import calls
from gradexplain.pages.chain import chain
from gradexplain.pages.element import element, entry
from gradexplain.pages.graph import graph_of
from gradexplain.pages.jacobian import jacobian
from gradexplain.pages.options import Options
from gradexplain.pages.page import Page, program
from gradexplain.pages.words import value
from gradexplain.texts import listed


def page(x: Explanation, options: Options | None = None) -> doc.Document:
    """The whole page of one ``backward``."""
    made = Page(x, options or Options())
    return doc.Document(made.title, tuple(_blocks(made)))


def opening(x: Explanation) -> doc.Document:
    """What the page begins with, which is known before anything is derived."""
    return doc.Document("", (program(x),))


def why(x: Explanation, options: Options | None = None) -> doc.Document:
    """One element of a gradient alone."""
    made = Page(x, options or Options())
    blocks = (*made.question(), *made.stepper(), *element(made), *entry(made))
    return doc.Document(made.title, blocks)


def _blocks(made: Page) -> Iterable[doc.Block]:
    x = made.x
    yield from made.question()
    if made.options.brief:
        yield from made.answer()
        yield from calls.short(x)
        return
    yield from filter(None, [graph_of(x)])
    yield from made.stepper()
    yield from made.answer()
    yield from _between(made)
    yield from element(made)
    yield from jacobian(made)
    yield from chain(made)
    if x.second is not None:
        yield from calls.second(made, x.second)
    if x.calls:
        yield from calls.calls(made)
    yield from made.notes()


def _between(made: Page) -> Iterable[doc.Block]:
    """Where backward could have started, with which v."""
    rest = [i for i in made.x.intermediates.values() if not i.retained]
    kept = [i for i in made.x.intermediates.values() if i.retained]
    if kept:
        yield doc.Heading("Retained gradients", ".grad of computed values, kept by retain_grad()")
        for gradient in kept:
            left, right = made.formula(gradient)
            yield doc.Formula(f"{left} = {right}", gradient.ranges)
            yield value(gradient.value)
    if not rest:
        return
    yield doc.Heading(
        "What v is",
        "starting at a value, with the gradient that arrives there as v, gives the same",
    )
    rows = []
    for i in rest:
        gives = [
            f"{how} {listed([f'{n}.grad' for n in of])}"
            for how, of in (("gives", i.whole), ("a part of", i.part))
            if of
        ]
        shown = numbers.tensor(i.value, made.options.precision, 60)
        short = len(shown) == 1 and len(shown[0]) <= 40
        call = f"{i.name}.backward({shown[0] if short else 'v'})"
        said = "; ".join(gives)
        shown_below = () if short else (doc.Tensor(i.value),)
        told = doc.cell(doc.label(said if short else f"{said}, with v ="))
        rows.append(doc.row(doc.code(call, "flow"), (*told, *shown_below)))
    yield doc.Table(tuple(rows))
