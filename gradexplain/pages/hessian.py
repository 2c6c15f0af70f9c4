"""The page of ``hessian``: the first derivatives, every second one, what they say, the product H·u."""

from __future__ import annotations

from collections.abc import Iterable

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.pages.options import Options
from gradexplain.pages.page import Page, program
from gradexplain.pages.verdict import notes, routes, side_by_side, verdict
from gradexplain.pages.words import definitions, elements, grouped, ranges_in, spoken, value
from gradexplain.second.model import Hessian
from gradexplain.texts import listed

#: The matrix and its eigenvalues are shown for up to this many elements of all inputs.
_SHOWN = 12

#: How many of the second derivatives that are not written out are named.
_NAMED = 8

_MEANING = {
    "positive definite": "{L} curves upward in every direction",
    "negative definite": "{L} curves downward in every direction",
    "positive semidefinite": "{L} curves upward or not at all",
    "negative semidefinite": "{L} curves downward or not at all",
    "indefinite": "{L} curves upward in some directions and downward in others",
    "zero": "{L} does not curve at all",
}


def page(h: Hessian, options: Options | None = None) -> doc.Document:
    """The whole page."""
    options = options or Options()
    return doc.Document(f"Hessian of {h.scalar}", tuple(_blocks(h, options)))


def _blocks(h: Hessian, options: Options) -> Iterable[doc.Block]:
    made = Page(h.first, options)
    yield from _question(h, made)
    yield from made.stepper()
    yield doc.Heading("Gradient", f"the first derivatives of {h.scalar}")
    rows = (made.row(gradient, "")[:2] for gradient in h.first.gradients.values())
    yield doc.Table(tuple(rows), stacked=True)
    known = (ranges_in(g.ranges, g.text, sizes=True) for g in h.first.gradients.values())
    if sizes := grouped(known):
        yield doc.remark(sizes, indent=4)
    yield from routes(h.first.gradients.values())
    yield from _second(h, made)
    yield from verdict(h.check, (), options.precision, "second derivatives")
    yield from _product(h, made)
    yield from notes(note.text for note in h.notes)


def _question(h: Hessian, made: Page) -> Iterable[doc.Block]:
    x, v = h.first, h.first.grad
    yield program(x)
    yield doc.Paragraph(())
    rows = made.inputs()
    if v.source != "implicit":
        rows.append(
            made.tensor(v.name, v.value, f"the weights of {x.output.name} in {v.loss}", v.name)
        )
    for n, u in (h.vector or {}).items():
        title = f"{h.u}.{n}" if len(h.vector or ()) > 1 else h.u
        rows.append(made.tensor(title, u, f"the vector in H·{h.u}"))
    yield doc.Table(tuple(rows))
    wanted = [n for n, i in x.inputs.items() if i.wanted]
    yield doc.prose(
        f"H holds every second derivative of {h.scalar} by {listed(wanted)}: it is the Jacobian "
        "of the gradient.",
        hang=0,
    )


def _second(h: Hessian, made: Page) -> Iterable[doc.Block]:
    yield doc.Heading("Hessian", "the gradient differentiated again")
    names = list(h.first.inputs)
    first = [b for (a, c), b in h.blocks.items() if names.index(a) <= names.index(c)]
    shown = [block for block in first if block.formula is not None]
    texts = [made.renamed(block.text) for block in shown]
    lines = [made.renamed(text) for b in shown for text in b.where if not made.own(text)]
    where = spoken(lines, " ".join(texts))
    bounds = [ranges_in(block.ranges, " ".join([*texts, *where])) for block in shown]
    known = grouped(bounds)
    for text, block, own in zip(texts, shown, bounds, strict=True):
        apart = "" if known is not None else grouped([own])
        yield doc.Formula(text, "; ".join(p for p in (block.structure, apart) if p))
    yield from definitions(where)
    yield from made.legend(" ".join([*texts, *where]), known)
    long = [block.text.partition(" = ")[0] for block in first if block.formula is None]
    if long:
        more = f" and {len(long) - _NAMED} more" if len(long) > _NAMED else ""
        yield doc.prose(
            f"Too long to be read, so not written out: {', '.join(long[:_NAMED])}{more}. Name "
            "up to three inputs in --wrt to have their formulas; the numbers are the chain "
            "rule's, on the graph of the backward pass."
        )
    if h.matrix is not None and 0 < len(h.matrix) <= _SHOWN:
        labels = tuple(
            element for n, i in h.first.inputs.items() if i.wanted and (n, n) in h.blocks
            for element in elements(n, i.shape)
        )  # fmt: skip
        yield doc.Matrix(labels, labels, h.matrix)
    yield doc.Paragraph(())
    for text in _signs(h, made.options.precision):
        yield doc.prose(text)
    for block in first:
        if block.verdict in ("convention", "mismatch"):
            found = {"closed form": block.value, "chain rule": block.chain_rule}
            left = doc.math(block.text.partition(" = ")[0])
            yield side_by_side(left, found | {"PyTorch": block.torch})


def _signs(h: Hessian, precision: int) -> list[str]:
    """The structure of the whole in words."""
    lines = []
    if len(h.blocks) > 1:
        names = [n for a, n in h.blocks if a == next(iter(h.blocks))[0]]
        where = "" if h.symmetric else " where it is continuous (Schwarz's theorem)"
        lines.append(
            f"H is symmetric{where}, ∂²{h.scalar}/∂{names[1]}∂{names[0]} = "
            f"∂²{h.scalar}/∂{names[0]}∂{names[1]} transposed: each pair is given once."
        )
    elif h.symmetric and h.matrix is not None and len(h.matrix) > 1:
        lines.append("H is symmetric: the order in which one differentiates does not matter.")
    if h.symmetric is False:
        lines = ["H is not symmetric here."]
    if h.constant:
        quadratic = f": {h.scalar} is at most quadratic" if h.smooth else " wherever it exists"
        lines.append(f"It is constant{quadratic}.")
    if h.eigenvalues and len(h.eigenvalues) <= _SHOWN:
        values = ", ".join(numbers.number(value, precision) for value in h.eigenvalues)
        lines.append(f"eigenvalues: {values}")
    if h.definiteness:
        where = "everywhere" if h.constant and h.smooth else "here"
        meaning = _MEANING[h.definiteness].format(L=h.scalar)
        lines.append(f"{h.definiteness} {where}: {meaning}.")
    return lines


def _product(h: Hessian, made: Page) -> Iterable[doc.Block]:
    if not h.products:  # time was over before
        return
    yield doc.Heading(
        "Hessian-vector product",
        f"H·{h.u} is the gradient of {h.p} = Σ {h.u}·∇{h.scalar}: H is never made",
    )
    for product in h.products.values():
        if product.formula is None and not product.given:
            continue  # too long to be read
        yield doc.Formula(made.renamed(product.text), product.ranges)
        if product.given:
            yield value(product.known, said="chain rule" if product.value is None else "value")
    if h.vector is None:
        yield doc.remark(f"--vector gives {h.u}, and the product's numbers.")
