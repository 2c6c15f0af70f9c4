"""Generated Functions: right by check, gradcheck and gradgradcheck, formatted as by ruff."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gradexplain.checking.generated import failure, generate
from gradexplain.cli import main
from gradexplain.codegen.making import Code
from gradexplain.codegen.styles import styled
from gradexplain.errors import GradexplainError, InputError, UnsupportedError
from gradexplain.ops import Op, all_ops
from tests.conftest import sample

#: Samples with a word for which no Function can be: what it stands for detaches a tensor or a row.
REFUSED = ("detach", "padding_idx")

OPERATIONS = [pytest.param(op, id=op.name) for op in all_ops() if not op.integer]

SAMPLES = sorted((Path(__file__).parent.parent / "samples").glob("*.expr"))

#: Well known ones, with the line that a reader would have written.
KNOWN = {
    "x / x.sum(dim=0)": "return grad_output / t1 - (grad_output * x).sum(dim=0) / t1**2",
    "softmax(x, dim=1)": "return y * (grad_output - (grad_output * y).sum(dim=1, keepdim=True))",
    "F.gelu(x)": "return grad_output * slope",
    "F.gelu(x @ w)**2": "slope = ",
    "exp(x)": "return grad_output * y",
    "x @ w": "grad_x = grad_output @ w.T",
    "relu(x)": "return torch.where(x > 0, grad_output, 0.0)",
    "relu(x @ w) @ u": "grad_t1 = torch.where(relu > 0, grad_output @ u.T, 0.0)",
    "F.huber_loss(a, b)": "grad_b = -grad_a",
    "F.normalize(x, dim=1)": "n = torch.clamp(x.norm(dim=1, keepdim=True), min=1e-12)",
    "log(exp(x).sum())": "return exp * (grad_output / exp.sum())",
    "x.sum(dim=1)": "",
    "tanh(x)": "",
    "m = x.mean(dim=1, keepdim=True); d = x - m; s = (d**2).mean(dim=1, keepdim=True); "
    "d/sqrt(s + 1e-5)": "",
}


Shelf = Callable[[Code], None]


def inputs(code: Code, seed: int = 0) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [
        (0.3 + 1.2 * torch.rand(shape, generator=source, dtype=torch.float64)).requires_grad_()
        for shape in code.shapes.values()
    ]


def passes(code: Code) -> None:
    """Right by gradcheck and gradgradcheck, at a point where the forward has a value."""
    made = code.loaded()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = inputs(code)
        assert torch.isfinite(made.apply(*tensors)).all()
        assert torch.autograd.gradcheck(made.apply, tensors)
        assert torch.autograd.gradgradcheck(made.apply, tensors)


def formatted(folder: Path) -> None:
    """As ruff would format it."""
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--diff", str(folder)]
    done = subprocess.run(ruff, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """Where the classes of these tests are put; all of them are formatted as by ruff in the end."""
    folder, number = tmp_path_factory.mktemp("made"), itertools.count()

    def put(code: Code) -> None:
        assert all(len(line) <= 88 for line in code.source.splitlines())
        (folder / f"made_{next(number)}.py").write_text(f"# {code.expression!r}\n{code.source}")

    yield put
    formatted(folder)


@pytest.mark.parametrize("expression", KNOWN)
def test_known(expression: str, shelf: Shelf) -> None:
    code = generate(expression, "Made")
    assert KNOWN[expression] in code.source
    assert failure(code) == ""
    passes(code)
    shelf(code)


@pytest.mark.parametrize("op", OPERATIONS)
def test_every_operation(op: Op, shelf: Shelf) -> None:
    """Every sample: `generate` holds it against `check`; then gradcheck, gradgradcheck and ruff."""
    refused = [text for text in op.samples if any(name in text for name in REFUSED)]
    for text in refused:
        with pytest.raises(
            UnsupportedError, match="has no meaning inside a torch.autograd.Function"
        ):
            generate(*_asked(text))
    codes = [generate(*_asked(text)) for text in op.samples if text not in refused]
    for code in codes:
        assert not re.search(r"\n *(for|while) ", code.source)
        passes(code)
        shelf(code)


def _asked(text: str) -> tuple[str, str, dict[str, tuple[int, ...]]]:
    expression, shapes = sample(text)
    return expression, "Made", shapes


@pytest.mark.parametrize("path", SAMPLES, ids=[p.stem for p in SAMPLES])
def test_every_sample(path: Path, shelf: Shelf) -> None:
    code = generate(path.read_text(), "Made")
    passes(code)
    shelf(code)


def test_cholesky_alone() -> None:
    made = generate("linalg.cholesky(a)", "Made", {"a": (3, 3)}).loaded()
    x = torch.rand(3, 3, dtype=torch.float64, requires_grad=True)

    def call(x: torch.Tensor) -> torch.Tensor:
        return made.apply(x @ x.T + torch.eye(3, dtype=torch.float64))

    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))


def test_an_axis_that_was_told_its_size_refuses_others() -> None:
    """The 2 of the list is a size of both inputs, and a number of the user's."""
    shapes = {"x": (2, 3), "y": (2, 2)}
    made = generate("x.index_add(1, torch.tensor([1, 2]), y) * 2", "Made", shapes).loaded()
    made.apply(torch.rand(2, 5), torch.rand(2, 2))
    with pytest.raises(ValueError, match=r"^x must have size 2 in dim 0$"):
        made.apply(torch.rand(4, 5), torch.rand(4, 2))


@pytest.mark.parametrize(
    ("expression", "shapes", "line", "others"),
    [
        ("diff(x, n=2)", {"x": (4,)}, "return t3[1:] - t3[:-1]", [(6,)]),
        ("x - zeros_like(x)", {"x": (2, 3)}, "x.new_zeros((x.shape[0], x.shape[1]))", [(5, 4)]),
        ("trapezoid(y, dim=0)", {"y": (2, 3)}, "ctx.y_shape[0] - 2", [(4, 5)]),
        # Sizes that are alike where the code is asked for, and need not be.
        ("F.unfold(x, 2)", {"x": (1, 1, 3, 3)}, "(ctx.x_shape[2] - 1, ctx.x_shape[3] - 1)", [(1, 1, 4, 6)]),
        ("kron(x, y)", {"x": (2, 2), "y": (2, 2)}, "(x.shape[1], y.shape[1])", [(2, 3), (4, 5)]),
    ],
)  # fmt: skip
def test_other_sizes(
    expression: str,
    shapes: dict[str, tuple[int, ...]],
    line: str,
    others: list[tuple[int, ...]],
) -> None:
    code = generate(expression, "Made", shapes)
    assert line in code.source
    made = code.loaded()
    xs = [torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in others]
    y = made.apply(*xs)
    v = torch.rand_like(y)
    wanted = torch.autograd.grad(made.forward(*xs), xs, v)
    torch.testing.assert_close(torch.autograd.grad(y, xs, v), wanted)


def test_what_looks_at_values_is_traced_by_its_shape() -> None:
    """`F.gaussian_nll_loss` raises where a variance is negative, which nothing traced can know."""
    code = styled(generate("F.gaussian_nll_loss(x, t, w)", "MadeLoss"), "custom_op")
    assert "def fake(x, t, w):\n    return x.new_empty(())\n" in code.source
    torch.library.opcheck(code.loaded(), inputs(code), test_utils="test_faketensor")


def test_no_second_names_no_dead_lines_nothing_saved_in_vain() -> None:
    shapes = {"x": (2, 3), "w": (3,), "b": (3,)}
    source = generate("F.layer_norm(x, [3], w, b)", "Made", shapes).source
    targets = re.findall(r"^ +(\w+) = (.+)$", source.partition("def backward")[2], re.M)
    assert [name for name, _ in targets if name.startswith("sigma")] == ["sigma"]
    assert not [name for name, value in targets if value.isidentifier() and value != "None"]
    assert "save_for" not in generate("vstack([x, y])", "Made", {"x": (2,), "y": (2,)}).source


def test_any_size_dtype_and_needs_input_grad() -> None:
    made = generate("x @ w + b", "Made", {"x": (2, 3), "w": (3, 4), "b": (4,)}).loaded()
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
    made = code.loaded()
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


def transformed(code: Code) -> None:
    """Right under torch.func, and traced whole by torch.compile."""
    call = code.loaded().apply
    xs = inputs(code)
    places = tuple(range(len(xs)))
    y = call(*xs)
    v = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
    wanted = torch.autograd.grad(y, xs, v)

    def total(*xs: torch.Tensor) -> torch.Tensor:
        return (call(*xs) * v).sum()

    torch.testing.assert_close(torch.func.grad(total, places)(*xs), wanted)
    two = [torch.stack([x.detach(), 1.1 * x.detach()]) for x in xs]
    torch.testing.assert_close(torch.func.vmap(call)(*two)[0], y)
    each = torch.func.vmap(torch.func.grad(total, places))(*two)
    torch.testing.assert_close(tuple(g[0] for g in each), wanted)
    if "def jvp(" in code.source:
        found = torch.func.jacfwd(call, places)(*xs)
        torch.testing.assert_close(found, torch.func.jacrev(call, places)(*xs))
        return
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*xs), xs, v), wanted)


@pytest.mark.parametrize(
    ("expression", "jvp"),
    [
        ("softmax(q @ k.T / 5, dim=1) @ v", False), ("x / x.sum(dim=0)", False),
        ("F.gelu(x @ w)**2", False), ("cummin(sin(x), 0).values", False),
        ("softmax(q @ k.T / 5, dim=1) @ v", True), ("x / x.sum(dim=0)", True),
        ("x.T", True), ("x.min(dim=1).values", True), ("m = x.mean(dim=1, keepdim=True); tanh((x - m) @ w)", True),
    ],
)  # fmt: skip
def test_transforms(expression: str, jvp: bool, shelf: Shelf) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = generate(expression, "Made", jvp=jvp)
        transformed(code)
    shelf(code)


#: What ``--test`` writes a file beside: an expression, its name, the options.
TESTED = [
    ("softmax(q @ k.T / 5, dim=1) @ v", "Attention", ["--style", "custom_op"]),
    ("x.T", "Turned", ["--style", "custom_op"]),
    ("tanh(x @ w)", "Layer", ["--jvp"]),
]


def test_written_tests_pass(tmp_path: Path) -> None:
    """``--test``: the files are formatted as by ruff, and pass."""
    for expression, name, more in TESTED:
        path = tmp_path / f"{name.lower()}.py"
        arguments = ["codegen", expression, "--name", name, "-o", str(path), "--test", *more]
        assert main(arguments) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout.decode()[-2000:]
    assert len([*tmp_path.glob("test_*.py")]) == len(TESTED)
    formatted(tmp_path)


def test_styles_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codegen", "x.T", "--jvp", "--style", "custom_op"]) == 2
    assert capsys.readouterr().err == (
        "gradexplain: a torch.library.custom_op has no forward-mode derivative\n"
        "remedy: leave out --jvp, or take --style function\n"
    )
    assert main(["codegen", "x.T", "--test"]) == 2
    assert capsys.readouterr().err == (
        "gradexplain: --test writes a file beside the one of the code, which has to be a module\n"
        "remedy: name it with -o, as in -o normalise.py\n"
    )


@pytest.mark.parametrize(
    ("expression", "line"),
    [
        ("x*sigmoid(1.702*x)", "product = 1.702 * x"),
        ("where(x > 0, x, 0.1*x)", "return torch.where(x > 0, grad_output, 0.1 * grad_output)"),
        ("x.std(dim=0)", "(x.shape[0] - 1)"),
    ],
)
def test_numbers_are_no_sizes(expression: str, line: str) -> None:
    """0.1, 851/500 and N − 1 have factors that a size could have."""
    code = generate(expression, "Made")
    assert code.general
    assert line in code.source
