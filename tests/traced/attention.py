"""nn.MultiheadAttention and nn.TransformerEncoderLayer."""

import torch
from torch import nn

torch.manual_seed(0)
attention = nn.MultiheadAttention(4, 2, batch_first=True)
layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
x = torch.randn(2, 3, 4)
y, weights = attention(x, x, x)
loss = layer(y).pow(2).sum()
loss.backward()
