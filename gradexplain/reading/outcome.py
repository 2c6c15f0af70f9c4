"""What the reading of a text comes to, and whom it asks where that depends on numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gradexplain.errors import Span
from gradexplain.explanation import Array
from gradexplain.graph import Graph


@dataclass(frozen=True, slots=True)
class BackwardCall:
    """One call of ``backward`` in the text; ``start`` is a node's id.

    ``v`` is None for the 1 of a scalar.  ``zeroed`` are the labels whose ``.grad`` was zeroed since
    the call before; ``wanted`` those that the call asks for, None for every one that requires grad.
    """

    start: int
    v: Array | None
    retain_graph: bool
    zeroed: frozenset[str]
    wanted: tuple[str, ...] | None
    place: Span
    #: How many nodes there were.
    made: int = 0
    #: Gradients are returned (``torch.autograd.grad``): nothing accumulates.
    returned: bool = False
    #: The nodes of its gradients, where they are differentiated again.
    derived: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Remark:
    """What the page should say of the text.  ``kind`` is a stable word for programs."""

    kind: str
    text: str


class Numbers(Protocol):
    """Somebody who can run a graph: PyTorch, which is asked only where the text depends on numbers."""

    def value(self, graph: Graph, leaves: Mapping[str, Array], dtype: str) -> Array:
        """The output's elements."""

    def suits(self, graph: Graph, leaves: Mapping[str, Array]) -> bool:
        """Whether every operation has a value and a derivative at these values."""

    def gradients(
        self,
        graph: Graph,
        leaves: Mapping[str, Array],
        dtype: str,
        v: Array | None,
        wanted: Sequence[str],
        derived: Sequence[Any] = (),
    ) -> Mapping[str, Array | None]:
        """What one call of backward gives the leaves and computed values named in ``wanted``; by
        PyTorch's double backward where gradients that are written out are given in ``derived``."""

    def line(self, graph: Graph, name: str, v_name: str) -> str:
        """The gradient of an input as an expression of PyTorch, "" where there is none."""

    def saved(
        self, graph: Graph, leaves: Mapping[str, Array], dtype: str, wanted: Sequence[str]
    ) -> set[tuple[int, int]]:
        """Which operation keeps which value for its backward."""

    def step(self, kind: str, parts: Sequence[tuple[Any, ...]]) -> list[Mapping[str, Array]]:
        """Parameters, each named "", after one step of an optimizer, and what that keeps for the next."""
