"""``gradexplain check``: a hand-written backward in, what is wrong with it out."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

import click

from gradexplain.cli import shell
from gradexplain.cli.common import (
    Command,
    Output,
    budget_options,
    page_output_options,
    value_options,
)
from gradexplain.errors import InputError
from gradexplain.supervisor import link

if TYPE_CHECKING:
    from gradexplain.checking.report import CheckReport

#: FILE.py:NAME, which no expression can be.
_CODE = re.compile(r"(?P<path>.+\.py):(?P<name>(?:[^\W\d]\w*)?)$", re.DOTALL)


@click.command(cls=Command, short_help="Say what is wrong with a hand-written backward.")
@click.argument("what", metavar="EXPR|FILE.py:NAME", required=False, shell_complete=shell.files)
@click.option(
    "--claim", "claims", metavar='"NAME: FORMULA"', multiple=True,
    help="What the backward returns for an input, in terms of v; repeatable.",
)  # fmt: skip
@click.option("--grad-name", metavar="NAME", help="The name of v in claims [v, grad_output].")
@value_options[0]
@value_options[1]
@click.option("--grad", metavar="V", help="Compare for this v only, instead of all of J.")
@click.option(
    "--dtype", metavar="DTYPE,…", default="float64",
    help="float64, float32; of several, each is listed, as in float16,bfloat16,float32. [float64]",
)  # fmt: skip
@click.option(
    "--order", type=click.IntRange(1, 2), default=1, help="2: the derivatives of the gradients too."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="torch.manual_seed for a file. [0]")
@click.option(
    "--arg", "arguments", metavar="NAME=VALUE", multiple=True,
    help="Another argument of a Function's forward: dim=0.",
)  # fmt: skip
@click.option("--no", "absent", metavar="NAME", multiple=True, help="An argument that is None.")
@click.option(
    "--no-grad", "frozen", metavar="NAME", multiple=True, help="An input that needs no gradient."
)
@click.option(
    "--against", metavar="EXPR|FILE.py:NAME", help="The reference; without it, the forward itself."
)
@click.option(
    "--intended", metavar="straight-through", help="A surrogate gradient, not the true one."
)
@click.option(
    "--as", "declared", metavar='"NAME: FORMULA"', multiple=True,
    help="The surrogate gradient of an input, in terms of v.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="List the right entries of J too.")
@page_output_options("github", "sarif")
@budget_options
def check(
    what: str | None,
    claims: tuple[str, ...],
    at: tuple[str, ...],
    shape: tuple[str, ...],
    grad: str | None,
    seed: int,
    arguments: tuple[str, ...],
    against: str | None,
    intended: str | None,
    declared: tuple[str, ...],
    everything: bool,
    out: Output,
    **given: Any,
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

    Exit codes: 0 the backward is right, 1 it is wrong, 2 the request was not understood, 3 in a
    dtype asked for nothing can be told.
    """
    if what is None:
        raise InputError(
            "what to check is missing",
            remedy="give an expression with --claim, or FILE.py:NAME",
        )
    from gradexplain.installed import imported

    imported()  # says what is wrong where it cannot be
    from gradexplain.checking.checker import check as run
    from gradexplain.reading import typed

    subject = _loaded(what, seed)
    if subject is what and not claims:
        raise InputError(
            "there is no claim to check",
            remedy='say what the backward returns, as in --claim "x: v/x.sum(dim=0)"; '
            "or give FILE.py:NAME",
        )
    values = typed.parse_bindings(at)
    asked: dict[str, Any] = {
        "at": values if subject is what else _whole(at, values),
        "shapes": typed.parse_shapes(shape),
        "grad": None if grad is None else typed.parse_value(grad, "--grad"),
        "arguments": dict(map(_argument, arguments)),
        "intended": _intended(intended, declared),
        "against": against and _loaded(against, seed),
    }

    def show(report: CheckReport, said: str) -> None:
        report.notes.insert(0, said)
        _write(report, out, everything)

    with link.answering(show):
        report = run(subject, list(claims) or None, seed=seed, **asked, **given)
    right = None
    if out.format == "html" and subject is what and report.points:
        from gradexplain.accumulation import explain

        right = explain(what, at=report.points[0].values, grad="ones", check=False)
    _write(report, out, everything, right)
    return report.exit_code


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


def _whole(texts: tuple[str, ...], values: dict[str, Any]) -> dict[str, Any]:
    """The values, of integers or truth values where they are written as such: ``t=[0,2]`` is an
    index, ``m=[true,false]`` a mask.
    """
    found = dict(values)
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        for kind, element in (("int64", r"[-+0-9]"), ("bool", "true|True|false|False")):
            written = re.fullmatch(rf"({element}|[,;\s\[\]()])+", value)
            if written and not isinstance(values[name], str):
                found[name] = values[name].astype(kind)
    return found


def _intended(name: str | None, declared: tuple[str, ...]) -> Any:
    if name is not None and declared:
        raise InputError(
            "--intended and --as are given together", remedy="leave one of the two out"
        )
    if name not in (None, "straight-through"):
        raise InputError(
            f"--intended {name} is not known",
            remedy='use --intended straight-through, or declare it: --as "x: v*(abs(x) <= 1)"',
        )
    return name or list(declared) or None


def _loaded(text: str, seed: int) -> Any:
    """What FILE.py:NAME names; an expression as it is."""
    code = _CODE.match(text.strip())
    if code is None:
        return text
    from gradexplain.checking.operation import load

    return load(code["path"], code["name"], seed)


def _write(report: Any, out: Output, everything: bool, right: Any = None) -> None:
    if out.format in ("github", "sarif"):
        from gradexplain.checking import annotations

        out.write((annotations.github if out.format == "github" else annotations.sarif)(report))
        return
    from gradexplain.pages.options import Options

    shown = report.without_right() if out.format == "json" and not everything else report
    out.answer(shown, Options(full=everything, precision=out.style().precision), right)
