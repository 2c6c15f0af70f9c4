"""The rows of the table of gradients, repeated layers as one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gradexplain.explanation import Shape
from gradexplain.trace.snapshot import LeftOut

#: The table has so many rows at the most; more are collapsed, layer by layer and then by module.
ROWS = 22


@dataclass(slots=True)
class Row:
    """A parameter, or several alike: the norm of what the first call added, and the last; one that
    is ``frozen`` gets nothing.
    """

    name: str
    shape: str
    count: int
    norm: float
    largest: float
    zeros: float | None
    ratio: float | None
    last: float | None
    frozen: bool = False


def frozen(left: Sequence[LeftOut], rows: Sequence[Row]) -> list[Row]:
    """Rows for what is frozen in the modules that something else learns in."""
    learning = {row.name.partition(".")[0] for row in rows}
    found = [
        Row(each.name, written(each.shape), 1, 0.0, 0.0, None, None, None, frozen=True)
        for each in left
        if each.parameter and not each.requires and each.name.partition(".")[0] in learning
    ]
    return _merged(found, _outer)


def written(shape: Shape) -> str:
    """``3×4``."""
    return "×".join(map(str, shape)) or "scalar"


def collapsed(rows: list[Row]) -> list[Row]:
    """At most `ROWS` rows: repeated layers as one, then a row for each module."""
    for key in (_layer, _layers_twice, _module, _outer):
        if len(rows) <= ROWS:
            return rows
        rows = _merged(rows, key)
    return rows[: ROWS - 1] + [_one(rows[ROWS - 1 :], f"{len(rows) - ROWS + 1} more")]


def _layer(name: str) -> str:
    """``blocks.3.attn.weight`` as ``blocks.#.attn.weight``."""
    return re.sub(r"(?<=[.\[])\d+(?=[.\]])", "#", name, count=1)


def _layers_twice(name: str) -> str:
    return re.sub(r"(?<=[.\[])(?:\d+|[\d…#]+)(?=[.\]])", "#", name)


def _module(name: str) -> str:
    return _layers_twice(name).rpartition(".")[0] or name


def _outer(name: str) -> str:
    return ".".join(_layers_twice(name).split(".")[:2])


def _merged(rows: list[Row], key: Callable[[str], str]) -> list[Row]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row.name), []).append(row)
    made = []
    for pattern, members in groups.items():
        if len(members) == 1:
            made.append(members[0])
        else:
            made.append(_one(members, _spanned(pattern, [row.name for row in members])))
    return made


def _spanned(pattern: str, names: Sequence[str]) -> str:
    """``blocks.0…11.attn.weight``: what the numbers of the members span."""
    if "#" not in pattern:
        return f"{pattern}.*"
    spans = []
    for place in range(pattern.count("#")):
        found = [re.findall(r"(?<=[.\[])(\d+)(?:…(\d+))?(?=[.\]])", name) for name in names]
        ends = [int(n) for parts in found if place < len(parts) for n in parts[place] if n]
        spans.append(f"{min(ends)}…{max(ends)}" if ends and min(ends) < max(ends) else
                     str(ends[0]) if ends else "#")  # fmt: skip
    whole = pattern
    for span in spans:
        whole = whole.replace("#", span, 1)
    return whole if names[0].count(".") == pattern.count(".") else f"{whole}.*"


def _one(rows: Sequence[Row], name: str) -> Row:
    shapes = {row.shape for row in rows}
    zeros = [row.zeros for row in rows if row.zeros is not None]
    ratios = [row.ratio for row in rows if row.ratio is not None]
    lasts = [row.last for row in rows if row.last is not None]
    return Row(
        name, shapes.pop() if len(shapes) == 1 else f"{sum(row.count for row in rows)} tensors",
        sum(row.count for row in rows), math.hypot(*(row.norm for row in rows)),
        max(row.largest for row in rows), float(np.mean(zeros)) if zeros else None,
        float(np.median(ratios)) if ratios else None, math.hypot(*lasts) if lasts else None,
        all(row.frozen for row in rows),
    )  # fmt: skip
