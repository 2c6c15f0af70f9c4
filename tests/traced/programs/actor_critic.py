import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class AC(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.actor, self.critic = nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return F.softmax(self.actor(h), dim=-1), self.critic(h)


model = AC()
opt = torch.optim.Adam(model.parameters(), lr=3e-2)
for episode in range(2):
    saved = []
    for t in range(4):
        probs, value = model(torch.randn(4))
        m = torch.distributions.Categorical(probs)
        action = m.sample()
        saved.append((m.log_prob(action), value))
    policy, values = [], []
    for (log_prob, value), R in zip(saved, torch.randn(4)):
        policy.append(-log_prob * (R - value.item()))
        values.append(F.smooth_l1_loss(value, torch.tensor([R])))
    opt.zero_grad()
    loss = torch.stack(policy).sum() + torch.stack(values).sum()
    loss.backward()
    opt.step()
