"""The command line: it maps options to calls, and outcomes to exit codes.

Nothing here imports NumPy, SymPy, PyTorch or rich before a command runs, so that ``--help`` is quick;
and nothing at all before an interrupt is provided for.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line.

    Without ``argv`` this is the program: the command runs in a process of its own, within its time
    and memory.  With ``argv`` it runs here, and nothing holds it.
    """
    if argv is not None:
        from gradexplain.cli.program import main as here

        return here(list(argv))
    _leave_quietly()
    from gradexplain.supervisor import front

    return front.supervised(_work) if front.can_watch() else _work()


def _leave_quietly() -> None:
    """From here on an interrupt ends the process without a word: there is nothing yet to tidy up."""
    # The signal module without its enumerations, which take their time to import.
    import _signal  # type: ignore[import-not-found]
    from os import _exit

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(_signal, name, None)
        # An ignored signal stays so: nohup, a shell's background job.
        if number is not None and _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, lambda number, frame: _exit(128 + number))


def _work() -> int:
    from gradexplain.cli.program import work

    return work()
