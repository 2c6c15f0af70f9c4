"""Layers that PyTorch computes in one call are written out and checked."""

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
    "layer", ["nn.GRU(3, 4, 2, dropout=0.5)(x)", "nn.LSTM(3, 4, 2)(x.repeat(40, 1, 1))"]
)
def test_what_is_not_written_out_is_pytorchs_own(layer: str, tmp_path: Path) -> None:
    (call,) = traced(script(tmp_path, START + f"h, _ = {layer}\nh.sum().backward()\n")).calls
    assert call.unchecked == 1
    assert not call.complete


FUSED = """
import torch.nn.functional as F
attention = nn.MultiheadAttention(4, 2, batch_first=True)
q, k = torch.randn(3, 5, 4, requires_grad=True), torch.randn(3, 6, 4, requires_grad=True)
picture = torch.randn(2, 4, 3, 5, requires_grad=True)
late = torch.arange(6) > torch.tensor([[5], [3], [4]])
"""


@pytest.mark.parametrize(
    "text",
    [
        "h, w = attention(q, k, k)",
        "h, w = attention(q, k, k, average_attn_weights=False); h = w * 2",
        "h, _ = attention(q, k, k, key_padding_mask=late)",
        "h, _ = attention(q, q, q, attn_mask=torch.ones(5, 5).triu(1).bool(), need_weights=False)",
        "h, _ = attention(q, q, q, attn_mask=torch.randn(6, 5, 5))",
        "h, _ = attention(q[0], k[0], k[0])",
        "h, _ = nn.MultiheadAttention(4, 2, kdim=4, vdim=2)(q, q, q[..., :2])",
        "h = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)(picture)",
        "h = nn.ConvTranspose2d(4, 2, (2, 3), dilation=(2, 1), padding=(1, 0))(picture)",
        "h = nn.ConvTranspose1d(4, 2, 4, stride=3, bias=False)(picture[:, :, 0])",
        "h = F.interpolate(picture, scale_factor=2)",
        "h = F.interpolate(picture, size=(7, 4), mode='nearest-exact')",
        "h = F.interpolate(picture, scale_factor=(1.5, 2), mode='bilinear')",
        "h = F.interpolate(picture, size=(6, 9), mode='bilinear', align_corners=True)",
        "h = F.interpolate(picture, size=(2, 3), mode='area')",
        "h = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))(x)",
        "grid = F.affine_grid(torch.randn(2, 2, 3) / 3, [2, 4, 4, 5], align_corners=False)\n"
        "h = F.grid_sample(picture, grid, align_corners=False)",
        "h = F.grid_sample(picture, torch.rand(2, 2, 2, 2) * 3, padding_mode='border', align_corners=True)",
        "h = F.ctc_loss(x.log_softmax(2), torch.tensor([1, 2, 1]), torch.tensor([5, 4]), torch.tensor([2, 1]))",
        "h = nn.CTCLoss(zero_infinity=True)(x.log_softmax(2), torch.tensor([[1, 2], [1, 1]]), (5, 5), (2, 1))",
        "h = nn.PixelShuffle(2)(picture) + nn.PixelUnshuffle(1)(nn.PixelShuffle(2)(picture))",
        "h = F.fold(F.unfold(picture, (2, 3), padding=1), (3, 5), (2, 3), padding=1)",
        "h = nn.AdaptiveMaxPool2d((2, None))(picture)",
        "h = nn.EmbeddingBag(4, 3, mode='sum')(torch.tensor([0, 3, 3]), torch.tensor([0, 1]))",
        "h = torch.pdist(x[:, 0]) + torch.quantile(x, 0.3)",
        "h = torch.linalg.eigvalsh(x[:3, 0] @ x[:3, 0].T).log()",
        "h = torch.linalg.svdvals(x) + torch.linalg.matrix_norm(x, 2).sum() + torch.linalg.cond(x[0])",
        "h = nn.MultiMarginLoss()(x[0], torch.tensor([2, 0]))",
    ],
)
def test_fused_calls(text: str, tmp_path: Path) -> None:
    agrees(traced(script(tmp_path, START + FUSED + text + "\n(h * h).sum().backward()\n")))
