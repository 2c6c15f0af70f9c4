"""The table: of the mutants of each fault, how many are detected, and named rightly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gradexplain.checking.checker import check_subject
from gradexplain.checking.code import subject_of
from gradexplain.checking.subjects import FormulaSubject
from gradexplain.errors import GradexplainError
from gradexplain.reading.syntax import parse
from tests.mutants.cases import CASES, Case
from tests.mutants.make import Mutant, equivalent, function, gradcheck, mutants, variants


@dataclass
class Row:
    fault: str
    made: int = 0
    equivalent: list[str] = field(default_factory=list)
    detected: int = 0
    named: int = 0
    gradcheck: int = 0
    missed: list[str] = field(default_factory=list)
    misnamed: list[str] = field(default_factory=list)


def found(mutant: Mutant) -> str:
    """The fault that check names for a mutant, "" where it says right."""
    try:
        if mutant.code:
            subject = subject_of(function(mutant.case, mutant.claims, mutant.code))
        else:
            subject = FormulaSubject(parse(mutant.case.expression), mutant.claims, None)  # type: ignore[assignment]
        shapes = mutant.shapes if _sensible(mutant) else mutant.case.shapes
        report = check_subject(subject, {}, shapes)
    except GradexplainError as error:
        return f"error: {error.message}"
    faults = report.faults
    return faults.get(mutant.name) or next(iter(faults.values()), "")


def _sensible(mutant: Mutant) -> bool:
    return bool(mutant.shapes)


def is_right(case: Case, claims: dict[str, str], *, code: bool) -> str:
    """ "" where check says right, else what it says."""
    try:
        if code:
            subject = subject_of(function(case, claims))
        else:
            subject = FormulaSubject(parse(case.expression), claims, None)  # type: ignore[assignment]
        report = check_subject(subject, {}, case.shapes, write=False)
    except GradexplainError as error:
        return f"error: {error.message}"
    return "" if report.right else str(report.faults)


def run(
    cases: Sequence[Case] = CASES, *, each: int = 0, with_gradcheck: bool = True
) -> tuple[dict[str, Row], list[str], int]:
    """The rows by fault, the false alarms, and the number of right variants.

    With ``each`` only so many mutants of each fault, evenly spread, and every fourth of the right
    variants as code.
    """
    rows: dict[str, Row] = {}
    alarms: list[str] = []
    right = 0
    for case in cases:
        for claims in variants(case):
            for code in (False, True):
                right += not code
                if each and code and right % 4:
                    continue
                said = is_right(case, claims, code=code)
                if said:
                    alarms.append(f"{case.expression}  {claims}  {'code' if code else ''}: {said}")
    by_fault: dict[str, list[Mutant]] = {}
    for case in cases:
        for mutant in mutants(case):
            by_fault.setdefault(mutant.fault, []).append(mutant)
    for mutant in (
        m for some in by_fault.values() for m in some[:: -(-len(some) // each) if each else 1]
    ):
        row = rows.setdefault(mutant.fault, Row(mutant.fault))
        if equivalent(mutant):
            row.equivalent.append(mutant.title)
            continue
        row.made += 1
        fault = found(mutant)
        if not fault:
            row.missed.append(mutant.title)
        else:
            row.detected += 1
            if mutant.accepts(fault):
                row.named += 1
            else:
                row.misnamed.append(f"{mutant.title}  →  {fault}")
        if with_gradcheck:
            row.gradcheck += not gradcheck(mutant.case, mutant.claims, mutant.shapes, mutant.code)
    return rows, alarms, right


def shown(rows: Iterable[Row], alarms: Sequence[str], right: int, *, details: bool = True) -> str:
    rows = sorted(rows, key=lambda r: r.fault)
    lines = [f"{'fault':<24}{'mutants':>8}{'detected':>10}{'named':>8}{'gradcheck':>11}"]
    for r in rows:
        lines.append(f"{r.fault:<24}{r.made:>8}{r.detected:>10}{r.named:>8}{r.gradcheck:>11}")
    total = [sum(getattr(r, k) for r in rows) for k in ("made", "detected", "named", "gradcheck")]
    lines.append(f"{'all':<24}{total[0]:>8}{total[1]:>10}{total[2]:>8}{total[3]:>11}")
    if total[0]:
        share = [100 * n / total[0] for n in total[1:]]
        lines.append(f"{'%':<24}{'':>8}{share[0]:>10.1f}{share[1]:>8.1f}{share[2]:>11.1f}")
    lines.append(
        f"right variants: {right} (each as a formula and as code), false alarms: {len(alarms)}"
    )
    same = [title for r in rows for title in r.equivalent]
    lines.append(f"equivalent mutants, left out: {len(same)}")
    if details:
        lines += [f"  {title}" for title in same]
        for label, of in (("not detected", "missed"), ("named otherwise", "misnamed")):
            found = [f"  [{r.fault}] {title}" for r in rows for title in getattr(r, of)]
            if found:
                lines += [f"{label}:", *found]
        lines += ["false alarms:", *(f"  {a}" for a in alarms)] if alarms else []
    return "\n".join(lines)
