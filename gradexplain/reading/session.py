"""What a program has made so far: the graph, the tensors, the names, the calls of ``backward``.

The parts that read expressions, statements and calls all work on one `Session`.  A value is a
`Tensor` or plain Python; arithmetic on plain numbers is done where it stands.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gradexplain.errors import GradexplainError, InputError, Span, UnsupportedError
from gradexplain.explanation import Array, Shape
from gradexplain.graph import Builder, Graph, Ref
from gradexplain.limits import MAX_STEPS
from gradexplain.ops import Op, by_spelling
from gradexplain.reading.applying import Applier
from gradexplain.reading.inputs import Inputs
from gradexplain.reading.objects import (
    COPIES,
    NO_BACKWARD,
    STAYS_WHOLE,
    VIEWS,
    WHOLE,
    Drawn,
    Leaf,
    Own,
    Results,
    Tensor,
    Unread,
    View,
    is_basic,
    promoted,
)
from gradexplain.reading.outcome import BackwardCall, Numbers, Remark
from gradexplain.reading.program import Program
from gradexplain.reading.said import lacking, refused, said
from gradexplain.reading.tokens import one_line
from gradexplain.tensors import instances, mapped


@dataclass(slots=True)
class Session:
    program: Program
    inputs: Inputs
    #: The dtype that was asked for; None leaves it to the text.
    dtype: str | None
    numbers: Numbers | None = None
    any_size: bool = False
    #: Whether the values of leaves are wanted: a named tensor of numbers is a leaf then, else it is
    #: written where it is used.
    values: bool = False
    #: Call a function of the text, and any function; read statements, and an expression.
    call_own: Callable[[Own, Sequence[Any], Mapping[str, Any], Span], Any] = field(init=False)
    call: Callable[[Any, tuple[Any, ...], Mapping[str, Any], Span, Span], Any] = field(init=False)
    run: Callable[[Sequence[ast.stmt]], Any] = field(init=False)
    evaluate: Callable[[ast.expr], Any] = field(init=False)
    iterate: Callable[[Any, Span], list[Any]] = field(init=False)
    #: The node of a tensor whose gradient goes through hooks.
    hooked: Callable[[Tensor], Ref] = field(init=False)
    builder: Builder = field(init=False)
    applier: Applier = field(init=False)
    scopes: tuple[dict[str, Any], ...] = field(default_factory=lambda: ({},))
    calls: list[BackwardCall] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    #: The leaves by label.
    made: dict[str, Leaf] = field(default_factory=dict)
    zeroed: set[str] = field(default_factory=set)
    #: Computed tensors whose ``.grad`` is kept.
    retained: list[Tensor] = field(default_factory=list)
    #: The text is a script: it imports, makes its own leaves or calls backward.
    script: bool = False
    grad_enabled: bool = True
    default: str = "float32"
    #: Gradients that were written out, to be differentiated again; and how many functions that
    #: differentiate are being read.
    derived: list[Any] = field(default_factory=list)
    nested: int = 0
    #: Each statement that was read, with the range of nodes that it made.
    shown: list[tuple[str, int, int]] = field(default_factory=list)
    depth: int = 0
    #: What the generators that are being read have given so far.
    yielded: list[list[Any]] = field(default_factory=list)
    #: What generators gave that may not have been taken yet.
    drawn: list[Drawn] = field(default_factory=list)
    #: Statements and expressions that were worked out.
    steps: int = 0
    most: int = MAX_STEPS
    _seen: int = 0
    #: The shapes that named tensors have in place of their own, for formulas at any size.
    sized: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    #: How each condition on numbers was decided; of a text that is read again, how it was before.
    ways: list[bool] = field(default_factory=list)
    before: list[bool] | None = None
    #: Computed values that were changed in place: the node, its new one, and where.
    overwritten: list[tuple[int, int, Span]] = field(default_factory=list)
    #: Values whose elements were changed through a view of them, and where.
    shadowed: dict[int, Span] = field(default_factory=dict)
    #: What ``.grad`` of a leaf held besides what calls left in it, by its label, and before which call.
    carried: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    #: Leaves that share elements, by ``a.data = b.data``; what backward(create_graph=True) left in ``.grad``.
    tied: list[Tensor] = field(default_factory=list)
    written: list[Tensor] = field(default_factory=list)
    #: Leaves that were changed after something was computed from them, and where.
    stale: dict[str, Span] = field(default_factory=dict)
    _requiring: set[int] = field(default_factory=set)
    _needed: dict[int, list[int]] = field(default_factory=dict)
    #: Results of a Function of the text: their second derivative is not in the graph.
    opaque: set[int] = field(default_factory=set)
    #: Nodes whose hook was removed since; each hook that was read, with its node, what it was given and
    #: what it gave; and hooks that only look, with what they are called on.
    unhooked: set[int] = field(default_factory=set)
    read_hooks: list[tuple[Any, ...]] = field(default_factory=list)
    looking: list[tuple[Tensor, Any, Span]] = field(default_factory=list)
    #: Nodes whose names are the library's own.
    inner: set[int] = field(default_factory=set)
    #: Results of operations without a backward, by what PyTorch calls them; the nodes made in each
    #: inference mode, and where it stands.
    underived: dict[int, str] = field(default_factory=dict)
    inferred: list[tuple[range, Span]] = field(default_factory=list)
    #: The gradients that each call so far gave the leaves, by where it starts.
    gave: dict[tuple[int, int], Mapping[str, Array | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.builder = Builder(self.program.source, any_size=self.any_size)
        self.applier = Applier(self.builder, self._known, self._whole)

    @property
    def python(self) -> bool:
        """Whether conditions and comparisons are Python's own: in a script, and in the library."""
        return self.script or self.program.place is not None

    # -- errors ----------------------------------------------------------------------------------

    def fail(self, message: str, place: Span, remedy: str) -> NoReturn:
        raise InputError(message, source=self.program.source, span=place, remedy=remedy)

    def unsupported(self, message: str, place: Span, remedy: str) -> NoReturn:
        raise UnsupportedError(message, source=self.program.source, span=place, remedy=remedy)

    def refuse(self, key: str, place: Span, **names: Any) -> NoReturn:
        """Fail with a message of ``said.txt``."""
        raise refused(key, **names).at(self.program.source, place)

    def lack(self, key: str, place: Span, **names: Any) -> NoReturn:
        """Say by ``said.txt`` what is not read."""
        raise lacking(key, **names).at(self.program.source, place)

    def need(self, place: Span, *parts: Any) -> None:
        """Refuse what is not read."""
        for part in parts:
            if isinstance(part, Unread):
                self.unsupported(f"`{part.text}` is not read", place, part.why)

    def say(self, key: str, **names: Any) -> None:
        """A remark of ``said.txt``; its kind is the key up to a colon."""
        self.remark(key.partition(":")[0], said(key, names)[0])

    def at(self, error: GradexplainError, place: Span) -> GradexplainError:
        return error.at(self.program.source, place)

    def text(self, place: Span) -> str:
        """The text at a place, on one line."""
        return one_line(self.program.source[place.start : place.end])

    def remark(self, kind: str, text: str) -> None:
        if Remark(kind, text) not in self.remarks:
            self.remarks.append(Remark(kind, text))

    def decided(self, place: Span, what: str) -> None:
        """Say that the numbers decide what stands there, ``what`` others may take instead."""
        self.say("branch", text=self.text(place), what=what)

    def step(self, place: Span) -> None:
        """Count a statement or an expression that is worked out: loops must end."""
        self.steps += 1
        if self.steps > self.most:
            self.lack("too many steps", place, most=self.most)

    # -- names -----------------------------------------------------------------------------------

    def lookup(self, name: str) -> Any:
        """The value of a name, `KeyError` where nothing was assigned to it."""
        for scope in reversed(self.scopes):
            if name in (home := self.home(name, scope)):
                return home[name]
        raise KeyError(name)

    def assigned(self, name: str) -> bool:
        return any(name in scope for scope in self.scopes)

    def home(self, name: str, scope: dict[str, Any] | None = None) -> dict[str, Any]:
        """Where a scope keeps a name: what it calls ``global`` or ``nonlocal`` stands under ""."""
        scope = self.scopes[-1] if scope is None else scope
        elsewhere: dict[str, dict[str, Any]] = scope.get("", {})
        return elsewhere.get(name, scope)

    def generated(
        self, given: Iterable[Any], lines: Iterable[ast.AST], own: Iterable[str]
    ) -> Drawn:
        """What a generator of these lines gave; the names of its ``own`` are nobody else's."""
        names = [n for line in lines for n in ast.walk(line) if isinstance(n, ast.Name)]
        stored = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
        self.drawn.append(Drawn(given, frozenset({n.id for n in names} - stored - {*own})))
        return self.drawn[-1]

    def assign(self, name: str, value: Any) -> None:
        if any(found and name in found.reads for found in self.drawn):
            raise lacking("generator", name=name)
        if isinstance(value, Tensor):
            self.call_it(value, name)
        elif hasattr(value, "names") and self.program.place is None:
            value.names(name)
        self.home(name)[name] = value

    def call_it(self, tensor: Tensor, name: str) -> None:
        """Give a tensor a name, where it has none."""
        if tensor.ref is not None:
            id, own = tensor.ref.id, self.program.place is None
            if own or not self.builder.nodes[id].named:
                tensor.ref = self.builder.name(tensor.ref, name, again=id in self.inner)
                (self.inner.discard if own else self.inner.add)(id)
        elif not tensor.name and tensor.is_leaf and self.program.place is None:
            tensor.name = name
            self._resize(tensor, name)
            given = self.inputs.given.get(name)
            if given is not None and tensor.grad_of is None:
                tensor.value, tensor.shape, tensor.example = given, given.shape, False
            elif name in self.inputs.shapes and tensor.example:
                tensor.shape = self.inputs.shape(name)
                tensor.value = self.inputs.example(tensor.shape, signs=True)

    def _resize(self, tensor: Tensor, name: str) -> None:
        """Give a tensor the shape that it has in `sized`: its elements are not known then."""
        own, wanted = self.sized.get(name, ((), ()))
        if name in self.sized and tensor.shape == own and tensor.dtype not in WHOLE:
            tensor.shape, tensor.value = wanted, None
            tensor.later = lambda: self.runner(tensor.place).value(Graph("", (), 0), {}, "")

    @contextmanager
    def placed(self, place: Span | None) -> Iterator[None]:
        """What is read meanwhile stands at ``place``; None for the text itself."""
        before, self.program = self.program, dataclasses.replace(self.program, place=place)
        try:
            yield
        finally:
            self.program = before

    @contextmanager
    def scope(self, scopes: tuple[dict[str, Any], ...]) -> Iterator[None]:
        """Names are looked up in ``scopes`` meanwhile, and assigned in the last."""
        before, self.scopes = self.scopes, scopes
        try:
            yield
        finally:
            self.scopes = before

    @contextmanager
    def gradients(self, enabled: bool) -> Iterator[None]:
        before, self.grad_enabled = self.grad_enabled, enabled
        try:
            yield
        finally:
            self.grad_enabled = before

    # -- tensors ---------------------------------------------------------------------------------

    def free(self, name: str, place: Span) -> Tensor:
        """An input that the text does not make: its value comes from outside."""
        try:
            shape = self.inputs.shape(name)
        except GradexplainError as error:
            raise self.at(error, place) from None
        tensor = Tensor(shape, place, name=name, requires_grad=True)
        tensor.ref = self.builder.leaf(name, shape, place)
        self._requiring.add(tensor.ref.id)
        self.made[name] = Leaf(tensor, None, None, None, True, True)
        self.scopes[0][name] = tensor
        return tensor

    def ref(self, tensor: Tensor) -> Ref:
        """The node of a tensor, made where there is none yet."""
        self._fresh(tensor)
        if tensor.rows is not None:
            return self._stacked(tensor)
        if tensor.ref is not None:
            if tensor.ref.id in self.shadowed:
                self.lack("changed silently", self.shadowed[tensor.ref.id])
            return tensor.ref
        whole = tensor.dtype in WHOLE
        own = tensor.requires_grad or tensor.example or tensor.later
        if not own and not (tensor.name and self.script and self.values):
            tensor.ref = self.builder.constant(tensor.value, tensor.place, integer=whole)
            return tensor.ref
        name = tensor.name or tensor.hint or "leaf"
        self._resize(tensor, name)
        try:
            ref = self.builder.leaf(name, tensor.shape, tensor.place, integer=whole)
        except GradexplainError as error:
            raise self.at(error, tensor.place) from None
        label = self.builder.nodes[ref.id].label
        self.made[label] = Leaf(
            tensor, tensor.value, tensor.later, tensor.dtype, tensor.requires_grad, tensor.example
        )
        if whole:
            self.builder.known[ref.id] = tensor.value
        if tensor.requires_grad:
            self._requiring.add(ref.id)
        tensor.ref = ref
        return ref

    def share(
        self,
        found: Any,
        base: Tensor,
        again: Callable[[Tensor], Any],
        index: Any = None,
        detached: bool = False,
        copies: str = "",
    ) -> Any:
        """``found``, whose elements are those of ``base``."""
        if isinstance(found, Tensor):
            found.view = View(
                base, again, index, base.version, detached, home=base.home, copies=copies
            )
        elif isinstance(found, (tuple, list)):
            for n, part in enumerate(found):
                self.share(part, base, lambda t, n=n: again(t)[n])  # type: ignore[misc]
                if isinstance(part, Tensor) and part.view is not None:
                    part.view.several = True
        return found

    def _fresh(self, tensor: Tensor) -> None:
        """Take the elements of a view anew where its base was changed in place."""
        view = tensor.view
        if view is None or view.home != view.base.home:
            tensor.view = None
            return
        self._fresh(view.base)
        if view.version != view.base.version and self.is_copy(tensor):
            tensor.view = None
        elif view.version != view.base.version:
            new = view.again(view.base)
            tensor.ref, tensor.value, tensor.later, tensor.rows = (
                new.ref,
                new.value,
                new.later,
                new.rows,
            )
            tensor.requires_grad, view.version = new.requires_grad, view.base.version
            tensor.version += 1

    def places(self, tensor: Tensor) -> NDArray[np.int64]:
        """The places of a view's elements in what it shares them with, counted in its own order."""
        view = tensor.view
        if view is None or view.home != view.base.home:
            return np.arange(math.prod(tensor.shape)).reshape(tensor.shape)
        return self.places(view.base).reshape(-1)[self.taken(view)]

    def taken(self, view: View) -> NDArray[np.int64]:
        """The places of a view's elements in its base."""
        shape, place = view.base.shape, view.base.place
        count = self.literal(np.arange(math.prod(shape)).reshape(shape), "int64", place)
        return self.number(view.again(count), place).astype(np.int64)

    def is_copy(self, tensor: Tensor) -> bool:
        """Whether what may be a view is a copy: no strides reach its elements in the base."""
        view = tensor.view
        if view is None or not view.copies or self.any_size:
            return False
        at = self.places(tensor)
        if view.copies == "apart":
            return bool((np.diff(at.reshape(-1)) != 1).any())
        first = at.flat[0]
        steps = [at.take(min(1, n - 1), axis).flat[0] - first for axis, n in enumerate(at.shape)]
        even = sum(
            (step * grid for step, grid in zip(steps, np.indices(at.shape), strict=True)), first
        )
        return not np.array_equal(at, even)

    def _stacked(self, tensor: Tensor) -> Ref:
        """A tensor that was filled row by row."""
        assert tensor.rows is not None and tensor.value is not None
        rows = [
            self.builder.constant(tensor.value[n], tensor.place) if row is None else self.ref(row)
            for n, row in enumerate(tensor.rows)
        ]
        tensor.rows = None
        tensor.ref = self.applier.apply(by_spelling("torch.stack")[0], (rows,), tensor.place)
        if tensor.name:
            tensor.ref = self.builder.name(tensor.ref, tensor.name)
        tensor.value = None
        self.follow()
        return tensor.ref

    def requires(self, tensor: Tensor) -> bool:
        self._fresh(tensor)
        if tensor.ref is None and tensor.rows is None:
            return tensor.requires_grad
        ref = self.ref(tensor)
        self.follow()
        return ref.id in self._requiring

    def follow(self) -> None:
        """Which of the nodes made since require grad."""
        nodes = self.builder.nodes
        for node in nodes[self._seen :]:
            if node.op is not None and not node.integer and not node.op.stops:
                if any(id in self._requiring for id in node.inputs):
                    self._requiring.add(node.id)
        self._seen = len(nodes)

    def apply(
        self, records: list[Op], args: Sequence[Any], kwargs: Mapping[str, Any], place: Span
    ) -> Any:
        """What a call of the first record that fits gives, as tensors."""
        given = list(instances((args, kwargs), Tensor))
        plain = [self.plain(arg) for arg in args]
        named = {name: self.plain(arg) for name, arg in kwargs.items()}
        found = self.applier.apply_any(records, plain, named, place)
        if not self.grad_enabled:
            self.follow()
            found = mapped(found, Ref, lambda ref: self._detached(ref, place))
        elif records[0].name in NO_BACKWARD and any(map(self.requires, given)):
            self.underived[found.id] = records[0].name
        dtype = self._result(records[0], args, promoted(part.dtype for part in given))
        made = mapped(found, Ref, lambda ref: self.computed(ref, dtype, place))
        op, first = records[0].name, args[0] if args else None
        if (
            not isinstance(first, Tensor)
            or op not in VIEWS
            or op == "subscript"
            and not is_basic(args[1])
        ):
            return made
        again = lambda base: self.apply(records, (base, *args[1:]), kwargs, place)  # noqa: E731
        index = {"subscript": args[-1], "detach": ...}.get(op)
        detached = op == "detach" and self.script
        return self.share(made, first, again, index, detached, COPIES.get(op, ""))

    def _result(self, op: Op, args: Sequence[Any], dtype: str | None) -> str | None:
        """The dtype of a result, where its operands promote to ``dtype``."""
        if dtype not in WHOLE or op.family == "shape":
            return dtype
        if op.name not in STAYS_WHOLE or any(isinstance(arg, float) for arg in args):
            return self.default if self.script else None
        return "int64" if dtype == "bool" else dtype

    def _detached(self, ref: Ref, place: Span) -> Ref:
        if ref.id not in self._requiring:
            return ref
        return self.builder.apply(by_spelling("torch.detach")[0], (ref,), place)

    def plain(self, value: Any) -> Any:
        """A value as records take it: tensors as their nodes."""
        if isinstance(value, Tensor):
            return self.hooked(value) if value.hooks else self.ref(value)
        if isinstance(value, (list, tuple)) and not isinstance(value, Results):
            return type(value)(self.plain(part) for part in value)
        return list(value) if isinstance(value, range) else value

    def computed(self, ref: Ref, dtype: str | None, place: Span) -> Tensor:
        node = self.builder.nodes[ref.id]
        kind = dtype
        if node.op is not None and node.op.integer:
            kind = "bool" if node.op.family == "comparison" else "int64"
        return Tensor(node.shape, place, ref, kind, requires_grad=ref.id in self._requiring)

    def literal(self, value: Any, dtype: str | None, place: Span, **more: Any) -> Tensor:
        """A tensor with known elements, as its dtype holds them."""
        array = np.asarray(value, dtype=np.float64)
        if dtype == "float32":
            shape, alike = array.shape, array.size > 1 and not any(array.strides)
            with np.errstate(over="ignore"):
                part = array.flat[0] if alike else array
                array = np.asarray(part, dtype=np.float32).astype(np.float64)
            array = np.broadcast_to(array, shape)
        return Tensor(array.shape, place, dtype=dtype, value=array, **more)

    def needed(self, id: int) -> list[int]:
        """The nodes that a value is made from, itself included, in order."""
        if id not in self._needed:
            found, waiting = {id}, [id]
            while waiting:
                new = set(self.builder.nodes[waiting.pop()].inputs) - found
                found |= new
                waiting += new
            self._needed[id] = sorted(found)
        return self._needed[id]

    def reached(self, id: int) -> set[int]:
        """The nodes to which a backward from ``id`` sends a gradient."""
        self.follow()
        found, waiting = {id}, [id]
        while waiting:
            inputs = self.builder.nodes[waiting.pop()].inputs
            waiting += (new := [n for n in set(inputs) - found if n in self._requiring])
            found |= set(new)
        return found

    def part(self, id: int) -> tuple[Graph, dict[int, int]]:
        """The graph that a value is made from alone, and the new id of each old one."""
        nodes, needed = self.builder.nodes, self.needed(id)
        return Graph("", tuple(nodes[n] for n in needed), id).renumbered()

    @staticmethod
    def filled(shape: Shape, value: float) -> Array:
        """An array of one value, which takes no memory of its own."""
        return np.broadcast_to(np.float64(value), shape)

    # -- numbers ---------------------------------------------------------------------------------

    def known(self, tensor: Tensor) -> Array | None:
        """The elements where the text has them; None for what is computed."""
        self._fresh(tensor)
        if tensor.rows is not None or tensor.later is not None:
            return None
        if tensor.value is not None:
            return tensor.value
        if tensor.ref is not None and self.builder.nodes[tensor.ref.id].op is None:
            value = self.builder.nodes[tensor.ref.id].value
            return self.inputs.given.get(tensor.name) if value is None else np.asarray(value)
        return None

    def _known(self, label: str) -> Any:
        """The value of an input that may be used as an index."""
        leaf = self.made.get(label)
        if leaf is not None and leaf.value is not None:
            return leaf.value
        return self.inputs.given.get(label)

    def _whole(self, ref: Ref) -> Array | None:
        """The elements of a computed value that is used as an index, where no gradient goes through it."""
        node = self.builder.nodes[ref.id]
        self.follow()
        if ref.id in self._requiring or not self.python or self.any_size or self.numbers is None:
            return None
        graph, _ = self.part(ref.id)
        if any(
            leaf.label in self.made and self.made[leaf.label].requires_grad for leaf in graph.leaves
        ):
            self.decided(node.span, "other elements")
        return self.numbers.value(graph, self.leaves(graph), self.run_dtype(graph))

    def number(self, tensor: Tensor, place: Span) -> Array:
        """The elements of a tensor, computed by PyTorch where need be."""
        known = self.known(tensor)
        if known is not None:
            return known
        if tensor.ref is None and tensor.later is not None:
            return tensor.later()
        graph, _ = self.part(self.ref(tensor).id)
        return self.runner(place).value(graph, self.leaves(graph), self.run_dtype(graph))

    def runner(self, place: Span) -> Numbers:
        if self.numbers is None:
            self.lack("depends on a number", place)
        return self.numbers

    def leaves(self, graph: Graph) -> dict[str, Array]:
        """The values of a graph's leaves."""
        return {node.label: self.leaf_value(node.label, node.shape) for node in graph.leaves}

    def leaf_value(self, label: str, shape: Shape) -> Array:
        leaf = self.made[label]
        if leaf.value is None:
            leaf.value = leaf.later() if leaf.later else self.inputs.value(label, shape)
        return leaf.value

    def run_dtype(self, graph: Graph) -> str:
        """The dtype of a run: the one asked for, else the widest of the leaves that the text makes."""
        if self.dtype is not None:
            return self.dtype
        needed = graph.needed()
        labels = [n.label for n in graph.nodes if n.is_leaf and n.id in needed and not n.integer]
        leaves = [self.made[label] for label in labels if label in self.made]
        if not any(leaf.requires_grad and leaf.dtype for leaf in leaves):
            return "float64"
        kinds = {leaf.dtype for leaf in leaves if leaf.dtype is not None}
        return "float64" if "float64" in kinds else "float32"
