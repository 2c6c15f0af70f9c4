"""A mixed bag: einsum, cumsum, sort, roll, expand, chunk, unbind, norm, var."""

import torch

torch.manual_seed(2)
x = torch.randn(3, 4, requires_grad=True)
a, b = x.chunk(2, dim=1)
first, *rest = x.unbind(0)
s, _ = x.sort(dim=1)
e = torch.einsum("ij,ij->i", a, b)
loss = (
    e.sum()
    + x.cumsum(0).pow(2).mean()
    + s[:, 0].sum()
    + x.roll(1, 0).mul(x).sum()
    + first.norm()
    + x.var()
    + x.expand(2, 3, 4).mean()
    + rest[0].prod()
    + x.std(dim=0).sum()
)
loss.backward()
