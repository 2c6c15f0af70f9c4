"""A recurrent cell computes its gates in one call of PyTorch's: it is written out here."""

import torch

cell = torch.nn.LSTMCell(1, 2)
for weights in cell.parameters():
    torch.nn.init.constant_(weights, 0.5)
x = torch.tensor([[1.0]])
h, c = cell(x)
loss = (h * h).sum()
loss.backward()
