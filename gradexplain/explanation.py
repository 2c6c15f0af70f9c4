"""What an explanation holds: plain data, complete before anything is rendered.

``explain`` fills an `Explanation` stage by stage, in the order of `STAGES`; renderers only read it.
A formula is kept as a SymPy expression (for programs) together with its text and LaTeX (for readers),
so that no renderer has to know SymPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

from gradexplain.document.keys import HIDDEN, TOLERANCE, Key, Keys
from gradexplain.document.shows import Shows
from gradexplain.tensors import Array as Array
from gradexplain.tensors import Shape as Shape

#: The sections of an explanation in the order in which they are made and shown.
STAGES = ("question", "forward", "jacobian", "steps", "gradients", "check")

#: The section of an explanation that holds more than one backward: it comes before the check.
FURTHER = "further"


@dataclass(slots=True)
class Formula:
    """One formula, ``left = right``, in the forms that readers want.

    ``formula`` is the right side in SymPy, ``text`` the whole line (``∂y[i]/∂b[j] = 4·b[i]·δ(i,j)``),
    ``latex`` the same in LaTeX.  ``where`` are further lines ``s[k] = Σ_p x[p,k]`` for the names that
    appear in it, and ``ranges`` bounds each index letter once (``i, j = 0…2``; empty without any).
    """

    name: str
    formula: Any
    text: str
    latex: str
    where: tuple[str, ...]
    ranges: str

    JSON: ClassVar[Keys] = {"formula": HIDDEN, "text": Key("formula")}


@dataclass(slots=True)
class Input:
    """A leaf.  ``given`` is False for example values; ``wanted`` is False when ``wrt`` leaves it out,
    and for an ``integer`` tensor, an index or a ``boolean`` mask, which has no gradient."""

    name: str
    shape: Shape
    value: Array
    given: bool
    wanted: bool = True
    integer: bool = False
    boolean: bool = False


@dataclass(slots=True)
class Output:
    """The value that ``backward`` starts from."""

    name: str
    shape: Shape
    value: Array | None = None  # known after the forward stage


@dataclass(slots=True)
class Upstream:
    """The argument of ``backward``.  ``source`` is ``given``, ``ones`` or ``implicit`` (a scalar's 1)."""

    value: Array
    source: str
    #: ``L = 0.1·y[0] + 1·y[1] + 0.0001·y[2]`` for a small output, else ``L = Σ_i v[i]·y[i]``.
    loss: str
    #: what the formulas call it: ``v``, unless an input has that name
    name: str = "v"

    JSON: ClassVar[Keys] = {
        "value": Key("grad", about="v, the argument of backward, in the output's shape"),
        "source": Key("grad_source"),
        "name": Key("grad_name"),
    }


@dataclass(slots=True)
class ForwardRow:
    """One node: ``node`` is its name (the user's, or t1, t2, …), ``expression`` reads ``t1 + log(c)``.

    ``value`` is what the dtype gives, operation by operation (PyTorch's, where it was asked).
    ``part_of`` is set where it is no operation of the user's but a part that the formula of another
    node names: the softmax ``p`` of a cross-entropy.
    """

    node: str
    op: str
    inputs: tuple[str, ...]
    expression: str
    shape: Shape
    value: Array
    part_of: str | None = None
    #: whether the user named it, and what it is called in words: its own text where it is short
    named: bool = field(default=True, kw_only=True)
    text: str = field(default="", kw_only=True)
    #: What PyTorch calls its backward, ``MulBackward``; "" where it was not asked.
    grad_fn: str = field(default="", kw_only=True)
    #: The exact value, where it is another one in the digits shown.
    exact: Array | None = None


@dataclass(slots=True)
class Jacobian(Formula):
    """The closed form of ``∂output/∂name``.

    ``shape`` is ``output.shape + input.shape``; ``value`` has it, or is None when too large to show.
    """

    structure: str
    shape: Shape
    value: Array | None


@dataclass(slots=True)
class Step:
    """One contribution of the backward pass: what ``node`` sends to ``input``.

    ``verdict`` is agree, convention, mismatch, cannot tell or skipped.

    ``upstream`` is the gradient of L with respect to ``node``.  ``rule`` is the local derivative and
    the contribution in index notation, ``numbers`` the same for one element with its numbers
    (``4·b[j]·v[j] = 4·3·0.1 = 1.2``), empty where they do not fit.  ``total`` is set on the last
    contribution to a value that is used several times: their sum.
    """

    node: str
    op: str
    input: str
    upstream: Array
    rule: str
    contribution_rule: str
    numbers: str
    contribution: Array
    total: Array | None = None
    uses: int = 1
    #: the contribution in terms of ``g``, the gradient that arrives at ``node``: ``b·g``
    short: str = field(default="", kw_only=True)
    #: PyTorch's own contribution, what the record gives at PyTorch's own inputs and upstream gradient
    #: there, how far that operation's roundings may take the two apart, and how many times an error of
    #: 1 % would exceed that bound.  None where PyTorch was not asked.
    torch: Array | None = None
    expected: Array | None = None
    tolerance: Array | None = None
    margin: float | None = None
    verdict: str = "skipped"

    JSON: ClassVar[Keys] = {
        "torch": Key(computed="PyTorch"),
        "expected": Key(computed="PyTorch and NumPy"),
        "tolerance": TOLERANCE,
        "margin": Key(digits=2),
    }


@dataclass(slots=True)
class Gradient(Formula):
    """``Jᵀv`` for one leaf, in its shape, by three routes.

    ``value`` is the closed form's, ``chain_rule`` the step by step one's, ``torch`` PyTorch's as it
    gave it (None when it was not asked).  ``tolerance`` bounds, per element, what the roundings of the
    last steps alone may add.  ``verdict`` is agree, convention, mismatch, cannot tell or skipped.
    """

    value: Array
    chain_rule: Array
    torch: Array | None
    tolerance: Array
    verdict: str = "skipped"
    #: the right side in its shortest right notation (``4·b·v``, ``v @ wᵀ``), "" where that is ``text``
    short: str = field(default="", kw_only=True)
    #: a line of PyTorch that computes it, after those of ``code``, which has been run; "" for none
    line: str = field(default="", kw_only=True)
    #: How many decimal digits of PyTorch's numbers are right, as a whole, where they are few.
    digits: float | None = None
    #: How many times an error of 1 % in what PyTorch added up would exceed the bound.
    margin: float | None = field(default=None, kw_only=True)

    JSON: ClassVar[Keys] = {
        "margin": Key(digits=2),
        "chain_rule": Key(computed="NumPy, where the tensors are large"),
        "torch": Key(computed="PyTorch"),
        "tolerance": TOLERANCE,
        "agrees": Key(about="false only for a mismatch"),
    }

    @property
    def agrees(self) -> bool:
        """False only for a mismatch."""
        return self.verdict != "mismatch"


@dataclass(slots=True)
class Intermediate(Gradient):
    """``∂L/∂name`` of a computed value: the ``v`` with which ``name.backward(v)`` does the rest.

    ``whole`` names the leaves whose gradient comes through it and nowhere else, ``part`` those that
    are reached by another way too, so that ``name.backward(v)`` gives a part of theirs.
    """

    shape: Shape = ()
    whole: tuple[str, ...] = ()
    part: tuple[str, ...] = ()
    #: ``--retain-grad``: PyTorch was told to keep its ``.grad``.
    retained: bool = False


@dataclass(slots=True)
class Path:
    """One way from an element's input to the output: the operations on it, and what flows along it."""

    through: tuple[str, ...]
    value: float


@dataclass(slots=True)
class Entry:
    """``v[output]·J[output, element]``, one term of the sum that ``backward`` is."""

    output: tuple[int, ...]
    v: float
    slope: float


@dataclass(slots=True)
class Element:
    """One element of a gradient in full: the sum over the output, and over the paths to it.

    ``entries`` are the terms that are not 0, empty where J is too large to be computed; of more
    paths than 24, none is given.
    """

    input: str
    index: tuple[int, ...]
    value: float
    entries: list[Entry]
    paths: list[Path]
    asked: bool = False


@dataclass(slots=True)
class Stop:
    """Where the backward pass ends early: ``node`` sends nothing to ``input``, and why."""

    node: str
    input: str
    kind: str
    reason: str


@dataclass(slots=True)
class Difference:
    """Where two routes differ most: their names, the input, the index, both values and the bound."""

    input: str
    routes: tuple[str, str]
    index: tuple[int, ...]
    values: tuple[float, float]
    tolerance: float
    count: int

    # All digits: rounding could hide the difference.
    JSON: ClassVar[Keys] = {"values": Key(digits=17, computed="PyTorch"), "tolerance": TOLERANCE}


@dataclass(slots=True)
class Check:
    """``status`` is agree, convention, mismatch, cannot tell or skipped.

    Nothing can be told where PyTorch could not be asked or refused, where nothing else has a number to
    hold against PyTorch's, or where a bound is no smaller than what it bounds; ``reason`` says so.
    ``compared`` of ``operations`` backward operations were held against PyTorch's one by one.
    """

    status: str
    dtype: str
    tolerance: float | None
    differences: list[Difference] = field(default_factory=list)
    reason: str = ""
    compared: int = 0
    operations: int = 0
    #: False where time or memory was over before; ``reason`` says what is missing.
    whole: bool = True

    JSON: ClassVar[Keys] = {"tolerance": TOLERANCE, "whole": HIDDEN}


@dataclass(slots=True)
class Note:
    """A remark worth having.  ``kind`` is a stable word for programs; ``data`` goes to JSON beside it."""

    kind: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)

    JSON: ClassVar[Keys] = {"data": Key(flat=True)}


@dataclass(slots=True)
class Accumulated:
    """What one call does to one ``.grad``: None where it does not reach it, or never has.

    ``torch`` is ``.grad`` after the call as PyTorch has it.
    """

    added: Array | None
    after: Array | None
    torch: Array | None
    tolerance: Array
    verdict: str = "skipped"

    JSON: ClassVar[Keys] = {"torch": Key(computed="PyTorch"), "tolerance": TOLERANCE}


@dataclass(slots=True)
class Call:
    """One ``start.backward(v)`` of several.

    ``explanation`` is its own, None for the first call: that one's is the whole document.  A call
    that PyTorch refuses has its message in ``error``, and it is the last.
    """

    number: int
    start: str
    grad: Upstream
    retain_graph: bool
    zeroed: bool = False
    error: str = ""
    #: the operation whose backward raised the error
    failed_at: str = ""
    gradients: dict[str, Accumulated] = field(default_factory=dict)
    explanation: Explanation | None = None

    JSON: ClassVar[Keys] = {
        "start": Key("from"),
        "grad": Key(flat=True, only=("grad", "grad_source")),
        "error": Key(null=True),
        "failed_at": Key(null=True),
    }


@dataclass(slots=True)
class Saved:
    """What PyTorch's backward of one operation keeps for itself until the graph is freed.

    ``function`` is the node's name in PyTorch (``MulBackward0``), ``names`` what it calls the tensors.
    """

    node: str
    function: str
    names: tuple[str, ...]

    JSON: ClassVar[Keys] = {"names": Key("saved")}


@dataclass(slots=True)
class BackwardRow:
    """One operation of a recorded backward pass: ``y.grad[j] = 2·y[j]·z.grad``."""

    node: str
    at: str
    text: str
    shape: Shape
    value: Array

    JSON: ClassVar[Keys] = {"at": Key("index"), "text": Key("formula")}


@dataclass(slots=True)
class Second:
    """The backward pass differentiated: ``name = expression`` is the scalar, of every ``.grad``.

    ``backward`` are the operations of the first pass; ``explanation`` explains ``name.backward()``
    on the graph of both passes.
    """

    name: str
    expression: str
    backward: list[BackwardRow]
    explanation: Explanation

    JSON: ClassVar[Keys] = {
        "name": Key("scalar"),
        "explanation": Key(flat=True, only=("steps", "gradients", "check")),
    }


@dataclass(slots=True)
class Explanation(Shows):
    """Everything that was asked and found out, ready to be rendered."""

    expression: str
    dtype: str
    inputs: dict[str, Input]
    output: Output
    grad: Upstream
    forward: list[ForwardRow] = field(default_factory=list)
    jacobian: dict[str, Jacobian] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    gradients: dict[str, Gradient] = field(default_factory=dict)
    check: Check | None = None
    notes: list[Note] = field(default_factory=list)
    #: the values between the inputs and a scalar output, and those of ``--retain-grad``
    intermediates: dict[str, Intermediate] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    #: every call where there are several, and what the first one freed where it frees
    calls: list[Call] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    #: the second derivative, with --order 2
    second: Second | None = None
    #: the statements, one a line, the last one named (``y = x / s``); empty: as in ``expression``
    statements: tuple[str, ...] = ()
    #: what the derivatives in the short formulas are: ``∂L/∂K = ∂L/∂Sᵀ @ Q``
    definitions: list[str] = field(default_factory=list)
    #: the lines of PyTorch that the gradients' lines need before them
    code: list[str] = field(default_factory=list)
    #: a sub-expression of the program's that has a name because it makes the formulas shorter
    shared: str = ""
    #: one element of a gradient in full
    element: Element | None = None

    SCHEMA: ClassVar[str] = "gradexplain/1"
    PAGE: ClassVar[str] = "gradexplain.pages.run"
    JSON: ClassVar[Keys] = {
        "grad": Key(flat=True),
        "intermediates": Key(optional=True),
        "stops": Key(optional=True),
        "calls": Key(optional=True),
        "saved": Key("freed", optional=True),
        "second": Key(optional=True),
        "code": Key(optional=True),
        "shared": Key(optional=True),
    }

    def _repr_html_(self) -> str:
        return import_module("gradexplain.notebook").html(self)  # type: ignore[no-any-return]
