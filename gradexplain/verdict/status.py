"""The words of a verdict, and the exit code for each.

Nothing is imported here: the command line reads it before NumPy is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

#: The exit code of each verdict, from the best to the worst.  ``skipped``: PyTorch was not to be asked.
EXIT = {"agree": 0, "skipped": 0, "convention": 0, "cannot tell": 3, "mismatch": 1}


def worst(statuses: Iterable[str]) -> str:
    """The worst of several verdicts; ``agree`` for none."""
    return max(statuses, key=list(EXIT).index, default="agree")


def exit_code(statuses: Iterable[str]) -> int:
    """What a command returns that came to these verdicts."""
    return EXIT[worst(statuses)]
