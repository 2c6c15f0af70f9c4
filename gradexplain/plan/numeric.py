"""A program in NumPy, in a dtype: each operation as IEEE arithmetic has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from gradexplain.formula.functions import KERNELS
from gradexplain.plan import contraction
from gradexplain.plan.arrays import (
    aligned,
    as_array,
    gathered,
    is_finite,
    scanned,
    scattered,
    window,
)
from gradexplain.plan.program import Node

#: Comparisons and logic, and arithmetic of indices: NumPy's own names.
_NAMED = {
    "less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "logical_and",
    "logical_or", "logical_not", "add", "multiply", "divide", "floor_divide", "remainder", "power",
    "sqrt", "negative",
}  # fmt: skip

_REDUCE: dict[str, Callable[..., Any]] = {
    "greatest": np.maximum.reduce, "least": np.minimum.reduce, "product": np.multiply.reduce,
}  # fmt: skip
_PLACE: dict[str, Callable[..., Any]] = {"argmax": np.argmax, "argmin": np.argmin}


class Numeric:
    """Values in float64; ``tensor(label)`` are the inputs, ``table(label)`` those of indices."""

    def __init__(
        self, tensor: Callable[[str], Any], table: Callable[[str], Any] | None = None
    ) -> None:
        self._tensor = tensor
        self._table = table

    cut = False

    #: NumPy's, of values that are no indices and no masks.
    dtype: Any = np.dtype(float)

    #: What a mask or a missing element is.
    zero: Any = 0.0
    one: Any = 1.0

    def step(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        if node.type == "real":
            return as_array(getattr(self, node.kind)(node, args, spare))
        return as_array(self._whole(node, args))

    def number_of(self, value: Any) -> Any:
        return self.dtype.type(float(value))

    def source(self, node: Node) -> Any:
        """The tensor that an element, a window or a gather takes from."""
        if node.type == "index":
            assert self._table is not None
            return self._table(node.data[0])
        return self._tensor(node.data[0])

    def _whole(self, node: Node, args: list[Any]) -> Any:
        """Indices and masks: whole numbers and truth values, whatever the dtype."""
        match node.kind:
            case "number":
                return np.array(int(node.data) if node.type == "index" else node.data)
            case "index":
                return np.arange(node.axes[0].size)
            case "map":
                call = getattr(np, node.data)
                arrays = self.arrays(node, args)
                return call(*arrays) if len(arrays) < 2 else reduce(call, arrays)
            case _:
                return getattr(self, node.kind)(node, args, [])

    def arrays(self, node: Node, args: Sequence[Any]) -> list[Any]:
        return [
            aligned(value, arg.axes, node.axes) for value, arg in zip(args, node.args, strict=True)
        ]

    # -- one operation each ----------------------------------------------------------------------

    def number(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        return self.number_of(node.data)

    def element(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        return self.source(node)[tuple(slice(None) if pick else 0 for pick in node.data[1])]

    def window(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        zero = 0 if node.type == "index" else self.zero
        return window(self.source(node), node.data[1], node.axes, zero)

    def gather(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        return gathered(self.source(node), args, [a.axes for a in node.args], node.axes)

    def real(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        return np.asarray(args[0]).astype(self.dtype)

    def map(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        what, arrays = node.data, self.arrays(node, args)
        if what in ("add", "multiply"):
            return self._folded(getattr(np, what), node, arrays, spare)
        if isinstance(what, tuple):
            return self.whole_power(arrays[0], what[1])
        if what == "divide":
            top, bottom = arrays
            whole = spare[0] and top.shape == np.broadcast(top, bottom).shape
            return np.divide(top, bottom, out=top if whole else None)
        if what in _NAMED:
            return getattr(np, what)(*arrays)
        return np.asarray(self.function(what, arrays), dtype=self.dtype)

    def whole_power(self, base: Any, n: int) -> Any:
        return base**n

    def function(self, what: Any, arrays: Sequence[Any]) -> Any:
        kernel = KERNELS[what].numpy
        assert kernel is not None
        return kernel(*arrays)

    def _folded(self, ufunc: Any, node: Node, arrays: list[Any], spare: list[bool]) -> Any:
        """``arrays`` under a ufunc, in arrays that are there already where that can be."""
        value, free = arrays[0], spare[0]
        for array, own in zip(arrays[1:], spare[1:], strict=True):
            shape = value.shape if value.shape == array.shape else np.broadcast(value, array).shape
            if free and value.shape == shape:
                ufunc(value, array, out=value)
            elif own and array.shape == shape:
                value = ufunc(value, array, out=array)
            else:
                value = as_array(ufunc(value, array))
            free = True
        return value

    def select(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        mask, value = self.arrays(node, args)
        return np.where(mask, value, self.zero)

    def choose(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        return np.where(*self.arrays(node, args))

    def contract(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        axes = [arg.axes for arg in node.args]
        kinds = [arg.type for arg in node.args]
        if all(kind == "real" for kind in kinds):
            return contraction.contracted(args, axes, node.axes)
        if not all(self.finite(arg, a) for arg, a in zip(node.args, args, strict=True)):
            masks = [kind != "real" for kind in kinds]
            return contraction.masked(args, axes, masks, node.axes, self.zero)
        used = [k for k, kind in enumerate(kinds) if kind != "implied"]
        arrays = [args[k].astype(self.dtype, copy=False) for k in used]
        return contraction.contracted(arrays, [axes[k] for k in used], node.axes)

    def finite(self, node: Node, array: Any) -> bool:
        """Whether no infinity and no nan is in an argument; a view has what its tensor has."""
        return node.type != "real" or is_finite(
            self.source(node) if node.kind == "window" else array
        )

    def reduce(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        how, bound = node.data
        own = node.args[0].axes
        places = tuple(own.index(a) for a in bound)
        if how in _PLACE:
            # The first nan where there is one, which NumPy sees among floats alone.
            found, nan = _PLACE[how](args[0], axis=places[0]), args[0] != args[0]
            found = np.where(nan.any(axis=places[0]), np.argmax(nan, axis=places[0]), found)
            return np.asarray(found).astype(self.dtype)
        return _REDUCE[how](args[0], axis=places)

    def scan(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        return scanned(node, args, self.one)

    def scatter(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        tables = node.data[1]

        def add(where: Any, terms: Any, room: int) -> Any:
            return np.bincount(where, weights=terms, minlength=room).astype(self.dtype)

        return scattered(node, args[0], args[1 : 1 + tables], args[1 + tables :], add)

    def place(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        """The first argument, the second added to it at its places; see `Node`."""
        axis: Any = node.data
        others = tuple(a for a in node.axes if a != axis)
        at = aligned(args[2], node.args[2].axes, others)
        term = aligned(args[1], node.args[1].axes, others)
        valid = (at >= 0) & (at < axis.size)
        grid = np.ix_(*(np.arange(a.size) for a in others))
        index = {**dict(zip(others, grid, strict=True)), axis: np.clip(at, 0, axis.size - 1)}
        value = np.array(aligned(args[0], node.args[0].axes, node.axes))
        value[tuple(index[a] for a in node.axes)] += np.where(valid, term, self.zero)
        return value

    def take(self, node: Node, args: list[Any], spare: list[bool]) -> Any:
        return np.take(args[0], args[1], axis=node.args[0].axes.index(node.data))
