"""A deep network of sigmoids: the first layers learn next to nothing."""

import torch
from torch import nn

torch.manual_seed(0)
layers = [part for _ in range(10) for part in (nn.Linear(8, 8), nn.Sigmoid())]
net = nn.Sequential(*layers, nn.Linear(8, 1))
opt = torch.optim.Adam(net.parameters())
x, y = torch.randn(16, 8), torch.randn(16, 1)
for _ in range(20):
    opt.zero_grad()
    loss = (net(x) - y).pow(2).mean()
    loss.backward()
    opt.step()
