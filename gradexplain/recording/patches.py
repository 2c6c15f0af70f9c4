"""How PyTorch is listened to, and left as it was.

What is replaced is replaced when the first listener comes and put back when the last one leaves,
in whatever order they leave.  Where somebody else has replaced it in between, his stays, and ours
below it does nothing more than call what it stands for.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import torch

_MISSING = object()

#: Marks a replacement that PyTorch itself put in the place of another one of ours.
_OURS = "_of_gradexplain"


class Patches:
    """Replacements of attributes that can be undone."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, str, Any, Any]] = []

    def set(self, owner: Any, name: str, new: Any) -> None:
        self._made.append((owner, name, vars(owner).get(name, _MISSING), new))
        setattr(owner, name, new)

    def undo(self) -> None:
        for owner, name, old, new in reversed(self._made):
            now = vars(owner).get(name)
            if now is not new and not hasattr(now, _OURS):
                continue  # replaced by somebody else since
            if old is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, old)
        self._made.clear()


class Listening:
    """What a recorder replaces in PyTorch; ``tape`` is told of each call (see `tape.Tape`)."""

    def __init__(self, tape: Any) -> None:
        self._tape = tape
        self._patches = Patches()

    def start(self) -> None:
        patches = self._patches
        for owner, name, said in (
            (torch.Tensor, "backward", "backward"),
            (torch.autograd, "backward", "autograd.backward"),
            (torch.autograd, "grad", "grad"),
        ):
            patches.set(owner, name, self._backward(vars(owner)[name], said))
        engine = torch.autograd._engine_run_backward
        patches.set(torch.autograd, "_engine_run_backward", self._engine(engine))
        function = torch.autograd.Function
        patches.set(function, "apply", classmethod(self._apply(function.__dict__["apply"])))
        patches.set(threading.Thread, "_bootstrap_inner", self._thread())
        patches.set(torch, "compile", self._compile(torch.compile))
        self._compiled_modules()
        patches.set(torch.nn.Module, "train", self._train(torch.nn.Module.train))
        self._optimizers(patches)
        for owner, name, what in (
            (torch.optim.lr_scheduler.LRScheduler, "step", "scheduler"),
            (torch.amp.GradScaler, "scale", "scale"),
            (torch.nn.utils, "clip_grad_norm_", "clip_grad_norm_"),
            (torch.nn.utils, "clip_grad_value_", "clip_grad_value_"),
        ):
            patches.set(owner, name, self._noted(vars(owner)[name], what))

    def stop(self) -> None:
        self._patches.undo()

    # -- backward --------------------------------------------------------------------------------

    def _backward(self, original: Any, said: str) -> Any:
        tape = self._tape

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not tape.listens():
                return original(*args, **kwargs)
            if not kwargs and len(args) == 1 and tape.passes(said, args[0]):
                return tape.quietly(original, args[0])
            return tape.backward(original, said, args, kwargs)

        return wrapper

    def _engine(self, original: Any) -> Any:
        """Whoever took ``backward`` or ``grad`` by name before comes by here."""
        tape = self._tape

        @functools.wraps(original)
        def wrapper(tensors: Any, given: Any, retain: Any, create: Any, inputs: Any, /,
                    *rest: Any, **kwargs: Any) -> Any:  # fmt: skip
            args = tensors, given, retain, create, inputs, *rest
            if not tape.listens() or "accumulate_grad" not in kwargs:
                return original(*args, **kwargs)
            returns = not kwargs["accumulate_grad"]
            arguments = {
                "outputs" if returns else "tensors": tensors,
                "grad_outputs" if returns else "grad_tensors": given,
                "retain_graph": retain, "create_graph": create, "inputs": inputs or None,
            }  # fmt: skip
            said = "grad" if returns else "autograd.backward"
            return tape.run(lambda: original(*args, **kwargs), said, arguments)

        return wrapper

    def _apply(self, original: Any) -> Any:
        tape = self._tape
        function = original.__func__

        @functools.wraps(function)
        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if not tape.samples(cls, args) and not tape.records():
                return function(cls, *args, **kwargs)
            return tape.custom(function, cls, args, kwargs)

        return apply

    def _thread(self) -> Any:
        """A thread that is started meanwhile is listened to as well."""
        tape = self._tape
        original = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

        @functools.wraps(original)
        def run(thread: Any) -> Any:
            tape.push()
            try:
                return original(thread)
            finally:
                tape.remove()

        return run

    # -- what is compiled ------------------------------------------------------------------------

    def _compile(self, original: Any) -> Any:
        """What is compiled runs compiled: a mode on the stack would be compiled with it."""

        @functools.wraps(original)
        def wrapper(model: Any = None, **kwargs: Any) -> Any:
            import torch._dynamo as dynamo

            if not hasattr(dynamo.optimize, _OURS):
                self._patches.set(dynamo, "optimize", self._optimize(dynamo.optimize))
            made = original(model, **kwargs)
            self._compiled_modules()
            if model is None or isinstance(made, torch.nn.Module) or made is model:
                return made
            return self._aside(made)

        return wrapper

    def _optimize(self, original: Any) -> Any:
        """Each graph that is compiled from now on is kept beside what it is compiled to."""

        @functools.wraps(original)
        def wrapper(backend: Any = "inductor", **kwargs: Any) -> Any:
            return original(self._backend(backend), **kwargs)

        setattr(wrapper, _OURS, True)
        return wrapper

    def _backend(self, backend: Any) -> Any:
        from torch._dynamo.backends.registry import lookup_backend

        compiler, tape = lookup_backend(backend), self._tape

        def compile_(graph: Any, inputs: Any, **kwargs: Any) -> Any:
            kept = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))
            made = compiler(graph, inputs, **kwargs)
            return lambda *args: tape.compiled(kept, made, args)

        for name in ("get_compiler_config", "compiler_name", "reset", "backend_ctx_ctor"):
            if hasattr(compiler, name):
                setattr(compile_, name, getattr(compiler, name))
        return compile_

    def _compiled_modules(self) -> None:
        """Once there are compiled modules, have their calls go by here."""
        frames = sys.modules.get("torch._dynamo.eval_frame")
        module = getattr(frames, "OptimizedModule", None)
        if module is not None and not hasattr(module.__call__, _OURS):
            self._patches.set(module, "__call__", self._aside(module.__call__))

    def _aside(self, function: Callable[..., Any]) -> Callable[..., Any]:
        tape = self._tape

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not tape.listens():
                return function(*args, **kwargs)
            with tape.aside(sys._getframe(1)):
                return function(*args, **kwargs)

        setattr(wrapper, _OURS, True)
        return wrapper

    def _train(self, train: Any) -> Any:
        """``train`` and ``eval`` of a module, not of those in it."""
        tape = self._tape
        under_way: list[int] = []

        @functools.wraps(train)
        def wrapper(module: Any, mode: bool = True) -> Any:
            if under_way or not tape.listens():
                return train(module, mode)
            before = module.training
            under_way.append(1)
            try:
                return train(module, mode)
            finally:
                under_way.clear()
                tape.mode(module, before)

        return wrapper

    # -- optimizers ------------------------------------------------------------------------------

    def _optimizers(self, patches: Patches) -> None:
        """Every optimizer's ``step`` and ``zero_grad``: those there are, and those to come."""
        base = torch.optim.Optimizer
        classes = [base]
        for found in classes:
            classes += [cls for cls in found.__subclasses__() if cls not in classes]
        for cls in classes:
            for name, wrap in (("step", self._step), ("zero_grad", self._zero)):
                own = cls.__dict__.get(name)
                if isinstance(own, types.FunctionType) and (cls is not base or name != "step"):
                    patches.set(cls, name, wrap(own))
        patches.set(torch.nn.Module, "zero_grad", self._zero(torch.nn.Module.zero_grad))
        # A class made later is given its hooks by this when it is first used.
        profiled = base.profile_hook_step
        patches.set(
            base,
            "profile_hook_step",
            staticmethod(
                lambda step: _hooked(
                    profiled(step) if hasattr(step, _OURS) else self._step(profiled(step))
                )
            ),
        )

    def _step(self, step: Callable[..., Any]) -> Any:
        tape = self._tape

        @functools.wraps(step)
        def wrapper(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if not tape.listens():
                return step(optimizer, *args, **kwargs)
            closure = kwargs.get("closure") or any(callable(arg) for arg in args)
            if not closure and tape.counted(optimizer):
                return tape.lightly(step, optimizer, args, kwargs)
            with tape.stepping(optimizer, closure=bool(closure)):
                return tape.callers.of(sys._getframe(1))(step, (optimizer, *args), kwargs)

        setattr(wrapper, _OURS, True)
        return wrapper

    def _zero(self, zero: Callable[..., Any]) -> Any:
        tape = self._tape

        @functools.wraps(zero)
        def wrapper(owner: Any, *args: Any, **kwargs: Any) -> Any:
            if not tape.listens():
                return zero(owner, *args, **kwargs)
            if not tape.light:
                tape.zeroed(owner)
            return tape.lightly(zero, owner, args, kwargs)

        return wrapper

    def _noted(self, function: Callable[..., Any], what: str) -> Any:
        """A call that listeners are told of, as ``what``, when it is over."""
        tape = self._tape

        @functools.wraps(function)
        def wrapper(subject: Any, *args: Any, **kwargs: Any) -> Any:
            if not tape.listens() or tape.light:
                return function(subject, *args, **kwargs)
            result = tape.callers.of(sys._getframe(1))(function, (subject, *args), kwargs)
            tape.noted(what, subject, result, sys._getframe(1))
            return result

        return wrapper


def _hooked(step: Any) -> Any:
    """Marked as PyTorch marks a ``step`` that has its hooks."""
    step.hooked = True
    setattr(step, _OURS, True)
    return step
