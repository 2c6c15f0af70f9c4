"""Sizes as letters: what the formulas say, that they hold at other sizes, and that they are kept."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_laws import check_text

import gradexplain
from gradexplain import graph
from gradexplain.cli import main
from gradexplain.formulas import formulas

CASES = [
    ("sqrt(x).mean()", {"x": (2, 3)}, "v/(2·N·M·sqrt(x[j,l]))", "N = 2, M = 3"),
    ("tanh(x @ w.T + b).sum()", {"x": (2, 3), "w": (4, 3), "b": (4,)}, "", ""),
    ("x.var(1).sum()", {"x": (2, 3)}, "2·v·(x[j,l] − μ[j])/(M − 1)", "M = 3"),
    ("F.mse_loss(x, y)", {"x": (2, 2), "y": (2, 2)}, "2·v·(x[j,l] − y[j,l])/(N·M)", "N = 2, M = 2"),
    ("x.roll(1)", {"x": (4,)}, "v[(j + 1) mod N]", "N = 4"),
    ("x.flip(0)", {"x": (4,)}, "v[N − j − 1]", "N = 4"),
    ("x.diff()", {"x": (4,)}, "v[j − 1]·[j ≥ 1] − v[j]·[j ≤ N − 2]", "N = 4"),
    ("x.reshape(6)", {"x": (2, 3)}, "v[3·j + l]", ""),
    ("x.reshape(3, 2).reshape(-1)", {"x": (2, 3)}, "v[3·j + l]", ""),
    ("x[[0, 1, 2]]", {"x": (3,)}, "v[j]", "at these sizes"),
    ("x * ones(3)", {"x": (3,)}, "v[j]", ""),
    ("(x * 3.14159).mean()", {"x": (3,)}, "3.14159·v/N", "N = 3"),
    ("x / x.shape[0]", {"x": (5,)}, "v[j]/N", "N = 5"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shapes", "formula", "sizes"), CASES, ids=[c[0] for c in CASES])
def test_what_a_formula_says(text: str, shapes: Any, formula: str, sizes: str) -> None:
    x = gradexplain.explain(text, shapes=shapes, grad="ones", check=False)
    shown = x.gradients["x"]
    assert formula in ("", shown.text.partition(" = ")[2])
    assert sizes == "" or shown.ranges.endswith(f"; {sizes}")
    assert check_text(x) > 0


@given(st.sampled_from([c[:2] for c in CASES[:7]]), st.lists(st.integers(3, 6), min_size=3))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_one_formula_at_every_size(case: Any, sizes: list[int]) -> None:
    """The text is the same whatever the sizes are, and has the value that is claimed."""
    text, shapes = case
    here = gradexplain.explain(text, shapes=shapes, grad="ones", check=False)
    named = dict(zip(dict.fromkeys(n for s in shapes.values() for n in s), sizes, strict=False))
    other = {name: tuple(named[n] for n in shape) for name, shape in shapes.items()}
    there = gradexplain.explain(text, shapes=other, grad="ones", check=False)
    assert {n: g.text for n, g in here.gradients.items()} == {
        n: g.text for n, g in there.gradients.items()
    }
    check_text(there)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def test_a_program_of_many_long_numbers() -> None:
    """They are not factorised, which would take minutes."""
    factors = np.random.default_rng(0).random(300)
    text = "; ".join(f"h{k + 1} = h{k}*{1 + factor!r}" for k, factor in enumerate(factors.tolist()))
    x = gradexplain.explain(f"h0 = x*x; {text}; h300.mean()", shapes={"x": (3,)}, check=False)
    value = x.inputs["x"].value
    np.testing.assert_allclose(x.gradients["x"].value, 2 * value * np.prod(1 + factors) / 3)


@pytest.mark.parametrize("text", ["x / x.sum(dim=0)", "softmax(x, dim=1)", "x.var(1)", "x.prod()"])
def test_formulas_that_were_derived_before_give_the_same_page(text: str) -> None:
    graph._READ.clear()
    other = gradexplain.explain(text, at={"x": [[3, 1], [4, 1], [5, 9]]}, grad="ones", check=False)
    kept = gradexplain.explain(text, shapes={"x": (3, 2)}, grad="ones", check=False)
    graph._READ.clear()
    fresh = gradexplain.explain(text, shapes={"x": (3, 2)}, grad="ones", check=False)
    assert _plain(kept) == _plain(fresh) != _plain(other)


VARIANCE = """\
  y = x[1:-1].var()

  x  (N,)
  y  ()

Gradients  at every size
  ∂y/∂x[j] = 2·(x[j] − μ)·[1 ≤ j ≤ N − 2]/(N − 3)    j = 0…N − 1; p = 0…N − 3
    where μ = (Σ_p x[p + 1])/(N − 2)
    […] is 1 where it holds, else 0
"""


def test_letters_for_sizes_give_the_formulas_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "x[1:-1].var()", "--shape", "x=N"]) == 0
    assert capsys.readouterr().out == VARIANCE
    assert main(["run", "x @ w", "--shape", "x=B,K", "--shape", "w=K,4", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"] == {"x": ["B", "K"], "w": ["K", 4]}
    assert found["output_shape"] == ["B", "4"]
    assert found["gradients"]["x"]["formula"] == "x.grad[j,l] = Σ_k v[j,k]·w[l,k]"
    assert found["gradients"]["x"]["ranges"] == "j = 0…B − 1; l = 0…K − 1; k = 0…3"


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("x.view(N, -1).sum()", "1"), ("x.reshape(N*M).sum()", "1"), ("(x/N).sum()", "1/N"),
        ("torch.ones(N) @ x", "v[l]"), ("(x**2).sum()/(N - 1)", "2·x[j,l]/(N − 1)"),
        ("x.cumsum(0).sum()", "N − j"),
    ],
)  # fmt: skip
def test_a_letter_in_the_text_is_the_size(text: str, formula: str) -> None:
    found = formulas(text, {"x": ("N", "M")})
    assert found.gradients["x"].text.partition(" = ")[2] == formula


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x*2", "--shape", "x=N", "--at", "x=1"],
         "gradexplain: --at needs numbers for sizes, and --shape gives a letter for one\n"
         "remedy: leave --at out, or give every size as a number\n"),
        (["N = 2*x; N.sum()", "--shape", "x=N"],
         "gradexplain: N is a value of the expression, and a size by --shape\n"
         "remedy: use another letter for the size\n"),
        (["x*2", "--shape", "y=N"],
         "gradexplain: y is not an input of the expression; its inputs are: x\n"
         "remedy: check the spelling, or leave the option out\n"),
        (["x.reshape(6)", "--shape", "x=N,M"],
         "gradexplain: shape (6,) is invalid for input of size N·M (shape (N, M))\n"
         "  x.reshape(6)\n  ^^^^^^^^^^^^\n"
         "remedy: the product of the sizes must stay the same\n"),
    ],
    ids=["a value", "a name", "no input", "a size that is wanted"],
)  # fmt: skip
def test_letters_that_cannot_be(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr().err == said
