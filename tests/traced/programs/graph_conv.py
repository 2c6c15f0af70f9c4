import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
A = (torch.rand(6, 6) > 0.5).float()
A = ((A + A.T) > 0).float() + torch.eye(6)
d = A.sum(1).pow(-0.5)
A = d[:, None] * A * d[None, :]
X, Y = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
w1, w2 = nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)
opt = torch.optim.Adam([*w1.parameters(), *w2.parameters()], lr=1e-2, weight_decay=5e-4)
train = torch.tensor([0, 1, 2])
for step in range(3):
    opt.zero_grad()
    out = F.log_softmax(A @ w2(F.dropout(F.relu(A @ w1(X)), 0.5)), dim=1)
    loss = F.nll_loss(out[train], Y[train])
    loss.backward()
    opt.step()
