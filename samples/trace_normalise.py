"""Columns that sum to one: v of ones gives 0 everywhere, although J is not 0."""

import torch

x = torch.tensor([[2.0, 1], [3, 3], [5, 5]], requires_grad=True)
s = x.sum(dim=0)
y = x / s
y.backward(torch.tensor([[1.0, 0], [0, 2], [0.5, -1]]), retain_graph=True)
x.grad = None
y.backward(torch.ones(3, 2))
