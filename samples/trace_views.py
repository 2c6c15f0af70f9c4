"""Views of one tensor changed in place: each change makes a new version of the tensor behind."""

import torch

x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
y = x.clone()
row = y[0]
row *= 10
y.view(-1)[1:3].add_(1)
loss = (y * y).sum() + row.sum()
loss.backward()
