"""Embedding and cross entropy."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
embedding = nn.Embedding(5, 3)
out = nn.Linear(3, 4)
words = torch.tensor([0, 2, 2])
labels = torch.tensor([1, 3, 0])
logits = out(embedding(words))
loss = F.cross_entropy(logits, labels)
loss.backward()
