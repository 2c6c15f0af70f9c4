"""Operations that are spelt in others have the derivative of the operation that they are."""

from __future__ import annotations

import pytest

import gradexplain
from gradexplain.ops import Op, all_ops

SPELT = [(op, text) for op in all_ops() for text in op.spelt]


@pytest.mark.parametrize(("op", "text"), SPELT, ids=[text for _, text in SPELT])
@pytest.mark.parametrize("dim", [0, -1])
def test_every_spelling(op: Op, text: str, dim: int) -> None:
    shape = (2, 3) if "{dim}" in text else (3,)
    text = text.replace("{dim}", str(dim)).replace("input", "x")
    call = f"{op.name}(x, {dim})" if "dim" in op.schema else f"{op.name}(x)"
    spelt, called = (gradexplain.explain(t, shapes={"x": shape}, grad="ones") for t in (text, call))
    assert spelt.check is not None and spelt.check.status == "agree"
    assert spelt.gradients["x"].text == called.gradients["x"].text
    assert len(spelt.forward) > len(called.forward)


def test_what_has_a_name_stays() -> None:
    x = gradexplain.explain("t = exp(-x); 1/(1 + t)", shapes={"x": (2,)}, grad="ones")
    assert x.gradients["x"].text == "x.grad[j] = t[j]·v[j]/(t[j] + 1)²"


@pytest.mark.parametrize("text", ["1/(2 + exp(-x))", "exp(x)/exp(y).sum()", "exp(x)/exp(x).sum(0)"])
def test_what_looks_alike_and_is_another_thing(text: str) -> None:
    x = gradexplain.explain(text, shapes={"x": (3, 3), "y": (3, 3)} if "y" in text else
                            {"x": (3, 3)}, grad="ones")  # fmt: skip
    assert x.check is not None and x.check.status == "agree"
