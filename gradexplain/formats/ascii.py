"""Stand-ins for a terminal that cannot show the mathematics: the one place that knows them."""

from __future__ import annotations

import codecs

_STAND_INS = str.maketrans({
    "δ": "delta", "∂": "d", "Σ": "sum", "Π": "prod", "√": "sqrt", "∞": "inf", "·": "*", "×": "x", "²": "^2",
    "³": "^3", "ᵀ": "^T", "…": "...", **dict.fromkeys("−–—─", "-"), "│": "|", **dict.fromkeys("┌┐└┘├┤┬┴┼", "+"),
    "◄": "<", "→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≠": "!=", "π": "pi", "μ": "mu", "σ": "sigma",
    "\u0302": "_hat", "⌊": "floor(", "⌋": ")", **dict.fromkeys("‘’", "'"), **dict.fromkeys("“”", '"'),
})  # fmt: skip


def is_unicode(encoding: str | None) -> bool:
    """Whether ``encoding`` can hold every character (an unknown one is not trusted to; text that is
    kept as text, as in a StringIO, has none)."""
    try:
        return encoding is None or codecs.lookup(encoding).name.startswith("utf")
    except LookupError:
        return False


def fold(text: str, encoding: str) -> str:
    """``text`` in characters that ``encoding`` has: stand-ins for ours, escapes for a user's own."""
    if is_unicode(encoding):
        return text
    try:
        return text.translate(_STAND_INS).encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.translate(_STAND_INS).encode("ascii", "backslashreplace").decode("ascii")
