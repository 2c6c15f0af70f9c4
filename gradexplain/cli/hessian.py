"""``gradexplain hessian``: every second derivative of an expression, checked three ways."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from gradexplain.cli.common import (
    GRAPHS,
    Command,
    Output,
    Question,
    budget_options,
    page_output_options,
    question_options,
)
from gradexplain.cli.pages import Shown, page_options
from gradexplain.errors import InputError
from gradexplain.routes import process
from gradexplain.supervisor import link
from gradexplain.verdict.status import exit_code

if TYPE_CHECKING:
    from gradexplain.second.model import Hessian

_NAMED = re.compile(r"\s*[^\W\d]\w*\s*=")


@click.command(cls=Command, short_help="Every second derivative of an expression.")
@question_options
@click.option(
    "--vector", "vectors", metavar="[NAME=]U", multiple=True,
    help="The u of H·u; with NAME= for one of several inputs.",
)  # fmt: skip
@click.option("--no-check", is_flag=True, help="Do not compare with PyTorch.")
@page_options
@page_output_options(*GRAPHS)
@budget_options
def hessian(
    question: Question, vectors: tuple[str, ...], no_check: bool, shown: Shown, out: Output
) -> int:
    """Second and mixed partial derivatives in closed form: EXPR, or - for standard input.

    \b
    gradexplain hessian "x1**2 + x2**2 + x1*x2" --at x1=3 --at x2=1
    gradexplain hessian "(x**3).sum()" --at x=1,2,3 --vector 1,0,0

    The gradient's formula is differentiated again. Shown are every second derivative, the
    matrix, its eigenvalues and signs where it is small, and the product H·u for any u. An
    output that is not a scalar is weighted by --grad.

    Exit codes: 0 the routes agree, 1 they do not, 2 the request was not understood, 3 the
    answer could not be checked.
    """
    if not no_check:
        process.start()
    request = question.request(check=not no_check)
    u = _vector(vectors)
    options = shown.options(out.precision)
    # Loaded after the options were understood.
    from gradexplain.explanation import Check
    from gradexplain.hessians import hessian_of

    def show(found: Hessian, said: str) -> None:
        found.check = Check("cannot tell", found.first.dtype, None, [], said, whole=False)
        out.answer(found, options)

    with link.answering(show):
        found = hessian_of(request, u)
    out.answer(found, options)
    assert found.check is not None
    return exit_code([found.check.status])


def _vector(texts: tuple[str, ...]) -> dict[Any, Any]:
    from gradexplain.reading import typed  # NumPy is loaded here, not for --help

    named = [text for text in texts if _NAMED.match(text)]
    if len(texts) == 1 and not named:
        return {None: typed.parse_value(texts[0], "--vector")}
    if len(named) < len(texts):
        raise InputError(
            "--vector is given twice",
            remedy="give one vector for all inputs, or one NAME=… for each",
        )
    return typed.parse_bindings(texts, "--vector")
