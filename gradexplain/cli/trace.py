"""``gradexplain trace``: a script in, an explanation of every backward in it out."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import click

from gradexplain.cli import output, shell
from gradexplain.cli.common import Output, budget_options, grouped, page_output_options
from gradexplain.document import serialise
from gradexplain.errors import InputError, no_file
from gradexplain.verdict.status import exit_code


@dataclass(frozen=True, slots=True)
class _Shown:
    """Which calls are explained, and what is shown of them."""

    call: int | None = None
    at_line: int | None = None
    last: bool = False
    op: str | None = None
    param: str | None = None
    full: bool = False
    values: bool = False
    watch: bool = False
    budget: float = 1.0


@click.command(
    short_help="Explain every backward of a PyTorch script.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("script", metavar="SCRIPT.py", required=False, shell_complete=shell.files)
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@grouped(
    _Shown, "shown",
    click.option("--call", type=click.IntRange(1), metavar="K", help="Explain the K-th call only."),
    click.option("--at-line", type=click.IntRange(1), metavar="N", help="Only the calls on line N."),
    click.option("--last", is_flag=True, help="Explain the last call only."),
    click.option("--op", metavar="NAME", help="Show only the operations of this name."),
    click.option("--param", metavar="NAME", help="Show the ways to this parameter."),
    click.option("--full", is_flag=True, help="Explain every line's first call, step by step."),
    click.option("--values", is_flag=True, help="Write all numbers to JSON, of large tensors too."),
    click.option("--watch", is_flag=True, help="Show the gradients while the script runs."),
    click.option("--budget", type=click.FloatRange(0.05), metavar="GIB", default=1.0, show_default=True,
                 help="Memory for what is kept of the calls, in GiB."),
)  # fmt: skip
@page_output_options()
@budget_options
def trace(script: str | None, arguments: tuple[str, ...], shown: _Shown, out: Output) -> int:
    """Run a PyTorch script and explain every backward() in it, torch.autograd.grad included.

    \b
    gradexplain trace train.py --epochs 3
    gradexplain trace --call 2 train.py
    gradexplain trace --format json --values train.py

    One screen: whether PyTorch's gradients are those of the operations' formulas, what is wrong
    with the training, the parameters' gradients, the path of the gradient, what got nothing.
    --call, --at-line, --last and --full explain calls step by step.

    Options before SCRIPT.py are gradexplain's; what follows it is the script's own. What the
    script prints goes to standard error.

    On one screen the first call of each line is compared, and of custom Functions some later
    calls: ever fewer of a long loop, and those given numbers far from all before.

    Exit codes: that of the script where it ends with one of its own, as by sys.exit(3), or with
    an error that it does not catch (1, as python has it); else 0 the routes agree for every call
    that was compared, 1 they do not for some, 2 the script could not be run or never called
    backward, 3 some operation could not be checked.
    """
    if script is None:
        raise InputError(
            "the script is missing", remedy="name it, as in gradexplain trace train.py"
        )
    return _traced(script, arguments, shown, out)


def ways(parameter: str, script: str, out: Output) -> int:
    """The ways from the loss of a script to one of its parameters."""
    return _traced(script, (), _Shown(param=parameter), out)


def _traced(script: str, arguments: tuple[str, ...], shown: _Shown, out: Output) -> int:
    call, at_line, last = shown.call, shown.at_line, shown.last
    if sum([call is not None, at_line is not None, last]) > 1:
        raise InputError(
            "--call, --at-line and --last exclude each other", remedy="give one of them"
        )
    if not os.path.isfile(script):
        raise no_file(script, "trace takes the path of a Python script, as in train.py")
    from gradexplain.installed import imported

    imported()  # says what is wrong where it cannot be
    from gradexplain.trace import script as running
    from gradexplain.trace.seen import Pick
    from gradexplain.trace.session import Trace

    progress = _Progress(live=shown.watch)
    show = progress.show if progress.on else None
    found = Trace(Pick(call, at_line, last), show, budget=int(min(1e6, shown.budget) * 2**30))
    progress.trace = found
    try:
        status = running.run(script, arguments, found)
    finally:
        progress.clear()
    name = os.path.basename(script)
    if shown.param is not None:
        _write_ways(found, name, shown.param, out)
    elif shown.op is not None or shown.full or found.pick != Pick() or out.format == "json":
        _write(found, name, out, shown.op, values=shown.values)
    elif found.all or found.fault is not None:
        _write_screen(found, name, out)
    return _code(found, status, name, call, at_line)


def _code(found: Any, status: int | None, name: str, call: int | None, at_line: int | None) -> int:
    if found.stopped:
        output.complain(f"gradexplain: {name} stopped with {found.fault.type}")
        return 1  # as Python ends
    if status:
        output.complain(f"gradexplain: {name} exited with status {status}")
        return status
    if not found.all:
        for steps in found.journal.optimizers.values():
            raise InputError(
                f"{name} never called backward: {steps.name}.step() at line {steps.site.line} has no "
                f"gradients to go by, in any of its {steps.steps} calls",
                remedy=f"call loss.backward() before {steps.name}.step()",
            )
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
    return exit_code([found.screen(name).status])


def _write(found: Any, name: str, out: Output, op: str | None, *, values: bool) -> None:
    if not found.full and found.fault is None:
        return
    if out.format == "json":
        made = serialise.document(found.document(name), out.precision)
        if not values:
            made = brief(made)
        out.write(serialise.written(made, "", out.ascii_only) + "\n")
    else:
        from gradexplain.pages import trace as pages
        from gradexplain.pages.options import Options

        options = Options(precision=out.style().precision)
        out.document(pages.document(found, name, op, options))


def _write_screen(found: Any, name: str, out: Output) -> None:
    from gradexplain.pages import screen

    shown = found.screen(name)
    if out.format == "text":
        out.write(screen.text(shown, out.style()))
    else:
        out.document(screen.document(shown, folded=True))


def _write_ways(found: Any, name: str, param: str, out: Output) -> None:
    from gradexplain.pages import screen

    if not found.all:
        return
    ways, snapshot, known = found.ways(param)
    if snapshot is None:
        raise InputError(
            f"{name} has no {param} that a gradient flows to",
            remedy=f"it has {', '.join(known[:12])}" if known else "see gradexplain trace",
        )
    line = snapshot.site.line if snapshot.site is not None else None
    out.document(screen.why(param, ways, snapshot.index, line))


#: Tensors of more elements are given to JSON by their shape, norm and ends.
_WHOLE = 24


def brief(value: Any) -> Any:
    """A JSON document with large tensors by their shape, norm, largest element and ends."""
    if isinstance(value, dict):
        return {key: brief(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    import numpy as np

    try:
        array = np.array(value, dtype=float)
    except (ValueError, TypeError):  # of something else, or of lists that are not alike
        return [brief(item) for item in value]
    flat = np.array(value, dtype=object).ravel()
    if array.size <= _WHOLE or any(x is None or isinstance(x, bool) for x in flat):
        return value
    finite = array[np.isfinite(array)]
    return {
        "shape": list(array.shape),
        "norm": float(f"{np.sqrt(np.square(finite).sum()):.6g}"),
        "largest": float(np.abs(finite).max(initial=0)),
        "ends": [*flat[:3], *flat[-3:]],
    }


class _Progress:
    """One line on the terminal that counts the calls while the script runs."""

    def __init__(self, *, live: bool = False) -> None:
        self.trace: Any = None
        self._live = live
        self._table: Any = None
        self.on = sys.stderr is not None and sys.stderr.isatty()
        self._shown = False
        self._last = 0.0

    def show(self, brief: Any) -> None:
        import time

        now = time.monotonic()
        if now - self._last < 0.1:
            return
        self._last = now
        if self._live:
            self._watch(now)
            return
        self._shown = True
        value = "" if brief.value is None else f"  at {brief.value:.4g}"
        sys.stderr.write(f"\r\x1b[Kbackward {brief.index}{value}\r")
        sys.stderr.flush()

    def _watch(self, now: float) -> None:
        """The table of the parameters as it is now, in its place on the terminal."""
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        from gradexplain.formats import terminal
        from gradexplain.formats.text import Style
        from gradexplain.pages import screen

        if self._table is None:
            self._table = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._table.start()
        shown = terminal.render(screen.live(self.trace.rows(), self.trace.all[-1]), Style())
        self._table.update(Text(shown), refresh=True)

    def clear(self) -> None:
        if self._table is not None:
            self._table.stop()
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
