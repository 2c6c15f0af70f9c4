"""Two losses with one trunk, in one call and in two."""

import torch

x = torch.tensor([1.0, 2.0], requires_grad=True)
w = torch.tensor([0.5, -1.0], requires_grad=True)
h = x * w
first = (h**2).sum()
second = h.exp().sum()
first.backward(retain_graph=True)
second.backward()
x.grad = w.grad = None
h = x * w
torch.autograd.backward([(h**2).sum(), h.exp()], [None, torch.tensor([1.0, 2.0])])
