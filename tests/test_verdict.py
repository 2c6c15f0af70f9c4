"""What a verdict says at extreme points: each case stands for its kind."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from nets import judge, places, status_of

import gradexplain
from gradexplain.arithmetic import mp
from gradexplain.cli import main
from gradexplain.explaining.running import Run
from gradexplain.problem import Request, problem_of
from gradexplain.reading.arrays import ONES
from gradexplain.reading.language import read
from gradexplain.reading.syntax import parse
from gradexplain.routes.chain import ChainRule
from gradexplain.routes.held import Local, hold
from gradexplain.routes.pytorch import Question
from gradexplain.routes.rewrites import REWRITES, _pattern

INF, NAN = math.inf, math.nan


def explained(text: str, at: dict[str, Any], **options: Any) -> Any:
    return gradexplain.explain(text, at=at, **options)


#: The expression, its inputs, options; PyTorch's gradient by x, the exact one, and the verdict.
OVERFLOWS = [
    ("log(exp(x).sum())", [1000.0, 1.0], {}, [NAN, 0], [1, 0], "torch.logsumexp(x, 0)"),
    ("exp(x)/exp(x).sum()", [1000.0, 1.0], {"grad": [1, 2]}, [NAN, NAN], [0, 0], "torch.softmax(x, 0)"),
    ("1/(1 + exp(-x))", -800.0, {}, NAN, math.exp(-400) ** 2, "torch.sigmoid(x)"),
    ("x.norm()", [1e200, 1e200], {}, [0, 0], [0.5**0.5] * 2,
     "torch.max(torch.abs(x)) * torch.norm(x / torch.max(torch.abs(x)))"),
    ("exp(x)", 100.0, {"dtype": "float32"}, INF, math.exp(100), None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "x", "options", "real", "exact", "instead"), OVERFLOWS)
def test_an_overflow_is_no_mismatch(
    text: str, x: Any, options: dict[str, Any], real: Any, exact: Any, instead: str | None
) -> None:
    found = explained(text, {"x": x}, **options)
    gradient = found.gradients["x"]
    np.testing.assert_allclose(gradient.torch, real)
    np.testing.assert_allclose(gradient.value, exact, rtol=1e-12)
    assert found.check.status == "convention", found.check
    (note,) = [n for n in found.notes if n.kind == "overflow"]
    assert note.data.get("instead") == instead
    assert "too large for" in note.text or text == "x.norm()"


#: The expression, the input, the dtype; PyTorch's gradient, the exact one.
CANCELLATIONS = [
    ("(exp(x) - 1)/x", 1e-10, "float64", -826.4037, 0.5, "torch.expm1(x)"),
    (
        "sqrt(x + 1) - sqrt(x)",
        1e12,
        "float32",
        0.0,
        -2.5e-19,
        "1 / (torch.sqrt(x + 1) + torch.sqrt(x))",
    ),
    (
        "(1 - cos(x))/x**2",
        1e-30,
        "float64",
        1e30,
        -1e-30 / 12,
        "0.5 * torch.sinc(x / (2 * torch.pi)) ** 2",
    ),
    ("log1p(x)/x", 1e-55, "float64", 0.0, -0.5, None),
]


@pytest.mark.parametrize(("text", "x", "dtype", "real", "exact", "instead"), CANCELLATIONS)
def test_lost_digits_are_said_and_pytorchs_number_is_shown(
    text: str, x: float, dtype: Any, real: float, exact: float, instead: str | None
) -> None:
    found = explained(text, {"x": x}, dtype=dtype)
    gradient = found.gradients["x"]
    assert found.check.status == "convention", found.check
    np.testing.assert_allclose(gradient.torch, real, rtol=1e-3)
    np.testing.assert_allclose(gradient.value, exact, rtol=1e-6)
    assert gradient.digits is not None and gradient.digits < 8
    (note,) = [n for n in found.notes if n.kind == "cancellation"]
    assert note.data.get("instead") == instead


def test_an_operation_without_digits_decides_nothing() -> None:
    x = [1e16, 1.0000000000000002e16, 1.0000000000000004e16, 1e16]
    found = explained("F.layer_norm(x, (4,))", {"x": x}, grad=[1, 2, 3, 5])
    assert found.check.status == "cannot tell"
    assert (found.check.compared, found.check.operations) == (0, 1)
    assert found.check.reason.startswith("in 1 of 1 operations of the backward pass PyTorch's own")


@pytest.mark.parametrize(
    ("text", "x", "value"),
    [
        ("sin(x)", 1e49, -0.38045480), ("log1p(x)/x", 1e-55, -0.5), ("(exp(x)-1-x)/x**2", 1e-60, 1 / 6),
        # What is left of a difference is no float, and its logarithm is one.
        ("log(1 - erf(x))", 60.0, -120.01665), ("log(1 - tanh(x))", 900.0, -2), ("log(1 - sigmoid(x))", 900.0, -1),
    ],
)  # fmt: skip
def test_digits_are_enough(text: str, x: float, value: float) -> None:
    found = explained(text, {"x": x}, check=False)
    np.testing.assert_allclose(found.gradients["x"].value, value, rtol=1e-6)
    np.testing.assert_allclose(found.gradients["x"].chain_rule, value, rtol=1e-6)


#: Forward values by IEEE's rules, and the verdict on the gradients.
IEEE = [
    ("x - x", {"x": INF}, NAN, "agree"),
    ("exp(log(x))", {"x": -1.0}, NAN, "convention"),
    ("relu(x)", {"x": NAN}, NAN, "convention"),
    ("where(x < y, x, y)", {"x": NAN, "y": 1.0}, 1.0, "convention"),
    ("copysign(x, -0.0)", {"x": 2.0}, -2.0, "convention"),
    ("copysign(x, y)", {"x": 2.0, "y": -0.0}, -2.0, "convention"),
    ("1/x", {"x": -0.0}, -INF, "convention"),
    ("F.cross_entropy(x, [-100])", {"x": [[1.0, 2.0]]}, NAN, "convention"),
    ("(y*0 + 2)**a", {"y": 1.0, "a": 3.0}, 8.0, "agree"),
]


@pytest.mark.parametrize(("text", "at", "value", "status"), IEEE)
def test_forward_values_are_the_dtypes(
    text: str, at: dict[str, Any], value: float, status: str
) -> None:
    found = explained(text, at)
    np.testing.assert_equal(found.output.value, np.array(value))
    assert found.check.status == status, found.check


#: Right but for rounding, or for a coarse kernel: none is a mismatch.
ROUNDED = [
    ("F.layer_norm(x, (1,))", {"x": [[1.0], [2.0]]}, "agree"),
    ("F.group_norm(x, 2)", {"x": [[[1.0], [2.0]], [[1.0], [3.0]]]}, "agree"),
    ("logsumexp(x, 0)", {"x": [1000.0, 1001.0]}, "agree"),
    ("F.celu(x, 0.7)", {"x": [-1.0, 2.0]}, "convention"),
    ("F.kl_div(x, t, reduction='sum')", {"x": [0.1, 0.2], "t": [0.0, 1.0]}, "convention"),
]


@pytest.mark.parametrize(("text", "at", "status"), ROUNDED)
def test_what_is_right_is_no_mismatch(text: str, at: dict[str, Any], status: str) -> None:
    shape = np.shape(next(iter(at.values())))
    options = {} if text.startswith(("log", "F.kl")) else {"grad": np.ones(shape)}
    assert explained(text, at, **options).check.status == status


def test_each_step_has_its_numbers_and_its_bound() -> None:
    found = explained("tanh(x*w).sum()", {"x": [0.5, 2.0], "w": [1.0, 3.0]}, dtype="float32")
    assert (found.check.compared, found.check.operations) == (3, 3)
    for step in found.steps:
        assert step.verdict == "agree" and step.margin > 1
        assert (np.abs(step.torch - step.expected) <= step.tolerance).all()
        # PyTorch's own: a float32.
        np.testing.assert_array_equal(step.torch, step.torch.astype(np.float32))


@pytest.mark.parametrize("row", REWRITES, ids=lambda row: row.old)
def test_a_rewrite_is_equal(row: Any) -> None:
    """To 40 digits, at values of no pattern where it has a value, in value and in gradient."""
    old = _worked_out(row, row.old, 0.0)
    shift = 0.0 if all(map(mp.isfinite, old)) else 1.0
    found = (_worked_out(row, text, shift) for text in (row.old, row.new))
    for a, b in zip(*found, strict=True):
        assert abs(a - b) <= mp.mpf(10) ** -40 * (1 + abs(a))


def _worked_out(row: Any, text: str, shift: float) -> list[Any]:
    """A side of a row and its gradients, at values within (0, 1) of which A is shifted."""
    source = np.random.default_rng(2)
    pattern = _pattern(row.old)
    assert pattern is not None
    values = {n.label: source.uniform(0.2, 0.9, n.shape) for n in pattern.leaves}
    values |= {n.label: np.array([1.0, 0.0]) for n in pattern.leaves if n.integer}
    values["A"] = values["A"] + shift
    wanted = [n.label for n in pattern.leaves if not n.integer]
    text = re.sub(r"\bD\b", "0", text)
    graph = read(parse(text), lambda name: values[name].shape, values)
    with mp.workdps(50):
        chain = ChainRule(graph, values, exact=True)
        size = chain.forward[graph.output][0].size
        chain.backward(np.linspace(1, 2, size).reshape(graph.out.shape), wanted)
        by_label = {n.label: n.id for n in graph.leaves}
        arrays = [chain.forward[graph.output][0], *(chain.upstream[by_label[n]][0] for n in wanted)]
    return [x for array in arrays for x in np.ravel(array)]


@pytest.mark.parametrize(
    ("text", "x", "instead"),
    [
        ("3*(exp(x/2) - 1)/x", 1e-12, "torch.expm1(x / 2)"),
        ("where(x > 0, sqrt(x), 0)", 0.0, "torch.where(x > 0, torch.sqrt(torch.where(x > 0, x, 1)), 0)"),
        ("-log(softmax(x, 1))[0,1]", [[1000.0, 1.0], [2.0, 1.0]], "torch.log_softmax(x, 1)"),
        ("(exp(x)/exp(x).sum(1, keepdim=True))[0,0]", [[1000.0, 1.0], [2.0, 1.0]], "torch.softmax(x, 1)"),
        ("log(exp(x).sum())", [[1000.0, 1.0]], "torch.logsumexp(x, (0, 1))"),
        ("(2*exp(x)/(2*exp(x)).sum())[0]", [1000.0, 1.0],
         "2 * torch.exp(x - torch.max(x)) / torch.sum(2 * torch.exp(x - torch.max(x)))"),
        # A sum over rows that keeps no dim is another thing than a softmax of them.
        ("(exp(x)/exp(x).sum(1))[0,0]", [[1000.0, 1.0], [2.0, 1.0]], None),
    ],
)  # fmt: skip
def test_the_note_names_a_rewrite_that_is_equal(text: str, x: Any, instead: str | None) -> None:
    found = explained(text, {"x": x})
    assert instead in [note.data.get("instead") for note in found.notes] or instead is None
    if instead is None:
        assert not any("instead" in note.data for note in found.notes)


def test_nothing_is_said_to_be_lost_of_a_nan() -> None:
    found = explained("torch.maximum(x, y)", {"x": NAN, "y": 1.0})
    assert not [n for n in found.notes if n.kind in ("overflow", "cancellation")]


@pytest.mark.parametrize(("x", "value"), [(1e-100, -1e-100 / 12), (1e-200, -1e-200 / 12)])
def test_digits_are_doubled_until_they_are_enough(x: float, value: float) -> None:
    found = explained("(1 - cos(x))/x**2", {"x": x})
    np.testing.assert_allclose(found.gradients["x"].value, value, rtol=1e-12)
    assert found.check.status == "convention"


def test_only_the_programs_own_decimals_are_doubles() -> None:
    """1/25 is not 0.04 in exact arithmetic, and 0.1 is the double."""
    x = np.random.default_rng(1).normal(size=(5, 5))
    run = Run(problem_of(Request("q = std_mean(x, True); q[0] + 0.1*q[1]", {"x": x}, check=False)))
    with mp.workdps(50):
        (leaf,) = run.leaves
        pairs = run.closed.gradient_value(leaf)[0], run.chain.upstream[leaf.id][0]
        for a, b in zip(*map(np.ravel, pairs), strict=True):
            assert abs(a - b) < mp.mpf(10) ** -16 * abs(a)
        tenth = ChainRule(problem_of(Request("x*0.1", {"x": 1.0 + 0 * x[0]}, grad=x[0], check=False)).graph,
                          {"x": 1.0 + 0 * x[0]}, exact=True)  # fmt: skip
        assert tenth.forward[tenth.graph.output][0][0] == mp.mpf(0.1)


def test_a_step_at_an_infinity_has_its_value() -> None:
    """No bound is known there, and a number without a bound is not 0."""
    x = gradexplain.explain("abs(x - 5)", at={"x": [1e8, -math.inf, 1.0]}, grad="ones")
    assert x.check is not None and x.check.status == "agree"
    assert x.gradients["x"].value.tolist() == [1.0, -1.0, -1.0]


@pytest.mark.parametrize("expression", ["sigmoid(x)", "x**-0.5"])
def test_nan_spreads_in_no_formula(expression: str) -> None:
    found = gradexplain.hessian(expression, at={"x": [1.0, 2.0, math.nan]}, grad="ones")
    assert found.check is not None and found.check.status == "convention"


def test_text_that_is_kept_as_text_has_no_encoding() -> None:
    with contextlib.redirect_stdout(io.StringIO()) as kept:
        assert main(["run", "3*x", "--at", "x=2", "--format", "json"]) == 0
    assert json.loads(kept.getvalue())["check"]["status"] == "agree"


@pytest.mark.parametrize(
    ("text", "at", "everywhere"),
    [
        ("log(x)*2", {"x": [0.0, 3.0]}, False),
        ("x*y", {"x": [NAN, 3.0], "y": [1.0, 2.0]}, False),
        ("copysign(x, y)", {"x": [1.0, 2.0], "y": [-0.0, 1.0]}, False),
        ("abs(x)@w", {"x": [[0.0, 1.0], [2.0, 3.0]], "w": [1.0, 2.0]}, False),
        ("x*relu(x).sum()", {"x": [0.0, 3.0]}, False),
        ("x*log(x).sum()", {"x": [0.0, 3.0]}, True),
    ],
)
def test_a_singular_point_excuses_only_what_it_has_a_part_in(
    text: str, at: dict[str, Any], everywhere: bool
) -> None:
    """A closed form that is wrong elsewhere than at the first element is a mismatch."""
    values = {name: np.array(value) for name, value in at.items()}
    run = Run(problem_of(Request(text, values, grad=ONES)))
    leaf = run.leaves[0]
    value, size = run.closed.gradient_value(leaf)
    for place in range(value.size):
        wrong = np.array(value)
        wrong.flat[place] = mp.mpf(7)
        verdict = run.judging.routes(leaf, lambda: (wrong, size))["verdict"]  # noqa: B023
        excused = everywhere or place == 0
        assert verdict == ("convention" if excused else "mismatch"), place
    run.close()


#: Where no number was compared, or PyTorch's arithmetic ran out, at the ends of the numbers.
ENDS = [
    ("log(exp(x).sum())", {"x": [1000.0, 1.0]}, "convention", "PyTorch's arithmetic runs out"),
    ("log(sigmoid(x))", {"x": -800.0}, "convention", "x.grad is 1, and nan in PyTorch"),
    ("softmax(x, 0)[0]", {"x": [40.0, 0.0]}, "convention", "x.grad[0] is 4.24835e-18, and 0 in"),
    ("exp(exp(exp(x)))", {"x": 10.0}, "convention", "is a finite number to compare"),
    ("F.cross_entropy(x, [0])", {"x": [[1e154, 0.0]]}, "agree", ""),
    ("softmax(x, 1)[0, 0]", {"x": [[1e154, 1e154]]}, "agree", ""),
    ("logsumexp(x, 0)", {"x": [1e154, 1e154]}, "convention", "coarser"),
    ("sinc(x/4)", {"x": -INF}, "convention", "IEEE"),
    ("x[argmax(x)]", {"x": [-INF, NAN, 0.1]}, "agree", ""),
    ("F.poisson_nll_loss(x, t, full=True)", {"x": 1.0, "t": -2.0}, "convention", ""),
]


#: Where PyTorch's kernel squares what is too large or too small for that, the function has no value,
#: or a float cannot hold the number.
SINGLE = [
    # In float32 PyTorch's own float64 bears it out; beyond float64 nothing does.
    ("torch.acosh(x)", {"x": [2.0, 1e300]}, "float64", "cannot tell", "leaves the range"),
    ("torch.acosh(x)", {"x": [2.0, 1e30]}, "float32", "convention", "leaves the range"),
    ("torch.acosh(x)", {"x": [2.0, -1e15, NAN]}, "float64", "convention", ""),
    ("torch.asinh(x)", {"x": [2.0, 1e30]}, "float32", "convention", "leaves the range"),
    ("F.rms_norm(x, (2,))", {"x": [1e30, 396.0]}, "float32", "convention", "leaves the range"),
    ("cumprod(x, 0)", {"x": [0.5, 1e-45, 2.0]}, "float32", "convention", "leaves the range"),
    ("torch.sinc(x)", {"x": [3.4e38, 0.5]}, "float32", "convention", "overflows"),
    ("F.softsign(x)", {"x": [-INF, 1e30, 3.0]}, "float32", "convention", "IEEE"),
    ("polygamma(1, x)", {"x": [0.0, -3.0, 1.5]}, "float64", "convention", ""),
    ("torch.reciprocal(x)", {"x": 1e30}, "float32", "convention", "smaller than any normal"),
    ("F.logsigmoid(x)", {"x": [1e30, 3.0, -1e300]}, "float64", "agree", ""),
    ("softmax(x, 0)", {"x": [1e300, -1.7]}, "float64", "agree", ""),
    ("F.tanhshrink(x)", {"x": [-1e-5, 1.0]}, "float64", "convention", "coarser"),
    ("tanh(x)/x", {"x": 1e-320}, "float64", "convention", "runs out"),
    ("clamp(x, y, z)", {"x": [1.0, 2.0], "y": [5.0, 3.0], "z": [2.0, 3.0]}, "float64",
     "convention", ""),
    ("x*y", {"x": 1e30, "y": 1e-5}, "float32", "agree", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "at", "dtype", "status", "reason"), SINGLE)
def test_an_operation_at_the_ends_of_its_dtype(
    text: str, at: dict[str, Any], dtype: str, status: str, reason: str
) -> None:
    found = explained(text, at, grad="ones", dtype=dtype)
    assert found.check.status == status, found.check
    assert reason in found.check.reason


def test_a_fault_is_seen_beside_what_is_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An element is excused for its own numbers only, and no product at all."""
    made = Question.ask
    texts = [
        ("torch.asinh(x)", [2.0, 1e30]),
        ("x*x*1.0", [1e15, 2.0]),
        ("3*x", [1e30, 2.0]),
        # nor does an infinity that a mask has, or a sign of 0, excuse finite numbers
        ("softmax(x + m, 0)", [1.0, 2.0, 3.0]),
        ("F.scaled_dot_product_attention(q, q, x, is_causal=True)", [[1.0, 2.0], [3.0, 4.0]]),
        ("F.scaled_dot_product_attention(x, q, q, is_causal=True)", [[1.0, 2.0], [3.0, 4.0]]),
        ("x/x.norm(dim=1, keepdim=True)", [[1.0, -0.0], [3.0, 4.0]]),
        ("x*w", [[1.0, 2.0], [3.0, 4.0]]),
    ]
    others = {"m": [0.0, -INF, 1.0], "q": [[1.0, 0.5], [-0.5, 2.0]], "w": [-0.0, 1.0]}

    def wrong(question: Any) -> Any:
        answer = made(question)
        for array in answer.steps.contributions.values():
            array[:1] *= 1.01
        return answer

    for text, x in texts:
        at = {"x": x} | {
            name: value for name, value in others.items() if re.search(rf"\b{name}\b", text)
        }
        v = np.arange(1.0, 1 + np.size(x)).reshape(np.shape(x))
        assert explained(text, at, grad=v, dtype="float32", wrt="x").check.status != "mismatch"
        with monkeypatch.context() as patch:
            patch.setattr(Question, "ask", wrong)
            found = explained(text, at, grad=v, dtype="float32", wrt="x")
        assert found.check.status == "mismatch", (text, found.check)


def test_zeros_do_not_pass_where_the_formula_ran_out_or_another_branch_is_nan() -> None:
    """``x² + y²`` leaves float64's range, and sqrt(−1) is chosen by nobody."""
    p = problem_of(
        Request("torch.hypot(x, y).sum()", {"x": np.array([1e200]), "y": np.array([1e200])})
    )
    zeroed = [judge(p, *place, 0.0).steps[place].verdict for place in places(p)]
    assert zeroed == ["cannot tell", "cannot tell", "mismatch"]
    p = problem_of(Request("where(x > 0, sqrt(x), 2*x).sum()", {"x": np.array([4.0, -1.0])}))
    for place in places(p):
        step = judge(p, *place, 0.0).steps[place]
        assert step.verdict == "mismatch", (place, step)


#: Operations with a first row so large, or small, that they leave the range on their way, if at all.
EXTREME = [
    ("F.layer_norm(x, (3,))", 1e18), ("F.rms_norm(x, (3,), None, 1e-6)", 1e21), ("F.normalize(x, dim=1)", 1e21),
    ("F.cosine_similarity(x, y, 1)", 1e21), ("x.norm(dim=1)", 1e-30), ("x.std(1)", 1e21),
    ("x.prod(1)", 1e15), ("x.cumprod(1)", 1e-30), ("logsumexp(x, 1)", 1e12), ("logsumexp(x, 1)", 1e30),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize(("text", "size"), EXTREME)
def test_what_is_extreme_hides_no_fault(text: str, size: float, dtype: str) -> None:
    """An excuse is one row's, and is borne out: the same operation in float64 has what is expected."""
    x = np.array([[1.5, -0.75, 0.5], [0.75, 2.0, -1.25]]) * np.array([[size], [1.0]])
    at = {"x": x} | ({"y": np.ones((2, 3))} if ", y" in text else {})
    p = problem_of(Request(text, at, grad=ONES, dtype="float64"))
    p = replace(
        p, dtype=dtype, reread=None, v=p.v * np.arange(1.0, 1 + p.v.size).reshape(p.v.shape)
    )
    right = judge(p)
    assert status_of(right) in ("agree", "convention")
    for place in places(p):
        for factor in (1.01, 2.0, 0.5, 0.0):
            step = judge(p, *place, factor).steps[place]
            # Where PyTorch has no number, what the fault makes of it counts as a change too.
            sent, given = (np.nan_to_num(made.torch) for made in (right.steps[place], step))
            if (np.abs(given - sent) > 2 * step.bound).any():
                assert step.verdict in ("mismatch", "cannot tell"), (place, factor, step)


@pytest.mark.parametrize(("given", "verdict"), [(-1e-9, "convention"), (1.1e-9, "mismatch")])
def test_a_sign_of_0_excuses_a_sign_alone(given: float, verdict: str) -> None:
    """However small the numbers are."""
    one, right = np.ones(1), (np.array([1e-9]), np.array([1e-9]))
    local = Local(
        ("copysign", "x"), np.array([given]), [one * 1e-9], {"a0": np.array([-0.0])}, [one], True, None,
        0.0, lambda _: None, lambda _: right,
    )  # fmt: skip
    assert hold(local, lambda: right, "float64").verdict == verdict


@pytest.mark.parametrize(("text", "at", "status", "reason"), ENDS)
def test_the_ends_of_the_numbers(text: str, at: dict[str, Any], status: str, reason: str) -> None:
    found = explained(text, at)
    assert found.check.status == status, found.check
    assert reason in found.check.reason


def test_the_cap_of_precision_has_a_word() -> None:
    """1e43429·log(1 + 1e-43429) is 1, which no 12,800 digits show."""
    found = explained("log(1 + exp(-x))*exp(x)", {"x": 1e5})
    assert found.check.status == "cannot tell"
    assert found.check.reason.startswith(
        "the exact values may take more than 12,800 decimal digits"
    )
    assert main(["run", "log(1 + exp(-x))*exp(x)", "--at", "x=1e5"]) == 3
    # A constant that is no fraction has as many digits.
    assert main(["run", "log(1 + exp(-pi*x))*exp(pi*x)*log2(x)", "--at", "x=1e5"]) == 3
    # Nothing is left of a difference that is divided by.
    assert main(["run", "log(1 - erf(x))", "--at", "x=900"]) == 3


def test_digits_that_the_output_alone_has_lost_are_named() -> None:
    found = explained("(x + 1e16) - 1e16", {"x": 1.2345})
    assert found.check.status == "agree"
    assert [note.kind for note in found.notes] == ["cancellation"]
    assert "has 0 of 16 digits left in PyTorch, 2 for 1.2345" in found.notes[0].text


def test_an_infinity_that_meets_0_in_one_route_only_is_a_convention() -> None:
    x = gradexplain.explain("where(x > 2, x**2, 3*x)", at={"x": np.array(-np.inf)})
    assert x.check is not None and x.check.status == "convention"
    assert np.isnan(x.gradients["x"].torch) and x.gradients["x"].value == 3


def test_pi_is_no_double() -> None:
    """sin(π·1) is 0; of the double nearest to π it is 1.2e-16."""
    run = Run(problem_of(Request("sin(pi*x)", {"x": np.array(1.0)})))
    assert abs(run.chain.forward[run.graph.output][0].item()) < 1e-40
    run.close()


_H, _S = [1e8, -2e8, 1.5e8], [1.5, -0.75, 0.5]

#: A small element beside large ones, or a large one beside: the expression, x, v, what is said of it.
BESIDE = [
    ("sqrt(x*x + 1) - x", [1e12, 1.0], [1, 1], "convention"),
    ("x.norm()", [1e12, 1.0, 1e-6], 1, "agree"),
    ("F.normalize(x, dim=1)", [_H, _S], [[1, 2, 3], [3, 1, 2]], "agree"),
    ("softmax(x, 0)", [40.0, 1.0, -2.0], [1, 2, 4], "convention"),
    ("softmax(x, 1)", [[40.0, 1.0, -2.0], [0.5, 1, 2]], [[1, 2, 4], [1, 2, 3]], "convention"),
    ("log_softmax(x, 0)", [40.0, 1.0, -2.0], [1, 2, 4], "agree"),
    ("F.cross_entropy(x, [0, 1])", [[30.0, 1.0, 2.0], [0.3, 0.4, 0.2]], 1, "convention"),
    ("logsumexp(x, 0)", [50.0, 1.0, 3.0], 1, "agree"),
    ("x.std(1)", [_H, _S], [1, 1], "agree"),
    ("F.cosine_similarity(x, x.flip(1) + 1, 1)", [_H, _S], [1, 1], "agree"),
    ("F.layer_norm(x, (3,))", [_H, _S], [[1, 2, 4], [3, 1, 2]], "agree"),
    ("F.layer_norm(x, (3,))", [[1e8, 1e8 + 1, 1e8 + 3], _S], [[1, 2, 4], [3, 1, 2]], "convention"),
    ("F.rms_norm(x, (3,))", [_H, _S], [[1, 2, 4], [3, 1, 2]], "agree"),
    ("log(1 + x)/x", [1e-12, 1.0, 3.0], [1, 1, 1], "convention"),
    ("(1 - cos(x))/x**2", [1e-6, 1.0], [1, 1], "convention"),
    ("x.sum()*x", [1e8, -1e8, 1e-4], [1, 1, 1], "agree"),
    ("tanh(x)", [20.0, 0.3, -18.0], [1, 1, 1], "convention"),
    ("sigmoid(x)*x", [-40.0, 0.3, 30.0], [1, 1, 1], "agree"),
    ("x/x.abs().sum()", [1e10, 1.0, -2.0], [1, 2, 3], "convention"),
    ("F.gelu(x)", [-8.0, 0.3, 5.0], [1, 1, 1], "convention"),
    ("F.group_norm(x, 2)", [[[1e6, 2e6], [1.0, 3.0]]], [[[1, 2], [3, 5]]], "convention"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "x", "v", "status"), BESIDE)
def test_a_fault_in_one_element_is_seen_beside_larger_ones(
    text: str, x: Any, v: Any, status: str
) -> None:
    """Or is not told; and what PyTorch lost of a right one is said."""
    found = explained(text, {"x": x}, grad=np.array(v, dtype=float))
    assert found.check.status == status, found.check
    assert (found.gradients["x"].digits is not None) == (status == "convention")
    p = problem_of(Request(text, {"x": np.array(x)}, grad=np.array(v, dtype=float)))
    right = judge(p)
    for place in places(p):
        sent = np.abs(right.steps[place].torch)
        index = np.unravel_index(np.argmin(np.where(sent > 0, sent, np.inf)), sent.shape)
        for share in (1.01, 0.9, 0.0):
            factor = np.ones(sent.shape)
            factor[index] = share
            step = judge(p, *place, factor).steps[place]
            # An error of a part of nothing is none.
            assert step.verdict in ("mismatch", "cannot tell") or not sent[index], (place, share)


@pytest.mark.parametrize(
    ("text", "x"),
    [
        ("(x.norm(dim=1)**3).sum()", [[1e160, 2e160], [1.5, -0.5]]),
        ("(sqrt(x*x + 1) - x).sum()", [1e12, 1.0]),
        ("(x**4).sum()", [1e8, 1e-3]),
    ],
)
def test_a_fault_in_a_second_derivative_is_seen_beside_larger_ones(
    text: str, x: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where PyTorch has lost the digits of the others."""
    from gradexplain.routes import double

    made = double.again
    assert gradexplain.explain_calls(text, at={"x": x}, order=2).check.status != "mismatch"

    def wrong(*args: Any) -> Any:
        found = {name: np.array(array) for name, array in made(*args).items()}
        found["x"][-1] *= 1.01
        return found

    monkeypatch.setattr(double, "again", wrong)
    assert gradexplain.explain_calls(text, at={"x": x}, order=2).check.status == "mismatch"


def test_second_derivatives_that_are_0_take_no_endless_digits() -> None:
    found = gradexplain.explain_calls(
        "exp(x)/exp(x).sum()", [[1, 2]], at={"x": [1000.0, 1.0]}, order=2
    )
    assert found.check.status == "convention", found.check


def test_a_logarithm_of_no_number_is_a_convention() -> None:
    assert explained("logdet(x)", {"x": [[1.0, 2.0], [2.0, 1.0]]}).check.status == "convention"


#: What people paste, where digits go or stay: the program, its inputs, the verdict, its reason.
PASTED = [
    ("log(1 + exp(x)).sum()", {"x": [40.0, -40.0, 0.1]}, "agree", ""),
    ("(x.exp()/x.exp().sum(0)).log()[0]", {"x": [1.0, 50.0, -20.0]}, "agree", ""),
    ("torch.logsumexp(x, 0) - log(x.exp().sum())", {"x": [1.0, 2.0, 3.0]}, "agree", ""),
    ("(x*log(x.clamp(min=1e-8))).sum()", {"x": [1.0, 1e-12, 0.3]}, "agree", ""),
    ("(x**2 - y**2).sum()", {"x": [1e8 + 1, 2.0], "y": [1e8, 1.0]}, "agree", ""),
    ("(1 - cos(x)).sum()", {"x": [1e-9, 1.0]}, "agree", ""),
    ("(x - sin(x)).sum()", {"x": [1e-5, 1.0]}, "convention", "x.grad[0] is 5e-11, and 5.0000004"),
    ("(x**2).mean() - x.mean()**2", {"x": [1e8, 1e8 + 1, 1e8 + 2]}, "convention", "x.grad[1] is 0"),
    ("sigmoid(x*100).log().sum()", {"x": [0.1, -9.0]}, "convention", "x.grad[1] is 100, and nan"),
    ("F.gelu(x).sum()", {"x": [-10.0, 3.0]}, "convention", "x.grad[0] is -7.6184e-22"),
    ("torch.sqrt(x**2 + y**2).sum()", {"x": [1e200, 3.0], "y": [1e200, 4.0]}, "convention", "0.707107"),
    ("torch.expm1(x)/x", {"x": 1e-17}, "convention", "x.grad is 0.5, and 0 in PyTorch"),
    ("x.prod()", {"x": [1e-200, 1e-200, 3.0]}, "cannot tell", "leaves the range"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "at", "status", "reason"), PASTED)
def test_what_is_pasted_has_a_verdict_with_its_reason(
    text: str, at: dict[str, Any], status: str, reason: str
) -> None:
    found = explained(text, at)
    assert found.check.status == status, found.check
    assert reason in found.check.reason
