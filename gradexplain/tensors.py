"""The types of what everything speaks of: shapes, and tensors as float64 arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
