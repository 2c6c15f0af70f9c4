"""``gradexplain trace``: a script in, an explanation of every backward in it out."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from gradexplain.cli import output, shell
from gradexplain.cli.common import Output, budget_options, output_options
from gradexplain.document import serialise
from gradexplain.errors import InputError
from gradexplain.verdict.status import exit_code


@click.command(
    short_help="Explain every backward of a PyTorch script.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("script", metavar="SCRIPT.py", required=False, shell_complete=shell.files)
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.option("--call", type=click.IntRange(1), metavar="K", help="Explain the K-th call only.")
@click.option("--at-line", type=click.IntRange(1), metavar="N", help="Only the calls on line N.")
@click.option("--last", is_flag=True, help="Explain the last call only.")
@output_options
@budget_options
def trace(
    script: str | None,
    arguments: tuple[str, ...],
    call: int | None,
    at_line: int | None,
    last: bool,
    out: Output,
) -> int:
    """Run a PyTorch script and explain every backward() in it, torch.autograd.grad included.

    \b
    gradexplain trace train.py --epochs 3
    gradexplain trace --call 2 --format json train.py

    Options before SCRIPT.py are gradexplain's; what follows it is the script's own. What the
    script prints goes to standard error. Where one line calls backward more than three times,
    the first of its calls is explained in full and the others in a line each.

    Exit codes: 0 the routes agree for every call, 1 they do not for some, 2 the script could
    not be run, raised an error, exited with a status or never called backward, 3 for some call
    no operation has a formula, so nothing could be checked.
    """
    if script is None:
        raise InputError(
            "the script is missing", remedy="name it, as in gradexplain trace train.py"
        )
    if sum([call is not None, at_line is not None, last]) > 1:
        raise InputError(
            "--call, --at-line and --last exclude each other", remedy="give one of them"
        )
    if not os.path.isfile(script):
        raise InputError(
            f"there is no file {script}", remedy="trace takes the path of a Python script"
        )
    from gradexplain.routes.pytorch import imported

    imported()  # says what is wrong where it cannot be
    from gradexplain.trace import script as running
    from gradexplain.trace.session import Pick, Trace

    progress = _Progress()
    found = Trace(Pick(call, at_line, last), progress.show if progress.on else None)
    try:
        status = running.run(script, arguments, found)
    finally:
        progress.clear()
    name = os.path.basename(script)
    _write(found, name, out)
    return _code(found, status, name, call, at_line)


def _code(found: Any, status: int | None, name: str, call: int | None, at_line: int | None) -> int:
    if found.stopped:
        output.complain(f"gradexplain: {name} stopped with {found.fault.type}")
        return 2
    if status:
        output.complain(f"gradexplain: {name} exited with status {status}")
        return 2
    if not found.all:
        raise InputError(
            f"{name} never called backward",
            remedy="trace explains scripts that call backward() or torch.autograd.grad",
        )
    if not found.full:
        lines = sorted({b.site.line for b in found.all if b.site is not None})
        where = ", ".join(map(str, lines[:10]))
        what = f"call {call}" if call is not None else f"call on line {at_line}"
        count = len(found.all)
        raise InputError(
            f"there is no {what} in {name}",
            remedy=f"it calls backward {count} time{'s' * (count != 1)}, on line {where}",
        )
    return exit_code(c.check.status for c in found.calls if c.check is not None)


def _write(found: Any, name: str, out: Output) -> None:
    if not found.full and found.fault is None:
        return
    if out.format == "json":
        document = serialise.text(found.document(name), out.precision, ascii_only=out.ascii_only)
    else:
        from gradexplain.render import trace as text

        document = text.render(found, name, out.style())
    out.write(document)


class _Progress:
    """One line on the terminal that counts the calls while the script runs."""

    def __init__(self) -> None:
        self.on = sys.stderr is not None and sys.stderr.isatty()
        self._shown = False
        self._last = 0.0

    def show(self, brief: Any) -> None:
        import time

        now = time.monotonic()
        if now - self._last < 0.1:
            return
        self._last = now
        self._shown = True
        value = "" if brief.value is None else f"  at {brief.value:.4g}"
        sys.stderr.write(f"\r\x1b[Kbackward {brief.index}{value}\r")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
