"""A gradient penalty: the norm of a gradient is a loss, so the gradient is differentiated again."""

import torch

x = torch.tensor([[1.0, 2.0], [0.5, -1.0]], requires_grad=True)
w = torch.tensor([[0.5], [-1.0]], requires_grad=True)
score = torch.tanh(x @ w)
(g,) = torch.autograd.grad(score.sum(), x, create_graph=True)
penalty = ((g.norm(dim=1) - 1) ** 2).mean()
penalty.backward()
