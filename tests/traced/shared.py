"""Weights used twice, and tied."""

import torch
from torch import nn

torch.manual_seed(0)
encode = nn.Linear(3, 2, bias=False)
x = torch.randn(4, 3)
code = torch.sigmoid(encode(x))
decoded = code @ encode.weight
loss = ((decoded - x) ** 2).mean() + 0.1 * encode.weight.abs().sum()
loss.backward()
