"""backward with a v of another shape."""

import torch

a = torch.tensor([0.1], requires_grad=True)
y = 3 * a
y.backward(torch.tensor([0.1, 1.0, 0.0001]))
