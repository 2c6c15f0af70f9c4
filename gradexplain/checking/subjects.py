"""What is checked: a forward, as a graph, and a backward, as something that can be run.

A `Setting` is both at one choice of shapes.  `Implemented` is what the backward returned for a
list of upstream gradients.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gradexplain import points
from gradexplain.checking import claims as claims_
from gradexplain.checking import numeric
from gradexplain.errors import GradexplainError, InputError
from gradexplain.explanation import Array
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape, show_shape
from gradexplain.reading.language import read
from gradexplain.reading.names import free_names
from gradexplain.reading.program import Program


@dataclass(slots=True)
class Result:
    """What came back for one input: a row for each upstream gradient, or why there are none.

    ``problem`` is "", ``none``, ``raises`` or ``detached``.
    """

    rows: Array | None = None
    problem: str = ""
    error: str = ""


@dataclass(slots=True)
class Implemented:
    """``results`` by input, and what was noticed on the way."""

    results: dict[str, Result]
    mutated: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()
    buffer: str = ""
    #: Inputs whose raw result was wider than the input, and which PyTorch summed.
    widened: tuple[str, ...] = ()
    #: The backward changes the upstream gradient that it is given.
    v_changed: bool = False
    #: `unsteady` is by what the backward leaves behind, not by chance.
    leftover: bool = False


@dataclass(slots=True)
class Setting(ABC):
    """The forward and the claim at one choice of shapes.  ``graph`` is None where it is not
    known.
    """

    shapes: dict[str, Shape]
    graph: Graph | None
    out_shape: Shape
    wanted: tuple[str, ...]
    #: The claim's own graph by input, where it has one.
    claims: dict[str, Graph]
    grad_names: tuple[str, ...]
    #: The Functions that are applied, in order, where the claim is code.
    functions: tuple[Any, ...] = field(default=(), kw_only=True)

    @abstractmethod
    def implemented(
        self, values: Mapping[str, Array], vs: Sequence[Array], dtype: str
    ) -> Implemented:
        """What the claim makes of each of ``vs``."""

    @abstractmethod
    def reference(self, values: Mapping[str, Array], dtype: str) -> dict[str, Array]:
        """J by each wanted input as PyTorch's autograd of the forward has it."""

    def has_shapes(self, given: Mapping[str, Array]) -> bool:
        """Whether the claim returns a gradient of each input's shape here."""
        return all(
            n not in self.claims or self.claims[n].out.shape == self.shapes[n] for n in self.wanted
        )

    @property
    def kinked(self) -> bool:
        """Whether points are tried that may be kinks."""
        return True

    def forward_gap(self, values: Mapping[str, Array], dtype: str) -> float | None:
        """By how much the forward differs from a reference's, None where it does not."""
        return None

    def forwards(self, values: Mapping[str, Array], dtype: str) -> tuple[Array, Array] | None:
        """The forward in a dtype, and that of a reference in float64, where there is one."""
        return None

    def slack(self, values: Mapping[str, Array], name: str) -> Any:
        """What the truth itself may be off by, at each entry."""
        return 0.0

    def between(
        self, values: Mapping[str, Array], name: str, wrong: Array, claimed: Array
    ) -> Array:
        """``wrong`` without what is right by another convention at a kink."""
        return wrong


class Subject(Protocol):
    """What is checked, at whatever shapes are asked for."""

    title: str
    output: str
    names: tuple[str, ...]
    wanted: tuple[str, ...]

    def setting(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> Setting:
        """Raises `GradexplainError` where the forward or the claim has no value at these shapes."""
        ...

    def accepts(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> bool:
        """Whether the forward has a value at these shapes."""
        ...

    def graph_at(self, shapes: Mapping[str, Shape]) -> Graph | None:
        """The forward's graph at any shapes, None where it is not known."""
        ...


class FormulaSubject:
    """An expression, and claims as programs."""

    def __init__(
        self,
        program: Program,
        texts: Sequence[str] | Mapping[str, str],
        grad_name: str | None,
        title: str = "",
    ) -> None:
        self.program = program
        self.title = title or program.source.strip()
        #: The inputs in order of first use: the names that are read before anything is assigned.
        self.names = free_names(program)
        self._grad_name = grad_name
        self.claimed = claims_.read_claims(texts, self.names)
        self.wanted = tuple(claim.name for claim in self.claimed)
        self.output = "y"

    def graph(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> Graph:
        def shape_of(name: str) -> Shape:
            return tuple(shapes[name])

        return read(self.program, shape_of, values)

    def graph_at(self, shapes: Mapping[str, Shape]) -> Graph | None:
        return self.graph(shapes, {})

    def accepts(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> bool:
        try:
            graph = self.graph(shapes, values)
        except GradexplainError:
            return False
        return points.comparable(graph, shapes)

    def setting(self, shapes: Mapping[str, Shape], values: Mapping[str, Array]) -> FormulaSetting:
        graph = self.graph(shapes, values)
        self.output = graph.out.label
        names = claims_.upstream_names(graph, self._grad_name)
        found = {}
        for claim in self.claimed:
            if claim.program is not None:
                found[claim.name] = claims_.claim_graph(claim, graph, names)
        return FormulaSetting(dict(shapes), graph, graph.out.shape, self.wanted, found, names)


@dataclass(slots=True)
class FormulaSetting(Setting):
    """A claim that is a formula: it is evaluated."""

    _known: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def known(self, values: Mapping[str, Array], dtype: str) -> dict[str, Any]:
        """The tensors of the forward's values by label."""
        key = dtype, tuple((n, v.tobytes()) for n, v in values.items())
        if key not in self._known:
            assert self.graph is not None
            torch = numeric.torch_module()
            with torch.no_grad():
                leaves = {n: numeric.tensor(v, dtype) for n, v in values.items()}
                tensors = numeric.run(self.graph, leaves, dtype, everything=True)
            self._known[key] = {
                self.graph[id].label: found for id, found in tensors.items()
                if not self.graph[id].is_literal
            }  # fmt: skip
        return self._known[key]

    def implemented(
        self, values: Mapping[str, Array], vs: Sequence[Array], dtype: str
    ) -> Implemented:
        known = self.known(values, dtype)
        results: dict[str, Result] = {}
        for name in self.wanted:
            graph = self.claims.get(name)
            if graph is None:
                results[name] = Result(problem="none")
                continue
            try:
                results[name] = Result(claim_rows(graph, known, self.grad_names, vs, dtype))
            except numeric.REFUSALS as error:
                text = str(error).strip().split("\n")[0]
                results[name] = Result(problem="raises", error=text)
        return Implemented(results)

    def reference(self, values: Mapping[str, Array], dtype: str) -> dict[str, Array]:
        assert self.graph is not None
        return numeric.jacobians(self.graph, values, self.wanted, dtype)


def claim_rows(
    graph: Graph,
    known: Mapping[str, Any],
    grad_names: Sequence[str],
    vs: Sequence[Array],
    dtype: str,
) -> Array:
    """The claim's result for each upstream gradient."""
    torch = numeric.torch_module()
    rows = []
    with torch.no_grad():
        for v in vs:
            grad = numeric.tensor(v, dtype)
            leaves = {**known, **dict.fromkeys(grad_names, grad)}
            rows.append(_plain(numeric.run(graph, leaves, dtype)[graph.output]))
    return np.array(rows)


def _plain(found: Any) -> Array:
    return numeric.array(found) if hasattr(found, "detach") else np.asarray(float(found))


def no_shapes(subject: Subject) -> GradexplainError:
    """No choice of shapes suits the forward."""
    names = ", ".join(subject.names)
    return InputError(
        f"no shapes of {names} were found for which the forward has a value",
        remedy=f"give them, as in --shape {next(iter(subject.names), 'x')}=2,3",
    )


def setting_at(
    subject: Subject, shapes: Mapping[str, Shape], given: Mapping[str, Array]
) -> Setting | None:
    """None where the forward or the claim has no value at these shapes."""
    with contextlib.suppress(GradexplainError):
        return subject.setting(shapes, given) if subject.accepts(shapes, given) else None
    return None


def alike(one: Setting, other: Setting) -> bool:
    """Whether the output's sizes are those of the inputs as before: broadcasting would have made
    another pattern of it.
    """
    sizes = {a: b for n in one.shapes
             for a, b in zip(one.shapes[n], other.shapes[n], strict=True)}  # fmt: skip
    return other.out_shape == tuple(sizes.get(n, n) for n in one.out_shape)


def shapes_text(shapes: Mapping[str, Shape]) -> str:
    """``x (2, 3), b (3,)``."""
    return ", ".join(f"{name} {show_shape(shape)}" for name, shape in shapes.items())
