"""What clings to a text that is copied from a page: prompts, outputs, fences, quotes, indentation."""

from __future__ import annotations

import ast
import re
import warnings
from keyword import kwlist

from gradexplain.errors import Span
from gradexplain.reading.said import refused

#: Full-width punctuation, and other quotes, minus signs and blanks than Python's.
_QUOTES = str.maketrans(
    {
        **dict.fromkeys("“”„‟", '"'), **dict.fromkeys("‘’‚‛", "'"), **dict.fromkeys("−–", "-"),
        "\u00a0": " ", "\u3000": " ", "\u200b": None,
        **{chr(n + 0xFEE0): chr(n) for n in range(0x21, 0x7F) if not chr(n).isalnum()},
    }
)  # fmt: skip
_CITED = re.compile(r"^[ \t]*>(?:[ ](?!>>)|$)")
#: The number of a line, as it stands beside it.
_NUMBERED = re.compile(r"^[ \t]*\d+(?:[.:|][ \t]?|[ \t]|$)")
_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_PROMPT = re.compile(
    r"[ \t]*(?:(?P<shell>>>>|\.\.\.)(?:[ ]|$)|(?P<cell>In[ ]?\[[ \d*]*\]:|[ ]+\.\.\.:)[ ]?)"
)
#: A line that Python printed: a value, or the end of a traceback.
_OUTPUT = re.compile(
    r"[ \t]*(?:Out[ ]?\[\d*\]:|[\w</][^\s#]*:\d+: \w*Warning: |\(?tensor\(|array\("
    r"|Traceback \(most recent|[A-Za-z_.]*(?:Error|Warning): "
    r"|<[A-Za-z]\w*(?:Backward\d*| object)\b|-{20,}\s*$|torch\.Size\()"
)
#: What makes a line that looks like a printed value part of a formula.
_CODE = re.compile(r"requires_grad=True\)?\.|\)\s*[-+*/@.]|\w\s*=\s*tensor\(")
_MAGIC = re.compile(r"[ \t]*(?:%|!(?!=))")
_OLD_PRINT = re.compile(r"^([ \t]*)print[ \t]+(?![(=])([^\n#]*)", re.MULTILINE)
_OPENING, _CLOSING = "([{", ")]}"
#: A text in which lines that Python cannot read may be what it printed.
SCRIPT = re.compile(
    r"^\s*(?:import |from \w|def |In ?\[|>>> )|\.backward\(|requires_grad", re.MULTILINE
)
#: What Python printed between a text's lines: an object's address, numbers, words side by side.
_PRINTED = re.compile(
    r"\s*(?:[\[(]*<.*|\[torch\..*|[\d\s.,\[\]+\-e:|*=_]+$|[^#]*`[^`]+`.*"
    rf"|(?!(?:{'|'.join(kwlist)})\b)[\w.'%(),-]+[:,]?[ \t]+[\w.'\"(\[<-].*"
    r"|(?=.*[\u3040-\u9fff\uac00-\ud7a3])[^=(]*$)"
)
#: What is code, whatever is wrong with it.
_ASSIGNED = re.compile(r".*\w\.\w+\(|\s*[\w.\[\]]+(?:\s*,\s*[\w.\[\]]+)*\s*[-+*/@]?=")
#: The lines of a module that was printed: ``(fc1): Linear(…)``.
_HELD = re.compile(r"\s*\(\w+\): \w+\(")
#: What goes on with a line before it, and never starts a statement.
_OPERATOR = re.compile(r"[ \t]*(?:[+*/%@|&<>=.,)\]]|-\s)")


def cleaned(text: str) -> str:
    """``text`` as a program: what clings to it is taken away, and the indentation that all share."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    text = text.translate(_QUOTES)
    if "\n" not in text.strip() and not _PROMPT.match(text):
        return text.lstrip(" \t\f\n")
    lines = _fenced([_CITED.sub("", line) for line in text.split("\n")])
    if all(map(_NUMBERED.match, filter(str.strip, lines))):
        lines = [_NUMBERED.sub("", line) for line in lines]
    lines = _prompted(lines)
    lines = [line for line in lines if not _MAGIC.match(line)]
    source = _OLD_PRINT.sub(r"\1print(\2)", _dedented(lines))
    return _unprinted(source) if SCRIPT.search(text) else source


def _unprinted(source: str) -> str:
    """The text without the lines that Python cannot read and that look like what it printed."""
    lines = source.split("\n")
    while True:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse("\n".join(lines))
            break
        except SyntaxError as error:
            start = end = min(error.lineno or 1, len(lines)) - 1
        except (ValueError, RecursionError, MemoryError):
            break
        if _HELD.match(lines[start]):
            start = next(
                (n for n in range(start, 0, -1) if re.match(r"\s*\w+\($", lines[n])), start
            )
            closed = (n for n in range(end, len(lines)) if lines[n].rstrip() == ")")
            end = next(closed, end)
        elif not _PRINTED.match(lines[start]) or _ASSIGNED.match(lines[start]):
            break
        del lines[start : end + 1]
    return "\n".join(lines)


def _fenced(lines: list[str]) -> list[str]:
    """What stands inside fences, where there are any."""
    fences = [place for place, line in enumerate(lines) if _FENCE.match(line)]
    if not fences:
        return lines
    if len(fences) % 2:
        fences.append(len(lines))
    inside = zip(fences[::2], fences[1::2], strict=True)
    return [line for start, end in inside for line in lines[start + 1 : end]]


def _prompted(lines: list[str]) -> list[str]:
    """The lines without prompts, and without what Python printed."""
    found = [_PROMPT.match(line) for line in lines]
    shell = any(match and match["shell"] == ">>>" for match in found)
    cells = any(match and match["cell"] for match in found)
    kept: list[str] = []
    depth = 0  # of brackets that a printed value has opened
    printed = False
    code = ""
    first = 0  # the statement or cell that is being read
    for line, match in zip(lines, found, strict=True):
        if match and (shell or cells):
            rest = line[match.end() :]
            depth, printed = 0, False
            first = len(kept) if match["shell"] == ">>>" or "In" in (match["cell"] or "") else first
            kept.append(rest)
            code = rest
            continue
        if "Traceback (most recent call" in line and (shell or cells) and kept[first:]:
            # What raised an error there is read as what may raise one.
            kept[first:] = ["try:", *(f"    {n}" for n in kept[first:]), "except Exception: pass"]
            first = len(kept)
        if shell:
            continue  # between prompts stands what was printed
        if depth > 0:
            depth += _depth(line)
            continue
        if _OUTPUT.match(line) and _depth(code) <= 0 and not _CODE.search(line):
            depth, printed = _depth(line), True
            continue
        if printed and line[:1] in (" ", "\t") and not code.rstrip().endswith(":"):
            continue  # the lines of a traceback
        printed = False
        kept.append(line)
        if line.strip():
            code = line
    return kept


def _depth(line: str) -> int:
    """How many brackets a line leaves open."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", line)
    return sum(plain.count(c) for c in _OPENING) - sum(plain.count(c) for c in _CLOSING)


def _dedented(lines: list[str]) -> str:
    first = next((place for place, line in enumerate(lines) if _counts(line)), None)
    if first is None:
        return "\n".join(lines)
    common = _indentation(lines[first])
    rest = [line for line in lines[first + 1 :] if _counts(line)]
    if not common and rest and _depth(lines[first]) <= 0:
        # The first line lost its indentation where it was copied.
        least = min((_indentation(line) for line in rest), key=len)
        bare = lines[first].split("#")[0].rstrip()
        if least and not bare.endswith((":", "\\", ",")) and not any(map(_OPERATOR.match, rest)):
            return "\n".join(
                [*lines[: first + 1], *(_without(n, least) for n in lines[first + 1 :])]
            )
    source = "\n".join(_without(line, common) for line in lines)
    if common:
        _check(lines, first, common)
    return source


def _check(lines: list[str], first: int, common: str) -> None:
    """Refuse a line with less indentation that goes on with the line before it."""
    depth = 0
    for n, line in enumerate(lines):
        outside = depth <= 0 and n > first and _counts(line)
        if outside and not line.startswith(common) and _OPERATOR.match(line):
            start = sum(len(before) + 1 for before in lines[:n])
            place = Span(start + len(_indentation(line)), start + len(line))
            raise refused("indented unlike").at("\n".join(lines), place)
        depth += _depth(line)


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _indentation(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t\f"))]


def _without(line: str, indentation: str) -> str:
    """The line without as much of ``indentation`` as it has."""
    if line.startswith(indentation):
        return line[len(indentation) :]
    own = _indentation(line)
    return line[len(own) :] if len(own) <= len(indentation) else line[len(indentation) :]
