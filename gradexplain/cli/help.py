"""``gradexplain help TOPIC``: the reference, from text files in the package and from the records."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from gradexplain.cli import output
from gradexplain.cli.schema import DOCUMENTS
from gradexplain.errors import InputError
from gradexplain.texts import kept

#: What there is, in the order in which it is listed.
TOPICS = {
    "run": "the question, the options, the page; from Python",
    "language": "what an expression may be",
    "operations": "the operations by family",
    "calls": "several calls, starts in the middle, second derivatives",
    "check": "what is wrong with a hand-written backward",
    "codegen": "the backward that is right, as code",
    "trace": "a script of your own",
    "batch": "many problems: files, clusters, a plan for 10⁹",
    "conventions": "layout, names, notation, example values",
    "formats": "text, JSON, Markdown, LaTeX, HTML, notebook, dot, SVG",
    "json": "the keys of --format json",
    "verdicts": "the rule, what it does not prove, what it was measured on",
    "exit-codes": "what a command returns",
    "figures": "measured tables, what was fuzzed",
    "changes": "what is new",
}


def topic(name: str) -> str:
    """The text of a topic; `InputError` where there is none."""
    if name not in TOPICS:
        raise InputError(
            f"there is no help on {name}", remedy=f"the topics are: {', '.join(TOPICS)}"
        )
    if name in _MADE:
        return _MADE[name]()
    return kept("help", f"{name}.md")


def _operations() -> str:
    from gradexplain.catalogue import entries
    from gradexplain.pages.catalogue import markdown

    return (
        "# Operations\n\n`gradexplain ops NAME` shows one with its element formula, derivative and "
        f"kinks.\n\n{markdown(entries())}"
    )


def _json() -> str:
    """The keys of each command's document, from its schema."""
    from gradexplain.document.schema import schema_of

    parts = [
        "# JSON\n\n`--format json` prints one document; `gradexplain schema COMMAND` its JSON Schema. "
        "Keys are\nonly ever added. Numbers have 12 significant digits unless `--precision` says "
        'otherwise;\nnon-finite ones are the strings "inf", "-inf" and "nan"; a tensor is nested '
        "lists in its\nshape. * marks numbers of PyTorch's, whose last digits depend on the machine; "
        "? marks keys\nthat are there only where they say something.\n"
    ]
    for command, (module, name) in DOCUMENTS.items():
        schema = schema_of(getattr(import_module(module), name))
        parts.append(f"## {command}: {schema['title']}\n\n" + _keys(schema))
        for kind, found in schema["$defs"].items():
            if found.get("properties") and command == "run":
                parts.append(f"### {kind}\n\n{found['description']}\n\n" + _keys(found))
    return "\n".join(parts)


def _keys(schema: dict[str, Any]) -> str:
    lines = []
    for key, found in schema["properties"].items():
        mark = ("*" if "x-computed-by" in found else "") + (
            "" if key in schema["required"] else "?"
        )
        about = found.get("description", "")
        lines.append(f"    {key + mark:<18} {_kind(found)}{f'   {about}' if about else ''}")
    return "\n".join(lines) + "\n"


def _kind(found: dict[str, Any]) -> str:
    if "const" in found:
        return f'"{found["const"]}"'
    if "$ref" in found:
        return str(found["$ref"]).removeprefix("#/$defs/")
    if "anyOf" in found:
        return " or ".join(map(_kind, found["anyOf"]))
    if found.get("type") == "array":
        return f"[{_kind(found['items'])}, …]" if found.get("items") else "[…]"
    if found.get("type") == "object":
        inner = found.get("additionalProperties")
        return f"{{NAME: {_kind(inner)}}}" if isinstance(inner, dict) and inner else "{…}"
    return str(found.get("type", "any"))


_MADE: dict[str, Callable[[], str]] = {
    "operations": _operations,
    "json": _json,
}


@click.command("help", short_help="The reference: language, JSON, exit codes, operations and more.")
@click.argument("name", metavar="TOPIC", required=False)
def help_command(name: str | None) -> int:
    """Show a part of the reference; without TOPIC, what there is."""
    if name is None:
        lines = [f"  {topic:<12} {about}" for topic, about in TOPICS.items()]
        output.write("gradexplain help TOPIC\n\n" + "\n".join(lines) + "\n")
    else:
        output.write(topic(name))
    return 0
