"""Second derivatives where PyTorch's arithmetic runs out: what is said of them, and of a fault there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gradexplain
from gradexplain.accumulation import explain_calls
from gradexplain.routes.double import SecondQuestion


def hessian(text: str, at: dict[str, Any]) -> Any:
    return gradexplain.hessian(text, at=at)


def twice(text: str, at: dict[str, Any]) -> Any:
    return explain_calls(text, () if "dim=0" in text else [np.array([1.0, 2.0])], at=at, order=2)


#: How it is asked, the program, its point, the verdict, and the rows whose numbers PyTorch still has.
CASES = [
    (hessian, "x.norm()", {"x": [1e-170, 2e-170]}, "convention", None),
    (hessian, "x.norm(dim=1).sum()", {"x": [[1e-170, 2e-170], [3.0, 4.0]]}, "convention", 1),
    (hessian, "log1p(x)/x", {"x": 1e-55}, "convention", None),
    (hessian, "log1p(x)/x", {"x": 0.5}, "agree", 0),
    (hessian, "x.logsumexp(0)", {"x": [1000.0, 1001.0]}, "convention", 1),
    (hessian, "sqrt(x*x + 1).sum()", {"x": [1e9, 1.0]}, "convention", 1),
    (hessian, "sqrt(x*x + 1).sum()", {"x": [1e9] + [1.0] * 19}, "convention", 1),
    (hessian, "x.norm()", {"x": [1e9, 1.0]}, "convention", None),
    (hessian, "softmax(x, 0)[0]", {"x": [40.0, 0.0, 1.0]}, "convention", None),
    (twice, "F.celu(x, 0.7)", {"x": [1.0, -2.0]}, "convention", 1),
    (twice, "F.celu(x, 0.7)", {"x": [1.0, 2.0]}, "agree", None),
    (
        twice,
        "F.cosine_similarity(x, y, dim=0)",
        {"x": [1e-9, 2e-9], "y": [1.0, 3.0]},
        "convention",
        None,
    ),
    (
        twice,
        "F.cosine_similarity(x, y, 1)",
        {"x": [[1e-9, 2e-9], [1.0, 2.0]], "y": [[1.0, 3.0], [2.0, 5.0]]},
        "convention",
        1,
    ),
]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A row of PyTorch's second derivatives 1 % too large, with its steps or without."""
    made = SecondQuestion.ask

    def plant(row: int, *, steps: bool) -> None:
        def arrays(answer: Any) -> Iterator[Any]:
            second = answer.second
            yield from (
                g for g in (*second.gradients.values(), *answer.blocks.values()) if g is not None
            )
            yield from second.steps.contributions.values() if steps else ()

        def wrong(question: SecondQuestion) -> Any:
            answer = made(question)
            for array in arrays(answer):
                array[row if array.ndim else ...] *= 1.01
            return answer

        monkeypatch.setattr(SecondQuestion, "ask", wrong)

    return plant


@pytest.mark.parametrize(("ask", "text", "at", "status", "row"), CASES)
def test_what_runs_out_is_no_mismatch(
    ask: Any, text: str, at: dict[str, Any], status: str, row: int | None, faulty: Any
) -> None:
    assert ask(text, at).check.status == status
    for steps in (ask is twice, True) if row is not None else ():
        faulty(row, steps=steps)
        assert ask(text, at).check.status in ("mismatch", "cannot tell"), steps


def test_digits_are_doubled_until_a_hessian_has_enough() -> None:
    found = hessian("log1p(x)/x", {"x": 1e-55})
    assert found.blocks["x", "x"].value == found.blocks["x", "x"].chain_rule == pytest.approx(2 / 3)


def test_a_coarse_kernel_is_named() -> None:
    found = hessian("x.logsumexp(0)", {"x": [1000.0, 1001.0]})
    assert found.check.reason == "PyTorch's own kernel is coarser here than its dtype"


def test_an_element_without_digits_is_named() -> None:
    found = hessian("sqrt(x*x + 1).sum()", {"x": [1e9, 1.0]})
    assert found.check.reason == (
        "∂²y/∂x∂x[0,0] is 1e-27, and 0 in PyTorch: PyTorch's arithmetic runs out there, though every "
        "step is right at its own numbers"
    )
