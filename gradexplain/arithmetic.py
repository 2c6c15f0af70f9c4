"""The arithmetic with digits to spare: mpmath in a context of our own."""

from __future__ import annotations

import mpmath

#: 50 digits are three times a float64's; more where two evaluations do not agree.
mp = mpmath.MPContext()
mp.dps = 50
