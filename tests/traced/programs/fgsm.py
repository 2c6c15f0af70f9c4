import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
data, target = torch.randn(2, 6), torch.tensor([0, 2])
data.requires_grad = True
output = model(data)
loss = F.nll_loss(F.log_softmax(output, dim=1), target)
model.zero_grad()
loss.backward()
perturbed = torch.clamp(data + 0.1 * data.grad.sign(), -1, 1)
print(model(perturbed).argmax(1))
