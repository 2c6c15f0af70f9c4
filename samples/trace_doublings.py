"""A loop runs as often as the values ask for: the doublings that happened are the graph."""

import torch

x = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
y = x * 2
while y.norm() < 100:
    y = y * 2
y.backward(torch.tensor([0.1, 1.0, 0.0001]))
