"""The value of a formula over whole tensors, by the interpretation asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import sympy

from gradexplain.formula.kinds import Lookup
from gradexplain.plan.arrays import Pair, Relative, aligned, joined, sized
from gradexplain.plan.blocks import LARGE
from gradexplain.plan.cost import hold
from gradexplain.plan.exact import Exact
from gradexplain.plan.lower import Lowering
from gradexplain.plan.magnitude import Magnitude
from gradexplain.plan.numeric import Numeric
from gradexplain.plan.program import Axis, Node
from gradexplain.plan.running import parts, run


def kernel_value(
    kernel: Callable[..., Any], exact: bool, args: tuple[Any, ...], magnitudes: bool = True
) -> Pair:
    """What a record's own numeric ``kernel`` makes of ``args``; inf and nan are answers."""
    with np.errstate(all="ignore"):
        value, size = kernel(exact, *args)
        return value, (size() if callable(size) else size) if magnitudes else None


class Evaluator:
    """Values of formulas whose elements have the values that ``resolve(label)`` gives.

    ``sizes`` is the size of each free index; ``exact`` chooses mpmath, whose digits are the context's
    (`gradexplain.formula.functions.mp`), else NumPy's float64.  What does not fit the budget is
    refused by the name of ``what``, before it is begun (`InputError`).  ``decimals``: see `Exact`.
    """

    def __init__(
        self,
        resolve: Callable[[str], Pair],
        sizes: Mapping[Any, int],
        *,
        exact: bool,
        lookup: Callable[[str], Any] | None = None,
        magnitudes: bool = True,
        what: str = "this formula",
        decimals: frozenset[Any] = frozenset(),
    ) -> None:
        self._resolve = resolve
        self._lookup = lookup
        # What `resolve` derives on the way may give a letter another size.
        self._sizes = dict(sizes)
        self._magnitudes = magnitudes
        self._exact = exact
        self._what = what

        def value(label: str) -> Any:  # no method: what is large goes when its evaluator does
            return resolve(label)[0]

        values = Exact(value, lookup, decimals) if exact else Numeric(value, lookup)
        self._values = values
        self._interpretation = Magnitude(values, resolve) if magnitudes else values

    def value(self, e: Any, axes: Sequence[Any], shape: Sequence[int]) -> Pair:
        """``e`` over ``axes`` (index symbols, or 0 for an axis of one element), in ``shape``."""
        root = self._held(e, axes)
        with np.errstate(all="ignore"):
            found = run(root, self._interpretation)
        pair = found if self._magnitudes else (found, None)
        if isinstance(pair[1], Relative) and (self._exact or root.elements < LARGE):
            pair = sized(pair)
        return self._pair(pair, root, axes, shape)

    def _pair(self, pair: Pair, root: Node, axes: Sequence[Any], shape: Sequence[int]) -> Pair:
        value, size = self._shaped(pair[0], root, axes, shape), pair[1]
        if isinstance(size, Relative):
            return value, Relative(value, size.times)
        return value, None if size is None else self._shaped(size, root, axes, shape)

    def parts(
        self, e: Any, axes: Sequence[Any], shape: Sequence[int]
    ) -> Iterator[tuple[slice, Pair]]:
        """The same in the parts of its first axis in which it is computed, all of it where there are
        none."""
        root = self._held(e, axes)
        whole, first = None, axes[0].name if axes and not axes[0].is_Integer else ""
        for part, place, pair in parts(root, self._interpretation):
            if part is None or place is None or root.axes[place].name != first:
                whole = joined(root, whole, pair, place, part)
            else:
                some = part.stop - part.start, *shape[1:]
                yield part, self._pair(pair, root, axes, some)
        if whole is not None:
            yield slice(None), self._pair(whole, root, axes, shape)

    def _held(self, e: Any, axes: Sequence[Any]) -> Node:
        root = self._lowered(sympy.sympify(e), axes)
        hold(root, self._what, exact=self._exact, magnitudes=self._magnitudes)
        return root

    def holds(self, condition: Any, axes: Sequence[Any], shape: Sequence[int]) -> Any:
        """Where a condition holds, as an array of ``shape``."""
        root = self._lowered(condition, axes)
        with np.errstate(all="ignore"):
            return self._shaped(run(root, self._values), root, axes, shape)

    def _lowered(self, e: Any, axes: Sequence[Any]) -> Node:
        letters, labels = _names(e)
        sizes = tuple((s, self._sizes[s]) for s in letters if s in self._sizes)
        tables = {label for label, table in labels if table}
        shapes = tuple(
            (label, (self._lookup(label) if label in tables and self._lookup is not None
             else self._resolve(label)[0]).shape) for label, _ in labels
        )  # fmt: skip
        return lowered(e, sizes, shapes)

    def _shaped(self, array: Any, root: Node, axes: Sequence[Any], shape: Sequence[int]) -> Any:
        named = tuple(Axis(a.name, self._sizes[a]) for a in axes if not a.is_Integer)
        if root.axes == named and array.shape == tuple(shape):
            return array
        full = [n for n, a in zip(shape, axes, strict=True) if not a.is_Integer]
        return np.broadcast_to(aligned(array, root.axes, named), full).reshape(tuple(shape))


@lru_cache(maxsize=2048)
def lowered(
    e: Any, sizes: tuple[tuple[Any, int], ...], shapes: tuple[tuple[str, tuple[int, ...]], ...]
) -> Node:
    """The program of a formula or a condition."""
    lowering = Lowering(dict(shapes).__getitem__)
    condition = isinstance(e, sympy.logic.boolalg.Boolean) and not e.is_Symbol
    return (lowering.condition if condition else lowering.formula)(e, dict(sizes))


@lru_cache(maxsize=4096)
def _names(e: Any) -> tuple[tuple[Any, ...], tuple[tuple[str, bool], ...]]:
    """The free index letters of a formula, and the labels of tensors in it (of tables, True)."""
    letters = tuple(sorted((s for s in e.free_symbols if s.is_Symbol and s.is_integer), key=str))
    labels: dict[tuple[str, bool], None] = {}
    inside = set()
    for atom in sympy.preorder_traversal(e):
        if isinstance(atom, sympy.Indexed):
            labels[str(atom.base.label.name), False] = None
            inside.add(atom.base.label)
        elif isinstance(atom, Lookup):
            labels[atom.args[0].name, True] = None
            inside.add(atom.args[0])
    for s in sorted(e.free_symbols - inside, key=str):
        if s.is_Symbol and not s.is_integer and s.is_real:
            labels[s.name, False] = None
    return letters, tuple(labels)
