"""float64 throughout, with an integer index."""

import torch

torch.set_default_dtype(torch.float64)
x = torch.linspace(0.1, 1, 6).reshape(2, 3).requires_grad_()
i = torch.tensor([2, 0])
picked = x.gather(1, i.unsqueeze(1)).squeeze(1)
rows = x[torch.tensor([0, 0, 1])]
loss = (picked * picked).sum() + rows.log().sum() + torch.logsumexp(x, dim=1).sum()
loss.backward()
