"""The JSON Schema of a dataclass: its types, its tables of keys, its docstring.

A number that PyTorch computed has ``x-computed-by``: its last digits depend on the machine, so such
numbers are compared within a tolerance and everything else exactly.
"""

from __future__ import annotations

import inspect
import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from gradexplain.document.keys import Key, keys_of

_NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["inf", "-inf", "nan"]}]}
_TENSOR = {
    "description": "a tensor: a number, or nested lists in its shape; a large one in a trace by its "
    "shape, norm, largest element and ends",
    "anyOf": [
        {"type": "object", "required": ["shape", "norm", "largest", "ends"]},
        {"$ref": "#/$defs/number"},
        {"type": "array", "items": {"$ref": "#/$defs/tensor"}},
    ],
}


class _Definitions(dict[str, Any]):
    """What the schema calls each dataclass, with its schema."""

    def __init__(self) -> None:
        super().__init__(number=_NUMBER, tensor=_TENSOR)
        self._names: dict[type, str] = {}

    def name(self, kind: type) -> str:
        """The name of a dataclass; one whose own name is taken has its module's before it."""
        if kind not in self._names:
            module = kind.__module__.rpartition(".")[2].capitalize()
            name = kind.__name__ if kind.__name__ not in self else module + kind.__name__
            self._names[kind] = name
            self[name] = {}  # it may speak of itself
            self[name] = _object(kind, self)
        return self._names[kind]


def schema_of(kind: type) -> dict[str, Any]:
    """The schema of the document that `serialise.document` makes of a ``kind``."""
    defs = _Definitions()
    found = _object(kind, defs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": getattr(kind, "SCHEMA", kind.__name__),
        **found,
        "$defs": dict(sorted(defs.items())),
    }


def _object(kind: type, defs: _Definitions) -> dict[str, Any]:
    properties, required = _members(kind, defs)
    if name := getattr(kind, "SCHEMA", ""):
        properties = {"schema": {"const": name}, **properties}
        required = ["schema", *required]
    return {
        "type": "object",
        "description": " ".join((inspect.getdoc(kind) or "").split()),
        "properties": properties,
        "required": required,
        "additionalProperties": _is_open(kind),
    }


def _is_open(kind: type) -> bool:
    """Whether an object has members that no field names: a flat table of a note's data."""
    hints, table = get_type_hints(kind), keys_of(kind)
    return any(key.flat and get_origin(hints.get(name)) is dict for name, key in table.items())


def _members(kind: type, defs: _Definitions) -> tuple[dict[str, Any], list[str]]:
    hints, table = get_type_hints(kind), keys_of(kind)
    properties: dict[str, Any] = {}
    required: list[str] = []
    names = [f.name for f in fields(kind)]
    for name in [*names, *(extra for extra in table if extra not in names)]:
        key = table.get(name, Key())
        if key.hidden:
            continue
        hint = key.of or (hints[name] if name in hints else _returned(kind, name))
        if key.flat:
            if get_origin(hint) is dict:
                continue
            inner = next(part for part in (hint, *get_args(hint)) if is_dataclass(part))
            more, needed = _members(typing.cast("type", inner), defs)
            properties |= {k: v for k, v in more.items() if not key.only or k in key.only}
            required += [k for k in needed if not key.only or k in key.only]
            continue
        shown = _type(hint, defs)
        if (key.null or key.given) and {"type": "null"} not in shown.get("anyOf", ()):
            shown = {"anyOf": [shown, {"type": "null"}]}
        if key.computed:
            shown = {**shown, "x-computed-by": key.computed}
        if key.about:
            shown = {**shown, "description": key.about}
        properties[key.name or name] = shown
        if not key.optional:
            required.append(key.name or name)
    return properties, required


def _returned(kind: type, name: str) -> Any:
    getter = getattr(kind, name).fget
    return get_type_hints(getter)["return"]


def _type(hint: Any, defs: _Definitions) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(part, defs) for part in arguments]}
    if origin is np.ndarray or hint is np.ndarray:
        return {"$ref": "#/$defs/tensor"}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (list, tuple, set, frozenset) or hint is tuple:
        return {"type": "array", "items": _type(arguments[0], defs) if arguments else {}}
    if origin is dict or hint is dict:
        return {
            "type": "object",
            "additionalProperties": _type(arguments[1], defs) if arguments else {},
        }
    if is_dataclass(hint):
        return {"$ref": f"#/$defs/{defs.name(typing.cast('type', hint))}"}
    plain = {str: "string", bool: "boolean", int: "integer", type(None): "null"}
    if hint is float:
        return {"$ref": "#/$defs/number"}
    return {"type": plain[hint]} if hint in plain else {}
