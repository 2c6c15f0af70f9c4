"""The backward pass as a graph, as text: what ``create_graph=True`` records."""

from __future__ import annotations

from gradexplain.explanation import Second
from gradexplain.render import numbers
from gradexplain.render.page import HEADING, LABEL, NAME, Page


def second_section(page: Page, second: Second) -> None:
    """The operations of the first pass, and the scalar that the second one starts from."""
    page.blank()
    page.heading("Backward pass", "as operations on values: what create_graph=True records")
    rows = []
    for row in second.backward:
        name = page.text(f"{row.node}{row.at}", NAME)
        rows.append((name, page.text(numbers.shape(row.shape), LABEL), row))
    name_width = max((name.cell_len for name, *_ in rows), default=0)
    shape_width = max((shape.cell_len for _, shape, _ in rows), default=0)
    room = max(20, (page.style.width - shape_width - name_width) // 2)
    table = []
    for name, shape, row in rows:
        formula = page.wrapped(f"= {row.text}", width=room)
        table.append((name, formula, shape, row))
    used = max((line.cell_len for _, formula, *_ in table for line in formula), default=0)
    used += name_width + shape_width + 8
    page.grid(
        [
            [[name], formula, [shape], page.tensor(row.value, used, shape=True)]
            for name, formula, shape, row in table
        ]
    )
    page.blank()
    page.heading("Second backward", "the same chain rule, on the graph of both passes")
    page.add(page.text("The scalar is the sum of every element of every gradient:"), hang=0)
    page.blank()
    page.add(page.text(f"{second.name} = {second.expression}", HEADING), indent=6)
    page.blank()
