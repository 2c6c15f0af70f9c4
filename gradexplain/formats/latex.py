"""A document as a fragment of a LaTeX article: plain ``pdflatex`` with amsmath compiles it."""

from __future__ import annotations

import re

import numpy as np

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.errors import printable
from gradexplain.formats import ascii
from gradexplain.formats.notation import latex, plain_latex
from gradexplain.formats.writing import Writer
from gradexplain.tensors import Array

_PREAMBLE = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{amsmath}
\begin{document}
"""

#: A tensor of more elements, or columns, is given by its shape.
_MOST, _COLUMNS = 60, 10


def render(
    document: doc.Document, precision: int = numbers.PRECISION, *, standalone: bool = False
) -> str:
    """The whole page; ``standalone`` with a preamble, else what stands in a document's body."""
    title = rf"\section*{{{plain_latex(document.title)}}}"
    body = "\n\n".join([title, *_Writer(precision).blocks(document.blocks)]) + "\n"
    return _PREAMBLE + body + "\\end{document}\n" if standalone else body


class _Writer(Writer):
    def heading(self, block: doc.Heading) -> str:
        remark = f"\n{plain_latex(block.remark)}" if block.remark else ""
        return rf"\subsection*{{{plain_latex(block.title)}}}{remark}"

    def program(self, block: doc.Program) -> str:
        lines = "\n".join(ascii.fold(printable(line), "ascii") for line in block.lines)
        return "\\begin{verbatim}\n" + lines + "\n\\end{verbatim}"

    def formula(self, block: doc.Formula) -> str:
        known = [plain_latex(block.remark)] if block.remark else []
        return "\n\n".join([_display(block.text), *known])

    def table(self, block: doc.Table) -> str:
        lead = f"\\noindent {plain_latex(block.lead)}\n\n" if block.lead else ""
        if block.stacked:
            return lead + "\n\n".join(map(self.stack, block.rows))
        count = max(map(len, block.rows), default=0)
        lines = []
        for row in [block.head, *block.rows] if block.head else block.rows:
            cells = [*map(self.cell, row)]
            lines.append(
                " & ".join(cells + [""] * (count - len(cells))) + r" \\\noalign{\smallskip}"
            )
        columns = "l" * (count - 1) + r"p{0.55\linewidth}"
        body = "\n".join(lines)
        return f"\\noindent{{\\small\\begin{{tabular}}{{{columns}}}\n{body}\n\\end{{tabular}}}}"

    def stack(self, row: tuple[doc.Cell, ...]) -> str:
        """A formula and its value, and the line of code under them."""
        shown = [*map(self.cell, row)]
        code = shown.pop() if r"\texttt" in shown[-1] else ""
        said = [r" \quad ".join(filter(None, shown)), rf"\hspace*{{2em}}{{\small {code}}}"]
        lines = "\\\\\n".join(said[not shown[0] : 1 + bool(code)])
        return f"{{\\noindent\\raggedright {lines}\\par}}\\smallskip"

    def matrix(self, block: doc.Matrix) -> str:
        rows = block.values.reshape(len(block.rows), len(block.columns)).tolist()
        if len(block.columns) > _COLUMNS:
            return ""
        head = " & ".join(["", *(f"{latex(c)}" for c in block.columns)]) + r" \\ \hline"
        body = "\n".join(
            " & ".join([latex(label), *(number(v, self.precision) for v in row)]) + r" \\"
            for label, row in zip(block.rows, rows, strict=True)
        )
        columns = "l|" + "r" * len(block.columns)
        return f"{{\\small\n\\[\\begin{{array}}{{{columns}}}\n{head}\n{body}\n\\end{{array}}\\]}}"

    def graph(self, block: doc.Graph) -> str:
        return "\n\n".join(plain_latex(remark) for remark in block.remarks)

    def notes(self, block: doc.Notes) -> str:
        items = "\n".join(rf"\item {self.line(item)}" for item in block.items)
        return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"

    def fold(self, block: doc.Fold) -> str:
        return "\n\n".join(map(self.block, block.blocks))

    def steps(self, block: doc.Steps) -> str:
        """The steps of the chain rule, aligned and numbered, the operation beside each."""
        lines = []
        for step in block.backward:
            left, relation, right = re.sub(r"\s+", " ", step.rule).partition(" = ")
            if relation:
                said = plain_latex(step.expression)
                lines.append(rf"{latex(left)} & = {latex(right)} && \text{{{said}}}")
        head = "\\subsection*{Local derivatives}\n{\\allowdisplaybreaks\n\\begin{align}\n"
        return head + " \\\\\n".join(lines) + "\n\\end{align}}" if lines else ""

    def cell(self, cell: doc.Cell) -> str:
        shown = []
        for part in cell:
            if isinstance(part, doc.Tensor):
                remark = f" {plain_latex(part.remark)}" if part.remark else ""
                shown.append(f"${tensor(part.values, self.precision)}${remark}")
            else:
                shown.append(self.line(part))
        return r" \newline ".join(shown)

    def span(self, span: doc.Span) -> str:
        text = span.text
        if not text.strip():
            return text
        if span.kind == "math":
            return rf"{' ' * (text[0] == ' ')}$\displaystyle {latex(text)}$"
        if span.kind == "code":
            return rf"\texttt{{{plain_latex(text)}}}"
        shown = plain_latex(text)
        return rf"\textbf{{{shown}}}" if span.role in ("strong", "bad", "good") else shown


def _display(text: str) -> str:
    """A displayed formula, broken before each relation but the first."""
    shown, (first, *rest) = latex(text), map(latex, text.split(" = "))
    if len(text) <= 70 or not rest or shown.startswith(r"\text{"):
        return f"\\[\n{shown}\n\\]"
    lines = r" \\ & = ".join(rest)
    return f"\\begin{{align*}}\n{first} & = {lines}\n\\end{{align*}}"


def tensor(values: Array, precision: int) -> str:
    """A number, a vector or a matrix; a larger one by its shape."""
    if values.ndim == 0:
        return number(values.item(), precision)
    if values.size > _MOST or values.ndim > 2 or not values.size or values.shape[-1] > _COLUMNS:
        return rf"\text{{a tensor of shape }} {numbers.shape(values.shape)}"
    rows = np.atleast_2d(values).tolist()
    body = r" \\ ".join(" & ".join(number(v, precision) for v in row) for row in rows)
    return rf"\begin{{bmatrix}} {body} \end{{bmatrix}}"


def number(value: float, precision: int) -> str:
    """A number with its power of ten set as one."""
    text = numbers.number(value, precision)
    if isinstance(value, bool):
        return rf"\text{{{text}}}"
    mantissa, e, power = text.partition("e")
    if text in ("inf", "-inf", "nan"):
        return {"inf": r"\infty", "-inf": r"-\infty", "nan": r"\mathrm{nan}"}[text]
    return rf"{mantissa} \cdot 10^{{{int(power)}}}" if e else text
