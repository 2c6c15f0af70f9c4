"""PyTorch's errors about shapes, types and use, in a sentence with what to write instead: ``mistakes.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

_TEXT = files("gradexplain.trace").joinpath("mistakes.txt").read_text("utf-8")


def _rows() -> Iterator[tuple[str, str, str]]:
    """The pattern of a message, why it comes, and the remedy."""
    for block in _TEXT.split("\n\n")[1:]:
        pattern, *said = block.splitlines()
        why, _, remedy = " ".join(line.strip() for line in said).partition(" => ")
        yield pattern, why, remedy


_ROWS = tuple(_rows())


def explained(message: str, failed: Any) -> tuple[str, str]:
    """Why an error comes and the remedy; both empty where it is not among the known."""
    for pattern, why, remedy in _ROWS:
        match = re.search(pattern, message)
        if match:
            groups = ["", *(group or "" for group in match.groups())]
            known = {"call": _call(failed), "shapes": _shapes(failed)}
            why = why.format(*groups, **known).replace(" ()", "")
            return why[0].upper() + why[1:], remedy.format(*groups, **known)
    return "", ""


def _call(failed: Any) -> str:
    return failed[0].name.strip("_") if failed is not None else "the operation"


def _shapes(failed: Any) -> str:
    if failed is None:
        return ""
    tensors = [arg for arg in failed[1] if hasattr(arg, "shape")]
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors[:2])
