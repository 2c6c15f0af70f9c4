"""Changes in place of values that are not leaves."""

import torch

x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
y = x * 2
y += 1
y.mul_(3)
z = y.sin()
w = x + 1
w.relu_()
loss = z.sum() + w.sum()
loss.backward()
