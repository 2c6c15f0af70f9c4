"""What a function of tensors computes, as a graph: its calls of PyTorch, seen as they are made.

Every call that PyTorch dispatches is matched with a record by its name and bound as the language
binds it.  A tensor that no recorded call made is a constant.  A call without a record taints its
result; a graph whose output is tainted is not given out, and `Recorder.reason` says which call it
was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode, resolve_name

from gradexplain.errors import GradexplainError, Span
from gradexplain.graph import Builder, Graph, Ref
from gradexplain.ops import by_spelling
from gradexplain.reading.applying import Applier
from gradexplain.recording.operators import Kind, classify, is_inplace

_NOWHERE = Span(0, 0)

#: Calls that return their first tensor's values.
_SAME = {
    "clone", "contiguous", "to", "type_as", "double", "float", "half", "detach", "requires_grad_",
    "cpu", "alias", "view_as_real", "data.__get__", "type", "positive", "__pos__", "detach_",
    "__deepcopy__", "as_tensor",
}  # fmt: skip
#: Calls whose result does not depend on the values of their arguments.
_FRESH = {
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros",
    "new_ones", "new_full", "new_empty", "new_tensor", "bernoulli", "randint_like",
}  # fmt: skip


class Recorder(TorchFunctionMode):
    """Records while it is entered.  ``known`` gives values of an earlier recording by name."""

    def __init__(self) -> None:
        super().__init__()
        self.applier = Applier(Builder(), lambda name: None)
        self.builder = self.applier.builder
        self.refs: dict[int, tuple[Any, Ref]] = {}
        self.tainted: dict[int, Any] = {}
        self.outside: dict[int, tuple[Any, str]] = {}
        self.reason = ""
        self.in_place: list[Any] = []

    def leaf(self, name: str, tensor: Any) -> Ref:
        ref = self.builder.leaf(name, tuple(tensor.shape), _NOWHERE)
        self.refs[id(tensor)] = tensor, ref
        return ref

    def known(self, tensor: Any, label: str) -> None:
        """A tensor of an earlier recording: it becomes a leaf when it is used."""
        self.outside[id(tensor)] = tensor, label

    def ref(self, tensor: Any) -> Ref | None:
        """The node of a tensor; None where it is tainted."""
        if id(tensor) in self.tainted:
            return None
        if id(tensor) in self.refs:
            return self.refs[id(tensor)][1]
        if id(tensor) in self.outside:
            return self.leaf(self.outside[id(tensor)][1], tensor)
        return self._constant(tensor)

    def _constant(self, tensor: Any) -> Ref | None:
        if tensor.is_complex() or tensor.layout is not torch.strided:
            return None
        with torch.no_grad():
            values = tensor.detach().cpu()
            if not tensor.is_floating_point():
                ref = self.builder.constant(
                    np.asarray(values.numpy(), dtype=np.float64), _NOWHERE,
                    integer=tensor.dtype is not torch.bool,
                )  # fmt: skip
            elif values.ndim == 0:
                ref = self.builder.constant(float(values), _NOWHERE)
            else:
                ref = self.builder.constant(values.double().numpy().copy(), _NOWHERE)
        self.refs[id(tensor)] = tensor, ref
        return ref

    def graph(self, output: Any) -> Graph | None:
        """The graph of ``output``; None where a call on the way to it has no record."""
        with torch._C.DisableTorchFunction():
            ref = self.ref(output)
        if ref is None:
            return None
        node = self.builder.nodes[ref.id]
        if node.op is None:
            ref = self.builder.apply(by_spelling("torch.positive")[0], (ref,), _NOWHERE)
        return self.builder.graph(self.builder.name(ref, "y"))

    # -- calls -----------------------------------------------------------------------------------

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        before = self._refs_of(args, kwargs)
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            try:
                self._record(func, args, kwargs, before, result)
            except Exception as error:  # the function is not to see that we failed
                self._taint(
                    [r for r in _listed(result) if isinstance(r, torch.Tensor)], repr(error)
                )
        return result

    def _refs_of(self, args: Any, kwargs: Any) -> dict[int, Ref | None]:
        """The nodes of the tensors among the arguments, before the call changes them."""
        found: dict[int, Ref | None] = {}

        def look(value: Any) -> None:
            if isinstance(value, torch.Tensor):
                if id(value) in self.tainted:
                    found[id(value)] = None
                elif id(value) in self.refs:
                    found[id(value)] = self.refs[id(value)][1]
            elif isinstance(value, (tuple, list)):
                for part in value:
                    look(part)

        look(tuple(args))
        look(tuple(kwargs.values()))
        return found

    def _record(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], before: Any, result: Any
    ) -> None:
        name = _name(func)
        tensors = [r for r in _listed(result) if isinstance(r, torch.Tensor)]
        changes = _in_place(name)
        if name == "__setitem__" or changes:
            target = args[0]
            self.in_place.append(target)
            if name == "__setitem__" or any(ref is None for ref in before.values()):
                self._taint([target], name)
                return
        if not tensors or name in _FRESH:
            return
        if name == "__set__":
            return
        if any(ref is None for ref in before.values()):
            self._taint(tensors, name)
            return
        if name in _SAME or name.endswith(("data.__get__", "requires_grad_")):
            ref = self.ref(args[0])
            if ref is not None and tuple(tensors[0].shape) == self.builder.nodes[ref.id].shape:
                self.refs[id(tensors[0])] = tensors[0], ref
            return
        if changes and name == "copy_":
            ref = self.ref(args[1])
        else:
            ref = None
            made = self._apply(classify(func), name, args, kwargs)
            if isinstance(made, (tuple, list)) and isinstance(result, (tuple, list)):
                for tensor, part in zip(result, made, strict=False):
                    self._keep(tensor, part, name)
                return
            ref = made if isinstance(made, Ref) else None
        if ref is None:
            self._taint(tensors, name)
        else:
            self._keep(tensors[0], ref, name)

    def _keep(self, tensor: Any, ref: Any, name: str) -> None:
        if isinstance(ref, Ref) and self.builder.nodes[ref.id].shape == tuple(tensor.shape):
            self.refs[id(tensor)] = tensor, ref
            self.tainted.pop(id(tensor), None)
        else:
            self._taint([tensor], name)

    def _taint(self, tensors: Sequence[Any], name: str) -> None:
        self.reason = self.reason or name
        for tensor in tensors:
            self.tainted[id(tensor)] = tensor

    def _apply(self, kind: Kind, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        arguments = [args[1], args[0], *args[2:]] if kind.swap else list(args)
        attribute = name.endswith(".__get__")
        found = ([op for op in by_spelling(spelling) if attribute or not op.attribute]
                 for spelling in kind.spellings)  # fmt: skip
        records = next(filter(None, found), None)
        if records is None:
            return None
        kwargs = {
            k: v for k, v in kwargs.items() if k not in ("dtype", "out", "_stacklevel", "inplace")
        }
        try:
            bound = [self._argument(a) for a in arguments]
            named = {k: self._argument(v) for k, v in kwargs.items()}
            while bound and bound[-1] is None:
                bound.pop()
            return self.applier.apply_any(records, bound, named, _NOWHERE)
        except (GradexplainError, _Tainted, TypeError, ValueError, AttributeError):
            return None

    def _argument(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            ref = self.ref(value)
            if ref is None:
                raise _Tainted
            return ref
        if isinstance(value, torch.Size):
            return tuple(value)
        if isinstance(value, tuple):
            return tuple(self._argument(part) for part in value)
        if isinstance(value, list):
            return [self._argument(part) for part in value]
        return value


class _Tainted(Exception):
    """An argument is the result of a call without a record."""


def _name(func: Any) -> str:
    full = resolve_name(func) or getattr(func, "__name__", "")
    parts = full.split(".")
    return ".".join(parts[-2:]) if parts[-1] in ("__get__", "__set__") else parts[-1]


def _listed(result: Any) -> Sequence[Any]:
    return result if isinstance(result, (tuple, list)) else (result,)


def _in_place(name: str) -> bool:
    return is_inplace(name) and name not in ("requires_grad_", "detach_", "__setitem__")
