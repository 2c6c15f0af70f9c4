"""Where elements stand: views, places that are computed, running sums, terms added at places."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gradexplain.codegen.lowering import CodeLowering
from gradexplain.codegen.numbers import NEAR, integer, is_prime
from gradexplain.errors import UnsupportedError
from gradexplain.plan.numeric import Numeric
from gradexplain.plan.program import Affine, Axis, Node, needed, union
from gradexplain.plan.running import run

Frame = tuple["Axis | None", ...]
Written = tuple[str, Frame]

TENSORS = ("element", "window", "gather")


def unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"codegen cannot write {what} as PyTorch yet",
        remedy="gradexplain run shows the formula, to be written by hand",
    )


class Places:
    """Tensors by their axes; the rest of a formula is `gradexplain.codegen.source`'s."""

    def __init__(
        self,
        names: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
        size: Callable[[int], str | None],
        ranges: Mapping[Any, int],
    ) -> None:
        self.names = names
        self.shapes = shapes
        self.size = size
        self.ranges = ranges
        self._lowering = CodeLowering(self._shape)
        self._program = self._lowering.program
        self._one = ""
        self.layout: tuple[int, ...] = ()

    def _shape(self, label: str) -> tuple[int, ...]:
        if label not in self.shapes:
            raise unsupported(f"the name {label}")
        return self.shapes[label]

    def _name(self, label: str) -> str:
        if label not in self.names:
            raise unsupported(f"the name {label}")
        return self.names[label]

    def _n(self, n: int) -> str:
        return integer(n, self.size)

    def _add(
        self, kind: Any, *args: Node, axes: Any = None, data: Any = None, type: Any = "real"
    ) -> Node:
        return self._program.add(kind, args, axes, data, type)

    def show(self, node: Node, frame: Frame) -> Written:
        """``node`` so that it broadcasts to ``frame``."""
        found: Written = getattr(self, f"_{node.kind}")(node, frame)
        return found

    def _element(self, node: Node, frame: Frame) -> Written:
        label, picks = node.data
        own = iter(node.axes)
        return self._placed(self._name(label), [next(own) if p else None for p in picks], frame)

    def _placed(self, text: str, axes: Sequence[Axis | None], frame: Frame) -> Written:
        """A tensor with ``axes`` made to broadcast to ``frame``."""
        letters = [a for a in axes if a is not None]
        if any(a not in frame for a in letters):
            raise unsupported("an axis that is nowhere in the result")
        if fits(axes, frame):
            return text, tuple(axes)
        if len(axes) == len(frame) and [a is None for a in axes] == [f is None for f in frame]:
            spots = [k if f is None else axes.index(f) for k, f in enumerate(frame)]
            return text + _turn(spots), frame
        wanted = [a for a in frame if a in letters]
        for place in reversed(range(len(axes))):  # axes of one element that are in the way go
            if axes[place] is None:
                text = f"{text}.squeeze({place})"
        text += _turn([letters.index(a) for a in wanted if a is not None])
        if fits(wanted, frame):
            return text, tuple(wanted)
        first = min(frame.index(a) for a in wanted)
        layout = tuple(a if a in wanted else None for a in frame[first:])
        if layout.count(None) == 1 and layout[-1] is None:
            return f"{text}.unsqueeze(-1)", layout
        return f"{text}[{', '.join('None' if a is None else ':' for a in layout)}]", layout

    def _window(self, node: Node, frame: Frame) -> Written:
        """A view: slices, flips, diagonals, an axis as several; 0 where it reaches outside."""
        label, lines, shape = node.data
        text = self._name(label)
        pads: list[int] = []
        picks: list[str] = []
        flips: list[int] = []
        axes: list[Any] = []
        for line, n in zip(lines, shape, strict=True):
            low, high = max(0, -line.low), max(0, line.high + 1 - n)
            pads = [low, high, *pads]
            size, first, last = n + low + high, line.low + low, line.high + low
            if not line.steps:
                picks.append(str(first if first < NEAR else first - size))
                continue
            step = math.gcd(*(k for _, k in line.steps))
            stop = (
                ""
                if last + 1 == size
                else str(last + 1 - size)
                if size - last <= NEAR
                else self._near(last + 1)
            )
            start = "" if first == 0 else self._near(first)
            picks.append(f"{start}:{stop}{f':{step}' if step > 1 else ''}")
            parts = self._split(line, step, (last - first) // step + 1)
            flips += [len(axes) + k for k, (_, down) in enumerate(parts) if down]
            axes.append([a for a, _ in parts])
        if any(pads):
            while pads[-2:] == [0, 0]:
                pads = pads[:-2]
            text = f"F.pad({text}, ({', '.join(self._near(p) for p in pads)}))"
        while picks and picks[-1] == ":":
            picks.pop()
        text = f"{text}[{', '.join(picks)}]" if picks else text
        for place in reversed(range(len(axes))):
            if len(axes[place]) > 1:
                sizes = ", ".join(self._n(a.size) for a in axes[place])
                text = f"{text}.unflatten({place}, ({sizes}))"
        found = [a for group in axes for a in group]
        if flips:
            text = f"{text}.flip({', '.join(map(str, flips))})"
        while twice := next((a for a in found if found.count(a) > 1), None):
            first = found.index(twice)
            second = found.index(twice, first + 1)
            dims = "" if len(found) == 2 else f"dim1={first}, dim2={second}"
            text = f"{text}.diagonal({dims})"
            found = [a for a in found if a != twice] + [twice]
        return self._placed(text, found, frame)

    @staticmethod
    def _split(line: Affine, step: int, size: int) -> list[tuple[Axis, bool]]:
        """The axes that one axis of ``size`` is, outermost first, and which of them run downwards."""
        parts = sorted(line.steps, key=lambda part: -abs(part[1]))
        room = size
        for axis, k in parts:
            if room != axis.size * abs(k) // step:
                raise unsupported("windows that overlap")
            room = abs(k) // step
        return [(axis, k < 0) for axis, k in parts]

    def _gather(self, node: Node, frame: Frame) -> Written:
        """Computed places: a reshape, or along one axis."""
        label, shape = node.data
        text = self._name(label)
        axes = [a for a in frame if a in node.axes]
        if any(n.type == "index" and n.kind in TENSORS for n in needed(node)):
            return self._picked(text, node, frame)
        if math.prod(shape) == node.elements == math.prod(a.size for a in axes):
            if self._keeps_order(node, frame):
                sizes = ", ".join(self._n(a.size) for a in axes)
                return self._placed(f"{text}.reshape({sizes})", axes, frame)
        places = [
            run(arg, Numeric(lambda _: None)) if len(arg.axes) == 1 else None for arg in node.args
        ]
        return self._picked(text, node, frame, places)

    def _keeps_order(self, node: Node, frame: Frame) -> bool:
        """Whether all elements of a tensor stand in ``frame`` in the order that they have in it."""
        if node.kind not in ("window", "gather") or node.data[0] not in self.names:
            return False
        shape = node.data[-1]
        some = np.random.default_rng(0)
        at = {a: some.integers(0, a.size, 2000) for a in node.axes}
        wanted, found = np.zeros(2000, dtype=int), np.zeros(2000, dtype=int)
        for a in frame:
            wanted = wanted if a not in at else wanted * a.size + at[a]
        if node.kind == "gather":
            if any(n.kind in TENSORS for arg in node.args for n in needed(arg)):
                return False
            places = [_at(arg, at) for arg in node.args]
        else:
            places = [sum(k * at[a] for a, k in line.steps) + line.start for line in node.data[1]]
        for place, n in zip(places, shape, strict=True):
            found = found * n + place
        return math.prod(shape) == node.elements and np.array_equal(wanted, found)

    def _near(self, n: int) -> str:
        """A place along an axis: counted from its size where it is near to that."""
        for k in range(2, NEAR):
            if (name := self.size(n + k) if is_prime(n + k) else None) is not None:
                return f"({name} - {k})"
        return self._n(n)

    def _picked(self, text: str, node: Node, frame: Frame, places: Sequence[Any] = ()) -> Written:
        """Each axis from one of the tensor, by a slice, a repetition, a rotation or a table."""
        found: list[Axis | None] = []
        spots = [arg.axes[0] if arg.kind == "index" else None for arg in node.args]
        own = [a for arg in node.args if arg.kind != "index" for a in arg.axes if a not in spots]
        where = [d for d, arg in enumerate(node.args) if set(arg.axes) - {spots[d]}]
        if spots.count(None) == 1 and len(own) <= 1 and len(node.args[where[0]].axes) > len(own):
            # Along one axis, at places that the others tell too.
            (place,) = where
            spots[place] = own[0] if own else None
            at, layout = self.show(node.args[place], tuple(spots))
            if (None, *layout) == tuple(spots):
                at, layout = f"{at}.unsqueeze(0)", (None, *layout)
            if layout == tuple(spots):
                text = f"{text}.gather({place}, {at})"
                text = text if own else f"{text}.squeeze({place})"
                return self._placed(text, [a for a in spots if a is not None], frame)
        for dim, (arg, n) in enumerate(zip(node.args, node.data[1], strict=True)):
            if arg.kind == "number":
                picks = ":, " * len(found)
                text = f"{text}[{picks}{int(arg.data)}]"
                continue
            if len(arg.axes) != 1 or arg.axes[0] in found:
                raise unsupported("places that several axes tell")
            (axis,) = arg.axes
            found.append(axis)
            if arg.kind == "index" and axis.size == n:
                continue
            place, table = len(found) - 1, places[dim] if places else None
            if table is None:
                text = f"{text}.index_select({place}, {self._table(arg)})"
            elif np.array_equal(table, (np.arange(n) + table[0]) % n):
                shift = int(table[0])
                text = f"{text}.roll({-shift if shift < NEAR else n - shift}, {place})"
            elif axis.size % n == 0 and np.array_equal(
                table, np.arange(axis.size) // (axis.size // n)
            ):
                text = f"{text}.repeat_interleave({self._n(axis.size // n)}, dim={place})"
            else:
                text = f"{text}.index_select({place}, {self._table(arg)})"
        return self._placed(text, found, frame)

    def _table(self, node: Node) -> str:
        """Whole numbers along the axes of ``node``, as indices."""
        return self.show(node, node.axes)[0]

    def _index(self, node: Node, frame: Frame) -> Written:
        text = f"torch.arange({self._n(node.axes[0].size)}, device={self._one}.device)"
        return self._placed(text, node.axes, frame)

    def _scan(self, node: Node, frame: Frame) -> Written:
        how, own, to, upward = node.data
        if how not in ("sum", "product") or to not in frame:
            raise unsupported("a running value")
        part = node.args[0]
        order = tuple(own if a == to else a for a in frame if a == to or a in part.axes)
        text, layout = self.show(part, order)
        if layout != order:
            raise unsupported("a running value of what was broadcast")
        dim = order.index(own)
        call = f"cum{how.removesuffix('uct')}({dim})"
        text = f"{text}.{call}" if upward else f"{text}.flip({dim}).{call}.flip({dim})"
        return self._placed(text, [to if a == own else a for a in order], frame)

    def _scatter(self, node: Node, frame: Frame) -> Written:
        """Terms added at places: along one axis, or at the places of several."""
        (part, *more), (bound, count) = node.args, node.data
        tables, spots = more[:count], more[count:]
        if any(spot.kind != "index" for spot in spots):
            raise unsupported("terms added at computed places")
        flat = [spot.axes[0] for spot in spots]
        along = union(t.axes for t in tables)
        rest = [a for a in frame if a in node.axes and a not in flat]
        if any(a not in bound for a in along) or any(
            a in bound and a not in along for a in part.axes
        ):
            return self._scatter_along(part, tables, flat, bound, node, frame)
        zeros = ", ".join(self._n(a.size) for a in (*flat, *rest))
        places = ", ".join(self.show(t, along)[0] for t in tables)
        value, layout = self.show(part, (*along, *rest))
        if count == 1 and len(along) == 1:
            if layout != (*along, *rest):
                raise unsupported("terms added where they were broadcast")
            order = [a for a in frame if a in (*flat, *rest)]
            dim = order.index(flat[0])
            own = tuple(along[0] if a == flat[0] else a for a in order)
            zeros = ", ".join(self._n(a.size) for a in order if a)
            text = f"{self._one}.new_zeros({zeros}).index_add({dim}, {places}, {self.show(part, own)[0]})"
            return self._placed(text, order, frame)
        call = f"index_put(({places},), {value}, accumulate=True)"
        return self._placed(f"{self._one}.new_zeros({zeros}).{call}", [*flat, *rest], frame)

    def _scatter_along(
        self,
        part: Node,
        tables: Sequence[Node],
        flat: Sequence[Axis],
        bound: Any,
        node: Node,
        frame: Frame,
    ) -> Written:
        """``scatter_add``: a table as large as the terms."""
        inner = [a for a in bound if a in part.axes]
        order = [a for a in frame if a in node.axes]
        if len(tables) != 1 or len(inner) != 1 or set(tables[0].axes) != set(part.axes):
            raise unsupported("terms added at places")
        own = tuple(inner[0] if a == flat[0] else a for a in order)
        (value, la), (at, lb) = self.show(part, own), self.show(tables[0], own)
        if la != own or lb != own:
            raise unsupported("terms added where they were broadcast")
        zeros = ", ".join(self._n(a.size) for a in order if a)
        text = f"{self._one}.new_zeros({zeros}).scatter_add({order.index(flat[0])}, {at}, {value})"
        return self._placed(text, order, frame)


def _turn(order: Sequence[int]) -> str:
    """The call that puts axes into another order."""
    if list(order) == sorted(order):
        return ""
    swap = [*range(len(order) - 2), len(order) - 1, len(order) - 2]
    whole = f".permute({', '.join(map(str, order))})"
    return ".T" if len(order) == 2 else ".mT" if list(order) == swap else whole


def fits(axes: Sequence[Any], frame: Frame) -> bool:
    """Whether a tensor with ``axes`` broadcasts to ``frame`` as it is."""
    pairs = zip(reversed(axes), reversed(frame), strict=False)
    return len(axes) <= len(frame) and all(a is None or a == f for a, f in pairs)


def broadcast(layouts: Iterable[Frame]) -> Frame:
    rows = list(layouts)
    rank = max(map(len, rows), default=0)
    padded = [(None,) * (rank - len(row)) + tuple(row) for row in rows]
    return tuple(
        next((a for a in column if a is not None), None) for column in zip(*padded, strict=True)
    )


def aligned_to(array: Any, axes: Sequence[Axis], to: tuple[Axis, ...]) -> Any:
    order = sorted(range(len(axes)), key=lambda k: to.index(axes[k]))
    array = np.transpose(array, order)[tuple(slice(None) if a in axes else None for a in to)]
    return np.broadcast_to(array, [a.size for a in to])


def _at(node: Node, at: Mapping[Axis, Any]) -> Any:
    """An index expression at some places of its axes."""
    match node.kind:
        case "number":
            return int(node.data)
        case "index":
            return at[node.axes[0]]
    args = [_at(arg, at) for arg in node.args]
    return functools.reduce(getattr(np, node.data), args)


def is_diagonal(mask: Node) -> bool:
    return mask.kind == "map" and mask.data == "equal" and all(
        arg.kind == "index" for arg in mask.args) and mask.args[0].axes[0].size == mask.args[1].axes[0].size  # fmt: skip


def triangle(mask: Node, layout: Frame) -> str | None:
    """``tril()`` where a mask keeps what is on or below a diagonal of the last two axes."""
    if mask.kind != "map" or mask.type != "mask" or len(layout) < 2 or len(mask.axes) != 2:
        return None
    if set(mask.axes) != set(layout[-2:]) or any(n.kind in TENSORS for n in needed(mask)):
        return None
    rows, columns = layout[-2:]
    assert rows is not None and columns is not None
    found = aligned_to(run(mask, Numeric(lambda _: None)), mask.axes, (rows, columns))
    ones = np.ones(found.shape, dtype=bool)
    for k in sorted(range(-3, 4), key=abs):
        for how in (np.tril, np.triu):
            if np.array_equal(found, how(ones, k)):
                return f"{how.__name__}({k or ''})"
    return None
