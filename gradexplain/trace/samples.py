"""Which calls of custom Functions are compared again, after the first call of their line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gradexplain.trace.snapshot import Snapshot

#: So many calls are compared again, ever farther apart by this factor, and so many more in which a
#: Function is given numbers far outside of all it was given before.
_MOST, _FACTOR = 8, 2


class Samples:
    """Chosen while a script runs; ``kept`` are the calls by their index."""

    def __init__(self) -> None:
        self.kept: dict[int, Snapshot] = {}
        #: The call in whose forward a Function was chosen last.
        self.call = 0
        self._next = 2
        #: By Function, the least and the largest number that it was given.
        self._ranges: dict[Any, tuple[float, float]] = {}

    def wants(self, function: Any, tensors: Sequence[Any], index: int) -> bool:
        """Whether a Function is to be seen in the forward of that call."""
        due = len(self.kept) < _MOST and index >= self._next
        if due or (len(self.kept) < 2 * _MOST and self._is_new(function, tensors)):
            self.call = index
        return self.call == index

    def _is_new(self, function: Any, tensors: Sequence[Any]) -> bool:
        ends = [t.aminmax() for t in tensors if t.is_floating_point() and t.numel()]
        least = min((float(end.min) for end in ends), default=0.0)
        most = max((float(end.max) for end in ends), default=0.0)
        low, high = self._ranges.get(function, (least, most))
        new = function not in self._ranges or max(low - least, most - high) > high - low
        self._ranges[function] = min(low, least), max(high, most)
        return new

    def keep(self, snapshot: Snapshot) -> None:
        """Keep a call with its custom Functions alone: what others sent counts as PyTorch's own."""
        self._next = max(self._next, _FACTOR * snapshot.index + 1)
        operations = [o if o.graphs else replace(o, opaque="left out") for o in snapshot.operations]
        self.kept[snapshot.index] = replace(snapshot, operations=operations)
