"""What is kept of one ``backward``: plain data, free of PyTorch, so that its graph can be freed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gradexplain.document.keys import HIDDEN, Key, Keys
from gradexplain.explanation import Array, Shape
from gradexplain.graph import Graph
from gradexplain.recording.frames import Site
from gradexplain.tensors import instances


@dataclass(frozen=True, slots=True)
class Arg:
    """A tensor among a call's arguments: the value's number."""

    id: int


@dataclass(slots=True)
class Value:
    """One version of one tensor.

    ``kind`` is ``leaf`` (requires grad, not computed), ``constant`` (does not require grad),
    ``result``, or ``part`` (a view that is changed in place).
    ``names`` are what the script calls it, best first.  ``array`` is None where the
    value is no longer known, too large to keep, or complex.
    """

    id: int
    kind: str
    shape: Shape
    dtype: str
    names: tuple[str, ...] = ()
    array: Array | None = None
    label: str = ""
    #: For results: the number of the call and the place among its outputs.
    call: int = -1
    path: tuple[int, ...] = ()
    #: The gradient that flowed into it, the sum of all contributions, before and after its hooks.
    upstream: Array | None = None
    arrived: Array | None = None
    #: Made within a call and used from outside, by a backward pass that was differentiated.
    hidden: bool = False
    #: An output that another output of its call is made from: more flows into it than is sent.
    inside: bool = False
    #: For constants: why no gradient passes, and from which leaves it was made.
    cuts: tuple[CutOff, ...] = ()


@dataclass(frozen=True, slots=True)
class CutOff:
    """Where a gradient's way ends: ``why`` is detached, no_grad or "no derivative"."""

    why: str
    function: str
    site: Site | None
    leaves: tuple[int, ...]  # ids of tensors


@dataclass(slots=True)
class Operation:
    """One call as it was executed.  ``opaque`` says why only PyTorch knows its derivative."""

    id: int
    name: str
    spellings: tuple[str, ...]
    swap: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    site: Site | None
    outputs: list[int] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    #: What it sent to each of its inputs.
    sent: dict[int, Array] = field(default_factory=dict)
    opaque: str = ""
    inplace: bool = False
    #: What a custom Function's forward computes, by output: graphs with leaves ``a0``, ``a1``, …
    #: for ``operands``.
    graphs: dict[tuple[int, ...], Graph] = field(default_factory=dict)
    operands: tuple[Arg, ...] = ()
    #: For a part of a backward pass: the terms of each gradient that it made.
    gradients: tuple[tuple[Term, ...], ...] = ()
    #: For a view that autograd made, or one that is changed in place: its place in its base.
    view: View | None = None
    #: The usual values of its parameters.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Values that it reads within or behind the calls in its terms, as PyTorch saves them.  The
    #: formulas have those calls written out, so what is sent there is on its way to their inputs.
    within: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """A view's elements, by their places in the flattened ``base``.

    ``part`` is the view's own value before the call changes it, None where nothing is changed.
    """

    base: Arg
    places: npt.NDArray[np.intp]
    part: int | None = None


@dataclass(frozen=True, slots=True)
class Term:
    """What ``call`` sends to the value ``by``, from the gradients of its outputs by their place."""

    call: Operation
    by: Arg
    upstream: Mapping[tuple[int, ...], Arg]
    #: The call's own outputs, where they are among the values.
    outputs: Mapping[tuple[int, ...], int]

    @property
    def given(self) -> tuple[Any, ...]:
        return self.call.args, self.call.kwargs, self.by, self.upstream


def args_in(value: Any) -> Iterator[Arg]:
    """The tensors among a call's arguments."""
    yield from instances(value, Arg)


@dataclass(slots=True)
class Accumulated:
    """What happened to one tensor's ``.grad`` (or what was returned for it)."""

    name: str
    shape: Shape
    kind: str  # "leaf", "retained" or "returned"
    before: Array | None
    added: Array | None
    after: Array | None
    value: int = -1
    hooked: bool = False

    JSON: ClassVar[Keys] = {"value": HIDDEN}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A tensor that got nothing, and why."""

    name: str
    shape: Shape
    why: str
    site: Site | None = None
    #: Whether it is a parameter of a module, and whether it requires grad.
    parameter: bool = False
    requires: bool = False

    JSON: ClassVar[Keys] = {"site": HIDDEN, "line": Key(), "parameter": HIDDEN, "requires": HIDDEN}

    @property
    def line(self) -> int | None:
        return self.site.line if self.site is not None else None


@dataclass(frozen=True, slots=True)
class Overwritten:
    """A saved value that was changed in place: who saved it, and what changed it, where seen, both as
    Python writes them."""

    name: str
    saved: str
    saved_at: Site | None
    changed: str
    changed_at: Site | None
    #: Whether it is the call's own result.
    result: bool = False


@dataclass(slots=True)
class Fault:
    """An exception of the script: ``why`` it came and the ``remedy``, both empty where unknown."""

    type: str
    message: str
    site: Site | None
    why: str = ""
    remedy: str = ""

    JSON: ClassVar[Keys] = {
        "message": HIDDEN,
        "told": Key("message"),
        "site": HIDDEN,
        "line": Key(),
    }

    @property
    def told(self) -> str:
        """The message on one line."""
        return " ".join(self.message.split())

    @property
    def line(self) -> int | None:
        return self.site.line if self.site is not None else None


@dataclass(slots=True)
class Snapshot:
    """One call of ``backward``, ``autograd.backward`` or ``autograd.grad``."""

    index: int
    function: str
    site: Site | None
    values: list[Value] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    #: The tensors it was called on, and the ``v`` of each; ``implicit`` for a scalar's 1.
    roots: list[int] = field(default_factory=list)
    v: list[Array] = field(default_factory=list)
    implicit: bool = False
    dtype: str = "float32"
    retain_graph: bool = False
    create_graph: bool = False
    accumulated: list[Accumulated] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    #: Whether something was not kept, for want of memory.
    spent: bool = False
    #: Values that were changed behind autograd's back.
    silent: list[Overwritten] = field(default_factory=list)
    #: Where ``autograd.grad`` took gradients, as constants, of something in this graph.
    taken: set[Site | None] = field(default_factory=set)
    #: What it raised.
    fault: Fault | None = None
