"""The optimizer steps between forward and backward."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
out = net(torch.ones(1, 2))
out.sum().backward(retain_graph=True)
opt.step()
out.pow(2).sum().backward()
