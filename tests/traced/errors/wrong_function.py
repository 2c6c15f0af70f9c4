"""A custom function whose backward returns a gradient in the wrong shape."""

import torch


class Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, g):
        return g * torch.ones(2)


x = torch.ones(3, requires_grad=True)
y = Total.apply(x) * 2
y.backward()
