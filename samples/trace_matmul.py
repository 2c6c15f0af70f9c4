"""A product of matrices: w is a constant here."""

import torch

x = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]], requires_grad=True)
w = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
y = torch.matmul(x, w.T)
y.backward(torch.ones(3, 2))
