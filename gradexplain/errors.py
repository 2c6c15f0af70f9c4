"""The one exception family, and how a message is laid out.

Every message says what was found, what was expected, shows the place with a caret, and ends with the
remedy.  The text is the same from Python and from the command line.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from gradexplain.limits import MAX_ECHO

#: Categories of characters that are shown escaped: control, format, surrogates, ends of lines.
_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")

#: A source line longer than this is cut around the caret.
_EXCERPT = 72


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of characters ``[start, end)`` in a source text."""

    start: int
    end: int


class GradexplainError(Exception):
    """The request could not be understood or carried out.

    ``message`` is one sentence; ``source`` and ``span`` give the place, ``remedy`` what to do next.
    ``str(error)`` is the whole message, as the command line prints it.
    """

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        span: Span | None = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.source = source
        self.span = span
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        parts = [printable(clipped(self.message))]
        if self.source is not None and self.span is not None:
            parts.extend(_excerpt(self.source, self.span))
        if self.remedy:
            parts.append(f"remedy: {printable(clipped(self.remedy))}")
        return "\n".join(parts)

    def at(self, source: str, span: Span) -> GradexplainError:
        """The same error with its place filled in, unless it already has one."""
        if self.source is None:
            self.source, self.span = source, span
        return self


class InputError(GradexplainError):
    """The request makes no sense: no version of the tool could carry it out."""


class BudgetError(GradexplainError):
    """The request takes more time or memory than it was given."""


class UnsupportedError(GradexplainError):
    """The request makes sense to PyTorch, but is not supported yet."""


def clipped(text: str) -> str:
    """``text`` without its middle where it is long: what was given stands there, however long.

    The one place where messages are clipped.
    """
    if len(text) <= 2 * MAX_ECHO + 100:
        return text
    return f"{text[:MAX_ECHO]} … {text[-MAX_ECHO:]}"


def printable(text: str, escape: Callable[[str], str] = ascii) -> str:
    """``text`` with control and bidirectional characters escaped, so that it cannot steer a terminal."""
    return "\n".join(
        line
        if line.isprintable()
        else "".join(
            escape(ch)[1:-1] if unicodedata.category(ch) in _STEERING else ch for ch in line
        )
        for line in text.split("\n")
    )


def cells(text: str) -> int:
    """The number of terminal cells that ``text`` takes."""
    wide = (unicodedata.east_asian_width(ch) in ("W", "F") for ch in text)
    return sum(
        1 + more for ch, more in zip(text, wide, strict=True) if not unicodedata.combining(ch)
    )


def _excerpt(source: str, span: Span) -> list[str]:
    """The line that holds ``span``, and a line with carets under the span."""
    start = min(max(span.start, 0), len(source))
    line_start = source.rfind("\n", 0, start) + 1
    line_end = source.find("\n", start)
    line_end = len(source) if line_end < 0 else line_end
    end = min(max(span.end, start + 1), max(line_end, start + 1))
    before, marked, after = source[line_start:start], source[start:end], source[end:line_end]
    if len(before) + len(marked) + len(after) > _EXCERPT:
        if len(before) > _EXCERPT // 2:
            before = "…" + before[-(_EXCERPT // 2) :]
        marked = marked[: _EXCERPT // 2]
        room = max(0, _EXCERPT - len(before) - len(marked))
        after = after if len(after) <= room else after[:room] + "…"
    before, marked, after = printable(before), printable(marked), printable(after)
    return [f"  {before}{marked}{after}", "  " + " " * cells(before) + "^" * max(1, cells(marked))]


def no_file(path: str, remedy: str) -> InputError:
    """There is no file at a path, or something else: a directory, a device."""
    other = "a directory" if os.path.isdir(path) else "no regular file"
    message = f"{path} is {other}" if os.path.exists(path) else f"there is no file {path}"
    return InputError(message, remedy=remedy)


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).strip().split("\n")[0]
