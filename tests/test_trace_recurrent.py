"""Recurrent layers, which PyTorch computes in one call, are written out and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_trace import script, traced
from test_trace_second import agrees

START = """
from torch import nn
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
x = torch.randn(5, 2, 3, requires_grad=True)
"""


@pytest.mark.parametrize(
    "text",
    [
        "h = nn.RNNCell(3, 4)(x[0])",
        "h = nn.RNNCell(3, 4, bias=False, nonlinearity='relu')(x[0])",
        "h = nn.GRUCell(3, 4)(x[0], torch.ones(2, 4))",
        "h, c = nn.LSTMCell(3, 4)(x[0]); h = h * c",
        "cell = nn.LSTMCell(3, 4); h = c = torch.zeros(2, 4)\n"
        "for step in x:\n    h, c = cell(step, (h, c))",
        "out, h = nn.RNN(3, 4)(x); h = h.sum() * out",
        "out, h = nn.RNN(3, 4, 2, nonlinearity='relu', batch_first=True)(x)",
        "h, _ = nn.GRU(3, 4)(x)",
        "out, h = nn.GRU(3, 4, 2, bidirectional=True)(x); h = h.sum() + out",
        "h, _ = nn.GRU(3, 4, bias=False)(x[:, 0])",
        "out, (h, c) = nn.LSTM(3, 4)(x); h = out.sum() + (h * c).sum()",
        "_, (h, c) = nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True)(x)",
        "h, _ = nn.LSTM(3, 4, bias=False)(x)",
        "h, _ = nn.LSTM(3, 4, proj_size=2)(x)",
        "torch.set_default_dtype(torch.float32); h, _ = nn.LSTM(3, 4)(x.float())",
    ],
)
def test_layers(text: str, tmp_path: Path) -> None:
    agrees(traced(script(tmp_path, START + text + "\n(h * h).sum().backward()\n")))


@pytest.mark.parametrize(
    "layer", ["nn.GRU(3, 4, 2, dropout=0.5)(x)", "nn.RNN(3, 4)(x.repeat(40, 1, 1))"]
)
def test_what_is_not_written_out_is_pytorchs_own(layer: str, tmp_path: Path) -> None:
    (call,) = traced(script(tmp_path, START + f"h, _ = {layer}\nh.sum().backward()\n")).calls
    assert call.unchecked == 1
    assert not call.complete
