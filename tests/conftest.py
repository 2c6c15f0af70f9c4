"""What the tests share: PyTorch is loaded once, so that every explanation asks it in this process."""

from __future__ import annotations

import re
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch  # noqa: F401

_SHAPED = re.compile(r"\b([A-Za-z_]\w*)\[([\d,]*)\](?!\()")


def sample(text: str) -> tuple[str, dict[str, tuple[int, ...]]]:
    """A record's sample as an expression and its inputs' shapes: ``x[2,3] @ w[3]`` is ``x @ w``.

    The first ``name[sizes]`` of a name gives its shape; ``[]`` is the scalar's.  Later subscripts of
    the same name are subscripts.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def taken(match: re.Match[str]) -> str:
        name, sizes = match[1], match[2]
        if name in shapes:
            return match[0]
        shapes[name] = tuple(int(n) for n in sizes.split(",") if n)
        return name

    return _SHAPED.sub(taken, text), shapes
