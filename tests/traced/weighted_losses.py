"""Weights of several losses are v."""

import torch

w = torch.tensor(0.5, requires_grad=True)
losses = torch.stack([w * w, 3 * w, torch.exp(w)])
losses.backward(torch.tensor([-0.1, 1.0, 0.0001]))
