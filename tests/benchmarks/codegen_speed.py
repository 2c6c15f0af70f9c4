# ruff: noqa: B023  (each lambda is called at once)
"""The generated backward against autograd's, at 10⁶ elements, side by side in one run.

    python tests/benchmarks/codegen_speed.py

Printed: milliseconds of one backward by autograd (the expression's own operations) and by the
generated Function, the median of their ratios over interleaved runs, and the same of forward and
backward.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from gradexplain.checking.generated import generate

CASES = {
    "softmax": ("softmax(x, dim=1)", lambda x: torch.softmax(x, dim=1)),
    "softmax, written out": (
        "e = exp(x); e / e.sum(dim=1, keepdim=True)",
        lambda x: (e := torch.exp(x)) / e.sum(dim=1, keepdim=True),
    ),
    "normalise": ("x / x.sum(dim=0)", lambda x: x / x.sum(dim=0)),
    "layer_norm": (
        "m = x.mean(dim=1, keepdim=True); d = x - m; s = (d**2).mean(dim=1, keepdim=True); "
        "d / sqrt(s + 1e-5)",
        None,
    ),
    "gelu": ("F.gelu(x)", torch.nn.functional.gelu),
    "gelu, written out": (
        "0.5*x*(1 + erf(x/sqrt(2)))",
        lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    ),
}


def layer_norm(x: torch.Tensor) -> torch.Tensor:
    m = x.mean(dim=1, keepdim=True)
    d = x - m
    s = (d**2).mean(dim=1, keepdim=True)
    return d / torch.sqrt(s + 1e-5)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'':<21}{'backward, ms':>28}{'':>8}{'forward + backward, ms':>30}")
    print(
        f"{'':<21}{'autograd':>14}{'generated':>14}{'ratio':>8}{'autograd':>16}{'generated':>14}{'ratio':>8}"
    )
    for name, (expression, plain) in CASES.items():
        plain = plain or layer_norm
        made = generate(expression, "Made").loaded()
        x = torch.rand(1000, 1000, requires_grad=True)
        v = torch.rand(1000, 1000)
        times: dict[str, list[float]] = {k: [] for k in ("a", "g", "fa", "fg")}
        for turn in range(33):
            ya, yg = plain(x), made.apply(x)
            a = seconds(lambda ya=ya: torch.autograd.grad(ya, x, v))
            g = seconds(lambda yg=yg: torch.autograd.grad(yg, x, v))
            fa = seconds(lambda plain=plain: torch.autograd.grad(plain(x), x, v))
            fg = seconds(lambda made=made: torch.autograd.grad(made.apply(x), x, v))
            if turn >= 3:
                for key, value in zip(times, (a, g, fa, fg), strict=True):
                    times[key].append(value)
        ms = {k: 1000 * statistics.median(t) for k, t in times.items()}
        ratio = statistics.median(g / a for a, g in zip(times["a"], times["g"], strict=True))
        both = statistics.median(g / a for a, g in zip(times["fa"], times["fg"], strict=True))
        print(
            f"{name:<21}{ms['a']:>14.2f}{ms['g']:>14.2f}{ratio:>8.2f}"
            f"{ms['fa']:>16.2f}{ms['fg']:>14.2f}{both:>8.2f}"
        )


if __name__ == "__main__":
    main()
