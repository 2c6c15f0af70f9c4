"""The computation as a graph: frozen nodes in single assignment order.

Everything downstream reads the graph; nothing downstream reads text.  A `Builder` makes the nodes, one
call of `Builder.apply` each, whether they come from an expression (`gradexplain.reading`) or from a
script that ran (`gradexplain.trace`); shapes are checked when a node is made.
"""

from __future__ import annotations

import pickle
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import wraps
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from gradexplain.errors import GradexplainError, InputError, Span
from gradexplain.limits import MAX_DIMENSIONS, MAX_ELEMENTS, MAX_GRAPH_NODES
from gradexplain.ops.base import Op, Shape, broadcast, show_shape

if TYPE_CHECKING:
    from typing import Concatenate, ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

#: A name is given to more values than this with a number instead of primes.
_PRIMES = 3


def fact(find: Callable[Concatenate[Graph, P], T]) -> Callable[Concatenate[Graph, P], T]:
    """A function of a graph that is worked out once for each graph and what else is given, in order.

    What it returns is shared: nobody may change it.
    """

    @wraps(find)
    def known(graph: Graph, /, *args: P.args, **named: P.kwargs) -> T:
        assert not named, "what is given is told apart by its place"
        key = find, *(frozenset(a) if isinstance(a, set) else
                      tuple(a) if isinstance(a, list) else a for a in args)  # fmt: skip
        if key not in graph.facts:
            graph.facts[key] = find(graph, *args, **named)
        return graph.facts[key]  # type: ignore[no-any-return]

    return known


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor among a node's arguments: the id of the node that made it."""

    id: int


class NamedNumber(float):
    """A number that formulas call by its name: ``pi``."""

    name: str

    def __new__(cls, name: str, value: float) -> NamedNumber:
        self = super().__new__(cls, value)
        self.name = name
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedNumber, (self.name, float(self))


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One value.  ``op`` is None for a leaf or a constant (``value`` is set for a constant).

    ``args`` stand in the order of the op's schema: a `Ref` (or None) for a tensor, a tuple of them for
    a list of tensors, the plain value for anything else.  ``label`` is unique in the graph: the name
    the user gave, or t1, t2, …; ``named`` says which.
    """

    id: int
    label: str
    named: bool
    op: Op | None
    args: tuple[Any, ...]
    shape: Shape
    span: Span
    value: Any = None
    #: Holds integers used as an index, or true/false: nothing to differentiate.
    integer: bool = False
    #: The ids of the tensors it is made from, one for each use.
    inputs: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(ref.id for ref in refs(self.args)))

    @property
    def is_leaf(self) -> bool:
        return self.op is None and self.value is None

    @property
    def is_literal(self) -> bool:
        """A number of the expression, written where it is used."""
        return self.op is None and isinstance(self.value, (int, float))

    @property
    def aside(self) -> tuple[int, ...]:
        """The ids of the values that its record keeps beside its arguments."""
        if self.op is None:
            return ()
        pairs = zip(self.op.parameters, self.args, strict=True)
        return tuple(arg.id for p, arg in pairs if p.is_aux and isinstance(arg, Ref))

    @property
    def parameters(self) -> dict[str, Any]:
        """The arguments by name."""
        assert self.op is not None
        return {p.name: a for p, a in zip(self.op.parameters, self.args, strict=True)}


def refs(args: Sequence[Any]) -> Iterator[Ref]:
    """The tensors among a node's arguments, one for each use."""
    for arg in args:
        if isinstance(arg, Ref):
            yield arg
        elif isinstance(arg, tuple):
            yield from (part for part in arg if isinstance(part, Ref))


def put(arg: Any, by: Callable[[int], Any]) -> Any:
    """An argument with what ``by`` gives for the id of each tensor in its place."""
    if isinstance(arg, Ref):
        return by(arg.id)
    return tuple(put(part, by) for part in arg) if isinstance(arg, tuple) else arg


@dataclass(frozen=True, slots=True)
class Graph:
    """``nodes[k].id == k``; every node comes after its inputs; the output is ``nodes[output]``."""

    source: str
    nodes: tuple[Node, ...]
    output: int
    #: What was found out of it, see `fact`.
    facts: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Graph, (self.source, self.nodes, self.output)

    def __getitem__(self, id: int) -> Node:
        return self.nodes[id]

    def is_mask(self, id: int) -> bool:
        """Whether an operation takes this value as its ``mask`` or ``condition``."""
        pairs = ((n.op.parameters, n.args) for n in self.nodes if n.op and id in n.inputs)
        return any(
            p.name in ("mask", "condition") and isinstance(arg, Ref) and arg.id == id
            for parameters, args in pairs
            for p, arg in zip(parameters, args, strict=True)
        )

    @property
    def out(self) -> Node:
        return self.nodes[self.output]

    @property
    def leaves(self) -> list[Node]:
        """The inputs, in order of first use."""
        return [node for node in self.nodes if node.is_leaf]

    @fact
    def at(self, id: int) -> Graph:
        """The same graph with another output."""
        return replace(self, output=id)

    def after(self, id: int) -> Graph:
        """The graph from a node on: it is an input there."""
        node = self[id]
        leaf = Node(id, node.label, True, None, (), node.shape, node.span)
        return replace(self, nodes=(*self.nodes[:id], leaf, *self.nodes[id + 1 :]))

    def by_label(self, label: str) -> Node | None:
        return next((node for node in self.nodes if node.label == label), None)

    def latest(self, name: str) -> Node | None:
        """The value that a name stands for at the end of the program: ``x = x*2`` gives x a new one."""
        by_label = {node.label: node for node in self.nodes}
        found, count = None, 0
        while (node := by_label.get(version(name, count))) is not None:
            found, count = node, count + 1
        return found

    @fact
    def reach(self, wanted: Sequence[str]) -> frozenset[int]:
        """The nodes through which a gradient flows to one of the leaves ``wanted``."""
        return self.downstream({node.id for node in self.leaves if node.label in wanted})

    @fact
    def downstream(self, sources: set[int]) -> frozenset[int]:
        """``sources`` and every node through which a gradient flows back to one of them."""
        reached = set(sources)
        for node in self.nodes:
            if node.op and not node.integer and not node.op.stops and reached & {*node.inputs}:
                reached.add(node.id)
        return frozenset(reached)

    @fact
    def needed(self, outputs: Sequence[int] = ()) -> frozenset[int]:
        """The nodes that ``outputs`` are made from, themselves included; by default the output."""
        needed = set(outputs) or {self.output}
        for node in reversed(self.nodes):
            if node.id in needed:
                needed.update(node.inputs)
        return frozenset(needed)

    def pruned(self, outputs: Sequence[int]) -> tuple[Graph, dict[int, int]]:
        """The nodes that ``outputs`` are made from alone, ending at the first of them; and the new id of
        each old one."""
        nodes = tuple(self[id] for id in sorted(self.needed(outputs)))
        return replace(self, nodes=nodes, output=outputs[0]).renumbered()

    def renumbered(self) -> tuple[Graph, dict[int, int]]:
        """The graph with ids that count its nodes, and the new id of each old one."""
        at = {node.id: place for place, node in enumerate(self.nodes)}
        nodes = tuple(
            replace(n, id=at[n.id], args=put(n.args, lambda id: Ref(at[id]))) for n in self.nodes
        )
        return Graph(self.source, nodes, at[self.output]), at

    @fact
    def parts(self) -> Mapping[int, str]:
        """The nodes that are no operation of the user's, each with the node whose record made it.

        They are used as ``Aux`` arguments and by one another only.
        """
        return self._beside(made=True)

    @fact
    def helpers(self) -> Set[int]:
        """Those, and what values that a formula gives, gradients, read of them."""
        return self._beside(made=False).keys()

    def _beside(self, *, made: bool) -> dict[int, str]:
        owners: dict[int, str] = {}
        own = {self.output}
        for node in reversed(self.nodes):
            if node.op is None:
                continue
            for parameter, arg in zip(node.op.parameters, node.args, strict=True):
                for ref in refs((arg,)):
                    if parameter.is_aux or (node.id in owners and node.id not in own):
                        owners.setdefault(ref.id, owners.get(node.id, node.label))
                    elif made or node.op.pattern is None:
                        own.add(ref.id)
        return {id: owner for id, owner in owners.items() if id not in own and not self[id].is_leaf}

    def uses(self) -> dict[int, int]:
        """How many times each node is used on the way to the output."""
        return Counter(source for id in self.needed() for source in self.nodes[id].inputs)


#: The graphs of the programs that were read last.
_READ: dict[Any, Graph] = {}
_MOST_READ, _MOST_BYTES = 64, 100_000


def as_before(key: Any, graph: Graph) -> Graph:
    """The graph that was read of the same program before, of which much is known, where it is the same
    in everything; else this one."""
    key = key, pickle.dumps(graph)
    if len(key[1]) > _MOST_BYTES:
        return graph
    found = _READ[key] = _READ.pop(key, graph)
    if len(_READ) > _MOST_READ:
        _READ.pop(next(iter([*_READ])), None)  # the one that was asked for longest ago
    return found


@dataclass(slots=True)
class Builder:
    """Makes the nodes of one graph, in order.

    ``leaf_shapes`` and ``leaf_values`` say what is known of the inputs before the expression is read.
    """

    source: str = ""
    nodes: list[Node] = field(default_factory=list)
    _labels: set[str] = field(default_factory=set)
    #: The values of inputs that are used as an index.
    known: dict[int, Any] = field(default_factory=dict)
    #: How many nodes there may be.
    most: int = MAX_GRAPH_NODES
    #: Whether tensors may be larger than what can be worked with: only formulas are wanted.
    any_size: bool = False
    #: How many values each name had when it was last given.
    _versions: dict[str, int] = field(default_factory=dict)
    #: What an unnamed value is called where the name is free.
    _hints: dict[int, str] = field(default_factory=dict)

    def leaf(self, name: str, shape: Shape, span: Span, *, integer: bool = False) -> Ref:
        return self._add(name, True, None, (), shape, span, integer=integer)

    def constant(self, value: Any, span: Span, *, integer: bool = False) -> Ref:
        """A number, or an array of numbers."""
        if isinstance(value, (bool, int, float)):
            value = value if type(value) in (int, NamedNumber) else float(value)
            return self._add(None, False, None, (), (), span, value=value)
        array = np.asarray(value, dtype=np.float64)
        if not self.any_size:
            check_size(array.shape)
        made = self._add(None, False, None, (), array.shape, span, value=array, integer=integer)
        if integer or set(np.atleast_1d(array)[:8].ravel()[:64].tolist()) == {0.0, 1.0}:
            self._hints[made.id] = "index" if integer else "mask"
        return made

    def apply(self, op: Op, args: tuple[Any, ...], span: Span, *, integer: bool = False) -> Ref:
        """A node made by ``op``, its shape checked; errors carry ``span``."""
        if op.aux is not None:
            args = args[: sum(not p.is_aux for p in op.parameters)]
            args += op.aux(Maker(self, span), *args)
        try:
            if op.shape is None:
                shape = broadcast(*(self.nodes[ref.id].shape for ref in refs(args)))
            else:
                shape = op.shape(*put(args, self._shaped))
            if not self.any_size:
                check_size(shape)
        except GradexplainError as error:
            raise error.at(self.source, span) from None
        moved = [self.nodes[ref.id].integer for ref in refs(args)] if op.moves else []
        integer = integer or op.integer or (bool(moved) and all(moved))
        return self._add(None, False, op, args, shape, span, integer=integer)

    def _shaped(self, id: int) -> Shape:
        """What a shape rule sees of a tensor: its shape, and its values where they matter."""
        node = self.nodes[id]
        value = self.known.get(id, node.value)
        return ValueShape(node.shape, value) if node.integer else node.shape

    def name(self, ref: Ref, name: str, *, again: bool = False) -> Ref:
        """Give the value a name; one that has a name keeps it, but ``again``."""
        node = self.nodes[ref.id]
        label = self._free(name)
        if (node.named and not again) or node.op is None:
            return ref
        self._labels.discard(node.label)
        self._labels.add(label)
        self.nodes[ref.id] = replace(node, label=label, named=True)
        return ref

    def graph(self, output: Ref, calls: Sequence[int] = ()) -> Graph:
        """The finished graph, twins merged; unnamed values are numbered t1, t2, … in order.

        ``calls`` says how many nodes there were at each call of ``backward``: what is computed anew
        after one is another value for PyTorch, which frees the first.
        """
        nodes, same = merged(self.nodes, calls)
        count = 0
        # What only stood beside its twin is numbered last: nothing uses it any more.
        for id in sorted(range(len(nodes)), key=lambda id: same[id] != id):
            node = nodes[id]
            if node.named or node.is_literal:
                continue
            if id in self._hints:
                label = self._numbered(self._hints[id])
                self._labels.add(label)
            else:
                count += 1
                while f"t{count}" in self._labels:
                    count += 1
                label = f"t{count}"
            nodes[id] = replace(node, label=label)
        return Graph(self.source, tuple(nodes), same[output.id])

    def _add(
        self,
        name: str | None,
        named: bool,
        op: Op | None,
        args: tuple[Any, ...],
        shape: Shape,
        span: Span,
        *,
        value: Any = None,
        integer: bool = False,
    ) -> Ref:
        if len(self.nodes) >= self.most:
            raise InputError(
                f"the expression makes more than {self.most} operations",
                source=self.source,
                span=span,
                remedy="explain a smaller part of it",
            )
        label = "" if name is None else self._free(name)
        self._labels |= {label} - {""}
        node = Node(len(self.nodes), label, named, op, args, shape, span, value, integer)
        self.nodes.append(node)
        return Ref(node.id)

    def _numbered(self, name: str) -> str:
        """``σ``, or ``σ2``, ``σ3`` …"""
        label, count = name, 1
        while label in self._labels:
            count += 1
            label = f"{name}{count}"
        return label

    def _free(self, name: str) -> str:
        """``name``, or what its next value is called where it was used before (``x = x*2``)."""
        count = self._versions.get(name, 0)
        while (label := version(name, count)) in self._labels:
            count += 1
        self._versions[name] = count
        return label


def renumbered(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph with versions counted anew, ``w`` for ``w″`` where no other is left; the new names."""
    counts: dict[str, int] = {}
    new: dict[str, str] = {}
    for node in graph.nodes:
        if node.named:
            base = unversioned(node.label)
            new[node.label] = version(base, counts.get(base, 0))
            counts[base] = counts.get(base, 0) + 1
    nodes = (replace(n, label=new[n.label]) if n.named else n for n in graph.nodes)
    return replace(graph, nodes=tuple(nodes)), new


def unversioned(label: str) -> str:
    return re.sub("(?:′+|@[0-9]+)$", "", label)


def version(name: str, count: int) -> str:
    """What the value of ``name`` after ``count`` earlier ones is called: ``x``, ``x′``, … ``x@5``."""
    return name + "′" * count if count <= _PRIMES else f"{name}@{count + 1}"


@dataclass(frozen=True, slots=True)
class Maker:
    """What a record's ``aux`` makes its values with."""

    builder: Builder
    span: Span

    def helper(self, op: Op, *args: Any, label: str) -> Ref:
        """A value of ``op`` that is called ``label`` where that is free."""
        ref = self.builder.apply(op, args, self.span)
        self.builder._hints[ref.id] = label
        return ref

    def shape(self, x: Ref) -> Shape:
        return self.builder.nodes[x.id].shape

    def value(self, x: Ref) -> Any:
        """The values of a tensor of integers, None where they are not known yet."""
        return self.builder.known.get(x.id, self.builder.nodes[x.id].value)


class ValueShape(tuple[int, ...]):
    """A shape that also knows the values: an integer tensor used as an index."""

    value: Any

    def __new__(cls, shape: Shape, value: Any) -> ValueShape:
        self = super().__new__(cls, shape)
        self.value = value
        return self


def merged(nodes: Sequence[Node], calls: Sequence[int] = ()) -> tuple[list[Node], list[int]]:
    """The nodes with each use of a twin replaced by the first of them, and that one's id for each.

    Twins are values of one operation, equal inputs and equal arguments, such as ``x.mean()`` written
    twice.  A value with a name of its own stays itself: PyTorch keeps a gradient for each name.
    Every node keeps its id.
    """
    seen: dict[Any, int] = {}
    same: list[int] = []
    found: list[Node] = []

    def key(arg: Any) -> Any:
        if isinstance(arg, Ref):
            node = found[arg.id]
            return ("number", repr(node.value)) if node.is_literal else ("node", arg.id)
        return tuple(map(key, arg)) if isinstance(arg, (tuple, list)) else repr(arg)

    for node in nodes:
        node = replace(node, args=put(node.args, lambda id: Ref(same[id]))) if node.args else node
        what: Any = node.id
        if node.op is not None and not node.named:
            what = node.op.pattern or node.op, node.integer, key(node.args), bisect(calls, node.id)
        elif isinstance(node.value, np.ndarray) and not node.named:
            alike = node.value.size > 1 and not any(node.value.strides)
            held = node.value.flat[0] if alike else node.value
            what = "array", node.integer, node.shape, held.tobytes()
        same.append(seen.setdefault(what, node.id))
        found.append(node)
    return found, same


def check_size(shape: Shape) -> None:
    """`InputError` for a tensor that is too large to be worked with, or has too many axes."""
    if len(shape) > MAX_DIMENSIONS:
        raise InputError(
            f"a tensor of {len(shape)} dimensions; at most {MAX_DIMENSIONS} are supported",
            remedy="reshape it",
        )
    if prod(shape) > MAX_ELEMENTS:
        raise InputError(
            f"a tensor of shape {show_shape(shape)} has {prod(shape):,} elements; "
            f"the most is {MAX_ELEMENTS:,}",
            remedy="use a smaller shape: the formulas are the same at any size",
        )


def op_call(node: Node, labels: Mapping[int, str]) -> str:
    """How a node reads: ``t1 + log(c)``, ``x.sum(dim=0)`` in the labels of its inputs."""
    op = node.op
    assert op is not None
    shown = [_show(arg, labels) for arg in node.args]
    plain = all(
        arg == parameter.default or parameter.is_tensor or parameter.required
        for parameter, arg in zip(op.parameters, node.args, strict=True)
    )
    if op.infix and plain:
        tensors = [labels[ref.id] for ref in refs(node.args)]
        for place, text in enumerate(tensors):
            if text.startswith("-") and (place or "**" in op.infix or len(tensors) == 1):
                tensors[place] = f"({text})"
        return op.infix.format(*tensors)
    if op.show is not None:
        return str(op.show(*shown))
    pieces = []
    for parameter, arg, text in zip(op.parameters, node.args, shown, strict=True):
        if parameter.is_tensor and arg is not None and not parameter.is_aux:
            pieces.append(text)
        elif not parameter.is_aux and (parameter.required or arg != parameter.default):
            pieces.append(f"{parameter.name}={text}")
    return f"{op.name}({', '.join(pieces)})"


@fact
def labels_of(graph: Graph) -> Mapping[int, str]:
    """Each node's label; a number as Python writes it, the shortest text that is this number."""

    def label(node: Node) -> str:
        if isinstance(node.value, NamedNumber):
            return node.value.name
        return repr(node.value).removesuffix(".0") if node.is_literal else node.label

    return {node.id: label(node) for node in graph.nodes}


def program(graph: Graph) -> str:
    """The graph as statements of the language, one for each operation; reading it gives it again.

    Names that are not identifiers (``x′``) are spelled with underscores.
    """
    names = {node.id: re.sub("[′@]", "_", node.label) for node in graph.nodes}
    taken = set(names.values())
    for node in graph.nodes:
        if node.label != names[node.id]:
            while names[node.id] in taken - {names[node.id]}:
                names[node.id] += "_"
        if node.is_literal:
            value = node.value
            names[node.id] = value.name if isinstance(value, NamedNumber) else repr(value)
        elif node.op is None and node.value is not None:
            names[node.id] = f"tensor({node.value.tolist()})"
    # What a record keeps beside its arguments is made anew by reading.
    needed = {graph.output}
    for node in reversed(graph.nodes):
        if node.id in needed and node.op is not None:
            pairs = zip(node.op.parameters, node.args, strict=True)
            needed.update(ref.id for ref in refs([a for p, a in pairs if not p.is_aux]))
    lines = [
        f"{names[node.id]} = {op_call(node, names)}"
        for node in graph.nodes
        if node.op is not None and node.id in needed
    ]
    return "\n".join(lines)


def _show(arg: Any, labels: Mapping[int, str]) -> str:
    if isinstance(arg, Ref):
        return labels[arg.id]
    if isinstance(arg, tuple) and any(isinstance(part, Ref) for part in arg):
        return "[" + ", ".join(_show(part, labels) for part in arg) + "]"
    if isinstance(arg, slice):
        ends = ["" if end is None else str(end) for end in (arg.start, arg.stop, arg.step)]
        return ":".join(ends if ends[2] else ends[:2])
    if arg is Ellipsis:
        return "..."
    if isinstance(arg, tuple):
        return "(" + ", ".join(_show(part, labels) for part in arg) + "," * (len(arg) == 1) + ")"
    return repr(arg) if not isinstance(arg, float) else repr(arg).removesuffix(".0")
