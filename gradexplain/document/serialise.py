"""Dataclasses as JSON: the one serialiser.

The keys are the dataclasses' fields, see `gradexplain.document.keys`; the schema that says which there
are is made from the same tables (`gradexplain.document.schema`).  Numbers have 12 significant digits
unless asked otherwise, non-finite ones are the strings "inf", "-inf" and "nan", -0.0 is 0.  A tensor is
nested lists in its shape.  Keys are only ever added.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from gradexplain.document.keys import Key, keys_of
from gradexplain.errors import printable

PRECISION = 12

_PLAIN = Key()


def document(value: Any, precision: int | None = None) -> dict[str, Any]:
    """A dataclass as a JSON object, with the name of its schema first."""
    schema: dict[str, Any] = {"schema": value.SCHEMA} if hasattr(value, "SCHEMA") else {}
    return schema | members(value, precision or PRECISION)


def text(value: Any, precision: int | None = None, *, ascii_only: bool = False) -> str:
    """The same as text: an object's members on lines of their own, lists of numbers on one."""
    return written(document(value, precision), "", ascii_only) + "\n"


def members(owner: Any, digits: int) -> dict[str, Any]:
    """The keys and values of one dataclass."""
    table = keys_of(type(owner))
    names = [f.name for f in fields(owner)]
    found: dict[str, Any] = {}
    for name in [*names, *(extra for extra in table if extra not in names)]:
        key = table.get(name, _PLAIN)
        value = getattr(owner, name)
        if key.hidden or (key.optional and not _there(value)):
            continue
        if key.flat:
            inner = plain(value, key.digits or digits) if value is not None else {}
            found |= {k: v for k, v in inner.items() if not key.only or k in key.only}
            continue
        if key.given and not getattr(owner, key.given):
            value = None
        found[key.name or name] = None if key.null and not _there(value) else plain(
            value, key.digits or digits
        )  # fmt: skip
    return found


def _there(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def plain(value: Any, digits: int) -> Any:
    """``value`` in JSON's own types, its floats to ``digits`` significant digits."""
    if is_dataclass(value):
        return document(value, digits)
    if isinstance(value, Mapping):
        return {
            ",".join(key) if isinstance(key, tuple) else str(key): plain(item, digits)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item, digits) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "tolist"):  # a NumPy scalar or array
        return plain(value.tolist(), digits)
    if not math.isfinite(value):
        return str(float(value))
    return float(f"{value:.{digits}g}") or 0.0


def dumped(value: Any, **options: Any) -> str:
    """A JSON value as text in which nothing steers a terminal."""
    return printable(json.dumps(value, **({"ensure_ascii": False} | options)), json.dumps)


def written(value: Any, indent: str = "", ascii_only: bool = False) -> str:
    """A JSON value as text."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [
            f"{inner}{dumped(key, ensure_ascii=ascii_only)}: {written(item, inner, ascii_only)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [inner + written(item, inner, ascii_only) for item in value]
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return dumped(value, ensure_ascii=ascii_only, allow_nan=False)
