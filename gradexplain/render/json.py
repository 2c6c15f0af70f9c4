"""The explanation as a JSON document, ``gradexplain/1``.

    schema      "gradexplain/1"
    expression  the text as it was given
    dtype       "float64" or "float32"
    output      {name, shape, value}
    grad        v, the argument of backward: nested lists in the output's shape
    grad_source "given", "ones" or "implicit" (1 for a scalar output)
    loss        the scalar L whose gradient v is, as text
    inputs      {NAME: {shape, value, given, wanted, integer}}; given is false for example values
    forward     [{node, op, inputs, expression, shape, value, part_of}] in order of evaluation;
                part_of is the node whose formula names this one as a part, else null
    jacobian    {NAME: {formula, latex, where, structure, shape, value}}
                value is nested to output.shape + input.shape, null when too large to show
    steps       [{node, op, upstream, input, uses, rule, contribution_rule, numbers, contribution,
                total}] from the output back; total is null but on the last of several contributions
    gradients   {NAME: {formula, latex, where, value, chain_rule, torch, tolerance, verdict,
                agrees}}; torch is null when PyTorch was not asked; agrees is false only for a
                mismatch
    check       {status, dtype, tolerance, reason, differences: [{input, routes, index, values,
                tolerance, count}]}; status is agree, convention, mismatch, skipped or failed
    notes       [{kind, text, …}]

and, where there is something to say:

    intermediates  {NAME: a gradient's keys and {shape, whole, part, retained}} of computed values:
                   the v for NAME.backward(v); whole and part name the inputs whose gradient, or a
                   part of it, that gives
    stops          [{node, input, kind, reason}]: where the backward pass goes no further; kind is
                   "not wanted", "stopped", "integer", "constant" or "not reached"
    calls          [{number, from, grad, grad_source, retain_graph, zeroed, error, failed_at,
                   gradients: {NAME: {added, after, torch, tolerance, verdict}}, explanation}] where
                   there are several: what each adds to .grad and what that holds after it (null
                   where it is None).  The document explains the first, explanation the others.
    second         {scalar, expression, backward: [{node, index, formula, shape, value}], steps,
                   gradients, check}: the backward pass as operations, and the derivative of the
                   scalar, the sum of every gradient's elements (--order 2)
    freed          [{node, function, saved}]: the tensors that PyTorch's nodes had saved

``formula`` is the line that the text shows, ``latex`` the same in LaTeX, ``where`` the lines that
say what the names in it stand for.  Numbers have 12 significant digits unless ``--precision`` says
otherwise, and an element of ``chain_rule`` or ``torch`` that agrees with ``value`` within its
tolerance is printed as ``value``'s: a processor's last bits never show.  Non-finite numbers are the
strings "inf", "-inf" and "nan".  Keys are only ever added.
"""

from __future__ import annotations

import json
import math
from typing import Any

from gradexplain.explanation import (
    Accumulated,
    Array,
    Check,
    Explanation,
    Gradient,
    Second,
)
from gradexplain.render import numbers

SCHEMA = "gradexplain/1"
PRECISION = 12


def render(
    explanation: Explanation, precision: int | None = None, *, ascii_only: bool = False
) -> str:
    """The document as text: an object's members on lines of their own, lists of numbers on one."""
    return written(to_dict(explanation, precision), "", ascii_only) + "\n"


def to_dict(x: Explanation, precision: int | None = None) -> dict[str, Any]:
    """The document as JSON values."""
    digits = precision or PRECISION

    def array(values: Array | None) -> Any:
        return None if values is None else plain(values.tolist(), digits)

    document: dict[str, Any] = {
        "schema": SCHEMA,
        "expression": x.expression,
        "dtype": x.dtype,
        "output": {
            "name": x.output.name,
            "shape": plain(x.output.shape, digits),
            "value": array(x.output.value),
        },
        "grad": array(x.grad.value),
        "grad_source": x.grad.source,
        "loss": x.grad.loss,
        "inputs": {
            name: {
                "shape": plain(i.shape, digits),
                "value": array(i.value),
                "given": i.given,
                "wanted": i.wanted,
                "integer": i.integer,
            }
            for name, i in x.inputs.items()
        },
        "forward": [
            {
                "node": row.node,
                "op": row.op,
                "inputs": list(row.inputs),
                "expression": row.expression,
                "shape": plain(row.shape, digits),
                "value": array(row.value),
                "part_of": row.part_of,
            }
            for row in x.forward
        ],
        "jacobian": {
            name: {
                "formula": j.text,
                "latex": j.latex,
                "where": list(j.where),
                "structure": j.structure,
                "shape": plain(j.shape, digits),
                "value": array(j.value),
            }
            for name, j in x.jacobian.items()
        },
        "steps": [
            {
                "node": step.node,
                "op": step.op,
                "upstream": array(step.upstream),
                "input": step.input,
                "uses": step.uses,
                "rule": step.rule,
                "contribution_rule": step.contribution_rule,
                "numbers": step.numbers,
                "contribution": array(step.contribution),
                "total": array(step.total),
            }
            for step in x.steps
        ],
        "gradients": {name: gradient(g, digits) for name, g in x.gradients.items()},
        "check": None if x.check is None else check(x.check, digits),
        "notes": [
            {"kind": note.kind, "text": note.text, **plain(note.data, digits)} for note in x.notes
        ],
    }
    if x.intermediates:
        document["intermediates"] = {
            name: {
                **gradient(i, digits),
                "shape": plain(i.shape, digits),
                "whole": list(i.whole),
                "part": list(i.part),
                "retained": i.retained,
            }
            for name, i in x.intermediates.items()
        }
    if x.stops:
        document["stops"] = [
            {"node": s.node, "input": s.input, "kind": s.kind, "reason": s.reason} for s in x.stops
        ]
    if x.calls:
        document["calls"] = _calls(x, digits)
    if x.second is not None:
        document["second"] = _second(x.second, digits)
    if x.saved:
        document["freed"] = [
            {"node": s.node, "function": s.function, "saved": list(s.names)} for s in x.saved
        ]
    return document


def _calls(x: Explanation, digits: int) -> list[dict[str, Any]]:

    def array(value: Array | None, entry: Accumulated) -> Any:
        if value is None:
            return None
        if entry.after is not None and value is entry.torch:
            value = numbers.settled(value, entry.after, entry.tolerance)
        return plain(value.tolist(), digits)

    return [
        {
            "number": call.number,
            "from": call.start,
            "grad": plain(call.grad.value.tolist(), digits),
            "grad_source": call.grad.source,
            "retain_graph": call.retain_graph,
            "zeroed": call.zeroed,
            "error": call.error or None,
            "failed_at": call.failed_at or None,
            "gradients": {
                name: {
                    "added": array(entry.added, entry),
                    "after": array(entry.after, entry),
                    "torch": array(entry.torch, entry),
                    "tolerance": plain(entry.tolerance.tolist(), 2),
                    "verdict": entry.verdict,
                }
                for name, entry in call.gradients.items()
            },
            "explanation": None if call.explanation is None else to_dict(call.explanation, digits),
        }
        for call in x.calls
    ]


def _second(second: Second, digits: int) -> dict[str, Any]:
    document = to_dict(second.explanation, digits)
    return {
        "scalar": second.name,
        "expression": second.expression,
        "backward": [
            {
                "node": row.node,
                "index": row.at,
                "formula": row.text,
                "shape": plain(row.shape, digits),
                "value": plain(row.value.tolist(), digits),
            }
            for row in second.backward
        ],
        **{key: document[key] for key in ("steps", "gradients", "check")},
    }


def gradient(g: Gradient, digits: int) -> dict[str, Any]:
    def route(values: Array | None) -> Any:
        if values is None:
            return None
        return plain(numbers.settled(values, g.value, g.tolerance).tolist(), digits)

    return {
        "formula": g.text,
        "latex": g.latex,
        "where": list(g.where),
        "value": route(g.value),
        "chain_rule": route(g.chain_rule),
        "torch": route(g.torch),
        "tolerance": plain(g.tolerance.tolist(), 2),
        "verdict": g.verdict,
        "agrees": g.agrees,
    }


def check(check: Check, digits: int) -> dict[str, Any]:
    return {
        "status": check.status,
        "dtype": check.dtype,
        "tolerance": plain(check.tolerance, 2),
        "reason": check.reason,
        "differences": [
            {
                "input": d.input,
                "routes": list(d.routes),
                "index": plain(d.index, digits),
                # all digits: rounding could hide the difference
                "values": plain(d.values, 17),
                "tolerance": plain(d.tolerance, 2),
                "count": d.count,
            }
            for d in check.differences
        ],
    }


def plain(value: Any, digits: int) -> Any:
    """``value`` in JSON's own types, its floats to ``digits`` significant digits."""
    if isinstance(value, dict):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, digits) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "tolist"):  # a NumPy scalar or array in a note's data
        return plain(value.tolist(), digits)
    if not math.isfinite(value):
        return numbers.number(value)
    return float(f"{value:.{digits}g}") or 0.0


def written(value: Any, indent: str, ascii_only: bool) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [
            f"{inner}{json.dumps(key, ensure_ascii=ascii_only)}: {written(item, inner, ascii_only)}"
            for key, item in value.items()
        ]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = [inner + written(item, inner, ascii_only) for item in value]
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=ascii_only, allow_nan=False)
