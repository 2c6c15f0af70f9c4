"""Second derivatives: every ``∂²L/∂a∂b`` in closed form, the Hessian's signs, and ``H·u``.

The gradient's closed form is differentiated again.  A second route differentiates the backward pass
operation by operation (`gradexplain.adjoint`), and PyTorch does so with
``create_graph=True``; the three are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradexplain.errors import InputError
from gradexplain.explaining.engine import explanation_of
from gradexplain.explaining.running import Run
from gradexplain.explanation import Array, Check
from gradexplain.graph import Node
from gradexplain.ops.base import show_shape
from gradexplain.problem import DType, Request, problem_of, request_of, with_shared_name
from gradexplain.reading.arrays import ONES, Value, as_array, bind
from gradexplain.routes.names import free_name, free_names
from gradexplain.second.gradients import asked, stepped
from gradexplain.second.making import HessianAsked, Making
from gradexplain.second.model import WHOLE, Hessian
from gradexplain.second.notes import notes
from gradexplain.supervisor import link
from gradexplain.supervisor.within import within


def hessian(
    expression: str,
    *,
    at: Mapping[str, Any] | None = None,
    grad: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    wrt: str | Sequence[str] | None = None,
    vector: Any = None,
    dtype: DType | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> Hessian:
    """Every second and mixed partial derivative of ``expression``, as `gradexplain.explain` has it.

    ``grad`` weighs the elements of an output that is not a scalar.  ``vector`` is the ``u`` of the
    product ``H·u``: an array in the input's shape, or a mapping from inputs to theirs.  ``timeout`` is
    `gradexplain.explain`'s.
    """
    u: dict[str | None, Value] = {}
    if isinstance(vector, Mapping):
        u = {name: as_array(value, f"vector[{name!r}]") for name, value in vector.items()}
    elif vector is not None:
        u = {None: as_array(vector, "vector")}
    request = request_of(expression, at, grad, shapes, wrt, dtype, check)
    return within(timeout, hessian_of, request, u)


def hessian_of(request: Request, vector: Mapping[str | None, Value]) -> Hessian:
    """The Hessian that a request asks for; ``vector`` is by input, or under None for all."""
    problem = problem_of(request)
    leaves = [n for n in problem.graph.leaves if n.label in problem.wanted and not n.integer]
    u = _vector(vector, leaves, problem.dtype)
    problem = with_shared_name(replace(problem, scalar=problem.v_source == "implicit"))
    whole = sum(math.prod(leaf.shape) for leaf in leaves) <= WHOLE
    # Directions of no pattern, the same ones every time, along which a large H is checked.
    source = np.random.default_rng(3)
    weights = u or {leaf.label: source.uniform(0.5, 1.5, leaf.shape) for leaf in leaves}
    graph, implicit = problem.graph, problem.v_source == "implicit"
    made = stepped(graph, problem.wanted, None if implicit else free_names(graph)[0])
    u_name, p = free_name(graph, "u", "w", "direction"), free_name(graph, "P", "Q", "R")
    total = made.summed(leaves, p, u_name)
    extra = _Second(u, weights, whole, replace(made, graph=total), u_name, p)
    if problem.check:
        problem, extra.shared, extra.again = asked(
            problem, made, total, u_name, weights, whole=whole
        )
    first = explanation_of(problem, extra)
    found = extra.found
    assert found is not None
    found.check = first.check
    found.notes = [*first.notes, *found.notes]
    return found


class _Second(HessianAsked):
    """The second derivatives, made when the gradient has been explained."""

    def begin(self, run: Run) -> None:
        """The answer so far: blocks and products are put into it as each is known."""
        title = run.graph.out.label
        if run.problem.v_source != "implicit":
            title = run.closed.loss_name
        self.found = found = Hessian(run.explanation, title, self.u_name, self.p, vector=self.u)
        link.missing("the gradient, second derivatives", lambda: found)

    def further(self, run: Run) -> list[Check]:
        found = self.found
        link.missing("second derivatives", lambda: found)
        made = Making(run, self)
        made.hessian.notes += notes(made)
        return [made.check()]


def _vector(
    given: Mapping[str | None, Value], leaves: Sequence[Node], dtype: str
) -> dict[str, Array] | None:
    """``u`` for each input; an input that is not named gets zeros."""
    if not given:
        return None
    names = [leaf.label for leaf in leaves]
    whole = given.get(None)
    if whole is not None and (whole is ONES or len(leaves) == 1):
        given = dict.fromkeys(names, whole)
    elif whole is not None:
        u = bind(whole, dtype, "--vector")
        sizes = [math.prod(leaf.shape) for leaf in leaves]
        if u.shape == (sum(sizes),):
            # One vector over the elements of all inputs, in their order.
            parts = np.split(u, np.cumsum(sizes)[:-1])
            return {n.label: part.reshape(n.shape) for n, part in zip(leaves, parts, strict=True)}
        raise InputError(
            f"mismatch in shape: --vector has shape {show_shape(u.shape)} and the inputs "
            f"{', '.join(names)} have {sum(sizes)} elements together",
            remedy=f"give {sum(sizes)} numbers, or one for each input as in --vector {names[0]}=…",
        )
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InputError(
            f"--vector {unknown[0]}: no input of that name is differentiated by",
            remedy=f"the inputs are: {', '.join(names)}",
        )
    found: dict[str, Array] = {}
    for leaf in leaves:
        value = given.get(leaf.label, np.zeros(leaf.shape))
        option = f"--vector {leaf.label}" if whole is None else "--vector"
        part = bind(np.ones(leaf.shape) if value is ONES else value, dtype, option)
        if part.shape != leaf.shape:
            raise InputError(
                f"mismatch in shape: {option} has shape {show_shape(part.shape)} and {leaf.label} has "
                f"shape {show_shape(leaf.shape)}; u has the input's shape",
                remedy=f"give u in shape {show_shape(leaf.shape)}, or ones",
            )
        found[leaf.label] = part
    return found
