"""What is said of one ``backward`` of a script: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gradexplain import numbers
from gradexplain.document.keys import HIDDEN, Key, Keys
from gradexplain.explanation import (
    Array,
    Explanation,
    ForwardRow,
    Shape,
    Step,
)
from gradexplain.recording.frames import Site
from gradexplain.trace.links import is_literal
from gradexplain.trace.snapshot import Accumulated, Fault, LeftOut, Snapshot, Value

#: A name that stands for more values than this is numbered, ``y@1``, ``y@2``, instead of primed.
_PRIMES = 3


@dataclass(slots=True)
class TracedRow(ForwardRow):
    """One operation as it was executed; ``opaque`` says why it has no formula here."""

    line: int | None = None
    source: str = ""
    opaque: str = ""
    #: False where the value was overwritten before it could be read.
    known: bool = True


@dataclass(slots=True)
class TracedStep(Step):
    """One contribution; ``kind`` is ``formula``, ``opaque`` (PyTorch's own) or ``hook``."""

    line: int | None = None
    kind: str = "formula"


@dataclass(slots=True)
class Root:
    """A tensor that ``backward`` was called on, with its v."""

    name: str
    shape: Shape
    v: Array


@dataclass(slots=True)
class TracedCall(Explanation):
    """One ``backward`` of a script.  The numbers are PyTorch's, as it gave them."""

    index: int = 0
    function: str = "backward"
    file: str = ""
    line: int | None = None
    source: str = ""
    roots: list[Root] = field(default_factory=list)
    retain_graph: bool = False
    create_graph: bool = False
    accumulated: list[Accumulated] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    #: What PyTorch raised.
    fault: Fault | None = None
    #: Whether every operation has a formula, so that the chain rule is independent of PyTorch.
    complete: bool = True
    #: How many operations of the backward pass were held against their formula, how many have none.
    checked: int = 0
    unchecked: int = 0
    #: How many contributions the steps with a formula make, and how many of them were compared with
    #: what PyTorch sent: the rest count in the gradients alone.
    contributions: int = 0
    compared: int = 0

    PAGE: ClassVar[str] = "gradexplain.pages.trace"
    JSON: ClassVar[Keys] = {
        "index": Key("call"),
        "forward": Key(of=list[TracedRow]),
        "steps": Key(of=list[TracedStep]),
        "left_out": Key("got_nothing"),
        "fault": Key("error"),
    }


@dataclass(slots=True)
class Brief:
    """One call of ``backward`` in a line: ``value`` is the scalar it was called on."""

    index: int
    function: str
    site: Site | None
    value: float | None
    error: str = ""
    #: What failed in the recorder, or in explaining the call.
    failure: str = ""
    #: Whether every gradient that was added is a number.
    finite: bool = True

    JSON: ClassVar[Keys] = {
        "index": Key("call"),
        "site": HIDDEN,
        "line": Key(),
        "text": Key("source"),
        "value": Key(computed="PyTorch"),
        "error": Key(null=True),
    }

    @property
    def line(self) -> int | None:
        return self.site.line if self.site is not None else None

    @property
    def text(self) -> str:
        return self.site.source if self.site is not None else self.function


def known_or_nan(value: Value) -> Array:
    return value.array if value.array is not None else np.full(value.shape, np.nan)


def labels_of(snapshot: Snapshot) -> dict[int, str]:
    """A name for each value, each once: the script's, versions told apart, or t1, t2, …"""
    versions: dict[str, list[int]] = {}
    for value in snapshot.values:
        if value.names:
            versions.setdefault(value.names[0], []).append(value.id)
    labels: dict[int, str] = {}
    for name, ids in versions.items():
        for place, number in enumerate(ids):
            if len(ids) <= _PRIMES:
                labels[number] = name + "′" * place
            else:
                labels[number] = f"{name}@{place + 1}"
    taken = set(labels.values())
    for prefix, kind in (("t", "result"), ("c", "constant"), ("p", "leaf")):
        count = 0
        for value in snapshot.values:
            if value.id in labels or value.kind != kind:
                continue
            if value.hidden:
                inside = snapshot.operations[value.call].outputs[0]
                labels[value.id] = f"part of {labels.get(inside, 'a call')}"
                continue
            if is_literal(value):
                assert value.array is not None
                labels[value.id] = numbers.number(float(value.array))
                continue
            count += 1
            while f"{prefix}{count}" in taken:
                count += 1
            labels[value.id] = f"{prefix}{count}"
    for operation in snapshot.operations:
        view = operation.view
        if view is not None and view.part is not None:
            labels[view.part] = f"part of {labels[view.base.id]}"
    return labels
