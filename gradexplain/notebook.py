"""Jupyter: an explanation shows itself, and ``%%gradexplain`` explains a cell.

%load_ext gradexplain

%%gradexplain --grad 1,2,3
3*a + b*b
"""

from __future__ import annotations

import shlex
from html import escape
from typing import TYPE_CHECKING, Any

from gradexplain.formats import html as writer
from gradexplain.pages.run import page

if TYPE_CHECKING:
    from gradexplain.explanation import Explanation


def html(x: Explanation) -> str:
    """What a notebook shows of an explanation: the page, in a frame that keeps its style to itself."""
    whole = writer.render(page(x), x)
    return f'<iframe srcdoc="{escape(whole)}" width="100%" height="640" style="border:0"></iframe>'


def load(shell: Any) -> None:
    """Register ``%%gradexplain``."""
    shell.register_magic_function(_magic, "line_cell", "gradexplain")


def _magic(line: str, cell: str | None = None) -> Any:
    """``%%gradexplain [options]`` explains the cell, ``%gradexplain EXPR [options]`` the line.

    The options are those of ``gradexplain run`` that say what is asked: --grad, --at, --shape, …
    An error is printed as the command line prints it.
    """
    from click import ClickException

    from gradexplain.errors import GradexplainError

    try:
        return _explained(shlex.split(line), cell)
    except GradexplainError as error:
        print(f"gradexplain: {error}")
    except ClickException as error:
        print(f"gradexplain: {error.format_message()}")


def _explained(words: list[str], cell: str | None) -> Explanation:
    from gradexplain.accumulation import stages
    from gradexplain.cli.calls import Calls
    from gradexplain.cli.common import Question
    from gradexplain.cli.run import run

    context = run.make_context("gradexplain", words, allow_extra_args=True)
    asked, calls = (
        {key: context.params[key] for key in record.__slots__} for record in (Question, Calls)
    )
    text = [*filter(None, [asked["expr"], *context.args, cell])]
    question = Question(**{**asked, "expr": " ".join(text)})
    *_, (_, found) = stages(question.request(several=True), Calls(**calls).plan(question.grads))
    return found
