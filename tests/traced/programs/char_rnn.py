import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class CharRNN(nn.Module):
    def __init__(self, vocab=9, hidden=6):
        super().__init__()
        self.emb = nn.Embedding(vocab, 5)
        self.rnn = nn.LSTM(5, hidden, batch_first=True)
        self.out = nn.Linear(hidden, vocab)

    def forward(self, x, state):
        y, state = self.rnn(self.emb(x), state)
        return self.out(y), state


model = CharRNN()
opt = torch.optim.Adam(model.parameters(), lr=2e-3)
state = None
for step in range(3):
    data = torch.randint(0, 9, (2, 6))
    opt.zero_grad()
    logits, state = model(data[:, :-1], state)
    state = tuple(s.detach() for s in state)
    loss = F.cross_entropy(logits.reshape(-1, 9), data[:, 1:].reshape(-1))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
