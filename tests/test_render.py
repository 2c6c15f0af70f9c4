"""The renderers against whole strings, at pinned width and encoding."""

from __future__ import annotations

import numpy as np
import pytest
from sample import array, normalised, weighted

from gradexplain.explanation import STAGES, Check, Difference, Note
from gradexplain.render import ascii, numbers, text
from gradexplain.render.text import Style

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


def test_settled_hides_last_bits_and_keeps_differences() -> None:
    reference = array([0, 1, np.inf, 1])
    values = array([1e-17, 1 + 2e-16, np.inf, 2])
    settled = numbers.settled(values, reference, np.full(4, 1e-15))
    assert settled.tolist() == [0, 1, np.inf, 2]


def test_distinct_shows_where_numbers_differ() -> None:
    assert numbers.distinct(0.3, 0.4) == ("0.3", "0.4")
    assert numbers.distinct(1.0, 1 + 1e-9) == ("1", "1.000000001")


# -- text -------------------------------------------------------------------------------------------

WEIGHTED_80 = """\
Question
  y = 3*a + 2*b*b + log(c)

  a  (3,)  [1, 2, 3]
  b  (3,)  [4, 5, 6]
  c  (3,)  [7, 8, 9]
  y  (3,)  the output
  v  (3,)  [0.1, 1, 0.0001]  the argument of backward

  Example values are used for a, b and c; --at a=… sets them.

  y.backward(v) differentiates the scalar

      L = 0.1·y[0] + 1·y[1] + 0.0001·y[2]

  so v is ∂L/∂y, the gradient that flows into y, and a.grad, b.grad and c.grad
  are ∂L/∂a, ∂L/∂b and ∂L/∂c.

Forward  each operation and its value
  t1 = 3*a      (3,)  [3, 6, 9]
  t2 = 2*b      (3,)  [8, 10, 12]
  t3 = t2*b     (3,)  [32, 50, 72]
  t4 = t1 + t3  (3,)  [35, 56, 81]
  t5 = log(c)   (3,)  [1.94591, 2.07944, 2.19722]
  y  = t4 + t5  (3,)  [36.9459, 58.0794, 83.1972]

Jacobian  J = ∂y/∂input: a row for each element of y, a column for the input's
  δ(i,j) is 1 where i = j, else 0

  ∂y[i]/∂a[j] = 3·δ(i,j)    diagonal; i, j = 0…2

          a[0]  a[1]  a[2]
    y[0]     3     0     0
    y[1]     0     3     0
    y[2]     0     0     3

  ∂y[i]/∂b[j] = 4·b[i]·δ(i,j)    diagonal; i, j = 0…2

          b[0]  b[1]  b[2]
    y[0]    16     0     0
    y[1]     0    20     0
    y[2]     0     0    24

  ∂y[i]/∂c[j] = δ(i,j)/c[i]    diagonal; i, j = 0…2

              c[0]   c[1]      c[2]
    y[0]  0.142857      0         0
    y[1]         0  0.125         0
    y[2]         0      0  0.111111

Chain rule  from y back: upstream gradient × local derivative = contribution

  y = t4 + t5
           upstream      [0.1, 1, 0.0001]
    to t4  local         ∂y[i]/∂t4[j] = δ(i,j)
           contribution  v[j] = 0.1
                         [0.1, 1, 0.0001]
    to t5  local         ∂y[i]/∂t5[j] = δ(i,j)
           contribution  v[j] = 0.1
                         [0.1, 1, 0.0001]

  t5 = log(c)
          upstream      [0.1, 1, 0.0001]
    to c  local         ∂t5[i]/∂c[j] = δ(i,j)/c[i]
          contribution  v[j]/c[j] = 0.1/7 = 0.0142857
                        [0.0142857, 0.125, 1.11111e-05]

  t4 = t1 + t3
           upstream      [0.1, 1, 0.0001]
    to t1  local         ∂t4[i]/∂t1[j] = δ(i,j)
           contribution  v[j] = 0.1
                         [0.1, 1, 0.0001]
    to t3  local         ∂t4[i]/∂t3[j] = δ(i,j)
           contribution  v[j] = 0.1
                         [0.1, 1, 0.0001]

  t3 = t2*b
           upstream      [0.1, 1, 0.0001]
    to t2  local         ∂t3[i]/∂t2[j] = b[i]·δ(i,j)
           contribution  b[j]·v[j] = 4·0.1 = 0.4
                         [0.4, 5, 0.0006]
    to b   local         ∂t3[i]/∂b[j] = t2[i]·δ(i,j)
           contribution  t2[j]·v[j] = 8·0.1 = 0.8
                         [0.8, 10, 0.0012]

  t2 = 2*b
          upstream      [0.4, 5, 0.0006]
    to b  local         ∂t2[i]/∂b[j] = 2·δ(i,j)
          contribution  2·b[j]·v[j] = 2·4·0.1 = 0.8
                        [0.8, 10, 0.0012]
          sum           [1.6, 20, 0.0024]  of the 2 contributions to b

  t1 = 3*a
          upstream      [0.1, 1, 0.0001]
    to a  local         ∂t1[i]/∂a[j] = 3·δ(i,j)
          contribution  3·v[j] = 3·0.1 = 0.3
                        [0.3, 3, 0.0003]

Gradients  Jᵀ·v, by three routes

  a.grad[j] = 3·v[j]    j = 0…2
    closed form  [0.3, 3, 0.0003]
    chain rule   [0.3, 3, 0.0003]
    PyTorch      [0.3, 3, 0.0003]  agrees

  b.grad[j] = 4·b[j]·v[j]    j = 0…2
    closed form  [1.6, 20, 0.0024]
    chain rule   [1.6, 20, 0.0024]
    PyTorch      [1.6, 20, 0.0024]  agrees

  c.grad[j] = v[j]/c[j]    j = 0…2
    closed form  [0.0142857, 0.125, 1.11111e-05]
    chain rule   [0.0142857, 0.125, 1.11111e-05]
    PyTorch      [0.0142857, 0.125, 1.11111e-05]  agrees

Verdict
  agree: the closed form, the chain rule and PyTorch give the same gradients
    (float64, largest difference allowed 7.1e-15).
"""


def test_the_whole_page() -> None:
    assert text.render(weighted(), Style(width=80)) == WEIGHTED_80


def test_the_sections_make_up_the_page() -> None:
    x = weighted()
    parts = [text.section(x, stage, Style(width=80)) for stage in STAGES]
    assert "".join(parts) == WEIGHTED_80
    assert all(parts)


def test_a_question_can_be_shown_before_anything_is_computed() -> None:
    x = weighted()
    x.forward, x.jacobian, x.steps, x.gradients, x.check = [], {}, [], {}, None
    x.output.value = None
    assert WEIGHTED_80.startswith(text.section(x, "question", Style(width=80)))


def test_matrices_stand_side_by_side_where_they_fit() -> None:
    assert (
        text.section(normalised(), "gradients")
        == """\

Gradients  Jᵀ·v, by three routes

  x.grad[j,l] = v[j,l]/s[l] − Σ_i v[i,l]·x[i,l]/s[l]²    j = 0…2; l = 0…1
    where s[k] = Σ_p x[p,k]
    closed form               chain rule                PyTorch
    [[ 0.055, -0.0123457],    [[ 0.055, -0.0123457],    [[ 0.055, -0.0123457],
     [-0.045,   0.209877],     [-0.045,   0.209877],     [-0.045,   0.209877],
     [ 0.005,  -0.123457]]     [ 0.005,  -0.123457]]     [ 0.005,  -0.123457]]
    agrees
"""
    )


def test_a_wide_jacobian_is_broken_by_columns() -> None:
    assert (
        text.section(normalised(), "jacobian", Style(width=50))
        == """\

Jacobian  J = ∂y/∂input: a row for each element
  of y, a column for the input's
  δ(i,j) is 1 where i = j, else 0

  ∂y[i,k]/∂x[j,l] =
      (δ(i,j)·s[k] − x[i,k])·δ(k,l)/s[k]²
    one dense block for each column; i, j = 0…2;
      k, l = 0…1
    where s[k] = Σ_p x[p,k]

            x[0,0]      x[0,1]  x[1,0]      x[1,1]
    y[0,0]    0.08           0   -0.02           0
    y[0,1]       0   0.0987654       0  -0.0123457
    y[1,0]   -0.03           0    0.07           0
    y[1,1]       0   -0.037037       0   0.0740741
    y[2,0]   -0.05           0   -0.05           0
    y[2,1]       0  -0.0617284       0  -0.0617284

            x[2,0]      x[2,1]
    y[0,0]   -0.02           0
    y[0,1]       0  -0.0123457
    y[1,0]   -0.03           0
    y[1,1]       0   -0.037037
    y[2,0]    0.05           0
    y[2,1]       0   0.0493827
"""
    )


def test_stand_ins_for_a_terminal_without_unicode() -> None:
    page = text.render(normalised(), Style(encoding="ascii"))
    assert page.isascii()
    assert "  dy[i,k]/dx[j,l] = (delta(i,j)*s[k] - x[i,k])*delta(k,l)/s[k]^2\n" in page
    assert "    where s[k] = sum_p x[p,k]\n" in page
    assert "Gradients  J^T*v, by three routes\n" in page


def test_fold_escapes_what_has_no_stand_in() -> None:
    assert ascii.fold("∂β·x² …", "ascii") == "d\\u03b2*x^2 ..."
    assert ascii.fold("∂β·x² …", "utf8") == "∂β·x² …"
    assert ascii.fold("∂β", "no such encoding") == "d\\u03b2"


def test_colour_changes_no_character() -> None:
    import re

    for x in (weighted(), normalised()):
        coloured = text.render(x, Style(width=80, color=True))
        assert "\x1b[1mQuestion\x1b[0m\n" in coloured
        assert "\x1b[32magree:\x1b[0m" in coloured
        plain = re.sub(r"\x1b\[[\d;]*m", "", coloured)
        assert plain == text.render(x, Style(width=80))


@pytest.mark.parametrize("width", [20, 33, 80, 100, 1000])
def test_no_line_ends_in_a_space(width: int) -> None:
    for x in (weighted(), normalised()):
        lines = text.render(x, Style(width=width)).splitlines()
        assert all(line == line.rstrip() for line in lines)
        if width >= 80:
            assert max(map(len, lines)) <= width


def test_nothing_typed_is_interpreted() -> None:
    x = weighted()
    x.expression = "[red]a[/red] :smile: \x1b[31m \u202e"
    x.statements = ()
    x.notes = [Note("n", "[bold]\x07 {x}")]
    page = text.render(x)
    assert "  [red]a[/red] :smile: \\x1b[31m \\u202e\n" in page
    assert "  - [bold]\\x07 {x}\n" in page
    assert "\x1b" not in page
    assert "[red]a[/red] :smile: \\x1b[31m" in text.render(x, Style(color=True))


def test_a_mismatch_leads_with_the_wrong_entries() -> None:
    x = weighted()
    x.gradients["b"].verdict = "mismatch"
    x.gradients["b"].torch = array([1.6, 20.5, 0.0024])
    routes = ("closed form", "PyTorch")
    x.check = Check(
        "mismatch", "float64", 7.1e-15, [Difference("b", routes, (1,), (20.0, 20.5), 7.1e-15, 2)]
    )
    assert (
        text.section(x, "check")
        == """\

Verdict
  MISMATCH: the routes give different gradients (float64, largest difference allowed 7.1e-15).

  b.grad[1]   closed form 20   PyTorch 20.5   differ by 0.5, allowed 7.1e-15   largest of 2
"""
    )
    assert (
        text.section(x, "gradients").split("\n\n")[2]
        == """\
  b.grad[j] = 4·b[j]·v[j]    j = 0…2
    closed form  [1.6,   20, 0.0024]
    chain rule   [1.6,   20, 0.0024]
    PyTorch      [1.6, 20.5, 0.0024]  MISMATCH"""
    )


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (
            "convention",
            "",
            "convention: the routes differ where mathematics leaves a choice (float64).",
        ),
        (
            "convention",
            "PyTorch's own kernel is coarser",
            "convention: PyTorch's own kernel is coarser (float64).",
        ),
        (
            "skipped",
            "",
            "skipped: the closed form and the chain rule were not checked against PyTorch.",
        ),
        (
            "failed",
            "PyTorch could not be asked: it is not installed",
            "not checked: PyTorch could not be asked: it is not installed. The closed form",
        ),
    ],
)
def test_other_verdicts(status: str, reason: str, expected: str) -> None:
    x = weighted()
    x.check = Check(status, "float64", None, reason=reason)
    assert expected in text.section(x, "check", Style(width=80))


def test_without_pytorch_two_routes_are_shown() -> None:
    x = weighted()
    x.gradients["a"].torch, x.gradients["a"].verdict = None, "skipped"
    assert (
        text.section(x, "gradients").split("\n\n")[1]
        == """\
  a.grad[j] = 3·v[j]    j = 0…2
    closed form  [0.3, 3, 0.0003]
    chain rule   [0.3, 3, 0.0003]"""
    )


def test_a_constant_input_and_an_implied_gradient() -> None:
    x = weighted()
    x.inputs["c"].wanted = False
    x.grad.source = "implicit"
    page = text.section(x, "question")
    assert "  c  (3,)  [7, 8, 9]  a constant here: not in --wrt\n" in page
    assert "  y.backward() differentiates the scalar\n" in page
    assert "so v (v = 1, implied for a scalar) is ∂L/∂y" in page


def test_precision_reaches_every_number() -> None:
    assert "[0.0143, 0.125, 1.11e-05]" in text.render(weighted(), Style(precision=3))
