import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
encoder = nn.Sequential(
    nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2, padding=1)
)
decoder = nn.Sequential(
    nn.ConvTranspose2d(8, 4, 2, stride=2),
    nn.ReLU(),
    nn.ConvTranspose2d(4, 1, 2, stride=2),
    nn.Sigmoid(),
)
opt = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
for step in range(2):
    x = torch.rand(3, 1, 8, 8)
    loss = F.mse_loss(decoder(encoder(x)), x)
    opt.zero_grad()
    loss.backward()
    opt.step()
