"""One recorded call as a graph of its own, by the records: forward, backward, and its formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradexplain import agreement
from gradexplain.errors import GradexplainError, Span, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.formula.evaluate import Pair, to_float
from gradexplain.graph import Graph, Ref, op_call
from gradexplain.language import _Reader
from gradexplain.ops import by_spelling
from gradexplain.render.numbers import number
from gradexplain.routes.chain import ChainRule
from gradexplain.syntax import Program
from gradexplain.trace.snapshot import Arg, Operation, Snapshot, Value

_NOWHERE = Span(0, 0)

#: A local formula with more characters than this is not shown.
_LONG = 200


class Chain(ChainRule):
    """The chain rule from values that carry their error bounds with them."""

    def _pair(self, array: Any) -> Pair:
        return array if isinstance(array, tuple) else super()._pair(array)


def is_literal(value: Value) -> bool:
    """A number that the script wrote as a tensor: it is shown where it is used."""
    return value.kind == "constant" and not value.names and value.shape == () and value.array is not None


class Reading:
    """Calls applied to one builder: a reader of the language without a text."""

    def __init__(self, snapshot: Snapshot, labels: Mapping[int, str]) -> None:
        self.snapshot = snapshot
        self.labels = labels
        self.refs: dict[int, Ref] = {}
        self._integers: dict[str, Array] = {}
        self.reader = _Reader(Program("", ()), self._no_shape, self._integers.get)

    @staticmethod
    def _no_shape(name: str) -> Any:
        raise UnsupportedError(f"{name} is not known")

    def leaf(self, number: int) -> Ref:
        """The value as an input of the graph."""
        if number not in self.refs:
            value = self.snapshot.values[number]
            label = self.labels[number]
            if value.dtype.startswith(("int", "uint", "bool")) and value.array is not None:
                self._integers[label] = value.array
            self.refs[number] = self.reader.builder.leaf(label, value.shape, _NOWHERE)
        return self.refs[number]

    def apply(self, operation: Operation) -> Any:
        """What the call returns: a `Ref`, or a tuple of them.  Raises `GradexplainError`."""
        args = [self._argument(arg) for arg in operation.args]
        kwargs = {
            name: self._argument(arg)
            for name, arg in operation.kwargs.items()
            if not _is_habit(name, arg)
        }
        if operation.swap:
            args[:2] = args[1::-1]
        if operation.spellings == ("torch.positive",):
            args, kwargs = args[:1], {}
        problem: GradexplainError = UnsupportedError(f"{operation.name} has no record")
        for spelling in operation.spellings:
            records = by_spelling(spelling)
            if not records:
                continue
            try:
                return self.reader._apply_any(records, args, kwargs, _NOWHERE)
            except GradexplainError as error:
                problem = error
        raise problem

    def output(self, operation: Operation, number: int, made: Any) -> Ref:
        """The output ``number`` of what `apply` returned, its shape checked."""
        value = self.snapshot.values[number]
        for place in value.path:
            made = made[place] if isinstance(made, (tuple, list)) else made
        if not isinstance(made, Ref):
            raise UnsupportedError(f"{operation.name} returns something else here")
        node = self.reader.builder.nodes[made.id]
        if tuple(node.shape) != value.shape:
            raise UnsupportedError(f"{operation.name} has another shape here")
        if node.op is None or any(ref.id == made.id for ref in self.refs.values()):
            made = self.reader.builder.apply(by_spelling("torch.positive")[0], (made,), _NOWHERE)
        return made

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, Arg):
            value = self.snapshot.values[arg.id]
            if is_literal(value) and arg.id not in self.refs:
                assert value.array is not None
                number = float(value.array)
                return int(number) if number == int(number) and value.dtype[0] in "iu" else number
            return self.leaf(arg.id)
        if type(arg) in (list, tuple):
            return type(arg)(self._argument(part) for part in arg)
        return arg


def _is_habit(name: str, arg: Any) -> bool:
    """Arguments that change nothing about the formula."""
    return name.startswith("_") or arg is None or name in ("inplace", "out") or (
        name == "dtype" and "float" in str(arg)
    )  # fmt: skip


class Link:
    """One output of one call, with its own graph."""

    def __init__(
        self,
        snapshot: Snapshot,
        operation: Operation,
        output: int,
        labels: Mapping[int, str],
    ) -> None:
        reading = Reading(snapshot, labels)
        made = reading.apply(operation)
        ref = reading.output(operation, output, made)
        label = labels[output]
        ref = reading.reader.builder.name(ref, label)
        self.graph: Graph = reading.reader.builder.graph(ref)
        self.label = label
        self.operation = operation
        self._labels = {node.id: _text(node) for node in self.graph.nodes}
        self.inputs = {number: r.id for number, r in reading.refs.items()}
        self.chain: Chain | None = None

    @property
    def single(self) -> bool:
        """Whether one record is the whole call."""
        out = self.graph.out
        return all(
            node.op is None or node.id == out.id or node.id not in self._reached()
            for node in self.graph.nodes
        )

    def _reached(self) -> set[int]:
        return self.graph.downstream(set(self.inputs.values()))

    def expression(self) -> str:
        """How the call reads in the values' names; empty where it is made of several."""
        return op_call(self.graph.out, self._labels) if self.single else ""

    def forward(self, pairs: Mapping[int, Pair]) -> Pair:
        """The value by the record's formula."""
        names = {self.graph[id].label: pairs[number] for number, id in self.inputs.items()}
        with np.errstate(all="ignore"):
            self.chain = Chain(self.graph, names, exact=False)  # type: ignore[arg-type]
        return self.chain.forward[self.graph.output]

    def backward(self, upstream: Pair, wanted: list[int]) -> dict[int, Pair]:
        """What it sends to each of the inputs ``wanted``."""
        assert self.chain is not None
        ids = {number: id for number, id in self.inputs.items() if number in wanted}
        self.chain.upstream.clear()
        self.chain.contributions.clear()
        with np.errstate(all="ignore"):
            self.chain.backward(upstream, [self.graph[id].label for id in ids.values()])  # type: ignore[arg-type]
        return {n: self.chain.upstream[id] for n, id in ids.items() if id in self.chain.upstream}

    def rough(self) -> float:
        return sum(node.op.rough for node in self.graph.nodes if node.op is not None)

    def texts(self, number: int) -> tuple[str, str, str]:
        """The local derivative by an input, the contribution, and the contribution in numbers."""
        assert self.chain is not None
        id = self.inputs[number]
        if self.single:
            from gradexplain.routes.steps import step_texts

            for c in self.chain.contributions:
                if c.source.id == id:
                    return step_texts(c, self.graph, self._labels, "L", clean, self.chain)
            return "", "", ""
        return self._whole(id), "", ""

    def _whole(self, id: int) -> str:
        """The closed form of a call that several records make up."""
        from gradexplain.routes.closed import ClosedForm

        values = {
            self.graph[i].label: np.zeros(self.graph[i].shape) for i in self.inputs.values()
        }
        form = ClosedForm(self.graph, values, np.ones(self.graph.out.shape), exact=False)
        leaf = self.graph[id]
        if form.is_long(leaf):
            return ""
        shown, _ = form.shown_jacobian(leaf)
        text = "; ".join([shown.text, *(f"where {line}" for line in shown.where)])
        return text if len(text) <= _LONG else ""


def clean(pair: Any) -> Array:
    """A pair as float64, rounding noise put to 0."""
    with np.errstate(all="ignore"):
        return agreement.settled(to_float(pair[0]), pair[1], agreement.ROUNDOFF["float64"])


def _text(node: Any) -> str:
    return number(node.value, 17) if node.is_literal else str(node.label)
