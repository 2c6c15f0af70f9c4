"""``gradexplain codegen``: an expression in, a ``torch.autograd.Function`` out."""

from __future__ import annotations

import click

from gradexplain.cli import output, shell
from gradexplain.cli.common import Command, budget_options
from gradexplain.errors import InputError


@click.command(cls=Command, short_help="Write the torch.autograd.Function of an expression.")
@click.argument("expr", required=False, shell_complete=shell.operations)
@click.option(
    "--name", default="Function", metavar="NAME", help="The name of the class. [Function]"
)
@click.option("--shape", metavar="NAME=D0,D1", multiple=True, help="An input's shape; repeatable.")
@click.option("--no-verify", is_flag=True, help="Do not hold the class against the closed form.")
@click.option("-o", "--output", "path", metavar="FILE", help="Write to a file.")
@budget_options
def codegen(
    expr: str | None, name: str, shape: tuple[str, ...], no_verify: bool, path: str | None
) -> int:
    """Write a torch.autograd.Function with an analytical backward, from the closed form.

    \b
    gradexplain codegen "x / x.sum(dim=0)" --name Normalise -o normalise.py

    The ranks of the inputs, and which of their sizes are equal, are found or given with --shape;
    the class works at any sizes, and says so where it does not. It is held against the closed
    form, as by gradexplain check, before it is written.

    Exit codes: 0 it was written, 2 the request was not understood or cannot be carried out.
    """
    if expr is None:
        raise InputError(
            "the expression is missing", remedy='as in gradexplain codegen "x / x.sum(dim=0)"'
        )
    from gradexplain.routes.pytorch import imported

    imported()  # says what is wrong where it cannot be
    from gradexplain.codegen.function import generate
    from gradexplain.reading import typed

    code = generate(expr, name, typed.parse_shapes(shape), verify=not no_verify)
    if path in (None, "-"):
        output.write(code.source)
    else:
        assert path is not None
        output.write_file(path, code.source)
    return 0
