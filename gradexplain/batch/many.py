"""Many problems at once: which goes when, and which answer comes out next."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gradexplain.batch import pools
from gradexplain.batch.pools import Pool
from gradexplain.batch.problems import Answer
from gradexplain.limits import DEFAULT_MEMORY, DEFAULT_TIMEOUT

#: Problems under way for each place: enough that no place waits, few enough to be held in memory.
_AHEAD = 4

#: Answers that may wait for one before them, for each place.
_WAITING = 64


def answers(
    problems: Iterable[tuple[int, str]], pool: Pool, *, ordered: bool = True
) -> Iterator[Answer]:
    """The answers to problems with their lines: in their order, or as they come."""
    under_way: dict[Future[Answer], tuple[int, str]] = {}
    queue: deque[int] = deque()
    ready: dict[int, Answer] = {}
    rest = iter(problems)
    more = True
    while more or under_way:
        while (
            more and len(under_way) < _AHEAD * pool.places and len(ready) < _WAITING * pool.places
        ):
            problem = next(rest, None)
            if problem is None:
                more = False
                break
            under_way[pool.submit(*problem)] = problem
            queue.append(problem[0])
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            line, text = under_way.pop(future)
            answer = pool.answer(future, line, text)
            if ordered:
                ready[line] = answer
            else:
                yield answer
        while ordered and queue and queue[0] in ready:
            yield ready.pop(queue.popleft())


def explain_many(
    problems: Iterable[Mapping[str, Any]],
    *,
    executor: Executor | None = None,
    jobs: int = 1,
    timeout: float | None = DEFAULT_TIMEOUT,
    memory: int | None = DEFAULT_MEMORY,
    ordered: bool = True,
) -> Iterator[dict[str, Any]]:
    """The answers to ``problems``, in their order unless ``ordered`` is false.

    A problem is a mapping with ``expression`` and what `gradexplain.explain` takes (``at``, ``grad``,
    ``shapes``, ``wrt``, ``dtype``, ``check``), a ``command`` (``run``, ``check`` with ``claims``, or
    ``hessian``) and an ``id``, of what JSON can say; an answer has ``line`` (from 1), ``id``,
    ``status`` and ``answer`` or ``error``, as ``gradexplain batch`` writes them.  A problem takes at
    most ``timeout`` seconds and ``memory`` bytes, and fails alone.

    ``executor`` is any ``concurrent.futures.Executor``, such as dask.distributed's
    ``Client.get_executor()``; without one ``jobs`` processes of this machine are used.
    """
    lines = ((line, json.dumps(problem)) for line, problem in enumerate(problems, 1))
    pool: AbstractContextManager[Pool]
    if executor is None:
        pool = pools.local(jobs, timeout, memory)
    else:
        places = max(jobs, getattr(executor, "_max_workers", 1))
        pool = nullcontext(pools.executor(executor, places, timeout, memory))
    with pool as made:
        for answer in answers(lines, made, ordered=ordered):
            yield json.loads(answer.text)
