"""Where digits go: near fifty classics with what is found for each, and the laws of what is proposed."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from gradexplain.document.schema import schema_of
from gradexplain.errors import InputError
from gradexplain.routes.rewrites import REWRITES
from gradexplain.stability.page import picture
from gradexplain.stability.search import Stability, parse_range, samples, stability

CLASSICS = [
    tuple(part.strip() for part in line.split("|"))
    for line in (Path(__file__).parent / "classics.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize(("source", "expression", "where", "expected"), CLASSICS)
def test_classic(source: str, expression: str, where: str, expected: str) -> None:
    ranges, at, shapes = {}, {}, {}
    for part in where.split():
        if "," in part:
            name, low, high = parse_range(part)
            ranges[name] = (low, high)
        elif shape := re.fullmatch(r"(\w)\((\d+)\)", part):
            shapes[shape[1]] = (int(shape[2]),)
        else:
            name, value = part.split("=")
            at[name] = np.asarray(float(value))
    found = stability(expression, ranges, at=at, shapes=shapes)
    assert (found.rewrite or ("stable" if found.lost is None else "-")) == expected
    if found.rewrite:
        before, after = min(found.forward), min(found.forward_after)
        assert after > before or min(found.backward_after) > min(found.backward)
        # What is printed runs.
        names = {n: torch.tensor(0.25) for n in (*ranges, *at)}
        names |= {n: torch.rand(s) for n, s in shapes.items()}
        eval(found.rewrite, {"torch": torch, "F": torch.nn.functional, **names})


def test_float32_has_fewer_digits() -> None:
    found = stability("log(1 + x)", {"x": (0.0, 1.0)}, dtype="float32")
    assert found.rewrite == "torch.log1p(x)"
    assert max(found.forward) <= 7.23


def test_samples_reach_every_power_of_ten_and_stay_inside() -> None:
    points = samples(-2.0, 5.0, "float64")
    assert points.min() == -2
    assert points.max() == 5
    assert np.unique(np.floor(np.log10(np.abs(points[points > 0])))).size > 12


@pytest.mark.parametrize("row", REWRITES, ids=lambda row: row.old)
def test_rows_are_expressions_of_the_same_letters(row: object) -> None:
    letters = [set(re.findall(r"\b[ABCD]\b", text)) for text in (row.old, row.new)]  # type: ignore[attr-defined]
    assert letters[1] <= letters[0]


def test_picture() -> None:
    assert picture([0.0, 8.0, 16.0], 16.0) == "▁▄█"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x",
            "--range takes NAME=LOW,HIGH, not `x`\nremedy: write `--range x=0,1`",
        ),
        (
            "x=2,1",
            "--range x: 2 is not below 1\nremedy: write two finite numbers, the smaller one first",
        ),
    ],
)
def test_bad_range(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_range(text)
    assert str(error.value) == message


@pytest.mark.parametrize("expression", ["log(1 + x)", "x*x"])
def test_the_json_is_what_its_schema_says(expression: str) -> None:
    found = stability(expression, {"x": (0.0, 1.0)})
    jsonschema.validate(found.to_dict(), schema_of(Stability))
