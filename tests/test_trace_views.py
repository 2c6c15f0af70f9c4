"""Changes in place, of views above all: each version is a value of its own, made by formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_trace import script, traced
from test_trace_second import agrees

from gradexplain.trace.seen import Pick

START = """
torch.manual_seed(0)
x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
w = torch.randn(4, dtype=torch.float64, requires_grad=True)
"""


@pytest.mark.parametrize(
    "text",
    [
        "y = x.clone(); y[0] *= 2; y.view(-1)[1:3].add_(1)",
        "y = x.clone(); y[1].mul_(w)",
        "y = x.clone(); y[:, ::2].mul_(w[:2])",
        "y = x * 1; a = y[0]; a.mul_(3); y = y + a",
        "y = x * 1; t = y.t(); t[1].exp_(); y = y * t.T",
        "y = x.clone(); y.diagonal().mul_(w[:3])",
        "y = x.clone(); y[1:][0] = w",
        "y = x.clone(); y.view(-1)[torch.tensor([1, 5])] = w[:2]",
        "y = x.clone(); y.view(4, 3)[2] = 5.0",
        "y = x.clone(); y[0].zero_(); y[1].fill_(2.0)",
        "y = x.clone(); y[0].copy_(w)",
        "y = x.clone(); y[0].add_(w, alpha=3)",
        "y = x.clone(); y[0].sigmoid_()",
        "y = x.clone() * 1; y.copy_(w); y = y * x",
        "y = x * 1; y.zero_(); y = y + x",
        "y = x.clone(); y[0].clamp_(min=0.1)",
        "y = x.clone(); y[2].addcmul_(w, w, value=0.5)",
        "y = torch.zeros(3, 4, dtype=torch.float64)\nfor i in range(3):\n    y[i] = x[i] * w",
        "y = torch.zeros(3, 4, dtype=torch.float64); a = y[1]; a.copy_(w); y = y + x; y = y + a",
        "y = x.clone(); a = y[0]; b = y[0]; a.mul_(2); b.mul_(3); y = y + a * b",
        "y = x.clone(); a = y.view(-1); y.mul_(2); y = y + a.view(3, 4)",
        "y = x.clone(); y[0].add_(y[1])",
        "y = x.clone(); y[0].mul_(y[0].detach().clone())",
        "y = x.t().clone(); y[0].mul_(2); y = y.t()",
        "y = x.clone().t(); y[0].mul_(2); y = y.t()",
        "y = x.clone(); a, b = y[:, :2], y[:, 2:]; a += b",
        "y = x.clone(); y.unsqueeze(0).squeeze(0)[1, 2].mul_(5)",
    ],
)
def test_views(text: str, tmp_path: Path) -> None:
    agrees(traced(script(tmp_path, START + text + "\n(y * y.sin()).sum().backward()\n")))


def test_a_view_in_a_second_backward(tmp_path: Path) -> None:
    agrees(traced(script(tmp_path, START + (
        "y = x.clone()\n"
        "y[0].mul_(w)\n"
        "(g,) = torch.autograd.grad((y ** 3).sum(), x, create_graph=True)\n"
        "g.pow(2).sum().backward()\n"
    ))))  # fmt: skip


def test_versions_are_told_apart(tmp_path: Path) -> None:
    """The tensor behind the view has the script's name, a prime for each change."""
    (call,) = traced(script(tmp_path, START + (
        "y = x.clone()\n"
        "y[0].mul_(2)\n"
        "y.view(-1)[1:3].add_(1)\n"
        "y.sum().backward()\n"
    ))).calls  # fmt: skip
    assert [row.node for row in call.forward] == ["y", "y′", "y′′", "t1"]
    values = [row.value for row in call.forward[:3]]
    expected = values[0].copy()
    expected[0] *= 2
    np.testing.assert_array_equal(values[1], expected)
    expected.reshape(-1)[1:3] += 1
    np.testing.assert_array_equal(values[2], expected)


def test_a_large_view_is_pytorchs_own(tmp_path: Path) -> None:
    (call,) = traced(script(tmp_path, (
        "x = torch.ones(400, 300, requires_grad=True)\n"
        "y = x * 1\n"
        "y[0].mul_(2)\n"
        "y.sum().backward()\n"
    )), Pick()).calls  # fmt: skip
    assert not call.complete
    assert "changes a view in place" in " ".join(str(call).split())
    assert torch.equal(
        torch.tensor(call.accumulated[0].added[0, :2]), torch.tensor([2.0, 2.0]).double()
    )
