import torch
import torch.nn as nn

torch.manual_seed(0)


class ReverseLayerF(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.neg() * ctx.alpha, None


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.feature = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(True))
        self.cls = nn.Sequential(nn.Linear(8, 3), nn.LogSoftmax(dim=1))
        self.dom = nn.Sequential(nn.Linear(8, 2), nn.LogSoftmax(dim=1))

    def forward(self, x, alpha):
        f = self.feature(x)
        return self.cls(f), self.dom(ReverseLayerF.apply(f, alpha))


m = CNN()
opt = torch.optim.Adam(m.parameters(), lr=1e-3)
lc, ld = torch.nn.NLLLoss(), torch.nn.NLLLoss()
for p in m.parameters():
    p.requires_grad = True
for i in range(3):
    alpha = 2.0 / (1.0 + 2.718 ** (-10 * i / 3)) - 1
    m.zero_grad()
    c, d = m(torch.randn(4, 6), alpha)
    e1 = lc(c, torch.randint(3, (4,))) + ld(d, torch.zeros(4).long())
    _, d2 = m(torch.randn(4, 6) + 1, alpha)
    e2 = ld(d2, torch.ones(4).long())
    err = e2 + e1
    err.backward()
    opt.step()
    print(err.data.cpu().numpy())
