"""Gradients that are meant to be numbers: an attack, a class map, one inner step, a layer's scale."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
conv, head = nn.Conv2d(1, 3, 3), nn.Linear(3, 2)
opt = torch.optim.Adam([*conv.parameters(), *head.parameters()])
for _ in range(2):
    x, y = torch.randn(2, 1, 5, 5, requires_grad=True), torch.tensor([0, 1])
    maps = F.relu(conv(x))
    logits = head(maps.mean((2, 3)))
    loss = F.cross_entropy(logits, y)
    (slope,) = torch.autograd.grad(loss, x, retain_graph=True)
    attacked = head(F.relu(conv((x + 0.1 * slope.sign()).detach())).mean((2, 3)))
    weights = torch.autograd.grad(logits[:, 0].sum(), maps, retain_graph=True)[0]
    cam = F.relu((weights.mean((2, 3), keepdim=True) * maps).sum(1))
    inner = dict(zip("wb", head.parameters(), strict=True))
    steps = torch.autograd.grad(loss, inner.values(), retain_graph=True)
    w, b = (p - 0.1 * s for p, s in zip(inner.values(), steps, strict=True))
    after = F.cross_entropy(F.linear(maps.mean((2, 3)), w, b), y)
    opt.zero_grad()
    (loss + F.cross_entropy(attacked, y) + 0.1 * cam.mean() + after).backward()
    opt.step()
