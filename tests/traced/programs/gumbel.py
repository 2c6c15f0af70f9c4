import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
logits = torch.zeros(4, 3, requires_grad=True)
value = nn.Linear(3, 1)
opt = torch.optim.Adam([logits, *value.parameters()], lr=1e-2)
for step in range(2):
    y = F.gumbel_softmax(logits, tau=1.0, hard=True)
    loss = value(y).pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
