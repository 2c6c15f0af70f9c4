"""A chain of two layers, then another output that adds its part to x1.grad."""

import torch

x1 = torch.full((2, 2), 2.0, requires_grad=True)
w1 = torch.full((2, 2), 5.0, requires_grad=True)
w2 = torch.full((2, 2), 6.0, requires_grad=True)
Y = torch.full((2, 2), 10.0)
x2 = x1 * w1
y = x2 * w2
L = Y - y
L.backward(torch.ones(2, 2))
L2 = x1 * x1
L2.backward(torch.ones(2, 2))
