"""``gradexplain ops``: the operations that the language knows, from their records."""

from __future__ import annotations

import click

from gradexplain.cli import output
from gradexplain.cli.common import Output, output_options
from gradexplain.render import ascii


@click.command(short_help="List the operations, with formulas and derivatives.")
@click.argument("name", required=False)
@output_options
def ops(name: str | None, out: Output) -> int:
    """List the operations of the language by family: spellings, formula, derivative, kinks.

    With NAME, by any of its spellings, only that one: gradexplain ops softmax.
    """
    from gradexplain.catalogue import entries
    from gradexplain.render import catalogue
    from gradexplain.render.json import written
    from gradexplain.render.page import Style

    found = entries(name)
    if out.format == "json":
        ascii_only = out.to_stdout and not ascii.is_unicode(output.stdout().encoding)
        out.write(written(catalogue.to_dict(found), "", ascii_only) + "\n")
    else:
        style = Style.of(output.stdout(), width=out.width) if out.to_stdout else Style()
        out.write(catalogue.render(found, style))
    return 0
