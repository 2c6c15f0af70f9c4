"""What flows into y is the v that y.backward(v) would need: [4, 8, 12]."""

import torch

x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
y = 2 * x
y.retain_grad()
z = (y**2).sum()
z.backward(retain_graph=True)
x.grad = None
y.backward(torch.tensor([4.0, 8.0, 12.0]))
