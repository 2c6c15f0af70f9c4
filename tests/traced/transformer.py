"""A small transformer block written out."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.q = nn.Linear(d, d)
        self.k = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d)
        self.up = nn.Linear(d, 2 * d)
        self.down = nn.Linear(2 * d, d)

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
        mask = torch.triu(torch.ones(x.size(-2), x.size(-2), dtype=torch.bool), 1)
        scores = scores.masked_fill(mask, float("-inf"))
        x = x + F.softmax(scores, dim=-1) @ v
        return x + self.down(F.gelu(self.up(self.norm(x))))


torch.manual_seed(0)
block = Block(4)
tokens = torch.randn(2, 3, 4)
out = block(tokens)
loss = out.pow(2).mean()
loss.backward()
