"""Values of the inputs and of ``v`` as options spell them.  Nothing is evaluated.

::

    value   := "ones" | "@" file | items | call items: see `gradexplain.reading.items`
    call    := a tensor of literals as PyTorch makes it: torch.ones(2, 3), torch.eye(3)[0]
    file    := a path that ends in .npy, .json or .pt
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable
from typing import NoReturn, TypeVar

from gradexplain.errors import InputError, Span
from gradexplain.explanation import Shape
from gradexplain.limits import MAX_VALUE_TEXT
from gradexplain.reading.arrays import ONES, Value, check_shape
from gradexplain.reading.files import read_file
from gradexplain.reading.items import quoted, read_items
from gradexplain.reading.said import refused

T = TypeVar("T")


def parse_value(text: str, what: str) -> Value:
    """The value that ``text`` spells.  ``what`` names it in messages: ``--grad``, ``--at x``."""
    return _parse_value(text, 0, what)


def parse_binding(text: str, option: str = "--at") -> tuple[str, Value]:
    """``NAME=VALUE``, the argument of ``--at``."""
    name, start = _parse_name(text, option, "NAME=VALUE", f"{option} x=1,2,3")
    return name, _parse_value(text, start, f"{option} {name}")


def parse_bindings(texts: Iterable[str], option: str = "--at") -> dict[str, Value]:
    """All ``--at`` options; a name can be given once."""
    return _each_once(option, (parse_binding(text, option) for text in texts))


def parse_shape(text: str) -> tuple[str, Shape]:
    """``NAME=D0,D1,…``, the argument of ``--shape``.

    The sizes may stand in ``( )`` or ``[ ]``, as PyTorch prints them; none is the scalar's shape.
    """
    name, sizes = _parse_sizes(text, r"[0-9]+")
    return name, tuple(size for size in sizes if isinstance(size, int))


def _parse_sizes(text: str, known: str) -> tuple[str, tuple[int | str, ...]]:
    """The name and the sizes, each of which matches ``known``: a number or a letter."""
    name, start = _parse_name(text, "--shape", "NAME=D0,D1,…", "--shape x=2,3")
    what = f"--shape {name}"
    sizes = text[start:].strip()
    if sizes[:1] + sizes[-1:] in ("()", "[]"):
        sizes = sizes[1:-1].strip()
    found = [*map(str.strip, sizes.removesuffix(",").split(",") if sizes else [])]
    for size in found:
        if not re.fullmatch(known, size):
            wrong = f"{quoted(size)} is not a size" if size else "a size is missing"
            raise refused("no size", wrong=wrong, name=name).at(text, Span(start, len(text)))
    read = tuple(_whole(size) if size[0].isdigit() else size for size in found)
    check_shape(tuple(n for n in read if isinstance(n, int)), what)
    return name, read


def parse_letters(texts: Iterable[str]) -> dict[str, tuple[int | str, ...]] | None:
    """All ``--shape`` options where a size is a letter, as in ``x=N,M``; None where none is."""
    found = _each_once("--shape", (_parse_sizes(text, r"[0-9]+|[A-Za-z]\w*") for text in texts))
    lettered = any(isinstance(n, str) for shape in found.values() for n in shape)
    return found if lettered else None


def parse_shapes(texts: Iterable[str]) -> dict[str, Shape]:
    """All ``--shape`` options; a name can be given once."""
    return _each_once("--shape", map(parse_shape, texts))


def _each_once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for name, sizes in pairs:
        if name in found:
            raise InputError(f"{option} gives {name} twice", remedy="delete one of the two")
        found[name] = sizes
    return found


def _parse_name(text: str, option: str, form: str, example: str) -> tuple[str, int]:
    """The name before ``=``, as Python would normalise it, and where its value starts."""
    if len(text) > MAX_VALUE_TEXT:
        _too_long(option)
    name, equals, _ = text.partition("=")
    remedy = f"write `{example}`"
    if not equals:
        raise InputError(f"{option} takes {form}, not {quoted(text)}", remedy=remedy)
    plain = unicodedata.normalize("NFKC", name.strip())
    if not plain.isidentifier() or keyword.iskeyword(plain):
        found = f"{quoted(name.strip())} is not a name" if name.strip() else "there is no name"
        message = f"{option}: {found}"
        raise InputError(message, source=text, span=Span(0, len(name)), remedy=remedy)
    return plain, len(name) + 1


def _parse_value(source: str, start: int, what: str) -> Value:
    if len(source) > MAX_VALUE_TEXT:
        _too_long(what)
    text = source[start:].strip()
    if text == "ones":
        return ONES
    if text.startswith("@"):
        return read_file(text[1:].strip(), what)
    if _MADE.match(text):
        from gradexplain.reading.literal import literal  # the language, which few values need

        return literal(text, what)
    return read_items(source, start, what, wrapped=True)


#: A tensor made by a function of PyTorch: ``torch.ones(2)``.
_MADE = re.compile(r"(?:torch\.)?(?:ones|zeros|full|eye|arange|linspace|Tensor|FloatTensor)\s*\(")


def _too_long(what: str) -> NoReturn:
    message = f"{what}: the text has more than {MAX_VALUE_TEXT:,} characters"
    raise InputError(message, remedy="save the values with numpy.save() and give `@file.npy`")


def _whole(digits: str) -> int:
    """``int(digits)``; past 18 digits any number is too large alike, and Python refuses 4300."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else 10**18
