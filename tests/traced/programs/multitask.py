import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
body, a, b = nn.Linear(4, 6), nn.Linear(6, 1), nn.Linear(6, 3)
opt = torch.optim.Adam([*body.parameters(), *a.parameters(), *b.parameters()], lr=1e-3)
for step in range(2):
    x = torch.randn(5, 4)
    h = torch.relu(body(x))
    loss1 = F.l1_loss(a(h).squeeze(-1), torch.randn(5))
    loss2 = F.cross_entropy(b(h), torch.randint(0, 3, (5,)))
    opt.zero_grad()
    loss1.backward(retain_graph=True)
    loss2.backward()
    opt.step()
