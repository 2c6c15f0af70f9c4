"""What is noted of every call, explained or not: the leaves' gradients, steps, what was set to zero.

Of a long loop the first calls are measured, and from then on ever fewer.  Everything here is numbers
and places in the script; nothing keeps a tensor alive.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch

from gradexplain.recording.calls import KEY, leaves_behind, nodes_behind
from gradexplain.recording.frames import Site, Variables, at_hand

#: So many calls are measured, and then those that are farther apart by this factor each time.
_FIRST, _FACTOR = 8, 1.5

#: Parameters of more elements together are not compared with what they were before a step.
_COPIED = 2_000_000

#: How many steps are compared so.
_STEPS = 2

#: Where a node of autograd's says which call asked for its graph to be kept.
_KEPT = "gradexplain kept"

#: Where the node of a loss says that a GradScaler has multiplied it.
_SCALED = "gradexplain scaled"

#: Layers that compute something else in evaluation.
_MOODY = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm)

#: A gradient is gone when it is this much smaller than it was.
_DARK = 1e-6

#: At this call the script's optimizers are looked for.
_LOOK = 3

#: Graphs of more nodes are not searched for their leaves.
NODES = 50_000


@dataclass(frozen=True, slots=True)
class Stat:
    """What one call added to one leaf's ``.grad``; ``before`` is the norm of what was there."""

    norm: float
    largest: float
    before: float = 0.0


@dataclass(slots=True)
class Leaf:
    """A tensor that requires grad and that the script, an optimizer or a loss reaches."""

    key: int
    name: str
    shape: tuple[int, ...]
    parameter: bool
    reference: Any
    stats: dict[int, Stat] = field(default_factory=dict)
    #: Whether its ``.grad`` has been used by a step, and not been cleared since.
    used: bool = False
    #: Whether something was added to what a step had used already.
    stale: bool = False
    stepped: int = 0
    reached: bool = False
    #: Its version and its place in memory when it was met: an update by hand changes them.
    version: int = 0
    place: int = 0
    changed: bool = False
    #: Held by a module that has not registered it.
    unregistered: bool = False
    #: The norms of its gradient and of itself after the last backward that was measured.
    after: tuple[float, float] | None = None
    #: Whether it requires grad by the end, where it is still there.
    requires: bool | None = None
    #: ‖step‖/‖weight‖ of the steps that were compared.
    ratio: float | None = None

    @property
    def is_still(self) -> bool:
        """Whether it is to learn, and its gradient was 0 in every call that was measured."""
        learns = self.parameter or self.stepped > 0
        return learns and bool(self.stats) and not any(s.norm for s in self.stats.values())


@dataclass(slots=True)
class Optimizer:
    """An optimizer that was seen: its name, its parameters, what happened to it."""

    kind: str
    name: str
    site: Site | None
    leaves: tuple[int, ...]
    steps: int = 0
    rates: tuple[float, ...] = ()
    #: By group: its leaves, and the largest learning rate that it ever had.
    groups: list[tuple[int, ...]] = field(default_factory=list)
    tops: list[float] = field(default_factory=list)
    #: By step: the largest learning rate there.
    history: dict[int, float] = field(default_factory=dict)
    #: What its gradients were when it had taken its last step, and after how many backwards.
    left: tuple[Any, ...] = ()
    reference: Any = None


@dataclass(slots=True)
class Kept:
    """The graphs that one line keeps: their sizes, how often one is gone through again, and where a
    value was made that ties a graph to one before.
    """

    sizes: list[int] = field(default_factory=list)
    again: int = 0
    carried: Site | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is not as it should be: where, of which optimizer, and what is said of it."""

    kind: str
    site: Site | None
    optimizer: Optimizer | None
    call: int
    said: dict[str, Any]


@dataclass(slots=True)
class Mode:
    """Backwards of one line through a module that is in training, and then no longer is."""

    trained: int = 0
    left: int = 0
    place: Site | None = None
    back: bool = False


class Journal:
    """The notes of one trace."""

    def __init__(self) -> None:
        self.leaves: dict[int, Leaf] = {}
        self.optimizers: dict[int, Optimizer] = {}
        self.events: list[Event] = []
        self.zeroed: list[tuple[str, Site | None, frozenset[int]]] = []
        self.backwards = 0
        #: Optimizers that the script has, by id: what it calls them.
        self.at_hand: dict[int, tuple[str, frozenset[int]]] = {}
        self._next = _FIRST
        self._closure: Optimizer | None = None
        self._lines: dict[int, Site | None] = {}
        #: By module and line: whether it was left in evaluation.
        self.modes: dict[tuple[int, Site | None], Mode] = {}
        #: Whether the last call was measured.
        self.measuring = True
        self._copies: dict[int, Any] = {}
        self._since: dict[int, tuple[int, Site | None]] = {}  # leaf: last backward since a step
        #: By optimizer: the scheduler that was called last, and where.
        self.schedulers: dict[int, tuple[str, Site | None]] = {}
        #: A clipping since the last step, and the last step.
        self._clipped: tuple[str, Site | None] | None = None
        #: A scheduler that was called before its optimizer, with the optimizer; a clipping that left
        #: next to nothing, with the largest element before and after it.
        self.early: tuple[str, Site | None, int] | None = None
        #: Pairs of parameters that learn and are numbers in one place.
        self.shared: list[tuple[Leaf, Leaf]] = []
        self.shrunk: tuple[str, Site | None, float, float] | None = None
        #: Whether all gradients of a call are next to nothing, compared with the largest there was.
        self.dark, self._brightest = False, 0.0
        self._last: Optimizer | None = None
        #: The GradScaler that has scaled a loss last, and the place; by leaf whether its gradient is
        #: of such a loss.
        self._scaled: tuple[Any, Site | None] | None = None
        self._enlarged: set[int] = set()
        #: By place: how often retain_graph=True was asked for, how often such a graph was used again.
        self.kept: dict[Site | None, Kept] = {}

    # -- backward --------------------------------------------------------------------------------

    def is_due(self, index: int) -> bool:
        """Whether a call is to be measured."""
        return index <= _FIRST or index >= self._next

    def measures(self, index: int) -> None:
        """A call is measured: when the next one is due."""
        self._next = int(index * _FACTOR) + 1

    def counted(self, optimizer: Any) -> bool:
        """A step that is not measured, counted; False for an optimizer that was never met."""
        known = self.optimizers.get(id(optimizer))
        if known is None or known.reference() is not optimizer:
            return False
        known.steps += 1
        known.left = ()
        return True

    def look_round(self, frame: Any, index: int) -> None:
        """Which optimizers the script has by its third call, to tell one that takes no step."""
        if index != _LOOK:
            return
        for name, value in at_hand(frame):
            if isinstance(value, torch.optim.Optimizer):
                self.at_hand.setdefault(id(value), (name, _members(value)))

    def skip(self) -> None:
        """A call that is not measured: what is known of the gradients holds no longer."""
        self.backwards += 1
        if not self.measuring:
            return
        self.measuring = False
        self._since.clear()
        for leaf in self.leaves.values():
            leaf.used = leaf.stale = False

    def close(self) -> None:
        """Look at the leaves once more, while they are there."""
        held: dict[int, Leaf] = {}
        for leaf in self.leaves.values():
            tensor = leaf.reference()
            if tensor is None or not _is_dense(tensor):
                continue
            leaf.changed = tensor._version != leaf.version or tensor.data_ptr() != leaf.place
            leaf.requires = tensor.requires_grad
            where = tensor.data_ptr() if leaf.stepped and tensor.numel() else None
            if where is not None and held.setdefault(where, leaf) is not leaf:
                self.shared.append((held[where], leaf))

    def keep(self, roots: Sequence[Any], place: Site | None, *, retain: bool) -> None:
        """Whether a graph is to be kept, and whether one that was kept is gone through again."""
        if not retain and not self.kept:
            return
        again: set[Site | None] = set()
        fresh, carried = [], None
        count = 0
        for node in nodes_behind(roots, NODES):
            if type(node).__name__ == "AccumulateGrad":
                continue
            count += 1
            if _KEPT in node.metadata:
                again.add(node.metadata[_KEPT])
                continue
            for target, _ in node.next_functions:
                if target is not None and _KEPT in target.metadata:
                    # The last of its call may have been in no graph before, as a state that no loss reads.
                    made = target.metadata.get(KEY) or node.metadata.get(KEY)
                    carried = carried if made is None else made[0].site
            fresh.append(node)
        for node in fresh if retain else ():
            node.metadata[_KEPT] = place
        for before in again:
            self.kept[before].again += 1
        if retain:
            kept = self.kept.setdefault(place, Kept())
            kept.sizes.append(count)
            kept.carried = carried or kept.carried

    def begin(self, roots: Sequence[Any]) -> dict[int, tuple[Any, Any]]:
        """The leaves behind the roots, each with its ``.grad`` as it is now."""
        found: dict[int, tuple[Any, Any]] = {
            id(tensor): (tensor, None)
            for tensor in leaves_behind(roots, NODES)
            if tensor.requires_grad
        }
        self._late()
        if any(root.grad_fn is not None and _SCALED in root.grad_fn.metadata for root in roots):
            self._enlarged |= found.keys()
        held = [tensor for tensor, _ in found.values() if _is_real(tensor.grad)]
        norms = torch._foreach_norm([tensor.grad for tensor in held]) if held else ()
        for tensor, norm in zip(held, norms, strict=True):
            # Its own numbers change: keep what tells of them, and the values if they are few.
            grad = tensor.grad.detach()
            kept = grad.clone() if grad.numel() <= _COPIED else grad.new_zeros(())
            found[id(tensor)] = tensor, (float(norm), kept)
        return found

    def end(
        self, index: int, before: dict[int, tuple[Any, Any]], place: Site | None, frame: Any
    ) -> bool:
        """Note what was added; whether all of it is finite."""
        self.backwards += 1
        self.measuring = True
        unknown = [tensor for key, (tensor, _) in before.items() if key not in self.leaves]
        if unknown:
            self._meet(unknown, frame)
        finite = True
        tensors, added = [], []
        for tensor, old in before.values():
            grad = tensor.grad
            self.leaves[id(tensor)].reached |= grad is not None
            if not _is_real(grad):
                continue
            tensors.append((tensor, old))
            added.append(grad.detach() - old[1] if old is not None else grad.detach())
        if not added:
            return True
        norms = map(float, torch._foreach_norm(added))
        largest = [*map(float, torch._foreach_norm(added, math.inf))]
        self.dark = max(largest) < _DARK * self._brightest
        self._brightest = max(self._brightest, *largest)
        for (tensor, old), grad, norm, top in zip(tensors, added, norms, largest, strict=True):
            leaf = self.leaves[id(tensor)]
            was = old[0] if old is not None else 0.0
            if math.isinf(norm) and math.isfinite(top):  # its square leaves the dtype's range
                norm = float(torch.linalg.vector_norm(grad, dtype=torch.float64))
            finite = finite and math.isfinite(top)
            leaf.stats[index] = Stat(norm, top, was)
            if was == 0:
                leaf.used = leaf.stale = False
            elif leaf.used and norm > 0:
                leaf.stale = True
            elif self._closure is not None and id(tensor) in self._closure.leaves:
                self._event(
                    "stale", place, self._closure, leaves=[leaf], backward=place,
                    step=self._closure.site,
                )  # fmt: skip
            if norm > 0:
                self._since[id(tensor)] = index, place
        self._by_hand([tensor for tensor, _ in tensors], place, index)
        return finite

    def look_at_modes(self, modes: dict[int, Any], index: int, place: Site | None) -> None:
        """Which modules that a backward has reached are no longer in training."""
        before = [call for call, line in self._lines.items() if line == place]
        self._lines[index] = place
        for key, (reference, was, since, where) in modes.items():
            module = reference()
            if module is None or not any(isinstance(m, _MOODY) for m in module.modules()):
                continue
            leaves = [self.leaves[id(p)] for p in module.parameters() if id(p) in self.leaves]
            if not any(leaf.stepped and index in leaf.stats for leaf in leaves):
                continue
            seen = self.modes.get((key, place))
            if seen is None:
                known = [call for call in before if call <= since]
                trained = was and any(call in leaf.stats for leaf in leaves for call in known)
                seen = self.modes[key, place] = Mode(int(trained))
            if module.training:
                seen.trained, seen.back = seen.trained + 1, seen.back or seen.left > 0
            elif seen.trained:
                seen.left, seen.place = seen.left + 1, where

    def _by_hand(self, tensors: list[Any], place: Site | None, index: int) -> None:
        """Leaves in no optimizer that were changed while their gradient stayed as it was."""
        free = [t for t in tensors if not self.leaves[id(t)].stepped]
        if not free or index > _FIRST:
            return
        pairs = zip(torch._foreach_norm([t.grad for t in free]),
                    torch._foreach_norm([t.detach() for t in free]), strict=True)  # fmt: skip
        stale = []
        for tensor, (grad, size) in zip(free, pairs, strict=True):
            leaf, now = self.leaves[id(tensor)], (float(grad), float(size))
            stat = leaf.stats[index]
            if leaf.after is not None and stat.norm > 0 and stat.before > 0:
                kept = math.isclose(stat.before, leaf.after[0], rel_tol=1e-6)
                if kept and now[1] != leaf.after[1]:
                    stale.append(leaf)
            leaf.after = now
        if stale:
            self._event("by hand", place, None, leaves=stale)

    def returned(self, before: dict[int, tuple[Any, Any]], frame: Any) -> None:
        """``autograd.grad`` adds to no ``.grad``."""
        self.backwards += 1
        unknown = [tensor for key, (tensor, _) in before.items() if key not in self.leaves]
        if unknown:
            self._meet(unknown, frame)

    def _meet(self, tensors: Sequence[Any], frame: Any) -> None:
        variables = Variables(frame)
        names = {id(tensor): name for name, tensor in variables.tensors}
        for tensor in tensors:
            leaf = self._leaf(tensor, names.get(id(tensor), ""))
            leaf.unregistered |= id(tensor) in variables.unregistered

    def _leaf(self, tensor: Any, name: str) -> Leaf:
        leaf = self.leaves.get(id(tensor))
        if leaf is None or leaf.reference() is not tensor:
            leaf = self.leaves[id(tensor)] = Leaf(
                id(tensor), name, tuple(tensor.shape),
                isinstance(tensor, torch.nn.Parameter), weakref.ref(tensor),
                version=tensor._version, place=tensor.data_ptr() if _is_dense(tensor) else 0,
            )  # fmt: skip
        leaf.name = leaf.name or name
        return leaf

    # -- optimizers ------------------------------------------------------------------------------

    def step(self, optimizer: Any, place: Site | None, frame: Any, *, closure: bool) -> None:
        """An optimizer is about to take a step."""
        if not self.measuring and self.counted(optimizer):
            return
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        known = self._stepping(optimizer, place, frame, tensors)
        self._closure = known if closure else None
        if closure:
            return
        if known.left and known.left == (self.backwards, *_marks(tensors)):
            self._event("step taken twice", place, known)
        if self._enlarged & set(known.leaves) and getattr(optimizer, "grad_scale", None) is None:
            self._unscaled("step with scaled gradients", place, known)
        self._enlarged -= set(known.leaves)
        waiting = [key for key in known.leaves if key in self._since]
        grads = {id(t): t.grad for t in tensors if t.grad is not None and _is_dense(t.grad)}
        sizes = torch._foreach_norm([*grads.values()], math.inf) if grads else ()
        tops = {key: float(size) for key, size in zip(grads, sizes, strict=True)}
        self._after_clipping(waiting, tops)
        self._spend(known, place, waiting, tensors, {key for key, top in tops.items() if top == 0})
        for key in waiting:
            del self._since[key]
        if known.steps <= _STEPS and sum(t.numel() for t in tensors) <= _COPIED:
            self._copies = {id(t): t.detach().clone() for t in tensors if t.grad is not None}

    def _stepping(
        self, optimizer: Any, place: Site | None, frame: Any, tensors: list[Any]
    ) -> Optimizer:
        """What is known of an optimizer at its next step."""
        known = self.optimizers.get(id(optimizer))
        if known is None or known.reference() is not optimizer:
            self._meet(tensors, frame)
            known = self.optimizers[id(optimizer)] = Optimizer(
                type(optimizer).__name__, _name_of(optimizer, frame), place,
                tuple(id(tensor) for tensor in tensors), reference=weakref.ref(optimizer),
            )  # fmt: skip
        known.rates = tuple(float(group.get("lr", 0.0)) for group in optimizer.param_groups)
        known.groups = [tuple(map(id, group["params"])) for group in optimizer.param_groups]
        known.tops = [max(pair) for pair in zip_longest(known.tops, known.rates, fillvalue=0.0)]
        known.site, self._last = place, known
        known.steps += 1
        known.history[known.steps] = max(known.rates, default=0.0)
        return known

    def _after_clipping(self, waiting: list[int], tops: dict[int, float]) -> None:
        """Whether clipping left next to nothing of the gradients that ``waiting`` leaves had."""
        if self._clipped is None:
            return
        lasts = ([*self.leaves[key].stats.values()][-1:] for key in waiting)
        then = max((stat.largest for last in lasts for stat in last), default=0.0)
        now = max(tops.values(), default=then)
        if now < _DARK * then:
            self.shrunk = *self._clipped, then, now
        self._clipped = None

    def _spend(
        self,
        known: Optimizer,
        place: Site | None,
        waiting: list[int],
        tensors: list[Any],
        zero: set[int],
    ) -> None:
        """Each gradient is used by this step: was it used before, or wiped away since ``backward``?"""
        empty, stale = True, []
        for tensor in tensors:
            leaf = self.leaves[id(tensor)]
            leaf.stepped += 1
            if tensor.grad is None:
                continue
            leaf.reached = True
            if leaf.used or leaf.stale or leaf.key not in zero:
                empty, leaf.used = False, True
                if leaf.stale:
                    stale.append(leaf)
        if stale and len(stale) >= len(waiting) / 2:
            backward = self._since[stale[0].key][1]
            self._event(
                "stale", backward or place, known, leaves=stale, backward=backward, step=place
            )
        for leaf in stale:
            leaf.stale = False
        if waiting and empty:
            last = max(self._since[key] for key in waiting)
            mine = frozenset(known.leaves)
            wiped = next((z for z in reversed(self.zeroed) if z[2] & mine), None)
            wipe = wiped[1] if wiped else None
            self._event("wiped", wipe or place, known, zero=wipe, backward=last[1], step=place)

    def stepped(self, optimizer: Any) -> None:
        """An optimizer has taken its step."""
        self._closure = None
        known = self.optimizers.get(id(optimizer))
        if known is None or not self.measuring:
            return
        marks = _marks([p for group in optimizer.param_groups for p in group["params"]])
        known.left = (self.backwards, *marks) if marks and self.backwards else ()
        for group in optimizer.param_groups:
            for tensor in group["params"]:
                old = self._copies.pop(id(tensor), None)
                if old is None:
                    continue
                leaf = self.leaves[id(tensor)]
                weight = float(torch.linalg.vector_norm(old))
                change = float(torch.linalg.vector_norm(tensor.detach() - old))
                leaf.ratio = change / weight if weight else None
        self._copies.clear()

    def noted(self, what: str, subject: Any, result: Any, place: Site | None) -> None:
        """A scheduler's step, a scaled loss, gradients that were clipped."""
        if what == "scheduler":
            name = f"{type(subject).__name__}.step()"
            self.schedulers[id(subject.optimizer)] = name, place
            # PyTorch's own marks: the first of these calls is the one that makes it.
            if subject._step_count == 2 and not getattr(subject.optimizer, "_opt_called", False):
                self.early = name, place, id(subject.optimizer)
        elif what == "scale" and isinstance(result, torch.Tensor):
            self._scaled = weakref.ref(subject), place
            if result.grad_fn is not None:
                result.grad_fn.metadata[_SCALED] = True
        elif what.startswith("clip"):
            last = self._last
            if self._enlarged and last is not None:
                self._unscaled("clipped while scaled", place, last, name=what)
            self._clipped = what, place

    def _unscaled(self, kind: str, place: Site | None, optimizer: Optimizer, **said: Any) -> None:
        """An event, where gradients are still multiplied by a GradScaler's factor."""
        scaler = self._scaled[0]() if self._scaled is not None else None
        if self._scaled is None or scaler is None or not scaler.is_enabled():
            return
        stages = [state["stage"].name for state in scaler._per_optimizer_states.values()]
        if scaler.get_scale() != 1 and "UNSCALED" not in stages:
            scale = scaler.get_scale()
            self._event(kind, place, optimizer, **said, scale=scale, scaled=self._scaled[1])

    def _late(self) -> None:
        """A clipping after which no step came."""
        if self._clipped is not None and self._last is not None and not self._since:
            name, place = self._clipped
            self._event("clipped too late", place, self._last, name=name, step=self._last.site)
        self._clipped = None

    def zero(self, owner: Any, place: Site | None) -> None:
        """``zero_grad`` is about to be called."""
        self._late()
        if isinstance(owner, torch.nn.Module):
            keys = frozenset(map(id, owner.parameters()))
        else:
            keys = _members(owner)
        self.zeroed = [*self.zeroed[-7:], (type(owner).__name__, place, keys)]

    def _event(
        self, kind: str, place: Site | None, optimizer: Optimizer | None, **said: Any
    ) -> None:
        """The first event of a kind is kept."""
        if not any(e.kind == kind and e.optimizer is optimizer for e in self.events):
            self.events.append(Event(kind, place, optimizer, self.backwards, said))


def _members(optimizer: Any) -> frozenset[int]:
    return frozenset(id(p) for group in optimizer.param_groups for p in group["params"])


def _is_real(grad: Any) -> bool:
    """Whether a gradient is there, with a norm that can be taken."""
    return bool(
        grad is not None and grad.layout is torch.strided and grad.numel() and not grad.is_complex()
    )


def _is_dense(tensor: Any) -> bool:
    return bool(tensor.layout is torch.strided and tensor.device.type != "meta")


def _marks(tensors: Sequence[Any]) -> list[tuple[int, int]]:
    """What tells whether any of the first gradients has changed."""
    return [(id(t.grad), t.grad._version) for t in tensors[:8] if t.grad is not None]


def _name_of(optimizer: Any, frame: Any) -> str:
    """What the script calls an optimizer."""
    for name, value in at_hand(frame):
        if value is optimizer:
            return name
        if name == "self" and hasattr(value, "__dict__"):
            for attribute, part in list(vars(value).items()):
                if part is optimizer:
                    return f"self.{attribute}"
    return type(optimizer).__name__
