"""What is said of a fault in a case, read from ``told.txt``."""

from __future__ import annotations

from typing import Any

from gradexplain.checking.report import Fault
from gradexplain.texts import blocks

_TOLD = {key: texts for key, *texts in blocks("checking", "told.txt")}


def told(key: str, **names: Any) -> Fault:
    """The fault of a key, ``code`` or ``code.variant``, with what its texts leave open filled in."""
    sentence, mend = (text.format(**names) for text in _TOLD[key])
    remedy, _, hint = mend.partition("hint: ")
    return Fault(key.partition(".")[0], sentence, remedy, hint=hint)


def said(key: str, **names: Any) -> str:
    """A sentence that is no fault."""
    return _TOLD[key][0].format(**names)
