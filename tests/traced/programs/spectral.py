import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(
    nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)),
    nn.LeakyReLU(),
    nn.utils.parametrizations.weight_norm(nn.Linear(5, 1)),
)
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for step in range(2):
    loss = F.softplus(-net(torch.randn(6, 4))).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
