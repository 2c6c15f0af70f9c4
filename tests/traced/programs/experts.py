import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class MoE(nn.Module):
    def __init__(self, d, n, k):
        super().__init__()
        self.gate = nn.Linear(d, n)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)) for _ in range(n)
        )
        self.k = k

    def forward(self, x):
        w, idx = self.gate(x).topk(self.k, dim=-1)
        w = F.softmax(w, dim=-1)
        out = torch.zeros_like(x)
        for i, e in enumerate(self.experts):
            b, nth = torch.where(idx == i)
            if b.numel():
                out[b] += w[b, nth, None] * e(x[b])
        return out


m = nn.Sequential(nn.Linear(4, 6), MoE(6, 3, 2), nn.Linear(6, 2))
opt = torch.optim.AdamW(m.parameters(), 1e-3)
for i in range(3):
    loss = F.cross_entropy(m(torch.randn(12, 4)), torch.randint(2, (12,)))
    opt.zero_grad()
    loss.backward()
    opt.step()
    print(loss.item())
