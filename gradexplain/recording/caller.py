"""Calling on behalf of someone: a warning that the call raises names the caller's line, not ours.

Python attributes a warning to a frame's file, line and globals.  A call is therefore made from a
frame that has those of the line that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any

from torch.overrides import handle_torch_function

from gradexplain.recording.frames import CALLER

_TEMPLATE: CodeType = (lambda function, args, kwargs: function(*args, **kwargs)).__code__

_HANDLER: CodeType = handle_torch_function.__code__

Caller = Callable[[Any, Any, Any], Any]


class Callers:
    """One caller for each place in the code that has called."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], tuple[CodeType, Caller]] = {}

    def of(self, frame: FrameType) -> Caller:
        """What makes a call for ``frame``, or for who called PyTorch's function that asks us."""
        if frame.f_code is _HANDLER and frame.f_back is not None:
            frame = frame.f_back.f_back or frame
        code = frame.f_code
        key = id(code), frame.f_lasti, id(frame.f_globals)
        known = self._known.get(key)
        if known is None:
            made = _TEMPLATE.replace(
                co_filename=code.co_filename,
                co_name=CALLER,
                co_firstlineno=frame.f_lineno or code.co_firstlineno,
            )
            # The code is kept, for its id is the key.
            known = self._known[key] = code, FunctionType(made, frame.f_globals)
        return known[1]

    def forget(self) -> None:
        """Let go of the callers' globals."""
        self._known.clear()
