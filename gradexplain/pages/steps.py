"""One step of the chain rule in words, with its numbers, and as a factor of a product."""

from __future__ import annotations

import re

import numpy as np

from gradexplain.explanation import Step
from gradexplain.tensors import spot


def in_words(step: Step, g: str) -> str:
    """A trivial step in words."""
    if step.short != g:
        return ""
    if step.contribution.shape == step.upstream.shape:
        return f"passes {g} on"
    return f"{g} for every element" if step.contribution.size > step.upstream.size else ""


def work(step: Step) -> str:
    """One element with its numbers, and which: ``3·0.1 = 0.3 at [0]``."""
    if not step.numbers:
        return ""
    _, _, worked = step.numbers.replace("-", "−").partition(" = ")
    worked = re.sub(r"\((\([^()]*\))\)", r"\1", worked)
    left, _, right = worked.rpartition(" = ")
    if left == right or re.search(
        r"\b(inf|nan)\b|/−?0(?![.\d])", left
    ):  # what overflowed, or is said to be 0, gives no number
        return ""
    nonzero = np.argwhere(step.contribution != 0)
    place = tuple(int(i) for i in nonzero[0]) if len(nonzero) else (0,) * step.contribution.ndim
    return f"{worked} at {spot('', place)}" if place else worked


def factor(short: str, g: str) -> str | None:
    """What multiplies ``g``: ``2·y`` of ``2·y·g``, ``1/N`` of ``g/N``; None where it is no factor."""
    if short == g:
        return "1"
    here = rf"(?<!\w){re.escape(g)}(?!\w)"
    bare = re.sub(
        r"\([^()]*\)|(?<![\w)])\[[^\[\]]*\]",
        lambda m: "·" * len(m[0]) if not re.search(here, m[0]) else m[0],
        short,
    )
    if re.search(r"[@ᵀ \[]", bare) or len(re.findall(here, short)) != 1:
        return None
    if re.fullmatch(rf".*·{here}(/.*)?|−?{here}(/.*)?", bare) is None:
        return None
    place = re.search(here, short)
    assert place is not None
    before, after = short[: place.start()].removesuffix("·"), short[place.end() :]
    return (f"{before}1" if before in ("", "−") else before) + after
