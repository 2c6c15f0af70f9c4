"""Modules and functions of PyTorch that are written in the language itself.

`FILES` are texts by subject; ``compositions.txt`` has functions of tensors that are made of others, each
with calls that it is tried with.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from gradexplain.errors import Span
from gradexplain.reading.objects import Call, Function, Module, Results, Tensor, Unread
from gradexplain.reading.operators import places_of, scattered
from gradexplain.reading.session import Session
from gradexplain.texts import kept

#: In the order in which they are read: a class comes after the one it is made from.
FILES = ("modules", "recurrent", "functions", "training", "compositions")


def _text() -> str:
    return "\n".join(kept("reading", f"{name}.txt") for name in FILES)


@lru_cache(maxsize=1)
def _paths() -> dict[str, str]:
    """The name of each statement by its path in PyTorch; the text is not parsed for it."""
    paths: dict[str, str] = {}
    homes: list[str] = []
    for mark, name in re.findall(r"^(?:#: (.*)|(?:class|def) (\w+))", _text(), re.MULTILINE):
        homes = homes if name else mark.split()
        paths |= {f"{home}.{name}": name for home in homes if name}
    return paths


def name_of(path: str) -> str | None:
    """What the library calls a path of PyTorch's, as in ``torch.nn.modules.linear.Linear``."""
    paths = _paths()
    home, _, last = path.rpartition(".")
    return paths.get(path) or paths.get(f"{home.rpartition('.')[0]}.{last}")


def member(s: Session, path: str) -> Any:
    """The class or function that stands for ``path``, None where there is none."""
    name = name_of(path)
    if name is None:
        return None
    if not _DEFINED:
        modules = {"torch": "torch", "F": "torch.nn.functional", "math": "math", "copy": "copy"}
        _DEFINED.update({short: Module(path) for short, path in modules.items()})
        _DEFINED.update({n: Function(f"gradexplain.{n}") for n in (*FUNCTIONS, "differentiated")})
        steps = s.steps
        with s.scope((_DEFINED,)), s.placed(Span(0, 0)):
            s.run(ast.parse(_text()).body)
        s.steps = steps
    return _DEFINED[name]


#: What the texts define, which is the same for every text that is read.
_DEFINED: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Composition:
    """A function of tensors: how it is called, by which names, and samples as records have them."""

    name: str
    signature: str
    spellings: tuple[str, ...]
    samples: tuple[str, ...]


def compositions() -> list[Composition]:
    """The functions that have samples."""
    paths, found = _paths(), []
    for node in ast.parse(_text()).body:
        if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
            named = (path for path, name in paths.items() if name == node.name)
            spellings = (
                p.replace("torch.nn.functional", "F").replace("torch.linalg", "linalg")
                for p in named
            )
            signature = f"{node.name}({ast.unparse(node.args)})"
            found.append(
                Composition(node.name, signature, tuple(spellings), tuple(text.split("\n")))
            )
    return found


# -- what only the library calls -------------------------------------------------------------------


def _parameter(s: Session, call: Call) -> Tensor:
    """A parameter: example values for what PyTorch draws at random, its own for ones and zeros."""
    shape, value = call.args, call.kwargs.get("value")
    if value is None:
        fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 4
        numbers = np.round(s.inputs.example(shape, signs=True) / np.sqrt(fan), 2)
    else:
        numbers = np.full(shape, value)
    made = s.literal(numbers, s.default, call.place, example=value is None)
    made.requires_grad = made.is_parameter = True
    return made


def _copies(s: Session, call: Call) -> Tensor:
    """So many copies of a tensor in one, under its name."""
    tensor, count = call.args
    numbers = np.broadcast_to(s.number(tensor, call.place), (count, *tensor.shape))
    return s.literal(numbers, tensor.dtype, call.place, hint=tensor.name)


def _sizes(s: Session, call: Call) -> None:
    if not all(isinstance(n, int) and n > 0 for n in call.args):
        kind = s.text(call.place).split("(")[0]
        s.fail(f"{kind} takes sizes", call.place, f"write them, as in `{kind}(3, 1)`")


FUNCTIONS: dict[str, Any] = {
    "results": lambda s, call: Results(call.args[0], call.args[1:]),
    "unread": lambda s, call: Unread(*call.args),
    "copies": _copies, "parameter": _parameter,
    "places": lambda s, call: places_of(s, call.args[0], call.place),
    "put": lambda s, call: scattered(s, call.args[0], call.args[1], call.args[2], call.place),
    "sizes": _sizes, "remark": lambda s, call: s.remark(*call.args),
    "refuse": lambda s, call: s.unsupported(call.args[0], call.place, call.args[1]),
}  # fmt: skip
