"""Modules of ``torch.nn``: what each applies, and example values for what it would have learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradexplain.explanation import Shape
from gradexplain.ops import by_spelling
from gradexplain.reading.names import functions, unknown
from gradexplain.reading.objects import Call, Layer, Tensor, Unread
from gradexplain.reading.plain import TRACE
from gradexplain.reading.session import Session

#: A module that is a function: its name, and the names of what the constructor takes, in order.
_SIMPLE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ReLU": ("relu", ("inplace",)), "ReLU6": ("relu6", ("inplace",)), "Sigmoid": ("sigmoid", ()),
    "Tanh": ("tanh", ()), "Softmax": ("softmax", ("dim",)), "LogSoftmax": ("log_softmax", ("dim",)),
    "Softmin": ("softmin", ("dim",)), "LeakyReLU": ("leaky_relu", ("negative_slope", "inplace")),
    "ELU": ("elu", ("alpha", "inplace")), "CELU": ("celu", ("alpha", "inplace")),
    "SELU": ("selu", ("inplace",)), "GELU": ("gelu", ("approximate",)), "SiLU": ("silu", ("inplace",)),
    "Mish": ("mish", ("inplace",)), "Softplus": ("softplus", ("beta", "threshold")),
    "Softsign": ("softsign", ()), "Hardtanh": ("hardtanh", ("min_val", "max_val", "inplace")),
    "Hardsigmoid": ("hardsigmoid", ("inplace",)), "Hardswish": ("hardswish", ("inplace",)),
    "LogSigmoid": ("logsigmoid", ()), "Tanhshrink": ("tanhshrink", ()), "GLU": ("glu", ("dim",)),
    "Softshrink": ("softshrink", ("lambd",)), "Hardshrink": ("hardshrink", ("lambd",)),
    "Threshold": ("threshold", ("threshold", "value", "inplace")),
    "MaxPool1d": ("max_pool1d", ("kernel_size", "stride", "padding", "dilation")),
    "MaxPool2d": ("max_pool2d", ("kernel_size", "stride", "padding", "dilation")),
    "AvgPool1d": ("avg_pool1d", ("kernel_size", "stride", "padding")),
    "AvgPool2d": ("avg_pool2d", ("kernel_size", "stride", "padding")),
    "AdaptiveAvgPool1d": ("adaptive_avg_pool1d", ("output_size",)),
    "AdaptiveAvgPool2d": ("adaptive_avg_pool2d", ("output_size",)),
    "CosineSimilarity": ("cosine_similarity", ("dim", "eps")),
    "PairwiseDistance": ("pairwise_distance", ("p", "eps", "keepdim")),
    "MSELoss": ("mse_loss", ()), "L1Loss": ("l1_loss", ()), "HuberLoss": ("huber_loss", ("reduction", "delta")),
    "SmoothL1Loss": ("smooth_l1_loss", ()), "CrossEntropyLoss": ("cross_entropy", ("weight",)),
    "NLLLoss": ("nll_loss", ("weight",)), "BCELoss": ("binary_cross_entropy", ("weight",)),
    "BCEWithLogitsLoss": ("binary_cross_entropy_with_logits", ("weight",)),
    "KLDivLoss": ("kl_div", ()), "SoftMarginLoss": ("soft_margin_loss", ()),
    "HingeEmbeddingLoss": ("hinge_embedding_loss", ("margin",)),
    "MarginRankingLoss": ("margin_ranking_loss", ("margin",)),
    "TripletMarginLoss": ("triplet_margin_loss", ("margin", "p", "eps")),
    "CosineEmbeddingLoss": ("cosine_embedding_loss", ("margin",)),
    "PoissonNLLLoss": ("poisson_nll_loss", ("log_input", "full")),
    "GaussianNLLLoss": ("gaussian_nll_loss", ()),
}  # fmt: skip


def _simple(kind: str) -> Callable[[Session, Call], Layer]:
    name, order = _SIMPLE[kind]

    def make(s: Session, call: Call) -> Layer:
        options = {**dict(zip(order, call.args, strict=False)), **call.kwargs}
        options.pop("inplace", None)
        if kind in ("Softmax", "LogSoftmax", "Softmin"):
            options.setdefault("dim", None)

        def applied(later: Call) -> Any:
            given = dict(options)
            if given.get("dim", 0) is None:
                # PyTorch's own choice where none is given, with a warning.
                rank = len(later.args[0].shape)
                given["dim"] = 0 if rank in (0, 1, 3) else 1
            return function(s, name, later.args, {**given, **later.kwargs}, later)

        return Layer(kind, applied)

    return make


def function(s: Session, name: str, args: Any, kwargs: Mapping[str, Any], call: Call) -> Any:
    """A function of ``torch.nn.functional``."""
    records = functions("F", name) or functions("", name)
    if not records:
        raise s.at(unknown(name, "a function", f"torch.nn.functional.{name}"), call.place)
    for part in args:
        if isinstance(part, Unread):
            s.unsupported(f"`{part.text}` is not read", call.place, part.why)
    return s.apply(records, args, kwargs, call.place)


# -- modules with parameters -----------------------------------------------------------------------


def _parameter(
    s: Session, shape: Shape, name: str, call: Call, value: float | None = None
) -> Tensor:
    """A parameter: example values for what PyTorch draws at random, its own for ones and zeros."""
    if value is None:
        fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 4
        numbers = np.round(s.inputs.example(shape, signs=True) / np.sqrt(fan), 2)
    else:
        numbers = np.full(shape, value)
    made = s.literal(numbers, s.default, call.place, example=value is None, hint=name)
    made.requires_grad = True
    return made


def _linear(s: Session, call: Call) -> Layer:
    n, m, bias = call.get(0, "in_features"), call.get(1, "out_features"), call.get(2, "bias", True)
    _sizes(s, call, n, m)
    held = {"weight": _parameter(s, (m, n), "weight", call)}
    if bias:
        held["bias"] = _parameter(s, (m,), "bias", call)
    return _applying(s, "Linear", "linear", held)


def _applying(s: Session, kind: str, name: str, held: dict[str, Tensor], **options: Any) -> Layer:
    layer = Layer(kind, lambda call: None, held)

    def applied(later: Call) -> Any:
        args = (later.args[0], held.get("weight"), held.get("bias"))
        return function(s, name, args, options, later)

    layer.call = applied
    return layer


def _sizes(s: Session, call: Call, *sizes: Any) -> None:
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        s.fail(
            f"nn.{call.name} takes sizes", call.place, f"write them, as in `nn.{call.name}(3, 1)`"
        )


def _convolution(rank: int) -> Callable[[Session, Call], Layer]:
    def make(s: Session, call: Call) -> Layer:
        n, m, kernel = (
            call.get(0, "in_channels"),
            call.get(1, "out_channels"),
            call.get(2, "kernel_size"),
        )
        _sizes(s, call, n, m)
        wide = (kernel,) * rank if isinstance(kernel, int) else tuple(kernel)
        groups = call.get(6, "groups", 1)
        held = {"weight": _parameter(s, (m, n // groups, *wide), "weight", call)}
        if call.get(7, "bias", True):
            held["bias"] = _parameter(s, (m,), "bias", call)
        options = {
            "stride": call.get(3, "stride", 1), "padding": call.get(4, "padding", 0),
            "dilation": call.get(5, "dilation", 1), "groups": groups,
        }  # fmt: skip
        return _applying(s, f"Conv{rank}d", f"conv{rank}d", held, **options)

    return make


def _layer_norm(s: Session, call: Call) -> Layer:
    shape = call.get(0, "normalized_shape")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    held = _affine(s, shape, call) if call.get(2, "elementwise_affine", True) else {}

    def applied(later: Call) -> Any:
        args = (
            later.args[0],
            shape,
            held.get("weight"),
            held.get("bias"),
            call.get(1, "eps", 1e-5),
        )
        return function(s, "layer_norm", args, {}, later)

    return Layer("LayerNorm", applied, held)


def _affine(s: Session, shape: Shape, call: Call) -> dict[str, Tensor]:
    return {
        "weight": _parameter(s, shape, "weight", call, 1.0),
        "bias": _parameter(s, shape, "bias", call, 0.0),
    }


def _batch_norm(s: Session, call: Call) -> Layer:
    features = call.get(0, "num_features")
    _sizes(s, call, features)
    held = _affine(s, (features,), call) if call.get(3, "affine", True) else {}
    layer = Layer(call.name, lambda later: None, held)

    def applied(later: Call) -> Any:
        mean = s.literal(np.zeros(features), s.default, call.place)
        variance = s.literal(np.ones(features), s.default, call.place)
        args = (later.args[0], mean, variance, held.get("weight"), held.get("bias"))
        options = {"training": layer.training, "eps": call.get(1, "eps", 1e-5)}
        return function(s, "batch_norm", args, options, later)

    layer.call = applied
    return layer


def _group_norm(s: Session, call: Call) -> Layer:
    groups, channels = call.get(0, "num_groups"), call.get(1, "num_channels")
    _sizes(s, call, groups, channels)
    held = _affine(s, (channels,), call) if call.get(3, "affine", True) else {}

    def applied(later: Call) -> Any:
        args = (
            later.args[0],
            groups,
            held.get("weight"),
            held.get("bias"),
            call.get(2, "eps", 1e-5),
        )
        return function(s, "group_norm", args, {}, later)

    return Layer("GroupNorm", applied, held)


def _embedding(s: Session, call: Call) -> Layer:
    n, m = call.get(0, "num_embeddings"), call.get(1, "embedding_dim")
    _sizes(s, call, n, m)
    held = {"weight": _parameter(s, (n, m), "weight", call)}
    return Layer(
        "Embedding",
        lambda later: function(s, "embedding", (later.args[0], held["weight"]), {}, later),
        held,
    )


def _prelu(s: Session, call: Call) -> Layer:
    held = {"weight": _parameter(s, (call.get(0, "num_parameters", 1),), "weight", call, 0.25)}
    return Layer(
        "PReLU",
        lambda later: function(s, "prelu", (later.args[0], held["weight"]), {}, later),
        held,
    )


def _bilinear(s: Session, call: Call) -> Layer:
    a, b, m = (
        call.get(n, name) for n, name in enumerate(("in1_features", "in2_features", "out_features"))
    )
    _sizes(s, call, a, b, m)
    held = {"weight": _parameter(s, (m, a, b), "weight", call)}
    if call.get(3, "bias", True):
        held["bias"] = _parameter(s, (m,), "bias", call)

    def applied(later: Call) -> Any:
        args = (*later.args[:2], held["weight"], held.get("bias"))
        return function(s, "bilinear", args, {}, later)

    return Layer("Bilinear", applied, held)


# -- modules of modules ----------------------------------------------------------------------------


def _sequential(s: Session, call: Call) -> Layer:
    layer = Layer(call.name, lambda later: None, children=_held(s, call.args, call))

    def applied(later: Call) -> Any:
        found = later.args[0]
        for child in layer.children.values():
            found = child.call(Call(child.kind, (found,), {}, later.place, later.where))
        return found

    layer.call = applied
    return layer


def _module_list(s: Session, call: Call) -> Layer:
    """``nn.ModuleList`` and ``nn.ModuleDict``: modules that are called one by one."""
    given = call.args[0] if call.args else ()
    children = _held(s, (given,) if isinstance(given, dict) else given, call)
    return Layer(call.name, lambda later: None, children=children)


def _held(s: Session, given: Any, call: Call) -> dict[str, Layer]:
    """The modules in a module, by name."""
    if len(given) == 1 and isinstance(given[0], dict):
        held = given[0]
    else:
        held = {str(place): child for place, child in enumerate(given)}
    if not all(isinstance(child, Layer) for child in held.values()):
        s.unsupported(f"nn.{call.name} takes modules here", call.place, TRACE)
    return dict(held)


def _identity(s: Session, call: Call) -> Layer:
    return Layer("Identity", lambda later: later.args[0])


def _flatten(s: Session, call: Call) -> Layer:
    ends = call.get(0, "start_dim", 1), call.get(1, "end_dim", -1)
    return Layer(
        "Flatten",
        lambda later: s.apply(
            by_spelling("torch.flatten"), (later.args[0], *ends), {}, later.place
        ),
    )


def _dropout(s: Session, call: Call) -> Layer:
    p = call.get(0, "p", 0.5)
    layer = Layer(call.name, lambda later: None)

    def applied(later: Call) -> Any:
        if layer.training and p:
            s.unsupported(
                "dropout in training is random, and an explanation is the same every time",
                later.place,
                "call .eval() on the module, or write p=0",
            )
        return later.args[0]

    layer.call = applied
    return layer


def _passed(s: Session, call: Call) -> Any:
    """``nn.init.normal_(w)``: other values, as good as any."""
    tensor = call.get(0, "tensor")
    if isinstance(tensor, Tensor) and tensor.ref is None:
        fixed = {"zeros_": 0.0, "ones_": 1.0, "constant_": call.get(1, "val", 0.0)}.get(call.name)
        if isinstance(fixed, (int, float)):
            tensor.value, tensor.example = np.full(tensor.shape, float(fixed)), False
    return tensor


_WITH_PARAMETERS: dict[str, Callable[[Session, Call], Layer]] = {
    "Linear": _linear, "Conv1d": _convolution(1), "Conv2d": _convolution(2), "Conv3d": _convolution(3),
    "LayerNorm": _layer_norm, "BatchNorm1d": _batch_norm, "BatchNorm2d": _batch_norm,
    "GroupNorm": _group_norm, "Embedding": _embedding, "PReLU": _prelu, "Bilinear": _bilinear,
    "Sequential": _sequential, "ModuleList": _module_list, "ModuleDict": _module_list, "Identity": _identity, "Flatten": _flatten,
    "Dropout": _dropout, "Dropout1d": _dropout, "Dropout2d": _dropout,
}  # fmt: skip

FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    **{f"torch.nn.{kind}": _simple(kind) for kind in _SIMPLE},
    **{f"torch.nn.{kind}": make for kind, make in _WITH_PARAMETERS.items()},
    **{f"torch.nn.init.{name}": _passed for name in (
        "normal_", "uniform_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_",
        "kaiming_normal_", "constant_", "ones_", "zeros_", "orthogonal_", "trunc_normal_")},
}  # fmt: skip
