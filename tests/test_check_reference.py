"""Checks against a reference, of custom operations, surrogates and arguments of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch.autograd import Function

import gradexplain
from gradexplain.checking.checker import check
from gradexplain.cli import main
from gradexplain.errors import InputError

pytest_plugins = ["pytester"]


class FusedSoftmax(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = torch.from_numpy(x.detach().numpy().copy()).softmax(-1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return y * (g - (g * y).sum(-1, keepdim=True))


class Shifted(FusedSoftmax):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return FusedSoftmax.forward(ctx, x) + 0.001


class Unsummed(FusedSoftmax):
    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (y,) = ctx.saved_tensors
        return y * (g - g.sum(-1, keepdim=True))


def reference(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, dim=-1)


def fused(x: torch.Tensor) -> Any:
    return FusedSoftmax.apply(x)


@pytest.mark.parametrize("against", ["softmax(x, dim=-1)", reference])
@pytest.mark.parametrize("op", [FusedSoftmax, fused])
def test_a_kernel_against_its_reference(op: Any, against: Any) -> None:
    assert check(op, against=against).right
    assert check(Unsummed, against=against).faults == {"x": "missing_factor"}


def test_the_forward_is_compared_first() -> None:
    report = check(Shifted, against=reference)
    assert report.faults == {"x": "forward_differs"}
    fault = report.inputs["x"].fault
    assert fault is not None and "0.001" in fault.sentence


def test_a_reference_of_other_inputs() -> None:
    with pytest.raises(InputError, match="the reference uses z, which is no input"):
        check(FusedSoftmax, against="softmax(z, dim=-1)")


@torch.library.custom_op("gradexplain_tests::cube", mutates_args=())
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


@torch.library.custom_op("gradexplain_tests::cube_wrong", mutates_args=())
def cube_wrong(x: torch.Tensor) -> torch.Tensor:
    return x**3


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


cube.register_autograd(lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g, setup_context=_setup)
cube_wrong.register_autograd(lambda ctx, g: 2 * ctx.saved_tensors[0] ** 2 * g, setup_context=_setup)


def test_custom_ops() -> None:
    assert check(cube).right
    assert check(cube, against="x**3").right
    assert check(cube_wrong).faults == {"x": "constant_factor"}


class Round(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x.round()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return g


def test_a_surrogate_is_held_against_what_is_declared() -> None:
    assert not check(Round).right
    assert check(Round, intended="straight-through").right
    assert check(Round, intended={"x": "v"}).right
    assert not check(Round, intended={"x": "2*v"}).right


class RoundTo(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, step: Any) -> Any:
        ctx.save_for_backward(x, step)
        return torch.round(x / step) * step

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        x, step = ctx.saved_tensors
        return g, (g * torch.round(x / step)).sum()


class RoundedSum(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.shape = x.shape
        return x.round().sum()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        return g.expand(ctx.shape)


def test_what_nothing_goes_straight_through_to_is_said() -> None:
    report = check(RoundTo, shapes={"x": (3, 4), "step": ()}, intended="straight-through")
    assert report.right
    assert report.notes == [
        "Nothing goes straight through to step, whose shape is not the output's: its gradient is "
        "compared with the forward's own."
    ]
    with pytest.raises(InputError) as error:
        check(RoundedSum, shapes={"x": (3,)}, intended="straight-through")
    assert str(error.value) == (
        "nothing goes straight through: no input has the output's shape ()\n"
        'remedy: say it: --as "x: …", a gradient of shape (3,), or --no-grad x'
    )


class Pick(Function):
    @staticmethod
    def forward(ctx: Any, table: Any, index: Any, scale: Any = None) -> Any:
        ctx.save_for_backward(index)
        ctx.rows = len(table)
        return table[index] if scale is None else table[index] * scale

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:  # type: ignore[override]
        (index,) = ctx.saved_tensors
        return g.new_zeros(ctx.rows, g.shape[1]).index_add(0, index, g), None, None


def test_integers_stay_integers() -> None:
    report = check(Pick, at={"index": [0, 2, 0]}, shapes={"table": (3, 2)})
    assert report.right and list(report.inputs) == ["table"]
    table = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    assert check(Pick, at={"table": table, "index": torch.tensor([1, 1])}).right


def test_an_argument_that_is_not_there() -> None:
    with pytest.raises(InputError, match="Pick has no argument q"):
        check(Pick, shapes={"q": (3,)})


def test_no_backward_of_its_own() -> None:
    with pytest.raises(InputError, match="it has no backward to check"):
        check(reference)


SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "items": {
                "required": ["tool", "results"],
                "properties": {
                    "tool": {"required": ["driver"]},
                    "results": {
                        "type": "array",
                        "items": {
                            "required": ["message", "ruleId"],
                            "properties": {
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": {"required": ["text"]},
                            },
                        },
                    },
                },
            },
        },
    },
}

SOURCE = """
import torch

class Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y) ** 2
"""


def test_annotations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ops.py"
    file.write_text(SOURCE)
    assert main(["check", f"{file}:Tanh", "--format", "github"]) == 1
    line = capsys.readouterr().out
    assert line.startswith("::error file=") and "line=14" in line and "GX131" in line
    assert main(["check", f"{file}:Tanh", "--format", "sarif"]) == 1
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, SARIF)
    (result,) = document["runs"][0]["results"]
    region = result["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 14, "endLine": 14}
    (change,) = result["fixes"][0]["artifactChanges"][0]["replacements"]
    assert change["insertedContent"]["text"] == "        return g * (1 - y ** 2)"


def test_the_caret_stands_under_the_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ops.py"
    file.write_text(SOURCE)
    main(["check", f"{file}:Tanh"])
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("  line 14"))
    code, marked = lines[place + 1 : place + 3]
    start, end = marked.index("^"), marked.rindex("^") + 1
    assert code[start:end] == "(1 - y) ** 2"


def test_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        tanh_op=SOURCE,
        test_of_tanh="""
        from tanh_op import Tanh

        def test_wrong(gradexplain_check):
            gradexplain_check(Tanh)

        def test_other():
            pass
        """,
    )
    arguments = ("-p", "gradexplain.pytest_plugin", "-p", "no:cacheprovider")
    if pytester._request.config.pluginmanager.hasplugin("gradexplain"):
        arguments = arguments[2:]
    result = pytester.runpytest_inprocess(*arguments)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*square_of_difference*"])
    pytester.runpytest_inprocess(*arguments, "--gradexplain", "skip").assert_outcomes(
        passed=1, deselected=1
    )


def test_from_python() -> None:
    assert gradexplain.check(FusedSoftmax, against=reference).right
