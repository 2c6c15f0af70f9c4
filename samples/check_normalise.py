"""A custom backward that fails gradcheck: each column of x is divided by its sum.

gradexplain check samples/check_normalise.py:Normalise
gradexplain check samples/check_normalise.py:Repaired
"""

import torch
from torch.autograd.gradcheck import GradcheckError


class Normalise(torch.autograd.Function):
    """The backward treats the sum as if it depended on one element only."""

    @staticmethod
    def forward(ctx, x):
        s = x.sum(dim=0)
        ctx.save_for_backward(x, s)
        return x / s

    @staticmethod
    def backward(ctx, grad_output):
        x, s = ctx.saved_tensors
        return grad_output * (1 / s - x / s**2)


class Repaired(Normalise):
    """Every element of a column depends on every other through the sum."""

    @staticmethod
    def backward(ctx, grad_output):
        x, s = ctx.saved_tensors
        return grad_output / s - (grad_output * x).sum(dim=0) / s**2


if __name__ == "__main__":
    x = torch.tensor([[2.0, 1.0], [3.0, 3.0], [5.0, 5.0]], dtype=torch.float64, requires_grad=True)
    for function in (Normalise, Repaired):
        try:
            print(f"{function.__name__}:", torch.autograd.gradcheck(function.apply, x))
        except GradcheckError as error:
            print(f"{function.__name__}: {error}")
