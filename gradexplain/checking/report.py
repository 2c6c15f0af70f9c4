"""What a check finds: plain data, complete before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from gradexplain.document import serialise
from gradexplain.document.keys import HIDDEN, TOLERANCE, Key, Keys
from gradexplain.explanation import Array, Shape

#: Every fault that can be named, and what it is in a few words.
FAULTS = {
    "missing_off_diagonal": "the off-diagonal terms of J are missing",
    "missing_term": "a term of a sum is missing",
    "missing_accumulation": "the contribution of one use of a repeated value is missing",
    "constant_factor": "off by a constant factor",
    "wrong_sign": "a wrong sign",
    "transposed": "the transposed Jacobian",
    "missing_broadcast_sum": "the sum over a broadcast dimension is forgotten",
    "wrong_dim": "a reduction over the wrong dim",
    "sum_vs_mean": "a sum where a mean was needed, or a mean where a sum was",
    "missing_keepdim": "keepdim=True is missing",
    "output_for_input": "evaluated at the output where the input belongs, or the other way round",
    "v_unused": "the upstream gradient v is not used",
    "v_nonlinear": "not linear in v: the upstream gradient is used twice",
    "wrong_input": "the gradient of another input",
    "swapped": "the gradients of two inputs are swapped",
    "none": "None instead of a gradient",
    "detached": "the result is detached: no gradient flows",
    "wrong_shape": "a result of the wrong shape",
    "kink": "wrong only at a kink",
    "one_point": "wrong only at particular points",
    "exponent": "an exponent is off by one",
    "nondeterministic": "the backward is not deterministic",
    "inplace_forward": "the forward changes its input in place",
    "inplace_buffer": "a gradient buffer with requires_grad=True is assigned in place",
    "float32_rounding": "float32 rounding, and nothing else",
    "missing_factor": "a factor is missing",
    "extra_factor": "a factor too many",
    "extra_term": "a term too many",
    "inverse": "a factor is multiplied where it divides, or the other way round",
    "wrong_constant": "a wrong constant",
    "square_of_difference": "(1 - y)**2 where 1 - y**2 belongs",
    "biased_variance": "n where the variance has n - 1, or the other way round",
    "eps": "eps is missing, or in the wrong place",
    "mask_not_applied": "the forward's mask is not applied",
    "wrong_condition": "a condition is wrong",
    "swapped_branches": "the branches of a where are swapped",
    "swapped_halves": "the halves of what was split or joined are swapped",
    "missing_unsqueeze": "unsqueeze is missing",
    "extra_keepdim": "keepdim=True where the dim has to go",
    "symmetric_assumption": "right for symmetric matrices only",
    "condition": "right under a condition only",
    "approximation": "an approximation where the exact derivative is needed",
    "kernel_not_flipped": "a kernel or a sequence is not flipped",
    "wrong_slice": "a wrong slice or index",
    "wrong_function": "a wrong function",
    "missing_call": "a function is not applied",
    "not_reentrant": "the backward changes what it keeps: a second run differs",
    "grad_output_changed": "the backward changes grad_output in place",
    "needs_input_grad": "wrong when only some inputs need a gradient",
    "second_order": "right at first order, wrong when differentiated again",
    "forward_differs": "the forward is not that of the reference",
    "raises": "the backward raises an error",
    "unknown": "no single fault that is known here explains it",
}


def title(code: str) -> str:
    """What a fault is, in a few words; of each, where there are several."""
    return "; and ".join(FAULTS[c] for c in code.split("+"))


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
    """``code`` is one of `FAULTS`, or several with a + between them; ``sentence`` says it of this
    case, ``remedy`` is a line of PyTorch, ``patch`` the same as a change of the user's file.
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


@dataclass(slots=True)
class CheckReport:
    """The outcome of a check.  ``reference`` is ``closed form`` or ``autograd``."""

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

    SCHEMA: ClassVar[str] = "gradexplain-check/1"

    @property
    def right(self) -> bool:
        return self.verdict == "right"

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

    def __str__(self) -> str:
        from gradexplain.render import check_text

        return check_text.render(self)
