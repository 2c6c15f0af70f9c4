"""One step of a GAN: the discriminator sees the generator's output detached."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
G = nn.Linear(2, 3)
D = nn.Linear(3, 1)
opt_d = torch.optim.SGD(D.parameters(), lr=0.1)
opt_g = torch.optim.SGD(G.parameters(), lr=0.1)
noise = torch.randn(4, 2)
real = torch.randn(4, 3)
fake = G(noise)
detached = fake.detach()
d_loss = F.softplus(-D(real)).mean() + F.softplus(D(detached)).mean()
d_loss.backward()
opt_d.step()
opt_g.zero_grad()
g_loss = F.softplus(-D(fake)).mean()
g_loss.backward()
opt_g.step()
