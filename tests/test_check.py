"""`gradexplain check`: faults are named, what is right is called right, and bad input is said to
be.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accepting import compare

import gradexplain
from gradexplain.checking.checker import check
from gradexplain.checking.codes import KINDS, Kind
from gradexplain.cli import main
from gradexplain.errors import InputError

ROOT = Path(__file__).parent.parent
NORMALISE = "x / x.sum(dim=0)"
WRONG = "x: v*(1/x.sum(dim=0) - x/x.sum(dim=0)**2)"
RIGHT = "x: v/x.sum(dim=0) - (v*x).sum(dim=0)/x.sum(dim=0)**2"


def test_the_classic() -> None:
    report = check(NORMALISE, WRONG)
    assert report.verdict == "wrong"
    found = report.inputs["x"]
    assert found.fault is not None and found.fault.code == "missing_off_diagonal"
    assert found.difference == "missing: − (Σ_{i ≠ j} v[i,l]·x[i,l])/t1[l]²"
    assert {e.kind for e in found.entries if e.kind != "right"} == {"missing"}
    assert found.picture[0] == "=..o.."


def test_the_answer() -> None:
    assert check(NORMALISE, RIGHT).right


def test_one_v_does_not_decide() -> None:
    """v = ones is in the null space of J; the wrong backward is wrong all the same."""
    assert not check(NORMALISE, WRONG).right
    assert check(NORMALISE, "x: 0*v", grad=np.ones((2, 3)), shapes={"x": (2, 3)}).right
    assert not check(NORMALISE, "x: 0*v", shapes={"x": (2, 3)}).right


@pytest.mark.parametrize(
    ("expression", "claim", "fault"),
    [
        ("exp(x)", "x: v*x", "output_for_input"),
        ("x**3", "x: v*x**2", "constant_factor"),
        ("x**3", "x: -3*v*x**2", "wrong_sign"),
        ("x**3", "x: 3*v*x**3", "exponent"),
        ("x*exp(x)", "x: v*exp(x)", "missing_accumulation"),
        ("softmax(x, dim=1)", "x: y*(v - (v*y).sum(dim=1))", "missing_keepdim"),
        ("softmax(x, dim=1)", "x: y*(v - (v*y).sum(dim=0, keepdim=True))", "wrong_dim"),
        ("x - x.mean(dim=0)", "x: v - v.sum(dim=0)", "sum_vs_mean"),
        ("x @ w", "x: v @ w.T; w: v.T @ x", "transposed"),
        ("x @ w", "x: v @ w.T; w: x @ v", "transposed"),
        ("a/b", "a: -v*a/b**2; b: v/b", "swapped"),
        ("a/b", "a: v/b; b: v/b", "wrong_input"),
        ("sin(x)", "x: cos(x)", "v_unused"),
        ("sin(x)", "x: v*v*cos(x)", "v_nonlinear"),
        ("sin(x)", "x: None", "none"),
        ("relu(x)", "x: v*(x >= 0)", "kink"),
        ("sin(x)", "x: 0*v", "detached"),
        ("sin(x)", "x: v*(cos(x) + 1)*exp(x)", "unknown"),
    ],
)
def test_faults(expression: str, claim: str, fault: str) -> None:
    report = check(expression, claim)
    assert list(report.faults.values()) == [fault] * len(report.faults)
    assert not report.right
    assert str(report).startswith("Question")


def test_broadcast() -> None:
    report = check("x*b", "b: v*x", shapes={"x": (2, 3), "b": (3,)})
    assert report.faults == {"b": "missing_broadcast_sum"}
    assert check("x*b", "x: v*b; b: (v*x).sum(dim=0)").right


@pytest.mark.parametrize(
    ("expression", "claim"),
    [
        ("relu(x)", "x: v*(x > 0)"),
        ("abs(x)", "x: v*sign(x)"),
        ("x.norm(dim=1, keepdim=True)", "x: v*x/y"),
        ("sqrt(x)", "x: v/(2*y)"),
        (NORMALISE, "v/x.sum(dim=0) - (v*x).sum(dim=0)/x.sum(dim=0)**2"),
        (NORMALISE, "grad_output/x.sum(0) - (grad_output*y).sum(0)/x.sum(0)"),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_right_is_right(expression: str, claim: str, dtype: str) -> None:
    report = check(expression, claim, dtype=dtype)
    assert report.right, report.faults


def test_float32_near_cancellation() -> None:
    claim = "x: v/x.sum(dim=0) - (v*x).sum(dim=0)/x.sum(dim=0)**2"
    at = {"x": np.array([[1.0, 2.0], [-0.999, 3.0], [0.5, 1.0]])}
    assert check(NORMALISE, claim, at=at, dtype="float32").right


# -- code ------------------------------------------------------------------------------------------


class Base(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        s = x.sum(dim=0)
        ctx.save_for_backward(x, s)
        return x / s

    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        x, s = ctx.saved_tensors
        return grad_output / s - (grad_output * x).sum(dim=0) / s**2


class OffDiagonal(Base):
    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        x, s = ctx.saved_tensors
        return grad_output * (1 / s - x / s**2)


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return torch.special.i0(x)

    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return grad_output * torch.special.i1(x)


class Two(Base):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x**2, 2 * x

    @staticmethod
    def backward(ctx, first, second):  # type: ignore[no-untyped-def, override]
        return 3 * second


class NewStyle(torch.autograd.Function):
    @staticmethod
    def forward(x, p):  # type: ignore[no-untyped-def]
        return x**p

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        x, p = inputs
        ctx.save_for_backward(x)
        ctx.p = p

    @staticmethod
    def backward(ctx, grad_output):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return grad_output * ctx.p * x ** (ctx.p - 1), None


def test_functions() -> None:
    assert check(Base).right
    assert check(OffDiagonal).faults == {"x": "missing_off_diagonal"}
    report = check(Opaque)
    assert report.right and report.reference == "autograd"
    assert any("not known here" in note for note in report.notes)
    assert check(NewStyle, arguments={"p": 3}).right


def test_assert_backward() -> None:
    x = torch.rand(3, 2, dtype=torch.float64)
    gradexplain.assert_backward(Base, x)
    gradexplain.assert_backward(Base.apply, x.float())
    with pytest.raises(AssertionError, match="the off-diagonal terms of J are missing"):
        gradexplain.assert_backward(OffDiagonal, x)
    gradexplain.assert_backward(NewStyle, x, 2)


def test_two_outputs() -> None:
    """J has a row for each element of each output."""
    report = check(Two, shapes={"x": (2,)})
    assert report.points[0].out_shape == (4,) and report.inputs["x"].wrong == 4


def f(x, dim=0):  # type: ignore[no-untyped-def]
    return x / x.sum(dim)


def test_a_function_with_a_claim() -> None:
    assert check(f, RIGHT).right
    assert not check(f, WRONG).right
    with pytest.raises(InputError, match="it has no backward to check"):
        check(f)


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "fault"),
    [
        ("check_normalise.py:Normalise", 1, "missing_off_diagonal"),
        ("check_normalise.py:Repaired", 0, None),
        ("check_inplace.py:Normalise", 1, "inplace_forward"),
        ("check_inplace.py:Repaired", 0, None),
    ],
)
def test_samples(
    name: str, code: int, fault: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(ROOT / "samples" / name), "--format", "json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "gradexplain-check/1"
    assert document["inputs"]["x"]["fault"] == fault
    assert document["verdict"] == ("wrong" if code else "right")


@pytest.mark.parametrize("name", ["normalise", "inplace"])
@pytest.mark.parametrize("which", ["Normalise", "Repaired"])
def test_sample_pages(
    name: str, which: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    main(["check", f"samples/check_{name}.py:{which}"])
    found = capsys.readouterr().out
    compare(found, ROOT / "samples" / f"check_{name}.{which}.txt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x/b"], "there is no claim to check"),
        ([NORMALISE, "--claim", "q: v"], "not an input"),
        ([NORMALISE, "--claim", "x: v*z"], "uses z"),
        ([NORMALISE, "--claim", "x: v.sum()"], "has shape ()"),
        ([NORMALISE, "--claim", "x: v +"], ""),
        ([NORMALISE, "--claim", "x: v", "--shape", "q=3"], "q is not an input"),
        ([NORMALISE, "--claim", "x: v", "--grad-name", "x"], "is a value of the expression"),
        (["nowhere.py:F"], "there is no file"),
        (["a*b", "--claim", "v"], "does not say which input"),
        ([NORMALISE, "--claim", "x: v", "--claim", "x: v"], "two claims"),
        ([], "what to check is missing"),
    ],
)
def test_bad_input(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("gradexplain: ") and "Traceback" not in error


def test_a_file_that_does_not_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "other.py").write_text("F = 3\nprint('hello')\n")
    for name, said in (("bad", "does not import"), ("ends", "ends by itself"), ("other", "is int")):
        assert main(["check", f"{tmp_path / name}.py:F"]) == 2
        captured = capsys.readouterr()
        assert said in captured.err and captured.out == ""


def test_widths(capsys: pytest.CaptureFixture[str]) -> None:
    for width in (80, 100):
        main(["check", NORMALISE, "--claim", WRONG, "--width", str(width)])
        assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_every_fault_is_described() -> None:
    assert len({k.code for k in KINDS}) == len({k.name for k in KINDS}) == len(KINDS)
    assert all(k.title and k.about for k in KINDS)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.example], ids=lambda k: k.code)
def test_the_example_of_a_fault_has_it(kind: Kind) -> None:
    assert kind.example is not None
    expression, wrong, right = kind.example
    assert kind.name in check(expression, wrong).faults.values()
    assert check(expression, right).right


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "GX104"]) == 0
    found = capsys.readouterr().out
    assert "missing_off_diagonal" in found and "gradexplain check" in found
    assert main(["explain"]) == 0
    listed = capsys.readouterr().out
    assert all(k.code in listed and k.name in listed for k in KINDS)
    assert main(["explain", "GX999"]) == 2
    assert "there is no fault GX999" in capsys.readouterr().err
