import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
users, items = nn.Embedding(5, 3, sparse=True), nn.Embedding(7, 3, sparse=True)
opt = torch.optim.SparseAdam([*users.parameters(), *items.parameters()], lr=1e-2)
for step in range(2):
    u, i, r = torch.randint(0, 5, (6,)), torch.randint(0, 7, (6,)), torch.rand(6)
    loss = F.mse_loss((users(u) * items(i)).sum(1), r)
    opt.zero_grad()
    loss.backward()
    opt.step()
