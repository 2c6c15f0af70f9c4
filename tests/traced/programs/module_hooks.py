import torch
import torch.nn as nn

torch.manual_seed(0)
acts, grads = {}, {}


def get_activation(name):
    def hook(m, i, o):
        acts[name] = o.detach()

    return hook


def bhook(name):
    def hook(m, gi, go):
        grads[name] = go[0].norm().item()

    return hook


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(48, 4)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        return self.fc(torch.max_pool2d(x, 1).flatten(1))


m = Net()
hs = [
    m.conv.register_forward_hook(get_activation("conv")),
    m.fc.register_full_backward_hook(bhook("fc")),
    m.bn.register_full_backward_hook(bhook("bn")),
]
m.conv.weight.register_hook(lambda g: g.clamp(-0.1, 0.1))


def plot_grad_flow(np_):
    out = []
    for n, p in np_:
        if p.requires_grad and "bias" not in n:
            out.append((n, round(p.grad.abs().mean().item(), 6)))
    return out


opt = torch.optim.SGD(m.parameters(), 0.1)
for i in range(2):
    opt.zero_grad()
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)(
        m(torch.randn(4, 1, 6, 6)), torch.randint(4, (4,))
    )
    loss.backward()
    print(plot_grad_flow(m.named_parameters()), grads)
    opt.step()
for h in hs:
    h.remove()
