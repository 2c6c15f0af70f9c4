"""Where the first nan or infinity comes from, in forward or in backward, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gradexplain.explanation import Array
from gradexplain.trace.diagnose.finding import Finding, Scene, at, line_of, plain, short
from gradexplain.trace.snapshot import Operation, Value

if TYPE_CHECKING:
    from gradexplain.trace.session import Trace

#: Operations that are given an infinity on purpose, for a mask.
_MASKS = {"masked_fill", "where", "full_like", "triu", "tril", "fill", "setitem"}

#: What is infinite at 0 although the value is not.
_STEEP = {"sqrt", "norm", "vector_norm", "pow", "std", "cdist", "dist", "acos", "asin", "log", "div",
          "rsqrt", "reciprocal", "truediv", "atan2"}  # fmt: skip


def of_numbers(scene: Scene) -> Iterator[Finding]:
    """The finding of one captured call, where it ends in something that is no number."""
    snapshot = scene.snapshot
    ends = [scene.value(root).array for root in snapshot.roots]
    gradients = [entry.added for entry in snapshot.accumulated]
    if all(_fine(array) for array in (*ends, *gradients)) and not snapshot.late:
        return
    index = snapshot.index
    forward = not all(_fine(array) for array in ends)
    found = _given(scene) or _forward(scene, required=forward)
    if found is None:
        found = _suspect(scene) if snapshot.late else _backward(scene)
    if found is not None:
        text, remedy, line = found
        yield Finding("not a number", text, remedy, line, index)


def of_calls(trace: Trace, explained: set[int]) -> Iterator[Finding]:
    """What is known of a call that was not captured."""
    for brief in trace.all:
        bad = not brief.finite or (brief.value is not None and not np.isfinite(brief.value))
        if bad and not brief.error:
            if brief.index not in explained:
                bad_value = brief.value is not None and not np.isfinite(brief.value)
                what = f"its value is {brief.value}" if bad_value else "gradients are not numbers"
                said, place = trace.late if brief.index == trace.bad else ("", None)
                if said:
                    where = "" if place is None else f" at {at(place)}"
                    name, _, rest = said.partition(" ")
                    what += f": {name}{where} {rest}"
                yield Finding(
                    "not a number",
                    f"From call {brief.index} on ({at(brief.site)}) {what}.",
                    f"gradexplain trace --call {brief.index - said.startswith('a parameter')} shows "
                    "where it first arises.",
                    line_of(place, brief.site),
                    brief.index,
                )
            return


def _fine(array: Array | None) -> bool:
    return array is None or bool(np.isfinite(array).all())


def _place(array: Array) -> tuple[int, ...]:
    """The first element that is nan, else infinite."""
    nan = np.argwhere(np.isnan(array))
    found = nan if len(nan) else np.argwhere(~np.isfinite(array))
    return tuple(int(i) for i in found[0])


def _element(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{','.join(map(str, index))}]" if index else name


def _at(value: Value, index: tuple[int, ...], shape: tuple[int, ...]) -> float | None:
    """The element of a value that goes into an element of a result of that shape."""
    if value.array is None:
        return None
    try:
        return float(np.broadcast_to(value.array, shape)[index])
    except ValueError:
        return None


_Found = tuple[str, str, "int | None"]


def _given(scene: Scene) -> _Found | None:
    """A number that was none before anything was computed."""
    for value in scene.snapshot.values:
        if value.kind not in ("leaf", "constant") or value.array is None or _fine(value.array):
            continue
        mask = np.isneginf(value.array) | np.isfinite(value.array)
        if value.kind == "constant" and mask.all():
            continue
        index = _place(value.array)
        count = int((~np.isfinite(value.array)).sum())
        readers = scene.readers.get(value.id, [])
        site = readers[0].site if readers else scene.snapshot.site
        who = "a parameter" if value.kind == "leaf" else "data"
        what = short(float(value.array[index]))
        return (
            f"{_element(scene.name(value.id), index)} is {what} before anything is computed from it "
            f"({count} of {value.array.size} elements; {who}, first used at {at(site)}).",
            "look at the data: torch.isfinite(…).all()."
            if value.kind == "constant"
            else "look at the call before: its step was not a number.",
            line_of(site),
        )
    return None


def _forward(scene: Scene, *, required: bool) -> _Found | None:
    """The first operation that makes something that is no number of numbers."""
    if not required:
        return None
    masked: _Found | None = None
    for operation in scene.operations:
        value = scene.output(operation)
        if value is None or value.array is None or _fine(value.array):
            continue
        inputs = [scene.value(n) for n in operation.inputs]
        if not all(_fine(i.array) for i in inputs) and not np.isnan(value.array).any():
            continue
        if any(i.array is not None and np.isnan(i.array).any() for i in inputs):
            continue
        name = plain(operation.name)
        if name in _MASKS:
            continue
        index = _place(value.array)
        why, remedy = _why(scene, operation, value, index)
        word = short(float(value.array[index]))
        found = (
            f"{_element(scene.name(value.id), index)} is {word}, the first that is no number: "
            f"{name} at {at(operation.site)} {why}.",
            remedy,
            line_of(operation.site),
        )
        if np.isnan(value.array).any() or not _recovers(scene, value):
            return found
        masked = masked or found
    return masked


def _recovers(scene: Scene, value: Value) -> bool:
    """Whether an infinity is gone after the next operation, as -inf is in a softmax."""
    readers = scene.readers.get(value.id, [])
    outputs = [scene.output(reader) for reader in readers]
    return bool(outputs) and all(o is not None and _fine(o.array) for o in outputs)


def _why(
    scene: Scene, operation: Operation, value: Value, index: tuple[int, ...]
) -> tuple[str, str]:
    name = plain(operation.name)
    given = scene.given(operation)
    shape = value.shape
    at_element = [_at(v, index, shape) for v in given]
    first = at_element[0] if at_element else None
    second = at_element[1] if len(at_element) > 1 else _number(operation, 1)
    if name in ("rtruediv",):
        first, second = _number(operation, 1), first
    if name in ("log", "log2", "log10", "log1p") and first is not None:
        return (
            f"of {short(first)} ({scene.name(given[0].id)} there)",
            "keep its argument above 0, as in torch.log(x.clamp_min(1e-12)); log_softmax, logsigmoid "
            "and log1p do it where the argument is a softmax, a sigmoid or 1 + x.",
        )
    if name in ("div", "truediv", "true_divide", "rtruediv", "reciprocal") and first is not None:
        below = second if name not in ("reciprocal",) else first
        if below == 0:
            top = f"{short(first)}/0" if name != "reciprocal" else "1/0"
            divisor = scene.maker(given[-1].id) if given else None
            by = ""
            if divisor is not None and name != "rtruediv":
                by = f", the {plain(divisor.name)} of {at(divisor.site)}"
            return f"divides by 0 ({top}{by})", "keep the divisor away from 0, as in x/(y + 1e-8)."
    if name in ("sqrt", "rsqrt") and first is not None:
        return (
            f"of {short(first)}",
            "keep its argument above 0, as in torch.sqrt(x.clamp_min(0) + 1e-12).",
        )
    if name in ("exp", "expm1", "cosh", "sinh") and first is not None:
        return (
            f"overflows: of {short(first)} it is above the largest {value.dtype}",
            "subtract the maximum first (softmax, logsumexp), or clamp its argument.",
        )
    if name == "pow":
        return (
            f"of {short(first) if first is not None else 'its input'} to the power "
            f"{short(second) if second is not None else 'given'}",
            "keep the base above 0 for a power that is no integer.",
        )
    if name in ("softmax", "log_softmax"):
        source = given[0].array if given else None
        if source is not None and np.isneginf(source).any():
            return (
                "has a row in which everything is -inf: it masks every element",
                "leave at least one element of each row, or mask with a large negative number.",
            )
    if name in ("mul",) and {first, second} & {0.0}:
        return "multiplies 0 by an infinity", "look at where the infinity comes from."
    if name in ("mean", "std", "var") and given and given[0].array is not None:
        if given[0].array.size <= 1:
            return (
                f"of {given[0].array.size} element{'s' * (given[0].array.size != 1)}",
                "give it more, or unbiased=False.",
            )
    numbers = [v for v in at_element if v is not None]
    with np.errstate(all="ignore"):
        largest = max(
            (float(np.abs(v.array[np.isfinite(v.array)]).max(initial=0)) for v in given
             if v.array is not None), default=0.0,
        )  # fmt: skip
    if largest > 1e15 or value.dtype == "float16":
        return (
            f"overflows {value.dtype}: its inputs reach {short(largest)}",
            "take a smaller lr, clip the gradients, or scale the values down"
            + (" (torch.amp.GradScaler scales the loss)." if value.dtype == "float16" else "."),
        )
    shown = " and ".join(short(v) for v in numbers[:2])
    return (f"of {shown}" if shown else "has no value there"), "keep its input where it is defined."


def _number(operation: Operation, place: int) -> float | None:
    if len(operation.args) > place and isinstance(operation.args[place], (int, float)):
        return float(operation.args[place])
    return None


# -- backward --------------------------------------------------------------------------------------


def _backward(scene: Scene) -> _Found | None:
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
) -> _Found:
    value = scene.value(number)
    name = plain(operation.name)
    here = None if value.array is None else float(value.array[index])
    where = _element(scene.name(number), index)
    point = "" if here is None else f" = {short(here)}"
    out = scene.output(operation)
    arriving = None
    if out is not None and out.upstream is not None and out.shape == value.shape:
        arriving = float(out.upstream[index])
    chosen = _branch(scene, operation)
    if name in ("norm", "vector_norm", "linalg_norm") and not np.isnan(sent):
        why = "its derivative is x/‖x‖"
    elif arriving == 0:
        why = "an infinite derivative times a gradient of 0"
    else:
        why = "its derivative is infinite there"
    text = (
        f"The gradient of {where} is {short(sent)}, the first that is no number: {name} at "
        f"{at(operation.site)}, at {where}{point}: {why}"
    )
    remedy = "keep its argument away from there, as in torch.sqrt(x + 1e-12)."
    if chosen is not None:
        text += (
            f". {at(chosen.site)[0].upper()}{at(chosen.site)[1:]} does not take that element with "
            "where, but its gradient, 0, is still multiplied by the infinite derivative"
        )
        remedy = (
            "make the argument harmless before the function, as in "
            "torch.sqrt(torch.where(ok, x, 1.)), not only its result after it."
        )
    elif name in ("log", "div", "truediv", "reciprocal"):
        remedy = "keep its argument away from 0, as in x.clamp_min(1e-12)."
    elif name == "pow":
        remedy = "keep the base away from 0, as in (x + 1e-12)**p."
    return text + ".", remedy, line_of(operation.site)


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


def _suspect(scene: Scene) -> _Found | None:
    """Where no flow was caught: an operation at a value at which its derivative is infinite."""
    for operation in reversed(scene.operations):
        name = plain(operation.name)
        if name not in _STEEP or not operation.inputs:
            continue
        place = -1 if name in ("div", "truediv") else 0
        given = scene.given(operation)
        value = given[place] if given else None
        if value is None or value.array is None or value.kind == "constant":
            continue
        edge = np.abs(value.array) >= 1 if name in ("acos", "asin") else value.array == 0
        if name in ("norm", "vector_norm"):
            edge = np.full(value.shape, not value.array.any())
        if edge.any():
            index = tuple(int(i) for i in np.argwhere(edge)[0])
            return _steep(scene, operation, value.id, index, float("nan"))
    return None
