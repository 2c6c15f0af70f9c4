"""What gets no gradient, and why."""

import torch

a = torch.tensor([1.0, 2.0], requires_grad=True)
b = torch.tensor([3.0, 4.0], requires_grad=True)
c = torch.tensor([5.0, 6.0], requires_grad=True)
unused = torch.tensor([7.0, 8.0], requires_grad=True)
k = torch.tensor([9.0, 10.0])
with torch.no_grad():
    scale = b * 2
stopped = c.exp().detach().round()
loss = (a * scale + stopped * k).sum()
loss.backward()
