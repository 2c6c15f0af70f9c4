"""Convolutions and pooling: sums over windows."""
# fmt: off

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gradexplain.ops.base import (
    Op,
    Shape,
    expect,
    register,
)

_FAMILY = "contraction"


def _each(value: Any, n: int, name: str) -> tuple[int, ...]:
    """A setting for each of ``n`` dimensions: one number counts for all."""
    found = (value,) if isinstance(value, int) else tuple(value)
    found = found * n if len(found) == 1 else found
    expect(len(found) == n and all(isinstance(v, int) for v in found),
            f"{name} takes one integer or {n} of them, found {value!r}")
    return found


def _padding(padding: Any, kernel: Shape, stride: Shape, dilation: Shape) -> list[tuple[int, int]]:
    """How much stands before and after, for each dimension."""
    n = len(kernel)
    if padding == "valid":
        return [(0, 0)] * n
    if padding == "same":
        expect(all(s == 1 for s in stride),
            "padding='same' goes only with stride 1, as in PyTorch")
        totals = [d * (m - 1) for d, m in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    expect(not isinstance(padding, str),
        f"padding must be integers, 'same' or 'valid', found {padding!r}")
    return [(p, p) for p in _each(padding, n, "padding")]


def _conv_shape(n: int) -> Any:
    def shape(x: Shape, w: Shape, b: Shape | None, stride: Any, padding: Any, dilation: Any,
              groups: int) -> Shape:
        name = f"conv{n}d"
        expect(len(w) == n + 2 and len(x) in (n + 1, n + 2),
                f"{name} takes an input (batch, channels, …) with {n} more dimensions and a weight "
                f"(out, channels, …) with {n} more, found shapes {{}} and {{}}", x, w)
        channels = x[len(x) - n - 1]
        expect(groups > 0 and channels == w[1] * groups and w[0] % max(groups, 1) == 0,
                f"{name}: {channels} channels in {groups} group(s) do not fit the weight {{}}", w,
                remedy="the weight has shape (out_channels, in_channels / groups, …)")
        expect(b is None or b == (w[0],),
            f"{name}: the bias must have shape ({w[0]},), found {{}}",
                b or ())
        stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
        pads = _padding(padding, w[2:], stride, dilation)
        sizes = []
        for size, m, s, d, (before, after) in zip(x[-n:], w[2:], stride, dilation, pads,
            strict=True):
            expect(s > 0 and d > 0, f"{name}: stride and dilation must be positive")
            span = d * (m - 1) + 1
            expect(size + before + after >= span,
                    f"{name}: the kernel spans {span} positions, the padded input has "
                    f"{size + before + after}")
            sizes.append((size + before + after - span) // s + 1)
        return (*x[: len(x) - n - 1], w[0], *sizes)

    return shape


def _conv(n: int) -> Any:
    def element(k: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any,
                groups: int) -> Any:
        stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
        pads = _padding(padding, w.shape[2:], stride, dilation)
        batch, out, spots = k.i[: len(k.i) - n - 1], k.i[len(k.i) - n - 1], k.i[len(k.i) - n:]
        c, *taps = k.bounds(w.shape[1:])
        channel = k.floordiv(out, w.shape[0] // groups) * w.shape[1] + c if groups > 1 else c
        at = [s * i + d * p - before for i, p, s, d, (before, _) in
              zip(spots, taps, stride, dilation, pads, strict=True)]
        inside = k.S.Mul(*(k.bracket(k.all(a >= 0, a <= size - 1))
                           for a, size in zip(at, x.shape[-n:], strict=True)))
        total = k.sum(inside * x[[*batch, channel, *at]] * w[[out, c, *taps]], c, *taps)
        return total if b is None else total + b[out]

    return element


def _conv_back(n: int) -> Any:
    """PyTorch's own transposed maps of a convolution: `torch.nn.grad`."""

    def backward(c: Any, x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any,
                 groups: int) -> str:
        grad = c.grad
        batched = x.rank == n + 2
        if c.wrt == "bias":
            dims = [d for d in range(grad.rank) if d != grad.rank - n - 1]
            return f"{grad}.sum(dim={dims[0] if len(dims) == 1 else tuple(dims)})"
        stride, dilation = _each(stride, n, "stride"), _each(dilation, n, "dilation")
        pads = _padding(padding, w.shape[2:], stride, dilation)
        even = all(before == after for before, after in pads)
        shown = {
            "stride": stride, "padding": tuple(p for p, _ in pads) if even else (0,) * n,
            "dilation": dilation, "groups": groups,
        }
        options = "".join(f", {key}={value[0] if value and len(set(value)) == 1 else value}"
                          if isinstance(value, tuple) else f", {key}={value}"
                          for key, value in shown.items()
                          if value not in ((1,) * n if key != "padding" else (0,) * n, 1))
        source = str(x) if batched else f"{x}.unsqueeze(0)"
        grad = str(grad) if batched else f"{grad}.unsqueeze(0)"
        flat = tuple(p for pair in reversed(pads) for p in pair)
        if not even:
            source = c.let("padded", f"F.pad({source}, {flat})")
        if c.wrt == "weight":
            return f"torch.nn.grad.conv{n}d_weight({source}, {w}.shape, {grad}{options})"
        size = f"{source}.shape" if batched or not even else f"(1, *{x}.shape)"
        found = f"torch.nn.grad.conv{n}d_input({size}, {w}, {grad}{options})"
        if not even:
            found = f"F.pad({found}, {tuple(-p for p in flat)})"
        return found if batched else f"{found}.squeeze(0)"

    return backward


for _n in (1, 2, 3):
    register(Op(
        f"conv{_n}d(Tensor input, Tensor weight, Tensor? bias=None, int[] stride=1, Any padding=0, "
        "int[] dilation=1, int groups=1)", _FAMILY, homes="F", aliases=(f"torch.conv{_n}d",),
        # backward: what is derived has windows that overlap; PyTorch's transposed convolution adds them.
        shape=_conv_shape(_n), element=_conv(_n), backward=_conv_back(_n),
        samples={
            1: ("F.conv1d(x[1,2,5], w[2,2,3])",
                "F.conv1d(x[1,1,5], w[2,1,2], b[2], stride=2, padding=1)",
                "F.conv1d(x[2,6], w[2,1,2], groups=2, dilation=2, padding='same')"),
            2: ("F.conv2d(x[1,1,3,3], w[1,1,2,2])",
                "F.conv2d(x[1,2,3,3], w[2,2,2,2], b[2], padding=1)",
                "F.conv2d(x[1,2,4,4], w[2,1,2,2], stride=(2, 1), groups=2, dilation=(1, 2))"),
            3: ("F.conv3d(x[1,1,2,2,3], w[1,1,2,2,2], padding=(0, 0, 1))",),
        }[_n],
    ))


# -- pooling ---------------------------------------------------------------------------------------


def _pooled(n: int, name: str, x: Shape, kernel: Any, stride: Any, padding: Any, dilation: Any,
            ceil: bool) -> Shape:
    """The shape after pooling.  Source: PyTorch's ``aten/src/ATen/native/Pool.h``."""
    expect(len(x) in (n + 1, n + 2),
            f"{name} takes an input (batch, channels, …) with {n} more dimensions, found {{}}", x)
    kernel, stride, padding, dilation = _window(n, kernel, stride, padding, dilation)
    sizes = []
    for size, m, s, p, d in zip(x[-n:], kernel, stride, padding, dilation, strict=True):
        expect(m > 0 and s > 0 and d > 0, f"{name}: kernel, stride and dilation must be positive")
        expect(0 <= 2 * p <= d * (m - 1) + 1,
            f"{name}: the padding must be at most half of the kernel")
        room = size + 2 * p - d * (m - 1) - 1
        expect(room >= 0 or (ceil and room + s > 0),
            f"{name}: the kernel is larger than the padded input")
        count = -(-room // s) + 1 if ceil else room // s + 1
        sizes.append(count - 1 if ceil and (count - 1) * s >= size + p else count)
    return (*x[:-n], *sizes)


def _window(n: int, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> tuple[Shape, ...]:
    kernel = _each(kernel, n, "kernel_size")
    return (
        kernel, _each(stride, n, "stride") if stride not in (None, ()) else kernel,
        _each(padding, n, "padding"), _each(dilation, n, "dilation"),
    )


def _avg_pool(n: int) -> Any:
    def element(k: Any, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool,
                whole: bool, divisor: int | None = None) -> Any:
        kernel, stride, padding, _ = _window(n, kernel, stride, padding)
        taps = k.bounds(kernel)
        spots = k.i[len(k.i) - n:]
        at = [s * i + q - p for i, q, s, p in zip(spots, taps, stride, padding, strict=True)]
        ends = [size - 1 for size in x.shape[-n:]]
        inside = [k.bracket(k.all(a >= 0, a <= end)) for a, end in zip(at, ends, strict=True)]
        if divisor is not None:
            count = k.number(divisor)
        elif whole:  # what is counted lies in the padded input
            count = k.S.Mul(*(k.sum(k.bracket(a <= end + p), q) for a, end, p, q in
                              zip(at, ends, padding, taps, strict=True)))
        else:
            count = k.S.Mul(*(k.sum(b, q) for b, q in zip(inside, taps, strict=True)))
        return k.sum(k.S.Mul(*inside) * x[[*k.i[:-n], *at]], *taps) / count

    return element


def _spread(c: Any, x: Any, n: int, pooled: Any) -> str:
    """Means are linear: along each dim the mean of each unit vector, as a matrix, turned round."""
    maps, letters = [], "abcdef"
    for axis in range(-n, 0):
        maps.append(c.let("shares", pooled(f"torch.eye({x}.shape[{axis}]).to({c.grad})", axis)))
    own, others = letters[:n], letters[n:2 * n]
    terms = ",".join(b + a for a, b in zip(own, others, strict=True))
    return f'torch.einsum("...{own},{terms}->...{others}", {c.grad}, {", ".join(maps)})'


def _avg_back(n: int) -> Any:
    def backward(c: Any, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool, whole: bool,
                 divisor: int | None = None) -> str | None:
        kernel, stride, padding, _ = _window(n, kernel, stride, padding)
        if divisor is not None and ceil:
            return None
        settings = {"ceil_mode=True": ceil, "count_include_pad=False": not whole and not divisor}

        def pooled(eye: str, axis: int) -> str:
            k, s, p = kernel[axis], stride[axis], padding[axis]
            shown = {f"stride={s}": s != k, f"padding={p}": p, **settings}
            return f"F.avg_pool1d({', '.join([eye, str(k), *(t for t, on in shown.items() if on)])})"

        return _spread(c, x, n, pooled) + (f" * {prod(kernel) / divisor!r}" if divisor else "")

    return backward


_WIDE = "int[] kernel_size, int[]? stride=None, int[] padding=0"

for _n in (1, 2, 3):
    _override = ", int? divisor_override=None" if _n > 1 else ""
    register(Op(
        f"avg_pool{_n}d(Tensor input, {_WIDE}, bool ceil_mode=False, bool count_include_pad=True"
        f"{_override})", _FAMILY, homes="F",
        shape=lambda x, m, s, p, ceil, *_, n=_n: _pooled(n, f"avg_pool{n}d", x, m, s, p, 1, ceil),
        # backward: the derived one is a table of windows by places, at one size.
        element=_avg_pool(_n), backward=_avg_back(_n),
        samples={
            1: ("F.avg_pool1d(x[1,1,6], 2)", "F.avg_pool1d(x[1,2,5], 3, stride=2, padding=1)",
                "F.avg_pool1d(x[2,5], 2, padding=1, count_include_pad=False, ceil_mode=True)"),
            2: ("F.avg_pool2d(x[1,1,4,4], 2)",
                "F.avg_pool2d(x[1,1,3,4], (2, 3), stride=1, padding=1)",
                "F.avg_pool2d(x[1,1,4,4], 2, divisor_override=3)"),
            3: ("F.avg_pool3d(x[1,1,2,2,4], 2)",),
        }[_n],
    ))


def _pool_index(n: int) -> Any:
    """Where each window's largest element stands: its position in the plane, the first at a tie."""

    def value(exact: bool, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any,
              ceil: bool) -> Any:
        array = np.asarray(x[0], dtype=np.float64)
        shape = _pooled(n, "", array.shape, kernel, stride, padding, dilation, ceil)
        kernel, stride, padding, dilation = _window(n, kernel, stride, padding, dilation)
        sizes = array.shape[-n:]
        best = np.full(shape, -np.inf)
        index = np.full(shape, -1)
        for tap in np.ndindex(*kernel):
            places = [s * np.arange(count) + d * q - p for count, q, s, p, d in
                      zip(shape[-n:], tap, stride, padding, dilation, strict=True)]
            grid = np.meshgrid(*places, indexing="ij")
            inside = np.logical_and.reduce(
                [(g >= 0) & (g < size) for g, size in zip(grid, sizes, strict=True)])
            spot = tuple(np.clip(g, 0, size - 1) for g, size in zip(grid, sizes, strict=True))
            found = np.where(inside, array.__getitem__((..., *spot)), -np.inf)
            flat = np.ravel_multi_index(spot, sizes)
            larger = (found > best) | np.isnan(found) | (inside & (index < 0))
            best, index = np.where(larger, found, best), np.where(larger, flat, index)
        return index.astype(np.float64), np.zeros(shape)

    return value


def _max_pool(n: int) -> Any:
    def element(k: Any, x: Any, *args: Any) -> Any:
        sizes = x.shape[-n:]
        return x[[*k.i[:-n], *k.unravel(k.below(args[-1][k.i], prod(sizes)), sizes)]]

    return element


def _one(value: Any) -> Any:
    """A setting as it is written: one number where all are equal."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


def _unit_pool(n: int) -> None:
    settings = f"{_WIDE}, int[] dilation=1, bool ceil_mode=False"

    def shape(x: Shape, m: Any, s: Any, p: Any, d: Any, ceil: bool, *_: Any) -> Shape:
        return _pooled(n, f"max_pool{n}d", x, m, s, p, d, ceil)

    def called(x: Any, m: Any, s: Any, p: Any, d: Any, ceil: bool) -> str:
        options = {"stride": s, "padding": p, "dilation": d, "ceil_mode": ceil}
        usual = {"stride": (None, (), m), "padding": (0, (0,)), "dilation": (1, (1,)),
                 "ceil_mode": (False,)}
        shown = "".join(f", {key}={_one(v)}" for key, v in options.items() if v not in usual[key])
        return f"F.max_pool{n}d({x}, {_one(m)}{shown}, return_indices=True)"

    def back(c: Any, x: Any, *args: Any) -> str:
        """To the element that was the largest, by its place in the plane."""
        flat = "" if n == 1 else f".flatten({-n})"
        found = f"torch.zeros_like({x}){flat}.scatter_add(-1, {args[-1]}{flat}, {c.grad}{flat})"
        return found if n == 1 else f"{found}.reshape({x}.shape)"

    helper = register(Op(
        f"argmax_pool{n}d(Tensor input, {settings})", _FAMILY, (), homes="", integer=True,
        shape=shape, value=_pool_index(n), jacobian=lambda *_: None, torch=lambda *_: None,
        written=lambda c, x, *args: f"{called(x, *args)}[1]",
    ))
    pooled = register(Op(
        f"max_pool{n}d(Tensor input, {settings}, Aux indices)", _FAMILY, (), homes="",
        shape=shape, element=_max_pool(n),
        aux=lambda b, x, *args: (b.helper(helper, x, *args, label="idx"),),
        torch=lambda torch, x, m, s, p, d, ceil, _: getattr(torch.nn.functional, f"max_pool{n}d")(
            x, m, s or m, p, d, ceil),
        # backward: the places of the greatest are PyTorch's own, found once.
        written=lambda c, x, *args: f"{called(x, *args[:-1])}[0]", backward=back,
    ))

    def expand(b: Any, x: Any, *args: Any) -> Any:
        found = b.apply(pooled, x, *args[:-1])
        indices = b.node(found).args[-1]
        return b.results(("output", "indices"), found, indices) if args[-1] else found

    register(Op(
        f"max_pool{n}d(Tensor input, {settings}, bool return_indices=False)", _FAMILY,
        homes="F", aliases=(f"torch.max_pool{n}d",), expand=expand,
        kink="at a tie the first of the largest elements of a window gets the whole gradient, as "
             "in PyTorch",
        samples={
            1: ("F.max_pool1d(x[1,1,6], 2)", "F.max_pool1d(x[1,2,5], 3, stride=2, padding=1)"),
            2: ("F.max_pool2d(x[1,1,4,4], 2)",
                "F.max_pool2d(x[1,1,4,5], (2, 3), stride=1, padding=1, dilation=(1, 2))"),
            3: ("F.max_pool3d(x[1,1,2,2,4], 2)",),
        }[n],
    ))


for _n in (1, 2, 3):
    _unit_pool(_n)


def _adaptive_sizes(n: int, x: Shape, out: Any) -> tuple[int, ...]:
    wanted = (out,) * n if isinstance(out, int) or out is None else tuple(out)
    wanted = wanted * n if len(wanted) == 1 else wanted
    expect(len(wanted) == n and len(x) in (n + 1, n + 2),
            f"adaptive_avg_pool{n}d takes an input with {n + 1} or {n + 2} dimensions and {n} "
            "sizes, found shape {}", x)
    return tuple(size if m is None else m for size, m in zip(x[-n:], wanted, strict=True))


def _adaptive(n: int) -> Any:
    def element(k: Any, x: Any, out: Any) -> Any:
        taps, at, inside = [], [], []
        for i, size, m in zip(k.i[len(k.i) - n:], x.shape[-n:], _adaptive_sizes(n, x.shape, out),
                              strict=True):
            if m and size % m == 0:
                taps.append(k.bound(size // m))
                at.append(size // m * i + taps[-1])
                inside.append(k.S.S.One)
                continue
            taps.append(k.bound(size))
            at.append(taps[-1])
            first, after = k.floordiv(size * i, m), k.floordiv(size * i + size + m - 1, m)
            inside.append(k.bracket(k.all(at[-1] >= first, at[-1] <= after - 1)))
        count = k.S.Mul(*(k.sum(b, q) for b, q in zip(inside, taps, strict=True)))
        return k.sum(k.S.Mul(*inside) * x[[*k.i[:-n], *at]], *taps) / count

    return element


for _n in (1, 2, 3):
    register(Op(
        f"adaptive_avg_pool{_n}d(Tensor input, Any output_size)", _FAMILY, homes="F",
        shape=lambda x, out, n=_n: (*x[:-n], *_adaptive_sizes(n, x, out)), element=_adaptive(_n),
        # backward: windows of different lengths, which the derived one has at one size only.
        backward=lambda c, x, out, n=_n: _spread(c, x, n, lambda eye, axis:
            f"F.adaptive_avg_pool1d({eye}, {c.grad}.shape[{axis}])"),
        samples={
            1: ("F.adaptive_avg_pool1d(x[1,1,6], 3)", "F.adaptive_avg_pool1d(x[1,1,5], 3)"),
            2: ("F.adaptive_avg_pool2d(x[1,1,4,4], 2)",
                "F.adaptive_avg_pool2d(x[1,1,3,4], (2, None))"),
            3: ("F.adaptive_avg_pool3d(x[1,1,2,2,4], 2)",),
        }[_n],
    ))
