import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
features = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
).requires_grad_(False)


def gram(x):
    b, c, h, w = x.size()
    f = x.view(b * c, h * w)
    return f @ f.t() / (b * c * h * w)


content, style = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
image = content.clone().requires_grad_(True)
opt = torch.optim.Adam([image], lr=0.05)
for step in range(2):
    with torch.no_grad():
        image.clamp_(0, 1)
    opt.zero_grad()
    f = features(image)
    loss = F.mse_loss(f, features(content).detach()) + 100 * F.mse_loss(
        gram(f), gram(features(style)).detach()
    )
    loss.backward()
    opt.step()
