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

    The options are those of ``gradexplain run`` that say what is asked: --grad, --at, --shape, --wrt.
    An error is printed as the command line prints it.
    """
    from gradexplain.errors import GradexplainError

    try:
        return _explained(shlex.split(line), cell)
    except GradexplainError as error:
        print(f"gradexplain: {error}")
        return None


def _explained(words: list[str], cell: str | None) -> Explanation:
    from gradexplain.accumulation import explain
    from gradexplain.errors import InputError
    from gradexplain.reading import typed
    from gradexplain.reading.arrays import ONES

    found: dict[str, list[str]] = {"--grad": [], "--at": [], "--shape": [], "--wrt": []}
    expression = [cell] if cell is not None else []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if word in found:
            found[word].append(next(rest, ""))
        elif equals and option in found:
            found[option].append(value)
        elif word.startswith("--") or cell is not None:
            raise InputError(
                f"{word} is no option of %%gradexplain", remedy=f"it has {', '.join(found)}"
            )
        else:
            expression.append(word)
    grads, wrt = found["--grad"], found["--wrt"]

    def given(value: Any) -> Any:
        return "ones" if value is ONES else value

    return explain(
        " ".join(expression),
        at={name: given(v) for name, v in typed.parse_bindings(found["--at"]).items()},
        grad=given(typed.parse_value(grads[0], "--grad")) if grads else None,
        shapes=typed.parse_shapes(found["--shape"]),
        wrt=wrt[0] if wrt else None,
    )
