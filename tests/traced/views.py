"""Views of one tensor, one of them changed in place."""

import torch

x = torch.arange(6.0, requires_grad=True)
base = x * 1.0
row = base.view(2, 3)[0]
row.mul_(10)
col = base.view(3, 2)[:, 1]
flipped = base.view(2, 3).t()
loss = (base**2).sum() + col.sum() + row.sum() + flipped[0].prod()
loss.backward()
