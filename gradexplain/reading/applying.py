"""Records applied to values: the one way in which a call becomes nodes of a graph.

A value is either a `Ref` (a tensor) or plain Python (a number, a shape, a dim); a number becomes a
tensor of shape ``()`` where it meets one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain.errors import GradexplainError, Span
from gradexplain.graph import Builder, Node, Ref
from gradexplain.ops import Op, by_spelling
from gradexplain.ops.base import Shape
from gradexplain.reading.arguments import Tensors, bind, is_regular
from gradexplain.reading.names import functions
from gradexplain.reading.objects import Results
from gradexplain.reading.said import refused


@dataclass(slots=True)
class Applier:
    """Applies records to values in one builder.

    ``value_of(name)`` is the value of an input where it is known, which matters only for one that is
    used as an index.
    """

    builder: Builder
    value_of: Callable[[str], Any]
    #: The elements of a computed value that is used as an index, None where they are not known.
    whole: Callable[[Ref], Any] = lambda ref: None

    def apply_any(self, records: list[Op], args: list[Any], kwargs: Any, place: Span) -> Any:
        """The first record whose schema fits; else what the last but most specific one says."""
        errors = []
        for op in records:
            try:
                return self.apply(op, args, place, **kwargs)
            except GradexplainError as error:
                if len(records) == 1 or (
                    error.source is not None and not getattr(error, "binding", 0)
                ):
                    raise
                errors.append(error)
        raise errors[0]

    def apply(self, op: Op, args: Sequence[Any], place: Span, /, **kwargs: Any) -> Any:
        try:
            tensors = Tensors(
                lambda value, integer=False: self.constant(value, place, integer),
                self.is_integer,
            )
            bound = bind(op, args, kwargs, tensors)
        except GradexplainError as error:
            error.binding = True  # type: ignore[attr-defined]
            raise error.at(self.builder.source, place) from None
        if op.expand is not None:
            try:
                return op.expand(Calls(self, place), *bound)
            except GradexplainError as error:
                raise error.at(self.builder.source, place) from None
        return self.builder.apply(op, bound, place)

    def is_integer(self, ref: Ref) -> bool:
        """Whether a tensor can be an index; an input that is used as one becomes an integer input."""
        node = self.builder.nodes[ref.id]
        if node.integer:
            return True
        value = self.known(node)
        if value is None or not (np.isfinite(value) & (value == np.floor(value))).all():
            return False
        if node.op is not None:  # its numbers stand for it from here on
            node = dataclasses.replace(node, op=None, args=(), value=value)
        self.builder.nodes[ref.id] = dataclasses.replace(node, integer=True)
        self.builder.known[ref.id] = value
        return True

    def known(self, node: Node) -> Any:
        """The elements of a value that is used as an index, None where they are not known."""
        if node.is_leaf:
            return self.value_of(node.label)
        return self.whole(Ref(node.id)) if node.op is not None else np.asarray(node.value)

    def constant(self, value: Any, place: Span, integer: bool = False) -> Ref:
        if isinstance(value, (list, tuple)):
            if any(isinstance(part, Ref) for part in flat(value)):
                raise refused("list of tensors")
            if not is_regular(value):
                raise refused("uneven list")
        return self.builder.constant(value, place, integer=integer)


@dataclass(frozen=True, slots=True)
class Calls:
    """What a record's ``expand`` builds with: ``b.call("narrow", x, dim, start, length)``."""

    applier: Applier
    place: Span

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        home = "operator" if name == "getitem" else ""
        records = by_spelling(f"{home}.{name}") or functions("", name)
        return self.applier.apply_any(records, list(args), kwargs, self.place)

    def apply(self, op: Op, *args: Any) -> Ref:
        """A value of one record, its arguments in the order of the schema."""
        return self.applier.builder.apply(op, args, self.place)

    def constant(self, value: Any, *, integer: bool = False) -> Ref:
        """A number, a nested list, or an array."""
        return self.applier.builder.constant(value, self.place, integer=integer)

    def values(self, x: Ref) -> Any:
        """The values of an input or of a constant, None for what is computed."""
        return self.applier.known(self.node(x))

    def node(self, x: Ref) -> Node:
        return self.applier.builder.nodes[x.id]

    def shape(self, x: Ref) -> Shape:
        return self.applier.builder.nodes[x.id].shape

    def results(self, fields: tuple[str, ...], *values: Any) -> Results:
        return Results(fields, values)


def flat(value: Any) -> Iterator[Any]:
    """The elements of nested lists, in order."""
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, (list, tuple)):
            stack.extend(part)
        else:
            yield part
