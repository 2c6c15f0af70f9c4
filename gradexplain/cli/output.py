"""Writing to standard output, standard error and files, and what happens when they refuse."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from gradexplain.errors import InputError, printable
from gradexplain.formats import ascii


def stdout() -> TextIO:
    """Standard output, which writes the same bytes everywhere; closed counts as a closed pipe."""
    if sys.stdout is None:
        raise BrokenPipeError
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", newline="\n")
    return sys.stdout


def write(text: str) -> None:
    """Write ``text`` to standard output, at once."""
    stream = stdout()
    with refusals("standard output"):
        stream.write(text)
        stream.flush()


def flush() -> None:
    """Write what is left to standard output, here rather than at exit, where it could not fail well."""
    if sys.stdout is not None:
        with refusals("standard output"):
            sys.stdout.flush()


def abandon() -> None:
    """Send what is left in standard output nowhere, so that the interpreter's own flush succeeds."""
    with suppress(OSError, ValueError, AttributeError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)


def complain(message: str) -> None:
    """One message on standard error, if there is one."""
    try:
        flush()
    except (OSError, InputError):  # there is already something to complain about
        abandon()
    with suppress(OSError, ValueError, AttributeError):
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        sys.stderr.write(ascii.fold(printable(message), encoding) + "\n")
        sys.stderr.flush()


def flush_error() -> None:
    """Write what is left to standard error, if there is one."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()


def write_file(path: str, text: str) -> None:
    """Write ``text`` to the file ``path``, whole or not at all.

    A regular file is replaced by a finished one.  Anything else that is already there (a device, a
    named pipe) is written to: replacing it would destroy it.
    """
    data = text.encode("utf-8", "backslashreplace")
    with refusals(path):
        target = Path(os.path.realpath(path))
        status = target.stat() if target.exists() else None
        if status is not None and not stat.S_ISREG(status.st_mode):
            with target.open("wb", buffering=0) as file:
                write_all(file.fileno(), data)
        elif status is not None and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        else:
            mode = None if status is None else stat.S_IMODE(status.st_mode)
            _replace(target, data, mode)


def _replace(target: Path, data: bytes, mode: int | None) -> None:
    temporary = target.parent / f".gradexplain-{os.urandom(8).hex()}"
    try:
        with temporary.open("xb", buffering=0) as file:
            write_all(file.fileno(), data)
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def refusals(
    name: str, verb: str = "write to", remedy: str = "choose another place with --output"
) -> Iterator[None]:
    """An operating system's refusal to read or write ``name``, as our error; a closed pipe as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        if name == "standard output":
            abandon()
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot {verb} {name}: {reason}", remedy=remedy) from None
