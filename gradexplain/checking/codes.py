"""The faults that a check can name, read from ``faults.txt``: a number, a name, what it is, an
example and its mend.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradexplain.errors import InputError
from gradexplain.texts import blocks


@dataclass(frozen=True, slots=True)
class Kind:
    """``example`` is an expression, a claim with the fault, and the right claim."""

    number: int
    name: str
    title: str
    about: str
    example: tuple[str, str, str] | None = None

    @property
    def code(self) -> str:
        return f"GX{self.number}"


def _kinds() -> Iterator[Kind]:
    for head, about, example in blocks("checking", "faults.txt"):
        number, name, title = head.replace(":", "", 1).split(" ", 2)
        shown = tuple(example.split(" => "))
        yield Kind(int(number), name, title, about, shown if len(shown) == 3 else None)


KINDS = tuple(_kinds())

#: Every fault by its name.
BY_NAME = {kind.name: kind for kind in KINDS}


def title(code: str) -> str:
    """What a fault is, in a few words; of each, where there are several."""
    return "; and ".join(BY_NAME[name].title for name in code.split("+"))


def codes(fault: str) -> str:
    """``GX104``; ``GX101+GX105`` where there are several."""
    return "+".join(BY_NAME[name].code for name in fault.split("+"))


def find(text: str) -> Kind:
    """The fault of a code or a name.  Raises `InputError` for any other text."""
    wanted = text.strip()
    for kind in KINDS:
        if wanted.upper() == kind.code or wanted == kind.name:
            return kind
    raise InputError(
        f"there is no fault {wanted}",
        remedy=f"they are {KINDS[0].code} to {KINDS[-1].code}; gradexplain explain lists them",
    )
