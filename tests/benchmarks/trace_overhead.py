"""What tracing costs a script: ratios of times taken side by side in one run.

    python tests/benchmarks/trace_overhead.py

Each figure is the CPU time of a training loop of a small MLP under `gradexplain.tracing` divided by its
time alone; the median of several alternating pairs counts.  Explaining comes after the loop and is
not part of it, capturing is.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

import gradexplain

STEPS = 300


def training(batch: int, hidden: int, optimizer: str, steps: int = STEPS) -> Callable[[], Any]:
    """A loop of ``steps`` steps."""

    def loop() -> None:
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip
        opt = getattr(torch.optim, optimizer)(net.parameters(), lr=1e-3)
        x, y = torch.randn(batch, 8), torch.randn(batch, 1)
        for _ in range(steps):
            opt.zero_grad()
            loss = nn.functional.mse_loss(net(x), y)
            loss.backward()
            opt.step()

    return loop


def seconds(loop: Callable[[], Any], options: dict[str, Any] | None = None) -> float:
    """The time of a loop, traced where there are options."""
    start = time.process_time()
    if options is None:
        loop()
    else:
        with gradexplain.tracing(**options):
            loop()
    return time.process_time() - start


def compare(name: str, loop: Callable[[], Any], **options: Any) -> None:
    pairs = [(seconds(loop, options), seconds(loop)) for _ in range(7)]
    # The machine's speed changes: the ratio is the median of the pairs'.
    traced, alone = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
    print(
        f"{name:58} {traced / alone:6.2f}   ({1e3 * traced:7.1f} ms / {1e3 * alone:7.1f} ms)",
        flush=True,
    )


def memory() -> None:
    """Python's memory after loops of two lengths: it must not grow with the length."""
    peaks = []
    for steps in (100, 400):
        tracemalloc.start()
        with gradexplain.tracing():
            training(32, 16, "Adam", steps)()
        peaks.append(tracemalloc.get_traced_memory()[0] / 1e3)
        tracemalloc.stop()
    print(f"memory held after 100 and after 400 steps: {peaks[0]:.0f} kB and {peaks[1]:.0f} kB")


def main() -> None:
    print(f"A training loop of {STEPS} steps, traced / alone   (aims: 1.2, with --last 1.5)")
    seconds(training(4, 4, "SGD", 3), {})  # imports
    compare("MLP 8-16-16-1, batch 32, Adam", training(32, 16, "Adam"))
    compare("MLP 8-16-16-1, batch 32, SGD", training(32, 16, "SGD"))
    compare("MLP 8-256-256-1, batch 256, Adam", training(256, 256, "Adam"))
    compare("MLP 8-16-16-1, batch 32, Adam, --call 1", training(32, 16, "Adam"), call=1)
    compare("MLP 8-16-16-1, batch 32, Adam, --last", training(32, 16, "Adam"), last=True)
    memory()


if __name__ == "__main__":
    main()
