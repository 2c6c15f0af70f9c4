"""Hooks on a leaf and on a value in between."""

import torch

x = torch.tensor([1.0, 2.0], requires_grad=True)
h = x * 3
h.register_hook(lambda g: g * 10)
x.register_hook(lambda g: g + 1)
h.retain_grad()
loss = (h**2).sum()
loss.backward()
