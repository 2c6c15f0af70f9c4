import torch
import torch.nn.functional as F

torch.manual_seed(0)
w1 = (torch.randn(5, 1) * 0.5).requires_grad_()
b1 = torch.zeros(5, requires_grad=True)
w2 = (torch.randn(1, 5) * 0.5).requires_grad_()
b2 = torch.zeros(1, requires_grad=True)
params = [w1, b1, w2, b2]


def forward(x, p):
    return F.linear(torch.tanh(F.linear(x, p[0], p[1])), p[2], p[3])


meta = torch.optim.Adam(params, lr=1e-2)
for step in range(2):
    meta.zero_grad()
    for task in range(2):
        a = torch.rand(1) + 0.5
        xs, xq = torch.randn(5, 1), torch.randn(5, 1)
        inner = F.mse_loss(forward(xs, params), torch.sin(a * xs))
        grads = torch.autograd.grad(inner, params, create_graph=True)
        fast = [p - 0.1 * g for p, g in zip(params, grads)]
        F.mse_loss(forward(xq, fast), torch.sin(a * xq)).backward()
    meta.step()
