"""A function of PyTorch that the library writes out, applied to the nodes of a graph being built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradexplain.errors import Span, UnsupportedError
from gradexplain.graph import Ref
from gradexplain.reading import library
from gradexplain.reading.applying import Applier
from gradexplain.reading.inputs import Inputs
from gradexplain.reading.names import DEFAULTS
from gradexplain.reading.objects import Tensor
from gradexplain.reading.program import Program
from gradexplain.reading.session import Session
from gradexplain.reading.statements import connect
from gradexplain.tensors import mapped

_NOWHERE = Span(0, 0)


def path_of(spelling: str) -> str | None:
    """Where the library has what a record would spell so, as in ``F.interpolate``; None if nowhere."""
    home, _, name = spelling.rpartition(".")
    path = f"{DEFAULTS.get(home, home)}.{name}"
    return path if library.name_of(path) is not None else None


def applied(
    path: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    applier: Applier,
    dtype_of: Callable[[Ref], str | None],
) -> Any:
    """What the function gives, tensors as `Ref`.  ``dtype_of`` is an argument's, None for a number's.

    Raises `UnsupportedError` where the function says no, and where what it draws is PyTorch's own.
    """
    s = Session(Program("", (), place=_NOWHERE), Inputs(), None)
    s.builder, s.applier = applier.builder, applier
    connect(s)

    def tensor(ref: Ref) -> Tensor:
        known = applier.builder.known.get(ref.id)
        shape = applier.builder.nodes[ref.id].shape
        own = ref if known is None else None  # what is known is written where it is used
        return Tensor(shape, _NOWHERE, own, dtype_of(ref), value=known)

    given, named = mapped((tuple(args), dict(kwargs)), Ref, tensor)
    made = s.call(library.member(s, path), given, named, _NOWHERE, _NOWHERE)
    if any(remark.kind == "example values" for remark in s.remarks):
        raise UnsupportedError("what it draws at random is not known")
    return mapped(made, Tensor, s.ref)
