"""Samples: calls of an operation with the shapes of their inputs, as records write them."""

from __future__ import annotations

import re

from gradexplain.ops.base import Shape

_SHAPED = re.compile(r"\b([A-Za-z_]\w*)\[([\d,]*)\](?!\()")


def parse(text: str) -> tuple[str, dict[str, Shape]]:
    """A sample as an expression and its inputs' shapes: ``x[2,3] @ w[3]`` is ``x @ w``.

    The first ``name[sizes]`` of a name gives its shape, ``[]`` the scalar's; later subscripts of the
    same name are subscripts.
    """
    shapes: dict[str, Shape] = {}

    def taken(match: re.Match[str]) -> str:
        name, sizes = match[1], match[2]
        if name in shapes:
            return match[0]
        shapes[name] = tuple(int(n) for n in sizes.split(",") if n)
        return name

    return _SHAPED.sub(taken, text), shapes
