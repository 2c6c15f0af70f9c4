"""A check for other programs: annotations of GitHub, and SARIF 2.1.0.

Both say at which line of the user's file a fault stands; where no line is known it is the file's
first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradexplain.checking.codes import BY_NAME, codes, title
from gradexplain.checking.report import CheckReport, Fault
from gradexplain.document.serialise import dumped
from gradexplain.errors import printable

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def _faults(report: CheckReport) -> Iterator[tuple[str, Fault]]:
    """Each fault once, with the first input that has it."""
    seen: set[tuple[str, str]] = set()
    for name, found in report.inputs.items():
        if found.fault is not None and (found.fault.code, found.fault.sentence) not in seen:
            seen.add((found.fault.code, found.fault.sentence))
            yield name, found.fault


def _place(report: CheckReport, fault: Fault) -> tuple[str, int, int]:
    """``(file, first line, last line)``; no file where an expression was checked."""
    path, colon, _ = report.subject.rpartition(":")
    file = path if colon and path.endswith(".py") else ""
    if fault.patch:
        return file, fault.patch[0].line, fault.patch[0].end
    return file, 1, 1


def _message(name: str, fault: Fault) -> str:
    parts = [f"gradient by {name}: {fault.sentence}"]
    if fault.remedy:
        parts.append(f"remedy: {fault.remedy}")
    return "\n".join(parts)


def github(report: CheckReport) -> str:
    """Workflow commands, one a fault: ``::error file=…,line=…,title=…::message``."""
    lines = []
    for name, fault in _faults(report):
        file, line, end = _place(report, fault)
        properties = {"file": file, "line": str(line), "endLine": str(end)} if file else {}
        properties["title"] = f"{codes(fault.code)} {fault.code}"
        shown = ",".join(f"{k}={_escaped(v, ':,')}" for k, v in properties.items())
        lines.append(f"::error {shown}::{_escaped(_message(name, fault))}")
    if not lines:
        lines.append(f"::notice::{_escaped(report.subject)}: the backward is right")
    return "\n".join(lines) + "\n"


def _escaped(text: str, more: str = "") -> str:
    for ch in ("%", "\r", "\n", *more):
        text = text.replace(ch, f"%{ord(ch):02X}")
    return printable(text)


def sarif(report: CheckReport) -> str:
    """One run with a result for each fault, and a fix where there is one."""
    results, names = [], set()
    for name, fault in _faults(report):
        names.update(fault.code.split("+"))
        first = fault.code.split("+")[0]
        result: dict[str, Any] = {
            "ruleId": BY_NAME[first].code,
            "level": "error",
            "message": {"text": _message(name, fault)},
        }
        file, line, end = _place(report, fault)
        if file:
            uri = {"uri": file.replace("\\", "/")}
            region = {"startLine": line, "endLine": end}
            result["locations"] = [
                {"physicalLocation": {"artifactLocation": uri, "region": region}}
            ]
            if fault.patch:
                changes = [
                    {
                        "deletedRegion": {"startLine": p.line, "startColumn": 1, "endLine": p.end,
                                          "endColumn": len(p.old.splitlines()[-1]) + 1},
                        "insertedContent": {"text": p.text},
                    }
                    for p in fault.patch
                ]  # fmt: skip
                result["fixes"] = [
                    {
                        "description": {"text": title(fault.code)},
                        "artifactChanges": [{"artifactLocation": uri, "replacements": changes}],
                    }
                ]
        results.append(result)
    rules = [
        {
            "id": BY_NAME[n].code,
            "name": n,
            "shortDescription": {"text": BY_NAME[n].title},
            "fullDescription": {"text": BY_NAME[n].about},
        }
        for n in sorted(names)
    ]
    driver = {"name": "gradexplain", "rules": rules}
    run = {"tool": {"driver": driver}, "results": results}
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return dumped(document, indent=2) + "\n"
