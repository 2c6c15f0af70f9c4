"""Closed-form ``Jᵀv`` at size, against PyTorch's forward and backward on one thread.

    python tests/benchmarks/size_speed.py

At size: ratios of times taken side by side in one run, and peak memory in multiples of all tensors
involved (inputs, output and v).
"""

from __future__ import annotations

import math
import os
import statistics
import time
import tracemalloc

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from run_speed import report, side_by_side

from gradexplain.limits import BUDGET
from gradexplain.problem import Request, problem_of
from gradexplain.reading.arrays import ONES
from gradexplain.routes.closed import ClosedForm
from gradexplain.routes.pytorch import tensors_of

torch.set_num_threads(1)


def cases(n: int) -> dict[str, tuple[str, dict[str, tuple[int, ...]]]]:
    """Expressions whose largest tensor is ``n`` by ``n``."""
    square = {"x": (n, n)}
    deep = "h1 = tanh(x @ w1.T / 1e9); h2 = tanh(h1 @ w2.T / 1e9); o = h2 @ w3.T; (o*o).mean()"
    rows = (500, 64)
    return {
        "softmax": ("softmax(x/1000000, dim=1)", square),
        "layer_norm": (f"F.layer_norm(x/1000000, ({n},))", square),
        "rms_norm": (f"F.rms_norm(x/1000000, ({n},))", square),
        "batch_norm": ("F.batch_norm(x/1000000, None, None, training=True)", square),
        "group_norm": ("F.group_norm(x, 10)", {"x": (10, 100, n * n // 1000)}),
        "cross_entropy": (
            f"F.cross_entropy(x/1000000, {[row % 100 for row in range(n)]})", square
        ),
        "logsumexp": ("logsumexp(x/1000000, 1)", square),
        "attention": ("softmax(q @ k.T / 8000, -1) @ v", {"q": rows, "k": rows, "v": rows}),
        "conv2d": ("F.conv2d(x, w, padding=1)", {"x": (4, 16, 64, 64), "w": (16, 16, 3, 3)}),
        "einsum": (
            "einsum('bij,bjk->bik', x, w)", {"x": (10, 200, 200), "w": (10, 200, 200)}
        ),
        "x @ w.T": ("x @ w.T", {"x": (n, n), "w": (n, n)}),
        "three layers": (deep, {"x": (n, n), "w1": (300, n), "w2": (300, 300), "w3": (10, 300)}),
        "normalise": ("x / x.sum(dim=0)", square),
    }  # fmt: skip


def main() -> None:
    BUDGET.memory = None
    for n in (1000, 3000):
        print(f"x of {n} × {n}")
        compared(n)


def compared(n: int) -> None:
    ratios = []
    for name, (expression, shapes) in cases(n).items():
        problem = problem_of(Request(expression, grad=ONES, shapes=shapes))
        graph = problem.graph
        start = time.perf_counter()
        form = ClosedForm(graph, problem.values, problem.v, exact=False, magnitudes=False)
        for leaf in graph.leaves:
            form.gradient(leaf)
        derived = time.perf_counter() - start

        def closed(form: ClosedForm = form) -> list[object]:
            fresh = ClosedForm(
                form.graph, problem.values, problem.v, exact=False, magnitudes=False, formulas=form
            )
            return [fresh.gradient_value(leaf)[0] for leaf in form.graph.leaves]

        wanted = tuple(leaf.label for leaf in graph.leaves)
        tensors = tensors_of(torch, graph, problem.values, wanted, "float64")
        v = torch.tensor(problem.v)

        def backward() -> object:
            made = tensors_of(torch, graph, problem.values, wanted, "float64")
            made[graph.output].backward(v)
            return made

        del tensors
        ours, theirs = side_by_side(closed, backward, 12 if n < 2000 else 4)
        report(f"  {name}: closed form / forward + backward", ours, theirs, 1.0)
        ratios.append(ours / theirs)
        tracemalloc.start()
        closed()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        involved = sum(math.prod(leaf.shape) for leaf in graph.leaves) + 2 * np.size(problem.v)
        print(
            f"{'':10}derived in {1000 * derived:.0f} ms; peak {peak / 8 / involved:.1f} times the tensors"
        )
    print(f"  geometric mean {statistics.geometric_mean(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
