"""The process in which PyTorch is asked, started as early as possible.

Nothing but the standard library is imported here, see `gradexplain.supervisor.helper`.
"""

from __future__ import annotations

import sys

from gradexplain.supervisor.helper import HELPERS, Helper


def start() -> None:
    """Start a process that will be asked, unless this one has PyTorch already."""
    if _is_needed():
        HELPERS.start("torch")


def take() -> Helper | None:
    """The process, started if it was not; None where PyTorch is to be asked in this one."""
    return HELPERS.take("torch") if _is_needed() else None


def _is_needed() -> bool:
    # Without an executable (an embedded Python) no other process can be started.
    return "torch" not in sys.modules and bool(sys.executable)
