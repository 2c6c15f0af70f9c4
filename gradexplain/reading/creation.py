"""Functions that make tensors of literals: a text's own inputs and constants."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradexplain.errors import GradexplainError, InputError
from gradexplain.explanation import Array, Shape
from gradexplain.ops import by_spelling
from gradexplain.reading.applying import flat
from gradexplain.reading.arguments import Dtype, dtype_name, is_regular
from gradexplain.reading.arrays import check_shape
from gradexplain.reading.autograd import requires_grad
from gradexplain.reading.objects import WHOLE, Call, Results, Tensor, Unread, promoted, what
from gradexplain.reading.operators import places_of
from gradexplain.reading.plain import TRACE
from gradexplain.reading.session import Session


def _finished(s: Session, tensor: Tensor, call: Call) -> Any:
    """The tensor with what every such function takes: dtype=, requires_grad=, device=."""
    device = call.kwargs.get("device")
    if isinstance(device, str) and not device.startswith("cpu"):
        s.remark("device", f"A gradient is the same on every device: `{device}` is passed over.")
    if call.kwargs.get("requires_grad") is True:
        return requires_grad(s, tensor, True, call.place)
    return tensor


def _dtype(s: Session, call: Call, otherwise: str | None) -> str | None:
    found = call.kwargs.get("dtype")
    if not isinstance(found, Dtype):
        return otherwise
    name = dtype_name(found.path)
    if name.startswith("complex"):
        s.lack("complex", call.place)
    if not found.own and name not in WHOLE:
        raise s.at(found.refused(), call.place)
    return name


def _new(s: Session, call: Call, values: Any, otherwise: str | None, **more: Any) -> Any:
    """A tensor of these elements, in the dtype that the call gives or another one."""
    made = s.literal(values, _dtype(s, call, otherwise), call.place, hint=call.name, **more)
    return _finished(s, made, call)


def _elements(s: Session, call: Call) -> Any:
    data = call.get(0, "data")
    s.need(call.place, data)
    if isinstance(data, range):
        return list(data)
    if len(call.args) > 1 or not isinstance(data, (list, tuple, int, float, Tensor)):
        s.refuse("no nested list", call.place, name=call.name, what=what(data))
    return data


def _made(s: Session, data: Any, dtype: str | None, call: Call) -> Any:
    """A tensor of nested lists, which may hold tensors."""
    parts = list(flat(data)) if isinstance(data, (list, tuple)) else [data]
    if any(isinstance(part, Tensor) for part in parts):
        return _joined(s, data, dtype, call)
    for part in parts:
        s.need(call.place, part)
        if not isinstance(part, (int, float)):
            s.fail(f"{what(part)} is not a number", call.place, "write numbers in nested lists")
    if isinstance(data, (list, tuple)) and not is_regular(data):
        s.refuse("list too long", call.place)
    if not parts:
        s.fail("an empty list holds no elements", call.place, "write numbers in it")
    if dtype is None:
        if all(isinstance(part, bool) for part in parts):
            dtype = "bool"
        else:
            whole = all(isinstance(part, int) for part in parts)
            dtype = "int64" if whole else s.default
    check(s, np.shape(data), call)
    return s.literal(data, dtype, call.place)


def _joined(s: Session, data: Any, dtype: str | None, call: Call) -> Any:
    """``torch.tensor([a, b])`` of tensors: PyTorch takes their numbers, without a gradient."""
    if isinstance(data, Tensor):
        return data
    parts = [
        part if isinstance(part, Tensor) else _made(s, part, dtype or "float32", call)
        for part in data
    ]
    values = [None if s.requires(part) else s.known(part) for part in parts]
    known = [value for value in values if value is not None]
    if len(known) == len(parts):
        return s.literal(np.stack(known), promoted(part.dtype for part in parts), call.place)
    found = s.apply(by_spelling("torch.stack"), (parts,), {}, call.place)
    return _copied(s, found, call) if s.script and "ensor" in call.name else found


def _copied(s: Session, data: Tensor, call: Call) -> Any:
    """The numbers of a computed tensor in a new one."""
    s.say("new tensor", text=s.text(call.place))
    return s.apply(by_spelling("torch.detach"), (data,), {}, call.place)


def check(s: Session, shape: Shape, call: Call) -> None:
    if s.any_size and call.name not in _DRAWN:
        return
    try:
        check_shape(shape, f"{call.name}()")
    except GradexplainError as error:
        raise s.at(error, call.place) from None


#: What has an element of its own at each place.
_DRAWN = {"randn", "rand", "normal", "uniform", "random", "randint", "randn_like", "rand_like", "eye",
          "arange", "linspace", "logspace", "randperm", "one_hot"}  # fmt: skip


def _tensor(s: Session, call: Call) -> Any:
    data = _elements(s, call)
    if isinstance(data, Tensor):
        known = None if s.requires(data) else s.known(data)
        if known is not None:
            kind = _dtype(s, call, data.dtype)
            data = s.literal(known, kind, call.place, example=data.example)
        elif s.script and call.name == "tensor":
            data = _copied(s, data, call)
        return _finished(s, data, call)
    dtype = _dtype(s, call, None)
    if not s.script and dtype is None:
        # In a formula a tensor of numbers has the dtype of the run.
        whole = isinstance(call.kwargs.get("dtype"), Dtype)
        made = _made(s, data, "float64" if not whole else None, call)
        if isinstance(made, Tensor) and made.ref is None:
            made.dtype = None
            made.value = np.asarray(data, dtype=np.float64)
        return _finished(s, made, call)
    return _finished(s, _made(s, data, dtype, call), call)


def _typed(dtype: str | None) -> Callable[[Session, Call], Any]:
    """``torch.FloatTensor([1, 2])``, ``torch.Tensor(2, 3)``."""

    def make(s: Session, call: Call) -> Any:
        kind = dtype or s.default
        if call.args and all(isinstance(n, int) for n in call.args):
            return _open(s, tuple(call.args), kind, call, signs=True)
        if not call.args:
            s.fail("an empty tensor holds no elements", call.place, "write numbers in a list")
        data = _elements(s, call)
        if isinstance(data, Tensor):
            return _copied(s, data, call) if s.requires(data) else data
        made = _made(s, data, kind if s.script or kind in WHOLE else None, call)
        return _finished(s, made, call)

    return make


def _array(s: Session, call: Call) -> Any:
    """``np.array([1., 2.])``: float64, or the integers' int64."""
    data = _elements(s, call)
    if isinstance(data, Tensor):
        if s.requires(data) and s.script:
            s.refuse("numpy of a gradient", call.place)
        return data
    if not s.script:
        return _tensor(s, call)
    return _made(s, data, _dtype(s, call, None), call)


def _same(s: Session, call: Call) -> Any:
    data = call.get(0, "data")
    if isinstance(data, Tensor):
        known = s.known(data)
        if known is None or data.ref is not None or s.requires(data):
            return data
        made = s.literal(known, _dtype(s, call, data.dtype), call.place, example=data.example)
        return s.share(
            made, data, lambda base: _same(s, dataclasses.replace(call, args=(base,))), ...
        )
    return _tensor(s, call)


def _variable(s: Session, call: Call) -> Any:
    """``Variable(t, requires_grad=True)``, ``nn.Parameter(t)``: the tensor itself."""
    data = call.get(0, "data")
    if not isinstance(data, Tensor):
        remedy = TRACE if isinstance(data, Unread) else "write torch.tensor([...]) inside"
        s.fail(f"{call.name}() takes a tensor, found {what(data)}", call.place, remedy)
    wanted = call.kwargs.get("requires_grad", call.name == "Parameter")
    if data.name and wanted is True and not s.requires(data):
        data = dataclasses.replace(data, name="", view=None)  # another tensor of the same elements
    data.is_parameter = call.name == "Parameter"
    if wanted is True:
        return requires_grad(s, data, True, call.place)
    return data


# -- by a shape ------------------------------------------------------------------------------------


def _shape(s: Session, call: Call, first: int = 0) -> Shape | None:
    """The sizes among the arguments; None where they are not plain."""
    args = call.args[first:] or (call.kwargs.get("size", call.kwargs.get("shape", ())),)
    if len(args) == 1 and isinstance(args[0], (list, tuple)):
        args = tuple(args[0])
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in args):
        return None
    check(s, tuple(args), call)
    return tuple(args)


def _filled(value: float | None, *, like: bool = False) -> Callable[[Session, Call], Any]:
    """A tensor of one number, ``fill_value`` where it is None; ``like`` another in shape and dtype."""

    def make(s: Session, call: Call) -> Any:
        filled = call.get(1, "fill_value") if value is None else value
        sizes = dataclasses.replace(call, args=call.args[:1]) if value is None else call
        other: Any = call.get(0, "input")
        shape = getattr(other, "shape", None) if like else _shape(s, sizes)
        if shape is None or not _is_own(s, call) or not isinstance(filled, (int, float)):
            return NotImplemented
        otherwise = "int64" if value is None and isinstance(filled, int) else s.default
        return _new(s, call, s.filled(shape, filled), other.dtype if like else otherwise)

    return make


def _is_own(s: Session, call: Call) -> bool:
    """Whether the tensor is the text's: in a formula, a record makes it in the dtype of the run."""
    return s.script or "requires_grad" in call.kwargs


def _random_like(s: Session, call: Call) -> Any:
    other = call.get(0, "input")
    if not isinstance(other, Tensor):
        return NotImplemented
    return _open(s, other.shape, other.dtype, call, signs=call.name.startswith("randn"))


def _open(s: Session, shape: Shape, otherwise: str | None, call: Call, *, signs: bool) -> Any:
    """A tensor whose elements the text leaves open."""
    check(s, shape, call)
    value = s.inputs.example(shape, signs=signs)
    return _new(s, call, value, otherwise or s.default, example=True)


def _random(*, signs: bool) -> Callable[[Session, Call], Any]:
    def make(s: Session, call: Call) -> Any:
        if not s.script:
            return NotImplemented
        first = (
            2 if call.name == "normal" and call.args and not isinstance(call.args[0], tuple) else 0
        )
        shape = _shape(s, call, first)
        if shape is None:
            s.fail("sizes are expected", call.place, f"write `torch.{call.name}(2, 3)`")
        return _open(s, shape, None, call, signs=signs)

    return make


def _integers(s: Session, call: Call) -> Any:
    """``torch.randint(0, 10, (3,))``: 0, 1, 2, … within the bounds."""
    args = list(call.args)
    size = args.pop() if args and isinstance(args[-1], (tuple, list)) else call.kwargs.get("size")
    low, high = (args[0], args[1]) if len(args) > 1 else (0, args[0] if args else None)
    if not s.script or not isinstance(high, int) or not isinstance(low, int) or high <= low:
        return NotImplemented
    if not isinstance(size, (tuple, list)):
        return NotImplemented
    check(s, tuple(size), call)
    count = math.prod(size)
    values = (low + np.arange(count) % (high - low)).reshape(tuple(size))
    return _new(s, call, values, "int64", example=True)


def _permutation(s: Session, call: Call) -> Any:
    n = call.get(0, "n")
    if not s.script or not isinstance(n, int):
        return NotImplemented
    check(s, (n,), call)
    return _new(s, call, np.arange(n)[::-1], "int64", example=True)


# -- by a rule -------------------------------------------------------------------------------------


def _eye(s: Session, call: Call) -> Any:
    n, m = call.get(0, "n"), call.get(1, "m")
    if not _is_own(s, call) or not isinstance(n, int):
        return NotImplemented
    columns = m if isinstance(m, int) else n
    check(s, (n, columns), call)
    return _new(s, call, np.eye(n, columns), s.default)


def _arange(s: Session, call: Call) -> Any:
    if not _is_own(s, call):
        return NotImplemented
    names = ("start", "end", "step") if len(call.args) > 1 else ("end",)
    given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    ends = start, end, step = given.get("start", 0), given.get("end"), given.get("step", 1)
    if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in ends) or step == 0:
        return NotImplemented
    assert isinstance(end, (int, float))
    count = math.ceil((end - start) / step)
    if count <= 0:
        s.fail("this range holds no elements", call.place, "write `torch.arange(3.)`")
    check(s, (count,), call)
    whole = all(isinstance(n, int) for n in ends)
    values: Array = start + step * np.arange(count, dtype=np.float64)
    return _new(s, call, values, "int64" if whole else s.default)


def _spaced(s: Session, call: Call) -> Any:
    start, end, steps = call.get(0, "start"), call.get(1, "end"), call.get(2, "steps", 50)
    if not _is_own(s, call) or not isinstance(steps, int) or steps < 1:
        return NotImplemented
    if not all(isinstance(n, (int, float)) for n in (start, end)):
        return NotImplemented
    check(s, (steps,), call)
    values = np.linspace(start, end, steps)
    if call.name == "logspace":
        values = np.power(call.get(3, "base", 10.0), values)
    return _new(s, call, values, s.default)


def _set_default(s: Session, call: Call) -> Any:
    kind = call.get(0, "d")
    if isinstance(kind, Dtype):
        s.default = dtype_name(kind.path)
    elif "Double" in str(getattr(kind, "path", kind)):
        s.default = "float64"
    return None


def _one_hot(s: Session, call: Call) -> Any:
    index, classes = call.get(0, "tensor"), call.get(1, "num_classes", -1)
    if not isinstance(index, Tensor) or s.known(index) is None:
        return NotImplemented
    places = np.asarray(s.known(index)).astype(int)
    count = classes if isinstance(classes, int) and classes > 0 else int(places.max()) + 1
    if places.min() < 0 or places.max() >= count:
        raise s.at(
            InputError("an index is outside the classes", remedy="give num_classes="), call.place
        )
    check(s, (*places.shape, count), call)
    chosen = places[..., None] == np.arange(count)
    return _new(s, call, chosen, "int64")


def _settled(s: Session, value: Any, place: Any) -> Any:
    """Numbers for what is made of constants alone, as ``2*math.pi`` is."""
    if isinstance(value, (list, tuple)) and not isinstance(value, Results):
        return type(value)(_settled(s, part, place) for part in value)
    if isinstance(value, Tensor) and not value.shape and value.ref is not None and s.script:
        nodes = s.builder.nodes
        if all(nodes[id].op is not None or nodes[id].is_literal for id in s.needed(value.ref.id)):
            return float(s.number(value, place))
    return value


def _of_numbers(make: Callable[[Session, Call], Any]) -> Callable[[Session, Call], Any]:
    def made(s: Session, call: Call) -> Any:
        args = tuple(_settled(s, arg, call.place) for arg in call.args)
        kwargs = {name: _settled(s, part, call.place) for name, part in call.kwargs.items()}
        return make(s, Call(call.name, args, kwargs, call.place, call.where))

    return made


def nonzero(s: Session, call: Call) -> Any:
    """The places where a tensor is not 0: a row for each, or a table for each axis."""
    condition, *_ = call.args
    tables = places_of(s, condition, call.place)
    if call.get(1, "as_tuple"):
        return tuple(s.literal(table, "int64", call.place) for table in tables)
    return s.literal(np.transpose(tables), "int64", call.place)


def _unique(s: Session, call: Call) -> Any:
    """``torch.unique`` of numbers without a gradient: they in order, their places, how often each is."""
    given = call.get(0, "input")
    if not isinstance(given, Tensor) or s.requires(given) or call.get(4, "dim") is not None:
        return NotImplemented
    wanted = (True, call.get(2, "return_inverse", False), call.get(3, "return_counts", False))
    numbers = np.unique(s.number(given, call.place), return_inverse=True, return_counts=True)
    kinds = (given.dtype, "int64", "int64")
    found = [
        s.literal(part, kind, call.place)
        for part, kind, own in zip(numbers, kinds, wanted, strict=True)
        if own
    ]
    return tuple(found) if len(found) > 1 else found[0]


def _where(s: Session, call: Call) -> Any:
    if len(call.args) > 1 or call.kwargs:
        return NotImplemented
    return nonzero(s, Call(call.name, call.args, {"as_tuple": True}, call.place, call.where))


def _of_numpy(make: Callable[[Session, Call], Any]) -> Callable[[Session, Call], Any]:
    """NumPy's numbers are float64 where it is not told otherwise."""

    def made(s: Session, call: Call) -> Any:
        before, s.default = s.default, "float64"
        try:
            return make(s, call)
        finally:
            s.default = before

    return made


_MAKERS: dict[str, Callable[[Session, Call], Any]] = {
    **dict.fromkeys(("tensor", "torch.tensor", "jax.numpy.array", "tensorflow.constant"), _tensor),
    **dict.fromkeys(("as_tensor", "torch.as_tensor", "torch.from_numpy", "from_numpy", "torch.asarray"), _same),
    **dict.fromkeys(("Tensor", "torch.Tensor"), _typed(None)),
    "torch.where": _where,
    "torch.unique": _unique,
    **dict.fromkeys(("torch.FloatTensor", "torch.cuda.FloatTensor"), _typed("float32")),
    "torch.DoubleTensor": _typed("float64"),
    **dict.fromkeys(("torch.LongTensor", "torch.IntTensor"), _typed("int64")),
    **dict.fromkeys(("numpy.array", "numpy.asarray", "array", "asarray"), _of_numpy(_array)),
    **dict.fromkeys(
        ("Variable", "torch.autograd.Variable", "torch.nn.Parameter", "torch.nn.parameter.Parameter",
         "torch.autograd.variable.Variable"), _variable),
    # what `empty` finds in memory is 0 here until it is filled
    **dict.fromkeys(("zeros", "torch.zeros", "numpy.zeros", "empty", "torch.empty"), _filled(0.0)),
    **dict.fromkeys(("ones", "torch.ones", "numpy.ones"), _filled(1.0)),
    **dict.fromkeys(("full", "torch.full"), _filled(None)),
    **dict.fromkeys(("zeros_like", "torch.zeros_like", "torch.empty_like"), _filled(0.0, like=True)),
    **dict.fromkeys(("ones_like", "torch.ones_like"), _filled(1.0, like=True)),
    **dict.fromkeys(("full_like", "torch.full_like"), _filled(None, like=True)),
    **dict.fromkeys(("torch.randn", "randn", "torch.normal", "numpy.random.randn",
                     "numpy.random.normal"), _random(signs=True)),
    **dict.fromkeys(("torch.rand", "rand", "numpy.random.rand", "numpy.random.random",
                     "numpy.random.uniform"), _random(signs=False)),
    **dict.fromkeys(("torch.rand_like", "torch.randn_like"), _random_like),
    **dict.fromkeys(("torch.randint", "numpy.random.randint"), _integers),
    "torch.randperm": _permutation,
    **dict.fromkeys(("eye", "torch.eye", "numpy.eye"), _eye),
    **dict.fromkeys(("arange", "torch.arange", "numpy.arange"), _arange),
    **dict.fromkeys(("linspace", "torch.linspace", "torch.logspace", "numpy.linspace"), _spaced),
    **dict.fromkeys(("torch.set_default_dtype", "torch.set_default_tensor_type"), _set_default),
    "torch.nn.functional.one_hot": _one_hot,
}  # fmt: skip


FUNCTIONS = {
    name: _of_numbers(_of_numpy(make) if name.startswith("numpy.") else make)
    for name, make in _MAKERS.items()
}
