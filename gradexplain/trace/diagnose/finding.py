"""What is wrong, said in one sentence with its line, and what to write instead."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.recording.frames import Site
from gradexplain.texts import blocks, listed
from gradexplain.trace.snapshot import Operation, Snapshot, Value, args_in

#: By kind (and variant): the sentence and the remedy.
TEXTS = {head: said for head, *said in blocks("trace", "findings.txt")}

#: What is no fault, but explains a number.
_REMARKS = {"graph kept", "scaled gradient", "bias before a normalisation"}


@dataclass(frozen=True, slots=True)
class Finding:
    """``kind`` is its name in JSON; a ``remark`` is no fault, it explains a number."""

    kind: str
    text: str
    remedy: str = ""
    line: int | None = None
    call: int | None = None
    remark: bool = False


def told(key: str, site: Site | None, call: int | None = None, /, **values: Any) -> Finding:
    """The finding of that name in ``findings.txt``, said of a line."""
    kind = key.partition(":")[0]
    words = {"at": at(site), **{name: _word(value) for name, value in values.items()}}
    for value in values.values():
        if isinstance(value, list):
            words |= _ONE if len(value) == 1 else _MANY
    text, remedy = (part.format(**words) for part in TEXTS[key])
    return Finding(kind, text, remedy, line_of(site), call, remark=kind in _REMARKS)


#: The rows of the tables in ``findings.txt`` by the table and each name that they are for.
_ROWS = {(key.split(":")[0], name): said for key, said in TEXTS.items() for name in key.split()[1:]}


def row(head: str, name: str) -> Sequence[str]:
    """The row of a table in ``findings.txt`` for ``name``, else that for others."""
    return _ROWS.get((head, name), _ROWS[head, "other"])


def knows(head: str, name: str) -> bool:
    """Whether a table has a row of its own for ``name``."""
    return (head, name) in _ROWS


_ONE = {"are": "is", "get": "gets", "them": "it"}
_MANY = {name: name for name in _ONE}


def _word(value: Any) -> str:
    if isinstance(value, float):
        return short(value)
    if isinstance(value, list):
        return listed(value, 3)
    return at(value) if value is None or isinstance(value, Site) else str(value)


def at(site: Site | None) -> str:
    """``line 12``."""
    return "an unknown line" if site is None else f"line {site.line}"


def line_of(*sites: Site | None) -> int | None:
    """The line of the first place that is known."""
    return next((site.line for site in sites if site is not None), None)


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}"


@dataclass(slots=True)
class Scene:
    """One captured call, and the ways through it."""

    snapshot: Snapshot
    labels: dict[int, str]
    #: By value: the operations that read it.
    readers: dict[int, list[Operation]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for operation in self.snapshot.operations:
            for number in operation.inputs:
                self.readers.setdefault(number, []).append(operation)

    @property
    def operations(self) -> list[Operation]:
        return self.snapshot.operations

    def value(self, number: int) -> Value:
        return self.snapshot.values[number]

    def name(self, number: int) -> str:
        return self.labels[number]

    def maker(self, number: int) -> Operation | None:
        """The operation that made a value; None for a leaf or a constant."""
        call = self.value(number).call
        return self.operations[call] if call >= 0 else None

    def output(self, operation: Operation) -> Value | None:
        """The value that an operation with one result made."""
        values = [self.value(n) for n in operation.outputs if not self.value(n).hidden]
        return values[0] if values else None

    def given(self, operation: Operation) -> list[Value]:
        """The tensors among an operation's arguments, in order."""
        return [self.value(arg.id) for arg in args_in((operation.args, operation.kwargs))]

    def behind(self, number: int) -> Iterator[Operation]:
        """Every operation that a value was made by, the nearest first."""
        stack, seen = [number], set()
        while stack:
            maker = self.maker(stack.pop(0))
            if maker is None or maker.id in seen:
                continue
            seen.add(maker.id)
            yield maker
            stack.extend(maker.inputs)


def norm(array: Array | None) -> float:
    """The Euclidean norm of what is finite in an array; 0 for none."""
    if array is None or array.size == 0:
        return 0.0
    flat = array[np.isfinite(array)]
    return float(np.sqrt(np.sum(flat * flat))) if flat.size else 0.0


def plain(name: str) -> str:
    """An operation's name without what says how it was called."""
    return name.strip("_") if name.startswith("__") else name.rstrip("_")


def assigned(filename: str, name: str) -> Iterator[tuple[str, Site, ast.expr]]:
    """The statements of a file that assign ``name``: the function each is in, its place, its value."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return
    inside = [("", tree)] + [
        (node.name, node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    ]
    owner = {id(node): within for within, scope in inside for node in ast.walk(scope)}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        parts = (part for target in targets for part in ast.walk(target))
        if any(isinstance(p, ast.Name | ast.Attribute) and ast.unparse(p) == name for p in parts):
            assert isinstance(node, ast.Assign)
            yield owner[id(node)], Site(filename, node.lineno), node.value
