"""PyTorch's errors about shapes, types and use, in a sentence with what to write instead: ``mistakes.txt``."""

from __future__ import annotations

import re
from typing import Any

from gradexplain.texts import blocks

_ROWS = tuple(blocks("gradexplain.trace", "mistakes.txt"))


def explained(message: str, failed: Any) -> tuple[str, str]:
    """Why an error comes and the remedy; both empty where it is not among the known."""
    for pattern, why, remedy in _ROWS:
        match = re.search(pattern, message)
        if match:
            groups = ["", *(group or "" for group in match.groups())]
            known = {"call": _call(failed), "shapes": _shapes(failed)}
            why = why.format(*groups, **known).replace(" ()", "")
            return why, remedy.format(*groups, **known)
    return "", ""


def _call(failed: Any) -> str:
    return failed[0].name.strip("_") if failed is not None else "the operation"


def _shapes(failed: Any) -> str:
    if failed is None:
        return ""
    tensors = [arg for arg in failed[1] if hasattr(arg, "shape")]
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors[:2])
