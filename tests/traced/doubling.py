"""A loop that runs as long as the value is small."""

import torch

x = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
y = x * 2
while y.norm() < 1000:
    y = y * 2
y.backward(torch.tensor([0.1, 1.0, 0.0001]))
