"""The recorder of scripts: sees every call of PyTorch's, and keeps little of it.

What is kept hangs on autograd's own nodes (`gradexplain.recording.calls`).  One tape serves all who
listen at a time, in all threads.  It never raises into the script: what fails here is told to the
listeners, and the script goes on.
"""

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from gradexplain.recording.caller import Callers
from gradexplain.recording.calls import (
    KEY,
    Call,
    Change,
    Operand,
    attach,
    geometry,
    is_computed,
)
from gradexplain.recording.ends import COPYING, Ends
from gradexplain.recording.forward import Forward
from gradexplain.recording.frames import Site, site
from gradexplain.recording.listener import Listener
from gradexplain.recording.operators import Kind, classify
from gradexplain.recording.patches import Listening
from gradexplain.tensors import instances

#: How many of the last changes in place are remembered, for the error that one of them may cause.
_CHANGES = 512

#: So often what a graph was compiled to is held against the graph, on arguments of so many numbers.
_EAGER, _COPIED = 4, 2_000_000

_ADDS = {"__add__", "__radd__", "__iadd__", "add", "add_"}

#: Where a node of autograd's says that a backward has gone through it.
DONE = "gradexplain done"

_NO_NAMES: dict[str, Any] = {}

_transforms_active = torch._C._are_functorch_transforms_active


class _Local(threading.local):
    """What holds in one thread: whether a backward, or an optimizer's step, is under way."""

    paused = 0
    inside = 0
    stepping = 0
    #: Who has called what is compiled.
    asking: FrameType | None = None


class Tape(TorchFunctionMode):
    """Records while somebody listens: `join` and `leave` in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.callers = Callers()
        self._listeners: list[Listener] = []
        self._listening = Listening(self)
        self._lock = threading.RLock()
        self._local = _Local()
        self._kinds: dict[Any, Kind] = {}
        self._parameters: dict[str, dict[str, Any]] = {}
        self._forget()

    def _forget(self) -> None:
        self.ends = Ends()
        #: How often a graph was run that has been compiled, by its id.
        self._eager: dict[int, int] = {}
        #: By the place of an addition: how often it added a loss to a sum that it made itself after
        #: backward had gone through that loss.
        self.sums: dict[Site, int] = {}
        #: By id, modules whose ``train`` or ``eval`` was called: whether they were in training before
        #: the first, after how many backwards that came, and the place of the last.
        self.modes: dict[int, tuple[Any, bool, int, Site | None]] = {}
        self.changes: deque[Change] = deque(maxlen=_CHANGES)
        #: Where optimizers took their last steps.
        self.steps: deque[tuple[str, Site | None]] = deque(maxlen=8)
        #: Counts calls and changes in place, in order.
        self.clock = 0
        self.backwards = 0
        #: The last call that failed: what it was, its tensors and where.
        self.failed: tuple[Kind, tuple[Any, ...], Site | None] | None = None
        self.failed_with = 0
        self.recording = True

    # -- listeners -------------------------------------------------------------------------------

    def join(self, listener: Listener) -> None:
        with self._lock:
            if not self._listeners:
                self._forget()
                self._parameters.clear()
                self._listening.start()
            self._listeners.append(listener)
        self.settle()

    def leave(self, listener: Listener) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if not self._listeners:
                self._listening.stop()
                self.callers.forget()
                self.ends = Ends()
        self.settle()

    def listens(self) -> bool:
        """Whether a call of ``backward``, ``step`` or ``zero_grad`` is to be told of."""
        return bool(self._listeners) and not self._local.inside

    def records(self) -> bool:
        """Whether operations are recorded here and now."""
        return bool(self._listeners) and self.recording and not self._local.paused

    def samples(self, cls: Any, args: Any) -> bool:
        """Whether a call of a custom Function is wanted, whatever else is recorded."""
        if self._local.paused or _transforms_active():
            return False
        return any([listener.samples(cls, args) for listener in self._listeners])

    @property
    def light(self) -> bool:
        """Whether nobody wants to know more of steps than how many there are."""
        return all([listener.light for listener in self._listeners])

    def counted(self, optimizer: Any) -> bool:
        """Whether a step was no more than counted."""
        return self.light and all([listener.counted(optimizer) for listener in self._listeners])

    def lightly(self, function: Callable[..., Any], owner: Any, args: Any, kwargs: Any) -> Any:
        """Call a ``step`` or ``zero_grad`` for its caller, without recording what it does."""
        call = self.callers.of(sys._getframe(2))
        if not self.recording or self._local.stepping:
            return call(function, (owner, *args), kwargs)
        self.remove()
        self._local.stepping += 1
        try:
            return call(function, (owner, *args), kwargs)
        finally:
            self._local.stepping -= 1
            self.push()

    def settle(self) -> None:
        """Be on this thread's stack of modes just if operations are wanted."""
        self.recording = any(listener.records for listener in self._listeners)
        if self.recording:
            self.push()
        else:
            self.remove()

    def push(self) -> None:
        if self._listeners and self.recording and not self._is_on_top():
            if not any(mode is self for mode in _get_current_function_mode_stack()):
                torch._C._push_on_torch_function_stack(self)

    def _is_on_top(self) -> bool:
        count: int = torch._C._len_torch_function_stack()
        return count > 0 and torch._C._get_function_stack_at(count - 1) is self

    def remove(self) -> None:
        """Leave this thread's stack of modes, from wherever in it."""
        while self._is_on_top():  # twice, where it was pushed while PyTorch had it aside
            torch._C._pop_torch_function_stack()
        if not torch._C._len_torch_function_stack():
            return
        stack = _get_current_function_mode_stack()
        if not any(mode is self for mode in stack):
            return
        for _ in stack:
            torch._C._pop_torch_function_stack()
        for mode in stack:
            if mode is not self:
                torch._C._push_on_torch_function_stack(mode)

    def broke(self, error: Exception) -> None:
        for listener in self._listeners:
            listener.broke(error)

    # -- calls -----------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        frame = sys._getframe(1)
        call = self.callers.of(frame)
        kwargs = kwargs or _NO_NAMES
        if not self.recording or self._local.paused or not self._listeners:
            return call(func, args, kwargs)
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = classify(func)
        if _transforms_active():
            return call(func, args, kwargs)
        if kind.kind == "skip":
            self._asked(kind, args, frame)
            return call(func, args, kwargs)
        change = None
        if kind.kind == "inplace" or (
            kwargs and (kwargs.get("out") is not None or kwargs.get("inplace"))
        ):
            change = self._before(kind, args, kwargs)
        try:
            result = call(func, args, kwargs)
        except Exception as error:  # of the script: noted, and raised again
            if self.failed_with != id(error):  # else it is on its way out of an inner call
                self.failed, self.failed_with = (kind, args, site(frame)), id(error)
            raise
        try:
            if change is not None:
                self._after(change, kind, args, frame)
            elif isinstance(result, torch.Tensor):
                node = result.grad_fn
                if node is not None:
                    self._record(kind, args, kwargs, ((node, result.output_nr, ()),), frame)
                elif not result.requires_grad or kind.name in COPYING:
                    self.ends.cut(kind, args, result, frame)
            elif isinstance(result, (tuple, list)):
                outputs = [(part.grad_fn, part.output_nr, (n,))
                           for n, part in enumerate(result) if is_computed(part)]  # fmt: skip
                if outputs:
                    self._record(kind, args, kwargs, outputs, frame)
                    for part in result:
                        if isinstance(part, torch.Tensor) and not part.requires_grad:
                            self.ends.cut(kind, args, part, frame)
        except Exception as error:  # the script is not to see that we failed
            self.broke(error)
        return result

    def _record(
        self,
        kind: Kind,
        args: Any,
        kwargs: Any,
        outputs: Sequence[tuple[Any, int, tuple[int, ...]]],
        frame: FrameType,
    ) -> None:
        packed, named, operands = self._packed(args, kwargs)
        call: Call | None = None
        for node, nr, path in outputs:
            for operand in operands:
                if operand.node is node and operand.nr == nr:
                    break  # the input itself: x.contiguous()
            else:
                if call is None:
                    self.clock += 1
                    call = Call(kind, packed, named, operands, site(frame), self.clock)
                    if kind.name in _ADDS:
                        self._added(call)
                attach(node, nr, call, path)

    def _added(self, call: Call) -> None:
        """Whether a loss that is done with is added to a sum of such, with its graph."""
        nodes = [operand.node for operand in call.operands if operand.node is not None]
        if len(nodes) == 2 and call.site is not None:
            own = [
                KEY in node.metadata and node.metadata[KEY][0].site == call.site for node in nodes
            ]
            done = [
                any(
                    n is not None and DONE in n.metadata
                    for n in (m, *(t for t, _ in m.next_functions))
                )
                for m in nodes
            ]
            if (own[0] and done[1]) or (own[1] and done[0]):
                self.sums[call.site] = self.sums.get(call.site, 0) + 1

    def mode(self, module: Any, training: bool) -> None:
        """``train`` or ``eval`` has been called on a module, which was ``training`` before."""
        first, since = self.modes.get(id(module), (None, training, self.backwards))[1:3]
        self.modes[id(module)] = weakref.ref(module), first, since, site(sys._getframe(2))

    def noted(self, what: str, subject: Any, result: Any, frame: FrameType) -> None:
        """A call that tells how a training goes."""
        for listener in self._listeners:
            listener.noted(what, subject, result, site(frame))

    def _packed(
        self, args: Any, kwargs: Any, changing: Any = None
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Operand]]:
        """The arguments of a call with their tensors as operands, and the operands."""
        operands: list[Operand] = []
        packed = tuple([self._pack(arg, operands, changing) for arg in args])
        return packed, {k: self._pack(v, operands, changing) for k, v in kwargs.items()}, operands

    def _pack(self, arg: Any, operands: list[Operand], changing: Any = None) -> Any:
        """An argument with its tensors as operands; of ``changing`` the value is copied."""
        if isinstance(arg, torch.Tensor):
            operand = Operand(arg, copy=arg is changing)
            if operand.node is None and operand.leaf is None:
                operand.cuts, operand.names = self.ends.of(arg)
            operands.append(operand)
            return operand
        if type(arg) in (list, tuple):
            return type(arg)([self._pack(part, operands, changing) for part in arg])
        return list(arg) if type(arg) is range else arg

    def _asked(self, kind: Kind, args: Any, frame: FrameType) -> None:
        try:
            self.ends.asked(kind.name, args, frame, later=bool(self.backwards))
        except Exception as error:  # the script is not to see that we failed
            self.broke(error)

    # -- changes in place ------------------------------------------------------------------------

    def _before(self, kind: Kind, args: Any, kwargs: Any) -> Any:
        """What is to be known of a change before it happens; None where nothing is changed."""
        target = kwargs["out"] if kwargs and kwargs.get("out") is not None else (
            args[0] if args else kwargs.get("input")
        )  # fmt: skip
        if not isinstance(target, torch.Tensor):
            return None
        try:
            tracked = torch.is_grad_enabled() and any(
                tensor.requires_grad for tensor in instances((args, kwargs), torch.Tensor)
            )
            if not tracked:
                return target, None
            given = {k: v for k, v in kwargs.items() if k not in ("out", "inplace")}
            call = Call(kind, *self._packed(args, given, target), None)
            if target._is_view() and target._base is not None:
                call.base = Operand(target._base, copy=True)
                _own_base(target)
        except Exception as error:  # the script is not to see that we failed
            self.broke(error)
            return None
        return target, call

    def _after(self, change: Any, kind: Kind, args: Any, frame: FrameType) -> None:
        target, call = change
        place = site(frame)
        if call is None:
            self._changed(kind, target, place)
            if not target.requires_grad:
                self.ends.cut(kind, args, target, frame)
            return
        self.clock += 1
        call.site, call.stamp = place, self.clock
        if kind.name in _ADDS:
            self._added(call)
        changed = target
        if call.base is not None:
            changed = target._base
            call.view = geometry(target), geometry(changed)
        if changed.grad_fn is not None:
            attach(changed.grad_fn, changed.output_nr, call, ())
        self._changed(kind, target, place)

    def _changed(self, kind: Kind, target: Any, place: Site | None) -> None:
        with suppress(RuntimeError, NotImplementedError):  # a sparse tensor has no storage
            storage = target.untyped_storage().data_ptr()
            version = -1 if target.is_inference() else target._version
            self.clock += 1
            self.changes.append(Change(storage, version, kind.name, place, self.clock))

    # -- custom functions ------------------------------------------------------------------------

    def custom(self, original: Any, cls: Any, args: Any, kwargs: Any) -> Any:
        """``cls.apply(…)`` of a custom ``autograd.Function``."""
        frame = sys._getframe(2)
        call = self.callers.of(frame)
        if torch._C._are_functorch_transforms_active():
            return call(original, (cls, *args), kwargs)
        inputs = list(instances((args, kwargs), torch.Tensor))
        forward = Forward(inputs)
        self._local.paused += 1
        try:
            with forward:
                result = call(original, (cls, *args), kwargs)
        finally:
            self._local.paused -= 1
        try:
            self._made_by(
                f"{cls.__name__}.apply", result, args, kwargs, forward, len(inputs), frame
            )
        except Exception as error:  # the script is not to see that we failed
            self.broke(error)
        return result

    def compiled(self, graph: Any, function: Callable[..., Any], args: Any) -> Any:
        """Run what a graph was compiled to; its operations are those of the graph."""
        frame = self._local.asking
        copies = self._copies(graph, args) if self.recording and frame is not None else None
        result = function(*args)
        if copies is None or frame is None:
            return result
        try:
            forward = Forward(list(instances(copies, torch.Tensor)))
            with torch.random.fork_rng(devices=[]), torch.no_grad(), forward:
                eager = graph(*copies)
            count = len(list(instances(args, torch.Tensor)))
            self._made_by("compiled", result, args, {}, forward, count, frame, eager)
        except Exception:  # a graph that runs in its compiled form only: it stays unknown
            return result
        return result

    def _copies(self, graph: Any, args: Any) -> tuple[Any, ...] | None:
        """The arguments for a graph's own run; None where there were enough of them."""
        tensors = list(instances(args, torch.Tensor))
        times = self._eager[id(graph)] = self._eager.get(id(graph), 0) + 1
        if times > _EAGER or sum(t.numel() for t in tensors) > _COPIED:
            return None
        return tuple([a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args])

    def _made_by(
        self,
        name: str,
        result: Any,
        args: Any,
        kwargs: Any,
        forward: Forward,
        count: int,
        frame: FrameType,
        eager: Any = None,
    ) -> None:
        """Hang a call on its results; ``eager`` are those that its graphs were recorded for."""
        many = isinstance(result, (tuple, list))
        parts = list(result) if many else [result]
        known = parts if eager is None else list(eager) if many else [eager]
        tracked = [n for n, part in enumerate(parts) if is_computed(part)]
        if not tracked:
            return
        packed, named, operands = self._packed(args, kwargs)
        call = Call(Kind("op", name), packed, named, operands, site(frame))
        call.custom = name.removesuffix(".apply")
        paths: list[tuple[int, ...]] = [(n,) if many else () for n in tracked]
        if len(operands) == count:
            call.graphs = forward.graphs(
                [(known[n], p) for n, p in zip(tracked, paths, strict=True)]
            )
        for n, path in zip(tracked, paths, strict=True):
            attach(parts[n].grad_fn, parts[n].output_nr, call, path)

    # -- backward, steps -------------------------------------------------------------------------

    def passes(self, name: str, tensor: Any) -> bool:
        """Whether a call without arguments was noted, and nobody wants more of it."""
        if self.recording or len(self._listeners) != 1 or _transforms_active():
            return False
        return self._listeners[0].passes(name, tensor, sys._getframe(2))

    def quietly(self, original: Callable[[Any], Any], tensor: Any) -> Any:
        """Carry out a call that was noted."""
        self.backwards += 1
        self._local.inside += 1
        try:
            return original(tensor)
        finally:
            self._local.inside -= 1
            if any([listener.records for listener in self._listeners]):
                self.settle()

    def backward(self, original: Any, name: str, args: Any, kwargs: Any) -> Any:
        """A call of ``backward`` or ``grad``, as it was written."""
        frame = sys._getframe(2)
        call = self.callers.of(frame)
        # PyTorch takes an iterator too, as of net.parameters(): it is gone through once.
        args = tuple([tuple(a) if isinstance(a, Iterator) else a for a in args])
        kwargs = {k: tuple(a) if isinstance(a, Iterator) else a for k, a in kwargs.items()}
        usual = self._parameters.get(name)
        if usual is None:
            parameters = inspect.signature(original).parameters.values()
            usual = self._parameters[name] = {p.name: p.default for p in parameters}
        if len(args) > len(usual) or not usual.keys() >= kwargs.keys():
            return call(original, args, kwargs)  # PyTorch's own message
        arguments = {**usual, **dict(zip(usual, args, strict=False)), **kwargs}
        if any(value is inspect.Parameter.empty for value in arguments.values()):
            return call(original, args, kwargs)
        return self.run(lambda: call(original, args, kwargs), name, arguments, frame)

    def run(
        self,
        function: Callable[[], Any],
        name: str,
        arguments: dict[str, Any],
        frame: FrameType | None = None,
    ) -> Any:
        """Have each listener carry out ``function``, one within the other."""
        frame = frame or sys._getframe(2)
        if torch._C._are_functorch_transforms_active():
            for listener in self._listeners:
                listener.transformed(name, frame)
            return function()
        self.backwards += 1
        for listener in self._listeners:
            function = partial(listener.backward, function, name, arguments, frame)
        self._local.paused += 1
        self._local.inside += 1
        try:
            return function()
        finally:
            self._local.paused -= 1
            self._local.inside -= 1
            self.settle()

    @contextmanager
    def stepping(self, optimizer: Any, *, closure: bool) -> Iterator[None]:
        """Step aside while an optimizer makes its many small updates, unless it calls a closure."""
        if self._local.stepping:
            yield
            return
        place = site(sys._getframe(3))
        self.steps.append((type(optimizer).__name__, place))
        for listener in self._listeners:
            listener.stepped(optimizer, place, before=True, closure=closure)
        self._local.stepping += 1
        if not closure:
            self.remove()
        try:
            yield
        finally:
            self._local.stepping -= 1
            self.push()
            for listener in self._listeners:
                listener.stepped(optimizer, place, before=False, closure=closure)

    @contextmanager
    def aside(self, frame: FrameType) -> Iterator[None]:
        """Neither record nor listen in this thread, for ``frame``."""
        self.remove()
        self._local.paused += 1
        self._local.inside += 1
        before, self._local.asking = self._local.asking, frame
        try:
            yield
        finally:
            self._local.asking = before
            self._local.paused -= 1
            self._local.inside -= 1
            self.push()

    def zeroed(self, owner: Any) -> None:
        """Gradients are about to be set to nothing."""
        for listener in self._listeners:
            listener.zeroed(owner, site(sys._getframe(2)))


def _own_base(view: Any) -> None:
    """A call that returns a view of what it made, as instance_norm does, made that as well."""
    made, base = view.grad_fn, view._base.grad_fn
    if made is None or base is None or KEY in base.metadata or KEY not in made.metadata:
        return
    if view.numel() == view._base.numel() and view.is_contiguous() and view._base.is_contiguous():
        call, paths = made.metadata[KEY]
        if view.output_nr in paths:
            attach(base, view._base.output_nr, call, paths[view.output_nr])


#: The one tape of the process.
TAPE = Tape()
