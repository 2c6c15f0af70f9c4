"""Each change in place makes a new version: out, out′, … are the same memory at different times."""

import torch

x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
out = torch.zeros(3)
out[0] = 2 * x[0]
out[1:] = x[1:] ** 2
out += 1
loss = (out * out).sum()
loss.backward()
