"""The options that say what of a page is shown, and how formulas are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gradexplain.cli.common import grouped

if TYPE_CHECKING:
    from gradexplain.pages.options import Options


@dataclass(frozen=True, slots=True)
class Shown:
    """What of the page is wanted, as it was typed."""

    full: bool
    brief: bool
    notation: str
    layout: str

    def options(self, precision: int | None) -> Options:
        from gradexplain import numbers
        from gradexplain.pages.options import Options

        return Options(
            self.full, self.brief, self.notation, self.layout, precision or numbers.PRECISION
        )


#: The options that say what of a page is shown.
page_options = grouped(
    Shown,
    "shown",
    click.option("--full", is_flag=True, help="Show everything."),
    click.option("--brief", is_flag=True, help="Show the answer alone."),
    click.option(
        "--notation", type=click.Choice(["auto", "index", "matrix"]), default="auto",
        help="How formulas are written [auto: the shortest that is right].",
    ),
    click.option(
        "--layout", type=click.Choice(["numerator", "denominator"]), default="numerator",
        help="Print J as dy by dx [numerator], or transposed.",
    ),
)  # fmt: skip
