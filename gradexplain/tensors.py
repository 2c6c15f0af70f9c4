"""The types of what everything speaks of: shapes, and tensors as float64 arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Array = NDArray[np.float64]


def instances(value: Any, kind: Any) -> Iterator[Any]:
    """Every ``kind`` among a call's arguments: in lists, tuples and mappings of any depth."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from instances(part, kind)
    elif isinstance(value, Mapping):
        yield from instances([*value.values()], kind)


def mapped(value: Any, kind: Any, change: Callable[[Any], Any]) -> Any:
    """A call's arguments or results with every ``kind`` among them changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (list, tuple)):
        parts = [mapped(part, kind, change) for part in value]
        return value.like(parts) if hasattr(value, "like") else type(value)(parts)
    if isinstance(value, dict):
        return {name: mapped(part, kind, change) for name, part in value.items()}
    return value


def spot(name: str, index: Sequence[int]) -> str:
    """An element as formulas name it: ``x[1,2]``; a number that stands alone has its name only."""
    return f"{name}[{','.join(map(str, index))}]" if index else name
