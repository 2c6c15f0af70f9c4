import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
for step in range(2):
    a, p, n = torch.randn(3, 6, 5)
    loss = nn.TripletMarginLoss(margin=1.0)(net(a), net(p), net(n))
    opt.zero_grad()
    loss.backward()
    opt.step()
