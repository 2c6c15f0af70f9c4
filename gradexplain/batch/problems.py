"""One problem, a line of JSON, and its answer, another.

    {"id": "a1", "expression": "x / x.sum()", "at": {"x": [1, 2]}, "grad": [1, 0]}
    {"line": 1, "id": "a1", "status": "agree", "answer": {"schema": "gradexplain/1", …}}
    {"line": 2, "status": "error", "error": "line 2 is not JSON: …"}

``line`` is the problem's line, from 1.  ``status`` is the answer's verdict (agree, convention, mismatch,
cannot tell, skipped), or else ``error`` where the problem makes no sense, or ``timeout``, ``memory`` or
``crashed``; then ``error`` says why and there is no ``answer``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from gradexplain.document import serialise
from gradexplain.errors import GradexplainError, InputError, clipped, printable
from gradexplain.limits import MAX_VALUE_TEXT
from gradexplain.supervisor import link

_COMMON = {"id", "command", "expression", "at", "grad", "shapes", "dtype"}
_MORE = {"run": {"wrt", "check"}, "hessian": {"wrt", "check", "vector"}, "check": {"claims"}}


@dataclass(frozen=True, slots=True)
class Answer:
    """One line of answers."""

    line: int
    status: str
    text: str


def answered(line: int, text: str) -> Answer:
    """The answer to the problem on a line.  Nothing is raised, except for an interrupt."""
    found: dict[str, Any] = {"line": line}
    try:
        problem = _problem(line, text)
        found |= _named(problem)
        status, answer = _answer(problem)
        found |= {"status": status, "answer": answer}
    except GradexplainError as error:
        found |= {"status": "error", "error": str(error)}
    except MemoryError:
        found |= {"status": "memory", "error": link.too_large(what="the answer").split("\n")[0]}
    except RecursionError:
        found |= {"status": "error", "error": "the expression is nested too deeply"}
    except Exception as error:  # one problem is never the end of the others
        about = clipped(f"{type(error).__name__}: {error}")
        found |= {"status": "error", "error": f"internal error: {about}"}
    return _written(found)


def unanswered(line: int, text: str, status: str, reason: str) -> Answer:
    """The line of a problem that was given up: ``timeout``, ``crashed``."""
    found: dict[str, Any] = {"line": line}
    with suppress(GradexplainError):  # it has no id
        found |= _named(_problem(line, text))
    return _written(found | {"status": status, "error": reason})


def _named(problem: Mapping[str, Any]) -> dict[str, Any]:
    """The id of a problem that has one, as JSON can say it: Python reads Infinity and NaN too."""
    return {"id": serialise.plain(problem["id"], 17)} if "id" in problem else {}


def _written(found: dict[str, Any]) -> Answer:
    if "error" in found:
        found["error"] = printable(found["error"])
    text = serialise.dumped(found, allow_nan=False, separators=(",", ":"))
    return Answer(found["line"], found["status"], text + "\n")


def _problem(line: int, text: str) -> dict[str, Any]:
    """The problem on a line; raises `InputError` with the line's number."""
    if len(text) > MAX_VALUE_TEXT:
        raise InputError(f"line {line} has more than {MAX_VALUE_TEXT:,} characters")
    try:
        problem = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {line} is not JSON: {error}") from None
    if not isinstance(problem, dict):
        raise InputError(f"line {line} is {type(problem).__name__}, not a JSON object")
    for key, kinds, words in _KINDS:
        if key in problem and not isinstance(problem[key], kinds):
            raise InputError(f"line {line}: {key!r} is not {words}")
    command = problem.get("command", "run")
    if command not in _MORE:
        raise InputError(f"line {line}: command {command!r} is none of {', '.join(_MORE)}")
    for key in problem:
        if key not in _COMMON | _MORE[command]:
            known = ", ".join(sorted(_COMMON | _MORE[command]))
            raise InputError(f"line {line}: {key!r} is no key of {command}; its keys are: {known}")
    if "expression" not in problem:
        raise InputError(f"line {line} has no 'expression'")
    for name, shape in problem.get("shapes", {}).items():
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise InputError(f"line {line}: the shape of {name!r} is not a list of sizes")
    return problem


_KINDS: tuple[tuple[str, Any, str], ...] = (
    ("expression", str, "text"),
    ("command", str, "text"),
    ("at", dict, "an object of values by name"),
    ("shapes", dict, "an object of shapes by name"),
    ("wrt", (str, list), "a name or a list of names"),
    ("dtype", str, "text"),
    ("check", bool, "true or false"),
    ("claims", (str, list, dict), "a claim, a list of claims or an object of formulas by name"),
)


def _answer(problem: Mapping[str, Any]) -> tuple[str, Any]:
    given = dict(problem)
    given.pop("id", None)
    command = given.pop("command", "run")
    if command == "check":
        given["claim"] = given.pop("claims", None)
    room, name = _ASKED[command]
    found = getattr(import_module(room), name)(given.pop("expression"), **given)
    if command == "check":
        return "agree" if found.right else "mismatch", serialise.document(found)
    return found.check.status, serialise.document(found)


#: The function that answers each command.
_ASKED = {
    "run": ("gradexplain.accumulation", "explain"),
    "hessian": ("gradexplain.hessians", "hessian"),
    "check": ("gradexplain.checking.checker", "check"),
}
