"""The docstring of a class: shapes and gradients in letters."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from gradexplain.codegen.draft import Draft
from gradexplain.codegen.lines import WIDTH
from gradexplain.codegen.numbers import NEAR, elsewhere, is_prime
from gradexplain.errors import printable
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape
from gradexplain.reading.language import read
from gradexplain.reading.program import Program
from gradexplain.routes.closed import ClosedForm
from gradexplain.routes.written import Written


def docstring(making: Draft, program: Program) -> list[str]:
    """Its lines: the expression, shapes, and the gradients in index notation."""
    source = program.source
    statements = [" ".join(source[s.span.start : s.span.end].split())
                  for s in program.statements]  # fmt: skip
    if not program.statements[-1].targets:
        statements[-1] = f"{making.names[making.graph.out.label]} = {statements[-1]}"
    doc = ['    """' + _escaped("; ".join(statements)), ""]
    if len(doc[0]) > WIDTH:
        doc = ['    """', *(p for s in statements for p in _indented(s, 4)), ""]
    letters = _letters({n.label: n.shape for n in making.graph.leaves}) if making.general else {}
    shapes, formulas = _described(making, making.graph, letters)
    at = ""
    if not making.general:
        shapes += " (these sizes only)"
    else:
        sizes = {n.label: elsewhere(n.shape) for n in making.graph.leaves}
        other = read(program, sizes.__getitem__, any_size=True)
        more = _letters({n.label: n.shape for n in other.leaves})
        if (shapes, formulas) != _described(making, other, more):
            # A number in the text is a size that no letter stands for: an example has no such thing.
            small = read(program, making.pattern.__getitem__)
            shapes, formulas = _described(making, small, {})
            shapes, at = f"{shapes}, for example", " at these shapes"
    doc += [*_indented(f"Shapes: {shapes}", 4), ""]
    if all(len(f) < 400 for f in formulas):
        doc += [f"    Gradients{at}, in index notation:", ""]
        for text in formulas:
            doc += _indented(text, 8)
    else:
        doc.pop()
    return [*doc, '    """', ""]


def _described(making: Draft, graph: Graph, letters: Mapping[int, str]) -> tuple[str, list[str]]:
    """The shapes and the gradients, the upstream gradient called v, sizes in ``letters``."""
    names = making.names
    described = ", ".join(f"{names[n.label]} {_lettered(n.shape, letters)}" for n in graph.leaves)
    out = f"{names[graph.out.label]} {_lettered(graph.out.shape, letters)}"
    form = ClosedForm(graph, {}, np.zeros(()), exact=False)
    form.v_name = "v" if "v" not in names else making.v
    formulas: list[str] = []
    for leaf in graph.leaves:
        if leaf.integer or not form.calculus.reaches(graph.out, leaf.label):
            continue
        shown = Written(form).gradient(leaf)
        texts = [shown.text, *(f"where {w}" for w in shown.where)]
        formulas += [t for t in (_in_letters(t, letters) for t in texts) if t not in formulas]
    return f"{described} -> {out}", formulas


def _indented(text: str, indent: int) -> list[str]:
    pad = " " * indent
    return [pad + part for part in _wrapped(_escaped(text), WIDTH - indent)]


def _letters(shapes: Mapping[str, Shape]) -> dict[int, str]:
    names = iter("NMKLPQRS")
    sizes = dict.fromkeys(n for shape in shapes.values() for n in shape if is_prime(n))
    return {n: next(names) for n in sizes}


def _lettered(shape: Shape, letters: Mapping[int, str]) -> str:
    inner = ", ".join(_size(n, letters) for n in shape)
    return f"({inner}{',' if len(shape) == 1 else ''})"


def _in_letters(text: str, letters: Mapping[int, str]) -> str:
    """A formula with the letters of sizes for the numbers that came from them."""

    def put(found: re.Match[str]) -> str:
        said = _size(int(found[0]), letters).replace("*", "·").replace("-", "−")
        return said if said.isalnum() else f"({said})"

    return re.sub(r"(?<![\w.])\d+(?![\w.])", put, text)


def _size(n: int, letters: Mapping[int, str]) -> str:
    """``N``, ``N - 1``, ``N*M``: a size in the letters of the inputs' sizes."""
    rest, factors = n, []
    for prime, letter in letters.items():
        while rest and rest % prime == 0:
            rest //= prime
            factors.append(letter)
    if factors and rest < NEAR:
        return "*".join([str(rest)] * (rest > 1) + factors)
    for prime, letter in letters.items():
        if 0 < abs(n - prime) < NEAR:
            return f"{letter} {'+' if n > prime else '-'} {abs(n - prime)}"
    return str(n)


def _escaped(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _wrapped(text: str, width: int) -> list[str]:
    found = []
    while len(text) > width:
        cut = text.rfind(" ", 0, width)
        cut = cut if cut > width // 3 else width
        found.append(text[:cut])
        text = "    " + text[cut:].strip()
    return [*found, text]
