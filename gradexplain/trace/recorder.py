"""The recorder: sees every call of PyTorch's while the script runs, and keeps little of it.

What is kept of a call hangs on the node that autograd itself made for the result (in the node's
``metadata``), so it lives exactly as long as PyTorch's own graph does and is found again from there
at ``backward``.  A recorded input is an alias of the tensor, never the tensor: what is changed in
place later would otherwise tie the graph into a cycle that is never freed.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from gradexplain.graph import Graph
from gradexplain.trace.forward import Forward
from gradexplain.trace.frames import Site, site

#: Where a node of autograd's keeps the call that made it.
KEY = "gradexplain"

#: How many of the last changes in place are remembered, for the error that one of them may cause.
_CHANGES = 512

#: Of a tensor that is made without grad, so many reasons are remembered.
_REASONS = 4

#: At one line, so many times the leaves behind a tensor that is cut off are looked for.
_WALKS = 4

#: Python's operators, as PyTorch's functions; those with a second True have their operands swapped.
_OPERATORS: dict[str, tuple[str, bool]] = {
    "__add__": ("torch.add", False), "__radd__": ("torch.add", True),
    "__sub__": ("torch.sub", False), "__rsub__": ("torch.sub", True), "rsub": ("torch.sub", True),
    "__mul__": ("torch.mul", False), "__rmul__": ("torch.mul", True),
    "__truediv__": ("torch.div", False), "__rtruediv__": ("torch.div", True),
    "__div__": ("torch.div", False), "__rdiv__": ("torch.div", True),
    "__pow__": ("torch.pow", False), "__rpow__": ("torch.pow", True),
    "__matmul__": ("torch.matmul", False), "__rmatmul__": ("torch.matmul", True),
    "__neg__": ("torch.neg", False), "__pos__": ("torch.positive", False),
    "__abs__": ("torch.abs", False), "__getitem__": ("operator.getitem", False),
    "__mod__": ("torch.remainder", False), "__floordiv__": ("torch.floor_divide", False),
    "__iadd__": ("torch.add", False), "__isub__": ("torch.sub", False),
    "__imul__": ("torch.mul", False), "__itruediv__": ("torch.div", False),
    "__idiv__": ("torch.div", False), "__ipow__": ("torch.pow", False),
}  # fmt: skip

#: Calls that give the value itself in another storage, layout or dtype.
_COPIES = {"clone", "contiguous", "float", "double", "to", "type_as", "cpu", "alias", "type"}

#: Attributes that are operations; any other attribute is a question that computes nothing.
_ATTRIBUTES = {"T", "mT", "H", "mH", "real", "imag"}

#: Methods that compute no tensor.
_QUESTIONS = {
    "size", "dim", "numel", "nelement", "ndimension", "stride", "item", "tolist", "numpy",
    "__len__", "__repr__", "__str__", "__format__", "__float__", "__int__", "__bool__", "__index__",
    "__hash__", "is_floating_point", "is_complex", "is_contiguous", "storage_offset", "data_ptr",
    "register_hook", "register_post_accumulate_grad_hook", "retain_grad", "requires_grad_",
    "untyped_storage", "storage", "get_device", "element_size", "is_same_size", "__iter__",
    "__contains__", "__dir__", "__reduce_ex__", "__deepcopy__", "_is_view", "is_set_to", "equal",
    "allclose", "has_names", "__array__",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """How a function of PyTorch's is treated: ``skip``, ``backward``, ``inplace`` or ``op``."""

    kind: str
    name: str
    spellings: tuple[str, ...] = ()
    swap: bool = False


class Operand:
    """A tensor as it was when a call took it.

    ``node`` and ``nr`` are its place in autograd's graph; both are unset for a leaf (``leaf`` is
    the tensor) and for a tensor that does not require grad.  ``value`` shares its storage: it still
    holds the value while its version is ``version``.
    """

    __slots__ = ("cuts", "leaf", "names", "node", "nr", "value", "version")

    def __init__(self, tensor: Any, *, copy: bool = False) -> None:
        node = tensor.grad_fn
        self.node = node
        self.nr = tensor.output_nr if node is not None else 0
        self.leaf = tensor if node is None and tensor.requires_grad else None
        value = tensor.detach()
        self.value = value.clone() if copy else value
        self.version = self.value._version
        self.cuts: tuple[Cut, ...] = ()
        self.names: tuple[str, ...] = ()

    @classmethod
    def at(cls, node: Any, nr: int) -> Operand:
        """A place in autograd's graph of which no call told the value."""
        self = cls.__new__(cls)
        self.leaf = getattr(node, "variable", None)
        self.node, self.nr = (None, 0) if self.leaf is not None else (node, nr)
        self.value, self.version, self.cuts, self.names = None, -1, (), ()
        return self

    def same(self, other: Operand) -> bool:
        """Whether both are the same place in autograd's graph."""
        if self.leaf is not None or other.leaf is not None:
            return self.leaf is other.leaf
        return self.node is not None and self.node is other.node and self.nr == other.nr

    @property
    def intact(self) -> bool:
        """Whether ``value`` is still what the call saw."""
        return bool(self.value is not None and self.value._version == self.version)


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the gradient's way ends: a tensor without grad, made from some that require it."""

    why: str
    site: Site | None
    name: str
    sources: tuple[Any, ...]  # weak references to leaves


@dataclass(slots=True)
class Call:
    """One call, with its tensors as operands.  ``base`` is the base of a view changed in place."""

    kind: Kind
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operands: list[Operand]
    site: Site | None
    base: Operand | None = None
    #: How the view and its base lie in their storage, each as in `geometry`.
    view: tuple[Any, Any] | None = None
    #: The class of a custom ``autograd.Function``.
    custom: str = ""
    #: What a custom Function's forward computes, by output: graphs with leaves ``a0``, ``a1``, …
    graphs: dict[tuple[int, ...], Graph] = field(default_factory=dict)
    #: For a part of a backward pass with ``create_graph=True``: the gradients that it made.
    targets: list[Target] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Term:
    """What ``call`` sends to a value: its vector-Jacobian product with the gradients of its outputs,
    which are in ``upstream`` by the output's place.
    """

    call: Call
    upstream: Mapping[tuple[int, ...], Operand]


@dataclass(frozen=True, slots=True)
class Target:
    """The gradient of the value ``of``: the sum of ``terms``, None where some are not known."""

    of: Operand
    value: Operand
    terms: tuple[Term, ...] | None


@dataclass(frozen=True, slots=True)
class Change:
    """A change in place that was seen: the storage, the version after it, and where."""

    storage: int
    version: int
    name: str
    site: Site | None


class Recorder(TorchFunctionMode):
    """Records while it is entered.  ``on_backward(name, function, arguments, frame)`` carries out
    each ``backward`` and ``grad`` that the script calls, and returns what the function returned.
    """

    def __init__(self, on_backward: Callable[..., Any]) -> None:
        super().__init__()
        self._on_backward = on_backward
        self._kinds: dict[Any, Kind] = {}
        #: By id, of tensors that do not require grad: why not, and what they are called.
        self._cuts: dict[int, tuple[Any, tuple[Cut, ...], tuple[str, ...]]] = {}
        self._walks: dict[Any, int] = {}
        self._paused = 0
        self._apply: Any = None
        #: What was replaced in PyTorch's optimizers: the class, the name and the original.
        self._steps: list[tuple[Any, str, Any]] = []
        #: Whether operations are recorded: not once nothing more is to be explained.
        self.recording = True
        self.changes: deque[Change] = deque(maxlen=_CHANGES)
        #: Where optimizers took their last steps.
        self.steps: deque[tuple[str, Site | None]] = deque(maxlen=8)
        #: The last call that failed: what it was, its tensors and where.
        self.failed: tuple[Kind, tuple[Any, ...], Site | None] | None = None
        self.failed_with = 0

    # -- entering --------------------------------------------------------------------------------

    def __enter__(self) -> Any:
        function = torch.autograd.Function
        self._apply = function.__dict__["apply"]
        original = self._apply.__func__
        recorder = self

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            return recorder._custom(original, cls, args, kwargs)

        function.apply = classmethod(apply)
        self._wrap_steps()
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        torch.autograd.Function.apply = self._apply
        for owner, name, original in self._steps:
            setattr(owner, name, original)
        super().__exit__(*details)
        self._cuts.clear()

    def _wrap_steps(self) -> None:
        """Have every optimizer's ``step`` go through `_step`: those there are, and those to come."""
        base = torch.optim.Optimizer
        classes = [base]
        for found in classes:
            classes += [cls for cls in found.__subclasses__() if cls not in classes]
        self._steps = [
            (cls, "step", cls.__dict__["step"])
            for cls in classes[1:]
            if isinstance(cls.__dict__.get("step"), types.FunctionType)
        ]
        for cls, _, step in self._steps:
            cls.step = self._step(step)
        # A class made later is given its hooks by this when it is first used.
        profiled = base.profile_hook_step
        self._steps.append((base, "profile_hook_step", staticmethod(profiled)))
        base.profile_hook_step = staticmethod(lambda step: _hooked(self._step(profiled(step))))

    def _step(self, step: Any) -> Any:
        """Step aside while an optimizer makes its many small updates, unless it calls a closure."""

        @functools.wraps(step)
        def wrapper(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            closure = kwargs.get("closure") or any(callable(arg) for arg in args)
            aside = not closure and _is_on_top(self)
            if aside:
                torch._C._pop_torch_function_stack()
            try:
                return step(optimizer, *args, **kwargs)
            finally:
                if aside:
                    torch._C._push_on_torch_function_stack(self)
                    self.steps.append((type(optimizer).__name__, site(sys._getframe(1))))

        return wrapper

    # -- calls -----------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, kinds: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = classify(func)
        if kind.kind == "skip":
            return func(*args, **kwargs)
        if kind.kind == "backward":
            return self._backward(func, kind.name, args, kwargs)
        if not self.recording:
            return func(*args, **kwargs)
        try:
            if kind.kind == "inplace" or (
                kwargs and (kwargs.get("out") is not None or kwargs.get("inplace"))
            ):
                return self._inplace(func, kind, args, kwargs)
            result = func(*args, **kwargs)
        except Exception as error:
            if self.failed_with != id(error):  # else it is on its way out of an inner call
                self.failed, self.failed_with = (kind, args, site(sys._getframe(1))), id(error)
            raise
        if isinstance(result, torch.Tensor):
            if result.requires_grad:
                node = result.grad_fn
                if node is not None:
                    self._record(kind, args, kwargs, [(result, ())])
            else:
                self._cut(kind, args, result)
        elif isinstance(result, (tuple, list)):
            outputs = [(part, (place,)) for place, part in enumerate(result) if _is_computed(part)]
            if outputs:
                self._record(kind, args, kwargs, outputs)
        return result

    def _record(
        self, kind: Kind, args: Any, kwargs: Any, outputs: Sequence[tuple[Any, tuple[int, ...]]]
    ) -> None:
        operands: list[Operand] = []
        packed = tuple([self._pack(arg, operands) for arg in args])
        named = {k: self._pack(v, operands) for k, v in kwargs.items()} if kwargs else {}
        call: Call | None = None
        for tensor, path in outputs:
            node, nr = tensor.grad_fn, tensor.output_nr
            if any(o.node is node and o.nr == nr for o in operands):
                continue  # the input itself: x.contiguous()
            if call is None:
                call = Call(kind, packed, named, operands, site(sys._getframe(2)))
            _attach(node, nr, call, path)

    def _pack(self, arg: Any, operands: list[Operand], changing: Any = None) -> Any:
        """An argument with its tensors as operands; of ``changing`` the value is copied."""
        if isinstance(arg, torch.Tensor):
            operand = Operand(arg, copy=arg is changing)
            if operand.node is None and self._cuts and operand.leaf is None:
                entry = self._cuts.get(id(arg))
                if entry is not None and entry[0]() is arg:
                    operand.cuts, operand.names = entry[1:]
            operands.append(operand)
            return operand
        if type(arg) in (list, tuple):
            return type(arg)([self._pack(part, operands, changing) for part in arg])
        return arg

    # -- changes in place ------------------------------------------------------------------------

    def _inplace(self, func: Any, kind: Kind, args: Any, kwargs: Any) -> Any:
        target = kwargs["out"] if kwargs and kwargs.get("out") is not None else (
            args[0] if args else kwargs.get("input")
        )  # fmt: skip
        if not isinstance(target, torch.Tensor):
            return func(*args, **kwargs)
        tracked = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in _tensors((args, kwargs))
        )
        if not tracked:
            result = func(*args, **kwargs)
            self._changed(kind, target)
            if not target.requires_grad:
                self._cut(kind, args, target)
            return result
        operands: list[Operand] = []
        packed = tuple([self._pack(arg, operands, target) for arg in args])
        named = {
            k: self._pack(v, operands, target)
            for k, v in kwargs.items()
            if k not in ("out", "inplace")
        }
        base = None
        if target._is_view() and target._base is not None:
            base = Operand(target._base, copy=True)
        result = func(*args, **kwargs)
        place = site(sys._getframe(2))
        call = Call(kind, packed, named, operands, place, base)
        if base is not None:
            call.view = geometry(target), geometry(target._base)
        changed = target._base if base is not None else target
        if changed.grad_fn is not None:
            _attach(changed.grad_fn, changed.output_nr, call, ())
        self._changed(kind, target, place)
        return result

    def _changed(self, kind: Kind, target: Any, place: Site | None = None) -> None:
        try:
            storage = target.untyped_storage().data_ptr()
        except (RuntimeError, NotImplementedError):  # a sparse tensor has no storage
            return
        place = place or site(sys._getframe(3))
        self.changes.append(Change(storage, target._version, kind.name, place))

    # -- where the gradient's way ends -----------------------------------------------------------

    def _cut(self, kind: Kind, args: Any, result: Any) -> None:
        """Remember why ``result`` does not require grad although it was made from what does."""
        sources = []
        reasons: tuple[Cut, ...] = ()
        for arg in args:
            for tensor in arg if type(arg) in (list, tuple) else (arg,):
                if not isinstance(tensor, torch.Tensor) or tensor is result:
                    continue
                if tensor.requires_grad:
                    sources.append(tensor)
                elif self._cuts:
                    entry = self._cuts.get(id(tensor))
                    if entry is not None and entry[0]() is tensor:
                        reasons += tuple(cut for cut in entry[1] if cut not in reasons)
        enabled = torch.is_grad_enabled()
        if not sources and not reasons and not enabled:
            return
        place = site(sys._getframe(2))
        if sources:
            if not enabled:
                why = "no_grad"
            elif kind.name in ("detach", "data", "detach_"):
                why = "detached"
            else:
                why = "no derivative"
            key = (place.filename, place.line) if place is not None else None
            walks = self._walks[key] = self._walks.get(key, 0) + 1
            leaves = tuple(_leaves(sources)) if walks <= _WALKS else ()
            reasons = (Cut(why, place, kind.name, leaves), *reasons)
        names = place.names if place is not None and kind.kind != "inplace" else ()
        if reasons or len(names) == 1:
            self._remember(result, reasons, names)

    def _remember(self, result: Any, reasons: tuple[Cut, ...], names: tuple[str, ...]) -> None:
        key = id(result)
        cuts = self._cuts

        def forget(_: Any, key: int = key) -> None:
            cuts.pop(key, None)

        entry = cuts.get(key)
        if entry is not None and entry[0]() is result:
            reasons = (*reasons, *(cut for cut in entry[1] if cut not in reasons))
            names = names or entry[2]
        cuts[key] = weakref.ref(result, forget), reasons[:_REASONS], names

    def cuts_of(self, tensor: Any) -> tuple[Cut, ...]:
        """Why ``tensor`` does not require grad, where that was seen."""
        entry = self._cuts.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else ()

    # -- custom functions and backward -----------------------------------------------------------

    def _custom(self, original: Any, cls: Any, args: Any, kwargs: Any) -> Any:
        if self._paused or not self.recording:
            return original(cls, *args, **kwargs)
        inputs = list(_tensors((args, kwargs)))
        forward = Forward(inputs)
        self._paused += 1
        try:
            with forward:
                result = original(cls, *args, **kwargs)
        finally:
            self._paused -= 1
        outputs = result if isinstance(result, (tuple, list)) else [result]
        many = isinstance(result, (tuple, list))
        tracked = [
            (part, (place,) if many else ())
            for place, part in enumerate(outputs)
            if _is_computed(part)
        ]
        if tracked:
            operands: list[Operand] = []
            packed = tuple([self._pack(arg, operands) for arg in args])
            named = {k: self._pack(v, operands) for k, v in kwargs.items()}
            kind = Kind("op", f"{cls.__name__}.apply")
            call = Call(kind, packed, named, operands, site(sys._getframe(2)), custom=cls.__name__)
            if len(operands) == len(inputs):
                call.graphs = forward.graphs(tracked)
            for tensor, path in tracked:
                _attach(tensor.grad_fn, tensor.output_nr, call, path)
        return result

    def _backward(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return func(*args, **kwargs)
        frame = sys._getframe(2)
        try:
            bound = inspect.signature(func).bind(*args, **kwargs)
        except TypeError:
            return func(*args, **kwargs)  # PyTorch's own message
        bound.apply_defaults()
        self._paused += 1
        try:
            return self._on_backward(name, lambda: func(*args, **kwargs), bound.arguments, frame)
        finally:
            self._paused -= 1


def _hooked(step: Any) -> Any:
    """Marked as PyTorch marks a ``step`` that has its hooks."""
    step.hooked = True
    return step


def _is_on_top(mode: Any) -> bool:
    depth = torch._C._len_torch_function_stack()
    return depth > 0 and torch._C._get_function_stack_at(depth - 1) is mode


def _attach(node: Any, nr: int, call: Call, path: tuple[int, ...]) -> None:
    metadata = node.metadata
    entry = metadata.get(KEY)
    if entry is None or entry[0] is not call:
        metadata[KEY] = call, {nr: path}
    else:
        entry[1][nr] = path


def geometry(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Size, strides and offset."""
    return tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _is_computed(value: Any) -> bool:
    """Whether autograd knows how ``value`` was made."""
    return isinstance(value, torch.Tensor) and value.requires_grad and value.grad_fn is not None


def _leaves(tensors: list[Any]) -> Iterator[Any]:
    """Weak references to the leaves that ``tensors`` were computed from."""
    stack: list[Any] = []
    for tensor in tensors:
        if tensor.grad_fn is None:
            yield weakref.ref(tensor)
        else:
            stack.append(tensor.grad_fn)
    seen: set[Any] = set()
    while stack and len(seen) < 2000:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield weakref.ref(variable)
        stack.extend(n for n, _ in node.next_functions if n is not None)


_HOMES = (
    ("torch", torch), ("F", torch.nn.functional), ("linalg", torch.linalg),
    ("special", torch.special), ("Tensor", torch.Tensor),
)  # fmt: skip


def classify(func: Any) -> Kind:
    """How a function is treated, and the spellings under which its record may be found."""
    name = getattr(func, "__name__", "") or type(func).__name__
    if func is torch.Tensor.backward or func is torch.autograd.backward:
        home = "" if func is torch.Tensor.backward else "autograd."
        return Kind("backward", f"{home}backward")
    if func is torch.autograd.grad:
        return Kind("backward", "grad")
    if name in ("__get__", "__set__", "__delete__"):
        name = getattr(getattr(func, "__self__", None), "__name__", name)
        if func.__name__ == "__get__" and name == "data":
            return Kind("op", "data")
        if func.__name__ != "__get__" or name not in _ATTRIBUTES:
            return Kind("skip", name)
        return Kind("op", name, (f"Tensor.{name}",))
    if name in _QUESTIONS:
        return Kind("skip", name)
    inplace = _is_inplace(name)
    if name in _OPERATORS:
        spelling, swap = _OPERATORS[name]
        return Kind("inplace" if inplace else "op", name, (spelling,), swap)
    plain = name.rstrip("_") if inplace and not name.startswith("__") else name
    if plain in _COPIES:
        return Kind("op", plain, ("torch.positive",))
    spellings = [f"{home}.{plain}" for home, owner in _HOMES if getattr(owner, name, None) is func]
    for home, owner in _HOMES:
        spelling = f"{home}.{plain}"
        if spelling not in spellings and hasattr(owner, plain):
            spellings.append(spelling)
    return Kind("inplace" if inplace else "op", name, tuple(spellings))


def _is_inplace(name: str) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or (name in _OPERATORS and name.startswith("__i"))
    return name.endswith("_") and not name.startswith("_")
