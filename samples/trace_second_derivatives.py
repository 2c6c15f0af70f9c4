"""Second derivatives: differentiate the gradient, with create_graph=True."""

import torch

x1 = torch.tensor(3.0, requires_grad=True)
x2 = torch.tensor(1.0, requires_grad=True)
y = x1**2 + x2**2 + x1 * x2
d1, d2 = torch.autograd.grad(y, [x1, x2], create_graph=True)
d1.backward()
