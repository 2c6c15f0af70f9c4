"""Second derivatives as a page of text."""

from __future__ import annotations

from gradexplain.explanation import Array
from gradexplain.hessians import Block, Hessian
from gradexplain.render import numbers, text
from gradexplain.render.page import (
    HEADING,
    LABEL,
    Page,
    Style,
    elements,
    formula_lines,
    listed,
    matrix_lines,
    route_lines,
)

#: The matrix and its eigenvalues are shown for up to this many elements of all inputs.
_SHOWN = 12

_MEANING = {
    "positive definite": "{L} curves upward in every direction",
    "negative definite": "{L} curves downward in every direction",
    "positive semidefinite": "{L} curves upward or not at all",
    "negative semidefinite": "{L} curves downward or not at all",
    "indefinite": "{L} curves upward in some directions and downward in others",
    "zero": "{L} does not curve at all",
}


def render(h: Hessian, style: Style | None = None) -> str:
    """The whole page."""
    page = Page(style or Style())
    _question(page, h)
    page.blank()
    _gradient(page, h)
    page.blank()
    _blocks(page, h)
    page.blank()
    _product(page, h)
    page.blank()
    assert h.check is not None
    page.heading("Verdict")
    text.conclusion(page, h.check, of="second derivatives")
    if h.notes:
        page.blank()
        page.heading("Notes")
        for note in h.notes:
            page.add(page.text("- "), page.text(note.text), hang=2)
    return page.finish(first=True)


def _question(page: Page, h: Hessian) -> None:
    text.question_rows(page, h.first, _vectors(h))
    page.blank()
    x = h.first
    wanted = [name for name, i in x.inputs.items() if i.wanted]
    if x.grad.source == "implicit":
        page.add(
            page.text(f"H holds every second derivative of {h.scalar} by {listed(wanted)}: it is "
                      "the Jacobian of the gradient."), hang=0,
        )  # fmt: skip
        return
    page.add(page.text("H holds every second derivative of the scalar"), hang=0)
    page.blank()
    page.add(page.text(x.grad.loss, HEADING), indent=6)
    page.blank()
    page.add(page.text(f"by {listed(wanted)}: it is the Jacobian of the gradient."), hang=0)


def _vectors(h: Hessian) -> list[tuple[str, Array, str]]:
    grad = h.first.grad
    rows = []
    if grad.source != "implicit":
        rows.append((grad.name, grad.value, f"the weights of {h.first.output.name} in {h.scalar}"))
    many = len(h.vector or ()) > 1
    for name, u in (h.vector or {}).items():
        rows.append((f"{h.u}.{name}" if many else h.u, u, f"the vector in H·{h.u}"))
    return rows


def _gradient(page: Page, h: Hessian) -> None:
    page.heading("Gradient", f"the first derivatives of {h.scalar}")
    for gradient in h.first.gradients.values():
        page.blank()
        formula_lines(page, gradient)
        lines = page.tensor(gradient.value, 8, shape=True)
        page.grid([[[page.text("value", LABEL)], lines]], indent=4)


def _blocks(page: Page, h: Hessian) -> None:
    page.heading("Hessian", "the gradient differentiated again")
    shown = [block for (a, b), block in h.blocks.items() if _first(h, a, b)]
    if any("δ(" in block.text for block in shown):
        page.add(page.text("δ(i,j) is 1 where i = j, else 0", LABEL))
    for block in shown:
        page.blank()
        formula_lines(page, block, block.structure)
    if h.matrix is not None and 0 < len(h.matrix) <= _SHOWN:
        names = [
            label for name, i in h.first.inputs.items() if i.wanted and (name, name) in h.blocks
            for label in elements(name, i.shape)
        ]  # fmt: skip
        labels = [page.text(label, LABEL) for label in names]
        matrix_lines(page, labels, labels, h.matrix)
    page.blank()
    for line in _signs(h, page.style.precision):
        page.add(page.text(line))
    for block in shown:
        if block.verdict in ("convention", "mismatch"):
            page.blank()
            _routes(page, block)


def _first(h: Hessian, a: str, b: str) -> bool:
    """Whether a pair of inputs is in order: the other way round is its transpose."""
    names = list(h.first.inputs)
    return names.index(a) <= names.index(b)


def _signs(h: Hessian, precision: int) -> list[str]:
    """The structure of the whole in words."""
    lines = []
    if len(h.blocks) > 1:
        names = [name for a, name in h.blocks if a == next(iter(h.blocks))[0]]
        lines.append(
            f"H is symmetric, ∂²{h.scalar}/∂{names[1]}∂{names[0]} = "
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


def _routes(page: Page, block: Block) -> None:
    page.add(page.text(block.text.partition(" = ")[0]), formula=True)
    assert block.value is not None and block.chain_rule is not None
    rows = [("closed form", block.value), ("chain rule", block.chain_rule)]
    if block.torch is not None:
        rows.append(("PyTorch", block.torch))
    page.grid(
        [[[page.text(title, LABEL)], page.tensor(value, 20)] for title, value in rows], indent=4
    )


def _product(page: Page, h: Hessian) -> None:
    page.heading(
        "Hessian-vector product",
        f"H·{h.u} is the gradient of {h.p} = Σ {h.u}·∇{h.scalar}: H is never made",
    )
    for product in h.products.values():
        page.blank()
        formula_lines(page, product)
        if product.given:
            route_lines(page, product)
    if h.vector is None:
        page.blank()
        page.add(page.text(f"--vector gives {h.u}, and the product's numbers.", LABEL))
