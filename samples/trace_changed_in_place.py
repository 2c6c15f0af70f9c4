"""exp saved its result, which was then changed in place."""

import torch

x = torch.tensor([0.0, 1.0], requires_grad=True)
y = x.exp()
loss = (y * 2).sum()
y += 1
loss.backward()
