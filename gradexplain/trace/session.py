"""Tracing a stretch of Python: `tracing` records it, `Trace` holds what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from gradexplain.errors import InputError
from gradexplain.trace.capture import Capture, TooLarge, to_array
from gradexplain.trace.explain import TracedCall, explained
from gradexplain.trace.faults import Fault, explain_fault
from gradexplain.trace.frames import Site, Variables, is_library, site, user_frame
from gradexplain.trace.recorder import Recorder
from gradexplain.trace.snapshot import Snapshot

#: So many calls from one line are explained in full; where there are more, the first of them is.
FULL = 3
#: So many calls are explained in full altogether.
MOST = 30


@dataclass(frozen=True, slots=True)
class Pick:
    """Which calls are wanted: all that fit, the ``call``-th, those ``at_line``, the ``last``."""

    call: int | None = None
    at_line: int | None = None
    last: bool = False


@dataclass(slots=True)
class Brief:
    """One call of ``backward`` in a line: ``value`` is the scalar it was called on."""

    index: int
    function: str
    site: Site | None
    value: float | None
    error: str = ""

    @property
    def text(self) -> str:
        return self.site.source if self.site is not None else self.function


class Trace:
    """What was seen: every call of ``backward`` in ``all``, the explained ones in ``calls``."""

    def __init__(self, pick: Pick | None = None, progress: Callable[[Brief], None] | None = None):
        self.pick = pick or Pick()
        self.all: list[Brief] = []
        self.fault: Fault | None = None
        #: Whether ``fault`` ended the block, instead of being caught there.
        self.stopped = False
        #: What had been recorded when the block ended with an error that is no backward's.
        self.recorded: Snapshot | None = None
        self._progress = progress
        self._snapshots: dict[int, Snapshot] = {}
        self._explained: dict[int, TracedCall] = {}
        self._by_line: dict[tuple[str, int], list[int]] = {}
        self._freed: dict[int, Site | None] = {}
        self.recorder = Recorder(self._backward)

    # -- what was found --------------------------------------------------------------------------

    @property
    def calls(self) -> list[TracedCall]:
        """The explanations of the calls that are explained in full, in order."""
        return [self.call(index) for index in self.full]

    @property
    def full(self) -> list[int]:
        """The numbers of the calls explained in full: of a line with many calls, the first."""
        if self.pick.call is not None or self.pick.last:
            return sorted(self._snapshots)
        shown = []
        for indices in self._by_line.values():
            kept = [index for index in indices if index in self._snapshots]
            shown += kept if len(indices) <= FULL else kept[:1]
            shown += [i for i in kept[1:] if len(indices) > FULL and self.all[i - 1].error]
        return sorted(shown)

    def call(self, index: int) -> TracedCall:
        """The explanation of one call that was captured; calls count from 1."""
        if index not in self._explained:
            with torch.enable_grad(), torch._C.DisableTorchFunction():
                self._explained[index] = explained(self._snapshots[index])
        return self._explained[index]

    def recorded_call(self) -> TracedCall | None:
        """The operations that had been recorded when the block ended with an error."""
        if self.recorded is None:
            return None
        with torch.enable_grad(), torch._C.DisableTorchFunction():
            return explained(self.recorded)

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
        return len(self._by_line.get(key, ())) < FULL and len(self._snapshots) < MOST

    def _backward(
        self, name: str, function: Callable[[], Any], arguments: dict[str, Any], frame: FrameType
    ) -> Any:
        place = site(frame)
        index = len(self.all) + 1
        roots = _list(arguments.get("self", arguments.get("tensors", arguments.get("outputs"))))
        if not all(isinstance(root, torch.Tensor) for root in roots):
            return function()
        value = None
        if len(roots) == 1 and roots[0].numel() == 1 and not roots[0].is_complex():
            value = float(roots[0].detach())
        brief = Brief(index, name, place, value)
        self.all.append(brief)
        wanted = self._wanted(index, place)
        self._by_line.setdefault(_key(place), []).append(index)
        if self._progress is not None:
            self._progress(brief)
        try:
            # What a later backward goes back through is remembered, whether it is shown or not.
            if not wanted and not (arguments.get("create_graph") and self.recorder.recording):
                return function()
            return self._captured(brief, function, arguments, roots, frame, kept=wanted)
        except Exception as error:
            brief.error = first_line(error)
            raise
        finally:
            if self.pick.call is not None and index >= self.pick.call:
                self.recorder.recording = False

    def _captured(
        self,
        brief: Brief,
        function: Callable[[], Any],
        arguments: dict[str, Any],
        roots: list[Any],
        frame: FrameType,
        *,
        kept: bool,
    ) -> Any:
        names = ("gradient", "grad_tensors", "grad_outputs")
        given = _list(next((arguments[name] for name in names if name in arguments), None))
        retain, create = arguments.get("retain_graph"), bool(arguments.get("create_graph"))
        snapshot = Snapshot(
            index=brief.index,
            function=brief.function,
            site=brief.site,
            implicit=all(v is None for v in given),
            dtype=_dtype(roots),
            retain_graph=create if retain is None else bool(retain),
            create_graph=create,
        )
        if self.pick.last:
            self._snapshots.clear()
        if kept:
            self._snapshots[brief.index] = snapshot
        given = given or [None] * len(roots)
        for root, v in zip(roots, given, strict=False):
            if v is None:
                snapshot.v.append(_ones(root))
            else:
                array = to_array(v)
                snapshot.v.append(_ones(root) if array is None else array)
        inputs = arguments.get("inputs")
        if isinstance(inputs, dict):
            inputs = list(inputs.values())
        wanted = None if inputs is None else _list(inputs)
        variables = Variables(user_frame(frame))
        capture = Capture(snapshot, self.recorder, variables, roots)
        started = False
        try:
            capture.read()
            started = True
        except TooLarge:
            snapshot.notes.append(
                ("too large", "The graph has too many operations to be explained one by one.")
            )
        except Exception as error:  # the script is to run as it would without us
            snapshot.notes.append(("not read", f"The graph could not be read: {error}."))
        try:
            if not started:
                return function()
            return capture.run(function, wanted, returns=brief.function == "grad")
        except Exception as error:
            snapshot.error = type(error).__name__, str(error)
            fault = explain_fault(
                error, self.recorder, variables, brief.site, roots=roots,
                given=given, capture=capture, freed=self._freed,
            )  # fmt: skip
            snapshot.error_help = fault.why, fault.remedy
            self.fault = fault
            raise
        finally:
            if not snapshot.retain_graph and snapshot.error is None:
                capture.mark_freed(brief.site)


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _key(place: Site | None) -> tuple[str, int]:
    return (place.filename, place.line) if place is not None else ("", 0)


def _dtype(roots: list[Any]) -> str:
    return str(roots[0].dtype).removeprefix("torch.") if roots else "float32"


def _ones(root: Any) -> Any:
    import numpy as np

    return np.ones(tuple(root.shape))


@contextmanager
def tracing(
    *, call: int | None = None, at_line: int | None = None, last: bool = False
) -> Iterator[Trace]:
    """Record the ``backward`` calls of a block: ``with gradexplain.tracing() as t: …; t.calls[0]``.

    ``t.calls`` are the explanations, ``t.all`` every call in a line.  ``call`` picks the one with
    that number (from 1), ``at_line`` those on a line of the source, ``last`` the last one.  An
    exception of the block goes on; ``t.fault`` explains it.
    """
    chosen = [call is not None, at_line is not None, last]
    if sum(chosen) > 1:
        raise InputError("call, at_line and last exclude each other", remedy="give one of them")
    trace = Trace(Pick(call, at_line, last))
    with recording(trace):
        yield trace


@contextmanager
def recording(trace: Trace) -> Iterator[None]:
    """Record into ``trace``; an exception is explained there and goes on."""
    trace.recorder.__enter__()
    try:
        yield
    except Exception as error:
        explain_exception(trace, error)
        raise
    finally:
        trace.recorder.__exit__(None, None, None)


def explain_exception(trace: Trace, error: Exception) -> None:
    """Fill ``trace.fault`` for an exception that the script did not catch."""
    trace.stopped = True
    if trace.fault is not None and trace.fault.message == str(error).strip():
        return
    place, frame = where(error)
    variables = Variables(frame)
    trace.fault = explain_fault(error, trace.recorder, variables, place)
    trace.recorded = _recorded(trace, variables)


def _recorded(trace: Trace, variables: Variables) -> Snapshot | None:
    """The operations behind the values that the script has at hand."""
    made = [tensor for _, tensor in variables.tensors if tensor.grad_fn is not None]
    if not made:
        return None
    made.sort(key=lambda tensor: -tensor.grad_fn._sequence_nr())
    snapshot = Snapshot(0, "", None, error=("", ""))
    try:
        Capture(snapshot, trace.recorder, variables, made[:8]).read()
    except (TooLarge, KeyError, RuntimeError):
        return None
    snapshot.roots.clear()
    return snapshot


def where(error: BaseException) -> tuple[Site | None, FrameType | None]:
    """The innermost line of the user's own in a traceback, and its frame."""
    found, frame = None, None
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not is_library(code.co_filename):
            found, frame = Site(code.co_filename, traceback.tb_lineno), traceback.tb_frame
        traceback = traceback.tb_next
    return found, frame
