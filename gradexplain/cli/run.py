"""``gradexplain run``: an expression and a vector in, the explained and checked gradients out."""

from __future__ import annotations

import click

from gradexplain.cli.calls import Calls, calls_options
from gradexplain.cli.common import Command, Output, Question, output_options, question_options
from gradexplain.routes import process
from gradexplain.verdict.status import exit_code


@click.command(cls=Command, short_help="Explain and check the gradients of an expression.")
@question_options
@click.option("--no-check", is_flag=True, help="Do not compare with PyTorch.")
@calls_options
@output_options
def run(question: Question, calls: Calls, no_check: bool, out: Output) -> int:
    """Explain the gradients of an expression: EXPR, or - to read it from standard input.

    \b
    gradexplain run "3*a + 2*b*b + log(c)" --grad 0.1,1,0.0001
    gradexplain run "x / x.sum(dim=0)" --at "x=[[2,1],[3,3]]" --grad "[[1,0],[0,2]]"

    Names that are not assigned are inputs. Statements are separated by ; or line breaks, and
    the last one is the output.

    V and VALUE are numbers (0.1,1,0.0001), nested lists ([[1,0],[0,2]]), a scalar, ones, or a
    file (@v.npy, @v.json). Without --grad, v is 1 for a scalar output. An input without --at
    gets example values 1, 2, 3, ...

    Several --grad are several calls of backward on the same graph, which add up in .grad;
    --from starts from a value in the middle, or from several.

    Exit codes: 0 the routes agree, 1 they do not, 2 the request was not understood, 3 the
    answer could not be checked.
    """
    if not no_check:
        process.start()
    request = question.request(check=not no_check, several=True)
    # Loaded after the options were understood.
    if calls.is_plain(question.grads):
        from gradexplain.engine import stages

        found = stages(request)
    else:
        from gradexplain import accumulation

        found = accumulation.stages(request, calls.plan(question.grads))
    explanation = None
    for stage, explanation in found:
        out.section(explanation, stage)
    assert explanation is not None and explanation.check is not None
    out.finish(explanation)
    return exit_code([explanation.check.status])
