"""What is known of the inputs before a text is read, and values for what the text draws at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from gradexplain.explanation import Array, Shape


@dataclass(slots=True)
class Inputs:
    """What is known of the inputs before the text is read.

    ``given`` are values, ``ones`` names of inputs that are ones in whatever shape they have,
    ``shapes`` shapes that were asked for, ``default`` the shape of an input that is not in it.
    """

    given: Mapping[str, Array] = field(default_factory=dict)
    ones: frozenset[str] = frozenset()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    default: Callable[[str], Shape] = lambda name: ()
    _count: int = 0

    def shape(self, name: str) -> Shape:
        return tuple(self.shapes[name]) if name in self.shapes else self.default(name)

    def gives(self, name: str) -> bool:
        return name in self.given or name in self.ones

    def value(self, name: str, shape: Shape) -> Array:
        """The value of an input by name."""
        if name in self.given:
            return self.given[name]
        return np.ones(shape) if name in self.ones else self.example(shape, signs=False)

    def example(self, shape: Shape, *, signs: bool) -> Array:
        """Example values, other ones each time; with both signs where ``signs``, else positive."""
        count = math.prod(shape)
        places = np.arange(self._count + 1, self._count + count + 1)
        self._count += count
        # The golden ratio's multiples fill the interval evenly and never repeat.
        spread = np.round((places * 0.6180339887498949) % 1.0, 2)
        values = np.where(spread == 0, 0.01, spread)
        if signs:
            values = np.where(places % 2 == 0, -values, values) + 0.0
        return values.reshape(shape)
