"""The formulas of every operation's samples: what is printed has the value that is claimed."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import sample
from test_laws import check_text

import gradexplain
from gradexplain.ops import Op, all_ops

CASES = [pytest.param(op, text, id=f"{op.name}: {text}") for op in all_ops() for text in op.samples]
PROGRAMS = sorted((Path(__file__).parent.parent / "samples").glob("*.expr"))


@pytest.mark.parametrize(("op", "text"), CASES)
def test_samples_of_every_operation(op: Op, text: str) -> None:
    expression, shapes = sample(text)
    x = gradexplain.explain(expression, shapes=shapes, grad="ones", check=False)
    try:
        check_text(x)
    except KeyError as unknown:
        pytest.skip(f"the reader does not know {unknown}")


def test_a_network() -> None:
    x = gradexplain.explain(
        "h = tanh(x @ w1.T / 100); z = h @ w2.T; -log_softmax(z, dim=1)[:, 0].mean()",
        shapes={"x": (2, 3), "w1": (4, 3), "w2": (2, 4)},
        check=False,
    )
    assert check_text(x) > 20
