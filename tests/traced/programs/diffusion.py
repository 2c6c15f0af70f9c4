import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 2))
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
betas = torch.linspace(1e-4, 0.02, 20)
alphas = torch.cumprod(1 - betas, 0)
for step in range(3):
    x0, t = torch.randn(8, 2), torch.randint(0, 20, (8,))
    noise = torch.randn_like(x0)
    a = alphas[t].unsqueeze(1)
    xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
    loss = F.mse_loss(net(torch.cat([xt, t[:, None] / 20], 1)), noise)
    opt.zero_grad(set_to_none=True)
    loss.backward()
    opt.step()
