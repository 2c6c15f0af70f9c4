"""Deep nets with a fault planted in one operation's backward: what the verdict makes of them.

    python tests/nets.py [NETS] [blocks]

prints the table of the README, or that of the larger `BLOCKS`.  A net is a program of 1 to 12 layers;
the fault is an error of 1 % to 100 % in what one operation of PyTorch's sends back to one of its inputs.
"""

from __future__ import annotations

import random
import re
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
from gradexplain.routes.held import JudgedStep
from gradexplain.routes.judged import JudgedSteps, judged
from gradexplain.routes.pytorch import Question, call
from gradexplain.verdict.status import worst

#: By how much a backward is wrong: its contribution is multiplied by one and this.
FAULTS = (0.01, 0.03, 0.1, 1.0, -0.01, -0.05, -0.5, -1.0)
DTYPES = ("float32", "float64", "bfloat16")


#: Layers of several lines: from h, of shape (B, W), to the next one.  Weights are called by their
#: shape: ``w`` times W × W, ``b`` W, ``s`` a quarter of that, ``e`` of three experts.
BLOCKS = {
    "lstm": "i, f, o, g = sigmoid(h@w1), sigmoid(h@w2 + 1), sigmoid(h@w3), tanh(h@w4); c = f*h + i*g; h = o*tanh(c)",
    "gru": "z = sigmoid(h@w1 + b1); r = sigmoid(h@w2); n = tanh(h@w3 + r*(h@w4 + b2)); h = (1 - z)*n + z*h",
    "squeeze": "s = h.mean(0); a = relu(s@d1); h = h*sigmoid(a@u1)",
    "glu": "h = F.glu(torch.cat([h@w1, h@w2 + b1], 1), 1) + h",
    "swiglu": "h = h + (F.silu(h@w1)*(h@w2))@w3",
    "mixer": "h = h + F.gelu(h.T@m1).T; h = h + F.gelu(h@w1)@w2",
    "cross": "q, k, p = h@w1, x@w2, x@w3; h = h + softmax(q@k.T/W**0.5, 1)@p",
    "rotary": "n = F.rms_norm(h, (W,), b1, 1e-6); l, r = n.chunk(2, 1); "
    "a = arange(W//2)/7; h = h + torch.cat([l*cos(a) - r*sin(a), l*sin(a) + r*cos(a)], 1)@w1",
    "weight norm": "v = b1[:, None]*w1/w1.norm(dim=1, keepdim=True); h = tanh(h@v.T)",
    "depthwise": "h = F.conv1d(F.conv1d(h.reshape(B, 4, W//4), f1, groups=4, padding=1), g1).reshape(B, W)",
    "skip": "l = F.avg_pool1d(h[:, None], 2); m = tanh(l[:, 0]@t1); "
    "h = torch.cat([m.repeat_interleave(2, 1), h], 1)@k1",
    "experts": "p = softmax(h@e1, 1); h = p[:, 0:1]*tanh(h@w1) + p[:, 1:2]*relu(h@w2) + p[:, 2:3]*h",
    "bilinear": "h = tanh(F.bilinear(h[:, :4], x[:, :4], i1))@j1 + h",
    "tied": "t = h@w1; a = log_softmax(t, 1); h = h + 0.3*a@w1.T",
    "cosine": "h = F.normalize(h@w1, dim=1) + 0.1*F.cosine_similarity(h, x, 1)[:, None]*h",
    "logits": "h = h - 0.2*logsumexp(h@w1, 1, keepdim=True)",
}


def blocks(source: random.Random) -> tuple[str, dict[str, Shape]]:
    """A program of one to four `BLOCKS`, and the shapes of its inputs."""
    batch, width = source.choice([4, 8]), source.choice([8, 12])
    quarter = width // 4
    kinds: dict[str, Shape] = {
        "w": (width, width), "b": (width,), "d": (width, quarter), "u": (quarter, width),
        "m": (batch, batch), "f": (4, 1, 3), "g": (4, 4, 1), "t": (width // 2, width // 2),
        "k": (2 * width, width), "e": (width, 3), "i": (6, 4, 4), "j": (6, width),
    }  # fmt: skip
    shapes: dict[str, Shape] = {"x": (batch, width)}
    lines = ["h = x"]
    for n, kind in enumerate(source.choices(list(BLOCKS), k=source.randint(1, 4))):
        text = re.sub(r"\bB\b", str(batch), re.sub(r"\bW\b", str(width), BLOCKS[kind]))
        for name in dict.fromkeys(re.findall(r"\b[wbdumfgtkeij]\d\b", text)):
            shapes[f"{name}{n}"] = kinds[name[0]]
        lines.append(re.sub(r"\b([wbdumfgtkeij]\d)\b", rf"\g<1>{n}", text))
    lines.append(source.choice(["(h**2).mean()", "(h*x).sum()", "F.mse_loss(h, 0.3*x)"]))
    return "; ".join(lines), shapes


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
            line = f"F.rms_norm(h, ({width},), {weight(f'g{k}', width)}, 1e-6)"
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
    #: For all elements, or for each.
    factor: Any = 1.0

    def run(
        self, torch: Any, op: Op, args: Sequence[Any], tensors: Mapping[int, Any], dtype: Any
    ) -> Any:
        mine = self.graph[self.node]
        if op is not mine.op or args is not mine.args or self.source not in mine.inputs:
            return call(torch, op, args, tensors, dtype)

        class Wrong(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, given: Any, factor: Any) -> Any:
                ctx.factor = factor
                return given.view_as(given)

            @staticmethod
            def backward(ctx: Any, grad: Any) -> Any:
                return grad * torch.as_tensor(ctx.factor, dtype=grad.dtype), None

        bent = {**tensors, self.source: Wrong.apply(tensors[self.source], self.factor)}
        return call(torch, op, args, bent, dtype)


def problem(source: random.Random, dtype: str, program: Any = net) -> Problem:
    text, shapes = program(source)
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


def judge(p: Problem, node: int = -1, source: int = -1, factor: Any = 1.0) -> JudgedSteps:
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


def table(nets: int, seed: int = 0, program: Any = net) -> dict[str, Counter[tuple[str, str]]]:
    """For each dtype, what is said of right nets and of faulty ones."""
    found = {dtype: Counter[tuple[str, str]]() for dtype in DTYPES}
    for number in range(nets):
        for dtype in DTYPES:
            source = random.Random(f"{seed} {number}")
            p = problem(source, dtype, program)
            counts = found[dtype]
            right = judge(p)
            counts["right nets", status_of(right)] += 1
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
                counts["faults", status] += 1
    return found


def main() -> None:
    nets = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    program = blocks if "blocks" in sys.argv else net
    for dtype, counts in table(nets, program=program).items():
        for (what, status), count in sorted(counts.items()):
            print(f"{dtype:9} {what:11} {status:18} {count}")


if __name__ == "__main__":
    main()
