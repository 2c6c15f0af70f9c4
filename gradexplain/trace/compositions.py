"""Calls that PyTorch makes in one, written out in the operations that their documentation gives.

As in `recurrent`, ``call`` applies an operation by its spelling; ``shape`` gives a tensor's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradexplain.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class Writer:
    """What a composition is written with."""

    call: Callable[..., Any]
    shape: Callable[[Any], tuple[int, ...]]


def written_out(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], w: Writer) -> Any:
    """The result of ``name(*args, **kwargs)``."""
    return NAMES[name](w, *args, **kwargs)


def _with_mask(w: Writer, scores: Any, mask: Any) -> Any:
    if getattr(mask, "boolean", False):
        return w.call("torch.masked_fill", scores, w.call("torch.logical_not", mask), -math.inf)
    return w.call("torch.add", scores, mask)


def _multi_head(
    w: Writer, query: Any, key: Any, value: Any, embed_dim: int, num_heads: int, in_weight: Any,
    in_bias: Any, bias_k: Any, bias_v: Any, add_zero_attn: bool, dropout_p: float, out_weight: Any,
    out_bias: Any, training: bool = True, key_padding_mask: Any = None, need_weights: bool = True,
    attn_mask: Any = None, use_separate_proj_weight: bool = False, average_attn_weights: bool = True,
    is_causal: bool = False, **others: Any,
) -> Any:  # fmt: skip
    """``torch.nn.MultiheadAttention``: projections, heads side by side, attention, projection."""
    if (dropout_p and training) or use_separate_proj_weight or add_zero_attn:
        raise UnsupportedError("this form of attention is not written out")
    if (
        bias_k is not None
        or key_padding_mask is not None
        or any(v is not None for v in others.values())
    ):
        raise UnsupportedError("this form of attention is not written out")
    if len(w.shape(query)) != 3:
        raise UnsupportedError("attention without a batch is not written out")
    parts = []
    for place, given in enumerate((query, key, value)):
        rows = place * embed_dim
        weight = w.call("torch.narrow", in_weight, 0, rows, embed_dim)
        bias = () if in_bias is None else (w.call("torch.narrow", in_bias, 0, rows, embed_dim),)
        length, batch, _ = w.shape(given)
        heads = w.call("F.linear", given, weight, *bias)
        heads = w.call("torch.reshape", heads, (length, batch * num_heads, embed_dim // num_heads))
        parts.append(w.call("torch.transpose", heads, 0, 1))
    q, k, v = parts
    scores = w.call("torch.matmul", q, w.call("torch.transpose", k, -2, -1))
    scores = w.call("torch.mul", scores, 1 / math.sqrt(embed_dim // num_heads))
    if attn_mask is not None:
        scores = _with_mask(w, scores, attn_mask)
    weights = w.call("torch.softmax", scores, -1)
    length, batch, _ = w.shape(query)
    mixed = w.call("torch.transpose", w.call("torch.matmul", weights, v), 0, 1)
    mixed = w.call("torch.reshape", mixed, (length, batch, embed_dim))
    out = w.call("F.linear", mixed, out_weight, *(() if out_bias is None else (out_bias,)))
    if not need_weights:
        return out, None
    source = w.shape(key)[0]
    weights = w.call("torch.reshape", weights, (batch, num_heads, length, source))
    return out, w.call("torch.mean", weights, 1) if average_attn_weights else weights


def _conv_transpose(
    w: Writer, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    """The convolution of the input, zeros between its elements, with the kernel turned round."""
    axes = len(w.shape(x)) - 2
    if groups != 1:
        raise UnsupportedError("a transposed convolution in groups is not written out")
    steps, pads, more, holes = (_each(v, axes) for v in (stride, padding, output_padding, dilation))
    kernel = w.shape(weight)[2:]
    for axis in range(axes):
        x = _apart(w, x, axis + 2, steps[axis])
    edges: list[int] = []
    for axis in reversed(range(axes)):
        reach = holes[axis] * (kernel[axis] - 1)
        before, after = reach - pads[axis], reach - pads[axis] + more[axis]
        if before < 0 or after < 0:
            raise UnsupportedError("this padding is not written out")
        edges += [before, after]
    if any(edges):
        x = w.call("F.pad", x, tuple(edges))
    turned = w.call("torch.flip", weight, tuple(range(2, 2 + axes)))
    turned = w.call("torch.transpose", turned, 0, 1)
    given = (x, turned, bias) if bias is not None else (x, turned)
    made = w.call(f"F.conv{axes}d", *given)
    if set(holes) != {1}:
        raise UnsupportedError("a dilated transposed convolution is not written out")
    return made


def _each(value: Any, axes: int) -> tuple[int, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(value) if len(value) == axes else tuple(value) * axes
    return (int(value),) * axes


def _apart(w: Writer, x: Any, axis: int, step: int) -> Any:
    """``step − 1`` zeros between the elements along ``axis``."""
    if step == 1:
        return x
    shape = w.shape(x)
    n = shape[axis]
    wide = w.call("torch.unsqueeze", x, axis + 1)
    wide = w.call("torch.cat", [wide, *[w.call("torch.mul", wide, 0)] * (step - 1)], axis + 1)
    wide = w.call("torch.reshape", wide, (*shape[:axis], n * step, *shape[axis + 1 :]))
    return w.call("torch.narrow", wide, axis, 0, (n - 1) * step + 1)


def _interpolate(
    w: Writer, x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: Any = None, recompute_scale_factor: Any = None, antialias: bool = False,
) -> Any:  # fmt: skip
    """Each element of the result is a copy of the nearest."""
    if mode != "nearest" or antialias:
        raise UnsupportedError(f"interpolation by {mode} is not written out")
    shape = w.shape(x)
    axes = len(shape) - 2
    if size is not None:
        sizes = _each(size, axes)
        scales = [shape[2 + n] / sizes[n] for n in range(axes)]
    else:
        factors = (
            tuple(scale_factor)
            if isinstance(scale_factor, (list, tuple))
            else (scale_factor,) * axes
        )
        sizes = tuple(int(math.floor(shape[2 + n] * factors[n])) for n in range(axes))
        scales = [1 / factors[n] for n in range(axes)]
    for n in range(axes):
        places = [min(int(i * scales[n]), shape[2 + n] - 1) for i in range(sizes[n])]
        if places != list(range(shape[2 + n])):
            pieces = [w.call("torch.narrow", x, 2 + n, place, 1) for place in places]
            x = w.call("torch.cat", pieces, 2 + n)
    return x


def _weight_norm(w: Writer, v: Any, g: Any, dim: int = 0) -> Any:
    """``g·v/‖v‖``, the norm over all axes but ``dim``."""
    axes = tuple(axis for axis in range(len(w.shape(v))) if axis != dim)
    square = w.call("torch.sum", w.call("torch.mul", v, v), axes, True)
    return w.call("torch.mul", v, w.call("torch.div", g, w.call("torch.sqrt", square)))


#: The calls that can be written out.
NAMES: Mapping[str, Callable[..., Any]] = {
    "multi_head_attention_forward": _multi_head, "conv_transpose1d": _conv_transpose,
    "conv_transpose2d": _conv_transpose, "conv_transpose3d": _conv_transpose, "interpolate": _interpolate,
    "_weight_norm": _weight_norm,
}  # fmt: skip
