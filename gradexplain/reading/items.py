"""Numbers and nested lists as typed or pasted, read from left to right.  Nothing is evaluated.

::

    items   := item ("," item)* [","]        one item without a comma is itself, else a list
    item    := NUMBER | "[" items "]"
    wrapped := items | wrapper "(" items [options] ")"
    wrapper := "tensor" | "torch.tensor" | "np.array" | …      as pasted from a terminal
    options := (", requires_grad=True" | ", dtype=torch.float64" | …)*                   ignored

``NUMBER`` is a decimal number, ``inf``, ``nan``, or ``True``/``False`` (1 and 0, as in a tensor).
``1`` has the shape ``()``, ``1,`` and ``[1]`` have ``(1,)``.
"""

from __future__ import annotations

import math
import re
from array import array
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from gradexplain.errors import InputError, Span
from gradexplain.explanation import Array, Shape
from gradexplain.limits import MAX_DIMENSIONS
from gradexplain.reading.arrays import check_shape


def read_items(source: str, start: int, what: str, *, wrapped: bool) -> Array:
    """The array that ``source`` spells from ``start`` on; ``tensor(…)`` may stand around it."""
    return _Reader(source, start, what).read(wrapped=wrapped)


def quoted(text: str) -> str:
    """A text of strangers in a message, cut where it is long."""
    return f"`{text}`" if len(text) <= 40 else f"`{text[:40]}…`"


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number> (?:[+-]\s*)?(?: (?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?
                            | (?:inf|Infinity|nan|NaN)\b )
                | (?:true|True|false|False)\b )
    | (?P<open> \[ )
    | (?P<close> \] )
    | (?P<comma> , )
    | (?P<end> \Z )
    | (?P<other> \.\.\. | \w+ | . )
    )""",
    re.VERBOSE | re.DOTALL,
)
_WRAPPER = re.compile(
    r"\s*(?:(?:torch\.)?(?:tensor|Tensor|DoubleTensor)|(?:(?:np|numpy)\.)?array)\s*\("
)
_OPTIONS = re.compile(
    r"\s*(?:,\s*(?:requires_grad|dtype|device|grad_fn)\s*=[^,()\[\]]*)*(?:,\s*)?\)\s*\Z"
)
_SWITCHES = {"true": 1.0, "True": 1.0, "false": 0.0, "False": 0.0}


@dataclass(slots=True)
class _List:
    """A list whose closing bracket has not been read: how many items, of which shape."""

    start: int
    count: int = 0
    item: Shape | None = None  # not known before the first one
    ready: bool = True  # for an item: the list was just opened, or a comma was read


class _Reader:
    """Reads ``items`` from left to right, without recursion, and knows the place of each."""

    def __init__(self, source: str, start: int, what: str) -> None:
        self.source = source
        self.position = start
        self.what = what
        self.numbers = array("d")

    def read(self, *, wrapped: bool) -> Array:
        """The array; with ``wrapped``, ``tensor(…)`` may stand around it."""
        wrapper = _WRAPPER.match(self.source, self.position) if wrapped else None
        if wrapper:
            self.position = wrapper.end()
        lists = [_List(self.position)]  # the outermost has no bracket of its own
        while not (wrapper and len(lists) == 1 and _OPTIONS.match(self.source, self.position)):
            if not self._take(lists):
                if wrapper:
                    place = Span(wrapper.end() - 1, wrapper.end())
                    self._fail("`(` is never closed", place, "write `)` at the end")
                break
        return self._array(lists[0])

    def _take(self, lists: list[_List]) -> bool:
        """Read one token into ``lists``, those that are open; False at the end of the text."""
        token = _TOKEN.match(self.source, self.position)
        assert token is not None  # its last alternative is any character
        self.position = token.end()
        kind = token.lastgroup or "other"
        place = Span(*token.span(kind))
        inner = lists[-1]
        if kind in ("number", "open") and not inner.ready:
            self._fail("a comma is missing before this", place, "write commas between elements")
        if kind == "number":
            self.numbers.append(self._number(token[kind], place))
            self._add(inner, (), place)
        elif kind == "open":
            lists.append(_List(place.start))
            if len(lists) > MAX_DIMENSIONS + 1:
                message = f"lists are nested more than {MAX_DIMENSIONS} deep"
                self._fail(message, place, "write fewer brackets")
        elif kind == "comma" and not inner.ready:
            inner.ready = True
        elif kind == "close" and len(lists) > 1:
            lists.pop()
            self._add(lists[-1], self._shape(inner, place.end), Span(inner.start, place.end))
        elif kind == "end" and len(lists) > 1:
            opening = Span(inner.start, inner.start + 1)
            self._fail("`[` is never closed", opening, "write `]` where it ends")
        elif kind != "end":
            self._unexpected(token[kind], place)
        return kind != "end"

    def _array(self, root: _List) -> Array:
        if root.count == 0:
            remedy = "write numbers, as in `0.1,1,0.0001` or `[[1,0],[0,2]]`"
            raise InputError(f"{self.what}: there is no value", remedy=remedy)
        assert root.item is not None
        alone = root.count == 1 and not root.ready
        shape = root.item if alone else (root.count, *root.item)
        check_shape(shape, self.what)
        return np.array(self.numbers, dtype=np.float64).reshape(shape)

    def _shape(self, closed: _List, end: int) -> Shape:
        if closed.item is None:
            place = Span(closed.start, end)
            self._fail(
                "an empty list holds no elements", place, "write numbers in it, or delete it"
            )
        return (closed.count, *closed.item)

    def _add(self, to: _List, shape: Shape, place: Span) -> None:
        """Count an item of ``shape``, which has to be the shape of the items before it."""
        if to.item is None:
            to.item = shape
        elif to.item != shape:
            message = f"{_called(shape)} stands beside {_called(to.item)}"
            self._fail(message, place, "give all lists of one level the same length")
        to.count += 1
        to.ready = False

    def _number(self, text: str, place: Span) -> float:
        if text in _SWITCHES:
            return _SWITCHES[text]
        number = float("".join(text.split()))
        if math.isinf(number) and "n" not in text:
            self._fail("this number is too large for a float64", place, "write one below 1.8e308")
        return number

    def _unexpected(self, found: str, place: Span) -> NoReturn:
        if found == "...":
            message = "`...` stands for elements that were left out in print"
            self._fail(message, place, "save the values with numpy.save() and give `@file.npy`")
        if found in "−–—":
            self._fail(f"`{found}` is not a minus sign", place, "write `-`")
        if found == "]":
            self._fail("`]` closes a list that was never opened", place, "delete it")
        remedy = "write decimal numbers, with [ ] around lists, as in `0.1,1` or `[[1,0],[0,2]]`"
        self._fail(f"a number or a list was expected, not {quoted(found)}", place, remedy)

    def _fail(self, message: str, place: Span, remedy: str) -> NoReturn:
        raise InputError(f"{self.what}: {message}", source=self.source, span=place, remedy=remedy)


def _called(shape: Shape) -> str:
    if not shape:
        return "a number"
    return f"a list of length {shape[0]}" if len(shape) == 1 else f"a list of shape {shape}"
