import torch
from torch import nn

torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
D = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-4)
opt_g = torch.optim.Adam(G.parameters(), lr=1e-4)
for i in range(2):
    for _ in range(2):
        opt_d.zero_grad()
        real, fake = torch.randn(8, 6), G(torch.randn(8, 4)).detach()
        eps = torch.rand(8, 1)
        mixed = (eps * real + (1 - eps) * fake).requires_grad_(True)
        score = D(mixed)
        grads = torch.autograd.grad(score, mixed, torch.ones_like(score), create_graph=True)[0]
        penalty = ((grads.norm(2, dim=1) - 1) ** 2).mean()
        loss_d = D(fake).mean() - D(real).mean() + 10 * penalty
        loss_d.backward()
        opt_d.step()
    opt_g.zero_grad()
    loss_g = -D(G(torch.randn(8, 4))).mean()
    loss_g.backward()
    opt_g.step()
