"""The process in which PyTorch is asked, started as early as possible.

Nothing but the standard library is imported here: the command line starts the process before it loads
NumPy, so that PyTorch's import, the longest part of a run, begins at once.
"""

from __future__ import annotations

import atexit
import subprocess
import sys

_waiting: list[subprocess.Popen[bytes]] = []


def start() -> None:
    """Start a process that will be asked, unless this one has PyTorch already."""
    if "torch" in sys.modules or _waiting:
        return
    command = "import sys; sys.path[:] = {!r}; import gradexplain.routes.worker as w; w.main()"
    _waiting.append(
        subprocess.Popen(
            [sys.executable, "-c", command.format(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    )


def take() -> subprocess.Popen[bytes] | None:
    """The process, started if it was not; None where PyTorch is to be asked in this one."""
    start()
    return _waiting.pop() if _waiting else None


@atexit.register
def stop() -> None:
    """Stop a process that nobody asked: the request made no sense."""
    while _waiting:
        process = _waiting.pop()
        process.kill()
        process.communicate()
