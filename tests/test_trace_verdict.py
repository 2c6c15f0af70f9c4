"""Whole networks as people write them: a right one is compared and agrees, a wrong backward is found."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_trace import script, traced

from gradexplain.verdict.status import EXIT

_HEAD = """import torch.nn as nn, torch.nn.functional as F
torch.manual_seed(0)
class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)
    @staticmethod
    def backward(ctx, g):
        return g*SHARE
class Block(nn.Module):
    def __init__(s, a, b, stride):
        super().__init__()
        s.c1, s.b1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        s.c2, s.b2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        s.down = nn.Sequential() if a == b else nn.Sequential(
            nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))
    def forward(s, x):
        return F.relu(s.b2(s.c2(F.relu(s.b1(s.c1(x))))) + s.down(x))
"""
_SIX = """
h = torch.randn(4, 8)
for k in range(6):
    h = F.layer_norm(nn.Linear(8, 8)(h), (8,))
    h = Wrong.apply(h) if k == 2 and SHARE != 1 else h
(h**2*torch.randn(4, 8)).mean().backward()
"""
_CONVOLUTIONS = """
h = torch.randn(2, 3, 4, 4)
for k in range(10):
    h = F.relu(nn.BatchNorm2d(3)(nn.Conv2d(3, 3, 3, padding=1)(h)))
(h*torch.randn(2, 3, 4, 4)).mean().backward()
"""
_VIT = """
h = nn.Conv2d(3, 8, 2, 2)(torch.randn(1, 3, 4, 4)).flatten(2).transpose(1, 2)
for k in range(6):
    h = nn.TransformerEncoderLayer(8, 2, 8, 0.0, batch_first=True, norm_first=True)(h)
F.cross_entropy(nn.Linear(8, 3)(h.mean(1)), torch.tensor([1])).backward()
"""
_RESNET = """
sizes = (4, 4, 1), (4, 4, 1), (4, 8, 2), (8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 16, 2), (16, 16, 1)
net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
                    *[Block(*s) for s in sizes], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
F.cross_entropy(net(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])).backward()
"""
_SPARSE = """
a = torch.eye(3).to_sparse()
torch.sparse.mm(a, torch.randn(3, 3, requires_grad=True)).sum().backward()
"""
_COMPLEX = """
z = torch.randn(3, dtype=torch.complex64, requires_grad=True)
(z*z.conj()).real.sum().backward()
"""
_AUTOCAST = """
with torch.autocast("cpu", dtype=torch.bfloat16):
    h = torch.tanh(nn.Linear(8, 8)(torch.randn(4, 8)))
    y = nn.Linear(8, 8)(Wrong.apply(h) if SHARE != 1 else h)
(y.float()**2).sum().backward()
"""


@pytest.mark.parametrize(
    ("text", "share", "status"),
    [
        (_SIX, 1.0, "agree"),
        (_SIX, 1.1, "mismatch"),
        (_SIX, 0.99, "mismatch"),
        (_CONVOLUTIONS, 1.0, "agree"),
        (_VIT, 1.0, "agree"),
        (_RESNET, 1.0, "agree"),
        (_SPARSE, 1.0, "cannot tell"),
        (_COMPLEX, 1.0, "cannot tell"),
        (_AUTOCAST, 1.0, "agree"),
        (_AUTOCAST, 1.1, "mismatch"),
    ],
    ids=["six", "six-1.1", "six-0.99", "convolutions", "vit", "resnet", "sparse", "complex", "autocast", "autocast-1.1"],
)  # fmt: skip
def test_a_network(text: str, share: float, status: str, tmp_path: Path) -> None:
    text = _HEAD.replace("SHARE", str(share)) + f"SHARE = {share}" + text
    (call,) = traced(script(tmp_path, text)).calls
    assert call.check is not None
    assert call.check.status == status, call.check
    assert EXIT[call.check.status] == {"agree": 0, "mismatch": 1, "cannot tell": 3}[status]
    if status == "agree":
        assert call.checked >= 5 and call.unchecked == 0


def test_a_gradient_that_is_all_rounding_does_not_agree(tmp_path: Path) -> None:
    text = "x = torch.tensor([1e9, 2e9], requires_grad=True)\n(torch.sqrt(x*x + 1) - x).sum().backward()"
    (call,) = traced(script(tmp_path, text)).calls
    assert call.check is not None and call.check.status == "convention"
    assert call.check.reason.startswith(
        "x.grad[0] is -5e-19, and 0 in PyTorch: PyTorch's arithmetic"
    )
