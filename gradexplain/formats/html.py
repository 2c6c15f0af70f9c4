"""A document as one HTML file: native MathML, light and dark, readable without JavaScript.

With it, a stepper walks over the graph, forward and then backward, and a number of a gradient says
what it is the sum of.  Nothing is loaded from anywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.document import serialise
from gradexplain.errors import printable
from gradexplain.explanation import Explanation
from gradexplain.formats.notation import UNDER, mathml
from gradexplain.formats.svg import svg
from gradexplain.formats.writing import Writer
from gradexplain.texts import kept

#: A Jacobian of more rows or columns has no picture of its structure.
_PICTURE = 64


def render(
    document: doc.Document, x: Explanation | None = None, precision: int = numbers.PRECISION
) -> str:
    """The whole file; ``x`` holds the numbers that the page's own sums are made of."""
    # One stepper a page: that of the first call where there are several.
    first = next((block for block in document.blocks if isinstance(block, doc.Steps)), None)
    shown = [b for b in document.blocks if b is first or not isinstance(b, doc.Steps)]
    blocks = "\n".join(_Writer(precision).blocks(shown))
    data = serialise.dumped(_data(first, x, precision)).replace("<", "\\u003c")
    style = kept("formats", "page.css")
    script = kept("formats", "page.js")
    return printable(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(document.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{escape(document.title)}</h1>\n{blocks}\n"
        '<div id="sum" role="status" aria-live="polite"></div>\n</main>\n'
        f'<script type="application/json" id="data">{data}</script>\n'
        f"<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _data(block: doc.Steps | None, x: Explanation | None, precision: int) -> dict[str, Any]:
    """What the script works with."""
    steps = [] if block is None else [*_forward(block, precision), *_backward(block, precision)]
    found: dict[str, Any] = {"steps": steps, "precision": precision, "jacobian": {}}
    if x is not None:
        found["jacobian"] = {
            name: serialise.plain(j.value, serialise.PRECISION) for name, j in x.jacobian.items()
        }
        found |= {
            "v": serialise.plain(x.grad.value, serialise.PRECISION),
            "vname": x.grad.name,
            "output": x.output.name,
            "rank": len(x.output.shape),
        }
    return found


def _text(values: Any, precision: int) -> list[str]:
    return numbers.tensor(values, precision, 70, threshold=64)


def _forward(block: doc.Steps, precision: int) -> Iterable[dict[str, Any]]:
    for node, expression, value in block.forward:
        title = f"forward, {expression}"
        yield {"node": node, "title": title, "lines": _text(value, precision)}


def _backward(block: doc.Steps, precision: int) -> Iterable[dict[str, Any]]:
    for step in block.backward:
        lines = ["what arrives (upstream gradient):", *_text(step.upstream, precision)]
        if step.rule:
            lines.append(f"local derivative: {step.rule}")
        if step.words or step.work:
            lines.append(step.words or step.work)
        sent = _text(step.value, precision)
        lines += ["what it sends on (contribution):", *sent]
        if step.total is not None:
            lines += [
                f"the sum of the contributions to {step.target}:",
                *_text(step.total, precision),
            ]
        yield {
            "node": step.node,
            "to": step.to,
            "expression": step.expression,
            "title": f"backward, {step.expression} to {step.target}",
            "lines": lines,
            "short": sent[0]
            if len(sent[0]) <= 24 and not sent[1:]
            else numbers.shape(step.value.shape),
            # Only a number that stands on the page can be asked about.
            "value": None
            if numbers.abbreviated(step.value, numbers.THRESHOLD)
            else serialise.plain(step.value, serialise.PRECISION),
        }


class _Writer(Writer):
    def heading(self, block: doc.Heading) -> str:
        remark = f'<p class="remark">{_prose(block.remark)}</p>' if block.remark else ""
        return f"<h2>{escape(block.title)}</h2>{remark}"

    def paragraph(self, block: doc.Paragraph) -> str:
        shown = f"<p>{self.line(block.content)}</p>" if block.content else ""
        return wide(shown, "a formula") if any(s.kind == "math" for s in block.content) else shown

    def program(self, block: doc.Program) -> str:
        return f'<pre tabindex="0">{escape(chr(10).join(block.lines))}</pre>'

    def graph(self, block: doc.Graph) -> str:
        return "".join(f'<p class="remark">{escape(r)}</p>' for r in block.remarks)

    def notes(self, block: doc.Notes) -> str:
        return f"<ul>{''.join(f'<li>{self.line(item)}</li>' for item in block.items)}</ul>"

    def fold(self, block: doc.Fold) -> str:
        inner = "".join(map(self.block, block.blocks))
        return f"<details><summary>{escape(block.title)}</summary>{inner}</details>"

    def formula(self, block: doc.Formula) -> str:
        remark = f' <span class="remark">{_prose(block.remark)}</span>' if block.remark else ""
        return wide(f"{mathml(block.text)}{remark}", "a formula")

    def table(self, block: doc.Table) -> str:
        def row(cells: Iterable[doc.Cell]) -> str:
            return "<tr>" + "".join(f"<td>{self.cell(cell)}</td>" for cell in cells) + "</tr>"

        rows = [block.head, *block.rows] if block.head else list(block.rows)
        lead = f'<p class="label">{escape(block.lead)}</p>' if block.lead else ""
        kind = ' class="stack"' if block.stacked else ""
        shown = f"<table{kind}>{''.join(map(row, rows))}</table>"
        return lead + wide(shown, "a table") if rows else ""

    def cell(self, cell: doc.Cell) -> str:
        return "<br>".join(
            self.tensor(part) if isinstance(part, doc.Tensor) else self.unbroken(part)
            for part in cell
        )

    def unbroken(self, line: doc.Line) -> str:
        """A line of a cell; one that begins with a formula is not broken after its left side."""
        shown = self.line(line)
        return f'<span class="f">{shown}</span>' if line[-1].kind == "math" else shown

    def tensor(self, block: doc.Tensor) -> str:
        """The numbers in their columns; those of a gradient can be asked what they are made of."""
        lines = numbers.tensor(block.values, self.precision, 90, block.most)
        text = escape("\n".join(lines))
        if block.of and not numbers.abbreviated(block.values, block.most):
            text = _asked("\n".join(lines), block)
        remark = f' <span class="label">{_prose(block.remark)}</span>' if block.remark else ""
        return f'<span class="t">{text}</span>{remark}'

    def span(self, span: doc.Span) -> str:
        text = span.text
        if span.kind == "code":
            shown = f"<code>{escape(text)}</code>"
        elif span.kind == "math" and text.strip():
            shown = mathml(text)
        else:
            shown = _prose(text)
        return f'<span class="{span.role}">{shown}</span>' if span.role else shown

    def matrix(self, block: doc.Matrix) -> str:
        values = block.values.reshape(len(block.rows), len(block.columns))
        head = "".join(f'<th scope="col">{escape(c)}</th>' for c in block.columns)
        rows = "".join(
            f'<tr><th scope="row">{escape(label)}</th>'
            + "".join(
                f'<td data-r="{escape(label)}" data-c="{escape(column)}">'
                f"{numbers.number(value, self.precision)}</td>"
                for column, value in zip(block.columns, row, strict=True)
            )
            + "</tr>"
            for label, row in zip(block.rows, values.tolist(), strict=True)
        )
        table = f'<table class="j"><tr><td></td>{head}</tr>{rows}</table>'
        return wide(table, "the Jacobian") + _picture(values)

    def steps(self, block: doc.Steps) -> str:
        drawn = svg(block.graph).replace("<svg ", '<svg class="g" ', 1)
        controls = (
            '<div class="js"><h2>Step by step</h2><div id="bar">'
            '<button id="back" type="button" aria-label="one step back">←</button>'
            '<input id="slider" type="range" min="0" value="0" aria-label="step">'
            '<button id="next" type="button" aria-label="one step on">→</button></div>'
            '<div id="say" role="status" aria-live="polite"></div></div>'
        )
        return controls + wide(drawn, "the graph of the computation")


def _prose(text: str) -> str:
    """Text, with what a sum runs over below the line."""
    return UNDER.sub(r"\1<sub>\2\3</sub>", escape(text))


def wide(inner: str, label: str) -> str:
    """What may be wider than the screen scrolls by itself, with the keyboard too."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="{escape(label)}">{inner}</div>'


def _asked(text: str, block: doc.Tensor) -> str:
    """The numbers of a tensor as buttons."""
    places = np.ndindex(*block.values.shape)
    tag = 'button type="button" class="n"' if block.asked else "span"

    def button(found: re.Match[str]) -> str:
        at = json.dumps(next(places), separators=(",", ":"))
        data = f'data-of="{escape(block.of)}" data-at="{at}"'
        return f"<{tag} {data}>{escape(found[0])}</{tag.partition(' ')[0]}>"

    return re.sub(r"[^\[\], \n]+", button, text)


def _picture(values: Any) -> str:
    """Where a Jacobian is not 0."""
    height, width = values.shape
    if max(height, width) > _PICTURE or height * width < 9:
        return ""
    cells = "".join(
        f'<rect class="f" x="{c * 6}" y="{r * 6}" width="5" height="5"/>'
        for r, c in np.argwhere(values != 0).tolist()
    )
    return (
        f'<svg class="s" role="img" aria-label="where J is not 0" width="{width * 6}" '
        f'height="{height * 6}"><rect width="{width * 6}" height="{height * 6}"/>{cells}</svg>'
    )
