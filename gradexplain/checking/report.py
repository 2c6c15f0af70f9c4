"""What a check finds: plain data, complete before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gradexplain.checking.codes import codes
from gradexplain.document import serialise
from gradexplain.document.keys import HIDDEN, TOLERANCE, Key, Keys
from gradexplain.document.shows import Shows
from gradexplain.explanation import Array, Shape


@dataclass(frozen=True, slots=True)
class Patch:
    """Lines ``line`` to ``end`` of the user's file become ``text``; what changes stands at
    ``column``, ``width`` wide, of the first.
    """

    line: int
    end: int
    text: str
    old: str
    column: int
    width: int


@dataclass(frozen=True, slots=True)
class Fault:
    """``code`` is the name of one of `gradexplain.checking.codes.KINDS`, or several with a +
    between them; ``sentence`` says it of this case, ``remedy`` is a line of PyTorch, ``patch`` the
    same as a change of the user's file.
    """

    code: str
    sentence: str
    remedy: str = ""
    patch: tuple[Patch, ...] = ()
    #: Advice in words, which nothing has been run for.
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """``J[output, input]``, right and claimed; ``kind`` is right, wrong, missing or extra."""

    output: tuple[int, ...]
    input: tuple[int, ...]
    right: float
    claimed: float
    kind: str


@dataclass(slots=True)
class InputReport:
    """What was found of one input.

    ``right``, ``claimed`` and ``difference`` are formulas as text ("" where there is none),
    ``where`` what the names in them stand for.  ``entries`` are those of J at ``point``, the
    worst first; ``picture`` has a row for each output element, a character for each input element.
    """

    name: str
    shape: Shape
    verdict: str = "right"
    fault: Fault | None = None
    #: The claim as it was written, and the right gradient as a line of PyTorch.
    text: str = ""
    line: str = ""
    right: str = ""
    claimed: str = ""
    difference: str = ""
    where: tuple[str, ...] = ()
    ranges: str = ""
    point: int = 0
    entries: list[Entry] = field(default_factory=list)
    wrong: int = 0
    total: int = 0
    picture: list[str] = field(default_factory=list)
    tolerance: float | None = None

    JSON: ClassVar[Keys] = {
        "fault": HIDDEN,
        "code": Key("fault", null=True, about="one of the codes of `gradexplain help check`"),
        "number": Key("code", null=True, about="GX and a number: `gradexplain explain GX104`"),
        "sentence": Key(),
        "remedy": Key(),
        "patch": Key(about="lines of the file that become text, which has been run"),
        "hint": Key(),
        "text": Key("claim"),
        "tolerance": TOLERANCE,
    }

    @property
    def code(self) -> str:
        return "" if self.fault is None else self.fault.code

    @property
    def number(self) -> str:
        return "" if self.fault is None else codes(self.fault.code)

    @property
    def patch(self) -> tuple[Patch, ...]:
        return () if self.fault is None else self.fault.patch

    @property
    def hint(self) -> str:
        return "" if self.fault is None else self.fault.hint

    @property
    def sentence(self) -> str:
        return "" if self.fault is None else self.fault.sentence

    @property
    def remedy(self) -> str:
        return "" if self.fault is None else self.fault.remedy


@dataclass(frozen=True, slots=True)
class PointReport:
    """One point at which J was compared."""

    what: str
    shapes: dict[str, Shape]
    values: dict[str, Array]
    out_shape: Shape
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DtypeReport:
    """The claim about one input, or the forward where ``name`` is empty, run in one dtype: how far
    it is off, how far rounding allows at that
    entry, and how many times the bound the largest entry of J is; at 1, zeros would pass.
    """

    dtype: str
    name: str
    verdict: str
    error: float | None = None
    bound: float | None = None
    margin: float | None = None
    said: str = ""


@dataclass(slots=True)
class CheckReport(Shows):
    """The outcome of a check.  ``reference`` is ``closed form`` or ``autograd``; ``verdict`` right,
    wrong or cannot tell.
    """

    subject: str
    output: str
    dtype: str
    verdict: str
    inputs: dict[str, InputReport]
    points: list[PointReport]
    reference: str = "closed form"
    v_name: str = "v"
    notes: list[str] = field(default_factory=list)
    #: Set when one ``grad`` was given, and only ``Jᵀv`` was compared.
    grad: Array | None = None
    #: Under which condition the claims are right, "" where they are without one.
    condition: str = ""
    order: int = 1
    dtypes: list[DtypeReport] = field(default_factory=list)

    SCHEMA: ClassVar[str] = "gradexplain-check/1"
    PAGE: ClassVar[str] = "gradexplain.pages.check"

    @property
    def right(self) -> bool:
        return self.verdict == "right"

    @property
    def exit_code(self) -> int:
        return {"right": 0, "wrong": 1}.get(self.verdict, 3)

    @property
    def fault(self) -> Fault | None:
        """The first fault, in order of the inputs."""
        return next((i.fault for i in self.inputs.values() if i.fault is not None), None)

    @property
    def faults(self) -> dict[str, str]:
        """The fault's code of each wrong input."""
        return {n: i.fault.code for n, i in self.inputs.items() if i.fault is not None}

    def to_dict(self, precision: int | None = None, *, everything: bool = False) -> dict[str, Any]:
        """The JSON document ``gradexplain-check/1``; ``everything``: the right entries too."""
        return serialise.document(self if everything else self.without_right(), precision)

    def without_right(self) -> CheckReport:
        """The report without the entries of J that are right."""
        inputs = {
            name: replace(found, entries=[e for e in found.entries if e.kind != "right"])
            for name, found in self.inputs.items()
        }
        return replace(self, inputs=inputs)


def together(report: CheckReport) -> None:
    """Mends of several inputs at places of one line are one line, which has them all."""
    mends = [
        i for i in report.inputs.values()
        if i.fault is not None and len(i.patch) == 1 and i.patch[0].line == i.patch[0].end
    ]  # fmt: skip
    for line in {i.patch[0].line for i in mends}:
        here = [i for i in mends if i.patch[0].line == line]
        places = sorted({(p.column, p.width, p.text) for i in here for p in i.patch})
        apart = all(a[0] + a[1] <= b[0] for a, b in zip(places, places[1:], strict=False))
        if len(places) < 2 or not apart:
            continue
        old = whole = here[0].patch[0].old
        for column, width, text in reversed(places):
            new = text[column : len(text) - (len(old) - column - width)]
            whole = whole[:column] + new + whole[column + width :]
        for one in here:
            assert one.fault is not None
            patch = (replace(one.patch[0], text=whole),)
            one.fault = replace(one.fault, patch=patch, remedy=whole.strip())
