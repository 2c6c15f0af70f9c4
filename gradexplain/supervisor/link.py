"""The worker's side of the supervisor: its budget, what it says to the front, how it is stopped.

Where there is no front (the Python API, tests) nothing here has an effect, except that the budget is
known to who asks.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from gradexplain.limits import BUDGET, DEFAULT_TIMEOUT, INTERPRETER_MEMORY, show_size


class Stopped(BaseException):
    """The worker is asked to stop, by a signal whose number it holds: SIGTERM, SIGHUP."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


class TimeUp(BaseException):
    """The time of the budget is over: what is there is shown."""


#: Elements beyond which the garbage collector does as it always does.
_LARGE = 100_000


class _State:
    pipe: int | None = None
    front = 0
    started = 0.0
    timeout: float | None = DEFAULT_TIMEOUT
    missing = "the answer"
    #: Makes what there is of the answer.
    so_far: Callable[[], Any] | None = None
    stops: list[signal.Signals] = []
    #: The signal that has stopped the work.
    stopping = 0
    tied = False
    #: Whether the process ran a stranger's code, whose own exit handlers are due.
    foreign = False


state = _State()


def attach(pipe: int, front: int, started: float, stops: list[signal.Signals]) -> None:
    """This is the worker of ``front``, which hears what is written into ``pipe``."""
    state.pipe, state.front, state.started, state.stops = pipe, front, started, stops


def attached() -> bool:
    return state.pipe is not None


def catch() -> None:
    """A signal to stop raises from now on, once: `KeyboardInterrupt` or `Stopped`; SIGALRM `TimeUp`."""
    for number in state.stops:
        signal.signal(number, _raise)
    if attached():
        signal.signal(signal.SIGALRM, _raise)


def _raise(number: int, frame: Any) -> None:
    if state.stopping:
        return
    state.stopping = number
    if number == signal.SIGALRM:
        raise TimeUp
    with suppress(OSError):  # a finalizer, or an import in C, reports what is raised in it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)


def _tell(line: str) -> None:
    if state.pipe is not None:
        with suppress(OSError):  # the front is gone, and so is this process in a moment
            os.write(state.pipe, f"{line}\n".encode())


def timeout(seconds: float | None) -> None:
    """The budget's time, from the start of the command."""
    state.timeout = seconds
    _tell("timeout" if seconds is None else f"timeout {seconds}")


def memory(size: int | None) -> None:
    """The budget's memory, above the interpreter's."""
    BUDGET.memory = size
    _tell("memory" if size is None else f"memory {size}")
    if attached():
        hold_memory(size, INTERPRETER_MEMORY)
        tie(state.front)


def missing(what: str, so_far: Callable[[], Any] | None = None) -> None:
    """What the answer still lacks; ``so_far`` makes what there is of it."""
    state.missing, state.so_far = what, so_far
    _tell(f"missing {what}")


@contextmanager
def answering(show: Callable[[Any, str], None]) -> Iterator[None]:
    """Where time or memory is over, ``show`` what there is of the answer, and why it is not whole."""
    state.so_far = None
    try:
        yield
        missing("the page")
        decided()
    except (TimeUp, MemoryError) as error:
        if state.so_far is not None:
            said = too_long() if isinstance(error, TimeUp) else too_large()
            show(state.so_far(), said.split("\n")[0])
        raise


def child(pid: int) -> None:
    """A helper that counts as this process."""
    _tell(f"child {pid}")


def foreign() -> None:
    """From here on the process runs a stranger's code, which may end it."""
    state.foreign = True
    _tell("foreign")


@contextmanager
def foreign_code() -> Iterator[None]:
    """While a stranger's script runs its time and memory are its own, and so is Ctrl-C."""
    foreign()
    if not attached():
        yield
        return
    caught = signal.getsignal(signal.SIGINT) is _raise
    _tell("pause")
    if caught:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    hold_memory(None)
    try:
        yield
    finally:
        if caught:
            signal.signal(signal.SIGINT, _raise)
        hold_memory(BUDGET.memory, 0)
        _tell("resume")


def decided() -> None:
    """What is answered, or refused, is known: time that is over changes it no more."""
    if attached():
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


def done() -> None:
    """The answer has been given: what is left to do is not counted."""
    decided()
    _tell("done")


def expect(elements: int) -> None:
    """Tensors of so many elements are to come.

    Where they are large, an array in a cycle of references is freed soon rather than rarely.
    """
    if elements > _LARGE:
        gc.freeze()
        gc.set_threshold(700, 10, 10)


def remaining() -> float | None:
    """Seconds that are left for the answer, some kept for showing it; None without a limit.

    Without a front nobody counts: a helper is then given the default.
    """
    if not attached():
        return DEFAULT_TIMEOUT
    if state.timeout is None:
        return None
    spent = time.monotonic() - state.started
    return max(0.0, 0.9 * state.timeout - spent)


def too_long(seconds: float | None = None, what: str | None = None) -> str:
    seconds = state.timeout if seconds is None else seconds
    seconds = DEFAULT_TIMEOUT if seconds is None else seconds
    return (
        f"not finished within {seconds:g} seconds; missing: {what or state.missing}\n"
        f"remedy: --timeout {2 * seconds:g} allows more; smaller shapes have the same formulas"
    )


def too_large(size: int | None = None, what: str | None = None) -> str:
    size = BUDGET.memory if size is None else size
    if 0 <= (given := allowed()) < (size or INTERPRETER_MEMORY):
        return (
            f"not enough memory: the system allows this process {show_size(given)}\n"
            "remedy: ulimit -v unlimited allows more"
        )
    if size is None:
        return "not enough memory for this expression\nremedy: use smaller tensors"
    return (
        f"not enough memory: more than {show_size(size)} is needed; "
        f"missing: {what or state.missing}\n"
        f"remedy: --memory {show_size(2 * size)} allows more; smaller shapes have the same formulas"
    )


# -- what passes between this process and its helpers -----------------------------------------------


#: Added to the number of a part that the other end has.
_THERE = 1 << 62


def packed(value: Any, there: Sequence[bytearray] = ()) -> list[Any]:
    """A value as parts to be written one after another; large arrays are parts, and not copied.

    Of arrays in the memory of the parts that came from ``there``, numbers tell which they are.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, 5, buffer_callback=buffers.append)
    known = {at: _THERE + k for k, part in enumerate(there) if (at := _address(part))}
    views = [buffer.raw() for buffer in buffers]
    sizes = [known.get(_address(view), view.nbytes) for view in views]
    parts = [view for view, size in zip(views, sizes, strict=True) if size < _THERE]
    numbers = len(buffers), len(head), *sizes
    return [b"".join(number.to_bytes(8, "little") for number in numbers), head, *parts]


def _address(part: Any) -> Any:
    """Where the memory of a large part is, and how much; None of others."""
    view = memoryview(part)
    if view.readonly or view.nbytes < _LARGE:
        return None
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view)), view.nbytes


def read(file: IO[bytes], there: Sequence[Any] = ()) -> list[Any]:
    """What `packed` made at the other end, in parts; raises EOFError where that has ended."""
    count = int.from_bytes(_whole(file, 8), "little")
    sizes = [int.from_bytes(_whole(file, 8), "little") for _ in range(count + 1)]
    return [there[n - _THERE] if n >= _THERE else _whole(file, n) for n in sizes]


def unpacked(parts: list[Any]) -> Any:
    """The value that one of our own processes packed."""
    return pickle.loads(parts[0], buffers=parts[1:])


def _whole(file: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


# -- what the system does ------------------------------------------------------------------------


def tie(parent: int) -> None:
    """End this process when ``parent`` ends, whatever it is doing then (Linux)."""
    if state.tied or not sys.platform.startswith("linux"):
        return
    state.tied = True
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def allowed() -> int:
    """Bytes of address space that the system allows this process; below 0 without a limit."""
    if not sys.platform.startswith("linux"):
        return -1
    import resource

    return resource.getrlimit(resource.RLIMIT_AS)[0]


def hold_memory(size: int | None, allowance: int = 0) -> None:
    """Let this process take ``size`` bytes more, and ``allowance``; an allocation beyond fails.

    The limit is on private writable memory, which is what a computation takes (Linux); threads that
    numerical libraries start, one a core, have stacks there too.
    """
    if not sys.platform.startswith("linux"):
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = most
    if size is not None:
        limit = size + allowance + private(os.getpid()) + 10_000_000 * (os.cpu_count() or 1)
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


def private(pid: int) -> int:
    """Bytes of private writable memory that a process has reserved."""
    return _statm(pid, 5)


def resident(pid: int) -> int:
    """Bytes of memory of its own that a process holds."""
    return max(0, _statm(pid, 1) - _statm(pid, 2))


def _statm(pid: int, field: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            return int(file.read().split()[field]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):  # it has ended, or the system has no /proc
        return 0
