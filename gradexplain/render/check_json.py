"""A check as a JSON document, ``gradexplain-check/1``.

    schema      "gradexplain-check/1"
    subject     the expression, or FILE:NAME
    output      the name of what backward starts from
    dtype       "float64" or "float32"
    reference   "closed form", or "autograd" where the forward could not be expressed
    verdict     "right" or "wrong"
    grad        the one v that was compared, or null: all of J was
    inputs      {NAME: {verdict, fault, sentence, remedy, right, claimed, difference, where, line,
                shape, point, wrong, total, tolerance, entries, picture}}
                fault is null or one of the codes of `gradexplain.checking.report.FAULTS`;
                right, claimed and difference are formulas as text, "" where there is none; line is
                the right gradient in PyTorch; point is the place in points of the one shown
                entries: [{output, input, right, claimed, kind}], wrong ones first, right ones only
                with --all; kind is wrong, missing (0 was claimed), extra (0 is right) or right
                picture: a string for each output element, a character for each input element:
                "=" right, "." right and 0, "x" wrong, "o" missing, "+" extra
    points      [{what, shapes, values, wrong}]; wrong lists inputs
    notes       [text]

Numbers have 12 significant digits unless ``--precision`` says otherwise; non-finite ones are the
strings "inf", "-inf" and "nan".  Keys are only ever added.
"""

from __future__ import annotations

from typing import Any

from gradexplain.checking.report import CheckReport, InputReport
from gradexplain.render.json import PRECISION, plain, written

SCHEMA = "gradexplain-check/1"


def render(
    report: CheckReport,
    precision: int | None = None,
    *,
    ascii_only: bool = False,
    everything: bool = False,
) -> str:
    """The document as text."""
    return written(to_dict(report, precision, everything=everything), "", ascii_only) + "\n"


def to_dict(
    report: CheckReport, precision: int | None = None, *, everything: bool = False
) -> dict[str, Any]:
    """The document as JSON values."""
    digits = precision or PRECISION
    return {
        "schema": SCHEMA,
        "subject": report.subject,
        "output": report.output,
        "dtype": report.dtype,
        "reference": report.reference,
        "verdict": report.verdict,
        "grad": None if report.grad is None else plain(report.grad.tolist(), digits),
        "inputs": {n: _input(i, digits, everything) for n, i in report.inputs.items()},
        "points": [
            {
                "what": p.what,
                "shapes": {n: list(s) for n, s in p.shapes.items()},
                "values": {n: plain(v.tolist(), digits) for n, v in p.values.items()},
                "wrong": list(p.wrong),
            }
            for p in report.points
        ],
        "notes": list(report.notes),
    }


def _input(found: InputReport, digits: int, everything: bool) -> dict[str, Any]:
    fault = found.fault
    return {
        "verdict": found.verdict,
        "fault": None if fault is None else fault.code,
        "sentence": "" if fault is None else fault.sentence,
        "remedy": "" if fault is None else fault.remedy,
        "claim": found.text,
        "right": found.right,
        "claimed": found.claimed,
        "difference": found.difference,
        "where": list(found.where),
        "line": found.line,
        "shape": list(found.shape),
        "point": found.point,
        "wrong": found.wrong,
        "total": found.total,
        "tolerance": plain(found.tolerance, 2),
        "entries": [
            {
                "output": list(e.output),
                "input": list(e.input),
                "right": plain(e.right, digits),
                "claimed": plain(e.claimed, digits),
                "kind": e.kind,
            }
            for e in found.entries
            if everything or e.kind != "right"
        ],
        "picture": list(found.picture),
    }
