"""Where in the script something happens, and what the script calls the values.

A `Site` is a line of the script together with the name to which the result of the call at that
place is assigned, read from the bytecode that follows the call: the variable exists only after it.
"""

from __future__ import annotations

import dis
import linecache
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

#: The name of code that calls on behalf of the script: see `caller`.
CALLER = "<called for gradexplain>"

#: What follows a call: its result is returned to the caller's own caller, or to nobody we know.
_RETURNED = "return"

#: Containers are looked into for tensors up to this many items.
_ITEMS = 200


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the script.  ``names`` are the targets of the assignment, empty without one."""

    filename: str
    line: int
    names: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The line as it stands in the script, without its indent."""
        return linecache.getline(self.filename, self.line).strip()

    @property
    def file(self) -> str:
        """The file's name without its folders; a notebook's cell is one."""
        if self.filename.startswith("<") or "ipykernel" in self.filename:
            return "the cell"
        return os.path.basename(self.filename)


def _folders() -> tuple[str, ...]:
    import torch

    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = {os.path.dirname(os.path.abspath(torch.__file__)), here}
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        found.add(os.path.abspath(sysconfig.get_path(name)))
    return tuple(sorted(folder + os.sep for folder in found))


_LIBRARY: dict[str, bool] = {}
_FOLDERS: tuple[str, ...] = ()


def is_library(filename: str) -> bool:
    """Whether a file is not the user's: PyTorch's, Python's, an installed package's or ours."""
    known = _LIBRARY.get(filename)
    if known is None:
        global _FOLDERS
        _FOLDERS = _FOLDERS or _folders()
        frozen = filename.startswith("<frozen") or filename == "<string>"
        known = frozen or os.path.abspath(filename).startswith(_FOLDERS)
        _LIBRARY[filename] = known
    return known


def is_own(code: CodeType) -> bool:
    """Whether code is the user's, and no call made in its name."""
    return code.co_name != CALLER and not is_library(code.co_filename)


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The nearest frame of the user's own code."""
    while frame is not None:
        known = _ROLES.get(id(frame.f_code))
        if (known[1] if known is not None else _role(frame.f_code)) == _USERS:
            break
        frame = frame.f_back
    return frame


#: What a frame is to us, by its code's id; the code is kept, for its id is the key.
_ROLES: dict[int, tuple[CodeType, int]] = {}
_LIBRARYS, _USERS, _CALLERS = 0, 1, 2

#: Places by the frames that lead there, each with whether its result goes on to the caller's caller.
_SITES: dict[tuple[int, ...], tuple[Site, bool]] = {}


def _role(code: CodeType) -> int:
    if code.co_name == CALLER:
        return _CALLERS  # made for one tracing, and not kept
    role = int(not is_library(code.co_filename))
    _ROLES[id(code)] = code, role
    return role


def site(frame: FrameType | None) -> Site | None:
    """The user's line on which ``frame`` is at work, and the name its result is assigned to."""
    key: list[int] = []
    here = frame
    while here is not None:
        code = here.f_code
        known = _ROLES.get(id(code))
        role = known[1] if known is not None else _role(code)
        if role != _CALLERS:
            key += id(code), here.f_lasti
            if role == _USERS:
                break
        here = here.f_back
    else:
        return None
    found = _SITES.get(tuple(key))
    if found is None:
        found = _SITES[tuple(key)] = _found(key, here)
    if not found[1]:
        return found[0]
    names = _returned(here.f_back)
    return Site(found[0].filename, found[0].line, names) if names else found[0]


def _found(key: list[int], user: FrameType) -> tuple[Site, bool]:
    """The place at the end of a way of frames; whether its result is returned from there."""
    names: tuple[str, ...] | None = None
    for number, lasti in zip(key[::2], key[1::2], strict=True):
        code, role = _ROLES[number]
        if names is None and code.co_name != "handle_torch_function":
            after = _after(code, lasti)
            if after is not _RETURNED:
                # A library's own variables are not the script's.
                names = after if role == _USERS else ()
    line = user.f_lineno or user.f_code.co_firstlineno
    return Site(user.f_code.co_filename, line, names or ()), names is None


def _returned(frame: FrameType | None) -> tuple[str, ...]:
    """The names that a value returned to ``frame`` gets, through any number of returns."""
    while frame is not None:
        after = _after(frame.f_code, frame.f_lasti)
        if after is not _RETURNED and frame.f_code.co_name != CALLER:
            return () if is_library(frame.f_code.co_filename) else after
        frame = frame.f_back
    return ()


_AFTER: dict[int, tuple[CodeType, dict[int, Any]]] = {}


def _after(code: CodeType, lasti: int) -> Any:
    """What becomes of the value that the instruction at ``lasti`` makes: names, or `_RETURNED`."""
    entry = _AFTER.get(id(code))
    if entry is None:
        entry = _AFTER[id(code)] = (code, {})  # the code is kept: its id is the key
    known = entry[1]
    if lasti not in known:
        known[lasti] = _read(code, lasti)
    return known[lasti]


def _read(code: CodeType, lasti: int) -> Any:
    instructions = iter(dis.get_instructions(code))
    for instruction in instructions:
        if instruction.offset >= lasti:
            break
    rest = [i for i, _ in zip(instructions, range(40), strict=False) if i.opname != "CACHE"]
    while rest and rest[0].opname in ("COPY", "DUP_TOP", "NOP", "PRECALL", "EXTENDED_ARG"):
        rest.pop(0)
    if not rest:
        return ()
    first = rest[0]
    if first.opname in ("RETURN_VALUE", "RETURN_GENERATOR"):
        return _RETURNED
    if first.opname in ("UNPACK_SEQUENCE", "UNPACK_EX"):
        names: list[str] = []
        for instruction in rest[1:]:
            found = _stored(instruction)
            if not found or len(names) >= int(first.arg or 0):
                break
            names += found
        return tuple(names[: int(first.arg or 0)])
    loads = ("LOAD_FAST", "LOAD_NAME", "LOAD_GLOBAL", "LOAD_FAST_BORROW")
    if first.opname in loads and len(rest) > 1:
        if rest[1].opname == "STORE_ATTR":
            return (f"{first.argval}.{rest[1].argval}",)
        return ()
    return tuple(_stored(first)[:1])


def _stored(instruction: dis.Instruction) -> list[str]:
    """The names that an instruction stores to."""
    if not instruction.opname.startswith("STORE_"):
        return []
    if instruction.opname in ("STORE_ATTR", "STORE_SUBSCR", "STORE_SLICE"):
        return []
    value = instruction.argval
    if isinstance(value, tuple):  # two in one, since Python 3.13
        count = instruction.opname.count("STORE_FAST")
        return [str(part) for part in value[:count]]
    return [str(value)]


# -- the script's variables ------------------------------------------------------------------------


class Variables:
    """The tensors that the script can name at one moment: variables, items, parameters.

    ``tensors`` are ``(name, tensor)``, the innermost frame's first; a name stands once.
    """

    def __init__(self, frame: FrameType | None) -> None:
        import torch

        self._torch = torch
        self.tensors: list[tuple[str, Any]] = []
        self._names: set[str] = set()
        self._seen: set[int] = set()
        self._later: list[tuple[str, Any]] = []
        #: By id, tensors that a module holds and has not registered.
        self.unregistered: set[int] = set()
        scopes = list(_scopes(frame))
        modules: list[tuple[str, Any]] = []
        objects: list[tuple[str, Any]] = []
        for scope in scopes:
            for name, value in list(scope.items()):
                if not isinstance(name, str) or name.startswith("__"):
                    continue
                self._look(name, value, modules, objects)
        for name, value in objects:  # self.model in a method
            for attribute, part in list(vars(value).items()):
                self._look(f"{name}.{attribute}", part, modules, [])
        inner = {id(part) for _, m in modules for path, part in m.named_modules() if path}
        # The outermost module's names first.
        compiled = {id(module) for _, module in modules if hasattr(module, "_orig_mod")}
        order = sorted(modules, key=lambda item: (id(item[1]) in compiled, id(item[1]) in inner))
        # What is compiled keeps the names of the module it was compiled from.
        inner -= {id(module._orig_mod) for _, module in modules if id(module) in compiled}
        for name, module in order:
            for path, parameter in [*module.named_parameters(), *module.named_buffers()]:
                self._add(f"{name}.{path}", parameter)
        for name, module in order:
            for path, part in module.named_modules():
                self._unregistered(f"{name}.{path}" if path else name, part)
        for name, tensor in self._later:
            self._add(name, tensor)

    def _look(
        self, name: str, value: Any, modules: list[tuple[str, Any]], objects: list[tuple[str, Any]]
    ) -> None:
        torch = self._torch
        # A module whose __init__ has not called the base's has no parts yet.
        a_module = isinstance(value, torch.nn.Module) and hasattr(value, "_modules")
        if isinstance(value, torch.Tensor):
            # A parameter is called by its module's name for it, not by a loop's variable.
            if name.startswith("_") or isinstance(value, torch.nn.Parameter):
                self._later.append((name, value))
            else:
                self.tensors.append((name, value))
                self._names.add(name)
                self._seen.add(id(value))
        elif a_module:
            modules.append((name, value))
        elif isinstance(value, (list, tuple)) and len(value) <= _ITEMS:
            for place, item in enumerate(value):
                if isinstance(item, torch.Tensor):
                    self._later.append((f"{name}[{place}]", item))
                elif isinstance(item, torch.nn.Module):
                    modules.append((f"{name}[{place}]", item))
        elif isinstance(value, dict) and len(value) <= _ITEMS:
            for key, item in value.items():
                if isinstance(item, torch.Tensor) and isinstance(key, (str, int)):
                    self._later.append((f"{name}[{key!r}]", item))
        elif name == "self" and hasattr(value, "__dict__"):
            objects.append((name, value))

    def _unregistered(self, name: str, module: Any) -> None:
        """Layers in a plain list or dict of a module's, tensors that are no parameters."""
        for attribute, value in list(vars(module).items()):
            if attribute.startswith("_"):
                continue
            held: list[tuple[str, Any]] = [(f"{name}.{attribute}", value)]
            if isinstance(value, (list, tuple)):
                held = [(f"{name}.{attribute}[{n}]", item) for n, item in enumerate(value[:_ITEMS])]
            elif isinstance(value, dict):
                held = [
                    (f"{name}.{attribute}[{key!r}]", item)
                    for key, item in [*value.items()][:_ITEMS]
                ]
            for path, item in held:
                if isinstance(item, self._torch.nn.Module) and item is not value:
                    tensors = [(f"{path}.{inner}", p) for inner, p in item.named_parameters()]
                elif isinstance(item, self._torch.Tensor) and item.is_leaf and item.requires_grad:
                    tensors = [(path, item)]
                else:
                    continue
                for inner, tensor in tensors:
                    if id(tensor) not in self._seen:
                        self.unregistered.add(id(tensor))
                        self._add(inner, tensor)

    def _add(self, name: str, tensor: Any) -> None:
        if name not in self._names and id(tensor) not in self._seen:
            self.tensors.append((name, tensor))
            self._names.add(name)
            self._seen.add(id(tensor))

    def name(self, tensor: Any) -> str:
        """What the script calls ``tensor``; empty where it has no name for it."""
        return next((name for name, other in self.tensors if other is tensor), "")


def at_hand(frame: FrameType | None) -> Iterator[tuple[str, Any]]:
    """The variables of a frame and of those that called it, each with its name."""
    while frame is not None:
        for scope in (frame.f_locals, frame.f_globals):
            yield from list(scope.items())
        frame = frame.f_back


def _scopes(frame: FrameType | None) -> Iterator[dict[str, Any]]:
    """The scopes of the user's frames, the innermost first, then the script's globals."""
    globals_: list[dict[str, Any]] = []
    while frame is not None:
        if is_own(frame.f_code):
            if frame.f_locals is not frame.f_globals and frame.f_code.co_name != "<module>":
                yield dict(frame.f_locals)
            if not any(frame.f_globals is known for known in globals_):
                globals_.append(frame.f_globals)
        frame = frame.f_back
    yield from globals_
