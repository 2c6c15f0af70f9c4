"""The one array in a ``.npy``, ``.json`` or ``.pt`` file.  Nothing in a file is executed."""

from __future__ import annotations

import io
import math
import os
import pickletools
import re
import stat
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from gradexplain.errors import InputError
from gradexplain.explanation import Array, Shape
from gradexplain.limits import MAX_FILE_BYTES, MAX_PICKLE_BYTES, MAX_VALUE_TEXT
from gradexplain.reading.arrays import check_shape, check_type, from_numpy, from_tensor
from gradexplain.reading.items import read_items
from gradexplain.reading.said import lacking


def read_file(path: str, what: str) -> Array:
    """The one array in a ``.npy``, ``.json`` or ``.pt`` file.  Nothing in a file is executed."""
    where = f"{what} @{path}"
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npz":
        raise lacking("archive", where=where)
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
    if any(type(n) is not int for n in shape):
        message = f"{where}: a size in the header's shape {shape} is no integer"
        raise InputError(message, remedy=remedy)
    if dtype.hasobject:
        message = f"{where}: Python objects are never loaded, as that could run code"
        raise InputError(message, remedy='save numbers: numpy.save("x.npy", x.astype(float))')
    check_type(dtype, where)
    check_shape(shape, where)
    count = math.prod(shape)
    if len(content) - file.tell() < count * dtype.itemsize:
        message = f"{where}: the file ends before the {count:,} elements that its header announces"
        raise InputError(message, remedy=remedy)
    elements = np.frombuffer(content, dtype=dtype, count=count, offset=file.tell())
    return from_numpy(elements.reshape(shape, order="F" if fortran else "C"), where)


_HEADERS: dict[tuple[int, int], Callable[[io.BytesIO], tuple[Shape, bool, np.dtype[Any]]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _read_json(content: bytes, where: str) -> Array:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where}: not a text in UTF-8", remedy=_JSON_REMEDY) from None
    return read_items(text, 0, where, wrapped=False)


_JSON_REMEDY = 'save it anew with json.dump(x.tolist(), open("x.json", "w"))'


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
    return from_tensor(tensor, where)


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
    from gradexplain.installed import imported  # here, as most runs have no such file

    torch = imported()
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
