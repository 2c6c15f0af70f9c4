"""What a program costs, known before it runs: an interpretation without arrays."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from gradexplain.errors import InputError
from gradexplain.limits import BUDGET, show_size
from gradexplain.plan import contraction
from gradexplain.plan.program import Node, needed

#: Bytes of an mpmath number in an array: the pointer, the object, its tuple and its integers.
_EXACT_BYTES = 250

#: Products or other elementary operations that are begun, in floats and in mpmath numbers: a minute's.
_TERMS = 200_000_000_000
_EXACT_TERMS = 50_000_000


class Cost(NamedTuple):
    """``terms`` elementary operations; ``elements`` of all arrays made; ``bytes`` at the peak."""

    terms: int
    elements: int
    bytes: int


@lru_cache(maxsize=2048)
def cost(root: Node, *, exact: bool = False, magnitudes: bool = False) -> Cost:
    """The cost of ``root``'s value; with error magnitudes beside it, of both.

    Views of a tensor cost nothing; what is not needed any more is let go (`program.run`).
    """
    order = needed(root)
    uses = Counter(arg.place for node in order for arg in node.args)
    terms = elements = now = peak = 0
    held: dict[int, int] = {}
    for node in order:
        made = 0 if node.kind in ("element", "window") else node.elements
        inside = 0
        if node.kind == "contract":
            left = [arg.axes for arg in node.args if arg.type != "implied"]
            work, inside = contraction.cost(left, node.data)
            terms += work * (1 + len(node.args) if magnitudes else 1)
        elif node.kind in ("reduce", "scan", "scatter", "place"):
            terms += max([node.elements, *(arg.elements for arg in node.args)])
        else:
            terms += made
        width = _EXACT_BYTES if exact else 8
        size = made * (1 if node.type == "mask" else 8 if node.type != "real" else
                       width + 8 * magnitudes)  # fmt: skip
        elements += made
        held[node.place] = size
        now += size
        peak = max(peak, now + inside * width * (2 if magnitudes else 1))
        for arg in node.args:
            uses[arg.place] -= 1
            if not uses[arg.place]:
                now -= held.pop(arg.place, 0)
    return Cost(terms, elements, peak)


def hold(root: Node, what: str, *, exact: bool, magnitudes: bool) -> None:
    """`InputError` where the value of ``root`` needs more than the budget has, before it is begun."""
    found = cost(root, exact=exact, magnitudes=magnitudes)
    if BUDGET.memory is not None and found.bytes > BUDGET.memory:
        raise InputError(
            f"{what} takes {show_size(found.bytes)} here; {show_size(BUDGET.memory)} allowed",
            remedy=f"use smaller inputs, or allow more: --memory {room(found.bytes)}",
        )
    if found.terms > (_EXACT_TERMS if exact else _TERMS):
        raise InputError(
            f"{what} takes {found.terms:.0e} elementary operations here, longer than a minute",
            remedy="use smaller inputs: the formulas do not depend on sizes",
        )


def room(size: int) -> str:
    """The next power of two of GiB, as ``--memory`` takes it."""
    gib = 1
    while gib << 30 < 2 * size:
        gib *= 2
    return f"{gib}GiB"
