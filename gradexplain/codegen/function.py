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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gradexplain.checking import numeric, points
from gradexplain.checking.subjects import comparable, free_names, shapes_text
from gradexplain.codegen.forward import RESERVED
from gradexplain.codegen.making import Code, Making
from gradexplain.codegen.numbers import PRIMES, elsewhere
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.limits import MAX_NAME
from gradexplain.ops.base import Shape, show_shape
from gradexplain.reading.language import read
from gradexplain.reading.program import Program
from gradexplain.reading.syntax import parse
from gradexplain.supervisor import link


def generate(
    expression: str,
    name: str = "Function",
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    verify: bool = True,
    jvp: bool = False,
) -> Code:
    """The source of a ``torch.autograd.Function`` for an expression.

    ``shapes`` tells the ranks and patterns of the inputs where they matter.  With ``verify`` the
    class is held against the closed form, as by `gradexplain.check`, before it is returned.
    With ``jvp`` it has a forward-mode derivative too; `torch.compile` traces no class that has one.
    """
    numeric.torch_module()  # what PyTorch has is asked while the code is written
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
    for sizes, general in _derivations(program, pattern, fixed):
        made: list[Making] = []
        for way in ("closed form", "steps"):
            try:
                made.append(
                    Making(program, sizes, pattern, name, general=general, way=way, jvp=jvp)
                )
            except GradexplainError as error:
                errors.append(error)
        for best in sorted(made, key=lambda m: m.price):
            try:
                code = best.code()
            except UnsupportedError as error:
                errors.append(error)
                continue
            link.missing("the proof that it is right", partial(_unproven, code))
            wrong = failure(code) if verify else ""
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


def _derivations(
    program: Program, pattern: Mapping[str, Shape], fixed: Mapping[str, Shape]
) -> list[tuple[dict[str, Shape], bool]]:
    """Shapes to derive at: primes for any size, else the pattern as it is."""
    sizes = sorted({n for s in pattern.values() for n in s if n != 1})
    found: list[tuple[dict[str, Shape], bool]] = []
    # Where an operation is told a size, as layer_norm is, the others are free.
    untold = [n for n in sizes if not re.search(rf"\b{n}\b", program.source)]
    for row, some in itertools.product(PRIMES, (sizes, untold)):
        # A number of the user's is no size.
        free = [p for p in row[:-1] if str(p) not in program.source]
        prime = _put(pattern, dict(zip(some, free, strict=False)))
        other = {name: elsewhere(shape) for name, shape in prime.items()}  # for the docstring
        if len(some) <= len(free) and _is_read(program, prime) and _is_read(program, other):
            found += [(prime, True)] if some else []
            break
    found.append((dict(pattern), False))
    return found


# -- verification ----------------------------------------------------------------------------------


def _put(shapes: Mapping[str, Shape], sizes: Mapping[int, int]) -> dict[str, Shape]:
    return {n: tuple(sizes.get(k, k) for k in s) for n, s in shapes.items()}


def _is_read(program: Program, shapes: Mapping[str, Shape]) -> bool:
    try:
        read(program, shapes.__getitem__)
    except GradexplainError:
        return False
    return True


def _is_small(program: Program, shapes: Mapping[str, Shape]) -> bool:
    """Whether the whole Jacobian can be compared at these shapes."""
    try:
        graph = read(program, shapes.__getitem__)
    except GradexplainError:
        return False
    return comparable(graph, shapes)


def loaded(code: Code) -> Any:
    """The class itself."""
    scope: dict[str, Any] = {}
    exec(compile(code.source, f"<{code.name}>", "exec"), scope)
    return scope[code.name]


#: Elements of a tensor up to which a class is tried at the shapes that were asked for.
_SMALL = 40


def failure(code: Code) -> str:
    """Why the class is not right, "" where it is: by `gradexplain.check`, at other sizes too where
    it takes any.
    """
    from gradexplain.checking.checker import check_subject
    from gradexplain.checking.code import subject_of

    shapes = code.shapes
    if code.general:
        # At small sizes, where the whole Jacobian can be compared.
        sizes = sorted({n for s in shapes.values() for n in s if n != 1})
        small = _put(shapes, {n: 2 + k % 2 for k, n in enumerate(sizes)})
        large = max(math.prod(s) for s in shapes.values()) > _SMALL
        program = parse(code.expression)
        shapes = small if large and _is_read(program, small) else shapes
        others = [s for s in points.others(shapes, {}) if s != shapes and _is_small(program, s)][:1]
    else:
        others = []
    tried = [{code.renamed.get(n, n): s for n, s in shapes.items()} for shapes in (shapes, *others)]
    try:
        made = loaded(code)
        for shapes in tried:
            subject = subject_of(
                made if _has_value(made, shapes) else _definite(made), list(shapes)
            )
            report = check_subject(subject, {}, shapes, write=False)
            if not report.right:
                return "; ".join(i.fault.sentence for i in report.inputs.values() if i.fault)
    except GradexplainError as error:
        return error.message
    except Exception as error:  # the code may raise anything: it is run for the first time
        return f"{type(error).__name__}: {error}"
    return ""


def _has_value(made: Any, shapes: Mapping[str, Shape]) -> bool:
    """Whether a class's forward takes matrices that are singular."""
    torch = numeric.torch_module()
    try:
        made.forward(*(torch.ones(shape, dtype=torch.float64) for shape in shapes.values()))
    except torch.linalg.LinAlgError:
        return False
    return True


def _definite(made: Any) -> Any:
    """The class at symmetric positive definite matrices, made of any."""

    def wrapped(*tensors: Any) -> Any:
        return made.apply(*(
            x @ x.mT + x.new_ones(x.shape[-1]).diag_embed()
            if x.ndim > 1 and x.shape[-1] == x.shape[-2] else x for x in tensors
        ))  # fmt: skip

    return wrapped


__all__ = ["Code", "failure", "generate", "loaded", "shapes_text", "show_shape"]
