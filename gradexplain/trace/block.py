"""Recording a block of Python: `tracing`, and what is said of an exception that ends it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gradexplain.errors import InputError
from gradexplain.recording.frames import Site, Variables, is_own
from gradexplain.recording.tape import TAPE
from gradexplain.trace.capture import Capture
from gradexplain.trace.faults import explain_fault
from gradexplain.trace.groups import TooLarge
from gradexplain.trace.seen import Pick
from gradexplain.trace.session import Trace
from gradexplain.trace.snapshot import Fault, Snapshot


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
    TAPE.join(trace)
    try:
        yield
    except Exception as error:  # the script's own, which goes on
        explain_exception(trace, error)
        raise
    finally:
        with trace.guarded():
            trace.close()
        TAPE.leave(trace)


def explain_exception(trace: Trace, error: Exception) -> None:
    """Fill ``trace.fault`` for an exception that the script did not catch."""
    trace.stopped = True
    if trace.fault is not None and trace.fault.message == str(error).strip():
        return
    place, frame = where(error)
    trace.fault = Fault(type(error).__name__, str(error).strip(), place)
    with trace.guarded():
        variables = Variables(frame)
        trace.fault = explain_fault(error, TAPE, variables, place)
        trace.recorded = _recorded(variables)


def _recorded(variables: Variables) -> Snapshot | None:
    """The operations behind the values that the script has at hand."""
    made = [tensor for _, tensor in variables.tensors if tensor.grad_fn is not None]
    if not made:
        return None
    made.sort(key=lambda tensor: -tensor.grad_fn._sequence_nr())
    snapshot = Snapshot(0, "", None, fault=Fault("", "", None))
    try:
        Capture(snapshot, TAPE, variables, made[:8]).read()
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
        if is_own(code):
            found, frame = Site(code.co_filename, traceback.tb_lineno), traceback.tb_frame
        traceback = traceback.tb_next
    return found, frame
