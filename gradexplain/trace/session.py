"""Tracing a stretch of Python: `tracing` records it, `Trace` holds what was found."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import FrameType
from typing import Any, ClassVar

import numpy as np
import torch

from gradexplain.errors import first_line
from gradexplain.recording.frames import Site, Variables, at_hand, site, user_frame
from gradexplain.recording.tape import DONE, TAPE
from gradexplain.tensors import instances
from gradexplain.trace.call import Brief, TracedCall, labels_of
from gradexplain.trace.capture import Capture
from gradexplain.trace.diagnose import diagnosed
from gradexplain.trace.diagnose.finding import Finding, Scene
from gradexplain.trace.faults import explain_fault
from gradexplain.trace.groups import TooLarge
from gradexplain.trace.guard import Guarded
from gradexplain.trace.heard import Heard
from gradexplain.trace.late import Plan, Steep, first_bad, plan_of, steep_at, steep_in
from gradexplain.trace.rows import Row, collapsed
from gradexplain.trace.saved import mark_freed
from gradexplain.trace.screen import Screen, rows_of, screen_of
from gradexplain.trace.seen import FULL, MOST, Pick, Seen
from gradexplain.trace.snapshot import Fault, Snapshot
from gradexplain.trace.values import to_array
from gradexplain.trace.ways import Way, ways_to

#: Bytes that are kept of all captured calls, if nothing else is said.
BUDGET = 2**30
#: A call of which more elements are kept than this is the only one of its line that is captured.
_LARGE = 1_000_000
#: Operations are recorded from so many calls before the one that is picked.
_AHEAD = 2
#: Operations of so many calls are recorded at first, and of so many after anything unusual: a call
#: on a new line, a value that is so many times larger than any was at first.
_WARM, _UNUSUAL, _LARGER = 12, 8, 3.0


#: A loss that is this much smaller than at first has reached what it was to reach.
_DONE = 1e-4


@dataclass(frozen=True, slots=True)
class Document:
    """A traced script: the explained calls, the others in a line each, and the script's error."""

    script: str
    calls: list[TracedCall]
    others: list[Brief]
    error: Fault | None
    #: The verdict over all calls, what is wrong, and the rows of the screen's table.
    verdict: str = ""
    findings: list[Finding] = field(default_factory=list)
    gradients: list[Row] = field(default_factory=list)

    SCHEMA: ClassVar[str] = "gradexplain-trace/1"


class Trace(Seen):
    """Listens to the tape, and tells what was found."""

    def __init__(
        self,
        pick: Pick | None = None,
        progress: Callable[[Brief], None] | None = None,
        *,
        budget: int = BUDGET,
    ) -> None:
        super().__init__(pick)
        self._budget = budget
        #: How many elements are kept of all calls, and the lines whose calls are large.
        self._kept = 0
        self._large: dict[tuple[str, int], bool] = {}
        self._progress = progress
        self._finite = True
        #: Operations are recorded up to this call; the largest value of the first calls.
        self._attentive, self._usual = _WARM, 0.0
        #: What the last call told, kept until it is known to be the last.
        self._kept_call: tuple[_UnderWay, dict[str, Any], FrameType] | None = None
        #: By line, the nodes of the first captured graph; what the first bad call was told by.
        self._plans: dict[tuple[str, int], Plan] = {}
        #: By line, where a derivative may be infinite; where it is in the call that is under way.
        self._steep: dict[tuple[str, int], list[Steep]] = {}
        self._suspect: tuple[str, Site | None] = "", None
        self._screen: Screen | None = None

    # -- what was found --------------------------------------------------------------------------

    def document(self, script: str) -> Document:
        """What goes to JSON."""
        full = self.full
        others = [brief for brief in self.all if brief.index not in full]
        screen = self.screen(script)
        return Document(
            script, self.calls, others, self.fault, screen.status, screen.findings, screen.rows
        )

    # -- while recording -------------------------------------------------------------------------

    def _wanted(self, index: int, place: Site | None) -> bool:
        pick = self.pick
        if pick.call is not None:
            return index == pick.call
        if pick.last:
            return True
        if pick.at_line is not None and (place is None or place.line != pick.at_line):
            return False
        key = _key(place)
        if self._by_line.get(key) and self._large.get(key):
            return False
        return len(self._by_line.get(key, ())) < FULL and len(self._snapshots) < MOST

    def screen(self, script: str) -> Screen:
        """The one screen of all calls."""
        if self._screen is None:
            self._screen = screen_of(self, self.findings, script)
        return self._screen

    def rows(self) -> list[Row]:
        """The table of the gradients, as far as they are known."""
        return collapsed(rows_of(self, None)[0])

    def ways(self, parameter: str) -> tuple[list[Way], Snapshot | None, list[str]]:
        """The ways to a parameter in the first captured call that has it, and the names there are."""
        known: dict[str, None] = {}
        for snapshot in self.snapshots:
            scene = Scene(snapshot, labels_of(snapshot))
            for value in snapshot.values:
                if value.kind == "leaf" and scene.name(value.id) == parameter:
                    return ways_to(scene, value.id), snapshot, []
                if value.kind == "leaf":
                    known.setdefault(scene.name(value.id))
        return [], None, list(known)

    @cached_property
    def findings(self) -> list[Finding]:
        """What is wrong, the most telling first."""
        try:
            return diagnosed(self)
        except Exception as error:  # a diagnosis that fails is not to cost the page
            self.failures.append(f"{type(error).__name__}: {first_line(error)}")
            return []

    def close(self) -> None:
        """Take over what the tape has seen."""
        if self._kept_call is not None:
            under_way, arguments, frame = self._kept_call
            self._kept_call = None
            self._capture(under_way, arguments, frame, kept=True)
            if under_way.capture is not None:
                under_way.capture.finish(under_way.result, returns=under_way.returns)
        self.journal.close()
        self.sums = dict(TAPE.sums)
        self.cuts = list(TAPE.ends.log.values())
        for found in TAPE.ends.exits.values():
            leaves = frozenset(id(leaf()) for leaf in found.sources if leaf() is not None)
            if found.name == "grad.__get__":
                self.result_reads.append((found.tensor, found.made, found.function, found.site))
            else:
                self.left.append((found.name, found.site, leaves))
        for key, (reference, place) in TAPE.ends.reads.items():
            tensor = reference()
            if tensor is not None and tensor.grad is None:
                source = "" if place is None else place.source
                if re.search(r"\.grad is (not )?None", source):
                    continue  # a question, not a use
                match = re.search(r"([A-Za-z_][\w.]*(?:\[[^\]]*\])?)\.grad\b", source)
                self.reads[key] = match[1] if match else "", place

    # -- as a listener of the tape's -------------------------------------------------------------

    @property
    def records(self) -> bool:
        """Whether operations are still wanted: those of the first calls, those about the call that
        is picked, those after anything unusual, or all.
        """
        if self.pick.call is not None:
            return self.pick.call - _AHEAD <= len(self.all) + 1 <= self.pick.call
        if self.pick.at_line is not None and len(self._snapshots) < FULL:
            return True
        return self.pick.last or len(self.all) < self._attentive

    @property
    def light(self) -> bool:
        """Whether steps need only be counted: the last call was not measured."""
        return not self.journal.measuring

    def samples(self, cls: Any, args: Any) -> bool:
        """Whether a call of a custom Function is to be compared again."""
        with self.guarded():
            tensors = list(instances(args, torch.Tensor))
            return self._any and self._samples.wants(cls, tensors, len(self.all) + 1)
        return False

    def counted(self, optimizer: Any) -> bool:
        """A step of an optimizer that is known, counted."""
        return self.journal.counted(optimizer)

    def _watch(self, brief: Brief) -> None:
        """Look out for what is unusual about a call, and be attentive for some calls then."""
        index, value = brief.index, brief.value
        size = _size(value)
        if index <= _WARM:
            self._usual = max(self._usual, size)
        elif size > _LARGER * self._usual or len(self._by_line[_key(brief.site)]) <= FULL:
            self._attentive = max(self._attentive, index + _UNUSUAL)

    def broke(self, error: Exception) -> None:
        """The recorder failed: it is said in the page, and nowhere else."""
        said = f"{type(error).__name__}: {first_line(error)}"
        if self.all:
            self.all[-1].failure = self.all[-1].failure or said
        self.failures.append(said)

    def stepped(self, optimizer: Any, place: Site | None, *, before: bool, closure: bool) -> None:
        with self.guarded():
            if before:
                self.journal.step(optimizer, place, user_frame(sys._getframe(1)), closure=closure)
            else:
                self.journal.stepped(optimizer)

    def zeroed(self, owner: Any, place: Site | None) -> None:
        with self.guarded():
            self.journal.zero(owner, place)

    def noted(self, what: str, subject: Any, result: Any, place: Site | None) -> None:
        with self.guarded():
            self.journal.noted(what, subject, result, place)

    def transformed(self, name: str, frame: FrameType) -> None:
        """A transform of ``torch.func`` differentiates by levels of its own, which no tape sees."""
        place = site(frame)
        if self.all and self.all[-1].site == place and self.all[-1].function == "torch.func":
            return
        self.all.append(Brief(len(self.all) + 1, "torch.func", place, None))
        self._by_line.setdefault(_key(place), []).append(len(self.all))

    def guarded(self) -> Guarded:
        """What fails in here is ours, not the script's."""
        return Guarded(self)

    def backward(
        self, function: Callable[[], Any], name: str, arguments: dict[str, Any], frame: FrameType
    ) -> Any:
        roots = _list(arguments.get("self", arguments.get("tensors", arguments.get("outputs"))))
        if not roots or not all(isinstance(root, torch.Tensor) for root in roots):
            return function()
        if any(torch._C._functorch.is_functorch_wrapped_tensor(root) for root in roots):
            self.transformed(name, frame)
            return function()
        under_way: _UnderWay | None = None
        with self.guarded():
            under_way = self._begin(name, arguments, roots, frame)
        if under_way is None:
            return function()
        try:
            result = function()
        except Exception as error:  # PyTorch's or a hook's: explained, and raised again
            with self.guarded():
                self._refused(under_way, error, arguments, frame)
            raise
        finally:
            if under_way.capture is not None:
                under_way.capture.deaf()
        with self.guarded():
            self._end(under_way, result, frame)
            if under_way.returns and TAPE.recording:
                TAPE.ends.taken(
                    roots, _list(arguments["inputs"]), result, under_way.brief.site,
                    create=bool(arguments["create_graph"]),
                )  # fmt: skip
        return result

    def passes(self, name: str, tensor: Any, frame: FrameType) -> bool:
        index = len(self.all) + 1
        try:
            value = _value(tensor)
            bad = value is not None and not math.isfinite(value)
            self._look_out(tensor, frame)
            if (bad and self._finite and self._keeps_all) or self._suspect[0]:
                return False
            if index in (self.pick.call, self._samples.call) or self.journal.is_due(index):
                return False
            self._watch(self._noted(name, value, frame))
            self.journal.skip()
        except Exception as error:  # the script is not to see that we failed
            self.broke(error)
        return True

    def _look_out(self, root: Any, frame: FrameType) -> None:
        """Whether a derivative is infinite in the call that is about to come."""
        looks = self._steep and self._finite and self._keeps_all
        steep = self._steep.get(_key(site(frame))) if looks else None
        self._suspect = steep_at(root, steep) if steep else ("", None)

    def _noted(self, name: str, value: float | None, frame: FrameType) -> Brief:
        """One call more, in a line."""
        brief = Brief(len(self.all) + 1, name, site(frame), value)
        self.all.append(brief)
        self._by_line.setdefault(_key(brief.site), []).append(brief.index)
        if self._progress is not None:
            self._progress(brief)
        return brief

    def _begin(
        self, name: str, arguments: dict[str, Any], roots: list[Any], frame: FrameType
    ) -> _UnderWay:
        """What is to be known before a call."""
        index = len(self.all) + 1
        wanted = self._wanted(index, site(frame)) and TAPE.recording
        brief = self._noted(name, _value(*roots), frame)
        place, value = brief.site, brief.value
        self._watch(brief)
        if value is not None and not math.isfinite(value) and self._finite and self._keeps_all:
            wanted, self._finite = TAPE.recording, False  # the first one is looked at, wherever
            self.bad = index
        elif self.journal.dark and not self.gone and _size(value) > _DONE * self._usual:
            wanted, self.gone = TAPE.recording and self._keeps_all, index
        under_way = _UnderWay(brief, roots, returns=name == "grad")
        self.journal.look_round(user_frame(frame), index)
        self._look_out(roots[0], frame)
        if self.journal.is_due(index) or self._suspect[0]:
            self.journal.measures(index)
            retain = bool(arguments.get("retain_graph"))
            self.journal.keep(roots, place, retain=retain and not arguments.get("create_graph"))
            under_way.leaves = self.journal.begin(roots)
        if value is not None and index == self.bad and not TAPE.recording:
            self.late = first_bad(roots, self._plans.get(_key(place)))
        if self.pick.last and not arguments.get("create_graph"):
            self._snapshots.clear()
            self._kept_call = None
            under_way.heard = Heard(roots, self._budget // 16)
            self._kept_call = under_way, arguments, frame
            return under_way
        # What a later backward goes back through is remembered, whether it is shown or not.
        sampled = index == self._samples.call and not self._large.get(_key(place))
        if wanted or sampled or (arguments.get("create_graph") and TAPE.recording):
            self._capture(under_way, arguments, frame, kept=wanted)
        return under_way

    @property
    def _keeps_all(self) -> bool:
        return self._any and len(self._snapshots) < MOST

    def _capture(
        self, under_way: _UnderWay, arguments: dict[str, Any], frame: FrameType, *, kept: bool
    ) -> None:
        brief, roots = under_way.brief, under_way.roots
        names = ("gradient", "grad_tensors", "grad_outputs")
        given = _list(next((arguments[name] for name in names if name in arguments), None))
        retain, create = arguments.get("retain_graph"), bool(arguments.get("create_graph"))
        snapshot = under_way.snapshot = Snapshot(
            index=brief.index,
            function=brief.function,
            site=brief.site,
            implicit=all(v is None for v in given),
            dtype=_dtype(roots),
            retain_graph=create if retain is None else bool(retain),
            create_graph=create,
        )
        if kept:
            self._snapshots[brief.index] = snapshot
        heard = under_way.heard
        under_way.given = given = given or [None] * len(roots)
        for root, v in zip(roots, given, strict=False):
            array = None if v is None else to_array(v)
            snapshot.v.append(np.ones(tuple(root.shape)) if array is None else array)
        inputs = arguments.get("inputs")
        wanted = None if inputs is None else _list(inputs)
        room = self._budget // (2 * 8) - self._kept
        capture = Capture(snapshot, TAPE, Variables(user_frame(frame)), roots, max(0, room))
        if heard is not None:
            capture.remembered = dict(zip(map(id, heard.leaves), heard.values, strict=False))
        try:
            capture.read()
        except TooLarge:
            snapshot.notes.append(
                ("too large", "The graph has too many operations to be explained one by one.")
            )
        else:
            under_way.capture = capture
            if heard is None:
                capture.listen(wanted)
            else:
                capture.catch_up(wanted, heard)

    def _end(self, under_way: _UnderWay, result: Any, frame: FrameType) -> None:
        brief = under_way.brief
        for root in under_way.roots if not under_way.returns else ():
            if root.grad_fn is not None:
                root.grad_fn.metadata[DONE] = True
        if under_way.leaves is None:
            self.journal.skip()
        elif under_way.returns:
            self.journal.returned(under_way.leaves, user_frame(frame))
        else:
            brief.finite = self.journal.end(
                brief.index, under_way.leaves, brief.site, user_frame(frame)
            )
            self.journal.look_at_modes(TAPE.modes, brief.index, brief.site)
            if not brief.finite and _scaled(user_frame(frame)):
                brief.finite = True  # GradScaler skips such a step, and makes its factor smaller
            elif not brief.finite and self._finite and self._keeps_all:
                self._finite, self.bad, self.late = False, brief.index, self._suspect
        if under_way.heard is not None:
            under_way.heard.end()
            under_way.result = result
        elif under_way.capture is not None and under_way.snapshot is not None:
            under_way.capture.finish(result, returns=under_way.returns)
            if _key(brief.site) not in self._plans:
                self._plans[_key(brief.site)] = plan_of(under_way.capture)
                steep = steep_in(under_way.capture, under_way.roots[0])
                if steep:
                    self._steep[_key(brief.site)] = steep
            if (
                brief.index == self._samples.call
                and self._by_line[_key(brief.site)][0] != brief.index
            ):
                self._samples.keep(under_way.snapshot)
            if not self.pick.last:
                self._kept += under_way.capture.kept
            self._large[_key(brief.site)] = under_way.capture.kept > _LARGE
            if not under_way.snapshot.retain_graph:
                mark_freed(under_way.capture, brief.site)

    def _refused(
        self, under_way: _UnderWay, error: Exception, arguments: dict[str, Any], frame: FrameType
    ) -> None:
        """PyTorch, or a hook, raised an error."""
        under_way.brief.error = first_line(error)
        snapshot, capture = under_way.snapshot, under_way.capture
        self._kept_call = under_way.heard = None
        variables = Variables(user_frame(frame))
        if snapshot is None:
            self._capture(under_way, arguments, frame, kept=self.pick.call is None)
            snapshot, capture = under_way.snapshot, under_way.capture
            if capture is not None:
                capture.deaf()
        assert snapshot is not None
        if capture is not None:
            capture._flows()
        snapshot.fault = self.fault = explain_fault(
            error, TAPE, variables, under_way.brief.site, roots=under_way.roots,
            given=under_way.given, capture=capture,
        )  # fmt: skip


@dataclass(slots=True)
class _UnderWay:
    """A call while PyTorch carries it out."""

    brief: Brief
    roots: list[Any]
    returns: bool
    leaves: dict[int, Any] | None = None
    snapshot: Snapshot | None = None
    capture: Capture | None = None
    heard: Heard | None = None
    result: Any = None
    given: list[Any] = field(default_factory=list)


def _size(value: float | None) -> float:
    return abs(value) if value is not None and math.isfinite(value) else 0.0


def _value(root: Any, *others: Any) -> float | None:
    """The value of a scalar."""
    if others or root.numel() != 1 or root.is_complex():
        return None
    return float(root.item())


def _scaled(frame: FrameType | None) -> bool:
    """Whether the script scales its losses, so that an overflow is expected."""
    values = (value for _, value in at_hand(frame))
    return any(isinstance(v, torch.amp.GradScaler) and v.is_enabled() for v in values)


def _list(value: Any) -> list[Any]:
    """What PyTorch takes as one tensor or as several: a sequence, a dict or what its values() give."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, Iterable) and not isinstance(value, torch.Tensor):
        return list(value)
    return [] if value is None else [value]


def _key(place: Site | None) -> tuple[str, int]:
    return (place.filename, place.line) if place is not None else ("", 0)


def _dtype(roots: list[Any]) -> str:
    return str(roots[0].dtype).removeprefix("torch.") if roots else "float32"
