"""backward without a v on a vector."""

import torch

a = torch.tensor([1.0, 2.0], requires_grad=True)
y = 3 * a
y.backward()
