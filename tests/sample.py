"""Explanations made by hand, so that the renderers and the command line are tested without the engine."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gradexplain.errors import InputError, Span
from gradexplain.explanation import (
    STAGES,
    Array,
    Check,
    Explanation,
    ForwardRow,
    Gradient,
    Input,
    Jacobian,
    Note,
    Output,
    Step,
    Upstream,
)


def array(values: object) -> Array:
    return np.array(values, dtype=np.float64)


def weighted() -> Explanation:
    """``3*a+2*b*b+log(c)`` at example values, the first command of the README."""
    a, b, c = array([1, 2, 3]), array([4, 5, 6]), array([7, 8, 9])
    v = array([0.1, 1, 0.0001])
    tolerance = np.full(3, 7.1e-15)
    rows = [
        ("t1", "mul", ("3", "a"), "3*a", 3 * a),
        ("t2", "mul", ("2", "b"), "2*b", 2 * b),
        ("t3", "mul", ("t2", "b"), "t2*b", 2 * b * b),
        ("t4", "add", ("t1", "t3"), "t1 + t3", 3 * a + 2 * b * b),
        ("t5", "log", ("c",), "log(c)", np.log(c)),
        ("y", "add", ("t4", "t5"), "t4 + t5", 3 * a + 2 * b * b + np.log(c)),
    ]
    x = Explanation(
        expression="3*a+2*b*b+log(c)",
        dtype="float64",
        inputs={n: Input(n, (3,), i, given=False) for n, i in (("a", a), ("b", b), ("c", c))},
        output=Output("y", (3,), rows[-1][-1]),
        grad=Upstream(v, "given", "L = 0.1·y[0] + 1·y[1] + 0.0001·y[2]"),
        forward=[ForwardRow(n, op, i, e, (3,), value) for n, op, i, e, value in rows],
        check=Check("agree", "float64", 7.1e-15),
        statements=("y = 3*a + 2*b*b + log(c)",),
    )
    forms = {
        "a": ("3·δ(i,j)", "3·v[j]", r"3 \delta_{ij}", "3 v_j", 0 * a + 3),
        "b": ("4·b[i]·δ(i,j)", "4·b[j]·v[j]", r"4 b_i \delta_{ij}", "4 b_j v_j", 4 * b),
        "c": ("δ(i,j)/c[i]", "v[j]/c[j]", r"\delta_{ij}/c_i", "v_j/c_j", 1 / c),
    }
    for name, (local, product, latex, latex_product, diagonal) in forms.items():
        x.jacobian[name] = Jacobian(
            name=name,
            formula=None,
            text=f"∂y[i]/∂{name}[j] = {local}",
            latex=latex,
            where=(),
            ranges="i, j = 0…2",
            structure="diagonal",
            shape=(3, 3),
            value=np.diag(diagonal),
        )
        x.gradients[name] = Gradient(
            name=name,
            formula=None,
            text=f"{name}.grad[j] = {product}",
            latex=latex_product,
            where=(),
            ranges="j = 0…2",
            value=diagonal * v,
            chain_rule=diagonal * v,
            torch=diagonal * v * (1 + 2e-16),
            tolerance=tolerance,
            verdict="agree",
        )

    def step(
        node: str, op: str, to: str, up: Array, local: str, rule: str, part: str, value: Array
    ) -> Step:
        return Step(
            node=node,
            op=op,
            input=to,
            upstream=up,
            rule=f"∂{node}[i]/∂{to}[j] = {local}",
            contribution_rule=rule,
            numbers=f"{rule} = {part}",
            contribution=value,
        )

    x.steps = [
        step("y", "add", "t4", v, "δ(i,j)", "v[j]", "0.1", v),
        step("y", "add", "t5", v, "δ(i,j)", "v[j]", "0.1", v),
        step("t5", "log", "c", v, "δ(i,j)/c[i]", "v[j]/c[j]", "0.1/7 = 0.0142857", v / c),
        step("t4", "add", "t1", v, "δ(i,j)", "v[j]", "0.1", v),
        step("t4", "add", "t3", v, "δ(i,j)", "v[j]", "0.1", v),
        step("t3", "mul", "t2", v, "b[i]·δ(i,j)", "b[j]·v[j]", "4·0.1 = 0.4", b * v),
        step("t3", "mul", "b", v, "t2[i]·δ(i,j)", "t2[j]·v[j]", "8·0.1 = 0.8", 2 * b * v),
        step("t2", "mul", "b", b * v, "2·δ(i,j)", "2·b[j]·v[j]", "2·4·0.1 = 0.8", 2 * b * v),
        step("t1", "mul", "a", v, "3·δ(i,j)", "3·v[j]", "3·0.1 = 0.3", 3 * v),
    ]
    x.steps[7].total, x.steps[7].uses = 4 * b * v, 2
    return x


def normalised() -> Explanation:
    """``s = x.sum(dim=0); x / s`` at given values, with a name for an intermediate and a note."""
    value = array([[2, 1], [3, 3], [5, 5]])
    v = array([[1, 0], [0, 2], [0.5, -1]])
    s = value.sum(axis=0)
    eye3, eye2 = np.eye(3), np.eye(2)
    j = np.einsum("ij,kl,k->ikjl", eye3, eye2, 1 / s) - np.einsum(
        "ik,kl,k->ikl", value, eye2, 1 / s**2
    ).reshape(3, 2, 1, 2)
    gradient = np.einsum("ikjl,ik->jl", j, v)
    where = ("s[k] = Σ_p x[p,k]",)
    x = Explanation(
        expression="s = x.sum(dim=0); x / s",
        dtype="float64",
        inputs={"x": Input("x", (3, 2), value, given=True)},
        output=Output("y", (3, 2), value / s),
        grad=Upstream(v, "given", "L = 1·y[0,0] + 2·y[1,1] + 0.5·y[2,0] − 1·y[2,1]"),
        forward=[
            ForwardRow("s", "sum", ("x",), "x.sum(dim=0)", (2,), s),
            ForwardRow("y", "div", ("x", "s"), "x / s", (3, 2), value / s),
        ],
        check=Check("agree", "float64", 4e-16),
        notes=[Note("blind", "v of ones gives 0 for every input: the columns of y sum to 1.")],
        statements=("s = x.sum(dim=0)", "y = x / s"),
    )
    x.jacobian["x"] = Jacobian(
        name="x",
        formula=None,
        text="∂y[i,k]/∂x[j,l] = (δ(i,j)·s[k] − x[i,k])·δ(k,l)/s[k]²",
        latex=r"\frac{(\delta_{ij} s_k - x_{ik})\delta_{kl}}{s_k^2}",
        where=where,
        ranges="i, j = 0…2; k, l = 0…1",
        structure="one dense block for each column",
        shape=(3, 2, 3, 2),
        value=j,
    )
    x.gradients["x"] = Gradient(
        name="x",
        formula=None,
        text="x.grad[j,l] = v[j,l]/s[l] − Σ_i v[i,l]·x[i,l]/s[l]²",
        latex=r"\frac{v_{jl}}{s_l} - \sum_i \frac{v_{il} x_{il}}{s_l^2}",
        where=where,
        ranges="j = 0…2; l = 0…1",
        value=gradient,
        chain_rule=gradient,
        torch=gradient,
        tolerance=np.full((3, 2), 4e-16),
        verdict="agree",
    )
    to_s = -np.einsum("ik,ik->k", v, value) / s**2
    x.steps = [
        Step(
            node="y",
            op="div",
            input="x",
            upstream=v,
            rule="∂y[i,k]/∂x[j,l] = δ(i,j)·δ(k,l)/s[k]",
            contribution_rule="v[j,l]/s[l]",
            numbers="v[0,0]/s[0] = 1/10 = 0.1",
            contribution=v / s,
        ),
        Step(
            node="y",
            op="div",
            input="s",
            upstream=v,
            rule="∂y[i,k]/∂s[l] = −x[i,k]·δ(k,l)/s[k]²",
            contribution_rule="−Σ_i v[i,l]·x[i,l]/s[l]²",
            numbers="",
            contribution=to_s,
        ),
        Step(
            node="s",
            op="sum",
            input="x",
            upstream=to_s,
            rule="∂s[k]/∂x[j,l] = δ(k,l)",
            contribution_rule="∂L/∂s[l]",
            numbers="",
            contribution=np.tile(to_s, (3, 1)),
            total=gradient,
            uses=2,
        ),
    ]
    return x


@dataclass
class Request:
    expression: str
    at: dict[str, Any]
    grad: Any
    shapes: dict[str, tuple[int, ...]]
    wrt: tuple[str, ...] | None
    dtype: str
    check: bool
    element: str = ""


def engine(made: Explanation | None = None, status: str = "agree") -> Any:
    """A stand-in for the engine and the several calls: it remembers the requests and answers with ``made``.

    A request for an expression that is the name of a built-in exception raises it.
    """
    module: Any = ModuleType("gradexplain.explaining.engine")
    module.Request = Request
    module.requests = []

    def stages(request: Request, plan: object) -> Iterator[tuple[str, Explanation]]:
        module.requests.append(request)
        error = getattr(builtins, request.expression, None)
        if error is not None:
            raise error("raised by the test")
        if request.expression == "bad":
            raise InputError("no", source="a bad b", span=Span(2, 5), remedy="a good one")
        x = made or weighted()
        assert x.check is not None
        x.check.status = status
        for stage in STAGES:
            yield stage, x

    module.stages = stages
    module.Plan = lambda *args: args
    return module
