"""One command line tried in a process of its own, and what must hold of it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import tempfile
import time
import unicodedata
from contextlib import redirect_stdout
from dataclasses import dataclass

from gradexplain.cli import main
from gradexplain.cli.program import work
from gradexplain.supervisor import front, link

#: Seconds after which a trial is given up; the command itself would be ended by its supervisor.
PATIENCE = 20.0

MEMORY = 2 << 30


@dataclass(frozen=True, slots=True)
class Outcome:
    """``code`` is None where the time was over; ``wrong`` says what did not hold, "" for nothing."""

    code: int | None
    wrong: str


def loaded() -> None:
    """Load what commands load, here rather than in each fork."""
    import torch

    torch.set_num_threads(1)  # a fork has one thread
    with redirect_stdout(io.StringIO()):
        for command in (["run", "x.sum()"], ["hessian", "x*x"], ["codegen", "x*x"], ["ops", "exp"]):
            main(command)
        main(["check", "x*x", "--claim", "x: 2*x*v"])


#: Commands that run a stranger's file, whose words on standard error, and whose interrupt, are its own.
_FOREIGN = {"trace", "check"}


def tried(arguments: list[str], patience: float = PATIENCE, *, held: bool = False) -> Outcome:
    """The command with ``arguments``, in a fork of this process, where all is loaded.

    ``held``: under the supervisor, which has to end it.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _work(arguments, out.fileno(), err.fileno(), held)
        code = _ended(pid, 10 * patience if held else patience)
        out.seek(0)
        err.seek(0)
        shown = out.read().decode("utf-8", "replace"), err.read().decode("utf-8", "replace")
    if code is None:
        return Outcome(code, "its supervisor did not end it" if held else "")
    try:
        return Outcome(code, _wrong(arguments, code, *shown))
    except (ValueError, SyntaxError) as error:  # what should be JSON, or Python
        return Outcome(code, f"{type(error).__name__}: {error}"[:300])


def _work(arguments: list[str], out: int, err: int, held: bool) -> None:
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin, sys.stdout, sys.stderr = (
            open(k, mode, encoding="utf-8", errors="surrogateescape", closefd=False)
            for k, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        if held:
            sys.argv = ["gradexplain", *arguments]
            front.supervised(work)
        link.hold_memory(MEMORY)
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # nothing may escape: it is what is looked for
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _ended(pid: int, patience: float) -> int | None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _wrong(arguments: list[str], code: int, out: str, err: str) -> str:
    if "internal error" in err + out:
        return (err + out[out.find("internal error") :]).strip()[-300:]
    if arguments[0] in _FOREIGN and any(".py" in word for word in arguments):
        if code == 130:  # it raised KeyboardInterrupt
            return ""
        said = [k for k, line in enumerate(err.splitlines()) if line.startswith("gradexplain: ")]
        err = "".join(err.splitlines(keepends=True)[said[-1] :]) if said else ""
        # Its own exit status, and python's for an error that it does not catch.
        its_own = code == 1 and re.search(r" stopped with [\w.]+(: .*)?\n$", err)
        if its_own or err.endswith(f" exited with status {code}\n"):
            return ""
    if code not in (0, 1, 2, 3):
        return f"exit code {code}: {err.strip()[-300:]}"
    if "Traceback" in err:
        return err.strip()[-300:]
    if code == 2 and not (err.startswith("gradexplain: ") and err.endswith("\n")):
        return f"exit code 2 with the message {err[:300]!r}"
    if code in (0, 1) and err:
        return f"exit code {code}, and on standard error {err[:300]!r}"
    if max(map(len, err.splitlines()), default=0) > 1000:
        return "a message of more than 1000 characters a line"
    if out and arguments[0] == "batch":
        for line in out.splitlines():
            json.loads(line, parse_constant=_no_json)
    forms = {"--format json", "--format sarif", "--format=json", "--format=sarif"}
    words = {*arguments, *map(" ".join, zip(arguments, arguments[1:], strict=False))}
    if out and code != 2 and forms & words:
        json.loads(out, parse_constant=_no_json)
    if out and code == 0 and arguments[0] == "codegen" and "--help" not in arguments:
        compile(out, "made", "exec")
    steering = {ch for ch in out + err if unicodedata.category(ch) in ("Cc", "Cf") and ch != "\n"}
    return f"characters that steer a terminal: {sorted(map(ascii, steering))}" if steering else ""


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
