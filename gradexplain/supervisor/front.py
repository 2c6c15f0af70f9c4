"""The process that was started: it forks a worker, which does everything, and watches it.

The worker writes to the terminal itself.  What it says to the front comes through a pipe, a line each
(see `gradexplain.supervisor.link`).  At the end of its time the worker is first asked to stop
(SIGALRM: it shows the answer so far), and is killed where it does not; so it is after an interrupt,
and where it and its helpers hold more memory than they may.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from gradexplain.limits import DEFAULT_MEMORY, DEFAULT_TIMEOUT, INTERPRETER_MEMORY
from gradexplain.supervisor import link

#: An interrupt, and what is like it.  Each ends in 128 + its number, silently.
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else ()

#: Seconds between two looks at the worker.
_TICK = 0.05

#: Seconds that an interrupted worker may take to tidy up.
_GRACE = 2.0

#: Where a signal comes from the terminal, which sends it to the worker too (``SI_KERNEL``).
_FROM_TERMINAL = 128


def can_watch() -> bool:
    return hasattr(os, "fork") and hasattr(signal, "sigtimedwait")


def supervised(work: Callable[[], int]) -> int:
    """The exit code of ``work``, done in a process of its own within its budget."""
    started = time.monotonic()
    stops = [n for n in _STOPS if signal.getsignal(n) != signal.SIG_IGN]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who ignores it is not told how a worker ended
    signal.pthread_sigmask(signal.SIG_BLOCK, [*stops, signal.SIGCHLD])
    front = os.getpid()
    try:
        reader, writer = os.pipe()
        pid = os.fork()
    except OSError as error:
        return _say(f"the system refused: {error.strerror}", 2)
    if pid == 0:
        os.close(reader)
        link.attach(writer, front, started, stops)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*stops, signal.SIGCHLD])
        return work()
    os.close(writer)
    os.set_blocking(reader, False)
    os._exit(_Watch(pid, reader, started, stops).code())


#: What the dynamic linker ends a process with.
_LINKER = 127


class _Watch:
    """The front's view of one worker."""

    def __init__(self, pid: int, reader: int, started: float, stops: list[signal.Signals]) -> None:
        self.pid = pid
        self.stops = stops
        self.timeout: float | None = DEFAULT_TIMEOUT
        self.memory: int | None = DEFAULT_MEMORY
        self.missing = "the answer"
        self._reader = reader
        self._text = b""
        self._children: set[int] = set()
        self._paused = self._foreign = self._done = False
        #: Seconds that count; those during which the whole of us was stopped (Ctrl-Z) do not.
        self._spent = time.monotonic() - started
        self._deadline: float | None = None  # for a worker that was asked to stop
        self._signal = 0
        self._asked = False

    def code(self) -> int:
        last = time.monotonic()
        while True:
            found = signal.sigtimedwait([*self.stops, signal.SIGCHLD], _TICK)
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._listen()
            if ended:
                return self._ended(os.waitstatus_to_exitcode(status))
            now = time.monotonic()
            if not self._paused:
                self._spent += min(now - last, 1.0)
            last = now
            if found is not None and found.si_signo != signal.SIGCHLD:
                self._stop(found.si_signo, now, forward=found.si_code != _FROM_TERMINAL)
            if self._deadline is not None and now >= self._deadline:
                return self._kill()
            if not self._paused and not self._signal:
                self._hold(now)
                held = sum(link.resident(pid) for pid in (self.pid, *self._children))
                room = INTERPRETER_MEMORY * (1 + len(self._children))
                if self.memory is not None and held > self.memory + room:
                    self._finish()
                    return _say(link.too_large(self.memory, self.missing))

    def _hold(self, now: float) -> None:
        """Ask a worker to stop whose time is over."""
        if self.timeout is not None and self._spent >= self.timeout and not self._asked:
            self._asked = True
            self._deadline = now + max(1.0, 0.05 * self.timeout)
            self._send(signal.SIGALRM)

    def _stop(self, number: int, now: float, forward: bool) -> None:
        if forward:
            self._send(number)
        if self._paused and number == signal.SIGINT:
            return  # the script's own affair
        if not self._signal:
            self._signal = number
            self._deadline = now + _GRACE

    def _kill(self) -> int:
        self._finish()
        if self._signal:
            return 128 + self._signal
        assert self.timeout is not None
        return _say(link.too_long(self.timeout, self.missing))

    def _finish(self) -> None:
        self._send(signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _ended(self, code: int) -> int:
        """The exit code for a worker that ended by itself; below 0 it was a signal."""
        # C++ dies of memory that it cannot have, and so does the dynamic linker, with a code of its own.
        short = 0 <= link.allowed() < DEFAULT_MEMORY
        if short and code == _LINKER and not (self._done or self._foreign):
            return _say(link.too_large(self.memory, self.missing))
        if code >= 0 and (self._done or not self._foreign or code > 128):
            return code
        if self._signal:
            return 128 + self._signal
        if self._foreign and code != -signal.SIGKILL:
            how, remedy = f"with status {code}", "leave os._exit() out"
            if code < 0:
                how = f"by {signal.Signals(-code).name}"
                remedy = "python -X faulthandler FILE.py may show where"
            return _say(f"the code that was run ended its process {how}\nremedy: {remedy}", 2)
        if short:
            return _say(link.too_large(self.memory, self.missing))
        if -code == signal.SIGKILL and self.memory is not None:
            return _say(
                "the process was killed from outside, as a system without memory does\n"
                "remedy: use smaller tensors"
            )
        return _say(
            f"internal error: the process crashed ({signal.Signals(-code).name})\n"
            "remedy: please report this with the command you ran",
            70,
        )

    def _send(self, number: int) -> None:
        with suppress(OSError):
            os.kill(self.pid, number)

    def _listen(self) -> None:
        """Read what the worker has said."""
        with suppress(BlockingIOError):
            while data := os.read(self._reader, 65536):
                self._text += data
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            if word == "child":
                self._children.add(int(rest))
            elif word in ("pause", "resume", "done"):
                self._paused, self._done = word != "resume", word == "done"
            elif word == "foreign":
                self._foreign = True
            else:
                kind = {"timeout": float, "memory": int, "missing": str}[word]
                setattr(self, word, kind(rest) if rest else None)


def _say(message: str, code: int = 3) -> int:
    with suppress(OSError):
        os.write(2, f"gradexplain: {message}\n".encode())
    return code
