"""``gradexplain ops``: the operations that the language knows, from their records."""

from __future__ import annotations

import click

from gradexplain.cli.common import Output, budget_options, output_options


@click.command(short_help="List the operations, with formulas and derivatives.")
@click.argument("name", required=False)
@output_options
@budget_options
def ops(name: str | None, out: Output) -> int:
    """List the operations of the language by family: spellings, formula, derivative, kinks.

    With NAME, by any of its spellings, only that one: gradexplain ops softmax.
    """
    from gradexplain.catalogue import entries
    from gradexplain.render import catalogue
    from gradexplain.render.json import written

    found = entries(name)
    if out.format == "json":
        out.write(written(catalogue.to_dict(found), "", out.ascii_only) + "\n")
    else:
        out.write(catalogue.render(found, out.style()))
    return 0
