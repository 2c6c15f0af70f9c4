"""The program: its commands, and the one place that turns an outcome into an exit code.

    0    the routes agree, a difference of convention included; or the check was not wanted
    1    a mismatch, fully explained
    2    not understood or not carried out: one message on standard error, an internal error included
    3    the answer is there but could not be checked
    130  interrupted
    141  the reader of the output went away (silently, as after SIGPIPE)

click's own ``main`` exits 1 on several of these, and 1 means a mismatch here, so it is not used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

import click

from gradexplain import __version__
from gradexplain.cli import output
from gradexplain.cli.check import check
from gradexplain.cli.codegen import codegen
from gradexplain.cli.hessian import hessian
from gradexplain.cli.ops import ops
from gradexplain.cli.run import run
from gradexplain.cli.trace import trace
from gradexplain.errors import GradexplainError, InputError

_PROGRAM = "gradexplain"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name=_PROGRAM, message="%(prog)s %(version)s")
def cli() -> None:
    """Explain what PyTorch's backward computes: the Jacobian, the chain rule, and a check.

    \b
    gradexplain run "3*a + 2*b*b + log(c)" --grad 0.1,1,0.0001
    """


cli.add_command(run)
cli.add_command(ops)
cli.add_command(check)
cli.add_command(codegen)
cli.add_command(hessian)
cli.add_command(trace)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.  Nothing escapes as a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _invoke(arguments)
        output.flush()
        return code
    except BrokenPipeError:
        output.abandon()
        return 141
    except KeyboardInterrupt:
        output.abandon()
        return 130
    except GradexplainError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("not enough memory for this expression\nremedy: use smaller tensors")
    except RecursionError:
        return _fail("the expression is nested too deeply\nremedy: name parts of it: s = …; x / s")
    except OSError as error:  # from click's own printing; ours has messages that say more
        output.abandon()
        return _fail(f"the system refused: {error.strerror or error}")
    except Exception as error:
        about = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        return _fail(
            f"internal error: {about}\nremedy: please report this with the command you ran"
        )


def _invoke(arguments: list[str]) -> int:
    """Parse the arguments and run the command that they name."""
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


def _fail(message: str) -> int:
    output.complain(f"{_PROGRAM}: {message}")
    return 2
