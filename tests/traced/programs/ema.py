import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
import copy

student = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
teacher = copy.deepcopy(student)
opt = torch.optim.SGD(student.parameters(), lr=0.1)
for step in range(2):
    x = torch.randn(6, 4)
    with torch.no_grad():
        t = F.softmax(teacher(x) / 0.5, dim=-1)
    loss = F.kl_div(F.log_softmax(student(x), dim=-1), t, reduction="batchmean")
    opt.zero_grad()
    loss.backward()
    opt.step()
    with torch.no_grad():
        for p, q in zip(student.parameters(), teacher.parameters()):
            q.mul_(0.99).add_(p, alpha=0.01)
