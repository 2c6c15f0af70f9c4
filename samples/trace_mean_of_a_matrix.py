"""out = mean(3(x + 2)²): every element of x gets 6(x + 2)/4 = 4.5."""

import torch

x = torch.ones(2, 2, requires_grad=True)
y = x + 2
z = y * y * 3
out = z.mean()
out.backward()
