"""An RNN cell unrolled by hand."""

import torch

torch.manual_seed(1)
W = torch.randn(3, 3, requires_grad=True)
U = torch.randn(2, 3, requires_grad=True)
b = torch.zeros(3, requires_grad=True)
xs = torch.randn(4, 2)
h = torch.zeros(3)
for t in range(4):
    h = torch.tanh(xs[t] @ U + h @ W + b)
loss = (h**2).sum()
loss.backward()
