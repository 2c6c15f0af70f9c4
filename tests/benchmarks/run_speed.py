"""How fast `gradexplain run` is: ratios of times taken side by side in one run.

    python tests/benchmarks/run_speed.py

Each figure is a ratio, with the two times behind it; the smallest of several alternating runs counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

EXPRESSION = "3*a+2*b*b+log(c)"
COMMAND = [sys.executable, "-m", "gradexplain", "run", EXPRESSION, "--grad", "0.1,1,0.0001"]
NORMALISE = "x / x.sum(dim=0)"


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def side_by_side(
    a: Callable[[], object], b: Callable[[], object], times: int
) -> tuple[float, float]:
    """The smallest time of each, taken in turn."""
    pairs = [(seconds(a), seconds(b)) for _ in range(times)]
    return min(p[0] for p in pairs), min(p[1] for p in pairs)


def report(name: str, a: float, b: float, limit: float | None = None) -> None:
    aim = "" if limit is None else f"   aim: at most {limit:g}"
    print(f"{name:58} {a / b:6.3f}   ({1000 * a:8.1f} ms / {1000 * b:8.1f} ms){aim}", flush=True)


def process(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def first_line(command: list[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        taken = time.perf_counter() - start
        running.communicate()
    return taken


def commands() -> None:
    print("The command, against the import of PyTorch alone")
    torch = process([sys.executable, "-c", "import torch"])
    run, base = side_by_side(process(COMMAND), torch, 5)
    report("the first command / import torch", run, base, 1.35)
    first = min(first_line(COMMAND) for _ in range(5))
    report("its first line of output / import torch", first, base, 0.5)
    helped, base = side_by_side(process([sys.executable, "-m", "gradexplain", "--help"]), torch, 5)
    report("gradexplain --help / import torch", helped, base, 0.15)


def derivation() -> None:
    from gradexplain.engine import Request, problem_of
    from gradexplain.routes.closed import ClosedForm

    print(f"\nDeriving J and Jᵀv of {NORMALISE}")

    def derive(n: int) -> Callable[[], object]:
        problem = problem_of(Request(NORMALISE, grad=np.ones((n, n))))

        def call() -> object:
            form = ClosedForm(problem.graph, problem.values, problem.v, exact=False)
            (leaf,) = problem.graph.leaves
            return form.jacobian(leaf), form.gradient(leaf)

        return call

    large, small = side_by_side(derive(3000), derive(3), 20)
    report("3000x3000 / 3x3", large, small)


def evaluation() -> None:
    import torch

    from gradexplain.engine import Request, problem_of
    from gradexplain.routes.closed import ClosedForm

    torch.set_num_threads(1)
    print("\nEvaluating Jᵀv in closed form, against PyTorch's forward and backward, one thread")
    for n in (1000, 3000):
        problem = problem_of(Request(NORMALISE, grad=np.ones((n, n))))
        (leaf,) = problem.graph.leaves
        form = ClosedForm(problem.graph, problem.values, problem.v, exact=False)
        form.gradient(leaf)
        x = torch.tensor(problem.values["x"], requires_grad=True)
        v = torch.tensor(problem.v)

        def closed(problem=problem, leaf=leaf, form=form) -> object:  # type: ignore[no-untyped-def]
            fresh = ClosedForm(
                problem.graph,
                problem.values,
                problem.v,
                exact=False,
                magnitudes=False,
                formulas=form,
            )
            return fresh.gradient_value(leaf)

        def backward(x=x, v=v) -> object:  # type: ignore[no-untyped-def]
            x.grad = None
            (x / x.sum(dim=0)).backward(v)
            return x.grad

        ours, theirs = side_by_side(closed, backward, 5)
        report(f"{n}x{n}: closed form / forward + backward", ours, theirs, 1.0)
        tracemalloc.start()
        closed()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{'':10}peak memory {peak / (8 * n * n):.1f} times the tensor's")


def throughput() -> None:
    import torch  # noqa: F401  # so that it is asked in this process

    import gradexplain

    print("\nExplanations per second in one process, the first command's expression")

    def explain(check: bool) -> Callable[[], object]:
        def call() -> object:
            for _ in range(10):
                gradexplain.explain(EXPRESSION, grad=[0.1, 1, 0.0001], check=check)
            return None

        return call

    with_check, without = side_by_side(explain(True), explain(False), 5)
    print(f"  with the check {10 / with_check:6.1f}   without {10 / without:6.1f}")
    report("with / without the check", with_check, without)


if __name__ == "__main__":
    commands()
    derivation()
    evaluation()
    throughput()
