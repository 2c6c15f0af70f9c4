"""Deep nets with a fault planted in one operation's backward: what the verdict makes of them.

    python tests/nets.py [NETS]

prints the table of the README.  A net is a program of 1 to 12 layers; the fault is an error of 1 % to
100 % in what one operation of PyTorch's sends back to one of its inputs.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradexplain.adjoint import adjoint
from gradexplain.formula.local import UPSTREAM
from gradexplain.graph import refs
from gradexplain.ops.base import Op, Shape
from gradexplain.problem import Problem, Request, problem_of
from gradexplain.routes.judged import JudgedStep, JudgedSteps, judged
from gradexplain.routes.pytorch import Question, call
from gradexplain.verdict.status import worst

#: By how much a backward is wrong: its contribution is multiplied by one and this.
FAULTS = (0.01, 0.03, 0.1, 1.0, -0.01, -0.05, -0.5, -1.0)
DTYPES = ("float32", "float64", "bfloat16")


def net(source: random.Random) -> tuple[str, dict[str, Shape]]:
    """A program, and the shapes of its inputs."""
    batch, width = source.choice([8, 16]), source.choice([16, 24])
    shapes: dict[str, Shape] = {"x": (batch, width)}
    lines = ["h = x"]

    def weight(name: str, *shape: int) -> str:
        shapes[name] = shape
        return name

    def linear(k: str) -> str:
        w, b = weight(f"w{k}", width, width), weight(f"b{k}", width)
        return f"F.linear(h, {w}, {b})"

    for n in range(source.randint(1, 12)):
        k = str(n)
        kind = source.choice(
            ["linear", "activation", "layer", "batch", "group", "rms", "convolution", "attention",
             "cell", "residual", "gate"]
        )  # fmt: skip
        if kind == "linear":
            line = linear(k)
        elif kind == "activation":
            name = source.choice(["F.relu", "tanh", "sigmoid", "F.gelu", "F.silu", "F.elu"])
            line = f"{name}({linear(k)})"
        elif kind == "layer":
            line = (
                f"F.layer_norm(h, ({width},), {weight(f'g{k}', width)}, {weight(f'c{k}', width)})"
            )
        elif kind == "batch":
            line = f"F.batch_norm(h, None, None, {weight(f'g{k}', width)}, {weight(f'c{k}', width)}, training=True)"
        elif kind == "group":
            line = f"F.group_norm(h, 2, {weight(f'g{k}', width)}, {weight(f'c{k}', width)})"
        elif kind == "rms":
            line = f"F.rms_norm(h, ({width},), {weight(f'g{k}', width)})"
        elif kind == "convolution":
            f = weight(f"f{k}", 2, 2, 3)
            line = f"F.conv1d(h.reshape({batch}, 2, {width // 2}), {f}, padding=1).reshape({batch}, {width})"
        elif kind == "attention":
            q, p, r = (weight(f"{name}{k}", width, width) for name in "qpr")
            line = f"softmax((h @ {q}) @ (h @ {p}).T / 3, -1) @ (h @ {r})"
        elif kind == "cell":
            u = weight(f"u{k}", width, width)
            line = f"tanh({linear(k)} + tanh(h @ {u}) @ {u})"
        elif kind == "residual":
            line = f"h + 0.5*tanh({linear(k)})"
        else:
            line = f"sigmoid({linear(k)})*h"
        lines.append(f"h = {line}")
    lines.append(source.choice(["(h**2).mean()", "(h*x).sum()", "F.mse_loss(h, 0.3*x)"]))
    return "; ".join(lines), shapes


@dataclass(frozen=True, slots=True)
class Faulty(Question):
    """PyTorch with an operation whose backward is wrong by a factor: that of ``node``, to ``source``."""

    node: int = -1
    source: int = -1
    factor: float = 1.0

    def run(
        self, torch: Any, op: Op, args: Sequence[Any], tensors: Mapping[int, Any], dtype: Any
    ) -> Any:
        mine = self.graph[self.node]
        if op is not mine.op or args is not mine.args or self.source not in mine.inputs:
            return call(torch, op, args, tensors, dtype)

        class Wrong(torch.autograd.Function):  # type: ignore[misc]
            @staticmethod
            def forward(ctx: Any, given: Any, factor: float) -> Any:
                ctx.factor = factor
                return given.view_as(given)

            @staticmethod
            def backward(ctx: Any, grad: Any) -> Any:
                return grad * ctx.factor, None

        bent = {**tensors, self.source: Wrong.apply(tensors[self.source], self.factor)}
        return call(torch, op, args, bent, dtype)


def problem(source: random.Random, dtype: str) -> Problem:
    text, shapes = net(source)
    generator = np.random.default_rng(source.randrange(2**32))
    at = {}
    for name, shape in shapes.items():
        size = 0.7 if name[0] in "wqpruf" else 1.0
        value = generator.normal(0, size / (shape[0] ** 0.5 if len(shape) > 1 else 1), shape)
        value = value + 1.0 if name[0] == "g" else value
        # Seven bits are the same number in every format.
        at[name] = np.round(value * 64) / 64
    made = problem_of(Request(text, at, dtype="float64"))
    return replace(made, dtype=dtype, reread=None)


def judge(p: Problem, node: int = -1, source: int = -1, factor: float = 1.0) -> JudgedSteps:
    """The steps of PyTorch's backward pass, judged, with a fault planted in one of them."""
    question = Faulty(
        p.graph, p.values, p.v, p.wanted, p.dtype, (), node=node, source=source, factor=factor
    )
    answer = question.ask()
    assert answer.steps is not None, answer.error
    contributions = adjoint(p.graph, p.wanted, UPSTREAM).contributions
    return judged(p.graph, contributions, answer.steps, list(p.wanted), p.dtype)


def status_of(made: JudgedSteps) -> str:
    return worst(step.verdict for step in (*made.steps.values(), *made.sums.values()))


def places(p: Problem) -> list[tuple[int, int]]:
    """Every ``(operation, input)`` through which a gradient flows."""
    reach = p.graph.reach(p.wanted) & p.graph.needed()
    parts = p.graph.parts()
    return [
        (node.id, id)
        for node in p.graph.nodes
        if node.id in reach and node.op is not None and node.id not in parts
        for id in dict.fromkeys(ref.id for ref in refs(node.args))
        if id in reach and id not in parts
    ]


def _is_something(step: JudgedStep) -> bool:
    return bool((np.abs(step.torch) > step.bound).any())


def table(nets: int, seed: int = 0) -> dict[str, Counter[str]]:
    """For each dtype, what is said of right nets and of faulty ones."""
    found = {dtype: Counter[str]() for dtype in DTYPES}
    for number in range(nets):
        for dtype in DTYPES:
            source = random.Random(f"{seed} {number}")
            p = problem(source, dtype)
            counts = found[dtype]
            right = judge(p)
            counts["right nets", status_of(right)] += 1  # type: ignore[index]
            # An error of a part of nothing is none: a bias before a normalisation, say.
            seen = [place for place in places(p) if _is_something(right.steps[place])]
            place = source.choice(seen)
            for factor in source.sample(FAULTS, 2):
                made = judge(p, *place, 1 + factor)
                status = status_of(made)
                here = made.steps[place].verdict
                if here == "cannot tell":
                    status = here
                elif status == "mismatch" and here != "mismatch":
                    status = "mismatch elsewhere"
                counts["faults", status] += 1  # type: ignore[index]
    return found


def main() -> None:
    nets = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    for dtype, counts in table(nets).items():
        for (what, status), count in sorted(counts.items()):  # type: ignore[misc]
            print(f"{dtype:9} {what:11} {status:18} {count}")


if __name__ == "__main__":
    main()
