"""A value that is given as PyTorch makes it: ``torch.ones(2, 3)``, ``torch.eye(3)[0]``."""

from __future__ import annotations

from gradexplain.explanation import Array
from gradexplain.reading.expressions import value
from gradexplain.reading.inputs import Inputs
from gradexplain.reading.objects import Tensor
from gradexplain.reading.said import refused
from gradexplain.reading.session import Session
from gradexplain.reading.statements import connect
from gradexplain.reading.syntax import parse


def literal(text: str, what: str) -> Array:
    """The array that ``text`` makes of literals; ``what`` names it in messages."""
    program = parse(text)
    session = Session(program, Inputs(), "float64", script=True, default="float64")
    connect(session)
    if len(program.statements) == 1 and not program.statements[0].targets:
        found = value(session, program.statements[0].value)
        known = session.known(found) if isinstance(found, Tensor) else None
        if known is not None and not (isinstance(found, Tensor) and found.example):
            return known
    raise refused("no literals", what=what, text=text[:40])
