"""Generated Functions: right by check, gradcheck and gradgradcheck, formatted as by ruff."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from gradexplain.cli.main import main
from gradexplain.codegen.function import Code, failure, generate, loaded
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.ops import all_ops
from tests.conftest import sample

#: Operations whose backward cannot be written as a closed form in PyTorch yet, and why.
NOT_YET = {
    "a product over all elements but one": "prod cumprod",
    "the place of a chosen element": "max min median kthvalue amax amin cummax cummin max_pool1d max_pool2d "
    "max_pool3d",
    "a sum under a condition on places": "logcumsumexp conv1d conv2d conv3d avg_pool1d avg_pool2d "
    "avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d local_response_norm "
    "kron cross group_norm glu cdist",
    "a value of linear algebra without a formula": "det slogdet pinverse cholesky matrix_exp",
    "targets that are places": "nll_loss cross_entropy",
    "PyTorch's own detach: a Function has no such thing": "detach heaviside",
    "a divisor that is a size by chance": "kl_div",
    "a choice by integer values": "cosine_embedding_loss",
}
_NOT_YET = {name for names in NOT_YET.values() for name in names.split()}

SAMPLES = [
    pytest.param(op.samples[0], id=op.name)
    for op in all_ops()
    if op.name not in _NOT_YET and not op.integer
]

#: Well known ones, with the line that a reader would have written.
KNOWN = {
    "x / x.sum(dim=0)": "return grad_output / t1 - (grad_output * x).sum(dim=0) / t1**2",
    "softmax(x, dim=1)": "return y * (grad_output - (grad_output * y).sum(dim=1, keepdim=True))",
    "exp(x)": "return grad_output * y",
    "x @ w": "grad_x = grad_output @ w.T",
    "relu(x)": "return torch.where(x > 0, grad_output, 0.0)",
    "x.sum(dim=1)": "",
    "tanh(x)": "",
    "m = x.mean(dim=1, keepdim=True); d = x - m; s = (d**2).mean(dim=1, keepdim=True); "
    "d/sqrt(s + 1e-5)": "",
}


def inputs(code: Code, seed: int = 0) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [
        (0.3 + 1.2 * torch.rand(shape, generator=source, dtype=torch.float64)).requires_grad_()
        for shape in code.shapes.values()
    ]


def passes(code: Code) -> None:
    made = loaded(code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.autograd.gradcheck(made.apply, inputs(code))
        assert torch.autograd.gradgradcheck(made.apply, inputs(code))


@pytest.mark.parametrize("expression", KNOWN)
def test_known(expression: str) -> None:
    code = generate(expression, "Made")
    assert KNOWN[expression] in code.source
    assert failure(code) == ""
    passes(code)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", "-"],
        input=code.source.encode(), capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("text", SAMPLES)
def test_every_operation(text: str) -> None:
    expression, shapes = sample(text)
    code = generate(expression, "Made", shapes)
    compile(code.source, "made", "exec")
    if "matrix_exp" not in text:
        passes_first(code)


def passes_first(code: Code) -> None:
    """gradcheck at one point, where the forward has a value there."""
    made = loaded(code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = inputs(code)
        if not torch.isfinite(made.apply(*tensors)).all():
            return
        assert torch.autograd.gradcheck(made.apply, tensors)


def test_any_size_dtype_and_needs_input_grad() -> None:
    made = loaded(generate("x @ w + b", "Made", {"x": (2, 3), "w": (3, 4), "b": (4,)}))
    x = torch.rand(5, 6, dtype=torch.float32, requires_grad=True)
    w = torch.rand(6, 7, dtype=torch.float32)
    b = torch.rand(7, dtype=torch.float32, requires_grad=True)
    y = made.apply(x, w, b)
    y.backward(torch.ones_like(y))
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert w.grad is None
    assert torch.equal(b.grad, torch.full((7,), 5.0))


def test_command(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "normalise.py"
    assert main(["codegen", "x / x.sum(dim=0)", "--name", "Normalise", "-o", str(path)]) == 0
    assert main(["check", f"{path}:Normalise"]) == 0
    capsys.readouterr()
    assert main(["codegen", "x / x.sum(dim=0)", "--name", "not a name"]) == 2
    assert "cannot be the name of a class" in capsys.readouterr().err


def test_what_cannot_be_written() -> None:
    with pytest.raises(UnsupportedError):
        generate("x.prod()", "Made")
    with pytest.raises(InputError):
        generate("1 + 1", "Made")
    with pytest.raises(GradexplainError):
        generate("x / z", "Made", {"q": (2,)})
