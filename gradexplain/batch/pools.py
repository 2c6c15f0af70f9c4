"""Where problems are worked on, each within its time and memory.

Local processes are pebble's: of the pools that are kept up it is the one that gives each task a time of
its own, ends the process of a task that passes it, also inside C code, and starts another (loky and
``concurrent.futures`` give up the whole pool when one process dies, and have no times).  A cluster is
``dask.distributed``'s, through its executor; there, and with any other executor, a problem runs in a
helper of the process that the executor chose (`gradexplain.supervisor.helper`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gradexplain.batch.problems import Answer, answered, unanswered
from gradexplain.errors import InputError
from gradexplain.supervisor import helper, link

#: Problems after which a local process is replaced: what libraries keep is given back.
_TASKS = 2_000

#: Begins the work on a problem, given its line and text.
Submit = Callable[[int, str], "Future[Answer]"]


@dataclass(frozen=True, slots=True)
class Pool:
    """``submit`` begins a problem; ``places`` is how many are worked on at once."""

    submit: Submit
    places: int
    timeout: float | None

    def answer(self, future: Future[Answer], line: int, text: str) -> Answer:
        """The answer of a future that is done, whatever became of it."""
        try:
            return future.result()
        except TimeoutError:
            return unanswered(line, text, "timeout", _too_long(self.timeout))
        except (Exception, CancelledError) as error:  # a pool's own words for a process that died
            code = getattr(error, "exitcode", None)
            how = f" ({signal.Signals(-code).name})" if code and code < 0 else ""
            return unanswered(line, text, "crashed", f"its process ended without an answer{how}")


def _too_long(timeout: float | None) -> str:
    return f"not finished within {timeout or 0:g} seconds"


@contextmanager
def local(jobs: int, timeout: float | None, memory: int | None) -> Iterator[Pool]:
    """Processes of this machine."""
    from pebble import ProcessPool

    pool = ProcessPool(
        jobs, _TASKS, _prepare, (memory, os.getpid()), multiprocessing.get_context("spawn")
    )
    # The main module need not be there for a process that runs our own functions only; spawn would
    # run it again, and a script without a guard would start another batch.
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")

    def submit(line: int, text: str) -> Future[Answer]:
        found: Future[Answer] = pool.schedule(answered, args=(line, text), timeout=timeout)
        return found

    try:
        yield Pool(submit, jobs, timeout)
    finally:
        pool.stop()
        pool.join()
        sys.modules["__main__"] = main


def _prepare(memory: int | None, parent: int) -> None:
    """A local process: PyTorch and all else is loaded once, and one thread is its share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says what an interrupt means
    link.tie(parent)
    answered(0, '{"expression": "x*x", "at": {"x": 1}}')
    try:
        import torch

        torch.set_num_threads(1)
    except Exception:  # each problem says what is wrong with PyTorch
        pass
    link.memory(memory)
    link.hold_memory(memory)


@dataclass(frozen=True, slots=True)
class _Task:
    """A problem that travels to a helper."""

    line: int
    text: str

    def ask(self) -> Answer:
        return answered(self.line, self.text)


def answer_within(line: int, text: str, timeout: float | None, memory: int | None) -> Answer:
    """The answer to a problem, worked on by a helper of this process: what an executor runs."""
    taken = helper.take("torch")
    try:
        taken.send(_Task(line, text), memory)
        found: Answer = taken.receive(timeout)
    except helper.Failed as error:
        late = "in the time allowed" in str(error)
        return unanswered(
            line, text, "timeout" if late else "crashed", _too_long(timeout) if late else str(error)
        )
    helper.keep(taken)
    return found


@contextmanager
def executor(
    made: Executor, places: int, timeout: float | None, memory: int | None
) -> Iterator[Pool]:
    """Any ``concurrent.futures.Executor``."""

    def submit(line: int, text: str) -> Future[Answer]:
        return made.submit(answer_within, line, text, timeout, memory)

    yield Pool(submit, places, timeout)


@contextmanager
def cluster(address: str, jobs: int, timeout: float | None, memory: int | None) -> Iterator[Pool]:
    """A cluster of ``dask.distributed`` at ``address``; ``local`` starts one of ``jobs`` workers."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise InputError(
            "--cluster needs dask.distributed", remedy='pip install "gradexplain[cluster]"'
        ) from None
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    started: Any = None
    client: Any = None
    try:
        if address == "local":
            started = LocalCluster(
                jobs, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
            )
        try:
            client = Client(started or address, timeout=10)
        except (OSError, ValueError) as error:
            raise InputError(
                f"there is no cluster at {address}: {error}",
                remedy="give the scheduler's address, as tcp://127.0.0.1:8786, or local",
            ) from None
        places = sum(client.nthreads().values()) or 1
        # A worker that dies takes its problems with it: they are begun again elsewhere.
        with (
            client.get_executor(pure=False, retries=3) as made,
            executor(made, places, timeout, memory) as pool,
        ):
            yield pool
    finally:
        for part in (client, started):
            if part is not None:
                part.close()
        sys.modules["__main__"] = main
