"""A v with a single 1 picks one element of z, ones take them all together."""

import torch

x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
z = 2 * x
z.backward(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), retain_graph=True)
x.grad = None
z.backward(torch.ones(1, 4))
