import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
data, targets = torch.randn(4, 5), torch.randint(3, (4,))
params = {k: v.detach() for k, v in net.named_parameters()}
buffers = {k: v.detach() for k, v in net.named_buffers()}


def compute_loss(params, buffers, sample, target):
    return F.cross_entropy(
        functional_call(net, (params, buffers), (sample.unsqueeze(0),)), target.unsqueeze(0)
    )


ft = vmap(grad(compute_loss), in_dims=(None, None, 0, 0))(params, buffers, data, targets)


def one(s, t):
    return torch.autograd.grad(
        F.cross_entropy(net(s.unsqueeze(0)), t.unsqueeze(0)), list(net.parameters())
    )


ps = [torch.stack(s) for s in zip(*[one(data[i], targets[i]) for i in range(4)])]
for a, b in zip(ps, ft.values()):
    assert torch.allclose(a, b, atol=1e-5)
norms = torch.cat([g.flatten(1) for g in ps], 1).norm(dim=1)
scale = (1.0 / norms).clamp(max=1.0)
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for p, g in zip(net.parameters(), ps):
    p.grad = (g * scale.view(-1, *([1] * (g.dim() - 1)))).mean(0)
opt.step()
print(norms)
