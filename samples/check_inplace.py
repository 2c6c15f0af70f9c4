"""The formula of this backward is right, and it still fails: forward divides x in place.

gradexplain check samples/check_inplace.py:Normalise
gradexplain check samples/check_inplace.py:Repaired
"""

import torch


class Normalise(torch.autograd.Function):
    """What is saved is no longer x: it has been divided already."""

    @staticmethod
    def forward(ctx, x):
        s = x.sum(dim=0)
        x /= s
        ctx.save_for_backward(x, s)
        return x

    @staticmethod
    def backward(ctx, grad_output):
        x, s = ctx.saved_tensors
        return grad_output / s - (grad_output * x).sum(dim=0) / s**2


class Repaired(Normalise):
    """A new tensor for the result, and x itself is saved."""

    @staticmethod
    def forward(ctx, x):
        s = x.sum(dim=0)
        ctx.save_for_backward(x, s)
        return x / s
