"""log(c) at c = 0: an infinity in the value, and in the gradient."""

import torch

a = torch.zeros(1, requires_grad=True)
b = torch.zeros(1, requires_grad=True)
c = torch.zeros(1, requires_grad=True)
y = 3 * a + 2 * b * b + torch.log(c)
y.backward(torch.tensor([3.3003]))
