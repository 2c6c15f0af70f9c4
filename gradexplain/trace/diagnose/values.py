"""What the values of one call tell: units that are off, losses that broadcast, unstable forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.trace.diagnose.finding import Finding, Scene, at, line_of, norm, plain, short
from gradexplain.trace.snapshot import Operation, Value

#: The share of units, or of elements, that is off or saturated before anything is said.
_SHARE = 0.9

#: Fewer elements than this are no layer.
_FEW = 4

#: A gradient that is smaller by this at the one end than at the other, over this many layers.
_VANISHED, _LAYERS = 1e-5, 5

#: A gradient of this size per element, in a network of layers, has exploded.
_LARGE = 1e4

_RECTIFIERS = {"relu", "relu6", "threshold", "clamp_min"}

#: Functions with a derivative that is 0 wherever there is one.
_STEPS = {"round", "floor", "ceil", "trunc", "sign", "sgn", "heaviside", "fix", "floor_divide"}

#: Losses that compare element by element, and so broadcast.
_PAIRWISE = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}

_NORMS = {"batch_norm", "instance_norm"}
_LINEAR = {"linear", "conv1d", "conv2d", "conv3d"}

#: Operations that a shape or an order goes through, and no value changes in.
_MOVES = {
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "transpose", "permute", "contiguous",
    "t", "T", "mT", "swapaxes", "movedim", "clone", "to", "float", "double",
}  # fmt: skip


def of_values(scene: Scene) -> Iterator[Finding]:
    """The findings of one captured call."""
    for operation in scene.operations:
        name = plain(operation.name)
        for names, find in _FINDERS:
            if name in names:
                yield from find(scene, operation)
    yield from _depth(scene)


def _through_moves(scene: Scene, number: int) -> Operation | None:
    """What made a value, before it was moved or reshaped."""
    maker = scene.maker(number)
    while maker is not None and plain(maker.name) in _MOVES and maker.inputs:
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
    where = at(operation.site)
    count = f"All {off.size}" if off.all() else f"{int(off.sum())} of {off.size}"
    before = next(iter(operation.inputs), None)
    numbers = ""
    if before is not None and scene.value(before).array is not None:
        array = scene.value(before).array
        assert array is not None
        numbers = (
            f" (its input is between {short(float(array.min()))} and {short(float(array.max()))})"
        )
    weight = _zero_weight(scene, before)
    yield Finding(
        "dead units",
        f"{count} units of the {plain(operation.name)} at {where} are 0 for every one of the "
        f"{samples} samples{numbers}: {weight}no gradient goes back through them.",
        "do not start with zeros: leave the layers as they are made, or use nn.init.kaiming_uniform_."
        if weight
        else "start with smaller weights and a bias near 0, take a smaller lr, or use leaky_relu or gelu.",
        line_of(operation.site),
    )


def _zero_weight(scene: Scene, number: int | None) -> str:
    """That a layer's weights are all 0, where they are."""
    maker = None if number is None else _through_moves(scene, number)
    for value in scene.given(maker) if maker is not None else ():
        if value.kind == "leaf" and len(value.shape) > 1:
            if value.array is not None and not value.array.any():
                return f"{scene.name(value.id)} is 0 throughout, and "
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
    yield Finding(
        "saturated",
        f"The {name} at {at(operation.site)} is saturated in {share:.0%} of its elements{largest}: "
        f"its slope there is below {short(float(slope[flat].max()))}, and next to nothing of the "
        "gradient goes back through it.",
        "scale its input down: smaller weights, normalised inputs, or a LayerNorm before it.",
        line_of(operation.site),
    )


def _one_hot(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """A softmax of which one element takes all."""
    value = scene.output(operation)
    source = scene.value(operation.inputs[0]).array if operation.inputs else None
    if value is None or value.array is None or source is None or value.array.ndim == 0:
        return
    dim = operation.kwargs.get("dim", operation.args[1] if len(operation.args) > 1 else -1)
    if not isinstance(dim, int) or value.array.shape[dim] < 2:
        return
    free = np.isfinite(source).sum(axis=dim) > 1  # rows that a mask leaves a choice
    rows = np.exp(value.array) if "log" in operation.name else value.array
    top = rows.max(axis=dim)[free]
    if top.size < _FEW or not np.isfinite(top).all():
        return
    share = float((top > 1 - 1e-4).mean())
    if share < _SHARE:
        return
    yield Finding(
        "saturated",
        f"The {plain(operation.name)} at {at(operation.site)} gives one element more than 0.9999 in "
        f"{share:.0%} of its {top.size} rows (its input reaches "
        f"{short(float(np.abs(source[np.isfinite(source)]).max()))}): its slope there is next to 0.",
        "scale its input down: divide scores by √d, normalise, or use a temperature.",
        line_of(operation.site),
    )


# -- losses ----------------------------------------------------------------------------------------


def _broadcast_loss(scene: Scene, operation: Operation) -> Iterator[Finding]:
    tensors = scene.given(operation)[:2]
    if len(tensors) == 2 and tensors[0].shape != tensors[1].shape:
        yield _broadcast(scene, operation, tensors, f"{plain(operation.name)} at")


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
            yield _broadcast(scene, operation, tensors, f"the {what} at")
        if name not in ("pow", "square", "abs", "mul", "add", "neg", "sub", "rsub"):
            return


def _crossed(a: Sequence[int], b: Sequence[int]) -> bool:
    short_, long = sorted((tuple(a), tuple(b)), key=len)
    return len(short_) == 1 and len(long) == 2 and long == (short_[0], 1) and short_[0] > 1


def _broadcast(scene: Scene, operation: Operation, tensors: Sequence[Value], what: str) -> Finding:
    shapes = [f"{scene.name(t.id)} {tuple(t.shape)}" for t in tensors]
    try:
        whole = np.broadcast_shapes(*(t.shape for t in tensors))
    except ValueError:
        whole = ()
    rank = max(tensors, key=lambda t: len(t.shape))
    other = min(tensors, key=lambda t: len(t.shape))
    fix = (
        f"{scene.name(rank.id)}.squeeze(-1)"
        if len(rank.shape) > len(other.shape)
        else "reshape one"
    )
    return Finding(
        "broadcast in the loss",
        f"{what[0].upper()}{what[1:]} {at(operation.site)} broadcasts: {shapes[0]} against "
        f"{shapes[1]} makes {whole}, every element of the one with every element of the other.",
        f"give both the same shape, as in {fix}.",
        line_of(operation.site),
    )


def _twice(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """A loss that takes logits gets probabilities."""
    source = _through_moves(scene, operation.inputs[0]) if operation.inputs else None
    if source is None:
        return
    name, made = plain(operation.name), plain(source.name)
    log = "with_logits" in name
    if not log and name == "cross_entropy" and made in ("softmax", "log_softmax", "sigmoid"):
        if made == "log_softmax":
            return  # its own fixed point: harmless
        yield Finding(
            "softmax twice",
            f"cross_entropy at {at(operation.site)} takes logits and makes its own log_softmax; "
            f"here it gets the {made} of {at(source.site)}, so the gradients are squeezed.",
            f"give cross_entropy what goes into the {made}.",
            line_of(operation.site, source.site),
        )
    elif made == "relu":
        yield Finding(
            "relu before the loss",
            f"{name} at {at(operation.site)} takes logits of either sign; the relu of "
            f"{at(source.site)} makes those below 0 all alike, and no gradient goes back through them.",
            "leave the activation out after the last layer.",
            line_of(operation.site, source.site),
        )
    elif log and made == "sigmoid":
        yield Finding(
            "sigmoid twice",
            f"{name} at {at(operation.site)} takes logits and makes its own sigmoid; here it gets "
            f"the sigmoid of {at(source.site)}.",
            f"give {name} what goes into the sigmoid, or use binary_cross_entropy.",
            line_of(operation.site, source.site),
        )


def _no_logarithm(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """``nll_loss`` gets something that is no logarithm of probabilities."""
    source = scene.value(operation.inputs[0]).array if operation.inputs else None
    if source is None or source.ndim < 1 or not np.isfinite(source).all():
        return
    axis = 1 if source.ndim > 1 else 0
    total = np.exp(np.minimum(source, 50)).sum(axis=axis)
    if np.abs(total - 1).max() < 1e-2:
        return
    yield Finding(
        "nll_loss without log_softmax",
        f"nll_loss at {at(operation.site)} takes logarithms of probabilities; the exponentials of "
        f"{scene.name(operation.inputs[0])} add up to {short(float(total.flat[0]))} instead of 1.",
        "give it log_softmax(…, dim=1), or use cross_entropy on the logits.",
        line_of(operation.site),
    )


#: log of what, and what to write instead.
_LOGARITHMS = {
    "softmax": "torch.log_softmax(…, dim)", "sigmoid": "F.logsigmoid(…)",
}  # fmt: skip


def _logarithm(scene: Scene, operation: Operation) -> Iterator[Finding]:
    source = _through_moves(scene, operation.inputs[0]) if operation.inputs else None
    if source is None:
        return
    made = plain(source.name)
    if made in _LOGARITHMS:
        instead = _LOGARITHMS[made]
        what = f"the {made} of {at(source.site)}"
    elif made == "sum" and source.inputs:
        inner = _through_moves(scene, source.inputs[0])
        if inner is None or plain(inner.name) != "exp" or _is_shifted(scene, inner):
            return
        instead, what = "torch.logsumexp(…, dim)", f"a sum of exp ({at(inner.site)})"
    else:
        return
    yield Finding(
        "unstable form",
        f"The log at {at(operation.site)} is taken of {what}: where that underflows to 0 the log is "
        "-inf and the gradient nan.",
        f"write {instead} in one.",
        line_of(operation.site),
    )


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
    yield Finding(
        "derivative 0",
        f"{plain(operation.name)} at {at(operation.site)} is constant between its steps: its "
        f"derivative is 0, so nothing of the gradient that arrives (norm {short(norm(value.upstream))}) "
        f"goes back to {scene.name(source.id)}.",
        "leave it out of what is differentiated, or let the gradient pass: x + (f(x) - x).detach().",
        line_of(operation.site),
    )


def _biased(scene: Scene, operation: Operation) -> Iterator[Finding]:
    """A bias that the mean of a normalisation takes away again."""
    training = operation.kwargs.get(
        "training", operation.args[5] if len(operation.args) > 5 else True
    )
    source = _through_moves(scene, operation.inputs[0]) if operation.inputs else None
    if training is not True or source is None or plain(source.name) not in _LINEAR:
        return
    bias = source.kwargs.get("bias", source.args[2] if len(source.args) > 2 else None)
    number = getattr(bias, "id", None)
    if number is None or scene.value(number).kind != "leaf":
        return
    yield Finding(
        "bias before a normalisation",
        f"{scene.name(number)} has gradient 0 but for rounding ({short(norm(scene.value(number).upstream))}"
        f"): {plain(operation.name)} at {at(operation.site)} subtracts the mean, and the bias with it.",
        "make the layer with bias=False.",
        line_of(operation.site),
        remark=True,
    )


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
    sizes = [size for size, _, _ in layers]
    if 0 < first < _VANISHED * last or (first == 0 < last and sizes[1] < _VANISHED * last):
        factor = (max(first, 1e-300) / last) ** (1 / (len(layers) - 1))
        yield Finding(
            "vanishing",
            f"The gradient vanishes on its way back: {short(last)} per element in "
            f"{scene.name(end)}, {short(first)} in {scene.name(number)} ({at(operation.site)}), a "
            f"factor of {short(factor)} per layer over {len(layers)} layers{_blame(scene)}.",
            "use relu or gelu, a normalisation or residual connections (x + f(x)) between the layers, "
            "and an initialisation for that activation.",
            line_of(operation.site),
        )
    elif max(sizes) > _LARGE or (last > 0 and first > last / _VANISHED and first > 1):
        yield _exploded(scene, max(layers, key=lambda layer: layer[0]), f"{len(layers)} layers")


def _exploded(scene: Scene, top: tuple[float, int, Operation], over: str) -> Finding:
    size, number, operation = top
    back = scene.value(operation.outputs[0]).upstream
    return Finding(
        "exploding",
        f"The gradient explodes: it reaches {short(size)} per element in {scene.name(number)} "
        f"({at(operation.site)}), over {over} (what flows back there has norm "
        f"{short(norm(back))}).",
        "start with smaller weights (the default initialisation), normalise between the layers, "
        "and clip: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before step.",
        line_of(operation.site),
    )


def _repeated(
    scene: Scene, size: float, number: int, operation: Operation, other: float
) -> Iterator[Finding]:
    """A gradient that vanishes through a layer that is used again and again."""
    turns: dict[tuple[str, int | None], list[Operation]] = {}
    for each in scene.operations:
        if plain(each.name) in ("sigmoid", "tanh", "relu") and operation.id < each.id:
            turns.setdefault((plain(each.name), line_of(each.site)), []).append(each)
    (name, line), steps = max(turns.items(), key=lambda t: len(t[1]), default=(("", None), []))
    if len(steps) >= _LAYERS:
        yield Finding(
            "vanishing",
            f"The gradient vanishes on its way back through the {len(steps)} steps of line {line}: "
            f"{short(other)} per element in the weights used there, {short(size)} in "
            f"{scene.name(number)} before them{_blame(scene)}: a factor of "
            f"at most {short((max(size, 1e-45) / other) ** (1 / len(steps)))} per step.",
            "take larger or orthogonal weights, fewer steps, a residual connection (h + f(h)), or an "
            "LSTM or GRU.",
            line,
        )


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
    (_PAIRWISE, _broadcast_loss),
    ({"sub", "rsub", "mul"}, _broadcast_difference),
    ({"cross_entropy", "binary_cross_entropy_with_logits"}, _twice),
    ({"nll_loss", "nll_loss_nd"}, _no_logarithm),
    ({"log", "log2", "log10"}, _logarithm),
    (_STEPS, _step_function),
    (_NORMS, _biased),
)
