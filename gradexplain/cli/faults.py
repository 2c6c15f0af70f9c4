"""``gradexplain explain GX104``: what a fault is that a check names, an example, the mend."""

from __future__ import annotations

import textwrap

import click

from gradexplain.cli import output


@click.command(short_help="Say what a fault is that check names: GX104.")
@click.argument("code", metavar="[GXnnn|NAME]", required=False)
def explain(code: str | None) -> int:
    """Say what a fault is, show an example, and the mend; without a code, list them all.

    gradexplain explain GX104
    """
    from gradexplain.checking.codes import KINDS, find

    if code is None:
        lines = [f"{kind.code}  {kind.name:<22} {kind.title}" for kind in KINDS]
        output.write("\n".join(lines) + "\n")
        return 0
    kind = find(code)
    lines = [f"{kind.code} {kind.name}: {kind.title}", ""]
    lines += textwrap.wrap(kind.about, 88)
    if kind.example is not None:
        expression, wrong, right = kind.example
        lines += ["", "wrong:", f'  gradexplain check "{expression}" --claim "{wrong}"']
        lines += ["right:", f'  gradexplain check "{expression}" --claim "{right}"']
    output.write("\n".join(lines) + "\n")
    return 0
