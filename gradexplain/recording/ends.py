"""Where the gradient's way ends: tensors without grad made from some that require it, and why."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from gradexplain.recording.calls import KEY, Cut, leaves_behind
from gradexplain.recording.frames import Site, is_library, site
from gradexplain.recording.operators import LEAVING, Kind

#: Of a tensor that is made without grad, so many reasons are remembered.
_REASONS = 4

#: At one line, so many times the leaves behind a tensor that is cut off are looked for.
_WALKS = 4

#: Graphs are searched for leaves up to so many nodes.
_NODES = 2000

#: So many places are remembered at which a way was cut.
_LOGGED = 400

#: Calls that take a tensor away from autograd and nothing else.
_DETACHING = {"detach", "data", "detach_"}

#: Calls that say whether a tensor requires grad.
_FREEZING = ("requires_grad.__set__", "requires_grad_")

#: Where the node of a value says that ``autograd.grad`` took its gradients as constants: where.
TAKEN = "gradexplain taken"

#: Calls that make a new tensor from the numbers in others.
COPYING = {"tensor", "as_tensor", "from_numpy", "asarray", "new_tensor"}


@dataclass(frozen=True, slots=True)
class Exit:
    """Where numbers that require grad left PyTorch, or ``.grad`` of a result was read."""

    name: str
    site: Site | None
    tensor: str
    sources: tuple[Any, ...]  # weak references to leaves
    made: Site | None = None
    function: str = ""


class Ends:
    """What is remembered of them, from when the first listener comes."""

    def __init__(self) -> None:
        #: By id, of tensors that do not require grad: why not, and what they are called.
        self._cuts: dict[int, tuple[Any, tuple[Cut, ...], tuple[str, ...]]] = {}
        self._walks: dict[Any, int] = {}
        #: Where values left, by the kind of call and its place.
        self.exits: dict[Any, Exit] = {}
        #: Where the way to some leaves was cut, the first time at each place.
        self.log: dict[Any, tuple[str, str, Site | None, frozenset[int]]] = {}
        #: Leaves whose ``.grad`` was read and was None after a backward: where.
        self.reads: dict[int, tuple[Any, Site | None]] = {}
        #: Where ``requires_grad`` was set to False, by id of the tensor.
        self.frozen: dict[int, tuple[Any, Site | None]] = {}

    def asked(self, name: str, args: Any, frame: FrameType, *, later: bool) -> None:
        """A question: numbers that leave, ``.grad`` (``later``: after a backward), freezing."""
        if name not in LEAVING and name not in ("grad.__get__", *_FREEZING):
            return
        tensor = args[0] if args else None
        if not isinstance(tensor, torch.Tensor):
            return
        if name in _FREEZING:
            if len(args) > 1 and not args[1]:
                self.frozen[id(tensor)] = weakref.ref(tensor), site(frame)
            return
        if not tensor.requires_grad:
            return
        if tensor.grad_fn is None and name == "grad.__get__":
            if later and tensor.grad is None:
                self.reads[id(tensor)] = weakref.ref(tensor), site(frame)
            return
        if name == "grad.__get__" and tensor.retains_grad:
            return
        key = name, frame.f_code, frame.f_lasti
        walks = self._walks[key] = self._walks.get(key, 0) + 1
        if walks > _WALKS:
            return
        entry = None if tensor.grad_fn is None else tensor.grad_fn.metadata.get(KEY)
        made = entry[0] if entry is not None else None
        called = ""
        if made is not None and made.site is not None and len(made.site.names) == 1:
            called = made.site.names[0]
        self.exits[key] = Exit(
            name, site(frame), called, tuple(map(weakref.ref, leaves_behind([tensor], _NODES))),
            None if made is None else made.site, "" if made is None else made.kind.name,
        )  # fmt: skip

    def cut(self, kind: Kind, args: Any, result: Any, frame: FrameType) -> None:
        """Remember why ``result`` does not require grad although it was made from what does."""
        sources = []
        reasons: tuple[Cut, ...] = ()
        for arg in args:
            for tensor in arg if type(arg) in (list, tuple) else (arg,):
                if not isinstance(tensor, torch.Tensor) or tensor is result:
                    continue
                if tensor.requires_grad:
                    # Of a view that was made without gradients the base knows the way.
                    whole = tensor._base if tensor.grad_fn is None and tensor._is_view() else None
                    sources.append(tensor if whole is None else whole)
                elif self._cuts:
                    reasons += tuple(cut for cut in self.of(tensor)[0] if cut not in reasons)
        enabled = torch.is_grad_enabled()
        if not sources and not reasons and not enabled or frame.f_code.co_name == "__deepcopy__":
            return
        place = site(frame)
        if sources and result.dtype == torch.bool and is_library(frame.f_code.co_filename):
            return  # a check that a library makes of what it is given
        name = kind.name
        if sources:
            if kind.name in COPYING:
                why = "copied"
            elif not enabled and frame.f_code.co_name == "sample":
                why, name = "sampled", "sample"
            elif not enabled:
                why = "no_grad"
            else:
                why = "detached" if kind.name in _DETACHING else "no derivative"
            key = (place.filename, place.line) if place is not None else None
            walks = self._walks[key] = self._walks.get(key, 0) + 1
            leaves = (
                tuple(map(weakref.ref, leaves_behind(sources, _NODES))) if walks <= _WALKS else ()
            )
            if leaves and len(self.log) < _LOGGED:
                ids = frozenset(id(leaf()) for leaf in leaves)
                self.log.setdefault((key, name), (why, name, place, ids))
            reasons = (Cut(why, place, name, leaves), *reasons)
        names = place.names if place is not None and kind.kind != "inplace" else ()
        if reasons or len(names) == 1:
            self._remember(result, reasons, names)

    def taken(
        self, roots: list[Any], inputs: list[Any], result: Any, place: Site | None, *, create: bool
    ) -> None:
        """``autograd.grad`` gave gradients: those without a graph are constants from then on."""
        if not create:
            for node in [root.grad_fn for root in roots if root.grad_fn is not None]:
                node.metadata[TAKEN] = place
        behind = tuple(map(weakref.ref, leaves_behind(roots, _NODES)))
        for tensor, gradient in zip(inputs, result, strict=False):
            if isinstance(gradient, torch.Tensor) and not gradient.requires_grad:
                # By a parameter it is there to be taken as a number: for a step, for a weight.
                leaves = () if isinstance(tensor, torch.nn.Parameter) else behind
                why = "constant" if create else "gradient"
                self._remember(gradient, (Cut(why, place, "grad", leaves),), ())

    def _remember(self, result: Any, reasons: tuple[Cut, ...], names: tuple[str, ...]) -> None:
        key, cuts = id(result), self._cuts
        known, called = self.of(result)
        reasons = (*reasons, *(cut for cut in known if cut not in reasons))
        reference = weakref.ref(result, lambda _: cuts.pop(key, None) and None)
        cuts[key] = reference, reasons[:_REASONS], names or called

    def of(self, tensor: Any) -> tuple[tuple[Cut, ...], tuple[str, ...]]:
        """Why ``tensor`` does not require grad, where that was seen, and what it is called."""
        entry = self._cuts.get(id(tensor))
        return (entry[1], entry[2]) if entry is not None and entry[0]() is tensor else ((), ())
