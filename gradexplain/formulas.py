"""Formulas alone, at no size: what ``--shape x=N,M`` asks for."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gradexplain.document.shows import Shows
from gradexplain.errors import InputError
from gradexplain.explanation import Formula, Shape
from gradexplain.reading.names import check_names
from gradexplain.reading.syntax import parse
from gradexplain.routes.written import Written

#: A shape of letters and numbers.
Lettered = tuple["int | str", ...]


@dataclass(slots=True)
class Formulas(Shows):
    """The gradients and Jacobians of an expression for inputs whose sizes are letters.

    A gradient is ``Jᵀv`` in the input's shape, or ``∂y/∂x`` where the output has shape ``()``.
    """

    SCHEMA: ClassVar[str] = "gradexplain-formulas/1"
    PAGE: ClassVar[str] = "gradexplain.pages.formulas"

    expression: str
    statements: tuple[str, ...]
    inputs: dict[str, Lettered]
    output: str
    output_shape: tuple[str, ...]
    gradients: dict[str, Formula] = field(default_factory=dict)
    jacobian: dict[str, Formula] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sizes(ast.NodeTransformer):
    """Puts the size that a letter stands for in the place of its name."""

    sizes: Mapping[str, int]

    def visit_Name(self, node: ast.Name) -> ast.expr:
        size = self.sizes.get(node.id)
        return node if size is None else ast.copy_location(ast.Constant(size), node)


def formulas(
    expression: str, shapes: Mapping[str, Lettered], wrt: Sequence[str] | None = None
) -> Formulas:
    """The formulas of ``expression`` for inputs of ``shapes``; one that is not named is a scalar.

    Raises `InputError` where the program needs a number for one of the letters.
    """
    from gradexplain.formula.sizes import PRIMES, Unlettered, lettered
    from gradexplain.reading.language import read, statements_of
    from gradexplain.routes.closed import ClosedForm

    letters = list(dict.fromkeys(n for s in shapes.values() for n in s if isinstance(n, str)))
    if len(letters) > len(PRIMES):
        raise InputError(
            f"{len(letters)} letters for sizes; at most {len(PRIMES)} are supported",
            remedy="give some of the sizes as numbers",
        )
    primes = dict(zip(letters, PRIMES, strict=False))
    program = parse(expression)
    names = [n for part in program.body for n in ast.walk(part) if isinstance(n, ast.Name)]
    given = {n.id for n in names if isinstance(n.ctx, ast.Store)} | shapes.keys()
    for part in program.body:
        _Sizes({name: prime for name, prime in primes.items() if name not in given}).visit(part)

    def shape_of(name: str) -> Shape:
        return tuple(primes[n] if isinstance(n, str) else n for n in shapes.get(name, ()))

    try:
        graph = read(program, shape_of, any_size=True)
    except InputError as error:
        raise _in_letters(error, primes) from None
    leaves = {node.label: node for node in graph.leaves if not node.integer}
    check_names((*shapes, *(wrt or ())), leaves)
    taken = next((node.label for node in graph.nodes if node.label in primes), None)
    if taken is not None:
        raise InputError(
            f"{taken} is a value of the expression, and a size by --shape",
            remedy="use another letter for the size",
        )
    sizes = lettered(graph, primes)
    form = ClosedForm(graph, {}, np.ones(()), exact=True, sizes=sizes)
    if graph.out.shape == ():
        form.scalar = form.loss_name = graph.out.label
    try:
        found = Formulas(
            program.source,
            statements_of(program, graph),
            {name: tuple(shapes.get(name, ())) for name in leaves},
            graph.out.label,
            tuple(sizes.text(n) for n in graph.out.shape),
        )
        for name in wrt or leaves:
            for shown, kind in (
                (Written(form).gradient(leaves[name]), found.gradients),
                (Written(form).jacobian(leaves[name])[0], found.jacobian),
            ):
                kind[name] = Formula(
                    name, shown.formula, shown.text, shown.latex, shown.where, shown.ranges
                )
    except Unlettered as error:
        raise InputError(
            "the formula holds at some sizes only, and has no form in letters",
            remedy="give the sizes as numbers, as in --shape x=2,3",
        ) from error
    return found


def _in_letters(error: InputError, primes: Mapping[str, int]) -> InputError:
    """A message that speaks of the primes, with letters for them and their products."""

    def said(found: re.Match[str]) -> str:
        rest, letters = int(found[0].replace(",", "")), []
        for letter, prime in primes.items():
            while rest and rest % prime == 0:
                rest //= prime
                letters.append(letter)
        return "·".join([str(rest)] * (rest != 1) + letters) if letters else found[0]

    number = re.compile(r"(?<![\w.])\d[\d,]*\d")
    error.message = number.sub(said, error.message)
    error.remedy = error.remedy and number.sub(said, error.remedy)
    return error
