"""Nuclear norm and eigenvalues: the vectors beside them are not used."""

import torch

torch.manual_seed(0)
w = torch.nn.Parameter(torch.randn(5, 4))
target = torch.randn(5, 4)
optimizer = torch.optim.SGD([w], lr=0.05)
for _ in range(3):
    optimizer.zero_grad()
    left, sizes, right = torch.linalg.svd(w, full_matrices=False)
    values, vectors = torch.linalg.eigh(w.T @ w)
    loss = (w - target).pow(2).mean() + 0.1 * sizes.sum() + 0.01 * values[-1]
    loss.backward()
    optimizer.step()
