import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

rnn, head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)
opt = torch.optim.SGD([*rnn.parameters(), *head.parameters()], lr=0.1)
for step in range(2):
    packed = pack_padded_sequence(torch.randn(2, 4, 3), torch.tensor([4, 2]), batch_first=True)
    y, h = rnn(packed)
    y, lengths = pad_packed_sequence(y, batch_first=True)
    loss = F.cross_entropy(head(h[-1]), torch.tensor([0, 1])) + 0.01 * y.pow(2).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
