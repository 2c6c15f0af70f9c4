"""The process in which PyTorch is asked: a pickled `Question` in, a pickled `Answer` out.

Both come from and go to our own process only.
"""

from __future__ import annotations

import pickle
import sys

from gradexplain.routes.pytorch import Answer, Question, ask


def main() -> None:
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
    question: Question = pickle.load(sys.stdin.buffer)
    answer = Answer({}, "PyTorch is not installed") if torch is None else ask(question)
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
