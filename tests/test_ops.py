"""Every operation, by the registry: three routes, and central differences in higher precision."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import sample

import gradexplain
from gradexplain.ops import Op, all_ops

CASES = [
    pytest.param(op, text, id=f"{op.name}: {text}") for op in all_ops() for text in op.samples
]


@pytest.mark.parametrize(("op", "text"), CASES)
def test_three_routes_agree(op: Op, text: str) -> None:
    expression, shapes = sample(text)
    x = gradexplain.explain(expression, shapes=shapes, grad="ones")
    assert x.check is not None
    assert x.check.status == "agree", [x.check.reason, x.check.differences]
