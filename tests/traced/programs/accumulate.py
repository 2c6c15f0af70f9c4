import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Linear(4, 2)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
steps = 2
for i in range(6):
    loss = F.cross_entropy(model(torch.randn(3, 4)), torch.randint(0, 2, (3,))) / steps
    loss.backward()
    if (i + 1) % steps == 0:
        opt.step()
        opt.zero_grad()
