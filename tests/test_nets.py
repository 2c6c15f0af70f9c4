"""Deep nets with planted faults: none is overlooked, and no right one is called wrong."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from nets import DTYPES, blocks, judge, net, places, problem, status_of, table


@pytest.mark.parametrize("program", [net, blocks])
def test_planted_faults_are_found_where_they_are(program: Any) -> None:
    for dtype, counts in table(3, seed=1, program=program).items():
        totals: Counter[str] = Counter()
        for (what, _), count in counts.items():
            totals[what] += count
        assert counts["right nets", "mismatch"] == 0, dtype
        assert counts["faults", "mismatch elsewhere"] == 0, dtype
        assert counts["faults", "agree"] == counts["faults", "convention"] == 0, dtype
        assert counts["faults", "cannot tell"] <= 0.05 * totals["faults"], dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_for_a_gradient_never_pass(dtype: str) -> None:
    source = random.Random(dtype)
    p = problem(source, dtype)
    for place in source.sample(places(p), 2):
        right = judge(p)
        made = judge(p, *place, 0.0)
        if np.any(right.steps[place].torch):
            assert made.steps[place].verdict == "mismatch"
            assert status_of(made) == "mismatch"
