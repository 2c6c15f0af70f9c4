"""Scripts that differentiate a gradient: the backward pass with ``create_graph=True`` is explained.

Autograd's second graph goes through what the first pass had saved: an input here, a result there, a
part of a fused call elsewhere.  Whichever it is, the routes must agree.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from test_trace import script, traced

from gradexplain.trace.session import Trace

START = """
import torch.nn.functional as F
torch.manual_seed(0)
x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
w = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
b = torch.randn(5, dtype=torch.float64, requires_grad=True)
"""

#: Its gradient is what the constant's rounding leaves, of which PyTorch has no digit.
ROUNDING = "F.binary_cross_entropy_with_logits(x, x.detach().sigmoid())"

FUNCTIONS = [
    "x.exp()", "x.tanh()", "x.sigmoid()", "x.sin() * x", "x * x * x", "x + x * x.exp()",
    "x ** 3", "(x * x + 1).sqrt()", "(x * x + 1).log()", "1 / (x * x + 1)", "x.softmax(1) * x",
    "x.log_softmax(dim=1) * x.detach()", "x.norm(dim=1)", "x.norm() * x.sum()", "x.std(dim=0)",
    "x.var() * x.mean()", "x.logsumexp(1) ** 2", "F.gelu(x)", "F.silu(x)", "F.softplus(x)",
    "F.elu(x)", "F.relu(x) ** 2", "x.abs() * x", "x @ w.T", "(x @ w.T + b).tanh()",
    "F.linear(x, w, b).tanh()", "F.linear(x.tanh(), w).exp()",
    "F.cross_entropy(x, torch.tensor([0, 2, 1])) ** 2", "F.mse_loss(x.exp(), x)",
    ROUNDING, "F.layer_norm(x, (4,)) ** 2",
    "x.prod(dim=1)", "x.cumsum(1).sin()", "x.amax(dim=1) * x.sum(1)", "x.unbind(0)[1].exp() * x[0]",
    "torch.cat([x, x.exp()]).sin()", "x.T.exp() @ x", "x.reshape(2, 6).sin()[0]",
    "torch.where(x > 0, x.exp(), x * x)", "torch.einsum('ij,kj->ik', x, w).tanh()",
    "(w @ w.T + torch.eye(5)).inverse()", "F.normalize(x, dim=1)", "F.cosine_similarity(x[:2], x[1:])",
    "F.conv2d(x.view(1, 1, 3, 4), w[:2, :].view(1, 1, 2, 4)).tanh()",
    "torch.atan2(x, x * x + 1)", "x.clamp(-0.5, 0.5) ** 2", "torch.addmm(b, x, w.T).sigmoid()",
    "F.nll_loss(F.log_softmax(x, 1), torch.tensor([0, 2, 1])) ** 2", "F.huber_loss(x, x.detach() * 2)",
]  # fmt: skip


def agrees(trace: Trace, status: str = "agree") -> None:
    """Every call is checked by formulas alone, and they give PyTorch's numbers."""
    assert trace.fault is None
    assert trace.calls
    for call in trace.calls:
        assert call.check is not None
        assert call.check.status == status, call.check
        assert call.complete, [n.text for n in call.notes]
        assert not call.unchecked


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradient_penalty(function: str, tmp_path: Path) -> None:
    """The norm of the gradient is differentiated by every input."""
    by = "x" if re.search(r"\bx\b", function) else "w"
    text = START + (
        f"y = {function}\n"
        f"(g,) = torch.autograd.grad(y.sum(), {by}, create_graph=True)\n"
        "((g * g).sum() + 1).sqrt().backward()\n"
    )
    agrees(traced(script(tmp_path, text)), "convention" if function == ROUNDING else "agree")


@pytest.mark.parametrize(
    "text",
    [
        # a Hessian-vector product
        "y = (x.tanh() @ w.T).sin().sum()\n"
        "(g,) = torch.autograd.grad(y, x, create_graph=True)\n"
        "(h,) = torch.autograd.grad(g, x, grad_outputs=torch.ones_like(x))\n",
        # a second backward through .grad
        "y = (x ** 3).sum() + x.exp().sum()\n"
        "y.backward(create_graph=True)\n"
        "x.grad.pow(2).sum().backward()\n",
        # by several inputs, and both of them differentiated again
        "y = F.linear(x, w, b).sigmoid().sum()\n"
        "gx, gw = torch.autograd.grad(y, [x, w], create_graph=True)\n"
        "(gx.sum() * gw.norm()).backward()\n",
        # by an intermediate value
        "h = x.sin()\n"
        "y = (h.exp() * h).sum()\n"
        "(g,) = torch.autograd.grad(y, h, create_graph=True)\n"
        "(g * x).sum().backward()\n",
        # a loss and the penalty together
        "y = (x @ w.T).tanh().mean()\n"
        "(g,) = torch.autograd.grad(y, x, create_graph=True)\n"
        "(y + 10 * (g.norm(2, dim=1) - 1).pow(2).mean()).backward()\n",
        # a third derivative
        "y = (x ** 4).sum()\n"
        "(g,) = torch.autograd.grad(y, x, create_graph=True)\n"
        "(h,) = torch.autograd.grad(g.sum(), x, create_graph=True)\n"
        "h.sum().backward()\n",
        # the argument of backward is differentiated: forward-mode by reverse
        "u = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)\n"
        "(g,) = torch.autograd.grad(x @ w.T, x, u, create_graph=True)\n"
        "g.sin().sum().backward()\n",
        # dropout, whose mask is drawn once
        "y = F.dropout(x.exp(), 0.5).sum()\n"
        "(g,) = torch.autograd.grad(y, x, create_graph=True)\n"
        "g.pow(2).sum().backward()\n",
        # a value used by the first pass and by the penalty
        "h = x.exp()\n"
        "(g,) = torch.autograd.grad((h * h).sum(), x, create_graph=True)\n"
        "(g * h).sum().backward()\n",
        # a loop of gradient steps, differentiated as a whole
        "p = x\n"
        "for _ in range(2):\n"
        "    (g,) = torch.autograd.grad((p.tanh() ** 2).sum(), p, create_graph=True)\n"
        "    p = p - 0.1 * g\n"
        "(p * p).sum().backward()\n",
    ],
)
def test_usual_ways(text: str, tmp_path: Path) -> None:
    agrees(traced(script(tmp_path, START + text)))


def test_a_custom_function_twice(tmp_path: Path) -> None:
    """The double backward of a custom Function is held against its forward's second derivative."""
    text = (
        "class Cube(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, x):\n"
        "        ctx.save_for_backward(x)\n"
        "        return x ** 3\n"
        "    @staticmethod\n"
        "    def backward(ctx, g):\n"
        "        (x,) = ctx.saved_tensors\n"
        "        return 3 * x * x DETACHED * g\n"
        "x = torch.tensor([1.0, 2.0], requires_grad=True)\n"
        "(g,) = torch.autograd.grad(Cube.apply(x).sum(), x, create_graph=True)\n"
        "(g * x).sum().backward()\n"
    )
    agrees(traced(script(tmp_path, text.replace(" DETACHED", ""))))
    wrong = traced(script(tmp_path, text.replace(" DETACHED", ".detach()"))).calls[1]
    assert wrong.check is not None
    assert wrong.check.status == "mismatch"
    np.testing.assert_allclose(wrong.gradients["x"].value, [9, 36])


def test_only_the_second_call_is_wanted(tmp_path: Path) -> None:
    """The first pass is remembered all the same."""
    from gradexplain.trace.seen import Pick

    text = START + (
        "(g,) = torch.autograd.grad(x.exp().sum(), x, create_graph=True)\n"
        "g.pow(2).sum().backward()\n"
    )
    found = traced(script(tmp_path, text), Pick(call=2))
    agrees(found)
    assert [call.index for call in found.calls] == [2]
    x = torch.tensor(found.calls[0].inputs["x"].value)
    np.testing.assert_allclose(found.calls[0].gradients["x"].value, 2 * (2 * x).exp())


def test_the_verdict_says_which_steps_were_compared(tmp_path: Path) -> None:
    """A second pass takes other steps than PyTorch's: they are compared where both meet again."""
    text = START + (
        "y = F.linear(x, w).tanh().sum()\n"
        "(g,) = torch.autograd.grad(y, x, create_graph=True)\n"
        "((g.norm(dim=1) - 1) ** 2).mean().backward()\n"
    )
    first, second = traced(script(tmp_path, text)).calls
    assert first.compared == first.contributions > 0
    assert 0 < second.compared < second.contributions
    page = " ".join(str(second).split())
    assert "at every step" not in page
    both = f"the {second.compared} of {second.contributions} steps that both take"
    assert f"chain rule = PyTorch, and the same contributions in {both} (float64" in page


@pytest.mark.parametrize("function", ["torch.tanh(z)", "torch.sigmoid(z)", "F.gelu(z)"])
def test_third_derivatives_through_layers(function: str, tmp_path: Path) -> None:
    """As a physics-informed loss has them, of a slice of each derivative."""
    agrees(traced(script(tmp_path, START + (
        f"z = F.linear(x, w, b)\ny = {function}\n"
        "first, = torch.autograd.grad(y.sum(), x, create_graph=True)\n"
        "second, = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)\n"
        "third, = torch.autograd.grad(second[:, 1].sum(), x, create_graph=True)\n"
        "(third * second + first[:, :1]).square().mean().backward()\n"
    ))))  # fmt: skip


def test_a_third_derivative_of_pytorchs_that_is_none(tmp_path: Path) -> None:
    """Its second derivative of layer_norm takes mean and deviation for constants."""
    trace = traced(script(tmp_path, START + (
        "y = F.layer_norm(x, (4,)) ** 3\n"
        "first, = torch.autograd.grad(y.sum(), x, create_graph=True)\n"
        "second, = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)\n"
        "torch.autograd.grad(second[:, 1].sum(), x)\n"
    )))  # fmt: skip
    *before, last = [call.check.status for call in trace.calls if call.check is not None]
    assert (before, last) in ((["agree"] * 2, "mismatch"), (["agree"] * 2, "agree"))
