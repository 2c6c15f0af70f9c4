"""``gradexplain schema``: the JSON Schema of what a command prints with ``--format json``."""

from __future__ import annotations

from importlib import import_module

import click

from gradexplain.cli import output

#: Where the dataclass of each command's document is.
DOCUMENTS = {
    "run": ("gradexplain.explanation", "Explanation"),
    "check": ("gradexplain.checking.report", "CheckReport"),
    "hessian": ("gradexplain.second.model", "Hessian"),
    "stability": ("gradexplain.stability.search", "Stability"),
    "trace": ("gradexplain.trace.session", "Document"),
    "ops": ("gradexplain.catalogue", "Catalogue"),
}


@click.command(short_help="Print the JSON Schema of a command's --format json.")
@click.argument("command", type=click.Choice(list(DOCUMENTS)), default="run")
def schema(command: str) -> int:
    """Print the JSON Schema of what COMMAND prints with --format json (run, where it is left out)."""
    from gradexplain.document import serialise
    from gradexplain.document.schema import schema_of

    module, name = DOCUMENTS[command]
    made = schema_of(getattr(import_module(module), name))
    output.write(serialise.written(made) + "\n")
    return 0
