"""A program: its text, its statements, and where in the text each part of the tree stands."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache

from gradexplain.errors import Span


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: ``targets`` are the names that it assigns, none for a bare expression."""

    targets: tuple[str, ...]
    value: ast.expr
    span: Span


@dataclass(frozen=True, slots=True)
class Program:
    """A text as Python's tree.  Every span is a range of ``source``.

    ``source`` is the text without what clings to a pasted one (`gradexplain.reading.pasted`);
    ``statements`` are those of ``body`` that are plain assignments and expressions.
    """

    source: str
    statements: tuple[Statement, ...]
    body: tuple[ast.stmt, ...] = ()
    #: Where everything stands that is read for a call in the text, and is no part of the text itself.
    place: Span | None = None
    #: The text as it was written, where that was another notation than Python's.
    notation: str = ""


def span(program: Program | str, node: ast.AST) -> Span:
    """The characters of the program's source that ``node`` was made from.

    ``ast`` counts lines, and UTF-8 bytes within a line; people and strings count characters.
    """
    if isinstance(program, Program) and program.place is not None:
        return program.place
    source = program if isinstance(program, str) else program.source
    start = position(source, getattr(node, "lineno", 1), getattr(node, "col_offset", 0))
    end = position(source, getattr(node, "end_lineno", 1), getattr(node, "end_col_offset", 0))
    return Span(start, end)


def attribute_span(program: Program | str, node: ast.Attribute) -> Span:
    """The characters of the name after the dot: ``log`` in ``x.log``."""
    if isinstance(program, Program) and program.place is not None:
        return program.place
    source = program if isinstance(program, str) else program.source
    end = span(source, node).end
    name = source[source.rfind(".", 0, end) + 1 : end].split()[-1]  # after a dot and a line break
    return Span(end - len(name), end)


@lru_cache(maxsize=8)
def lines(source: str) -> tuple[tuple[int, str], ...]:
    """Each line, and where in ``source`` it starts."""
    lines = []
    start = 0
    for line in source.split("\n"):
        lines.append((start, line))
        start += len(line) + 1
    return tuple(lines)


def position(source: str, lineno: int, byte: int) -> int:
    start, text = lines(source)[lineno - 1]
    return start + len(text.encode()[:byte].decode())
