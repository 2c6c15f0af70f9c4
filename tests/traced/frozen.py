"""Frozen parameters."""

import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(2, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        return self.head(self.body(x).relu())


net = Net()
for p in net.body.parameters():
    p.requires_grad_(False)
loss = net(torch.randn(4, 2)).sum()
loss.backward()
