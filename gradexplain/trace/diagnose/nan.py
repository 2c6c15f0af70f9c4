"""Where the first nan or infinity comes from, in forward or in backward, and why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.recording.frames import Site
from gradexplain.tensors import spot
from gradexplain.trace.diagnose.finding import (
    Finding,
    Scene,
    assigned,
    at,
    knows,
    plain,
    row,
    short,
    told,
)  # fmt: skip
from gradexplain.trace.seen import Seen
from gradexplain.trace.snapshot import Operation, Value

_QUOTIENTS = {"div", "truediv", "true_divide", "rtruediv", "reciprocal"}

#: Operations that are given an infinity on purpose, for a mask.
_MASKS = {"masked_fill", "where", "full_like", "triu", "tril", "fill", "setitem"}


def of_numbers(scene: Scene) -> Iterator[Finding]:
    """The finding of one captured call, where it ends in something that is no number."""
    snapshot = scene.snapshot
    ends = [scene.value(root).array for root in snapshot.roots]
    gradients = [entry.added for entry in snapshot.accumulated]
    if all(_fine(array) for array in (*ends, *gradients)):
        return
    forward = not all(_fine(array) for array in ends)
    found = _given(scene) or (_forward(scene) if forward else None) or _backward(scene)
    if found is not None:
        yield found


def of_calls(trace: Seen, explained: set[int]) -> Iterator[Finding]:
    """What is known of a call that was not captured."""
    for brief in trace.all:
        value = brief.value
        bad = not brief.finite or (value is not None and not np.isfinite(value))
        if not bad or brief.error:
            continue
        if brief.index not in explained:
            finite = value is None or np.isfinite(value)
            what = "gradients are not numbers" if finite else f"its value is {value}"
            said, place = trace.late if brief.index == trace.bad else ("", None)
            if said:
                name, _, rest = said.partition(" ")
                what += f": {name}{'' if place is None else f' at {at(place)}'} {rest}"
            yield told(
                "not a number: later", place or brief.site, brief.index, backward=brief.site,
                what=what, call=brief.index, shown=brief.index - said.startswith("a parameter"),
            )  # fmt: skip
        return


def _fine(array: Array | None) -> bool:
    return array is None or bool(np.isfinite(array).all())


def _place(array: Array) -> tuple[int, ...]:
    """The first element that is nan, else infinite."""
    nan = np.argwhere(np.isnan(array))
    found = nan if len(nan) else np.argwhere(~np.isfinite(array))
    return tuple(int(i) for i in found[0])


def _at(value: Value, index: tuple[int, ...], shape: tuple[int, ...]) -> float | None:
    """The element of a value that goes into an element of a result of that shape."""
    if value.array is None:
        return None
    try:
        return float(np.broadcast_to(value.array, shape)[index])
    except ValueError:
        return None


def _given(scene: Scene) -> Finding | None:
    """A number that was none before anything was computed."""
    for value in scene.snapshot.values:
        if value.kind not in ("leaf", "constant") or value.array is None or _fine(value.array):
            continue
        mask = np.isneginf(value.array) | np.isfinite(value.array)
        if value.kind == "constant" and mask.all():
            continue
        index = _place(value.array)
        readers = scene.readers.get(value.id, [])
        site = readers[0].site if readers else scene.snapshot.site
        made = _made(scene.name(value.id), site) if value.kind == "constant" else None
        why = ""
        if made is not None and value.array.size == 1 and re.search(r"\b(std|var)\(", made.source):
            why = ": std and var of one element are nan (0/0); give them more, or unbiased=False"
        who = "parameter" if value.kind == "leaf" else "data" if made is None else "assigned"
        return told(
            f"not a number: {who}", made or site, scene.snapshot.index,
            element=spot(scene.name(value.id), index), value=float(value.array[index]),
            count=int((~np.isfinite(value.array)).sum()), size=value.array.size, why=why,
            source="" if made is None else made.source,
        )  # fmt: skip
    return None


def _made(name: str, used: Site | None) -> Site | None:
    """The line before ``used`` that computes a constant of that name by what may fail."""
    places = [
        place
        for _, place, value in (assigned(used.filename, name) if used is not None else ())
        if place.line <= (used.line if used is not None else 0)
        and re.search(
            r"/|\*\*|\b(std|var|log\w*|r?sqrt|exp|norm|normalize|acos|asin|div)\(",
            ast.unparse(value),
        )
    ]
    return max(places, key=lambda place: place.line, default=None)


def _forward(scene: Scene) -> Finding | None:
    """The first operation that makes something that is no number of numbers."""
    masked: Finding | None = None
    for operation in scene.operations:
        value = scene.output(operation)
        if value is None or value.array is None or _fine(value.array):
            continue
        inputs = [scene.value(n) for n in operation.inputs]
        if not all(_fine(i.array) for i in inputs) and not np.isnan(value.array).any():
            continue
        if any(i.array is not None and np.isnan(i.array).any() for i in inputs):
            continue
        if plain(operation.name) in _MASKS:
            continue
        index = _place(value.array)
        key, values = _why(scene, operation, value, index)
        why, fix = (
            part.format(**{k: _said(v) for k, v in values.items()}) for part in row("why", key)
        )
        found = told(
            "not a number: forward", operation.site, scene.snapshot.index, why=why, fix=fix,
            element=spot(scene.name(value.id), index), value=float(value.array[index]),
            operation=plain(operation.name),
        )  # fmt: skip
        if np.isnan(value.array).any() or not _recovers(scene, value):
            return found
        masked = masked or found
    return masked


def _said(value: Any) -> str:
    return short(value) if isinstance(value, float) else str(value)


def _recovers(scene: Scene, value: Value) -> bool:
    """Whether an infinity is gone after the next operation, as -inf is in a softmax."""
    readers = scene.readers.get(value.id, [])
    outputs = [scene.output(reader) for reader in readers]
    return bool(outputs) and all(o is not None and _fine(o.array) for o in outputs)


def _why(
    scene: Scene, operation: Operation, value: Value, index: tuple[int, ...]
) -> tuple[str, dict[str, Any]]:
    """The row of ``findings.txt`` that says why there is no number, and what stands in it."""
    name = plain(operation.name)
    given = scene.given(operation)
    at_element = [_at(v, index, value.shape) for v in given]
    first = at_element[0] if at_element else None
    second = at_element[1] if len(at_element) > 1 else _number(operation, 1)
    if name == "rtruediv":
        first, second = _number(operation, 1), first
    array = given[0].array if given else None
    count = 2 if array is None else array.size
    masked = array is not None and bool(np.isneginf(array).any())
    known: dict[str, Any] = {
        "first": first, "second": "given" if second is None else second, "dtype": value.dtype,
        "name": scene.name(given[0].id) if given else "",
        "count": f"{count} element{'s' * (count != 1)}" if count < 2 else "single elements along an axis",
    }  # fmt: skip
    holds = {
        "cross_entropy": bool(given) and _fine(array), "nll_loss": bool(given) and _fine(array),
        "softmax": masked, "log_softmax": masked, "mul": bool({first, second} & {0.0}),
        "mean": count < 2, "std": True, "var": True,
    }  # fmt: skip
    if name in _QUOTIENTS:
        if (first if name == "reciprocal" else second) == 0:
            divisor = scene.maker(given[-1].id) if given and name != "rtruediv" else None
            by = "" if divisor is None else f", the {plain(divisor.name)} of {at(divisor.site)}"
            return "by", {"top": 1 if name == "reciprocal" else first, "by": by}
    elif holds.get(name, first is not None and knows("why", name)):
        return name, known
    with np.errstate(all="ignore"):
        largest = max(
            (float(np.abs(v.array[np.isfinite(v.array)]).max(initial=0)) for v in given
             if v.array is not None), default=0.0,
        )  # fmt: skip
    if largest > 1e15 or value.dtype == "float16":
        scaler = " (torch.amp.GradScaler scales the loss)" if value.dtype == "float16" else ""
        return "overflow", known | {"largest": largest, "scaler": scaler}
    shown = [short(v) for v in at_element[:2] if v is not None]
    return ("other", {"numbers": " and ".join(shown)}) if shown else ("nothing", {})


def _number(operation: Operation, place: int) -> float | None:
    if len(operation.args) > place and isinstance(operation.args[place], (int, float)):
        return float(operation.args[place])
    return None


# -- backward --------------------------------------------------------------------------------------


def _backward(scene: Scene) -> Finding | None:
    """The first operation, from the loss back, that sends something that is no number."""
    for operation in reversed(scene.operations):
        upstream = [scene.value(n).upstream for n in operation.outputs]
        if not all(_fine(array) for array in upstream):
            continue
        for number, sent in operation.sent.items():
            if _fine(sent):
                continue
            return _steep(scene, operation, number, _place(sent), float(sent[_place(sent)]))
    return None


def _steep(
    scene: Scene, operation: Operation, number: int, index: tuple[int, ...], sent: float
) -> Finding:
    value = scene.value(number)
    name = plain(operation.name)
    here = None if value.array is None else float(value.array[index])
    out = scene.output(operation)
    arriving = None
    if out is not None and out.upstream is not None and out.shape == value.shape:
        arriving = float(out.upstream[index])
    if name in ("norm", "vector_norm", "linalg_norm") and not np.isnan(sent):
        why = "its derivative is x/‖x‖"
    elif arriving == 0:
        why = "an infinite derivative times a gradient of 0"
    else:
        why = "its derivative is infinite there"
    chosen = _branch(scene, operation)
    return told(
        f"not a number: {'backward' if chosen is None else 'branch'}", operation.site,
        scene.snapshot.index, element=spot(scene.name(number), index), value=sent, operation=name,
        point="" if here is None else f" = {short(here)}", why=why, fix=row("steep", name)[1],
        Branch="" if chosen is None else at(chosen.site)[0].upper() + at(chosen.site)[1:],
    )  # fmt: skip


def _branch(scene: Scene, operation: Operation) -> Operation | None:
    """The ``where`` that a result goes into, near by."""
    numbers = list(operation.outputs)
    for _ in range(3):
        readers = [reader for n in numbers for reader in scene.readers.get(n, [])]
        for reader in readers:
            if plain(reader.name) in ("where", "masked_fill"):
                return reader
        numbers = [n for reader in readers for n in reader.outputs]
    return None
