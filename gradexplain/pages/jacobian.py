"""The Jacobian: formula, structure and numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from gradexplain.document import model as doc
from gradexplain.explanation import Array, Jacobian
from gradexplain.pages.page import Page
from gradexplain.pages.words import definitions, elements, grouped, ranges_in, spoken
from gradexplain.texts import listed

#: A Jacobian that needs more definitions than this is shown with ``--full`` only.
_DEFINED = 2

#: Entries of J beyond this are shown with ``--full`` only.
_SMALL = 36


def jacobian(made: Page) -> Iterable[doc.Block]:
    x = made.x
    if not x.output.shape or not x.jacobian:
        return  # J of a scalar is the gradient
    found = [j for j in x.jacobian.values() if len(j.where) <= _DEFINED or made.options.full]
    if not found:
        return
    y = x.output.name
    layout = made.options.layout == "denominator"
    yield doc.Heading(
        "Jacobian",
        f"Jᵀ, denominator layout: a row for each element of the input, a column for {y}'s"
        if layout
        else f"J[i,j] = ∂{y}[i]/∂input[j]: a row for each element of {y}",
    )
    texts = [made.renamed(j.text) for j in found]
    lines = [made.renamed(text) for j in found for text in j.where if not made.own(text)]
    where = spoken(lines, " ".join(texts))
    shown = " ".join([*texts, *where])
    known = [
        ranges_in(j.ranges, " ".join([text, *where])) for j, text in zip(found, texts, strict=True)
    ]
    merged = grouped(known)
    for j, text, bounds in zip(found, texts, known, strict=True):
        diagonal = _diagonal(made, j.value, x.inputs[j.name].shape)
        remark = j.structure
        if diagonal is not None:
            remark = f"{j.structure.partition(':')[0].partition(',')[0]}: {diagonal}"
        apart = "" if merged is not None else grouped([bounds])
        yield doc.Formula(text, "; ".join(filter(None, (remark, apart))))
        if j.value is not None and j.value.size > 1 and diagonal is None:
            if (j.value == j.value.flat[0]).all():
                same = made.number(float(j.value.flat[0]))
                yield doc.remark(f"every entry is {same} here", indent=4)
            elif j.value.size <= _SMALL or made.options.full:
                yield _matrix(made, j, layout)
    yield from definitions(where)
    if long := [n for n, j in x.jacobian.items() if j not in found]:
        yield doc.remark(f"J by {listed(long)} takes more lines: --full shows it")
    yield from made.legend(shown, merged)


def _diagonal(made: Page, value: Array | None, shape: tuple[int, ...]) -> str | None:
    """``diag(12, 16, 20)`` of a diagonal J that is short enough."""
    if value is None or not value.size:
        return None
    count = int(np.prod(shape)) if shape else 1
    flat = value.reshape(-1, count)
    if flat.shape[0] != count or count < 2 or (flat != np.diag(np.diag(flat))).any():
        return None
    entries = [made.number(float(e)) for e in np.diag(flat)]
    if len(set(entries)) == 1:
        return f"{entries[0]} all along"
    shown = ", ".join(entries)
    return f"diag({shown})" if len(shown) <= 48 else None


def _matrix(made: Page, j: Jacobian, transposed: bool) -> doc.Matrix:
    assert j.value is not None
    rows = elements(made.x.output.name, made.x.output.shape)
    columns = elements(j.name, made.x.inputs[j.name].shape)
    flat = j.value.reshape(len(rows), len(columns))
    if transposed:
        return doc.Matrix(tuple(columns), tuple(rows), flat.T)
    return doc.Matrix(tuple(rows), tuple(columns), flat)
