import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(
    nn.Linear(4, 12), nn.GroupNorm(3, 12), nn.ELU(), nn.Linear(12, 2), nn.Softplus()
)
opt = torch.optim.NAdam(net.parameters(), lr=1e-3)
for step in range(2):
    p = net(torch.randn(6, 4))
    loss = (torch.lgamma(p.sum(1)) - torch.lgamma(p).sum(1)).mean() + F.gaussian_nll_loss(
        p[:, 0], torch.randn(6), p[:, 1]
    )
    opt.zero_grad()
    loss.backward()
    opt.step()
