"""Commands that once took all time and memory: each at its size, and at one that a suite can afford.

    python -m tests.fuzz --lines

runs them as they were found, by the real command, and prints what each took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

_ONES = ["--grad", "ones"]


def _nested(call: str, n: int, end: str = ")") -> str:
    return call * n + "x" + end * n


def _product(n: int) -> list[str]:
    return ["hessian", "*".join(f"a{k}" for k in range(n))]


def _layers(n: int) -> list[str]:
    text = "h = x\n" + "".join(f"h = tanh(w{k} @ h + b{k})\n" for k in range(n)) + "h.sum()"
    shapes = [f"--shape={a}{k}={s}" for k in range(n) for a, s in (("w", "3,3"), ("b", "3"))]
    return ["hessian", text, "--shape=x=3", *shapes]


def _outer(n: int) -> list[str]:
    letters = "abcdefghijklm"[:n]
    text = f"einsum('{','.join(letters)}->{letters}', {','.join('x' * n)})"
    return ["run", text, "--shape=x=2", *_ONES]


#: Each line: the arguments at a size, the size that was found, one for the suite.
LINES: dict[str, tuple[Callable[[int], list[str]], int, int]] = {
    "exp in exp": (lambda n: ["run", _nested("exp(", n), "--at=x=1"], 5, 5),
    "digamma": (lambda n: ["run", "digamma(x)", f"--at=x=-{n}"], 10**6, 10**6),
    "digamma, far": (lambda n: ["run", "digamma(x)", f"--at=x=-{n}"], 10**15, 10**15),
    "polygamma": (lambda n: ["run", "polygamma(1,x)", f"--at=x=-{n}"], 10**6, 10**6),
    "polygamma, far": (lambda n: ["run", "polygamma(1,x)", f"--at=x=-{n}"], 10**15, 10**15),
    "lgamma twice": (lambda n: ["hessian", "lgamma(x)", f"--at=x=-{n}"], 10**6, 10**6),
    "lgamma twice, between": (
        lambda n: ["hessian", "lgamma(x)", f"--at=x=-{n}.5"],
        10**6,
        10**6,
    ),
    "lgamma twice, far": (lambda n: ["hessian", "lgamma(x)", f"--at=x=-{n}"], 10**15, 10**15),
    "maximum": (lambda n: ["run", "maximum(x, " * n + "y" + ")" * n], 10, 10),
    "tanh twice": (lambda n: ["hessian", _nested("tanh(", n)], 10, 5),
    "product twice": (_product, 60, 12),
    "layers twice": (_layers, 3, 2),
    "cumprod": (lambda n: ["run", "cumprod(x,dim=0)", f"--shape=x={n}", *_ONES], 10**5, 10**5),
    "prod": (lambda n: ["run", "x.prod()", f"--shape=x={n}"], 10**5, 10**5),
    "logcumsumexp": (
        lambda n: ["run", "logcumsumexp(x,dim=0)", f"--shape=x={n}", *_ONES],
        10**5,
        10**5,
    ),
    "avg_pool2d": (
        lambda n: ["run", "F.avg_pool2d(x,50,stride=1)", f"--shape=x=1,1,{n},{n}", *_ONES],
        500,
        99,
    ),
    "conv2d": (
        lambda n: [
            "run",
            f"conv2d(x,w,padding={2 * n},dilation={n})",
            "--shape=x=1,1,5,5",
            "--shape=w=1,1,5,5",
            *_ONES,
        ],
        1000,
        1000,
    ),
    "einsum, outer": (_outer, 13, 8),
    "adaptive_avg_pool2d": (
        lambda n: ["run", f"F.adaptive_avg_pool2d(x,({n},{n}))", "--shape=x=1,1,7,7", *_ONES],
        2000,
        150,
    ),
    "softmax": (lambda n: ["run", "softmax(x,dim=1)", f"--shape=x={n},{n}", *_ONES], 4000, 200),
    "block_diag": (
        lambda n: ["run", "block_diag(x,x,x,x)", f"--shape=x={n},{n}", *_ONES],
        900,
        25,
    ),
    "einsum, chain": (
        lambda n: ["run", "einsum('ab,bc,cd,de->ae',x,x,x,x)", f"--shape=x={n},{n}", *_ONES],
        20,
        10,
    ),
    "stack": (lambda n: ["run", f"stack([{','.join('x' * n)}]).sum()", "--shape=x=3"], 500, 30),
    "assignments": (
        lambda n: ["run", "y = x\n" + "y = y*x\n" * n, "--at=x=1.001"],
        900,
        200,
    ),
    "layers": (lambda n: ["run", "z = x\n" + "z = tanh(z+x)\n" * n, "--at=x=0.1"], 400, 80),
    "softmax in softmax": (
        lambda n: ["run", _nested("softmax(", n, ",dim=0)"), "--shape=x=3", *_ONES],
        98,
        30,
    ),
    "sum": (lambda n: ["run", "+".join(f"a{k}" for k in range(n))], 900, 210),
    "codegen": (lambda n: ["codegen", "z = x\n" + "z = tanh(z+x)\n" * n], 200, 12),
}


def measured() -> int:
    """Every line by the real command: seconds of wall time and of CPU, memory; the count of failures."""
    program = [sys.executable, "-c", "from gradexplain.cli import main; raise SystemExit(main())"]
    print("| line | exit | wall s | CPU s | MiB |\n|---|---|---|---|---|")
    failures = 0
    for name, (arguments, size, _) in LINES.items():
        before, started, most = os.times(), time.monotonic(), 0
        process = subprocess.Popen(
            [*program, *arguments(size)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while process.poll() is None:
            most = max(most, sum(map(_resident, _below(process.pid))))
            time.sleep(0.05)
        after = os.times()
        took = (
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        )
        wall = time.monotonic() - started
        print(
            f"| {name} | {process.returncode} | {wall:.1f} | {took:.1f} | {most >> 20} |",
            flush=True,
        )
        failures += process.returncode != 0
    return failures


def _below(pid: int) -> list[int]:
    """A process and what it started."""
    found = [pid]
    for parent in found:
        try:
            with open(f"/proc/{parent}/task/{parent}/children") as file:
                found += map(int, file.read().split())
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
