"""The commands, and the one place that turns an outcome into an exit code.

    0    the routes agree, a difference of convention included; or the check was not wanted
    1    a mismatch, fully explained
    2    not understood or not carried out: one message on standard error
    3    cannot tell: the answer could not be checked, or its time or memory was used up before
    70   an internal error
    129  hung up (SIGHUP)
    130  interrupted (SIGINT)
    141  the reader of the output went away (silently, as after SIGPIPE)
    143  terminated (SIGTERM)

click's own ``main`` exits 1 on several of these, and 1 means a mismatch here, so it is not used.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from contextlib import suppress
from typing import cast

import click
from click.shell_completion import shell_complete

from gradexplain import __version__
from gradexplain.cli import output, shell
from gradexplain.cli.batch import batch
from gradexplain.cli.check import check
from gradexplain.cli.codegen import codegen
from gradexplain.cli.faults import explain
from gradexplain.cli.help import help_command
from gradexplain.cli.hessian import hessian
from gradexplain.cli.ops import ops
from gradexplain.cli.run import run, why
from gradexplain.cli.schema import schema
from gradexplain.cli.stability import stability
from gradexplain.cli.trace import trace
from gradexplain.errors import GradexplainError, InputError, clipped
from gradexplain.installed import without_tensors
from gradexplain.supervisor import link
from gradexplain.supervisor.helper import HELPERS

_PROGRAM = "gradexplain"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=_PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Explain what PyTorch's backward computes: the Jacobian, the chain rule, and a check.

    \b
    gradexplain run "3*a + 2*b*b + log(c)" --grad 0.1,1,0.0001
    """


for _command in (
    run, batch, why, ops, check, explain, codegen, hessian, trace, shell.completion, shell.man, schema, help_command, stability,
):  # fmt: skip
    cli.add_command(_command)


def work() -> int:
    """The program's own arguments, in a process that does nothing else; it may not come back.

    A command leaves next to no garbage in cycles, and looking for it takes a tenth of its time, so it
    is looked for rarely; tearing the interpreter down is left out, unless a stranger's code has run.
    """
    gc.set_threshold(200_000, 50, 1000)
    without_tensors()
    with suppress(OSError):  # one that does not wait for its reader would lose what does not fit
        os.set_blocking(1, True)
    try:
        link.catch()
        code = main(sys.argv[1:])
        if link.state.stopping in link.state.stops:  # in a finalizer, which swallowed it
            code = 128 + link.state.stopping
        link.done()
        HELPERS.stop()
        if link.state.foreign:
            return code
        output.flush_error()
    except link.TimeUp:  # between an answer, or an error, and what is said of it
        code = _fail(link.too_long(), 3)
    except (KeyboardInterrupt, link.Stopped) as stop:  # at the very start, or end
        code = 128 + getattr(stop, "number", 2)
    link.done()
    os._exit(code)


def main(arguments: list[str]) -> int:
    """Run a command line and return its exit code.  Nothing escapes as a traceback."""
    try:
        code = _invoke(arguments)
        output.flush()
        return code
    except BrokenPipeError:
        output.abandon()
        return 141
    except (KeyboardInterrupt, link.Stopped) as stop:
        output.abandon()
        return 128 + getattr(stop, "number", 2)
    except link.TimeUp:
        return _fail(link.too_long(), 3)
    except GradexplainError as error:
        return _fail(str(error))
    except SystemExit as error:  # of a stranger's code
        return _fail(
            f"the code that was run exits with status {clipped(str(error.code))}\n"
            "remedy: leave exit() out of what is differentiated"
        )
    except MemoryError:
        return _fail(link.too_large(), 3)
    except RecursionError:
        return _fail("the expression is nested too deeply\nremedy: name parts of it: s = …; x / s")
    except OSError as error:  # from click's own printing; ours has messages that say more
        output.abandon()
        return _fail(f"the system refused: {error.strerror or error}")
    except Exception as error:
        return _fail(_internal(error, arguments), 70)


def _internal(error: Exception, arguments: list[str]) -> str:
    """What a report needs: version, command, the error and its place; no path."""
    command = next((word for word in arguments if word in cli.commands), "")
    about = " ".join(f"{type(error).__name__}: {error}".split())
    about = re.sub(r"(?:[A-Za-z]:)?[\\/][^\s'\":,)]*[\\/]", "", about)
    place, trace = "", error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.split(".")[0] == "gradexplain":
            place = f" ({module}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return (
        f"internal error in {_PROGRAM} {__version__}, {command or 'no'} command: "
        f"{clipped(about)}{place}\nremedy: please report this with the command you ran"
    )


def _invoke(arguments: list[str]) -> int:
    """Parse the arguments and run the command that they name."""
    instruction = os.environ.get(shell.ASKING)
    # A long program passes the usual 1000; of what stands there SymPy would make Python code.
    os.environ["SYMPY_CACHE_SIZE"] = "10000"
    if instruction and ("COMP_WORDS" in os.environ or instruction.endswith("_source")):
        return shell_complete(cli, {}, _PROGRAM, shell.ASKING, instruction)
    try:
        with cli.make_context(_PROGRAM, arguments) as context:
            return cast("int", cli.invoke(context))
    except click.exceptions.NoArgsIsHelpError:
        raise InputError(
            "a command is missing", remedy=f"{_PROGRAM} run EXPR, or {_PROGRAM} --help"
        ) from None
    except click.exceptions.Exit as done:  # --help and --version have been printed
        if sys.stdout is None:
            raise BrokenPipeError from None
        return done.exit_code
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        raise _usage_error(error) from None


def _usage_error(error: click.ClickException) -> InputError:
    """click's message in our layout, which also escapes what it echoes of the arguments."""
    possibilities = getattr(error, "possibilities", None)
    message = error.message if possibilities else error.format_message()
    context = getattr(error, "ctx", None)
    path = context.command_path if isinstance(context, click.Context) else _PROGRAM
    if possibilities:
        remedy = f"did you mean {possibilities[0]}?"
    else:
        remedy = f"{path} --help lists what can be given"
    return InputError(message.rstrip("."), remedy=remedy)


def _fail(message: str, code: int = 2) -> int:
    link.decided()
    if link.state.stopping in link.state.stops:  # an import that swallowed it has failed since
        output.abandon()
        return 128 + link.state.stopping
    output.complain(f"{_PROGRAM}: {message}")
    return code
