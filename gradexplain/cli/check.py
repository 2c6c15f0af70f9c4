"""``gradexplain check``: a hand-written backward in, what is wrong with it out."""

from __future__ import annotations

import ast
import re
from typing import Any

import click

from gradexplain.cli import shell
from gradexplain.cli.common import Command, Output, budget_options, output_options
from gradexplain.document import serialise
from gradexplain.errors import InputError

#: FILE.py:NAME, which no expression can be.
_CODE = re.compile(r"(?P<path>.+\.py):(?P<name>[^\W\d]\w*)$", re.DOTALL)


@click.command(cls=Command, short_help="Say what is wrong with a hand-written backward.")
@click.argument("what", metavar="EXPR|FILE.py:NAME", required=False, shell_complete=shell.files)
@click.option(
    "--claim", "claims", metavar='"NAME: FORMULA"', multiple=True,
    help="What the backward returns for an input, in terms of v; repeatable.",
)  # fmt: skip
@click.option("--grad-name", metavar="NAME", help="The name of v in claims [v, grad_output].")
@click.option("--at", metavar="NAME=VALUE", multiple=True, help="An input's value; repeatable.")
@click.option("--shape", metavar="NAME=D0,D1", multiple=True, help="An input's shape; repeatable.")
@click.option("--grad", metavar="V", help="Compare for this v only, instead of all of J.")
@click.option(
    "--dtype", type=click.Choice(["float64", "float32"]), default="float64", help="[float64]"
)
@click.option("--seed", type=click.IntRange(0), default=0, help="torch.manual_seed for a file. [0]")
@click.option(
    "--arg", "arguments", metavar="NAME=VALUE", multiple=True,
    help="Another argument of a Function's forward: dim=0.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="List the right entries of J too.")
@output_options
@budget_options
def check(
    what: str | None,
    claims: tuple[str, ...],
    grad_name: str | None,
    at: tuple[str, ...],
    shape: tuple[str, ...],
    grad: str | None,
    dtype: str,
    seed: int,
    arguments: tuple[str, ...],
    everything: bool,
    out: Output,
) -> int:
    """Compare a hand-written backward with the true Jacobian, and name the difference.

    \b
    gradexplain check "x / x.sum(dim=0)" --claim "x: v*(1/x.sum(dim=0) - x/x.sum(dim=0)**2)"
    gradexplain check my_ops.py:Normalise --shape x=3,4

    A claim is a formula in which v is the upstream gradient. A FILE.py:NAME is a
    torch.autograd.Function, whose own backward is checked, or a function of tensors with a
    claim; the file is run, as by python FILE.py.

    Without --at several points of several shapes are tried. All of J is compared, unless --grad
    gives one v.

    Exit codes: 0 the backward is right, 1 it is wrong, 2 the request was not understood.
    """
    if what is None:
        raise InputError(
            "what to check is missing",
            remedy="give an expression with --claim, or FILE.py:NAME",
        )
    from gradexplain.routes.pytorch import imported

    imported()  # says what is wrong where it cannot be
    from gradexplain.checking.checker import check as run
    from gradexplain.reading import typed

    subject: Any = what
    code = _CODE.match(what.strip())
    if code is not None:
        from gradexplain.checking.code import load

        subject = load(code["path"], code["name"], seed)
    elif not claims:
        raise InputError(
            "there is no claim to check",
            remedy='say what the backward returns, as in --claim "x: v/x.sum(dim=0)"; '
            "or give FILE.py:NAME",
        )
    report = run(
        subject,
        list(claims) or None,
        at=typed.parse_bindings(at),
        shapes=typed.parse_shapes(shape),
        grad=None if grad is None else typed.parse_value(grad, "--grad"),
        grad_name=grad_name,
        dtype=dtype,
        seed=seed,
        arguments=dict(map(_argument, arguments)),
    )
    _write(report, out, everything)
    return 0 if report.right else 1


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"--arg {text} is not NAME=VALUE", remedy="write it as in --arg dim=0")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise InputError(
            f"--arg {text}: the value is not a number, a string, True, False, None or a tuple",
            remedy="write it as in --arg dim=0",
        ) from None


def _write(report: Any, out: Output, everything: bool) -> None:
    if out.format == "json":
        shown = report if everything else report.without_right()
        document = serialise.text(shown, out.precision, ascii_only=out.ascii_only)
    else:
        from gradexplain.render import check_text

        document = check_text.render(report, out.style(), everything=everything)
    out.write(document)
