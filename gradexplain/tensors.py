"""The types of what everything speaks of: shapes, and tensors as float64 arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Array = NDArray[np.float64]
