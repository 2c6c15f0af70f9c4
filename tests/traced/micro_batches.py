"""Gradient accumulation over micro-batches."""

import torch
from torch import nn

torch.manual_seed(0)
model = nn.Linear(3, 2)
data = torch.randn(6, 3)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
opt.zero_grad()
for batch in data.split(3):
    loss = model(batch).pow(2).mean() / 2
    loss.backward()
opt.step()
