import torch
from torch import nn
import torch.nn.functional as F

torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh())
D = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1), nn.Sigmoid())
criterion = nn.BCELoss()
opt_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.5, 0.999))
opt_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
for i in range(3):
    real = torch.randn(8, 6)
    D.zero_grad()
    label = torch.full((8,), 1.0)
    err_real = criterion(D(real).view(-1), label)
    err_real.backward()
    fake = G(torch.randn(8, 4))
    label.fill_(0.0)
    err_fake = criterion(D(fake.detach()).view(-1), label)
    err_fake.backward()
    opt_d.step()
    G.zero_grad()
    label.fill_(1.0)
    err_g = criterion(D(fake).view(-1), label)
    err_g.backward()
    opt_g.step()
