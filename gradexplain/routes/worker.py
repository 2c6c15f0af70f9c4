"""The process in which PyTorch is asked: a pickled question in, its pickled answer out.

Both come from and go to our own process only.
"""

from __future__ import annotations

import pickle
import sys

try:  # first: it takes longest, and the question is not there yet
    import torch
except ImportError:
    torch = None

from gradexplain.routes.pytorch import Answer, Askable


def main() -> None:
    question: Askable = pickle.load(sys.stdin.buffer)
    answer = (
        Answer({}, "PyTorch could not be asked: it is not installed")
        if torch is None
        else question.ask()
    )
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
