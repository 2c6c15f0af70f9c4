"""Writing into parts of a tensor."""

import torch

x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
out = torch.zeros(4)
out[0] = x[0] * 2
out[1:3] = x[1:] ** 2
out[3] = 5.0
out.clamp_(max=8)
loss = (out * out).sum()
loss.backward()
