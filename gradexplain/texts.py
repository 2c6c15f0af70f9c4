"""Sentences that are kept as text: a head, what is said, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path


def kept(folder: str, name: str) -> str:
    """A text of the package, by its folder."""
    return Path(__file__).with_name(folder).joinpath(name).read_text("utf-8")


def blocks(folder: str, name: str) -> Iterator[tuple[str, str, str]]:
    """The head of each block, what is said, and after ``=>`` what to write instead.  Blocks are apart
    by an empty line; the first says what the text is.
    """
    text = kept(folder, name)
    for block in text.strip().split("\n\n")[1:]:
        head, *said = block.splitlines()
        what, _, remedy = " ".join(["", *(line.strip() for line in said)]).partition(" => ")
        yield head.strip(), what.strip(), remedy


def listed(names: Sequence[str], most: int = 1000) -> str:
    """``a``, ``a and b``, ``a, b and c``; of many the first, and how many more."""
    names = names if len(names) <= most else [*names[:most], f"{len(names) - most} more"]
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
