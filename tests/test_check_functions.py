"""Functions as people write them: what is right is accepted, and a sample of natural faults is
named and mended.  The whole table is ``python -m tests.functions``.
"""

from __future__ import annotations

import pytest

from tests.functions.corpus import variants
from tests.functions.table import run

ALL = list(variants())


def test_the_table_is_as_large_as_it_says() -> None:
    assert sum(not v.codes for v in ALL) >= 80 and sum(bool(v.codes) for v in ALL) >= 240


@pytest.mark.parametrize("part", range(2))
def test_right_ones_are_accepted(part: int) -> None:
    score = run([v for v in ALL if not v.codes][part::17])
    assert score.accepted == score.right, score.said


@pytest.mark.parametrize(
    "title", ["EdgeAwareSmooth", "Exp", "GLU", "NumpyLeakyCubic", "BatchedOuter", "MVNLogProb"]
)
def test_natural_faults(title: str) -> None:
    score = run([v for v in ALL if v.title == title and v.codes])
    assert score.detected == score.wrong, score.said
    assert score.mended == score.given, score.said
    assert score.named >= score.wrong - 1, score.said
