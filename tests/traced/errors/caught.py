"""An error that the script catches itself, then a backward that works."""

import torch

x = torch.tensor([1.0, 2.0], requires_grad=True)
y = x * 2
try:
    y.backward()
except RuntimeError as error:
    print("caught:", error)
y.backward(torch.ones(2))
