"""Subscripts in PyTorch's order: integers select first, then tables of integers index what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradexplain

SHAPE = (2, 3, 2, 2)


def items(size: int) -> st.SearchStrategy[str]:
    index = st.integers(-size, size - 1)
    return st.one_of(
        index.map(str),
        st.lists(index, min_size=2, max_size=2).map(str),
        st.just(":"),
        st.integers(0, size - 1).map(lambda n: f"{n}:"),
    )


@st.composite
def subscripts(draw: Any) -> str:
    parts = [draw(items(size)) for size in SHAPE]
    count = draw(st.integers(1, len(parts)))
    parts = parts[:count]
    if draw(st.booleans()):
        parts.insert(draw(st.integers(0, count)), "None")
    return ", ".join(parts)


def held(index: str) -> None:
    """Shape and gradient are PyTorch's."""
    values = np.arange(1.0, 25.0).reshape(SHAPE)
    x = torch.tensor(values, requires_grad=True)
    y = eval(f"x[{index}]", {"x": x})
    v = torch.arange(1.0, y.numel() + 1, dtype=torch.float64).reshape(y.shape)
    y.backward(v)
    found = gradexplain.explain(f"x[{index}]", at={"x": values}, grad=v.numpy(), check=False)
    assert found.output.shape == tuple(y.shape)
    assert x.grad is not None
    np.testing.assert_array_equal(found.gradients["x"].value, x.grad.numpy())


@settings(max_examples=25, deadline=None)
@given(subscripts())
def test_subscript(index: str) -> None:
    held(index)


@pytest.mark.parametrize(
    "index", ["0, :, [0, 1]", ":, [1, 2], :, 0", "[0, 1], :, 0, [1, 0]", "..., 1, [0, 1]", "1, None, [0, 2]"]
)  # fmt: skip
def test_integers_select_first(index: str) -> None:
    held(index)
