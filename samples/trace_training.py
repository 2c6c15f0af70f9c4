"""A training loop: its first backward in full, the others in a line each."""

import torch
from torch import nn

net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
with torch.no_grad():
    for parameter in net.parameters():
        parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
opt = torch.optim.SGD(net.parameters(), lr=0.125)
x = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
target = torch.tensor([[1.0], [0.0]])
for _ in range(12):
    opt.zero_grad()
    loss = ((net(x) - target) ** 2).mean()
    loss.backward()
    opt.step()
print("done")
