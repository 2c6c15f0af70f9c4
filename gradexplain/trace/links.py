"""One recorded call as a graph of its own, by the records: forward, backward, and its formulas."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradexplain.adjoint import Adjoint, Contribution, adjoint
from gradexplain.errors import GradexplainError, Span, UnsupportedError
from gradexplain.explanation import Array
from gradexplain.graph import Builder, Graph, Ref, op_call, put
from gradexplain.numbers import number
from gradexplain.ops import by_spelling
from gradexplain.ops.base import Op
from gradexplain.plan.arrays import Pair, sized, to_float
from gradexplain.reading import composed
from gradexplain.reading.applying import Applier
from gradexplain.routes.chain import ChainRule
from gradexplain.trace.snapshot import Arg, Operation, Snapshot, Term, Value, View, args_in
from gradexplain.verdict import compare

_NOWHERE = Span(0, 0)
_NONE: Mapping[int, Ref] = {}

#: A local formula with more characters than this is not shown.
_LONG = 200
#: Nor is that of a gradient in a list of operations, with more than this.
_READABLE = 80
#: Nor that of a call that more operations than this make up.
_MANY = 16
#: A call written out in more operations than this, such as a long recurrence, is PyTorch's own.
_MOST = 2000

#: Calls that write the same value, or a tensor's, into every element.
_WRITES = {"copy_", "fill_", "zero_"}


class Chain(ChainRule):
    """The chain rule from values that carry their error bounds with them."""

    def _pair(self, array: Any) -> Pair:
        return sized(array if isinstance(array, tuple) else super()._pair(array))

    def sent(self, c: Contribution, upstream: Pair) -> Pair:
        value, size = sized(super().sent(c, upstream))
        terms = self.by_kernel(c, upstream[0], "terms")
        return value, size if terms is None else np.fmax(size, terms)


def is_literal(value: Value) -> bool:
    """A number that the script wrote as a tensor: it is shown where it is used."""
    unnamed = value.kind == "constant" and not value.names
    return unnamed and value.shape == () and value.array is not None


class Reading:
    """Calls applied to one builder."""

    def __init__(self, snapshot: Snapshot, labels: Mapping[int, str]) -> None:
        self.snapshot = snapshot
        self.labels = labels
        self.refs: dict[int, Ref] = {}
        self._integers: dict[str, Array] = {}
        #: How the gradients of a backward pass read, as far as they are short.
        self.gradients: list[str] = []
        self.applier = Applier(Builder(most=_MOST), self._integers.get)

    def leaf(self, number: int) -> Ref:
        """The value as an input of the graph."""
        if number not in self.refs:
            value = self.snapshot.values[number]
            label = self.labels[number]
            if value.dtype.startswith(("int", "uint", "bool")) and value.array is not None:
                self._integers[label] = value.array
            integer = label in self._integers and value.dtype != "bool"
            ref = self.applier.builder.leaf(label, value.shape, _NOWHERE, integer=integer)
            if integer:
                self.applier.builder.known[ref.id] = value.array
            self.refs[number] = ref
        return self.refs[number]

    def apply(self, operation: Operation) -> Any:
        """What the call returns: a `Ref`, or a tuple of them.  Raises `GradexplainError`."""
        if operation.gradients:
            return tuple(self._gradient(t, operation.within) for t in operation.gradients)
        if operation.graphs:
            return self._custom(operation)
        if operation.view is not None:
            return self._through_view(operation, operation.view)
        if operation.name in _WRITES:
            return self._written(operation)
        sets = operation.name == "__setitem__"
        gets = operation.spellings == ("operator.getitem",)
        if sets or gets and self._is_masked(operation.args[1]):
            base, index = operation.args[:2]
            if not isinstance(base, Arg):
                raise UnsupportedError("it does not write into a tensor")
            shape = self.snapshot.values[base.id].shape
            places = np.arange(np.prod(shape, dtype=int)).reshape(shape)
            if sets:
                return self._through_view(operation, View(base, places, base.id))
            return self._through_view(operation, View(base, places[_plain(index, self.snapshot)]))
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
        plain = {n: a for n, a in kwargs.items() if not _is_default(a, operation.defaults.get(n))}
        for spelling in operation.spellings:
            records = by_spelling(spelling)
            if not records:
                continue
            # What has its usual value need not be a parameter of the record.
            for named in (kwargs, plain) if plain != kwargs else (kwargs,):
                try:
                    return self.applier.apply_any(records, args, named, _NOWHERE)
                except GradexplainError as error:
                    problem = error
        for path in filter(None, map(composed.path_of, operation.spellings)):
            return composed.applied(path, args, kwargs, self.applier, self._dtype)
        raise problem

    def _is_masked(self, index: Any) -> bool:
        """Whether an index says by true and false which elements are taken."""
        return any(self.snapshot.values[arg.id].dtype == "bool" for arg in args_in(index))

    def _dtype(self, ref: Ref) -> str | None:
        """The dtype of an argument."""
        return next((self.snapshot.values[n].dtype for n, r in self.refs.items() if r == ref), None)

    def _written(self, operation: Operation) -> Ref:
        """A tensor whose every element is written anew."""
        target = operation.args[0]
        given = [*operation.args[1:], *operation.kwargs.values()]
        if not isinstance(target, Arg) or (not given and operation.name != "zero_"):
            raise UnsupportedError("it does not write into a tensor")
        value = self._argument(given[0]) if given else 0.0
        if not isinstance(value, Ref):
            value = self.applier.builder.constant(float(value), _NOWHERE)
        shape = self.snapshot.values[target.id].shape
        return self._call("torch.broadcast_to", value, shape)  # type: ignore[no-any-return]

    def _call(self, spelling: str, *args: Any) -> Any:
        return self.applier.apply_any(by_spelling(spelling), list(args), {}, _NOWHERE)

    def _through_view(self, operation: Operation, view: View) -> Ref:
        """A view of a tensor, or the tensor once a view of it has been changed.

        The new tensor takes each element from the old one or from the changed part: both stand in
        a row, and a table says which.
        """
        base = self.leaf(view.base.id)
        shape = self.snapshot.values[view.base.id].shape
        flat = self._call("torch.reshape", base, (-1,))
        taken = view.places
        if view.part is None or operation.name != "__setitem__":
            part = self._call("operator.getitem", flat, taken.ravel().tolist())
            part = self._call("torch.reshape", part, taken.shape)
            if view.part is None:
                return part  # type: ignore[no-any-return]
            self.refs[view.part] = part
            changed = self.apply(replace(operation, view=None))
            del self.refs[view.part]
        else:
            _, index, value = operation.args
            taken = taken[_plain(index, self.snapshot)]
            if np.unique(taken).size < taken.size:
                raise UnsupportedError("it writes several values into one element")
            changed = self._argument_ref(value)
        number = self.applier.builder.nodes[changed.id].shape
        while len(number) > taken.ndim and number[0] == 1:
            changed = self._call("torch.squeeze", changed, 0)
            number = number[1:]
        changed = self._call("torch.broadcast_to", changed, taken.shape)
        changed = self._call("torch.reshape", changed, (-1,))
        size = int(np.prod(shape))
        table = np.arange(size)
        table[taken.ravel()] = size + np.arange(taken.size)
        row = self._call("torch.cat", [flat, changed])
        new = self._call("operator.getitem", row, table.tolist())
        return self._call("torch.reshape", new, shape)  # type: ignore[no-any-return]

    def _custom(self, operation: Operation) -> Any:
        """What the forward of a custom Function computes."""
        given = {f"a{n}": self.leaf(arg.id) for n, arg in enumerate(operation.operands)}
        made = {
            path: self._inlined(graph, graph.output, given)
            for path, graph in operation.graphs.items()
        }
        if () in made:
            return made[()]
        return tuple(made.get((n,)) for n in range(1 + max(path[0] for path in made)))

    def _gradient(self, terms: Sequence[Term], within: Sequence[int]) -> Ref:
        """A gradient of an earlier backward pass: the sum of what each call sends there.

        Where PyTorch reads a call's result, one of ``within``, and the rule does so too, it is a
        value like any other; else the call is written out.
        """
        sums: list[Ref] = []
        texts: list[tuple[str, str]] = []
        for term in terms:
            inner = Reading(self.snapshot, self.labels)
            made = inner.apply(term.call)
            by = inner.leaf(term.by.id)
            for path, upstream in term.upstream.items():
                part = made
                for place in path:
                    part = part[place]
                label = self.labels[upstream.id]
                if path in term.outputs:
                    part = inner.applier.builder.name(part, self.labels[term.outputs[path]])
                graph = inner.applier.builder.graph(part)
                value = self.snapshot.values[upstream.id]
                implied = is_literal(value) and value.array == 1
                back = adjoint(graph, [graph[by.id].label], None if implied else label)
                id = back.gradients.get(by.id)
                if id is None and term.call.gradients:
                    raise UnsupportedError("a further backward pass reads what is written out here")
                if id is None:
                    continue
                read = {}
                if term.outputs.get(path) in within and part.id in back.graph.at(id).needed():
                    read[part.id] = self.leaf(term.outputs[path])
                given = {graph[ref.id].label: self.leaf(n) for n, ref in inner.refs.items()}
                if not implied:
                    given[label] = self._argument_ref(upstream)
                sums.append(self._inlined(back.graph.at(id), id, given, read))
                texts.append(_readable(back, by.id))
        if not sums:
            raise UnsupportedError("nothing is sent there")
        self.gradients.append(_joined(texts))
        total = sums[0]
        for ref in sums[1:]:
            total = self.applier.apply_any(by_spelling("torch.add"), [total, ref], {}, _NOWHERE)
        return total

    def _argument_ref(self, arg: Arg) -> Ref:
        found = self._argument(arg)
        return found if isinstance(found, Ref) else self.applier.builder.constant(found, _NOWHERE)

    def _inlined(
        self, graph: Graph, output: int, given: Mapping[str, Ref], read: Mapping[int, Ref] = _NONE
    ) -> Ref:
        """The node ``output`` of a graph, its leaves put in place of those of that label, and the
        nodes that are ``read`` as they are.
        """
        builder = self.applier.builder
        needed = graph.at(output).needed()
        made = dict(read)

        for node in graph.nodes:
            if node.id not in needed or node.id in made:
                continue
            if node.is_leaf:
                made[node.id] = given[node.label]
                continue
            args = put(node.args, made.__getitem__)
            there = None if node.op is None else self._there(node.op, args)
            made[node.id] = there or builder._add(
                None, False, node.op, args, node.shape, _NOWHERE,
                value=node.value, integer=node.integer,
            )  # fmt: skip
        return made[output]

    def _there(self, op: Op, args: tuple[Any, ...]) -> Ref | None:
        """The node that is this operation already: a value is written down once."""
        for node in self.applier.builder.nodes:
            same = node.op is not None and (node.op.name, node.op.element, node.op.value) == (
                op.name, op.element, op.value
            )  # fmt: skip
            if same and node.args == args and node.op is not None and node.op.formula == op.formula:
                return Ref(node.id)
        return None

    def output(self, operation: Operation, number: int, made: Any) -> Ref:
        """The output ``number`` of what `apply` returned, its shape checked."""
        value = self.snapshot.values[number]
        for place in value.path:
            made = made[place] if isinstance(made, (tuple, list)) else made
        if not isinstance(made, Ref):
            raise UnsupportedError(f"{operation.name} returns something else here")
        node = self.applier.builder.nodes[made.id]
        if tuple(node.shape) != value.shape and np.prod(node.shape) == np.prod(value.shape):
            made = self._call("torch.reshape", made, value.shape)  # the base of a view of it all
            node = self.applier.builder.nodes[made.id]
        if tuple(node.shape) != value.shape:
            raise UnsupportedError(f"{operation.name} has another shape here")
        if node.op is None or any(ref.id == made.id for ref in self.refs.values()):
            return self.applier.builder.apply(by_spelling("torch.positive")[0], (made,), _NOWHERE)
        ref: Ref = made
        return ref

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


def _is_default(arg: Any, usual: Any) -> bool:
    return isinstance(arg, (bool, int, float, str)) and type(usual) is type(arg) and arg == usual


def _is_habit(name: str, arg: Any) -> bool:
    """Arguments that change nothing about the formula."""
    return name.startswith("_") or arg is None or name in ("inplace", "out", "sparse") or (
        name == "dtype" and "float" in str(arg)
    )  # fmt: skip


def _readable(back: Adjoint, id: int) -> tuple[str, str]:
    """The formula of a gradient and its index; empty where it names what has no name here."""
    at, text = back.text(id)
    unnamed = {n.label for n in back.graph.nodes if n.op is not None and not n.named}
    return (at, text) if unnamed.isdisjoint(re.findall(r"[\w.@′]+", text)) else ("", "")


def _joined(texts: Sequence[tuple[str, str]]) -> str:
    places = {at for at, _ in texts}
    if len(places) > 1 or any(not text for _, text in texts):
        return ""
    at = places.pop()
    whole = " + ".join(text for _, text in texts).replace("+ -", "- ")
    if len(whole) > _READABLE:
        return ""
    return f"{whole}  for each {at}" if at else whole


class Link:
    """One output of one call, with its own graph; `forward` makes the chain rule through it."""

    chain: Chain

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
        ref = reading.applier.builder.name(ref, label)
        self.graph: Graph = reading.applier.builder.graph(ref)
        self.label = label
        self.operation = operation
        path = snapshot.values[output].path
        self._gradient = reading.gradients[path[0]] if reading.gradients else ""
        self._labels = {node.id: _text(node) for node in self.graph.nodes}
        self.inputs = {number: r.id for number, r in reading.refs.items()}

    @property
    def single(self) -> bool:
        """Whether one record is the whole call."""
        out, among = self.graph.out, self._reached() & self.graph.needed()
        return all(
            node.op is None or node.id == out.id or node.id not in among
            for node in self.graph.nodes
        )

    def _reached(self) -> frozenset[int]:
        return self.graph.downstream(set(self.inputs.values()))

    def expression(self) -> str:
        """How the call reads in the values' names; empty where it is made of several."""
        if self.operation.gradients:
            return self._gradient
        if self.operation.graphs:
            return ""
        return op_call(self.graph.out, self._labels) if self.single else ""

    def sends_to(self, number: int) -> bool:
        """Whether the value depends on that input."""
        id = self.inputs.get(number)
        return id is not None and self.graph.output in self.graph.reach([self.graph[id].label])

    def forward(self, pairs: Mapping[int, Pair]) -> Pair:
        """The value by the record's formula."""
        names = {self.graph[id].label: pairs[number] for number, id in self.inputs.items()}
        with np.errstate(all="ignore"):
            self.chain = Chain(self.graph, names, exact=False)  # type: ignore[arg-type]
        return self.chain.forward[self.graph.output]

    def at_own_result(self, pair: Pair) -> None:
        """Go on from PyTorch's own result, where the rule of one record reads that."""
        if self.single:
            self.chain.forward[self.graph.output] = pair

    def backward(self, upstream: Pair, wanted: list[int]) -> dict[int, Pair]:
        """What it sends to each of the inputs ``wanted``."""
        ids = {number: id for number, id in self.inputs.items() if number in wanted}
        with np.errstate(all="ignore"):
            self.chain.backward(upstream, [self.graph[id].label for id in ids.values()])  # type: ignore[arg-type]
        return {n: self.chain.upstream[id] for n, id in ids.items() if id in self.chain.upstream}

    def exactly(self, arrays: Mapping[int, Array], upstream: Array, number: int) -> Pair:
        """What it sends to one input, with digits to spare, at PyTorch's own numbers."""
        names = {self.graph[id].label: arrays[n] for n, id in self.inputs.items()}
        chain, id = ChainRule(self.graph, names, exact=True), self.inputs[number]
        chain.backward(upstream, [self.graph[id].label])
        return chain.upstream[id]

    @property
    def pointwise(self) -> bool:
        """Whether each element of the value is made from the same one of the inputs."""
        op = self.graph.out.op
        return self.single and op is not None and op.pointwise

    def coarse(self) -> float:
        return compare.coarseness(node.op for node in self.graph.nodes if node.op is not None)

    def texts(self, number: int) -> tuple[str, str, str]:
        """The local derivative by an input, the contribution, and the contribution in numbers."""
        id = self.inputs[number]
        if self.operation.view is not None or self.operation.name == "__setitem__":
            return self._of_view(number), "", ""
        if self.single:
            from gradexplain.routes.closed import ClosedForm
            from gradexplain.routes.steps import step_texts

            form = ClosedForm(self.graph, {}, np.zeros(self.graph.out.shape), exact=False)
            form.loss_name = "L"
            for c in self.chain.contributions:
                if c.source.id == id:
                    return step_texts(c, self.graph, self._labels, form, clean, self.chain)
            return "", "", ""
        return self._whole(id), "", ""

    def _of_view(self, number: int) -> str:
        name, view = self.operation.name.strip("_"), self.operation.view
        if view is None:
            stay = self.operation.args[0] == Arg(number)
            return "1 for the elements that stay, else 0" if stay else "1 for those that go there"
        if view.part is None:
            return "1 for the elements that the view shows, else 0"
        inside = "0" if name == "setitem" else f"as {name} has it"
        if number == view.base.id:
            return f"1 for the elements outside of the view, {inside} for those in it"
        return "1 for the elements that go there" if name == "setitem" else f"as {name} has it"

    def _whole(self, id: int) -> str:
        """The closed form of a call that several records make up."""
        from gradexplain.routes.closed import ClosedForm
        from gradexplain.routes.written import Written

        if sum(node.op is not None for node in self.graph.nodes) > _MANY:
            return ""
        values = {self.graph[i].label: np.zeros(self.graph[i].shape) for i in self.inputs.values()}
        form = ClosedForm(self.graph, values, np.ones(self.graph.out.shape), exact=False)
        leaf = self.graph[id]
        if form.is_long(leaf):
            return ""
        shown, _ = Written(form).jacobian(leaf)
        text = "; ".join([shown.text, *(f"where {line}" for line in shown.where)])
        return text if len(text) <= _LONG else ""


def _plain(index: Any, snapshot: Snapshot) -> Any:
    """An index with its tensors as arrays."""
    if isinstance(index, Arg):
        value = snapshot.values[index.id]
        if value.array is None or value.dtype.startswith("float"):
            raise UnsupportedError("its index is not known")
        return value.array.astype(bool if value.dtype == "bool" else int)
    if isinstance(index, (list, tuple)):
        return type(index)(_plain(part, snapshot) for part in index)
    return index


def clean(pair: Any) -> Array:
    """A pair as float64, rounding noise put to 0."""
    with np.errstate(all="ignore"):
        return compare.settled(to_float(pair[0]), pair[1], compare.ROUNDOFF["float64"])


def _text(node: Any) -> str:
    return number(node.value, 17) if node.is_literal else str(node.label)
