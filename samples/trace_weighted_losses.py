"""Several losses, weighed by v."""

import torch

w = torch.tensor(0.5, requires_grad=True, dtype=torch.float64)
losses = torch.stack([w * w, 3 * w, torch.exp(w)])
losses.backward(torch.tensor([-0.1, 1.0, 0.0001], dtype=torch.float64))
