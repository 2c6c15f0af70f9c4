"""The options of ``run`` for more than one plain backward call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gradexplain.cli.common import grouped

if TYPE_CHECKING:
    from gradexplain.accumulation import Plan


@dataclass(frozen=True, slots=True)
class Calls:
    """Which calls of backward are made, as it was typed."""

    starts: tuple[str, ...] = ()
    zero_grad: bool = False
    free_graph: bool = False
    retain_grad: tuple[str, ...] = ()
    order: str = "1"

    def plan(self, grads: tuple[str, ...]) -> Plan:
        """The same as values; raises `InputError` for what makes no sense."""
        from gradexplain.accumulation import Plan
        from gradexplain.reading import typed  # NumPy is loaded here, not for --help

        return Plan(
            self.starts,
            tuple(typed.parse_value(grad, "--grad") for grad in grads),
            self.zero_grad,
            not self.free_graph,
            tuple(name.strip() for names in self.retain_grad for name in names.split(",")),
            int(self.order),
        )


#: One call of backward, on the output.
PLAIN = Calls()


#: The options that say which calls of backward are made.
calls_options = grouped(
    Calls,
    "calls",
    click.option(
        "--from", "starts", metavar="NAME", multiple=True,
        help="Call backward on this value; repeatable, each with its --grad.",
    ),
    click.option("--zero-grad", is_flag=True, help="Zero .grad between several calls."),
    click.option(
        "--no-retain-graph", "free_graph", is_flag=True, help="Let each call free the graph."
    ),
    click.option(
        "--retain-grad", metavar="NAME", multiple=True, help="Keep a computed value's .grad."
    ),
    click.option(
        "--order", metavar="1|2", type=click.Choice(["1", "2"]), default="1",
        help="2: differentiate the backward pass too.",
    ),
)  # fmt: skip
