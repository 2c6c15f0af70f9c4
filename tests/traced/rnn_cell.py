"""PyTorch's own RNN cell and LSTM."""

import torch
from torch import nn

torch.manual_seed(1)
cell = nn.RNNCell(2, 3)
lstm = nn.LSTM(2, 3)
xs = torch.randn(4, 1, 2)
h = torch.zeros(1, 3)
for x in xs:
    h = cell(x, h)
out, (hn, cn) = lstm(xs)
loss = h.sum() + out.pow(2).mean() + cn.sum()
loss.backward()
