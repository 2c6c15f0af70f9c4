"""An expression as a ``torch.autograd.Function`` with an analytical backward.

Two ways are written and the one that computes less is taken: the closed form of each gradient
(where it would be long, through the gradients of the expression's parts, each in closed form), and
the chain rule operation by operation, by the record's own ``backward`` or by the operation's closed
form.  Formulas are derived at axes whose sizes are primes, so that a size in one is told from a
number of the user's and written as ``x.shape[0]``.  Inputs, the output and intermediate values that
are not light to compute are saved; as an intermediate value has no history, it is computed anew
where second derivatives are wanted.
"""

from __future__ import annotations

import itertools
import keyword
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

from gradexplain import points
from gradexplain.codegen.forward import RESERVED
from gradexplain.codegen.making import Code, Making, at_sizes
from gradexplain.codegen.numbers import PRIMES, elsewhere
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.formula.sizes import generalised
from gradexplain.installed import imported
from gradexplain.limits import MAX_NAME
from gradexplain.ops.base import Shape
from gradexplain.reading.language import read
from gradexplain.reading.names import free_names
from gradexplain.reading.program import Program
from gradexplain.reading.syntax import parse
from gradexplain.supervisor import link


def generate(
    expression: str,
    name: str = "Function",
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    failure: Callable[[Code], str] | None = None,
    jvp: bool = False,
) -> Code:
    """The source of a ``torch.autograd.Function`` for an expression.

    ``shapes`` tells the ranks and patterns of the inputs where they matter.  A class of which
    ``failure`` says something is not returned.
    With ``jvp`` it has a forward-mode derivative too; `torch.compile` traces no class that has one.
    """
    imported()  # what PyTorch has is asked while the code is written
    name = unicodedata.normalize("NFKC", name)  # as Python reads it
    if (
        len(name) > MAX_NAME
        or not name.isidentifier()
        or keyword.iskeyword(name)
        or name in RESERVED
    ):
        raise InputError(
            f"{name} cannot be the name of a class",
            remedy=f"use another, of at most {MAX_NAME} letters, as in Normalise",
        )
    program = parse(expression)
    names = free_names(program)
    if not names:
        raise InputError(
            "the expression has no inputs, so there is nothing to differentiate",
            remedy="name one, as in 2*x",
        )
    fixed = {n: tuple(int(k) for k in s) for n, s in (shapes or {}).items()}
    for given in fixed:
        if given not in names:
            raise InputError(
                f"{given} is not an input of the expression; its inputs are: {', '.join(names)}",
                remedy="check the spelling, or leave the option out",
            )
    pattern = _pattern(program, names, fixed)
    errors: list[GradexplainError] = []
    for sizes, general in _derivations(program, pattern):
        made: list[Making] = []
        for way in ("closed form", "steps"):
            try:
                graph = read(program, sizes.__getitem__, any_size=True)
                made.append(Making(graph, pattern, name, general=general, way=way, jvp=jvp))
            except GradexplainError as error:
                errors.append(error)
        for best in sorted(made, key=lambda m: m.price):
            try:
                code = best.code(program)
            except UnsupportedError as error:
                errors.append(error)
                continue
            link.missing("the proof that it is right", partial(_unproven, code))
            wrong = "" if failure is None else failure(code)
            if not wrong:
                return code
            errors.append(UnsupportedError(f"codegen's own result was refused by check: {wrong}"))
    raise errors[-1]


def _unproven(code: Code) -> Code:
    """A class that may be wrong, as it says itself."""
    said = (
        "# NOT PROVEN: time or memory was over before it had been held against the closed form.\n"
    )
    return replace(code, source=said + code.source)


def _pattern(
    program: Program, names: Sequence[str], fixed: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Small shapes at which the expression has a value."""
    first: GradexplainError | None = None
    for matrices in (True, False):
        for shapes in points.choices(names, fixed):
            # Matrices where they do: a weight is not taken for a vector.
            if all(len(s) == 2 for n, s in shapes.items() if n not in fixed) != matrices:
                continue
            try:
                graph = read(program, shapes.__getitem__)
            except GradexplainError as error:
                first = first or error
                continue
            if math.prod(graph.out.shape) > 0:
                return {n.label: n.shape for n in graph.leaves}
    assert first is not None
    raise first


def _apart(program: Program, pattern: Mapping[str, Shape]) -> dict[str, Shape]:
    """The pattern with another number for each axis that may have another size than the others."""
    graph = read(program, pattern.__getitem__)
    found = generalised(graph, lambda shapes: read(program, shapes.__getitem__, any_size=True))
    return dict(pattern) if found is None else {n.label: n.shape for n in found.graph.leaves}


def _derivations(
    program: Program, pattern: Mapping[str, Shape]
) -> list[tuple[dict[str, Shape], bool]]:
    """Shapes to derive at: primes for any size, else the pattern as it is."""
    found: list[tuple[dict[str, Shape], bool]] = []
    for shapes in (_apart(program, pattern), pattern):
        prime = _at_primes(program, pattern, shapes)
        if prime is not None and (prime, True) not in found:
            found.append((prime, True))
    found.append((dict(pattern), False))
    return found


def _at_primes(
    program: Program, pattern: Mapping[str, Shape], shapes: Mapping[str, Shape]
) -> dict[str, Shape] | None:
    """A prime for each size of ``shapes`` that can have one; what cannot is as in the pattern."""
    pairs = ((n, k) for name in shapes for n, k in zip(shapes[name], pattern[name], strict=True))
    real = {n: k for n, k in sorted(pairs, key=lambda pair: pair[::-1]) if k != 1}
    numbers = [Fraction(n).numerator for n in re.findall(r"\d+(?:\.\d+)?", program.source)]
    # Where an operation is told a size, as layer_norm is, the others are free.
    for row, alone in itertools.product(PRIMES, (False, True)):
        # A number of the user's is no size, nor a multiple of one.
        free = [p for p in row[:-1] if not any(n % p in (0, 1, p - 1) for n in numbers if n > 1)]
        some: dict[int, int] = {}
        for more in [[n] for n in real] if alone else [list(real)]:
            wider = {**some, **dict(zip(more, free[len(some) :], strict=False))}
            prime = at_sizes(shapes, {**real, **wider})
            other = {name: elsewhere(shape) for name, shape in prime.items()}  # for the docstring
            fits = len(wider) == len(some) + len(more)
            if fits and is_read(program, prime) and is_read(program, other):
                some = wider
        if some:
            return at_sizes(shapes, {**real, **some})
    return None


def is_read(program: Program, shapes: Mapping[str, Shape]) -> bool:
    try:
        read(program, shapes.__getitem__, any_size=True)
    except GradexplainError:
        return False
    return True
