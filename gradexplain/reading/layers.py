"""Modules of ``torch.nn`` that are a function, or hold other modules; those with parameters are in
``library.txt``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

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


def _passed(s: Session, call: Call) -> Any:
    """``nn.init.normal_(w)``: other values, as good as any."""
    tensor = call.get(0, "tensor")
    if isinstance(tensor, Tensor) and tensor.ref is None:
        fixed = {"zeros_": 0.0, "ones_": 1.0, "constant_": call.get(1, "val", 0.0)}.get(call.name)
        if isinstance(fixed, (int, float)):
            tensor.value, tensor.example = np.full(tensor.shape, float(fixed)), False
    return tensor


FUNCTIONS: dict[str, Callable[[Session, Call], Any]] = {
    **{f"torch.nn.{kind}": _simple(kind) for kind in _SIMPLE},
    "torch.nn.Sequential": _sequential,
    **dict.fromkeys(("torch.nn.ModuleList", "torch.nn.ModuleDict"), _module_list),
    **{f"torch.nn.init.{name}": _passed for name in (
        "normal_", "uniform_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_",
        "kaiming_normal_", "constant_", "ones_", "zeros_", "orthogonal_", "trunc_normal_")},
}  # fmt: skip
