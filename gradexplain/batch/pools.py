"""Where problems are worked on, each within its time and memory.

A problem is worked on by a helper (`gradexplain.supervisor.helper`): a process with pipes of its own,
which is asked, is ended where its time is over, also inside C code, and is replaced where it died.  On
this machine each thread of the standard library's pool has one; a cluster is ``dask.distributed``'s,
through its executor, and there, as with any other executor, the process that it chose has helpers.

Pools of processes there are, well kept ones, but the workers of each share a pipe and its lock: pebble
gives up the whole pool where one dies with the lock, or before any has begun a problem (8 of 8 runs
whose workers were killed at random moments); loky and ``concurrent.futures`` do whenever one dies, and
know no time for a problem.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from gradexplain.batch.problems import Answer, answered, unanswered
from gradexplain.errors import InputError
from gradexplain.supervisor.helper import HELPERS, Failed, Helpers, TooLate

#: Seconds that a helper may take to load PyTorch and SymPy, on a busy machine.
_STARTING = 300.0

#: A helper's share of the machine is one core, whatever it imports and whenever it begins anew.
_ALONE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Pool:
    """``submit`` begins a problem; ``places`` is how many are worked on at once."""

    submit: Callable[[int, str], Future[Answer]]
    places: int

    def answer(self, future: Future[Answer], line: int, text: str) -> Answer:
        """The answer of a future that is done, whatever became of it."""
        try:
            return future.result()
        except (Exception, CancelledError):  # an executor's own words for a process that died
            return unanswered(line, text, "crashed", "its process ended without an answer")


def answer_within(
    line: int, text: str, timeout: float | None, memory: int | None, helpers: Helpers = HELPERS
) -> Answer:
    """The answer to a problem, worked on by a helper of this process: what an executor runs."""
    taken = helpers.take("torch", _ALONE)
    try:
        if not taken.asked:  # what every problem needs is loaded
            taken.send(partial(answered, 0, '{"expression": "x*x", "at": {"x": 1}}'), None)
            taken.receive(None if timeout is None else max(timeout, _STARTING))
        taken.send(partial(answered, line, text), memory)
        found: Answer = taken.receive(timeout)
        return found
    except TooLate:
        return unanswered(line, text, "timeout", f"not finished within {timeout or 0:g} seconds")
    except Failed as error:
        return unanswered(line, text, "crashed", str(error))
    finally:
        helpers.keep(taken)


@contextmanager
def local(jobs: int, timeout: float | None, memory: int | None) -> Iterator[Pool]:
    """Processes of this machine."""
    helpers = Helpers(jobs)

    def submit(line: int, text: str) -> Future[Answer]:
        return threads.submit(answer_within, line, text, timeout, memory, helpers)

    with ThreadPoolExecutor(jobs) as threads:
        try:
            yield Pool(submit, jobs)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            helpers.stop(busy=True)


def executor(made: Executor, places: int, timeout: float | None, memory: int | None) -> Pool:
    """Any ``concurrent.futures.Executor``."""

    def submit(line: int, text: str) -> Future[Answer]:
        return made.submit(answer_within, line, text, timeout, memory)

    return Pool(submit, places)


@contextmanager
def cluster(address: str, jobs: int, timeout: float | None, memory: int | None) -> Iterator[Pool]:
    """A cluster of ``dask.distributed`` at ``address``; ``local`` starts one of ``jobs`` workers."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise InputError(
            "--cluster needs dask.distributed", remedy='pip install "gradexplain[cluster]"'
        ) from None
    with ExitStack() as closing:
        closing.callback(sys.modules.__setitem__, "__main__", sys.modules["__main__"])
        sys.modules["__main__"] = ModuleType("__main__")
        place: Any = address
        if address == "local":
            place = closing.enter_context(
                LocalCluster(jobs, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
            )
        try:
            client = closing.enter_context(Client(place, timeout=10))
        except (OSError, ValueError) as error:
            raise InputError(
                f"there is no cluster at {address}: {error}",
                remedy="give the scheduler's address, as tcp://127.0.0.1:8786, or local",
            ) from None
        places = sum(client.nthreads().values()) or 1
        # A worker that dies takes its problems with it: they are begun again elsewhere.
        with client.get_executor(pure=False, retries=3) as made:
            yield executor(made, places, timeout, memory)
