"""Python's own functions and those of ``math``, on numbers and lists."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from gradexplain.ops import by_spelling
from gradexplain.reading.objects import Call, Layer, Tensor, Unread, is_number, what
from gradexplain.reading.operators import binary
from gradexplain.reading.session import Session

#: What to do where a text is not read on.
TRACE = "give its value here as a literal; or gradexplain trace FILE runs the whole script"

_MAX_RANGE = 100_000


def mathematics(s: Session, call: Call) -> float | None:
    """``math.sqrt(2)``: a function of ``math`` or NumPy on plain numbers."""
    function = getattr(math, {"abs": "fabs", "absolute": "fabs"}.get(call.name, call.name), None)
    if function is None or call.kwargs:
        return None
    try:
        found = function(*call.args)
    except (ValueError, TypeError, OverflowError):
        return None
    return found if isinstance(found, (int, float)) else None


def _range(s: Session, call: Call) -> Any:
    ends = [integer(s, end, call) for end in call.args]
    if not 1 <= len(ends) <= 3 or (len(ends) == 3 and ends[2] == 0):
        s.fail("range() takes one to three integers", call.place, "write `range(3)`")
    found = range(*ends)
    if len(found) > _MAX_RANGE:
        s.unsupported(f"a range of {len(found):,} is too long", call.place, "shorten it")
    return found


def special(s: Session, owner: Layer, name: str, call: Call, *args: Any) -> Any:
    """``__len__`` and its like of an object of the text; of a module that holds others, their number."""
    found = None if owner.own is None else owner.own.find(name)
    if found is None:
        if name == "__len__" and (owner.own is None or owner.own.placed):
            return len(owner.children)
        s.refuse("has no", call.place, what=what(owner), name=name)
    return s.call_own(found, (owner, *args), {}, call.place)


def integer(s: Session, value: Any, call: Call) -> int:
    """A whole number: a literal, or a tensor of one element that holds one."""
    if isinstance(value, Tensor) and math.prod(value.shape) == 1:
        value = float(s.number(value, call.place).reshape(-1)[0])
    if isinstance(value, (int, float)) and value == int(value):
        return int(value)
    why = value.why if isinstance(value, Unread) else "write one"
    s.fail(f"a whole number is expected, not {what(value)}", call.place, why)


def _parts(s: Session, value: Any, call: Call) -> list[Any]:
    return s.iterate(value, call.place)


def _len(s: Session, call: Call) -> Any:
    if len(call.args) == 1 and isinstance(call.args[0], Tensor):
        shape = call.args[0].shape
        return shape[0] if shape else 1
    if len(call.args) == 1 and isinstance(call.args[0], Unread):
        return Unread(s.text(call.place), call.args[0].why)
    if len(call.args) == 1 and isinstance(call.args[0], Layer):
        return special(s, call.args[0], "__len__", call)
    return len(_parts(s, call.args[0], call)) if call.args else NotImplemented


def _sum(s: Session, call: Call) -> Any:
    """Python's sum of a list; of a tensor, in a script, over its first dimension."""
    if not call.args or call.kwargs.keys() - {"start"}:
        return NotImplemented
    value = call.args[0]
    if isinstance(value, Tensor):
        if s.python and len(value.shape) > 1 and len(call.args) == 1:
            return s.apply(by_spelling("torch.sum"), (value, 0), {}, call.place)
        return NotImplemented
    parts = _parts(s, value, call)
    start = call.get(1, "start", 0)
    if all(map(is_number, [*parts, start])):
        return sum(parts, start)
    parts = parts if is_number(start) and start == 0 else [start, *parts]
    return reduce(lambda total, part: binary(s, ast.Add, total, part, call.place), parts)


def _extreme(s: Session, call: Call) -> Any:
    args = call.args
    if len(args) == 1 and isinstance(args[0], (list, tuple, range)):
        args = tuple(args[0])
    if args and all(map(is_number, args)):
        return min(args) if call.name == "min" else max(args)
    return NotImplemented


def _convert(s: Session, call: Call) -> Any:
    """``float("inf")``, ``int(3.7)``, ``float(x.sum())``."""
    value = call.get(0, "x", 0)
    if isinstance(value, Tensor):
        if math.prod(value.shape) != 1:
            s.refuse("several elements to convert", call.place)
        value = float(s.number(value, call.place).reshape(-1)[0])
    if isinstance(value, Unread):
        return Unread(s.text(call.place), value.why)
    try:
        return {"float": float, "int": int, "bool": bool}[call.name](value)
    except (ValueError, TypeError, OverflowError):
        s.fail("this is no number", call.place, 'write one, as in `float("inf")`')


def _list(s: Session, call: Call) -> Any:
    return _parts(s, call.args[0], call) if call.args else []


def _mapping(s: Session, call: Call) -> Any:
    """``dict(a=1)``, ``OrderedDict([("fc", layer), …])``."""
    held = call.args[0] if call.args else {}
    pairs = list(held.items()) if isinstance(held, dict) else _parts(s, held, call)
    return {**dict(s.iterate(pair, call.place) for pair in pairs), **call.kwargs}


def _of_number(s: Session, call: Call) -> Any:
    """``abs(-2)``, ``round(3.14159, 2)``."""
    if call.args and all(map(is_number, call.args)):
        return abs(*call.args) if call.name == "abs" else round(*call.args)
    return NotImplemented


def ordered(s: Session, call: Call) -> list[Any]:
    """``sorted(parts, key=…, reverse=…)``."""
    parts, key = _parts(s, call.args[0], call), call.kwargs.get("key")
    keys = [s.call(key, (n,), {}, call.place, call.where) for n in parts] if key else parts
    if all(isinstance(n, tuple) and n for n in keys) and len({n[0] for n in keys}) == len(keys):
        keys = [n[0] for n in keys]
    if not (all(map(is_number, keys)) or all(isinstance(n, str) for n in keys)):
        s.unsupported("only numbers and texts are put in order here", call.place, TRACE)
    order = sorted(
        range(len(parts)), key=keys.__getitem__, reverse=bool(call.kwargs.get("reverse"))
    )
    return [parts[n] for n in order]


def _equal(s: Session, call: Call) -> Any:
    """``torch.allclose(a, b)``, ``torch.equal(a, b)``, by their numbers."""
    if not all(isinstance(part, (Tensor, int, float)) for part in call.args[:2]):
        return Unread(s.text(call.place), TRACE)
    a, b = (s.number(n, call.place) if isinstance(n, Tensor) else n for n in call.args[:2])
    if call.name in ("equal", "array_equal"):
        return np.array_equal(a, b)
    return np.allclose(a, b, call.get(2, "rtol", 1e-5), call.get(3, "atol", 1e-8))


FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    "range": _range,
    "len": _len,
    "sum": _sum,
    **dict.fromkeys(("min", "max"), _extreme),
    **dict.fromkeys(("float", "int", "bool"), _convert),
    "str": lambda s, call: str(call.args[0]) if call.args and is_number(call.args[0]) else s.text(call.place),
    "repr": lambda s, call: s.text(call.place),
    "zip": lambda s, call: list(zip(*(_parts(s, part, call) for part in call.args), strict=False)),
    "enumerate": lambda s, call: list(
        enumerate(_parts(s, call.args[0], call), integer(s, call.get(1, "start", 0), call))
    ),
    "tuple": lambda s, call: tuple(_list(s, call)),
    "set": lambda s, call: list(dict.fromkeys(_list(s, call))),
    **dict.fromkeys(("dict", "collections.OrderedDict"), _mapping),
    **dict.fromkeys(("list", "iter", "tqdm.tqdm", "tqdm.auto.tqdm", "tqdm.notebook.tqdm", "tqdm"), _list),
    **dict.fromkeys(("tqdm.trange", "tqdm.auto.trange", "tqdm.notebook.trange"), _range),
    **dict.fromkeys(("abs", "round"), _of_number),
    "pow": lambda s, call: binary(s, ast.Pow, call.get(0, "base"), call.get(1, "exp"), call.place),
    "sorted": ordered,
    "reversed": lambda s, call: _list(s, call)[::-1],
    **dict.fromkeys(
        ("id", "input", "eval", "exec", "vars", "globals"),
        lambda s, call: Unread(s.text(call.place), TRACE),
    ),
    "torch.is_tensor": lambda s, call: isinstance(call.get(0, "obj"), Tensor),
    **dict.fromkeys(("torch.load", "numpy.load", "numpy.loadtxt", "numpy.genfromtxt", "open"),
                    lambda s, call: s.lack("a file is not", call.place)),
    "torch.cuda.is_available": lambda s, call: False,
    "torch.device": lambda s, call: str(call.get(0, "type", "cpu")),
    "numpy.shape": lambda s, call: getattr(call.get(0, "a"), "shape", NotImplemented),
    **dict.fromkeys(("torch.allclose", "torch.equal", "numpy.allclose", "numpy.array_equal"), _equal),
    "torch.is_grad_enabled": lambda s, call: s.grad_enabled,
    "torch.Generator": lambda s, call: Unread(s.text(call.place), TRACE),
    **dict.fromkeys(
        ("print", "display", "pprint", "help", "torch.manual_seed", "torch.seed",
         "torch.set_printoptions", "numpy.random.seed", "random.seed", "torch.cuda.manual_seed",
         "torch.cuda.manual_seed_all", "torch.autograd.set_detect_anomaly",
         "torch.use_deterministic_algorithms", "torch.random.manual_seed",
         "torch.set_num_threads", "torch.set_default_device", "torch.set_float32_matmul_precision",
         "warnings.filterwarnings", "numpy.set_printoptions", "torch.cuda.empty_cache"),
        lambda s, call: None,  # printing, seeds, timing
    ),
}  # fmt: skip
