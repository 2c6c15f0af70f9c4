"""``gradexplain codegen``: an expression in, a ``torch.autograd.Function`` out."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradexplain.cli import output, shell
from gradexplain.cli.common import Command, budget_options, output_option
from gradexplain.errors import InputError
from gradexplain.supervisor import link

if TYPE_CHECKING:
    from gradexplain.codegen.making import Code


@click.command(cls=Command, short_help="Write the torch.autograd.Function of an expression.")
@click.argument("expr", required=False, shell_complete=shell.operations)
@click.option(
    "--name", default="Function", metavar="NAME", help="The name of the class. [Function]"
)
@click.option("--shape", metavar="NAME=D0,D1", multiple=True, help="An input's shape; repeatable.")
@click.option(
    "--style", type=click.Choice(["function", "custom_op"]), default="function",
    help="A torch.autograd.Function, or a torch.library.custom_op. [function]",
)  # fmt: skip
@click.option(
    "--jvp", is_flag=True, help="A forward-mode derivative too; torch.compile takes none."
)
@click.option("--test", "tests", is_flag=True, help="Write a pytest file beside FILE too.")
@click.option("--no-verify", is_flag=True, help="Do not hold the class against the closed form.")
@output_option
@budget_options
def codegen(
    expr: str | None,
    name: str,
    shape: tuple[str, ...],
    style: str,
    jvp: bool,
    tests: bool,
    no_verify: bool,
    path: str | None,
) -> int:
    """Write a torch.autograd.Function with an analytical backward, from the closed form.

    \b
    gradexplain codegen "x / x.sum(dim=0)" --name Normalise -o normalise.py
    gradexplain codegen "x / x.sum(dim=0)" --style custom_op -o normalise.py --test

    The ranks of the inputs, and which of their sizes are equal, are found or given with --shape;
    the class works at any sizes, and says so where it does not. It is held against the closed
    form, as by gradexplain check, before it is written.

    Exit codes: 0 it was written, 2 the request was not understood or cannot be carried out,
    3 it is shown without having been held against the closed form: the time was over.
    """
    if expr is None:
        raise InputError(
            "the expression is missing", remedy='as in gradexplain codegen "x / x.sum(dim=0)"'
        )
    from gradexplain.installed import imported

    imported()  # says what is wrong where it cannot be
    from gradexplain.checking.generated import generate
    from gradexplain.codegen.styles import sizes_of, styled, test_file
    from gradexplain.reading import typed

    module = Path(path or "-").stem
    if tests and not (path and path.endswith(".py") and module.isidentifier()):
        raise InputError(
            "--test writes a file beside the one of the code, which has to be a module",
            remedy="name it with -o, as in -o normalise.py",
        )

    def write(made: Code, said: str = "") -> None:
        code = styled(made, style)
        if path is None:
            output.write(code.source)
            return
        output.write_file(path, code.source)
        if tests and not said:
            beside = str(Path(path).with_name(f"test_{module}.py"))
            output.write_file(beside, test_file(code, module, sizes_of(code)))

    with warnings.catch_warnings(), link.answering(write):
        warnings.simplefilter("ignore")  # PyTorch's of what the expression says: .T of a number
        made = generate(expr, name, typed.parse_shapes(shape), verify=not no_verify, jvp=jvp)
    write(made)
    return 0
