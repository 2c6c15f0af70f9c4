"""How a dataclass's fields are called in JSON.

A field goes to JSON under its own name and as it is.  What differs stands in the class's table::

    JSON: ClassVar[Keys] = {"text": Key("formula"), "formula": HIDDEN, "agrees": Key()}

A class has the entries of its bases too; an entry may name a property.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Key:
    """How one field is written.

    ``name`` is its key where that is not the field's name.  A ``hidden`` field is left out, an
    ``optional`` one where it is empty; an empty ``null`` one is null.  The members of a ``flat`` one
    stand among its owner's (only those of ``only``, where that is given).  ``digits`` is how many
    significant ones a number has.  A field ``given`` by another is null where that is false.
    ``computed`` says whose floating-point arithmetic it is, where the last digits depend on the
    machine.  ``of`` is a field's type where a subclass narrows it; ``about`` is for the schema.
    """

    name: str = ""
    hidden: bool = False
    optional: bool = False
    null: bool = False
    flat: bool = False
    only: tuple[str, ...] = ()
    digits: int | None = None
    given: str = ""
    computed: str = ""
    of: Any = None
    about: str = ""


Keys = Mapping[str, Key]

HIDDEN = Key(hidden=True)
TOLERANCE = Key(digits=2)


def keys_of(kind: type) -> dict[str, Key]:
    """The table of a class, with those of its bases."""
    found: dict[str, Key] = {}
    for base in reversed(kind.__mro__):
        found |= base.__dict__.get("JSON", {})
    return found
