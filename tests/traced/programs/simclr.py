import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for step in range(2):
    x = torch.randn(4, 6)
    z = F.normalize(net(torch.cat([x + 0.1 * torch.randn_like(x), x])), dim=1)
    sim = z @ z.T / 0.5
    sim = sim.masked_fill(torch.eye(8, dtype=torch.bool), float("-inf"))
    labels = torch.cat([torch.arange(4, 8), torch.arange(0, 4)])
    loss = F.cross_entropy(sim, labels)
    opt.zero_grad()
    loss.backward()
    opt.step()
