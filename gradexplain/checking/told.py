"""What is said of a fault in a case, read from ``told.txt``."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from gradexplain.checking.report import Fault


def _read(text: str) -> tuple[str, tuple[str, str, str]]:
    key, *lines = (line.strip() for line in text.splitlines())
    whole, _, hint = " ".join(lines).partition(" hint ")
    sentence, _, mend = whole.partition(" mend ")
    return key, (sentence, mend, hint)


_TEXT = files("gradexplain.checking").joinpath("told.txt").read_text("utf-8")
_TOLD = dict(map(_read, _TEXT.strip().split("\n\n")[1:]))


def told(key: str, **names: Any) -> Fault:
    """The fault of a key, ``code`` or ``code.variant``, with what its texts leave open filled in."""
    sentence, mend, hint = (text.format(**names) for text in _TOLD[key])
    return Fault(key.partition(".")[0], sentence, mend, hint=hint)
