"""A small convolutional network."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
conv = nn.Conv2d(1, 2, 3, padding=1)
fc = nn.Linear(8, 3)
images = torch.randn(2, 1, 4, 4)
h = F.max_pool2d(F.relu(conv(images)), 2)
logits = fc(h.flatten(1))
loss = F.nll_loss(F.log_softmax(logits, dim=1), torch.tensor([0, 2]))
loss.backward()
