"""The page of formulas alone: ``run --shape x=N,M``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gradexplain.document import model as doc
from gradexplain.explanation import Formula as Derived
from gradexplain.formulas import Formulas, Lettered
from gradexplain.pages.words import LEGEND, definitions


def page(x: Formulas) -> doc.Document:
    """The question, the gradients and the Jacobians, with sizes that are letters."""
    return doc.Document(f"{x.output}.backward(v)", tuple(_blocks(x)))


def _blocks(x: Formulas) -> Iterable[doc.Block]:
    yield doc.Program(x.statements)
    yield doc.Paragraph(())
    shapes = {**x.inputs, x.output: x.output_shape}
    yield doc.Table(
        tuple(
            doc.row(doc.name(label_), doc.label(_shape(shape))) for label_, shape in shapes.items()
        )
    )
    said = f"Jᵀ·v at every size; v, the argument of backward, has the shape of {x.output}"
    yield doc.Heading("Gradients", said if x.output_shape else "at every size")
    for gradient in x.gradients.values():
        yield from _shown(gradient)
    jacobian = [*x.jacobian.values()] if x.output_shape else []
    if jacobian:
        yield doc.Heading("Jacobian", f"J = ∂{x.output}/∂input")
        for formula in jacobian:
            yield from _shown(formula)
    text = "\n".join(formula.text for formula in (*x.gradients.values(), *jacobian))
    yield from (doc.remark(meaning, indent=4) for sign, meaning in LEGEND if re.search(sign, text))


def _shown(formula: Derived) -> Iterable[doc.Block]:
    yield doc.Formula(formula.text, formula.ranges)
    yield from definitions(formula.where)


def _shape(shape: Lettered) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
