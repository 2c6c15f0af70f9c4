"""The types of what everything speaks of: shapes, and tensors as float64 arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
