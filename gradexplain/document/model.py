"""A page as plain data: what `gradexplain.pages` makes and `gradexplain.formats` writes.

A line is spans of text; a span has a role, which a format may colour, and a kind: prose, mathematics
or code.  Mathematics is in the notation of `gradexplain.formula.printing`, which
`gradexplain.formats.notation` reads where a format needs its structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradexplain.numbers import THRESHOLD
from gradexplain.tensors import Array

Role = Literal["", "name", "flow", "label", "strong", "good", "doubt", "bad", "quiet"]
Kind = Literal["", "math", "code"]


@dataclass(frozen=True, slots=True)
class Span:
    text: str
    role: Role = ""
    kind: Kind = ""


Line = tuple[Span, ...]


def line(*parts: str | Span) -> Line:
    """Spans in a row; a string is plain prose."""
    return tuple(Span(part) if isinstance(part, str) else part for part in parts)


def name(text: str) -> Span:
    return Span(text, "name", "math")


def math(text: str) -> Span:
    return Span(text, "", "math")


def code(text: str, role: Role = "") -> Span:
    return Span(text, role, "code")


def label(text: str) -> Span:
    return Span(text, "label")


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """The numbers of a tensor, with a remark beside them; of more than ``most`` elements the edges.

    ``of`` names what it is the gradient of, whose elements a reader may ask about, or what it is.
    """

    values: Array
    remark: str = ""
    of: str = ""
    asked: bool = True
    most: int = THRESHOLD


#: What stands in one place of a table, under each other.
Cell = tuple[Line | Tensor, ...]


def cell(*parts: str | Span | Line | Tensor) -> Cell:
    """Lines and tensors under each other; spans and strings are lines of their own."""
    return tuple(
        part if isinstance(part, (Tensor, tuple)) else line(part) for part in parts if part != ""
    )


def row(*parts: str | Span | Line | Tensor | Cell) -> tuple[Cell, ...]:
    """Cells side by side; what is no cell yet is one of its own."""
    lone = (str, Span, Tensor)
    return tuple(
        cell(part) if isinstance(part, lone) or isinstance(next(iter(part), None), Span) else part  # type: ignore[arg-type, misc]
        for part in parts
    )


@dataclass(frozen=True, slots=True)
class Heading:
    title: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Prose; what does not fit in a line goes on ``hang`` columns further in."""

    content: Line
    indent: int = 2
    hang: int = 2


def prose(*parts: str | Span, indent: int = 2, hang: int = 2) -> Paragraph:
    """A paragraph of spans; a string is plain."""
    return Paragraph(line(*parts), indent, hang)


def remark(text: str, indent: int = 2, hang: int = 2) -> Paragraph:
    """A paragraph that is said aside."""
    return prose(label(text), indent=indent, hang=hang)


@dataclass(frozen=True, slots=True)
class Program:
    """Lines of code, or a picture in characters: shown as they are."""

    lines: tuple[str, ...]
    indent: int = 2


@dataclass(frozen=True, slots=True)
class Formula:
    """A displayed formula, with a remark."""

    text: str
    remark: str = ""
    indent: int = 2


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells.  Where they do not fit side by side they stand under the first, in a ``stacked``
    table before any column is made narrower.  ``lead`` is a word before the first row."""

    rows: tuple[tuple[Cell, ...], ...]
    head: tuple[Cell, ...] = ()
    stacked: bool = False
    indent: int = 2
    lead: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """Numbers with a label for each row and column: a Jacobian."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Array


@dataclass(frozen=True, slots=True)
class GraphNode:
    """``name`` is unique; ``text`` is what is drawn: an input's name, or an operation; ``grad_fn``
    is what PyTorch calls its backward."""

    name: str
    text: str
    role: Literal["input", "operation", "output"]
    detail: str = ""
    grad_fn: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """A computation: ``edges`` go forward, from a value to the operation that uses it."""

    nodes: tuple[GraphNode, ...]
    edges: tuple[tuple[str, str], ...]
    flow: str = "v"
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One contribution of the backward pass, for a reader who steps through it."""

    node: str
    to: str
    target: str
    expression: str
    rule: str
    work: str
    words: str
    upstream: Array
    value: Array
    total: Array | None = None


@dataclass(frozen=True, slots=True)
class Steps:
    """The forward values, then the contributions in order, beside a `Table` that shows the same."""

    graph: Graph
    forward: tuple[tuple[str, str, Array], ...]
    backward: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Notes:
    items: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """What is asked for rarely: a format that can, hides it until then."""

    title: str
    blocks: tuple[Block, ...]


Block = Heading | Paragraph | Program | Formula | Table | Matrix | Graph | Steps | Notes | Fold


@dataclass(frozen=True, slots=True)
class Document:
    """A page: its title and its blocks in order."""

    title: str
    blocks: tuple[Block, ...]

    def __add__(self, other: Document) -> Document:
        return Document(self.title or other.title, (*self.blocks, *other.blocks))


def words(content: Sequence[Span]) -> str:
    """A line without its roles."""
    return "".join(span.text for span in content)
