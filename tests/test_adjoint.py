"""The adjoint graph: its values are PyTorch's gradients, its adjoint's are the second ones; twins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gradexplain import UnsupportedError, explain, hessian
from gradexplain.adjoint import Adjoint, adjoint
from gradexplain.plan.arrays import to_float
from gradexplain.problem import Request, bound_of
from gradexplain.routes.chain import ChainRule

#: Expressions in x, positive and of shape (3, 3), with a scalar value.
CASES = [
    "(x**3).sum()",
    "h = tanh(x @ x); (h * h.T).sum()",
    "log(x).softmax(dim=1)[0].norm()",
    "F.layer_norm(x, (3,)).pow(3).sum()",
    "x.var(0).sum() + x.std()",
    "cumprod(x, 0).sum()",
    "x.flatten()[[0, 4, 4]].prod()",
    "det(x + eye(3)) * logsumexp(x, (0, 1))",
    "linalg.cholesky(x @ x.T + eye(3)).pow(2).tril(-1).sum()",
    "linalg.inv(x + 3*eye(3)).sum()",
    "x.cumsum(1).max() * where(x > 1, x, x**2).mean()",
]
POINT = np.array([[0.3, 1.2, 0.7], [2.1, 0.4, 1.6], [0.9, 1.1, 2.4]])


def by_pytorch(expression: str) -> tuple[Any, Any]:
    """The gradient and the gradient of its sum."""
    x = torch.tensor(POINT, requires_grad=True)
    names = {name: getattr(torch, name) for name in dir(torch) if not name.startswith("_")}
    names |= {"x": x, "F": torch.nn.functional}
    names["eye"] = lambda n: torch.eye(n, dtype=torch.float64)
    *statements, last = expression.split("; ")
    for statement in statements:
        exec(statement, names)
    (first,) = torch.autograd.grad(eval(last, names), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return first.detach().numpy(), second.numpy()


def value(made: Adjoint, id: int, values: dict[str, Any]) -> Any:
    return to_float(ChainRule(made.graph.at(id), values, exact=False).forward[id][0])


@pytest.mark.parametrize("expression", CASES)
def test_a_gradient_is_a_value_of_the_adjoint_graph(expression: str) -> None:
    bound = bound_of(Request(expression, at={"x": POINT}))
    leaf = bound.graph.leaves[0]
    first, second = by_pytorch(expression)
    values = {"x": POINT, "v": np.ones(())}
    once = adjoint(bound.graph, ["x"], "v")
    assert [c.source.id for c in once.sent_to(leaf.id)] == [leaf.id] * len(once.sent_to(leaf.id))
    gradient = once.gradients[leaf.id]
    assert np.allclose(value(once, gradient, values), first, rtol=1e-9, atol=1e-12)

    values["g"] = np.ones(leaf.shape)
    twice = adjoint(once.graph.at(gradient), ["x"], "g")
    assert np.allclose(value(twice, twice.gradients[leaf.id], values), second, rtol=1e-8, atol=1e-9)


def test_what_has_no_second_derivative_here_has_a_first() -> None:
    at = {"x": POINT / 10}
    assert explain("matrix_exp(x).sum()", at=at).check.status == "agree"  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError) as error:
        hessian("matrix_exp(x).sum()", at=at)
    assert str(error.value) == (
        "second derivatives are not supported through slopes_of_exp, which the first derivative is "
        "made of\nremedy: gradexplain run explains the first derivative"
    )


@pytest.mark.parametrize(
    "expression",
    [
        "block_diag(x@x, x@x)",
        "softmax(x@x + y, 0) * softmax(x@x + 2*y, 0)",
        "a = x@x; b = x@x; block_diag(a, b, x@x)",
        "x.var() + x.std() * x.var()",
        "stack([x.mean(), x.mean() * x.mean()])",
        "tensor([1, 2, 4])*x.sum(0) + (tensor([1, 2, 4])*x.sum(0)).softmax(0)",
    ],
)
def test_twins_are_one_value(expression: str) -> None:
    x = explain(expression, at={"x": POINT}, shapes={"y": (3, 3)} if "y" in expression else None,
                grad="ones")  # fmt: skip
    assert x.check is not None and x.check.status == "agree"
    calls = [(row.expression, row.node) for row in x.forward]
    assert (
        len({call for call, _ in calls if len(calls) > 1}) == len(calls) - (";" in expression) * 2
    )
    for gradient in x.gradients.values():
        assert gradient.torch is not None
        assert np.allclose(gradient.value, gradient.torch, rtol=1e-12, atol=1e-12)


def test_two_names_of_one_value_keep_a_gradient_each() -> None:
    x = explain("a = 2*x; b = 2*x; c = (a*b*(2*x)).sum()", at={"x": [1.0, 3.0]})
    assert [row.node for row in x.forward] == ["a", "b", "t1", "t2", "t3", "c"]
    assert x.intermediates["a"].value.tolist() == [4.0, 36.0]
    assert x.intermediates["b"].torch is not None
    assert x.intermediates["b"].torch.tolist() == [4.0, 36.0]


def test_a_name_given_often_is_numbered() -> None:
    x = explain("y = x\n" + "y = y*x\n" * 7, at={"x": 1.5})
    assert [row.node for row in x.forward] == ["y", "y′", "y′′", "y′′′", "y@5", "y@6", "y@7"]
    assert "y^{(6)}" in x.gradients["x"].latex
    assert x.check is not None and x.check.status == "agree"
