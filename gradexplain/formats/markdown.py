"""A document in GitHub's dialect of Markdown: fenced programs, formulas as ``$…$``, a Mermaid graph."""

from __future__ import annotations

import re

from gradexplain import numbers
from gradexplain.document.model import (
    Block,
    Cell,
    Document,
    Fold,
    Formula,
    Graph,
    Heading,
    Line,
    Matrix,
    Notes,
    Paragraph,
    Program,
    Span,
    Steps,
    Table,
    Tensor,
)
from gradexplain.formats.notation import latex

#: What means something to Markdown or HTML in running text.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#+|$~&!])")


def render(document: Document, precision: int = numbers.PRECISION) -> str:
    """The whole page."""
    parts = [_block(block, precision) for block in document.blocks]
    return f"# {_escaped(document.title)}\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, precision: int) -> str:
    match block:
        case Heading():
            remark = f"\n\n{_escaped(block.remark)}" if block.remark else ""
            return f"## {_escaped(block.title)}{remark}"
        case Paragraph():
            return _line(block.content)
        case Program():
            return "```python\n" + "\n".join(block.lines) + "\n```"
        case Formula():
            where = [f"where {_math(text)}" for text in block.where]
            known = [_escaped(block.remark)] if block.remark else []
            return "\n\n".join([_math(block.text), *known, *where])
        case Table():
            return _table(block, precision)
        case Matrix():
            rows = block.values.reshape(len(block.rows), len(block.columns)).tolist()
            head = ["", *(f"`{c}`" for c in block.columns)]
            body = [
                [f"`{label}`", *(numbers.number(v, precision) for v in row)]
                for label, row in zip(block.rows, rows, strict=True)
            ]
            return _rows(head, body)
        case Graph():
            return _mermaid(block)
        case Notes():
            return "\n".join(f"- {_line(item)}" for item in block.items)
        case Fold():
            inner = "\n\n".join(_block(part, precision) for part in block.blocks)
            return f"<details><summary>{_escaped(block.title)}</summary>\n\n{inner}\n\n</details>"
        case Steps():
            return ""


def _table(block: Table, precision: int) -> str:
    count = max(map(len, block.rows), default=0)
    head = [_cell(cell, precision) for cell in block.head] or [""] * count
    rows = [[_cell(cell, precision) for cell in row] for row in block.rows]
    return _rows(head, [row + [""] * (count - len(row)) for row in rows])


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(cell: Cell, precision: int) -> str:
    shown = []
    for part in cell:
        if isinstance(part, Tensor):
            text = " ".join(
                line.strip() for line in numbers.tensor(part.values, precision, 1000, part.most)
            )
            shown.append(f"`{text}`" + (f" {_escaped(part.remark)}" if part.remark else ""))
        else:
            shown.append(_line(part).replace("|", "\\|"))
    return "<br>".join(shown)


def _line(content: Line) -> str:
    return "".join(map(_span, content))


def _span(span: Span) -> str:
    text = span.text
    if not text.strip():
        return text
    if span.kind == "code":
        return f"`{text}`"
    if span.kind == "math":
        lead = " " if text[0] == " " else ""
        return lead + _math(text.strip().removeprefix("= ")) if not text.strip().startswith("= ") else (
            f" $= {latex(text.strip()[2:])}$"
        )  # fmt: skip
    shown = _escaped(text)
    bare = shown.strip()
    return shown.replace(bare, f"**{bare}**") if span.role in ("strong", "bad", "good") else shown


def _math(text: str) -> str:
    return f"${latex(text)}$"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _mermaid(graph: Graph) -> str:
    """The graph as GitHub draws it."""
    names = {node.name: f"n{place}" for place, node in enumerate(graph.nodes)}
    lines = ["graph LR"]
    for node in graph.nodes:
        text = node.text.replace('"', "#quot;")
        shape = f'(["{text}"])' if node.role != "operation" else f'["{text}"]'
        lines.append(f"  {names[node.name]}{shape}")
    lines += [f"  {names[tail]} --> {names[head]}" for tail, head in graph.edges]
    out = next(node for node in graph.nodes if node.role == "output")
    lines.append(f'  v(["{graph.flow}"]) -.-> {names[out.name]}')
    remarks = "".join(f"\n\n{_escaped(remark)}" for remark in graph.remarks)
    return "```mermaid\n" + "\n".join(lines) + "\n```" + remarks
