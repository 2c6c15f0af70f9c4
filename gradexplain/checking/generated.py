"""The class that ``codegen`` writes, loaded and held against the closed form before it is given out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradexplain import points
from gradexplain.checking import numeric
from gradexplain.checking.checker import check_subject
from gradexplain.checking.code import subject_of
from gradexplain.codegen import function
from gradexplain.codegen.making import Code
from gradexplain.errors import GradexplainError
from gradexplain.explanation import Array
from gradexplain.ops.base import Shape
from gradexplain.reading.language import read
from gradexplain.reading.program import Program
from gradexplain.reading.syntax import parse


def generate(
    expression: str,
    name: str = "Function",
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    verify: bool = True,
    jvp: bool = False,
) -> Code:
    """`gradexplain.codegen.function.generate`; with ``verify`` the class is held against the closed
    form, as by `gradexplain.check`, before it is returned.
    """
    return function.generate(expression, name, shapes, jvp=jvp, failure=failure if verify else None)


def _is_small(program: Program, shapes: Mapping[str, Shape]) -> bool:
    """Whether the whole Jacobian can be compared at these shapes, soon."""
    if max(map(math.prod, shapes.values())) > _SMALL:
        return False
    try:
        graph = read(program, shapes.__getitem__)
    except GradexplainError:
        return False
    return points.comparable(graph, shapes)


#: Elements of a tensor up to which a class is tried at the shapes that were asked for.
_SMALL = 40


def failure(code: Code) -> str:
    """Why the class is not right, "" where it is: by `gradexplain.check`, at other sizes too where
    it takes any.
    """
    program, at = parse(code.expression), [code.shapes]
    if code.general:
        # At small sizes, where the whole Jacobian can be compared.
        small = (s for s in (code.shapes, *code.others()) if _is_small(program, s))
        at = [*itertools.islice(small, 2)] or at
    tried = [{code.renamed.get(n, n): s for n, s in shapes.items()} for shapes in at]
    try:
        made = code.loaded()
        for shapes in tried:
            tested = made if _has_value(made, shapes) else _definite(made)
            report = check_subject(subject_of(tested, list(shapes)), {}, shapes, write=False)
            if not report.right:
                wrong = {n: i.verdict for n, i in report.inputs.items() if i.verdict != "right"}
                return "; ".join(f"the gradient by {n} is {said}" for n, said in wrong.items())
            call = getattr(tested, "apply", tested)
            if "def jvp(" in code.source and not _forward_right(call, report.points[0].values):
                return "its jvp is not its backward's Jacobian"
    except GradexplainError as error:
        return error.message
    except Exception as error:  # the code may raise anything: it is run for the first time
        return f"{type(error).__name__}: {error}"
    return ""


def _forward_right(call: Callable[..., Any], values: Mapping[str, Array]) -> bool:
    """Whether ``⟨v, J·t⟩`` by jvp is ``⟨Jᵀ·v, t⟩`` by the backward, which has been checked."""
    torch = numeric.torch_module()
    xs = [numeric.tensor(x, "float64") for x in values.values()]
    ts = [numeric.tensor(points.spread(x.shape, 7), "float64") for x in values.values()]
    y, forward = torch.func.jvp(call, tuple(xs), tuple(ts))
    v = numeric.tensor(points.spread(tuple(y.shape), 11) - 0.5, "float64")
    wanted = [x.requires_grad_() for x in xs if x.is_floating_point()]
    back = torch.autograd.grad(call(*wanted), wanted, v)
    # Two sums of the same products in another order: a wrong jvp differs in the first digits.
    both = (forward * v).sum(), sum((g * t).sum() for g, t in zip(back, ts, strict=True))
    return bool(torch.allclose(*both, rtol=1e-8, atol=1e-12, equal_nan=True))


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
