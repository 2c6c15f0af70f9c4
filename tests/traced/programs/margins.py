"""A margin that every sample comes to keep, and experts that no sample is sent to."""

import torch
import torch.nn.functional as F

torch.manual_seed(0)
net = torch.nn.Linear(2, 1)
gate = torch.nn.Linear(2, 3)
experts = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
parameters = [*net.parameters(), *gate.parameters(), *experts.parameters()]
optimizer = torch.optim.SGD(parameters, lr=0.5)
x = torch.cat([torch.randn(3, 2) + 4, torch.randn(3, 2) - 4])
y = torch.cat([torch.ones(3), -torch.ones(3)])
for _ in range(8):
    shares = gate(x).softmax(-1)
    chosen = shares.argmax(-1) % 2
    mixed = torch.zeros_like(x)
    for place, expert in enumerate(experts):
        mask = chosen == place
        mixed[mask] = expert(x[mask]) * shares[mask, place].unsqueeze(-1)
    optimizer.zero_grad()
    F.relu(1 - y * net(x).squeeze(1)).mean().backward()
    (1e-3 * (mixed - x).pow(2).mean()).backward()
    optimizer.step()
