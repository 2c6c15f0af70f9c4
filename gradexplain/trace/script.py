"""Running a script as ``python SCRIPT.py ARGS`` would, under the recorder."""

from __future__ import annotations

import os
import sys
import tokenize
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from gradexplain.errors import InputError
from gradexplain.recording.frames import CALLER
from gradexplain.supervisor import link
from gradexplain.trace.block import recording
from gradexplain.trace.session import Trace


def run(path: str, arguments: Sequence[str], trace: Trace) -> int | None:
    """Run the script into ``trace``; its exit status, None where it ran to its end or raised.

    What it prints to standard output goes to standard error: standard output is the explanation's.
    An exception of the script is in ``trace.fault``.
    """
    code = _compiled(path)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=os.path.abspath(path), __builtins__=__builtins__, __cached__=None)
    saved = sys.argv, sys.path[:], sys.modules.get("__main__")
    sys.argv = [path, *arguments]
    sys.path[0:1] = [os.path.dirname(os.path.abspath(path))]
    sys.modules["__main__"] = main
    try:
        with _diverted(), recording(trace), link.foreign_code():
            exec(code, main.__dict__)
    except SystemExit as done:
        if done.code is None or isinstance(done.code, int):
            return (done.code or 0) & 0xFF  # what is left of it for the system
        print(done.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        raise
    except Exception as error:  # the script's own, shown as Python does
        _print_traceback(error, path)
    finally:
        sys.argv, sys.path[:] = saved[0], saved[1]
        if saved[2] is not None:
            sys.modules["__main__"] = saved[2]
    return None


def _compiled(path: str) -> Any:
    try:
        with tokenize.open(path) as file:
            text = file.read(2_000_000)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot read {path}: {reason}", remedy="trace takes the path of a Python script"
        ) from None
    except (SyntaxError, UnicodeDecodeError):
        raise InputError(
            f"{path} is not Python text", remedy="trace takes the path of a Python script"
        ) from None
    try:
        return compile(text, os.path.abspath(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        line = f", line {error.lineno}" * (error.lineno is not None)  # a null byte has none
        raise InputError(
            f"{os.path.basename(path)}{line}: {error.msg}",
            remedy="correct it: python cannot read it either",
        ) from None
    except (ValueError, MemoryError, RecursionError):
        raise InputError(
            f"{path} cannot be compiled", remedy="trace takes the path of a Python script"
        ) from None


@contextmanager
def _diverted() -> Iterator[None]:
    """Standard output goes to standard error, also what other processes write.

    The script may close both: they are not our own.
    """
    stdout, stderr = sys.stdout, sys.stderr
    copy = None
    sys.stdout = stderr
    with suppress(OSError, ValueError, AttributeError):
        stdout.flush()
        if stdout.fileno() == 1:
            copy = os.dup(1)
            os.dup2(stderr.fileno(), 1)
        sys.stdout = sys.stderr = open(
            stderr.fileno(), "w", 1, stderr.encoding, stderr.errors, closefd=False
        )
    try:
        yield
    finally:
        with suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
        sys.stdout, sys.stderr = stdout, stderr
        if copy is not None:
            os.dup2(copy, 1)
            os.close(copy)


def _print_traceback(error: BaseException, path: str) -> None:
    """The traceback as Python prints it, without our own frames and without folders."""
    import traceback

    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    rest = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not os.path.abspath(frame.filename).startswith(here) and frame.name != CALLER
    ]
    lines = ["Traceback (most recent call last):\n"]
    for frame in rest:
        file = os.path.basename(frame.filename)
        lines.append(f'  File "{file}", line {frame.lineno}, in {frame.name}\n')
        if frame.line:
            lines.append(f"    {frame.line}\n")
    lines += traceback.format_exception_only(type(error), error)
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
