"""torch.autograd.grad, with a v, and allow_unused."""

import torch

x = torch.tensor([1.0, 2.0], requires_grad=True)
w = torch.tensor([3.0, 4.0], requires_grad=True)
unused = torch.ones(2, requires_grad=True)
y = x * w
z = y.exp()
gx, gy, gu = torch.autograd.grad(z, [x, y, unused], torch.tensor([1.0, 0.5]), allow_unused=True)
