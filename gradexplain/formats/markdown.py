"""A document in GitHub's dialect of Markdown: fenced programs, formulas as ``$…$``, a Mermaid graph."""

from __future__ import annotations

import re

from gradexplain import numbers
from gradexplain.document import model as doc
from gradexplain.errors import printable
from gradexplain.formats.notation import UNDER, latex, read
from gradexplain.formats.writing import Writer

#: What Markdown changes in a formula: an escaped sign, the beginning of emphasis, of a tag, of a link.
_READ = re.compile(r"\\[^A-Za-z]|[*<>`]|\]\(|(?<![^\W_])_")

#: What means something to Markdown or HTML in running text.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#+|$~&!])")


def render(document: doc.Document, precision: int = numbers.PRECISION) -> str:
    """The whole page."""
    return printable(
        "\n\n".join([f"# {_escaped(document.title)}", *_Writer(precision).blocks(document.blocks)])
        + "\n"
    )


class _Writer(Writer):
    def heading(self, block: doc.Heading) -> str:
        remark = f"\n\n{_escaped(block.remark)}" if block.remark else ""
        return f"## {_escaped(block.title)}{remark}"

    def program(self, block: doc.Program) -> str:
        return "```python\n" + "\n".join(block.lines) + "\n```"

    def formula(self, block: doc.Formula) -> str:
        known = [_escaped(block.remark)] if block.remark else []
        return "\n\n".join([_math(block.text), *known])

    def table(self, block: doc.Table) -> str:
        count = max(map(len, block.rows), default=0)
        head = [*map(self.cell, block.head)] or [""] * count
        rows = [[*map(self.cell, row)] for row in block.rows]
        lead = f"{_escaped(block.lead)}\n\n" if block.lead else ""
        return lead + _rows(head, [row + [""] * (count - len(row)) for row in rows])

    def matrix(self, block: doc.Matrix) -> str:
        rows = block.values.reshape(len(block.rows), len(block.columns)).tolist()
        body = [
            [f"`{label}`", *(numbers.number(v, self.precision) for v in row)]
            for label, row in zip(block.rows, rows, strict=True)
        ]
        return _rows(["", *(f"`{c}`" for c in block.columns)], body)

    def graph(self, graph: doc.Graph) -> str:
        """The graph as GitHub draws it."""
        names = {node.name: f"n{place}" for place, node in enumerate(graph.nodes)}
        lines = ["graph LR"]
        for node in graph.nodes:
            text = "<br/>".join(filter(None, (node.text, node.grad_fn))).replace('"', "#quot;")
            shape = f'(["{text}"])' if node.role != "operation" else f'["{text}"]'
            lines.append(f"  {names[node.name]}{shape}")
        lines += [f"  {names[tail]} --> {names[head]}" for tail, head in graph.edges]
        out = next(node for node in graph.nodes if node.role == "output")
        lines.append(f'  v(["{graph.flow}"]) -.-> {names[out.name]}')
        remarks = "".join(f"\n\n{_escaped(remark)}" for remark in graph.remarks)
        return "```mermaid\n" + "\n".join(lines) + "\n```" + remarks

    def notes(self, block: doc.Notes) -> str:
        return "\n".join(f"- {self.line(item)}" for item in block.items)

    def fold(self, block: doc.Fold) -> str:
        inner = "\n\n".join(map(self.block, block.blocks))
        return f"<details><summary>{_escaped(block.title)}</summary>\n\n{inner}\n\n</details>"

    def cell(self, cell: doc.Cell) -> str:
        shown = []
        for part in cell:
            if isinstance(part, doc.Tensor):
                lines = numbers.tensor(part.values, self.precision, 1000, part.most)
                text = re.sub(r"(?<=[\[ ]) +", "", " ".join(line.strip() for line in lines))
                shown.append(f"`{text}`" + (f" {_escaped(part.remark)}" if part.remark else ""))
            else:
                shown.append(self.line(part).replace("|", "\\|"))
        return "<br>".join(shown)

    def line(self, content: doc.Line) -> str:
        """Formulas next to each other are one."""
        joined: list[doc.Span] = []
        for span in content:
            if joined and joined[-1].kind == span.kind == "math":
                span = doc.math(joined.pop().text + span.text)
            joined.append(span)
        return super().line(tuple(joined))

    def span(self, span: doc.Span) -> str:
        text, bare = span.text, span.text.strip()
        if not bare:
            return text
        if span.kind == "code":
            return f"`{text}`"
        if span.kind == "math":
            return " " * (text[0] == " ") + _math(bare)
        shown = _escaped(text)
        bare = shown.strip()
        return (
            shown.replace(bare, f"**{bare}**") if span.role in ("strong", "bad", "good") else shown
        )


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _math(text: str) -> str:
    """A formula between dollars; what Markdown would read as its own is kept from it by backticks.

    GitHub allows no ``operatorname``, and does not show prose in a formula well.
    """
    if read(text).kind == "text":
        return f"`{text}`"
    found = re.sub(r"\\operatorname\*{(.*?)}", r"\\mathop{\\mathrm{\1}}", latex(text))
    found = found.replace(r"\operatorname", r"\mathrm")
    return f"$`{found}`$" if _READ.search(found) else f"${found}$"


def _escaped(text: str) -> str:
    shown = UNDER.sub("\\1\x00\\2\\3\x01", text)
    return _SPECIAL.sub(r"\\\1", shown).replace("\x00", "<sub>").replace("\x01", "</sub>")
