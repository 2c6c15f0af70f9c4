"""Sentences that are kept as text: ``findings.txt``, ``mistakes.txt``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files


def blocks(name: str) -> Iterator[tuple[str, str, str]]:
    """The head of each block, what is said, and after ``=>`` what to write instead."""
    text = files("gradexplain.trace").joinpath(name).read_text("utf-8")
    for block in text.split("\n\n")[1:]:
        head, *said = block.splitlines()
        what, _, remedy = " ".join(["", *(line.strip() for line in said)]).partition(" => ")
        yield head, what.strip(), remedy
