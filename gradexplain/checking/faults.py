"""The faults: each is a hypothesis, and the first that explains every trial is the one named.

A hypothesis says what J the claim would implement if it had that fault, from the true J, its
terms and the graph; it is held against the J that the claim does implement at every point.  The
order is from what must hold before J can be spoken of (a result, of the right shape, linear in
``v``) to the simplest explanation of a wrong J.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gradexplain.checking import jacobian, outcomes
from gradexplain.checking.case import Case
from gradexplain.checking.report import Fault
from gradexplain.checking.told import told


def _edited(case: Case) -> Fault | None:
    fault = case.repaired()
    return None if fault is None or fault.code == "unknown" else fault


#: Faults of the forward, or of how the backward runs: no other formula mends them.
UNMENDED = ("forward_differs", "inplace_forward", "inplace_buffer", "nondeterministic")


def diagnose(case: Case) -> Fault:
    """The simplest fault that explains every trial."""
    code = bool(case.first.setting.functions)
    for hypothesis in _HYPOTHESES if code else sorted(_HYPOTHESES, key=lambda one: one is _edited):
        fault = hypothesis(case)
        if fault is not None:
            case.named = True
            mend = (
                case.repaired() if code and fault.code not in UNMENDED and not fault.patch else None
            )
            if mend is not None and mend.patch:
                fault = replace(fault, remedy=mend.remedy, patch=mend.patch)
            found = case.first.result(case.name)
            if found.problem == "raises" and fault.code != "raises":
                fault = replace(
                    fault, sentence=f"the backward raises: {found.error}; {fault.sentence}"
                )
            return fault
    wrong = [t for t in case.regular if not t.right(case.name)]
    if len(wrong) < len(case.regular):
        said = " and at ".join(dict.fromkeys(t.what for t in wrong))
        fine = " and at ".join(dict.fromkeys(t.what for t in case.regular if t.right(case.name)))
        return told("one_point", name=case.name, said=said, fine=fine)
    fault, mend = told("unknown", name=case.name), case.repaired()
    return fault if mend is None else replace(fault, remedy=mend.remedy, patch=mend.patch)


#: For code what its own source shows comes before what J alone suggests, for a formula after it.
_HYPOTHESES: tuple[Callable[[Case], Fault | None], ...] = (
    outcomes.by_in_place,
    outcomes.by_forward_differs,
    outcomes.by_upstream_changed,
    outcomes.by_buffer,
    outcomes.by_detached,
    outcomes.by_none,
    outcomes.by_unsteady,
    outcomes.by_rounding,
    outcomes.by_linearity,
    jacobian.by_swapped,
    jacobian.by_diagonal,
    jacobian.by_approximation,
    _edited,
    jacobian.by_zero,
    outcomes.by_kink,
    jacobian.by_uses,
    outcomes.by_raises,
    outcomes.by_shape,
    jacobian.by_other_input,
    jacobian.by_sign,
    jacobian.by_factor,
    jacobian.by_term,
    jacobian.by_transposed,
)
