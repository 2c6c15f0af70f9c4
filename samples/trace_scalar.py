"""A scalar needs no argument: v is 1."""

import torch

a = torch.tensor(0.1, requires_grad=True, dtype=torch.float64)
b = torch.tensor(1.0, requires_grad=True, dtype=torch.float64)
c = torch.tensor(0.1, requires_grad=True, dtype=torch.float64)
y = 3 * a + 2 * b * b + torch.log(c)
y.backward()
