import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.gru = nn.Embedding(8, 5), nn.GRU(5, 5, batch_first=True)

    def forward(self, x):
        return self.gru(self.emb(x))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.gru, self.out = (
            nn.Embedding(8, 5),
            nn.GRU(5, 5, batch_first=True),
            nn.Linear(5, 8),
        )

    def forward(self, hidden, target):
        outputs, token = [], torch.zeros(2, 1, dtype=torch.long)
        for i in range(3):
            y, hidden = self.gru(F.relu(self.emb(token)), hidden)
            outputs.append(self.out(y))
            token = target[:, i].unsqueeze(1)
        return F.log_softmax(torch.cat(outputs, dim=1), dim=-1)


enc, dec = Encoder(), Decoder()
eo, do = torch.optim.Adam(enc.parameters(), lr=1e-3), torch.optim.Adam(dec.parameters(), lr=1e-3)
for step in range(2):
    source, target = torch.randint(0, 8, (2, 4)), torch.randint(0, 8, (2, 3))
    eo.zero_grad()
    do.zero_grad()
    _, hidden = enc(source)
    out = dec(hidden, target)
    loss = nn.NLLLoss()(out.view(-1, 8), target.view(-1))
    loss.backward()
    eo.step()
    do.step()
