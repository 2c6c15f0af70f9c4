"""A hook replaces the gradient on its way."""

import torch

x = torch.tensor([1.0, 2.0], requires_grad=True)
h = x * 3
h.register_hook(lambda g: g.clamp(max=10))
loss = (h**2).sum()
loss.backward()
