"""Two calls add up in .grad (3, then 6) until it is zeroed."""

import torch

a = torch.tensor(1.0, requires_grad=True)
b = torch.tensor(1.0, requires_grad=True)
c = torch.tensor(1.0, requires_grad=True)
y = 3 * a + 2 * b * b + torch.log(c)
y.backward(retain_graph=True)
y.backward(retain_graph=True)
for leaf in (a, b, c):
    leaf.grad.zero_()
y.backward()
