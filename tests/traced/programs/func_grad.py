import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
params = dict(net.named_parameters())


def loss(p, x, y):
    return F.mse_loss(torch.func.functional_call(net, p, (x,)), y)


x, y = torch.randn(5, 3), torch.randn(5, 1)
for step in range(2):
    grads = torch.func.grad(loss)(params, x, y)
    params = {k: (v - 0.1 * grads[k]).detach() for k, v in params.items()}
