"""Lines of the page of ten programs, now and at another commit: ``page_lines.py --before FOLDER``."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

PROGRAMS = {
    "3*a+2*b*b+log(c)": "--grad 0.1,1,0.0001",
    "x / x.sum(dim=0)": "--shape x=3,2 --grad [[1,0],[0,2],[0.5,-1]]",
    "Q = x @ Wq; K = x @ Wk; V = x @ Wv; softmax(Q @ K.T / 2, dim=-1) @ V": "--shape x=2,3 "
    "--shape Wq=3,2 --shape Wk=3,2 --shape Wv=3,2 --grad ones",
    "m = x.mean(-1, keepdim=True); s = ((x-m)**2).mean(-1, keepdim=True); w*(x-m)/sqrt(s+1e-5)+b": ""
    "--shape x=2,3 --shape w=3 --shape b=3 --grad [[1,0.5,2],[-1,1,3]]",
    "((x @ w + b - t)**2).mean()": "--shape x=4,2 --shape w=2 --shape b= --shape t=4",
    "F.cross_entropy(x @ w + b, [0, 1])": "--shape x=2,3 --shape w=3,4 --shape b=4",
    "h = tanh(x @ W + h0 @ U + b); (h*h).sum()": "--shape x=2,3 --shape W=3,2 --shape h0=2,2 "
    "--shape U=2,2 --shape b=2",
    "h = relu(x @ W1 + b1); F.mse_loss(h @ W2 + b2, t)": "--shape x=2,3 --shape W1=3,4 "
    "--shape b1=4 --shape W2=4,2 --shape b2=2 --shape t=2,2",
    "W2 @ torch.sigmoid(W1 @ x)": "--shape W2=2,3 --shape W1=3,2 --shape x=2 --grad 1,2",
    "exp(x)/exp(x).sum(dim=-1, keepdim=True)": "--shape x=2,3 --grad [[1,0,0],[0,0,1]]",
}


def lines(folder: Path, program: str, options: str) -> int:
    """How many lines the page has that the package in ``folder`` prints."""
    command = [sys.executable, "-m", "gradexplain", "run", program, *shlex.split(options)]
    known = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=known, cwd="/", check=False)
    return done.stdout.count("\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path)
    before = parser.parse_args().before
    here = Path(__file__).parents[2]
    for program, options in PROGRAMS.items():
        counts = [lines(folder, program, options) for folder in filter(None, (here, before))]
        print(*(f"{count:4}" for count in counts), f" {program}")
