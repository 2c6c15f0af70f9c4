"""What the values of one call tell: units that are off, losses that broadcast, unstable forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.tensors import spot
from gradexplain.trace.backward import STEPS, is_identity
from gradexplain.trace.call import TracedCall
from gradexplain.trace.diagnose.finding import (
    Finding,
    Scene,
    at,
    line_of,
    norm,
    plain,
    row,
    short,
    told,
)  # fmt: skip
from gradexplain.trace.snapshot import Operation, Value

#: The share of units, or of elements, that is off or saturated before anything is said.
_SHARE = 0.9

#: Fewer elements than this are no layer.
_FEW = 4

#: A gradient that is smaller by this at the one end than at the other, over this many layers: one
#: that sound networks of a dozen layers stay above, and at which the first no longer learn beside the
#: last.  What flows back is smaller in sound ones too, where much is averaged: by less than the second.
_VANISHED, _FADED, _LAYERS = 1e-4, 1e-5, 5

#: A gradient of this size per element, in a network of layers, has exploded.
_LARGE = 1e4

_RECTIFIERS = {"relu", "relu6", "threshold", "clamp_min"}

#: Losses that compare element by element, and so broadcast.
_PAIRWISE = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}

_NORMS = {"batch_norm", "instance_norm"}
_LINEAR = {"linear", "conv1d", "conv2d", "conv3d"}

#: Operations that copy a value, and those that a shape or an order goes through as well.
_COPIES = {"contiguous", "clone", "to", "float", "double"}
_MOVES = _COPIES | {
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "T", "mT",
    "swapaxes", "movedim",
}  # fmt: skip


#: Those that take some elements of a value.
_PICKS = {"getitem", "gather", "index_select", "select", "take_along_dim"}

#: Those that scale and mask scores.
_SCALING = {"mul", "div", "truediv", "add", "masked_fill", "dropout", "where"}


def of_values(scene: Scene, still: Set[str]) -> Iterator[Finding]:
    """The findings of one captured call; ``still`` are the parameters whose gradient is always 0."""
    for operation in scene.operations:
        name = plain(operation.name)
        for names, find in _FINDERS:
            if name in names:
                yield from find(scene, operation)
    yield from _depth(scene)
    yield from _stopped(scene, still)


def _through(scene: Scene, number: int, names: Set[str] = _MOVES) -> Operation | None:
    """What made a value, before operations of those names: before it was moved or reshaped."""
    maker = scene.maker(number)
    while maker is not None and plain(maker.name) in names and maker.inputs:
        maker = scene.maker(maker.inputs[0])
    return maker


def _units(values: Array) -> Array:
    """A row for each sample, a column for each unit; of an image a unit is a channel."""
    if values.ndim >= 3:
        values = np.moveaxis(values, 1, -1) if values.ndim == 4 else values
    return values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(1, -1)


# -- units -----------------------------------------------------------------------------------------


def _dead(scene: Scene, operation: Operation) -> Iterator[Finding]:
    value = scene.output(operation)
    if value is None or value.array is None or value.array.size < _FEW:
        return
    off = (_units(value.array) <= 0).all(axis=0)
    share = float(off.mean())
    samples = _units(value.array).shape[0]
    if share < _SHARE or (samples < 2 and share < 1):
        return
    ends = {plain(reader.name) for reader in scene.readers.get(value.id, ())} <= {"mean", "sum"}
    if value.array.ndim == 1 and ends:
        return  # a margin that every sample keeps
    source = scene.value(operation.inputs[0]).array if operation.inputs else None
    numbers = ""
    if source is not None:
        numbers = (
            f" (its input is between {short(float(source.min()))} and {short(float(source.max()))})"
        )
    weight = _zero_weight(scene, next(iter(operation.inputs), None))
    yield told(
        f"dead units{': zero weight' if weight else ''}", operation.site, numbers=numbers,
        count=f"All {off.size}" if off.all() else f"{int(off.sum())} of {off.size}",
        operation=plain(operation.name), samples=samples, weight=weight,
    )  # fmt: skip


def _zero_weight(scene: Scene, number: int | None) -> str:
    """A layer's weights that are all 0, where they are."""
    maker = None if number is None else _through(scene, number)
    for value in scene.given(maker) if maker is not None else ():
        if value.kind == "leaf" and len(value.shape) > 1:
            if value.array is not None and not value.array.any():
                return scene.name(value.id)
    return ""


def _saturated(scene: Scene, operation: Operation) -> Iterator[Finding]:
    value = scene.output(operation)
    if value is None or value.array is None or value.array.size < _FEW:
        return
    name, array = plain(operation.name), value.array
    with np.errstate(all="ignore"):
        slope = 1 - array * array if name == "tanh" else array * (1 - array)
    flat = slope < (1e-3 if name == "tanh" else 2.5e-4)
    share = float(flat.mean())
    if share < _SHARE or not np.isfinite(array).all():
        return
    source = scene.value(operation.inputs[0]).array
    largest = "" if source is None else f" (its input reaches {short(float(np.abs(source).max()))})"
    yield told(
        "saturated", operation.site, operation=name, share=f"{share:.0%}", largest=largest,
        slope=float(slope[flat].max()),
    )  # fmt: skip


def _one_hot(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """A softmax of which one element takes all."""
    value = scene.output(operation)
    source = scene.value(operation.inputs[0]).array if operation.inputs else None
    if value is None or value.array is None or source is None or value.array.ndim == 0:
        return
    dim = _axis(operation)
    if dim is None or value.array.shape[dim] < 2:
        return
    free = np.isfinite(source).sum(axis=dim) > 1  # rows that a mask leaves a choice
    rows = np.exp(value.array) if "log" in operation.name else value.array
    top = rows.max(axis=dim)[free]
    if top.size < _FEW or not np.isfinite(top).all():
        return
    share = float((top > 1 - 1e-4).mean())
    if share < _SHARE:
        return
    yield told(
        "saturated: one hot", operation.site, operation=plain(operation.name), share=f"{share:.0%}",
        rows=top.size, largest=float(np.abs(source[np.isfinite(source)]).max()),
    )  # fmt: skip


def _across_samples(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """A softmax of products of matrices along an axis of their batch."""
    dim = _axis(operation)
    rank = len(scene.value(operation.inputs[0]).shape) if operation.inputs else 0
    source = _through(scene, operation.inputs[0], _COPIES | _SCALING) if rank else None
    if source is None or dim is None or rank < 3:
        return
    batch = set(range(rank - 2))
    if plain(source.name) == "einsum":
        terms, _, made = str(source.args[0]).replace(" ", "").partition("->")
        batch = {n for n, x in enumerate(made) if all(x in part for part in terms.split(","))}
    elif plain(source.name) not in ("matmul", "bmm", "baddbmm"):
        return
    factors = [value for value in scene.given(source) if len(value.shape) == rank]
    if len(factors) == 2 and dim % rank in batch:
        yield told(
            "softmax across samples", operation.site, operation=plain(operation.name), dim=dim,
            source=plain(source.name), made=source.site,
        )  # fmt: skip


def _axis(operation: Operation) -> int | None:
    """The axis of a softmax."""
    dim = operation.kwargs.get("dim", operation.args[1] if len(operation.args) > 1 else None)
    return dim if isinstance(dim, int) else None


# -- losses ----------------------------------------------------------------------------------------


def _broadcast_loss(scene: Scene, operation: Operation) -> Iterator[Finding]:
    tensors = scene.given(operation)[:2]
    if len(tensors) == 2 and tensors[0].shape != tensors[1].shape:
        yield _broadcast(scene, operation, tensors, plain(operation.name))


def _broadcast_difference(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """``(N,1)`` of a prediction beside ``(N,)`` of a target, on the way to one mean or sum."""
    tensors = scene.given(operation)[:2]
    if len(tensors) != 2 or not _crossed(tensors[0].shape, tensors[1].shape):
        return
    if sum(tensor.kind == "constant" for tensor in tensors) != 1:
        return
    what = "difference" if plain(operation.name) in ("sub", "rsub") else "product"
    number = operation.outputs[0] if operation.outputs else -1
    for _ in range(6):
        readers = scene.readers.get(number, [])
        if len({reader.id for reader in readers}) != 1 or not readers[0].outputs:
            return
        name, number = plain(readers[0].name), readers[0].outputs[0]
        if name in ("mean", "sum") and scene.value(number).shape == ():
            yield _broadcast(scene, operation, tensors, f"The {what}")
        if name not in ("pow", "square", "abs", "mul", "add", "neg", "sub", "rsub"):
            return


def _crossed(a: Sequence[int], b: Sequence[int]) -> bool:
    short_, long = sorted((tuple(a), tuple(b)), key=len)
    return len(short_) == 1 and len(long) == 2 and long == (short_[0], 1) and short_[0] > 1


def _broadcast(scene: Scene, operation: Operation, tensors: Sequence[Value], what: str) -> Finding:
    shapes = [f"{scene.name(t.id)} {tuple(t.shape)}" for t in tensors]
    other, rank = sorted(tensors, key=lambda t: len(t.shape))
    longer = len(rank.shape) > len(other.shape)
    return told(
        "broadcast in the loss", operation.site, what=what, first=shapes[0], second=shapes[1],
        whole=np.broadcast_shapes(rank.shape, other.shape),
        fix=f"{scene.name(rank.id)}.squeeze(-1)" if longer else "reshape one",
    )  # fmt: skip


#: By an operation and what made its input: what is wrong with the two together.
_TOGETHER = {
    ("cross_entropy", "softmax"): "softmax twice", ("cross_entropy", "sigmoid"): "softmax twice",
    ("softmax", "softmax"): "softmax twice: inside",
    ("log_softmax", "softmax"): "softmax twice: inside",
    ("binary_cross_entropy_with_logits", "sigmoid"): "sigmoid twice",
    ("cross_entropy", "relu"): "relu before the loss",
    ("binary_cross_entropy_with_logits", "relu"): "relu before the loss",
    ("kl_div", "softmax"): "nll_loss without log_softmax: kl_div",
}  # fmt: skip


def _together(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """A loss that takes logits gets probabilities, and the like."""
    source = _through(scene, operation.inputs[0]) if operation.inputs else None
    name, made = plain(operation.name), "" if source is None else plain(source.name)
    if source is not None and (name, made) in _TOGETHER:
        yield told(
            _TOGETHER[name, made], operation.site or source.site, operation=name, made=made,
            source=source.site,
        )  # fmt: skip


def _swapped(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """The target, which is data, stands where the prediction belongs."""
    tensors = scene.given(operation)[:2]
    kinds = [tensor.kind == "constant" for tensor in tensors]
    if kinds == [True, False]:
        first, second = (scene.name(tensor.id) for tensor in tensors)
        name = plain(operation.name)
        yield told("swapped", operation.site, operation=name, first=first, second=second)


def _no_logarithm(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """``nll_loss`` gets something that is no logarithm of probabilities."""
    source = scene.value(operation.inputs[0]).array if operation.inputs else None
    if source is None or source.ndim < 1 or not np.isfinite(source).all():
        return
    axis = 1 if source.ndim > 1 else 0
    total = np.exp(np.minimum(source, 50)).sum(axis=axis)
    if np.abs(total - 1).max() < 1e-2:
        return
    maker = _through(scene, operation.inputs[0])
    other = maker is not None and plain(maker.name) == "log_softmax"
    yield told(
        f"nll_loss without log_softmax{': other axis' if other else ''}", operation.site,
        name=scene.name(operation.inputs[0]), total=float(total.flat[0]),
        source=maker.site if maker is not None else None,
    )  # fmt: skip


#: log of what, and what to write instead.
_LOGARITHMS = {
    "softmax": "torch.log_softmax(…, dim)", "sigmoid": "F.logsigmoid(…)",
}  # fmt: skip


def _logarithm(scene: Scene, operation: Operation) -> Iterator[Finding]:
    source = _through(scene, operation.inputs[0], _MOVES | _PICKS) if operation.inputs else None
    if source is None:
        return
    made = "softmax" if _is_softmax(scene, source) else plain(source.name)
    if made in _LOGARITHMS:
        instead = _LOGARITHMS[made]
        what = f"the {made} of {at(source.site)}"
    elif made == "sum" and source.inputs:
        inner = _through(scene, source.inputs[0])
        if inner is None or plain(inner.name) != "exp" or _is_shifted(scene, inner):
            return
        instead, what = "torch.logsumexp(…, dim)", f"a sum of exp ({at(inner.site)})"
    else:
        return
    yield told("unstable form", operation.site, what=what, instead=instead)


def _is_softmax(scene: Scene, quotient: Operation) -> bool:
    """Whether what was divided are exponentials, and by their own sum."""
    if plain(quotient.name) not in ("div", "truediv", "true_divide") or len(quotient.inputs) != 2:
        return False
    top, total = (_through(scene, number) for number in quotient.inputs)
    if top is None or total is None or plain(total.name) != "sum" or plain(top.name) != "exp":
        return False
    summed = _through(scene, total.inputs[0])
    alike = summed is not None and summed.name == top.name and summed.inputs == top.inputs
    return alike and not _is_shifted(scene, top)


def _is_shifted(scene: Scene, exponential: Operation) -> bool:
    """Whether the largest was subtracted before exp: then the sum is at least 1."""
    given = scene.value(exponential.inputs[0])
    maker = scene.maker(given.id)
    shifted = maker is not None and plain(maker.name) in ("sub", "rsub", "add")
    return shifted and given.array is not None and float(given.array.max(initial=-1.0)) <= 1e-6


# -- derivatives that are 0 ------------------------------------------------------------------------


def _step_function(scene: Scene, operation: Operation) -> Iterator[Finding]:
    value = scene.output(operation)
    if value is None or norm(value.upstream) == 0 or not operation.inputs:
        return
    source = scene.value(operation.inputs[0])
    # An estimator that goes round it sends to the same value by another way.
    if source.kind == "constant" or norm(source.upstream) > 0:
        return
    yield told(
        "derivative 0", operation.site, operation=plain(operation.name), name=scene.name(source.id),
        norm=norm(value.upstream),
    )  # fmt: skip


def _biased(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """A bias that the mean of a normalisation takes away again."""
    training = operation.kwargs.get(
        "training", operation.args[5] if len(operation.args) > 5 else True
    )
    source = _through(scene, operation.inputs[0]) if operation.inputs else None
    if training is not True or source is None or plain(source.name) not in _LINEAR:
        return
    bias = source.kwargs.get("bias", source.args[2] if len(source.args) > 2 else None)
    number = getattr(bias, "id", None)
    if number is None or scene.value(number).kind != "leaf":
        return
    yield told(
        "bias before a normalisation", operation.site, name=scene.name(number),
        norm=norm(scene.value(number).upstream), operation=plain(operation.name),
    )  # fmt: skip


# -- where a gradient ends -------------------------------------------------------------------------

#: What is said of otherwise.
_SAID = STEPS | _RECTIFIERS


def _stopped(scene: Scene, still: Set[str]) -> Iterator[Finding]:
    """The operations at which all that parameters could have got becomes 0."""
    ended: dict[int, tuple[Operation, int, list[str]]] = {}
    for leaf in (scene.value(entry.value) for entry in scene.snapshot.accumulated):
        if leaf.kind == "leaf" and scene.name(leaf.id) in still and leaf.array is not None:
            ends = dict(_ends(scene, leaf.id))
            if len(ends) == 1:
                ((key, (operation, number)),) = ends.items()
                ended.setdefault(key, (operation, number, []))[2].append(scene.name(leaf.id))
    for operation, number, names in ended.values():
        name, place = plain(operation.name), at(operation.site)
        others = [scene.value(n) for n in operation.inputs if n != number]
        others = [other for other in others if "float" in other.dtype]
        zeros = [o for o in others if o.kind == "leaf" and not norm(o.array)]
        waiting = [scene.name(o.id) for o in zeros if scene.name(o.id) in still]
        linear = name not in ("mul", "div") and any(not norm(other.array) for other in others)
        if name in _SAID or not waiting and (linear or zeros):
            continue
        names += [name for name in waiting if name not in names]
        hooked = norm(operation.sent.get(number)) > 0
        why, fix = row("stops", "zeros" if waiting else "hook" if hooked else name)
        where = (
            f"{scene.name(number)}, on its way to {place}" if hooked else f"the {name} at {place}"
        )
        yield told("gradient stops", operation.site, where=where, names=names, why=why, fix=fix)


def _ends(scene: Scene, number: int) -> Iterator[tuple[int, tuple[Operation, int]]]:
    """On each way from a value to the loss the operation that gets a gradient and sends 0."""
    numbers, seen = [number], {number}
    for each in numbers:
        for reader in scene.readers.get(each, ()):
            sent = reader.sent.get(each)
            if sent is not None and not sent.size:
                continue  # an expert that no sample is sent to
            if norm(sent) > 0 or any(norm(scene.value(n).upstream) > 0 for n in reader.outputs):
                yield reader.id, (reader, each)
            else:
                numbers += [n for n in reader.outputs if n not in seen]
                seen |= {*reader.outputs}


# -- depth -----------------------------------------------------------------------------------------


def _depth(scene: Scene) -> Iterator[Finding]:
    """Gradients that shrink, or grow, from layer to layer."""
    layers: list[tuple[float, int, Operation]] = []
    shared: list[tuple[float, int, Operation]] = []
    for operation in scene.operations:
        for number in operation.inputs:
            value = scene.value(number)
            if value.kind == "leaf" and len(value.shape) > 1 and value.upstream is not None:
                size = norm(value.upstream) / np.sqrt(max(1, value.upstream.size))
                once = len(scene.readers.get(number, ())) == 1
                (layers if once else shared).append((size, number, operation))
    turns = len({operation.id for _, _, operation in shared})
    top = max(shared, key=lambda layer: layer[0], default=None)
    if top is not None and turns >= _LAYERS and np.isfinite(top[0]) and top[0] > _LARGE:
        yield _exploded(scene, top, f"{turns} uses of the same weights")
    elif len(layers) < _LAYERS and layers and top and layers[0][0] < _VANISHED * top[0]:
        yield from _repeated(scene, *layers[0], top[0])
    if len(layers) < _LAYERS:
        return
    (first, number, operation), (last, end, _) = layers[0], layers[-1]
    if not (np.isfinite(first) and np.isfinite(last)):
        return
    weights = (scene.value(number).array for _, number, _ in layers)
    if first == 0 and any(array is not None and not array.any() for array in weights):
        return  # a layer that starts with 0, as an adapter does, lets nothing through yet
    sizes = [size for size, _, _ in layers]
    ends = [layers[0][2].outputs[0], layers[-1][2].outputs[0]]
    below, above = (norm(scene.value(n).upstream) for n in ends)
    gone = 0 < first < _VANISHED * last or (first == 0 < last and sizes[1] < _VANISHED * last)
    if gone or 0 < below < _FADED * above:
        if not gone:
            first, last = below, above
        factor = (max(first, 1e-300) / last) ** (1 / (len(layers) - 1))
        yield told(
            f"vanishing{'' if gone else ': flow'}", operation.site, last=float(last),
            first=float(first), end=scene.name(end), name=scene.name(number), factor=float(factor),
            count=len(layers), blame=_blame(scene),
        )  # fmt: skip
    elif max(sizes) > _LARGE or (last > 0 and first > last / _VANISHED and first > 1):
        yield _exploded(scene, max(layers, key=lambda layer: layer[0]), f"{len(layers)} layers")


def _exploded(scene: Scene, top: tuple[float, int, Operation], over: str) -> Finding:
    size, number, operation = top
    back = scene.value(operation.outputs[0]).upstream
    return told(
        "exploding", operation.site, size=float(size), name=scene.name(number), over=over,
        norm=norm(back),
    )  # fmt: skip


def _repeated(
    scene: Scene, size: float, number: int, operation: Operation, other: float
) -> Iterator[Finding]:
    """A gradient that vanishes through a layer that is used again and again."""
    turns: dict[tuple[str, int | None], list[Operation]] = {}
    for each in scene.operations:
        if plain(each.name) in ("sigmoid", "tanh", "relu") and operation.id < each.id:
            turns.setdefault((plain(each.name), line_of(each.site)), []).append(each)
    steps = max(turns.values(), key=len, default=[])
    if len(steps) >= _LAYERS:
        yield told(
            "vanishing: repeated", steps[0].site, count=len(steps), other=float(other),
            size=float(size), name=scene.name(number), blame=_blame(scene),
            factor=float((max(size, 1e-45) / other) ** (1 / len(steps))),
        )  # fmt: skip


def _blame(scene: Scene) -> str:
    """Which activation takes most."""
    taken: dict[str, list[float]] = {}
    for operation in scene.operations:
        value = scene.output(operation)
        if plain(operation.name) not in ("sigmoid", "tanh", "softmax", "relu") or value is None:
            continue
        before, after = norm(value.upstream), norm(operation.sent.get(operation.inputs[0]))
        if before > 0 and after > 0:
            taken.setdefault(plain(operation.name), []).append(after / before)
    if not taken:
        return ""
    name, factors = min(taken.items(), key=lambda item: float(np.mean(item[1])))
    mean = float(np.exp(np.mean(np.log(factors))))
    return f"; each {name} takes it by ×{short(mean)}"


_FINDERS: tuple[tuple[set[str], Any], ...] = (
    (_RECTIFIERS, _dead),
    ({"sigmoid", "tanh"}, _saturated),
    ({"softmax"}, _one_hot),
    ({"softmax", "log_softmax"}, _across_samples),
    (_PAIRWISE, _broadcast_loss),
    ({"sub", "rsub", "mul"}, _broadcast_difference),
    ({name for name, _ in _TOGETHER}, _together),
    ({"binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy"}, _swapped),
    ({"nll_loss", "nll_loss_nd"}, _no_logarithm),
    ({"log", "log2", "log10"}, _logarithm),
    (STEPS, _step_function),
    (_NORMS, _biased),
)


# -- custom Functions ------------------------------------------------------------------------------


def of_functions(scene: Scene, call: TracedCall, when: str = "") -> Iterator[Finding]:
    """Functions whose backward is not the derivative of their forward."""
    names = {note.data["function"] for note in call.notes if note.kind == "wrong backward"}
    for operation in scene.operations:
        name = operation.name.removesuffix(".apply")
        inputs = {scene.name(number) for number in operation.inputs}
        found = call.check.differences if call.check is not None else []
        first = next((each for each in found if each.input in inputs), None)
        if name not in names or first is None:
            continue
        names.remove(name)
        values = dict(zip(first.routes, first.values, strict=True))
        place = scene.snapshot.site
        kind = "scaled gradient" if is_identity(operation) else f"wrong backward{when}"
        yield told(
            kind, operation.site, scene.snapshot.index, name=name, call=scene.snapshot.index,
            element=spot(first.input, first.index), sent=values.pop("PyTorch"),
            expected=next(iter(values.values())), file="FILE.py" if place is None else place.file,
        )  # fmt: skip
