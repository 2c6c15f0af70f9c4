"""What a shell and ``man`` want to know of the commands, made from the commands themselves."""

from __future__ import annotations

import re
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from gradexplain.cli import output

#: The variable with which a shell asks for completions.
ASKING = "_GRADEXPLAIN_COMPLETE"


def operations(context: click.Context, parameter: click.Parameter, text: str) -> list[Any]:
    """The operations whose name completes the last name in ``text``: an expression, or a name."""
    from gradexplain.ops import all_ops
    from gradexplain.reading.library import compositions

    begun = re.search(r"[^\W\d]?\w*$", text)
    assert begun is not None  # it may be empty
    before = text[: begun.start()]
    if text and not begun[0]:
        return []
    names = {s.rpartition(".")[2] for op in all_ops() for s in (*op.spellings, *op.aliases)}
    names |= {made.name for made in compositions()}
    return [CompletionItem(before + name) for name in sorted(names) if name.startswith(begun[0])]


def files(context: click.Context, parameter: click.Parameter, text: str) -> list[Any]:
    """A file, which the shell itself knows best."""
    return [CompletionItem(text, type="file")]


@click.command(short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script by which SHELL completes commands, options, operations and files.

    \b
    gradexplain completion bash > ~/.local/share/bash-completion/completions/gradexplain
    gradexplain completion fish > ~/.config/fish/completions/gradexplain.fish
    """
    root = context.find_root()
    made = get_completion_class(shell)
    assert made is not None
    # click's own way asks bash for its version, which need not be installed here.
    script = made(root.command, {}, "gradexplain", ASKING)
    output.write(script.source_template % script.source_vars())
    return 0


@click.command(short_help="Print the manual page.")
@click.pass_context
def man(context: click.Context) -> int:
    """Print the manual page, made from the help of all commands, for man to show.

    \b
    gradexplain man > ~/.local/share/man/man1/gradexplain.1
    """
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    lines = [
        '.TH GRADEXPLAIN 1 "" gradexplain',
        ".SH NAME",
        r"gradexplain \- what the argument of PyTorch's backward is, step by step and checked",
        ".SH SYNOPSIS",
        r".B gradexplain",
        r"\fICOMMAND\fR [\fIOPTIONS\fR] [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        *_paragraphs(root.command.help or ""),
    ]
    for name in root.command.list_commands(root):
        command = root.command.commands[name]
        inner = click.Context(command, parent=root, info_name=name)
        usage = " ".join(command.collect_usage_pieces(inner))
        lines += [".SH " + name.upper(), rf".B gradexplain {name}", _roff(usage)]
        lines += [".PP", *_paragraphs(command.help or "")]
        for parameter in command.get_params(inner):
            if isinstance(parameter, click.Argument):
                continue  # the text speaks of it
            record = parameter.get_help_record(inner)
            if record is not None:
                lines += [".TP", rf"\fB{_roff(record[0])}\fR", _roff(record[1])]
    output.write("\n".join(lines) + "\n")
    return 0


def _paragraphs(text: str) -> list[str]:
    """Help text as roff: its paragraphs, and those that click is told to leave as they are."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in paragraph.splitlines()]
        if lines[0] == "\b":
            found += [".PP", ".nf", *map(_roff, lines[1:]), ".fi"]
        else:
            found += [".PP", _roff(" ".join(lines))]
    return found


def _roff(text: str) -> str:
    text = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-")
    return "\\&" + text if text.startswith((".", "'")) else text
