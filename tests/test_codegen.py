"""Generated Functions: right by check, gradcheck and gradgradcheck, formatted as by ruff."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from gradexplain.cli import main
from gradexplain.codegen.function import Code, failure, generate, loaded
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.ops import Op, all_ops
from tests.conftest import sample

#: What no Function can be, and why.
REFUSED = {"detach": "has no meaning inside a torch.autograd.Function"}

OPERATIONS = [pytest.param(op, id=op.name) for op in all_ops() if not op.integer]

SAMPLES = sorted((Path(__file__).parent.parent / "samples").glob("*.expr"))

#: Well known ones, with the line that a reader would have written.
KNOWN = {
    "x / x.sum(dim=0)": "return grad_output / t1 - (grad_output * x).sum(dim=0) / t1**2",
    "softmax(x, dim=1)": "return product.addcmul_(y, product.sum(dim=1, keepdim=True), value=-1)",
    "F.gelu(x)": "return grad_output * slope",
    "F.gelu(x @ w)**2": "slope = ",
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
    """Right by gradcheck and gradgradcheck, at a point where the forward has a value."""
    made = loaded(code)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = inputs(code)
        assert torch.isfinite(made.apply(*tensors)).all()
        assert torch.autograd.gradcheck(made.apply, tensors)
        assert torch.autograd.gradgradcheck(made.apply, tensors)


def formatted(codes: list[Code], folder: Path) -> None:
    """As ruff would format them."""
    for place, code in enumerate(codes):
        (folder / f"made_{place}.py").write_text(code.source)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()
    assert all(len(line) <= 88 for code in codes for line in code.source.splitlines())


@pytest.mark.parametrize("expression", KNOWN)
def test_known(expression: str, tmp_path: Path) -> None:
    code = generate(expression, "Made")
    assert KNOWN[expression] in code.source
    assert failure(code) == ""
    passes(code)
    formatted([code], tmp_path)


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation(op: Op, tmp_path: Path) -> None:
    """Every sample: `generate` holds it against `check`; then gradcheck, gradgradcheck and ruff."""
    if op.name in REFUSED:
        for text in op.samples:
            with pytest.raises(UnsupportedError, match=REFUSED[op.name]):
                generate(sample(text)[0], "Made", sample(text)[1])
        return
    codes = [generate(*_asked(text)) for text in op.samples]
    for code in codes:
        assert not re.search(r"\n *(for|while) ", code.source)
        passes(code)
    formatted(codes, tmp_path)


def _asked(text: str) -> tuple[str, str, dict[str, tuple[int, ...]]]:
    expression, shapes = sample(text)
    return expression, "Made", shapes


@pytest.mark.parametrize("path", SAMPLES, ids=[p.stem for p in SAMPLES])
def test_every_sample(path: Path, tmp_path: Path) -> None:
    code = generate(path.read_text(), "Made")
    passes(code)
    formatted([code], tmp_path)


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
    for name in ("not a name", "for", "torch"):
        assert main(["codegen", "x / x.sum(dim=0)", "--name", name]) == 2
        assert "cannot be the name of a class" in capsys.readouterr().err


def test_what_cannot_be_written() -> None:
    with pytest.raises(UnsupportedError, match="subscript|condition|no meaning"):
        generate("x * x.detach()", "Made")
    with pytest.raises(InputError):
        generate("1 + 1", "Made")
    with pytest.raises(GradexplainError):
        generate("x / z", "Made", {"q": (2,)})


def test_a_class_for_some_sizes_refuses_others() -> None:
    code = generate("x[[0, -1]]", "Ends", {"x": (3,)})
    assert "Shapes: x (3,) -> y (2,) (these sizes only)" in code.source
    made = loaded(code)
    assert made.apply(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match=r"^x must have the shape \(3,\)$"):
        made.apply(torch.ones(4))


@pytest.mark.parametrize(
    ("expression", "shapes", "lines"),
    [
        ("x.mean()", {"x": (2, 3)}, ["Shapes: x (N, M) -> y ()", "x.grad[j,l] = v/(N·M)"]),
        ("x[1:]", {"x": (3,)}, ["Shapes: x (N,) -> y (N - 1,)"]),
        # The output's sizes are no simple function of the input's.
        (
            "F.avg_pool2d(x, 2)",
            {"x": (1, 1, 4, 4)},
            [
                "Shapes: x (1, 1, 4, 4) -> y (1, 1, 2, 2), for example",
                "Gradients at these shapes, in index notation:",
                "x.grad[0,0,n,b] = v[0,0,⌊n/2⌋,⌊b/2⌋]/4",
            ],
        ),
    ],
)
def test_docstrings_hold_at_other_sizes(
    expression: str, shapes: dict[str, tuple[int, ...]], lines: list[str]
) -> None:
    source = generate(expression, "Made", shapes).source
    for line in lines:
        assert f"    {line}\n" in source
