"""where, clamp, maximum: branches as data."""

import torch

x = torch.tensor([-2.0, -0.5, 0.5, 2.0], requires_grad=True)
y = torch.where(x > 0, x**2, -x)
z = x.clamp(-1, 1)
m = torch.maximum(x, torch.zeros(4))
loss = (y * z).sum() + m.sum() + x.max()
loss.backward()
