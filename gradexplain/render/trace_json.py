"""A traced script as a JSON document, ``gradexplain-trace/1``.

    schema    "gradexplain-trace/1"
    script    the script's file name
    calls     [the explained calls: each a document gradexplain/1, see gradexplain.render.json, and
              call          its number, from 1
              function      "backward", "autograd.backward" or "grad"
              file, line, source
              roots         [{name, shape, v}]: what it was called on
              retain_graph, create_graph
              complete      false where some operation has no formula: its part is PyTorch's own
              checked       how many operations were held against their formula
              unchecked     how many have none
              accumulated   [{name, kind, shape, before, added, after, hooked}]; kind is leaf,
                            retained (retain_grad) or returned (autograd.grad)
              got_nothing   [{name, shape, why, line}]
              error         {type, message, why, remedy} or null
              in forward    line, source and opaque (why an operation has no formula, or "")
              in steps      line and kind: formula, opaque (PyTorch's own local result) or hook]
    others    [{call, function, line, source, value, error}]: the calls in a line each
    error     {type, message, line, why, remedy} of the script, or null

Numbers have 12 significant digits unless ``--precision`` says otherwise; non-finite ones are the
strings "inf", "-inf" and "nan".  Keys are only ever added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradexplain.explanation import Array
from gradexplain.render import json

if TYPE_CHECKING:
    from gradexplain.trace.explain import TracedCall
    from gradexplain.trace.session import Trace

SCHEMA = "gradexplain-trace/1"


def render(
    trace: Trace, script: str, precision: int | None = None, *, ascii_only: bool = False
) -> str:
    """The document as text."""
    return json.written(to_dict(trace, script, precision), "", ascii_only) + "\n"


def to_dict(trace: Trace, script: str, precision: int | None = None) -> dict[str, Any]:
    """The document as JSON values."""
    full = trace.full
    digits = precision or json.PRECISION
    fault = trace.fault
    return {
        "schema": SCHEMA,
        "script": script,
        "calls": [call_dict(trace.call(index), precision) for index in full],
        "others": [
            {
                "call": brief.index,
                "function": brief.function,
                "line": brief.site.line if brief.site is not None else None,
                "source": brief.text,
                "value": json.plain(brief.value, digits),
                "error": brief.error or None,
            }
            for brief in trace.all
            if brief.index not in full
        ],
        "error": None
        if fault is None
        else {
            "type": fault.type,
            "message": " ".join(fault.message.split()),
            "line": fault.site.line if fault.site is not None else None,
            "why": fault.why,
            "remedy": fault.remedy,
        },
    }


def call_dict(x: TracedCall, precision: int | None = None) -> dict[str, Any]:
    """One call."""
    digits = precision or json.PRECISION

    def array(values: Array | None) -> Any:
        return None if values is None else json.plain(values.tolist(), digits)

    document = json.to_dict(x, precision)
    for row, shown in zip(x.forward, document["forward"], strict=True):
        shown["line"] = getattr(row, "line", None)
        shown["source"] = getattr(row, "source", "")
        shown["opaque"] = getattr(row, "opaque", "")
    for step, shown in zip(x.steps, document["steps"], strict=True):
        shown["line"] = getattr(step, "line", None)
        shown["kind"] = getattr(step, "kind", "formula")
    return {
        "call": x.index,
        "function": x.function,
        "file": x.file,
        "line": x.line,
        "source": x.source,
        "roots": [{"name": r.name, "shape": list(r.shape), "v": array(r.v)} for r in x.roots],
        "retain_graph": x.retain_graph,
        "create_graph": x.create_graph,
        "complete": x.complete,
        "checked": x.checked,
        "unchecked": x.unchecked,
        **document,
        "accumulated": [
            {
                "name": e.name,
                "kind": e.kind,
                "shape": list(e.shape),
                "before": array(e.before),
                "added": array(e.added),
                "after": array(e.after),
                "hooked": e.hooked,
            }
            for e in x.accumulated
        ],
        "got_nothing": [
            {
                "name": left.name,
                "shape": list(left.shape),
                "why": left.why,
                "line": left.site.line if left.site is not None else None,
            }
            for left in x.left_out
        ],
        "error": None
        if x.error is None
        else {
            "type": x.error[0],
            "message": " ".join(x.error[1].split()),
            "why": x.why,
            "remedy": x.remedy,
        },
    }
