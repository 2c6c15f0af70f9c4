"""The options that commands share, each group one decorator and one record.

A command names the groups that it takes and gets a record for each; it never repeats an option:

    @click.command(cls=Command)
    @question_options
    @page_output_options()
    def run(question: Question, out: Output) -> int: ...
"""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from gradexplain.cli import output, shell
from gradexplain.document import serialise
from gradexplain.errors import InputError
from gradexplain.formats import ascii
from gradexplain.limits import DEFAULT_MEMORY, DEFAULT_TIMEOUT, MAX_SOURCE, show_size
from gradexplain.supervisor import link

if TYPE_CHECKING:
    from gradexplain.document.model import Document
    from gradexplain.document.shows import Shows
    from gradexplain.formats.text import Style
    from gradexplain.problem import Request

F = TypeVar("F", bound=Callable[..., Any])

#: An expression file with more bytes has more characters than the language allows.
MAX_FILE = 4 * MAX_SOURCE


_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Command(click.Command):
    """A command whose argument may begin with a minus: ``-x*2`` is an expression, not options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # a line that a shell completes
            return super().parse_args(ctx, args)
        options = {
            name: option.is_flag or option.count  # whether it takes no value
            for option in self.get_params(ctx)
            if isinstance(option, click.Option)
            for name in (*option.opts, *option.secondary_opts)
        }
        kept: list[str] = []
        expressions: list[str] = []
        rest = deque(args)
        while rest:
            arg = rest.popleft()
            if arg == "--":
                expressions += rest
                break
            if options.get(arg, True) is False:
                if not rest:
                    raise click.BadOptionUsage(arg, f"Option '{arg}' requires an argument", ctx)
                value = rest.popleft()
                if arg == "--grad" and _NUMBER.fullmatch(value):
                    while rest and _NUMBER.fullmatch(rest[0]):
                        value = f"{value},{rest.popleft()}"  # --grad 0.1 1.0 0.0001
                kept += [arg, value]
            elif arg in options or arg.startswith("--"):
                kept.append(arg)
            else:
                expressions.append(arg)
        return super().parse_args(ctx, [*kept, "--", *expressions])


def grouped(record: type[Any], name: str, *options: Callable[..., Any]) -> Callable[[F], F]:
    """The values of ``options`` as one ``record``, which the command gets as ``name``."""
    known = {field.name for field in fields(record)}

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def wrapper(**given: Any) -> Any:
            own = {key: given.pop(key) for key in known & given.keys()}
            return command(**given, **{name: record(**own)})

        for option in reversed(options):
            wrapper = option(wrapper)
        return wrapper  # type: ignore[return-value]

    return decorate


#: The options that give inputs their values.
value_options = (
    click.option("--at", metavar="NAME=VALUE", multiple=True, help="An input's value; repeatable."),
    click.option("--shape", metavar="NAME=D0,D1", multiple=True, help="An input's shape; repeatable."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, as it was typed."""

    expr: str | None
    file: str | None
    #: Every --grad.
    grads: tuple[str, ...]
    at: tuple[str, ...]
    shape: tuple[str, ...]
    wrt: str | None
    dtype: str | None
    #: The element of a gradient that is asked about.
    element: str = ""

    def request(self, *, check: bool = True, several: bool = False) -> Request:
        """The same as values; raises `InputError` for what makes no sense.

        ``several``: more than one --grad is understood.
        """
        expression = self.expression()
        if len(self.grads) > 1 and not several:
            raise InputError(
                f"--grad is given {len(self.grads)} times",
                remedy="give it once; gradexplain run takes several, one for each call of backward",
            )
        from gradexplain.problem import Request
        from gradexplain.reading import typed  # NumPy is loaded here, not for --help

        at = typed.parse_bindings(self.at)
        shapes = typed.parse_shapes(self.shape)
        link.expect(
            sum(getattr(value, "size", 1) for value in at.values())
            + sum(math.prod(shape) for shape in shapes.values())
        )
        return Request(
            expression=expression,
            at=at,
            grad=typed.parse_value(self.grads[0], "--grad") if self.grads else None,
            shapes=shapes,
            wrt=None if self.wrt is None else tuple(n.strip() for n in self.wrt.split(",")),
            dtype=self.dtype,
            check=check,
            element=self.element,
        )

    def expression(self) -> str:
        """The text of the expression, from wherever it is."""
        if self.expr is not None and self.file is not None:
            raise InputError(
                "the expression is given twice, as EXPR and as --file",
                remedy="leave one of them out",
            )
        if self.file is not None:
            takes = "--file takes a file that holds an expression"
            with output.refusals(self.file, "read", takes), open(self.file, "rb") as file:
                return _read(file, self.file)
        if self.expr is None:
            raise InputError(
                "the expression is missing",
                remedy='give it as an argument, as in gradexplain run "3*a", or with --file PATH',
            )
        if self.expr == "-":
            if sys.stdin is None:
                raise InputError("standard input is closed", remedy="give the expression as EXPR")
            return _read(sys.stdin.buffer, "standard input")
        return self.expr


#: EXPR and the options that say at which point and for which v it is explained.
question_options = grouped(
    Question,
    "question",
    click.argument("expr", required=False, shell_complete=shell.operations),
    click.option(
        "--file", metavar="PATH", shell_complete=shell.files,
        help="Read the expression from a file.",
    ),
    click.option(
        "--grad", "grads", metavar="V", multiple=True, help="The argument of backward; see below."
    ),
    *value_options,
    click.option("--wrt", metavar="NAMES", help="Differentiate only these inputs: a,b."),
    click.option(
        "--dtype", type=click.Choice(["float64", "float32"]), help="[EXPR's own, or float64]"
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Output:
    """How and where the answer is written."""

    format: str
    precision: int | None
    width: int | None
    path: str | None
    standalone: bool = False
    open: bool = False
    #: The beginning of the page, where it was written before the rest was known.
    _begun: list[str] = field(default_factory=list)

    @property
    def ascii_only(self) -> bool:
        """Whether a JSON document has to do without letters beyond ASCII."""
        return self.path is None and not ascii.is_unicode(output.stdout().encoding)

    def style(self) -> Style:
        """How a page is set: for the terminal or pipe at standard output, or for a file."""
        from gradexplain import numbers
        from gradexplain.formats import text as page

        if self.path is None:
            return page.Style.of(output.stdout(), width=self.width, precision=self.precision)
        precision = self.precision or numbers.PRECISION
        return page.Style(self.width or page.WIDTH, precision=precision)

    def begin(self, page: Document) -> None:
        """Write the beginning of a page whose rest takes longer, if it is read as it comes."""
        if self.format == "text" and self.path is None and not self.open:
            made = self._made(page, None)
            self.write(made)
            self._begun.append(made)

    def document(self, page: Document, found: Any = None) -> None:
        """Write a page in the format that was asked for; ``found`` holds the numbers behind it."""
        made = self._made(page, found)
        if self.open:
            self._show(made)
        else:
            self.write(made)

    def _made(self, page: Document, found: Any) -> str:
        from gradexplain import numbers
        from gradexplain.document.model import Graph, Steps

        precision = self.precision or numbers.PRECISION
        if self.format in ("dot", "svg"):
            from gradexplain.formats import svg

            drawn = (block.graph if isinstance(block, Steps) else block for block in page.blocks)
            graph = next((block for block in drawn if isinstance(block, Graph)), None)
            if graph is None:
                raise InputError(
                    "there is no graph to draw", remedy="leave --brief out, or explain an operation"
                )
            return svg.dot(graph) if self.format == "dot" else svg.svg(graph, alone=True) + "\n"
        if self.format == "html" or self.open:
            from gradexplain.explanation import Explanation
            from gradexplain.formats import html

            return html.render(page, found if isinstance(found, Explanation) else None, precision)
        if self.format != "text":
            more = {"standalone": self.standalone} if self.format == "latex" else {}
            made: str = import_module(f"gradexplain.formats.{self.format}").render(
                page, precision, **more
            )
            return made
        from gradexplain.formats import terminal

        return terminal.render(page, self.style())

    def _show(self, made: str) -> None:
        """Put an HTML page where it stays, and show it in the browser."""
        import tempfile
        import webbrowser

        path = self.path
        if path is None:
            handle, path = tempfile.mkstemp(".html", "gradexplain-")
            os.close(handle)
        output.write_file(path, made)
        if not webbrowser.open(f"file://{os.path.abspath(path)}"):
            raise InputError(
                "no browser could be started",
                remedy="write the page with --format html -o page.html",
            )

    def answer(self, found: Shows, *options: Any) -> None:
        """Write an answer as JSON, or as its page."""
        if self.format == "json":
            self.write(serialise.text(found, self.precision, ascii_only=self.ascii_only))
        else:
            self.document(import_module(found.PAGE).page(found, *options), found)

    def write(self, document: str) -> None:
        """Write a finished document to where it is wanted."""
        if self.path is None:
            output.write(document.removeprefix("".join(self._begun)))
        else:
            output.write_file(self.path, document)


#: Where an answer goes: None is standard output.
output_option = click.option(
    "-o", "--output", "path", metavar="FILE", shell_complete=shell.files,
    callback=lambda context, option, value: None if value == "-" else value,
    help="Write to a file; - is standard output.",
)  # fmt: skip

#: The formats of every page; those of a graph are there beside them.
PAGES = "text", "json", "markdown", "latex", "html"
GRAPHS = "dot", "svg"


def page_output_options(*more: str) -> Callable[[F], F]:
    """For a command whose answer is a page: its formats, ``more`` beside `PAGES`, and where it goes."""
    return grouped(
        Output,
        "out",
        click.option("--open", is_flag=True, help="Show the page in the browser."),
        click.option("--standalone", is_flag=True, help="LaTeX with a preamble."),
        click.option(
            "--format", type=click.Choice([*PAGES, *more]), default="text", help="[text]"
        ),
        click.option(
            "--precision", metavar="N", type=click.IntRange(1, 17),
            help="Significant digits, 1 to 17 [6; JSON 12].",
        ),
        click.option(
            "--width", metavar="N", type=click.IntRange(20, 1000),
            help="Columns, 20 to 1000 [the terminal's, or 100].",
        ),
        output_option,
    )  # fmt: skip


class Seconds(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """A time in seconds, or ``none``."""

    name = "seconds"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | None:
        if value == "none":
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 1e9:
            self.fail(f"{value} is no number of seconds above 0, nor none", param, ctx)
        return seconds


class Bytes(click.ParamType):  # type: ignore[type-arg]
    """A size in bytes, as ``512MiB`` or ``2GB``, or ``none``."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | None:
        if value == "none":
            return None
        found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?) ?(?:([kmgt])(i?)b?|b?)", value, re.I)
        if found is None or float(found[1]) == 0:
            self.fail(f"{value} is no size, as 512MiB or 2GiB, nor none", param, ctx)
        unit = (1024 if found[3] else 1000) if found[2] else 1
        power = " kmgt".index((found[2] or " ").lower())
        return round(float(found[1]) * float(unit) ** power)


def budget_options(command: F) -> F:
    """The options that say how much time and memory the command may take."""

    command = click.option(
        "--memory", metavar="SIZE", type=Bytes(), default=show_size(DEFAULT_MEMORY),
        callback=lambda context, option, value: link.memory(value), expose_value=False,
        help="The most memory above the interpreter's: 512MiB, none. [2GiB]",
    )(command)  # fmt: skip
    return click.option(
        "--timeout", metavar="SECONDS", type=Seconds(), default=f"{DEFAULT_TIMEOUT:g}",
        callback=lambda context, option, value: link.timeout(value), expose_value=False,
        help="The most time; what is there by then is shown. none: no limit. [60]",
    )(command)  # fmt: skip


def _read(file: BinaryIO, name: str) -> str:
    """The text in ``file``, never more of it than `MAX_FILE`."""
    data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise InputError(
            f"{name} is too large for an expression: more than {MAX_FILE} bytes",
            remedy="give a shorter expression",
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}",
            remedy="save the expression as UTF-8",
        ) from None
