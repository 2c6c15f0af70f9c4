"""One of several views is changed in place."""

import torch

x = torch.ones(2, 3, requires_grad=True)
a, b = (x * 2).unbind(0)
a += 1
