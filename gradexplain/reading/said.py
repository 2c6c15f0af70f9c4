"""What is said of a text that cannot be read, or is read with a word: `said.txt`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from gradexplain.errors import InputError, UnsupportedError
from gradexplain.texts import blocks


@cache
def _texts() -> Mapping[str, list[str]]:
    return {key: texts for key, *texts in blocks("reading", "said.txt")}


def refused(key: str, **names: Any) -> InputError:
    """An error where there is no place in a text yet."""
    message, remedy = said(key, names)
    return InputError(message, remedy=remedy)


def lacking(key: str, **names: Any) -> UnsupportedError:
    """The same for what is not supported."""
    message, remedy = said(key, names)
    return UnsupportedError(message, remedy=remedy)


def said(key: str, names: Mapping[str, Any]) -> list[str]:
    """The sentences of one key, a message and its remedy, with the names put in."""
    return [text.format(**names) for text in _texts()[key]]
