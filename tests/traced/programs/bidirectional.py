import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
rnn = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
head = nn.Linear(8, 2)
opt = torch.optim.Adam([*rnn.parameters(), *head.parameters()], lr=1e-3)
for step in range(2):
    y, _ = rnn(torch.randn(2, 4, 3))
    loss = F.cross_entropy(head(y[:, -1]), torch.tensor([0, 1]))
    opt.zero_grad()
    loss.backward()
    opt.step()
