"""A branch as executed."""

import torch


def f(x):
    if x.sum() > 0:
        return x * 3
    return x**2


x = torch.tensor([1.0, -0.5], requires_grad=True)
y = f(x)
z = f(-y)
z.sum().backward()
