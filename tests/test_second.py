"""``run --order 2``: the recorded backward pass, and its derivative against PyTorch's own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from gradexplain.accumulation import explain_calls
from gradexplain.cli import main

CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("(x**3).sum()", {"x": [2.0, 1.0]}, None),
    ("s = x.sum(dim=0); x/s", {"x": [[2, 1], [3, 3], [5, 5]]}, [[1, 0], [0, 2], [0.5, -1]]),
    ("h = tanh(w@x); p = softmax(h, dim=0); -log(p[1])", {"w": [[1, -2], [0.3, 0.4]],
                                                           "x": [0.2, 0.1]}, None),
    ("relu(x)*x", {"x": [-1.0, 2.0]}, [1, 3]),
    ("3*a + b", {"a": 1.0, "b": 2.0}, None),
    ("a*b + sigmoid(a)", {"a": [0.1, 0.2], "b": 3.0}, [1, 2]),
]  # fmt: skip


def by_pytorch(expression: str, at: dict[str, Any], grad: Any) -> dict[str, Any]:
    """The second pass as a program would make it."""
    names: dict[str, Any] = {
        n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in at.items()
    }
    inputs = list(names.values())
    for name in ("tanh", "softmax", "log", "relu", "sigmoid"):
        names[name] = getattr(torch, name)
    *statements, last = expression.split("; ")
    for statement in statements:
        exec(statement, names)
    y = eval(last, names)
    v = None if grad is None else torch.tensor(grad, dtype=torch.float64)
    first = torch.autograd.grad(y, inputs, v, create_graph=True)
    total = sum(g.sum() for g in first)
    if not total.requires_grad:
        return {n: np.zeros(np.shape(v)) for n, v in at.items()}
    second = torch.autograd.grad(total, inputs, allow_unused=True)
    return {
        n: np.zeros(np.shape(v)) if g is None else g.numpy()
        for (n, v), g in zip(at.items(), second, strict=True)
    }


@pytest.mark.parametrize(("expression", "at", "grad"), CASES)
def test_the_second_pass(expression: str, at: dict[str, Any], grad: Any) -> None:
    x = explain_calls(expression, () if grad is None else [grad], at=at, order=2)
    assert x.check is not None and x.check.status == "agree"
    assert x.second is not None
    for name, expected in by_pytorch(expression, at, grad).items():
        gradient = x.second.explanation.gradients[name]
        assert np.allclose(gradient.value, expected, rtol=1e-12, atol=1e-15)
        assert np.allclose(gradient.chain_rule, expected, rtol=1e-12, atol=1e-15)
        assert gradient.verdict == "agree"


def test_the_backward_pass_is_shown_as_operations(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["y = 2*x; z = (y**3).sum()", "--at", "x=1,2,3", "--order", "2"]
    assert main(["run", *arguments, "--format", "json"]) == 0
    second = json.loads(capsys.readouterr().out)["second"]
    rows = [(r["node"] + r["index"], r["formula"], r["value"]) for r in second["backward"]]
    assert rows == [
        ("t1.grad[j]", "1", [1, 1, 1]),
        ("y.grad[j]", "3·y[j]²·t1.grad[j]", [12, 48, 108]),
        ("x.grad[j]", "2·y.grad[j]", [24, 96, 216]),
    ]
    assert (second["scalar"], second["expression"]) == ("S", "x.grad.sum()")
    assert second["gradients"]["x"]["formula"] == "∂S/∂x[j] = 24·y[j]"
    assert second["gradients"]["x"]["torch"] == [48, 96, 144]
    assert [(s["node"], s["input"]) for s in second["steps"]] == [
        ("S", "x.grad"), ("x.grad", "y.grad"), ("y.grad", "y"), ("y", "x"),
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
def test_the_page_fits(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["s = x.sum(dim=0); x/s", "--at", "x=[[2,1],[3,3]]", "--grad", "[[1,0],[0,2]]"]
    assert main(["run", *arguments, "--order", "2", "--width", str(width)]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= width
    assert "create_graph=True" in page and " s.grad[j] = −(" in " ".join(page.split())


def test_without_the_check() -> None:
    x = explain_calls("(x**3).sum()", at={"x": [2.0]}, order=2, check=False)
    assert x.check is not None and x.check.status == "skipped"
    assert x.second is not None
    assert x.second.explanation.gradients["x"].value.tolist() == [12]
