"""Two generators and two critics, instance norms changed in place, critics frozen in turn."""

import itertools

import torch
from torch import nn

torch.manual_seed(0)


def net() -> nn.Module:
    first = nn.Conv2d(1, 3, 3, bias=False)
    return nn.Sequential(nn.ReflectionPad2d(1), first, nn.InstanceNorm2d(3), nn.ReLU(True),
                         nn.Conv2d(3, 1, 3, padding=1))  # fmt: skip


g_ab, g_ba, d_a, d_b = net(), net(), net(), net()
adversarial, cycle = nn.MSELoss(), nn.L1Loss()
opt_g = torch.optim.Adam(itertools.chain(g_ab.parameters(), g_ba.parameters()), lr=2e-4)
opt_d = torch.optim.Adam([*d_a.parameters(), *d_b.parameters()], lr=2e-4)
for _ in range(2):
    a, b = torch.rand(2, 1, 5, 5), torch.rand(2, 1, 5, 5)
    real, made = torch.ones_like(a), torch.zeros_like(a)
    for critic in (d_a, d_b):
        critic.requires_grad_(False)
    opt_g.zero_grad()
    fake_b, fake_a = g_ab(a), g_ba(b)
    loss_g = adversarial(d_b(fake_b), real) + adversarial(d_a(fake_a), real)
    loss_g = loss_g + 10 * (cycle(g_ba(fake_b), a) + cycle(g_ab(fake_a), b))
    loss_g.backward()
    opt_g.step()
    for critic in (d_a, d_b):
        critic.requires_grad_(True)
    opt_d.zero_grad()
    loss_d = adversarial(d_a(a), real) + adversarial(d_a(fake_a.detach()), made)
    loss_d = loss_d + adversarial(d_b(b), real) + adversarial(d_b(fake_b.detach()), made)
    loss_d.backward()
    opt_d.step()
