"""Processes that are asked: a pickled question in, its pickled answer out, and then the next.

A question is a call without arguments, of what a pickle can hold.  A helper is started isolated (``-I``) with this
process's search path, less the working directory, and this very package; it ends when its parent does
or when it is no longer wanted, and it is kept for the next question otherwise.

Only the standard library is imported here: the command line starts PyTorch's process before it loads
NumPy, so that PyTorch's import, the longest part of a run, begins at once.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from gradexplain.supervisor import link

#: Questions after which a helper is replaced: what libraries keep is given back.
_QUESTIONS = 2_000

_NOTHING: Mapping[str, str] = {}

#: Large tensors in large pages, as NumPy has its arrays: the kernel hands them out in a tenth of the
#: time, which is a quarter of what an explanation of 4000 × 4000 numbers takes.
_PAGES: Mapping[str, str] = {"THP_MEM_ALLOC_ENABLE": "1"}

_START = """\
import sys
sys.path[:] = {path!r}
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("gradexplain", {file!r}, submodule_search_locations={places!r})
sys.modules["gradexplain"] = package = module_from_spec(spec)
spec.loader.exec_module(package)
from gradexplain.supervisor import asked
asked.main({preload!r}, {parent!r})
"""


class Failed(Exception):
    """A helper gave no answer; the message says why, after the helper's name: ``its process …``."""


class TooLate(Failed):
    """A helper gave no answer in the time allowed."""


class Helper:
    """One process that is asked; see `Helpers.take`."""

    def __init__(self, preload: str, environment: Mapping[str, str] = _NOTHING) -> None:
        import gradexplain

        self.kind = preload, environment
        self.asked = 0
        self._found: list[list[Any] | MemoryError] = []
        self._thread: threading.Thread | None = None
        code = _START.format(
            path=[p for p in sys.path if isinstance(p, str) and os.path.isabs(p)],
            file=gradexplain.__file__,
            places=list(gradexplain.__path__),
            preload=preload,
            # The system ends it with the thread that started it, which may not be ours.
            parent=os.getpid() if threading.current_thread() is threading.main_thread() else 0,
        )
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.sep,  # ours may be gone, which PyTorch's libraries do not bear
            env={**_PAGES, **os.environ, **environment},
        )
        link.child(self._process.pid)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, question: Callable[[], Any], memory: int | None) -> None:
        """Begin to ask ``question``, which may take ``memory`` bytes."""
        self._found.clear()
        self.asked += 1
        # A thread: reading cannot be given a time, and a question may be larger than a pipe holds
        # before there is somebody to read it.
        self._thread = threading.Thread(
            target=self._exchange, args=(link.packed((question, memory)),), daemon=True
        )
        self._thread.start()

    def receive(self, seconds: float | None) -> Any:
        """The answer; raises `Failed` where none came in time, and then the helper is gone.

        An exception of the question itself is raised here.
        """
        assert self._thread is not None
        try:
            self._thread.join(seconds)
        except BaseException:
            self.stop()
            raise
        if not self._found:
            stopped = self._is_stopped()
            running = self.alive and self._thread.is_alive()
            self.stop()
            if running and not stopped:
                raise TooLate("its process did not answer in the time allowed")
            raise Failed(self._reason(stopped))
        found = self._found.pop()
        if isinstance(found, MemoryError):  # the rest of the answer is still on its way
            self.stop()
            raise found
        ok, answer = link.unpacked(found)
        if not ok:
            raise answer
        return answer

    def _exchange(self, question: list[Any]) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            for part in question:
                self._process.stdin.write(part)
            self._process.stdin.flush()
            found = link.read(self._process.stdout, question[1:])
            if found == [b""]:  # it lacked something, and begins anew
                return self._exchange(question)
            self._found.append(found)
        except MemoryError as error:
            self._found.append(error)
        except (OSError, ValueError, EOFError):
            with suppress(subprocess.TimeoutExpired):  # it died, or was stopped: there is no answer
                self._process.wait(5)

    def _is_stopped(self) -> bool:
        try:
            with open(f"/proc/{self._process.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
        except (OSError, IndexError):
            return False

    def _reason(self, stopped: bool) -> str:
        if stopped:
            return "its process was stopped"
        code = self._process.returncode
        if code is not None and code < 0:
            import signal

            return f"its process crashed ({signal.Signals(-code).name})"
        return f"its process ended without an answer (status {code})"

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not yet written cannot be
                if pipe is not None:
                    pipe.close()


class Helpers:
    """The helpers of some who ask, ``kept`` of them for the next question."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self.forget()

    def forget(self) -> None:
        """In a forked child the helpers are its parent's."""
        self._lock = threading.Lock()
        self.idle: list[Helper] = []
        self._busy: set[Helper] = set()

    def start(self, preload: str) -> None:
        """Have one ready that imports ``preload``."""
        with self._lock:
            if any(helper.kind == (preload, _NOTHING) for helper in self.idle):
                return
        self.keep(Helper(preload))

    def take(self, preload: str, environment: Mapping[str, str] = _NOTHING) -> Helper:
        """One of one's own, until it is given to `keep`; raises OSError where none can start.

        ``environment`` is what its variables have beside this process's.
        """
        found = None
        with self._lock:
            for helper in [h for h in self.idle if h.kind == (preload, environment)]:
                self.idle.remove(helper)
                if helper.alive:
                    found = helper
                    break
                helper.stop()
        found = found or Helper(preload, environment)
        self._busy.add(found)
        return found

    def keep(self, helper: Helper) -> None:
        """Take one back, for the next question where it can be asked another."""
        with self._lock:
            self._busy.discard(helper)
            if len(self.idle) < self._kept and helper.asked < _QUESTIONS and helper.alive:
                self.idle.append(helper)
                return
        helper.stop()

    def stop(self, *, busy: bool = False) -> None:
        """End those that nobody asks, or all."""
        with self._lock:
            ending, self.idle = [*self.idle, *(self._busy if busy else ())], []
        for helper in ending:
            helper.stop()


#: Those of this process.  More than two are used where several threads ask at once.
HELPERS = Helpers(2)
atexit.register(HELPERS.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=HELPERS.forget)
