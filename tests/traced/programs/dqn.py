import torch
from torch import nn

torch.manual_seed(0)
import copy

q = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
target = copy.deepcopy(q)
opt = torch.optim.AdamW(q.parameters(), lr=1e-3)
for step in range(3):
    s, a = torch.randn(6, 4), torch.randint(0, 2, (6, 1))
    r, s2 = torch.randn(6), torch.randn(6, 4)
    value = q(s).gather(1, a)
    with torch.no_grad():
        best = target(s2).max(1).values
    loss = nn.SmoothL1Loss()(value, (r + 0.99 * best).unsqueeze(1))
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(q.parameters(), 100)
    opt.step()
    for p, t in zip(q.parameters(), target.parameters()):
        t.data.copy_(0.005 * p.data + 0.995 * t.data)
