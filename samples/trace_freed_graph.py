"""A value carried over from one step to the next: the second backward finds its graph freed."""

import torch

w = torch.tensor(0.5, requires_grad=True)
h = torch.tensor(1.0)
for _ in range(2):
    h = h * w
    loss = (h - 1) ** 2
    loss.backward()
