"""The other side of `gradexplain.supervisor.helper`: what a helper process does.

Pickles come from and go to our own parent only.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import Any

from gradexplain.supervisor import lean, link


def main(preload: str, parent: int) -> None:
    """Answer questions until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent says what happens
    questions, answers = _streams()
    link.hold_memory(None)  # the parent's limit is for its own work
    if parent:
        link.tie(parent)
    threading.Thread(target=_end_with_parent, args=(questions.fileno(),), daemon=True).start()
    gc.disable()
    if preload == "torch":
        lean.load()
    elif preload:
        import_module(preload)
    gc.freeze()
    gc.enable()
    with suppress(EOFError, OSError):  # the parent wants no more
        while True:
            parts = link.read(questions)
            question, memory = link.unpacked(parts)
            link.memory(memory)
            link.hold_memory(memory)
            found = _answer(question)
            lacked = lean.lacked(found)
            for part in [bytes(16)] if lacked else link.packed(found, parts):  # nothing: ask again
                answers.write(part)
            answers.flush()
            if lacked:
                os.dup2(questions.fileno(), 0)
                os.dup2(answers.fileno(), 1)
                lean.whole()
            del question, found, parts
    os._exit(0)


def _answer(question: Any) -> tuple[bool, Any]:
    try:
        return True, question()
    except Exception as error:  # it is the parent's, who raises it where the question was asked
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception that cannot travel
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return False, error


def _streams() -> tuple[Any, Any]:
    """The pipes from and to the parent; what is printed goes nowhere."""
    questions = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    sys.stdin = open(os.devnull, encoding="utf-8")
    return questions, answers


def _end_with_parent(descriptor: int) -> None:
    """End the process when the other end of the questions is closed, whatever it does then."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, 0)  # an end that hangs up is always reported
        poll.poll()
        os._exit(0)
