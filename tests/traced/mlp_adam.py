"""An MLP with Adam, three steps."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
opt = torch.optim.Adam(net.parameters(), lr=0.1)
x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
target = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
for _ in range(6):
    opt.zero_grad()
    prediction = net(x)
    loss = nn.functional.mse_loss(prediction, target)
    loss.backward()
    opt.step()
