"""The argument of backward weighs the elements of y: the gradients are those of Σ v·y."""

import torch

a = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
b = torch.tensor([3.0, 4.0, 5.0], requires_grad=True)
c = torch.tensor([6.0, 7.0, 8.0], requires_grad=True)
y = 3 * a + 2 * b * b + torch.log(c)
v = torch.tensor([0.1, 1.0, 0.0001])
y.backward(v)
