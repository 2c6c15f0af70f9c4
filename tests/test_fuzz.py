"""A short run of `tests.fuzz` with a fixed seed, and every failure that it has found."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from gradexplain.cli import main
from gradexplain.routes.pytorch import Lines, tensor_of
from gradexplain.supervisor import link
from tests.fuzz.kinds import KINDS
from tests.fuzz.lines import LINES
from tests.fuzz.trial import loaded, tried


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_run(kind: str, tmp_path: Path) -> None:
    loaded()
    for number in range(2 if kind == "deep" else 4):
        arguments = KINDS[kind](random.Random(f"suite {number} {kind}"), tmp_path)
        assert tried(arguments, 3, held=kind == "budgets").wrong == "", arguments


#: Points where PyTorch's arithmetic has run out; and sums of so many terms that their roundings show.
EXTREME = {
    "exp in exp",
    "digamma",
    "digamma, far",
    "polygamma",
    "polygamma, far",
    "lgamma twice",
    "lgamma twice, far",
}
ROUNDED = {"softmax", "logcumsumexp"}


@pytest.mark.parametrize("name", LINES)
def test_what_once_took_all_time_and_memory(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At a size for a suite, by the same method; ``python -m tests.fuzz --lines`` is at the whole size."""
    arguments, _, size = LINES[name]
    given = arguments(size)
    if given[0] == "codegen":
        assert main(given) == 0
        assert capsys.readouterr().out.count("torch.tanh") >= size
        return
    assert main([*given, "--format", "json"]) == 0
    status = json.loads(capsys.readouterr().out)["check"]["status"]
    if name not in ROUNDED:
        assert status == ("convention" if name in EXTREME else "agree")
    assert status in ("agree", "convention")


#: What once was an internal error, a message without end, or worse; and what it is now.
FOUND = [
    (["run", "x['a']", "--shape", "x=3"], 2, "a subscript is made of integers"),
    (["run", "x[1.5]", "--shape", "x=3"], 2, "a subscript is made of integers"),
    (["hessian", "x[:'a']", "--shape", "x=3"], 2, "a slice takes integers"),
    (["hessian", "atleast_3d(x)", "--at", "x=1"], 0, ""),
    (["run", "erfc(x)", "--at", "x=1e300"], 0, ""),
    (["hessian", "atan2(-x, 2 - x)", "--grad", "ones", "--at", "x=[0.1, -0.0, -inf]"], 0, ""),
    (["check", "x", "--claim", "x: v", "--arg", "x={[]:1}"], 2, "the value is not a number"),
    (["run", "take(x, [0, 4, -1])", "--shape", "x=2,3", "--grad", "ones", "--no-check"], 0, ""),
    (
        [
            "run",
            "div(x, y, rounding_mode='floor')",
            "--shape",
            "x=6,9",
            "--shape",
            "y=9",
            "--no-check",
            "--grad",
            "ones",
        ],
        0,
        "",
    ),
    (
        ["run", "pinverse(x)", "--at", "x=[[1, 2], [3, nan]]", "--grad", "ones"],
        2,
        "cannot be decomposed",
    ),
    (
        ["run", "linalg.pinv(x)", "--grad", "ones", "--at", "x=[[0, 0.1, -inf], [inf, 0, 0]]"],
        0,
        "",
    ),
    (["check", "x.std()", "--shape", "x=1", "--claim", "x: v"], 1, ""),
    (["run", "F.huber_loss(x, t/2)", "--shape", "x=", "--shape", "t=3", "--grad", "ones"], 0, ""),
    (
        ["check", "linalg.inv(x)", "--claim", "x: v", "--shape", "x=2,2", "--dtype", "float16"],
        1,
        "",
    ),
    *[
        (
            ["run", f"linalg.{name}(x)", "--grad", "ones", "--at", f"x=[[1e-8, nan, 1], {row}]"],
            2,
            "numbers far apart cannot be decomposed",
        )
        for name, row in (
            ("svdvals", "[nan, 1e154, 1e300]"),
            ("eigvalsh", "[nan, 1e154, 1], [1, 1, 1e300]"),
        )
    ],
    (["check", "sort(sin(x)).values", "--claim", "x: v", "--shape", "x=4"], 1, ""),
    (
        [
            "hessian",
            "F.cross_entropy(x, t/3.5).sum() + s",
            "--shape",
            "x=2,3",
            "--shape",
            "t=2,3",
            "--no-check",
        ],
        0,
        "",
    ),
    (
        [
            "run",
            "x.index_select(0, x.argmax().reshape(1))",
            "--grad",
            "ones",
            "--at",
            "x=[-inf, nan, 1]",
        ],
        0,
        "",
    ),
    (
        ["check", "(n := x)*n", "--claim", "n: v*x"],
        2,
        "the claim is about n, which is not an input",
    ),
    (
        ["run", "F.cross_entropy(x, t/3.5)", "--at", "t=1", "--shape", "t=2,3", "--shape", "x=2,3"],
        2,
        "t has shape () by --at but (2, 3) by --shape",
    ),
    (["codegen", "sqrt(-exp(x))"], 2, "a root of what is negative everywhere is no real number"),
    (["run", "rsqrt(-exp(x) - 1)", "--no-check"], 2, "a root of what is negative everywhere"),
    (["run", "x" + "[None]" * 17], 2, "a tensor of 17 dimensions; at most 16 are supported"),
    (
        [
            "run",
            "z = x.clone()\nfor i in range(40):\n    z[0] = z[0]*2\nz.sum()",
            "--shape",
            "x=3",
            "--no-check",
        ],
        0,
        "",
    ),
    *[
        (["run", "y = x\n" + line * 60, "--at", "x=1", "--no-check"], 0, "")
        for line in ("y = y*1.0000000000000000000001\n", "y = y*1e250\n", "y = y/3e250\n")
    ],
    (["codegen", "self*2"], 0, ""),
    (["run", "det(x)", "--at", "x=[[1e200, 0, 0], [0, 1, 0], [0, 0, 1]]", "--no-check"], 0, ""),
    (["codegen", "x.sum().T * 2", "--shape", "x=2"], 0, ""),
    (["codegen", "x*2", "--name", "\ufb01oo"], 0, ""),
    (["check", "a" * 5000 + ".py:f"], 2, "there is no file aaa"),
    (["trace", "a" * 5000 + ".py"], 2, "there is no file aaa"),
    (
        ["trace", "tests"],
        2,
        "tests is a directory\nremedy: trace takes the path of a Python script",
    ),
    *[
        (arguments, 2, "")
        for arguments in [
            ["run", "x", "--wrt", "a" * 5000],
            ["run", "x", "--at", "a" * 5000],
            ["run", "x", "--shape", "a" * 5000],
            ["run", "x", "--from", "a" * 5000],
            ["run", "--file", "a" * 5000],
            ["run", "x", "--no-check", "--output", "/" + "a" * 5000],
            ["run", "x", "--at", "x=@" + "a" * 5000 + ".npy"],
            ["check", "x", "--claim", "a" * 5000 + ": v"],
            ["ops", "a" * 5000],
            ["a" * 5000],
            ["run", "x", "--" + "a" * 5000],
            ["run", "x", "--timeout", "a" * 5000],
            ["codegen", "x", "--name", "a" * 5000],
        ]
    ],
]


@pytest.mark.parametrize(
    ("arguments", "code", "message"), FOUND, ids=[" ".join(a)[:40] for a, _, _ in FOUND]
)
def test_what_was_found(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert message in err
    assert max(map(len, err.splitlines()), default=0) < 600
    assert err.startswith("gradexplain: ") == (code == 2)


def test_a_module_is_no_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "linalg.inv(x)", "--claim", "x: v", "--shape", "x=2,2"]) == 1
    page = capsys.readouterr().out
    assert "x (2, 2)" in page and "linalg (" not in page


@pytest.mark.parametrize(
    ("name", "value"),
    [("SYMPY_CACHE_SIZE", "abc"), ("COLUMNS", "abc"), ("_GRADEXPLAIN_COMPLETE", "bash_complete")],
)
def test_odd_variables(name: str, value: str) -> None:
    """By the real command: SymPy reads its variable as it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", "from gradexplain.cli import main; raise SystemExit(main())"]
        + ["run", "x*2", "--no-check"],
        env={**os.environ, name: value}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_a_line_of_pytorch_that_would_take_the_square_of_its_input_is_not_run() -> None:
    """Nor is it at a size where it would fit: nobody wants such a line there."""
    text = "torch.ones(x.shape[0], x.shape[0]).to(v)"
    lines = {"made": f"{text} @ v", "spread": "(x.unsqueeze(1) - x).sum(0)", "own": "x * v"}
    for size, given in [(1000, ["made", "spread", "own"]), (10**5, ["own"])]:
        values = {"x": np.ones(size), "v": np.ones(size)}
        assert [*Lines(lines, values, "").ask().gradients] == given


def test_an_array_that_is_turned_around_goes_to_pytorch() -> None:
    assert tensor_of(torch, np.arange(4.0)[::-1]).tolist() == [3, 2, 1, 0]


def test_an_interrupt_that_an_import_swallowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(link.state, "stops", [signal.SIGINT])
    monkeypatch.setattr(link.state, "stopping", signal.SIGINT)
    assert main(["run", "x *"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_backward_that_exits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "exits.py"
    path.write_text(CHECKED.replace("return g * 3", "raise SystemExit(3)"), encoding="utf-8")
    assert main(["check", f"{path}:Twice"]) == 2
    assert capsys.readouterr() == (
        "",
        "gradexplain: the code that was run exits with status 3\n"
        "remedy: leave exit() out of what is differentiated\n",
    )


def test_a_header_with_a_truth_value_for_a_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (True, 2), }"
    header += b" " * (117 - len(header)) + b"\n"
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16))
    assert main(["run", "x", "--at", f"x=@{path}", "--grad", "ones"]) == 2
    assert "a size in the header's shape (True, 2) is no integer" in capsys.readouterr().err


#: Bytes that steer a terminal, and marks that turn text around, in what is explained and checked.
STEERING = 'd = {"\x1b[31m \u202e \x9b \U000e0001": 2}\nx*d["\x1b[31m \u202e \x9b \U000e0001"]'
CHECKED = """\
import torch


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 3  # \x1b[31m \u202e \x9b
"""


RUN = ["run", STEERING, "--at", "x=1", "--no-check", "--format"]


@pytest.mark.parametrize(
    "arguments",
    [
        *([*RUN, form] for form in ("text", "json", "markdown", "latex", "html")),
        *(["check", "FILE", "--shape", "x=3", "--format", form] for form in ("html", "latex", "github", "sarif")),
        ["codegen", STEERING],
    ],
    ids=lambda arguments: f"{arguments[0]}-{arguments[-1][:6]}",
)  # fmt: skip
def test_nothing_steers_a_terminal(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "twice.py"
    path.write_text(CHECKED, encoding="utf-8")
    given = [f"{path}:Twice" if text == "FILE" else text for text in arguments]
    assert main(given) == (given[0] == "check")
    page = capsys.readouterr().out
    assert {ch for ch in page if unicodedata.category(ch) in ("Cc", "Cf")} == {"\n"}
    if given[-1] in ("json", "sarif"):
        json.loads(page, parse_constant=pytest.fail)
        assert "\\u001b[31m \\u202e \\u009b" in page
    else:
        assert "x1b" in page
    if given[0] == "codegen":
        compile(page, "made", "exec")
