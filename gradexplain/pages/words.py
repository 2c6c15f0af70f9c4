"""Small pieces of text that pages share."""

from __future__ import annotations

from collections.abc import Iterable

from gradexplain.document.model import Block, Paragraph, label, line, math
from gradexplain.explanation import ForwardRow, Input


def merged(ranges: Iterable[str]) -> str:
    """``i, j = 0…2`` once for all formulas; a letter that has two ranges has neither."""
    bounds: dict[str, set[str]] = {}
    for part in (p for r in ranges for p in r.split("; ") if p):
        letters, _, bound = part.partition(" = ")
        for letter in letters.split(", "):
            bounds.setdefault(letter, set()).add(bound)
    groups: dict[str, list[str]] = {}
    for letter in sorted(bounds):
        if len(bounds[letter]) == 1:
            groups.setdefault(bounds[letter].pop(), []).append(letter)
    return "; ".join(f"{', '.join(letters)} = {bound}" for bound, letters in groups.items())


def definitions(lines: Iterable[str]) -> Iterable[Block]:
    """What the names in the formulas above stand for."""
    for place, text in enumerate(lines):
        yield Paragraph(line(label("      " if place else "where "), math(text)), indent=4, hang=10)


def quoted(row: ForwardRow) -> str:
    loose = row.op in ("add", "sub", "mul", "div", "matmul", "pow", "neg") and row.text != row.node
    return f"({row.text})" if loose else row.text


def standing(i: Input) -> str:
    """What sets an input apart from one that gets a gradient."""
    if i.integer:
        return "integers, an index: it has no gradient"
    return "" if i.wanted else "a constant here: not in --wrt"


def spot_of(label: str, index: tuple[int, ...]) -> str:
    return f"{label}[{','.join(map(str, index))}]" if index else label


def signed(text: str) -> str:
    return f"({text})" if text.startswith("−") else text


def letters_for(count: int, taken: set[str]) -> list[str]:
    return [letter for letter in "ikmacegopqrstu" if letter not in taken][:count]
