"""z.sum().backward() is z.backward(ones): the sum sends 1 to every element."""

import torch

x = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
z = 2 * x
loss = z.sum(dim=1)
loss.backward()
