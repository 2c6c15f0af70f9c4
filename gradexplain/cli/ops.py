"""``gradexplain ops``: the operations that the language knows, from their records."""

from __future__ import annotations

import click

from gradexplain.cli import shell
from gradexplain.cli.common import Output, budget_options, page_output_options


@click.command(short_help="List the operations, with formulas and derivatives.")
@click.argument("name", required=False, shell_complete=shell.operations)
@page_output_options()
@budget_options
def ops(name: str | None, out: Output) -> int:
    """List the operations of the language by family: spellings, formula, derivative, kinks.

    With NAME, by any of its spellings, only that one: gradexplain ops softmax.
    """
    from gradexplain.catalogue import Catalogue, entries

    out.answer(Catalogue(entries(name)))
    return 0
