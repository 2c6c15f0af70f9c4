"""The renderers against whole strings, at pinned width and encoding."""

from __future__ import annotations

import numpy as np
import pytest
from sample import array

from gradexplain import numbers
from gradexplain.cli import main
from gradexplain.document.model import Document
from gradexplain.errors import cells
from gradexplain.formats import ascii, terminal
from gradexplain.formats.text import Style

# -- numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.3, "0.3"),
        (0.1 + 0.2, "0.3"),
        (16.0, "16"),
        (1e-4, "0.0001"),
        (1.25e-5, "1.25e-05"),
        (1 / 7, "0.142857"),
        (-0.0, "0"),
        (-2.5, "-2.5"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
        (1e6, "1e+06"),
    ],
)
def test_number(value: float, expected: str) -> None:
    assert numbers.number(value) == expected


def test_precision() -> None:
    assert numbers.number(1 / 7, 3) == "0.143"
    assert numbers.number(0.1, 17) == "0.10000000000000001"


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        (3.0, 100, ["3"]),
        ([], 100, ["[]"]),
        (np.zeros((2, 0)), 100, ["[]"]),
        ([0.3, 3, 0.0003], 100, ["[0.3, 3, 0.0003]"]),
        ([[1, 0], [0, 2], [0.5, -1]], 100, ["[[1, 0], [0, 2], [0.5, -1]]"]),
        ([[1, 0], [0, 2], [0.5, -1]], 20, ["[[  1,  0],", " [  0,  2],", " [0.5, -1]]"]),
        (np.arange(7.0), 15, ["[0, 1, 2, 3, 4,", " 5, 6]"]),
        (
            np.arange(16.0).reshape(2, 2, 4),
            100,
            ["[[[ 0,  1,  2,  3],", "  [ 4,  5,  6,  7]],", "", " [[ 8,  9, 10, 11],"]
            + ["  [12, 13, 14, 15]]]"],
        ),
        (np.arange(1001.0), 100, ["[0, 1, 2, ..., 998, 999, 1000]"]),
    ],
)
def test_tensor(values: object, width: int, expected: list[str]) -> None:
    assert numbers.tensor(array(values), width=width) == expected


def test_large_matrix_is_abbreviated_as_pytorch_does() -> None:
    assert numbers.tensor(np.arange(10_000.0).reshape(100, 100)) == [
        "[[   0,    1,    2, ...,   97,   98,   99],",
        " [ 100,  101,  102, ...,  197,  198,  199],",
        " [ 200,  201,  202, ...,  297,  298,  299],",
        " ...,",
        " [9700, 9701, 9702, ..., 9797, 9798, 9799],",
        " [9800, 9801, 9802, ..., 9897, 9898, 9899],",
        " [9900, 9901, 9902, ..., 9997, 9998, 9999]]",
    ]


def test_many_short_axes_are_abbreviated_too() -> None:
    assert len("".join(numbers.tensor(np.zeros((2,) * 18)))) < 60_000


def test_a_row_never_exceeds_the_width() -> None:
    for width in (20, 37, 60, 100):
        lines = numbers.tensor(np.linspace(-1, 1, 60).reshape(3, 20), width=width)
        assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "Q = x @ w; softmax(Q @ Q.T / 2, dim=-1) @ x", "--shape=x=2,3", "--shape=w=3,2", "--grad=ones"],
        ["run", "x * 0.001234567", "--at=x=1,-2e-100", "--grad=1,1", "--grad=2,2", "--precision=3"],
        ["why", "3*a + 2*b*b + log(c)", "b[0]", "--shape=b=3", "--grad=ones"],
        ["hessian", "longer**3 * another**2", "--at=longer=1.2345678", "--at=another=-1.7654321"],
        ["check", "x / x.sum(dim=0)", "--claim", "x: v*(1/x.sum(dim=0) - x/x.sum(dim=0)**2)"],
        ["stability", "log(exp(x) - 1)", "--range=x=0.001,20"],
        ["ops", "softmax"],
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_pages_fit_any_width(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns that do not fit beside each other stand under each other."""
    pages: list[Document] = []
    monkeypatch.setattr(terminal, "render", lambda page, style: pages.append(page) or "")
    assert main(arguments) in (0, 1)
    monkeypatch.undo()
    for width in (20, 23, 27, 34, 41, 50, 59, 70):
        lines = terminal.render(pages[-1], Style(width, precision=3)).splitlines()
        assert [line for line in lines if cells(line) > width] == []


def test_distinct_shows_where_numbers_differ() -> None:
    assert numbers.distinct(0.3, 0.4) == ("0.3", "0.4")
    assert numbers.distinct(1.0, 1 + 1e-9) == ("1", "1.000000001")


def test_fold_escapes_what_has_no_stand_in() -> None:
    assert ascii.fold("∂β·x² …", "ascii") == "d\\u03b2*x^2 ..."
    assert ascii.fold("∂β·x² …", "utf8") == "∂β·x² …"
    assert ascii.fold("∂β", "no such encoding") == "d\\u03b2"
