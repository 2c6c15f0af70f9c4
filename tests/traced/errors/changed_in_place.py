"""A value that an operation saved is changed in place."""

import torch

x = torch.tensor([1.0, 2.0], requires_grad=True)
y = x.exp()
z = (y * 2).sum()
y += 1
z.backward()
