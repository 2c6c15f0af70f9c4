"""Values of the inputs and of ``v``: as typed, from a file, or from Python.  Nothing is evaluated.

What can be typed::

    value   := "ones" | "@" file | items | wrapper "(" items [options] ")"
    items   := item ("," item)* [","]        one item without a comma is itself, else a list
    item    := NUMBER | "[" items "]"
    wrapper := "tensor" | "torch.tensor" | "np.array" | …      as pasted from a terminal
    options := (", requires_grad=True" | ", dtype=torch.float64" | …)*                   ignored
    file    := a path that ends in .npy, .json or .pt

``NUMBER`` is a decimal number, ``inf``, ``nan``, or ``True``/``False`` (1 and 0, as in a tensor).
``1`` has the shape ``()``, ``1,`` and ``[1]`` have ``(1,)``.  A ``.json`` file holds ``items``.

A value is a float64 array of at least one element, or `ONES`, whose shape is not known yet.
"""

from __future__ import annotations

import enum
import io
import keyword
import math
import os
import pickletools
import re
import stat
import sys
import unicodedata
import warnings
import zipfile
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, TypeAlias

import numpy as np

from gradexplain.errors import InputError, Span, UnsupportedError
from gradexplain.explanation import Array, Shape
from gradexplain.limits import (
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_FILE_BYTES,
    MAX_PICKLE_BYTES,
    MAX_VALUE_TEXT,
)


class Ones(enum.Enum):
    """A tensor of ones in whatever shape is needed."""

    ONES = "ones"


ONES: Final = Ones.ONES

Value: TypeAlias = Array | Literal[Ones.ONES]

DType: TypeAlias = Literal["float64", "float32"]


# ---- what is typed -------------------------------------------------------------------------------


def parse_value(text: str, what: str) -> Value:
    """The value that ``text`` spells.  ``what`` names it in messages: ``--grad``, ``--at x``."""
    return _parse_value(text, 0, what)


def parse_binding(text: str) -> tuple[str, Value]:
    """``NAME=VALUE``, the argument of ``--at``."""
    name, start = _parse_name(text, "--at", "NAME=VALUE", "--at x=1,2,3")
    return name, _parse_value(text, start, f"--at {name}")


def parse_bindings(texts: Iterable[str]) -> dict[str, Value]:
    """All ``--at`` options; a name can be given once."""
    values: dict[str, Value] = {}
    for name, value in map(parse_binding, texts):
        if name in values:
            raise InputError(f"--at gives {name} twice", remedy="delete one of the two")
        values[name] = value
    return values


def parse_shape(text: str) -> tuple[str, Shape]:
    """``NAME=D0,D1,…``, the argument of ``--shape``.

    The sizes may stand in ``( )`` or ``[ ]``, as PyTorch prints them; none is the scalar's shape.
    """
    name, start = _parse_name(text, "--shape", "NAME=D0,D1,…", "--shape x=2,3")
    what = f"--shape {name}"
    sizes = text[start:].strip()
    if sizes[:1] + sizes[-1:] in ("()", "[]"):
        sizes = sizes[1:-1].strip()
    shape = []
    for size in map(str.strip, sizes.removesuffix(",").split(",") if sizes else []):
        if not re.fullmatch(r"[0-9]+", size):
            found = f"{_quoted(size)} is not a size" if size else "a size is missing"
            raise InputError(
                f"{what}: {found}",
                source=text,
                span=Span(start, len(text)),
                remedy=f"write whole numbers with commas between them, as in `--shape {name}=2,3`",
            )
        shape.append(_whole(size))
    check_shape(shape, what)
    return name, tuple(shape)


def parse_shapes(texts: Iterable[str]) -> dict[str, Shape]:
    """All ``--shape`` options; a name can be given once."""
    shapes: dict[str, Shape] = {}
    for name, shape in map(parse_shape, texts):
        if name in shapes:
            raise InputError(f"--shape gives {name} twice", remedy="delete one of the two")
        shapes[name] = shape
    return shapes


def check_shape(shape: Iterable[int], what: str) -> None:
    """Refuse a shape that no tensor here can have, before anything of its size is made."""
    sizes = tuple(shape)
    if len(sizes) > MAX_DIMENSIONS:
        message = (
            f"{what}: a tensor of {len(sizes)} dimensions; at most {MAX_DIMENSIONS} are supported"
        )
        raise UnsupportedError(message, remedy="reshape it")
    if any(size < 0 for size in sizes):
        raise InputError(f"{what}: a size is negative", remedy="write sizes of at least 1")
    count = math.prod(sizes)
    if count == 0:
        message = f"{what}: a tensor of shape {sizes} holds no elements to differentiate by"
        raise UnsupportedError(message, remedy="use sizes of at least 1")
    if count > MAX_ELEMENTS:
        elements = f"{count:,}" if count < 10**18 else "more than 10**18"
        message = f"{what}: {elements} elements; at most {MAX_ELEMENTS:,} are supported"
        raise UnsupportedError(message, remedy="use a smaller shape; the formulas are the same")


def _parse_name(text: str, option: str, form: str, example: str) -> tuple[str, int]:
    """The name before ``=``, as Python would normalise it, and where its value starts."""
    if len(text) > MAX_VALUE_TEXT:
        _too_long(option)
    name, equals, _ = text.partition("=")
    remedy = f"write `{example}`"
    if not equals:
        raise InputError(f"{option} takes {form}, not {_quoted(text)}", remedy=remedy)
    plain = unicodedata.normalize("NFKC", name.strip())
    if not plain.isidentifier() or keyword.iskeyword(plain):
        found = f"{_quoted(name.strip())} is not a name" if name.strip() else "there is no name"
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
    return _Reader(source, start, what).read(wrapped=True)


def _too_long(what: str) -> NoReturn:
    message = f"{what}: the text has more than {MAX_VALUE_TEXT:,} characters"
    raise InputError(message, remedy="save the values with numpy.save() and give `@file.npy`")


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
        self._fail(f"a number or a list was expected, not {_quoted(found)}", place, remedy)

    def _fail(self, message: str, place: Span, remedy: str) -> NoReturn:
        raise InputError(f"{self.what}: {message}", source=self.source, span=place, remedy=remedy)


def _called(shape: Shape) -> str:
    if not shape:
        return "a number"
    return f"a list of length {shape[0]}" if len(shape) == 1 else f"a list of shape {shape}"


def _quoted(text: str) -> str:
    return f"`{text}`" if len(text) <= 40 else f"`{text[:40]}…`"


def _whole(digits: str) -> int:
    """``int(digits)``; past 18 digits any number is too large alike, and Python refuses 4300."""
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= 18 else 10**18


# ---- what comes from Python ----------------------------------------------------------------------


def as_array(value: object, what: str) -> Value:
    """A number, nested lists, a NumPy array or a tensor as a new float64 array; or ``"ones"``.

    PyTorch is not imported for this: where there is a tensor, it has been.
    """
    if value is ONES or (isinstance(value, str) and value == "ones"):
        return ONES
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _from_tensor(value, what)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = np.asarray(value)
        except Exception as error:
            ragged = "inhomogeneous" in str(error)
            reason = (
                "lists of one level differ in length" if ragged else "it is not made of numbers"
            )
            raise InputError(f"{what}: {reason}", remedy=_FROM_PYTHON) from None
    return _from_numpy(found, what)


_ROUND = "give it as a float, rounded as you mean it"
_FROM_PYTHON = 'give a number, a list of numbers, a NumPy array, a tensor, or "ones"'


def _from_numpy(found: np.ndarray[Any, Any], what: str) -> Array:
    """A copy in float64, which must hold every element's value."""
    if found.dtype.kind == "O" and found.size and type(found.flat[0]) is int:
        message = f"{what}: integers beyond 64 bits are not supported"
        raise UnsupportedError(message, remedy=_ROUND)
    _check_type(found.dtype, what)
    check_shape(found.shape, what)
    if found.dtype.kind in "iu":
        large = found[(found > 2**53) | (found < -(2**53))]
        magnitude = np.abs(large).astype(np.uint64)
        odd_part = magnitude // (magnitude & (~magnitude + np.uint64(1)))
        lost = large[
            odd_part > 2**53
        ]  # a float64 holds 53 bits, and any number of zeros after them
        if lost.size:
            message = f"{what}: no float64 holds the integer {lost[0]} exactly"
            raise InputError(message, remedy=_ROUND)
    with np.errstate(over="ignore"):  # a long double may not fit
        return np.array(found, dtype=np.float64, order="C")


def _check_type(dtype: np.dtype[Any], what: str) -> None:
    """Refuse elements that are not real numbers."""
    if dtype.kind == "c":
        raise UnsupportedError(
            f"{what}: complex numbers are not supported",
            remedy="give the real and the imaginary part as two inputs",
        )
    if dtype.kind not in "biuf":
        called = _TYPES.get(dtype.kind, dtype.name)
        raise InputError(f"{what}: {called} instead of real numbers", remedy=_FROM_PYTHON)


_TYPES = {"O": "Python objects", "U": "text", "S": "bytes", "V": "records", "M": "dates"}


def _from_tensor(tensor: Any, what: str) -> Array:
    """The elements of a tensor, on the CPU, apart from the graph it belongs to."""
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        message = f"{what}: only dense tensors with elements are supported"
        raise UnsupportedError(message, remedy="give `x.to_dense()` or `x.dequantize()`")
    check_shape(tensor.shape, what)
    if tensor.dtype.is_complex:
        _check_type(np.dtype(np.complex128), what)
    plain = tensor.detach().to("cpu").resolve_neg()
    if tensor.dtype.is_floating_point:
        plain = plain.to(torch.float64)  # NumPy has no bfloat16
    return _from_numpy(plain.numpy(), what)


# ---- what is in a file ---------------------------------------------------------------------------


def read_file(path: str, what: str) -> Array:
    """The one array in a ``.npy``, ``.json`` or ``.pt`` file.  Nothing in a file is executed."""
    where = f"{what} @{path}"
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npz":
        raise UnsupportedError(
            f"{where}: an archive of several arrays is not supported",
            remedy='save the one array: numpy.save("x.npy", numpy.load("x.npz")["x"])',
        )
    if suffix not in _FORMATS:
        expected = "expected a file that ends in .npy, .json or .pt"
        remedy = 'save the array with numpy.save("x.npy", x) and give `@x.npy`'
        raise InputError(f"{where}: {expected}", remedy=remedy)
    content = _bytes(path, where, MAX_VALUE_TEXT if suffix == ".json" else MAX_FILE_BYTES)
    return _FORMATS[suffix](content, where)


def _bytes(path: str, where: str, cap: int) -> bytes:
    """The content of a file of at most ``cap`` bytes; reading a pipe could wait for ever."""
    remedy = "check the path; a relative one starts at the current directory"
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise InputError(f"{where}: this is {kind}, not a file", remedy=remedy)
        if status.st_size > cap:
            message = f"{where}: the file has {status.st_size:,} bytes; at most {cap:,} are read"
            raise InputError(message, remedy="save fewer elements, as a .npy file")
        with open(path, "rb") as file:
            content = file.read(cap + 1)
    except FileNotFoundError:
        raise InputError(f"{where}: there is no such file", remedy=remedy) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InputError(f"{where}: cannot be read ({reason})", remedy=remedy) from None
    return content


def _read_npy(content: bytes, where: str) -> Array:
    remedy = 'save it anew with numpy.save("x.npy", x)'
    file = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on headers that Python 2 wrote
            version = np.lib.format.read_magic(file)
            header = _HEADERS[version](file)
    except Exception:
        raise InputError(f"{where}: not a .npy file of one array", remedy=remedy) from None
    shape, fortran, dtype = header
    if dtype.hasobject:
        message = f"{where}: Python objects are never loaded, as that could run code"
        raise InputError(message, remedy='save numbers: numpy.save("x.npy", x.astype(float))')
    _check_type(dtype, where)
    check_shape(shape, where)
    count = math.prod(shape)
    if len(content) - file.tell() < count * dtype.itemsize:
        message = f"{where}: the file ends before the {count:,} elements that its header announces"
        raise InputError(message, remedy=remedy)
    elements = np.frombuffer(content, dtype=dtype, count=count, offset=file.tell())
    return _from_numpy(elements.reshape(shape, order="F" if fortran else "C"), where)


_HEADERS: dict[tuple[int, int], Callable[[io.BytesIO], tuple[Shape, bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_json(content: bytes, where: str) -> Array:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where}: not a text in UTF-8", remedy=_JSON_REMEDY) from None
    return _Reader(text, 0, where).read(wrapped=False)


_JSON_REMEDY = 'save it anew with json.dump(x.tolist(), open("x.json", "w"))'

#: What ``torch.save`` refers to for one dense tensor or parameter, storages aside.
_TENSOR_PARTS = {
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
}


def _read_pt(content: bytes, where: str) -> Array:
    """One dense tensor.  The archive's claims are checked against its bytes before PyTorch sees it.

    A compressed record could unpack to any size; a reference to anything but a tensor's parts could
    allocate any size; a shape, with strides of 0, can claim more elements than were stored.
    """
    remedy = 'save the one tensor: torch.save(x.detach(), "x.pt")'
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records = archive.infolist()
            structure = next(r for r in records if r.filename.endswith("/data.pkl"))
            plain = all(record.compress_type == zipfile.ZIP_STORED for record in records)
            plain = plain and structure.file_size <= MAX_PICKLE_BYTES
            names = _references(archive.read(structure)) if plain else set()
    except Exception:
        raise InputError(
            f"{where}: not a file in the format that torch.save writes today", remedy=remedy
        ) from None
    if not plain or not all(_TENSOR_PART.fullmatch(name) for name in names):
        raise InputError(f"{where}: not a file of one dense tensor", remedy=remedy)
    tensor = _load_tensor(content, where, remedy)
    largest = max(record.file_size for record in records)
    if tensor.untyped_storage().nbytes() > largest:
        message = f"{where}: the file ends before the elements that it announces"
        raise InputError(message, remedy=remedy)
    return _from_tensor(tensor, where)


#: What ``torch.save`` refers to for one dense tensor or parameter.
_TENSOR_PART = re.compile(
    r"torch\._utils (_rebuild_tensor_v2|_rebuild_parameter)|collections OrderedDict"
    r"|torch(\.storage)? [A-Za-z0-9]+Storage"
)


def _references(structure: bytes) -> set[str]:
    """The classes and functions that a pickle refers to; ``None`` for one that it computes."""
    return {
        str(argument)
        for opcode, argument, _ in pickletools.genops(structure)
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
    }


def _load_tensor(content: bytes, where: str, remedy: str) -> Any:
    import torch  # here, as most runs have no such file

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:
            message = f"{where}: PyTorch cannot load this file"
            raise InputError(message, remedy=remedy) from None
    if not isinstance(loaded, torch.Tensor):
        message = f"{where}: holds an object of type {type(loaded).__name__}, not one tensor"
        raise InputError(message, remedy=remedy)
    return loaded


_FORMATS: dict[str, Callable[[bytes, str], Array]] = {
    ".npy": _read_npy,
    ".json": _read_json,
    ".pt": _read_pt,
    ".pth": _read_pt,
}


# ---- what the dtype holds ------------------------------------------------------------------------


def bind(values: Array, dtype: DType, what: str) -> Array:
    """The values as ``dtype`` holds them, in float64: 0.1 in float32 is 0.10000000149011612."""
    if dtype == "float64":
        return values
    with np.errstate(over="ignore"):
        rounded: Array = values.astype(np.float32).astype(np.float64)
    overflow = np.isinf(rounded) & np.isfinite(values)
    if overflow.any():
        largest = float(values[overflow].flat[0])
        message = f"{what}: {largest:g} is too large for float32, whose largest number is 3.4e38"
        raise InputError(message, remedy="use `--dtype float64`")
    return rounded
