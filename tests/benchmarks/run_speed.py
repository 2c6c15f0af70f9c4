"""How fast gradexplain is, against the import of PyTorch and of SymPy, and against an older gradexplain.

    python tests/benchmarks/run_speed.py [--before FOLDER]

FOLDER is a checkout of an older commit, measured in turn with this one, in the same run.  Every time is
CPU time of processes (user and system), the smallest of several alternating runs; only what a reader
waits for, the first line of output, is wall time.
"""

from __future__ import annotations

import argparse
import compileall
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parents[2]
RUN = ["run", "3*a+2*b*b+log(c)", "--grad", "0.1,1,0.0001"]

#: What learners type, and what engineers do.
TYPICAL = """\
{"expression": "3*a+2*b*b+log(c)", "grad": [0.1, 1, 0.0001]}
{"expression": "x / x.sum(dim=0)", "at": {"x": [1, 2, 3]}, "grad": [1, 0, 0]}
{"expression": "softmax(x, dim=0)", "at": {"x": [1, 2, 3]}, "grad": [1, 2, 3]}
{"expression": "F.mse_loss(x @ w.T + b, t)", "shapes": {"x": [4, 3], "w": [2, 3], "b": [2], "t": [4, 2]}}
{"expression": "F.cross_entropy(x, [0, 2])", "shapes": {"x": [2, 3]}}
{"expression": "tanh(x @ w).sum()", "shapes": {"x": [2, 3], "w": [3, 2]}}
{"expression": "F.layer_norm(x, (4,)).norm()", "shapes": {"x": [2, 4]}}
{"expression": "sqrt(x).mean()", "shapes": {"x": [2, 3]}}
{"expression": "y = sigmoid(w*x + b); -(t*log(y) + (1-t)*log(1-y))", "at": {"t": 1}}
{"expression": "(x**2).sum() / x.norm()", "at": {"x": [1, 2, 2]}}
"""

#: Run in a process of its own, with a tree's gradexplain: each prints CPU seconds.
RATE = """
from time import process_time
import json, torch
import gradexplain
torch.set_num_threads(1)
problems = [json.loads(line) for line in {typical!r}.splitlines()]
def all_of_them():
    for p in problems:
        gradexplain.explain(p["expression"], at=p.get("at"), grad=p.get("grad"),
                            shapes={{k: tuple(v) for k, v in p.get("shapes", {{}}).items()}})
all_of_them()
start = process_time()
for _ in range(10):
    all_of_them()
print((process_time() - start) / 10 / len(problems))
"""
HESSIAN = """
from time import process_time
import torch
import gradexplain
torch.set_num_threads(1)
gradexplain.hessian("x**2")
start = process_time()
gradexplain.hessian({expression!r}, shapes={shapes!r})
print(process_time() - start)
"""
STATEMENTS = """
from time import process_time
import torch
import gradexplain
torch.set_num_threads(1)
kinds = ("tanh(h{{0}} @ w)", "h{{0}}*1.1 + x", "sin(h{{0}}) - x/2", "softmax(h{{0}}, dim=1)")
chain = [f"h{{k}} = " + kinds[k % 4].format(k - 1) for k in range(1, {count} - 1)]
text = "; ".join(["h0 = x*w", *chain, "h{{0}}.sum()".format({count} - 2)])
gradexplain.explain("x*w", shapes={{"x": (3, 3), "w": (3, 3)}}, grad="ones")
start = process_time()
gradexplain.explain(text, shapes={{"x": (3, 3), "w": (3, 3)}})
print((process_time() - start) / {count})
"""
LARGE = """
from time import process_time
import resource
import numpy as np, torch
import gradexplain
torch.set_num_threads(1)
gradexplain.explain("x / x.sum(dim=0)", shapes={"x": (3, 3)}, grad="ones")
values = 1 + np.random.default_rng(0).random((2000, 2000))
def backward():
    x = torch.tensor(values, requires_grad=True)
    (x / x.sum(dim=0)).backward(torch.ones_like(x))
def taken(call):
    start = process_time()
    call()
    return process_time() - start
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
theirs = min(taken(backward) for _ in range(5))
before = peak()
ours = min(taken(lambda: gradexplain.explain("x / x.sum(dim=0)", at={"x": values}, grad="ones")) for _ in range(3))
print(ours, theirs, (peak() - before) / values.nbytes)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path)
    before = parser.parse_args().before
    trees = [HERE] if before is None else [HERE, before]
    for tree in trees:
        compileall.compile_dir(tree / "gradexplain", quiet=1)  # as an installed one is
    print(f"{'':64}{'now':>12}" + f"{'before':>12}" * (len(trees) - 1) + f"{'aim':>8}")
    commands(trees)
    inside(trees)


def commands(trees: Sequence[Path]) -> None:
    """Whole commands, against what importing PyTorch or SymPy takes."""
    torch, sympy = ([sys.executable, "-c", f"import {name}"] for name in ("torch", "sympy"))
    program = [sys.executable, "-m", "gradexplain"]
    rows = [
        ("run, whole, with the check / import torch", [*program, *RUN], torch, cpu, 0.85),
        ("run --no-check / import sympy", [*program, *RUN, "--no-check"], sympy, cpu, 1.3),
        ("--help / import torch", [*program, "--help"], torch, cpu, 0.05),
        ("first line of output / import torch", [*program, *RUN], torch, wall, 0.1),
    ]
    for name, command, base, measure, aim in rows:
        calls = [lambda tree=tree: measure(command, tree) for tree in trees]  # type: ignore[misc]
        *ours, theirs = in_turn([*calls, lambda: measure(base, HERE)], 7)
        row(name, [f"{taken / theirs:.2f}" for taken in ours], f"{aim:g}")


def inside(trees: Sequence[Path]) -> None:
    """What one process does."""
    found = in_turn([lambda t=t: said(RATE.format(typical=TYPICAL), t)[0] for t in trees], 3)  # type: ignore[misc]
    row("explanations a second, ten typical ones again and again",
        [f"{1 / taken:.0f}" for taken in found], f"{8 / found[-1]:.0f}" if len(found) > 1 else "8x")  # fmt: skip
    for expression, shapes in (
        ("F.layer_norm(x,(4,)).norm()", {"x": (2, 4)}),
        ("(tanh(x @ w)**2).sum()", {"x": (2, 3), "w": (3, 2)}),
    ):
        code = HESSIAN.format(expression=expression, shapes=shapes)
        found = in_turn([lambda t=t: said(code, t)[0] for t in trees], 3)  # type: ignore[misc]
        row(f"Hessian of {expression}, s", [f"{taken:.2f}" for taken in found], "0.3")
    for count in (100, 400, 2000):
        code = STATEMENTS.format(count=count)
        times = [said(code, tree) for tree in trees]
        row(f"a statement of {count}, ms",
            [f"{1000 * taken[0]:.1f}" if taken else "refused" for taken in times], "5")  # fmt: skip
    large = [said(LARGE, tree) for tree in trees]
    row("an explanation at 2000 x 2000 / forward + backward",
        [f"{ours / theirs:.1f}" for ours, theirs, _ in large], "4")  # fmt: skip
    row("  its memory / the tensor's", [f"{memory:.1f}" for *_, memory in large], "8")


def row(name: str, found: Sequence[str], aim: str) -> None:
    print(f"{name:64}" + "".join(f"{text:>12}" for text in found) + f"{aim:>8}", flush=True)


def in_turn(calls: Sequence[Callable[[], float]], times: int) -> list[float]:
    """The smallest figure of each, taken in turn."""
    return [min(found) for found in zip(*([c() for c in calls] for _ in range(times)), strict=True)]


def environment(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree)}


def cpu(command: list[str], tree: Path) -> float:
    """CPU seconds of a command and its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=tree, env=environment(tree))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def wall(command: list[str], tree: Path) -> float:
    """Seconds until a command's first line, or its end where it writes none."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=tree, env=environment(tree)
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        taken = time.perf_counter() - start
        running.communicate()
    return taken


def said(code: str, tree: Path) -> list[float]:
    """What ``code`` prints with a tree's gradexplain; nothing where it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tree,
        env=environment(tree),
    )
    return [float(word) for word in done.stdout.split()]


# -- for the other benchmarks ---------------------------------------------------------------------


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


if __name__ == "__main__":
    main()
