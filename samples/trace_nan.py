"""A distance of 0 under a square root: the loss is a number, its gradient is not."""

import torch

points = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
squares = (points[:, None] - points[None]).pow(2).sum(-1)
distances = squares.sqrt()
distances.mean().backward()
