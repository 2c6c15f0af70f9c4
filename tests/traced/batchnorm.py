"""Batch normalisation in training and in evaluation."""

import torch
from torch import nn

torch.manual_seed(0)
bn = nn.BatchNorm1d(3)
x = torch.randn(5, 3, requires_grad=True)
loss = (bn(x) ** 3).sum()
loss.backward()
bn.eval()
loss = (bn(x) ** 2).sum()
loss.backward()
