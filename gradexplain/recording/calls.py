"""What is kept of a call: its tensors as they were, and how it was made.

It hangs on the node that autograd itself made for the result (in the node's ``metadata``), so it
lives exactly as long as PyTorch's own graph does and is found again from there at ``backward``.  A
recorded input is an alias of the tensor, never the tensor: what is changed in place later would
otherwise tie the graph into a cycle that is never freed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradexplain.graph import Graph
from gradexplain.recording.frames import Site
from gradexplain.recording.operators import Kind

#: Where a node of autograd's keeps the call that made it.
KEY = "gradexplain"

_NONE: Mapping[Any, Any] = {}


class Operand:
    """A tensor as it was when a call took it.

    ``node`` and ``nr`` are its place in autograd's graph; both are unset for a leaf (``leaf`` is
    the tensor) and for a tensor that does not require grad.  ``value`` shares its storage: it still
    holds the value while its version is ``version``.
    """

    __slots__ = ("cuts", "leaf", "names", "node", "nr", "value", "version")

    def __init__(self, tensor: Any, *, copy: bool = False) -> None:
        self.node = node = tensor.grad_fn
        if node is not None:
            self.nr, self.leaf = tensor.output_nr, None
        else:
            self.nr, self.leaf = 0, tensor if tensor.requires_grad else None
        value = tensor.detach()
        if copy:
            value = value.clone()
        self.value = value
        self.version = value._version
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


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """Where the gradient's way ends: a tensor without grad, made from some that require it."""

    why: str
    site: Site | None
    name: str
    sources: tuple[Any, ...]  # weak references to leaves


class Call:
    """One call, with its tensors as operands.  ``base`` is the base of a view changed in place,
    ``view`` how a view and its base lie in their storage (`geometry`), ``stamp`` when it was made,
    among the calls and the changes in place.
    """

    __slots__ = (
        "args", "base", "custom", "graphs", "kind", "kwargs", "operands", "site", "stamp",
        "targets", "view",
    )  # fmt: skip

    def __init__(
        self, kind: Kind, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Operand],
        site: Site | None, stamp: int = 0,
    ) -> None:  # fmt: skip
        self.kind, self.args, self.kwargs = kind, args, kwargs
        self.operands, self.site, self.stamp = operands, site, stamp
        self.base: Operand | None = None
        self.view: tuple[Any, Any] | None = None
        #: The class of a custom ``autograd.Function``.
        self.custom = ""
        #: What a custom Function's forward computes, by output: graphs with leaves ``a0``, ``a1``, …
        self.graphs: Mapping[tuple[int, ...], Graph] = _NONE
        #: For a part of a backward pass with ``create_graph=True``: the gradients that it made.
        self.targets: tuple[Target, ...] = ()


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
    stamp: int = 0


def attach(node: Any, nr: int, call: Call, path: tuple[int, ...]) -> None:
    metadata = node.metadata
    entry = metadata.get(KEY)
    if entry is None or entry[0] is not call:
        metadata[KEY] = call, {nr: path}
    else:
        entry[1][nr] = path


def geometry(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Size, strides and offset."""
    return tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())


def is_computed(value: Any) -> bool:
    """Whether autograd knows how ``value`` was made."""
    return isinstance(value, torch.Tensor) and value.requires_grad and value.grad_fn is not None


def nodes_behind(tensors: Sequence[Any], most: int) -> Iterator[Any]:
    """Autograd's nodes behind ``tensors``, each once, ``most`` of them."""
    stack = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen: set[Any] = set()
    while stack and len(seen) < most:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            yield node
            stack.extend(n for n, _ in node.next_functions if n is not None)


def leaves_behind(tensors: Sequence[Any], most: int) -> list[Any]:
    """The leaves that ``tensors`` were computed from, each once."""
    found = {id(tensor): tensor for tensor in tensors if tensor.grad_fn is None}
    for node in nodes_behind(tensors, most):
        variable = getattr(node, "variable", None)
        if variable is not None:
            found[id(variable)] = variable
    return list(found.values())
