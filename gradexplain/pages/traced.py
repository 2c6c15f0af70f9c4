"""What pages of tracing share with each other until they are documents: J, and a difference."""

from __future__ import annotations

from gradexplain import numbers
from gradexplain.explanation import Difference, Explanation, Jacobian
from gradexplain.formats.text import (
    LABEL,
    VERDICTS,
    Cell,
    Page,
    elements,
    formula_lines,
    matrix_lines,
)

#: What a convention is, where the check names no other reason.
CHOICE = "the routes differ where mathematics leaves a choice"


def _jacobian(page: Page, x: Explanation) -> None:
    y = x.output.name
    page.heading(
        "Jacobian", f"J = ∂{y}/∂input: a row for each element of {y}, a column for the input's"
    )
    if any("δ(" in formula.text for formula in x.jacobian.values()):
        page.add(page.text("δ(i,j) is 1 where i = j, else 0", LABEL))
    for jacobian in x.jacobian.values():
        page.blank()
        formula_lines(page, jacobian, jacobian.structure)
        if jacobian.value is not None and jacobian.value.size:
            _matrix(page, jacobian, y, x.inputs[jacobian.name].shape)


def _matrix(page: Page, jacobian: Jacobian, y: str, shape: tuple[int, ...]) -> None:
    """J as a matrix: rows are labelled by the output's elements, columns by the input's."""
    assert jacobian.value is not None
    out_shape = jacobian.shape[: len(jacobian.shape) - len(shape)]
    labels = [page.text(label, LABEL) for label in elements(y, out_shape)]
    heads = [page.text(label, LABEL) for label in elements(jacobian.name, shape)]
    matrix_lines(page, labels, heads, jacobian.value)


def _difference(page: Page, d: Difference, status: str) -> list[Cell]:
    """One row: which element, what each route gave, and how far apart that is."""
    # A second derivative is named in full.
    where = d.input if d.input.startswith(("∂", "(")) else f"{d.input}.grad"
    where += f"[{','.join(map(str, d.index))}]" if d.index else ""
    values = numbers.distinct(*d.values, precision=page.style.precision)
    apart = numbers.number(abs(d.values[0] - d.values[1]), 2)
    also = f"largest of {d.count}" if d.count > 1 else ""
    return [
        [page.text(where, VERDICTS.get(status, ""))],
        [page.text(f"{d.routes[0]} {values[0]}")],
        [page.text(f"{d.routes[1]} {values[1]}")],
        [page.text(f"differ by {apart}, allowed {numbers.number(d.tolerance, 2)}")],
        [page.text(also, LABEL)],
    ]
