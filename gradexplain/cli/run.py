"""``gradexplain run``: an expression and a vector in, the explained and checked gradients out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from gradexplain.cli.calls import PLAIN, Calls, calls_options
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
    from gradexplain.explanation import Explanation

#: What each stage adds to the answer.
_PARTS = {
    "question": "the question",
    "forward": "the forward values",
    "jacobian": "the Jacobian",
    "steps": "the chain rule",
    "gradients": "the gradients",
    "further": "the gradients",
    "check": "the verdict",
}


@click.command(cls=Command, short_help="Explain and check the gradients of an expression.")
@question_options
@click.option("--no-check", is_flag=True, help="Do not compare with PyTorch.")
@click.option("--element", metavar="x[0,0]", default="", help="Explain this element in full.")
@calls_options
@page_options
@page_output_options(*GRAPHS)
@budget_options
def run(question: Question, calls: Calls, no_check: bool, shown: Shown, out: Output) -> int:
    """Explain the gradients of an expression: EXPR, or - to read it from standard input.

    \b
    gradexplain run "3*a + 2*b*b + log(c)" --grad 0.1,1,0.0001
    gradexplain run "x / x.sum(dim=0)" --at "x=[[2,1],[3,3]]" --grad "[[1,0],[0,2]]"

    Names that are not assigned are inputs. Statements are separated by ; or line breaks, and
    the last one is the output.

    V and VALUE are numbers (0.1,1,0.0001), nested lists ([[1,0],[0,2]]), a scalar, ones, or a
    file (@v.npy, @v.json). Without --grad, v is 1 for a scalar output. An input without --at
    gets example values 1, 2, 3, ...

    With letters for sizes, as in --shape x=N,M, the formulas alone are shown, without numbers or a check.

    Several --grad are several calls of backward on the same graph, which add up in .grad;
    --from starts from a value in the middle, or from several.

    Exit codes: 0 the routes agree, 1 they do not, 2 the request was not understood, 3 the
    answer could not be checked.
    """
    if question.shape:
        from gradexplain.reading import typed  # NumPy is loaded here, not for --help

        letters = typed.parse_letters(question.shape)
        if letters is not None:
            return _in_letters(question, letters, out)
    return _explained(question, calls, no_check, shown, out)


def _in_letters(question: Question, letters: dict[str, tuple[int | str, ...]], out: Output) -> int:
    """The formulas alone."""
    given = {"--at": question.at, "--grad": question.grads, "--element": question.element}
    for option, value in given.items():
        if value:
            raise InputError(
                f"{option} needs numbers for sizes, and --shape gives a letter for one",
                remedy=f"leave {option} out, or give every size as a number",
            )
    from gradexplain.formulas import formulas

    names = question.wrt and tuple(name.strip() for name in question.wrt.split(","))
    found = formulas(question.expression(), letters, names or None)
    out.answer(found)
    return 0


@click.command(cls=Command, short_help="Explain one element of a gradient alone.")
@question_options
@click.argument("element", default="")
@click.option("--no-check", is_flag=True, help="Do not compare with PyTorch.")
@page_options
@page_output_options(*GRAPHS)
@budget_options
def why(question: Question, no_check: bool, shown: Shown, out: Output) -> int:
    """Explain one element of one gradient: EXPR ELEMENT, the latter as x[0,0].

    \b
    gradexplain why "x / x.sum(dim=0)" "x[0,0]" --at "x=[[2,1],[3,3]]" --grad "[[1,0],[0,2]]"

    The sum over the output that backward is, the rows of J in it, and every path from the
    element to the output with what flows along it.

    \b
    gradexplain why model.0.weight train.py

    runs a script, as trace does, and shows the ways from its loss to one parameter.
    """
    element = question.element
    if element.endswith(".py"):
        from gradexplain.cli import trace

        return trace.ways(question.expr or "", element, out)
    if question.file is not None and not element:
        question, element = replace(question, expr=None), question.expr or ""
    if not element:
        raise InputError(
            "the element is missing", remedy='name it after the expression, as in "x[0,0]"'
        )
    asked = replace(question, element=element)
    return _explained(asked, PLAIN, no_check, shown, out, alone=True)


def _explained(
    question: Question,
    calls: Calls,
    no_check: bool,
    shown: Shown,
    out: Output,
    *,
    alone: bool = False,
) -> int:
    if not no_check:
        process.start()
    request = question.request(check=not no_check, several=True)
    # Loaded after the options were understood.
    from gradexplain.accumulation import stages
    from gradexplain.explanation import Check
    from gradexplain.pages import run as pages

    def show(found: Explanation, said: str) -> None:
        found.check = Check("cannot tell", found.dtype, None, [], said, whole=False)
        _write(found, shown, out, alone)

    with link.answering(show):
        link.missing(_missing(None))
        for stage, explanation in stages(request, calls.plan(question.grads)):
            if stage == "question":
                out.begin(pages.opening(explanation))
            link.missing(_missing(stage), partial(lambda found: found, explanation))
    assert explanation.check is not None
    _write(explanation, shown, out, alone)
    return exit_code([explanation.check.status])


def _missing(done: str | None) -> str:
    """The parts of the answer that come after the stage ``done``, in words."""
    names = list(_PARTS)
    rest = list(_PARTS.values())[0 if done is None else names.index(done) + 1 :]
    return ", ".join(dict.fromkeys(rest))


def _write(explanation: Explanation, shown: Shown, out: Output, alone: bool) -> None:
    options = shown.options(out.precision)
    if not alone or out.format == "json":
        return out.answer(explanation, options)
    from gradexplain.pages import run as pages

    out.document(pages.why(explanation, options), explanation)
