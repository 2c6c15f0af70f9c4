"""J as it should be: from the closed form, and as PyTorch's autograd of the forward has it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy

from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node
from gradexplain.plan.arrays import to_float
from gradexplain.routes.chain import ChainRule
from gradexplain.routes.closed import ClosedForm

#: J is evaluated with digits to spare up to this many entries.
_EXACT_ENTRIES = 160


class Truth:
    """The closed form of one graph, derived once and evaluated at many points."""

    def __init__(self, graph: Graph, wanted: Sequence[str], v_name: str = "v") -> None:
        self.graph = graph
        self.leaves: list[Node] = [n for n in graph.leaves if n.label in wanted]
        self.form = ClosedForm(graph, {}, np.zeros(graph.out.shape), exact=False)
        self.form.v_name = v_name
        self._terms: dict[str, list[Any]] = {}

    def _at(self, values: Mapping[str, Array], exact: bool) -> ClosedForm:
        form = ClosedForm(
            self.graph, values, np.zeros(self.graph.out.shape), exact=exact, formulas=self.form
        )
        form.v_name = self.form.v_name
        return form

    def jacobians(self, values: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """``(J, magnitudes)`` by each leaf, as matrices of outputs by inputs."""
        rows = math.prod(self.graph.out.shape)
        entries = rows * sum(math.prod(leaf.shape) for leaf in self.leaves)
        form = self._at(values, exact=entries <= _EXACT_ENTRIES)
        found = {}
        for leaf in self.leaves:
            pair = form.jacobian_value(leaf)
            shape = rows, math.prod(leaf.shape)
            found[leaf.label] = (
                to_float(pair[0]).reshape(shape),
                np.asarray(pair[1], dtype=np.float64).reshape(shape),
            )
        return found

    def terms(self, leaf: Node) -> list[Any]:
        """The additive terms of J by ``leaf``; none where it has no single formula."""
        if leaf.label not in self._terms:
            formula = self.form.jacobian(leaf)
            parts: list[Any] = []
            if formula is not None:
                parts = list(sympy.Add.make_args(sympy.expand_mul(formula)))
            self._terms[leaf.label] = parts if len(parts) > 1 else []
        return self._terms[leaf.label]

    def term_values(self, leaf: Node, values: Mapping[str, Array]) -> list[Array]:
        """Each of `terms` as a matrix."""
        calculus = self.form.calculus
        out = calculus.indices(self.graph.out.shape, "o")
        places = calculus.indices(leaf.shape, "d")
        form = self._at(values, exact=False)
        shape = math.prod(self.graph.out.shape), math.prod(leaf.shape)
        return [
            to_float(
                form.evaluate(term, (*out, *places), self.graph.out.shape + leaf.shape)[0]
            ).reshape(shape)
            for term in self.terms(leaf)
        ]


def magnitude(graph: Graph, values: Mapping[str, Array]) -> Array:
    """The magnitude of evaluating ``graph`` at ``values``, element by element of its result."""
    pair = ChainRule(graph, values, exact=False).forward[graph.output]
    with np.errstate(all="ignore"):
        return np.nan_to_num(np.asarray(pair[1], dtype=np.float64), nan=0.0, posinf=0.0)
