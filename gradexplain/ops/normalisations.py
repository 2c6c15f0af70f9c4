"""Normalisations: a tensor less its mean, divided by its standard deviation, within each group.

All of them are one formula.  With ``x̂ = (x − μ)/σ`` and N elements in a group,
``∂x̂[i]/∂x[j] = (δ(i,j) − 1/N − x̂[i]·x̂[j]/N)/σ`` within a group and 0 between two.  What differs is
which elements form a group and which weight an element has: `_Plan`.
"""
# fmt: off

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod as size
from typing import Any

from gradexplain.ops.base import Op, Shape, expect, register

_FAMILY = "normalisation"


@dataclass(frozen=True)
class _Plan:
    """``group(k, at)`` is the index of the group that the element ``at`` is in, in a tensor of
    shape ``groups``; ``members(k, group)`` are the indices of its elements, with the bound ones;
    ``channel(at)`` is where an element's weight stands; ``same(k, i, j)`` ties two elements of a
    group together."""

    groups: Shape
    group: Callable[[Any, Any], tuple[Any, ...]]
    members: Callable[[Any, Any], tuple[tuple[Any, ...], list[Any]]]
    channel: Callable[[Any], tuple[Any, ...]]
    same: Callable[[Any, Any, Any], Any]
    count: int
    #: For generated code: how ``x`` is brought to a shape in which a group is some of its dims, and
    #: which.
    rows: Callable[[Any], tuple[str, tuple[int, ...]]]


def _over(shape: Shape, axes: tuple[int, ...], channel: Callable[[Any], tuple[Any, ...]]) -> _Plan:
    """Groups that run over whole axes, which are of size 1 in what is said of a group."""
    kept = [axis for axis in range(len(shape)) if axis not in axes]

    def members(k: Any, group: Any) -> tuple[tuple[Any, ...], list[Any]]:
        at = tuple(k.bound(n) if axis in axes else group[axis] for axis, n in enumerate(shape))
        return at, [at[axis] for axis in axes]

    return _Plan(
        groups=tuple(n if axis in kept else 1 for axis, n in enumerate(shape)),
        group=lambda k, at: tuple(i if axis in kept else 0 for axis, i in enumerate(at)),
        members=members,
        channel=channel,
        same=lambda k, i, j: k.deltas([i[a] for a in kept], [j[a] for a in kept]),
        count=size(shape[axis] for axis in axes),
        rows=lambda x: ("", tuple(axis - len(shape) for axis in axes) if axes[-1] == len(shape) - 1
                        and axes == tuple(range(axes[0], len(shape))) else axes),
    )


def _channels(shape: Shape, groups: int) -> _Plan:
    """Groups of neighbouring channels, each with all that comes after the channel axis."""
    each = shape[1] // groups

    def members(k: Any, group: Any) -> tuple[tuple[Any, ...], list[Any]]:
        bound = k.bounds((each, *shape[2:]))
        return (group[0], each * group[1] + bound[0], *bound[1:]), bound

    def which(k: Any, at: Any) -> Any:
        return k.floordiv(at[1], each) if each > 1 else at[1]

    return _Plan(
        groups=(shape[0], groups),
        group=lambda k, at: (at[0], which(k, at)),
        members=members,
        channel=lambda at: (at[1],),
        same=lambda k, i, j: k.deltas((i[0], which(k, i)), (j[0], which(k, j))),
        count=each * size(shape[2:]),
        rows=lambda x: (f".reshape({x}.shape[0], {groups}, -1)", (-1,)),
    )


# -- the values that the formulas name -----------------------------------------------------------


def _mean(k: Any, x: Any, plan: _Plan) -> Any:
    at, bound = plan.members(k, k.i)
    return k.sum(x[at], *bound) / plan.count


def _deviation(k: Any, x: Any, mean: Any, plan: _Plan, eps: float) -> Any:
    at, bound = plan.members(k, k.i)
    off = x[at] if mean is None else x[at] - mean[k.i]
    return k.sqrt(k.sum(off**2, *bound) / plan.count + k.number(eps))


def _hat(k: Any, x: Any, mean: Any, sigma: Any, plan: _Plan) -> Any:
    group = plan.group(k, k.i)
    return (x[k.i] if mean is None else x[k.i] - mean[group]) / sigma[group]


def _saved(node: Any) -> tuple[Any, ...]:
    """The mean and σ that PyTorch kept, the mean and 1/σ, each rounded to the dtype."""
    while node is not None and not hasattr(node, "_saved_result2"):
        node = node.next_functions[0][0] if node.next_functions else None  # of a view
    return () if node is None else (node._saved_result1, 1 / node._saved_result2.double())


def _nothing(*_: Any) -> None:
    """PyTorch's own operation has no such values."""


def _normalisation(
    schema: str, samples: tuple[str, ...], plan: Callable[..., _Plan], call: Any = None, *,
    centred: bool = True, eps: Callable[..., float] = lambda *args: float(args[-1]),
    homes: str = "torch F", written: Callable[..., str] | None = None,
    single: tuple[str, ...] = ("input", "weight", "bias"),
) -> Op:
    """A record whose tensors are ``input``, ``weight`` and ``bias``; the rest says how to group.

    ``plan(shape, *parameters)`` checks the arguments; ``parameters`` are those that are no tensors,
    in order.
    """
    name = schema.partition("(")[0]
    aux = "Aux mean, Aux sigma, Aux hat)" if centred else "Aux sigma, Aux hat)"
    statistics = len(aux.split(","))

    def plain(args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments that are no tensors."""
        pairs = zip(op.parameters, args, strict=False)
        return tuple(arg for p, arg in pairs if not p.is_tensor and not p.is_aux)

    def named(args: tuple[Any, ...], wanted: str) -> Any:
        pairs = zip(op.parameters, args, strict=False)
        return next((arg for p, arg in pairs if p.name == wanted), None)

    def shape(x: Shape, *args: Any) -> Shape:
        found = plan(x, *plain((x, *args)))
        expect(bool(found.count), f"{name} has nothing to normalise in shape {{}}", x)
        weights = tuple(n for n in _weight_shape(found, x))
        for which in ("weight", "bias"):
            given = named((x, *args), which)
            expect(given is None or tuple(given) == weights, f"{name}: {which} must have shape {{}}, "
                   "found {}", weights, given,
                   remedy=f"one {which} for each normalised element or channel, or none")
        return x

    def element(k: Any, x: Any, *args: Any) -> Any:
        found = plan(x.shape, *plain((x, *args)))
        y = args[-1][k.i]
        weight, bias = named((x, *args), "weight"), named((x, *args), "bias")
        if weight is not None:
            y *= weight[found.channel(k.i)]
        return y if bias is None else y + bias[found.channel(k.i)]

    def jacobian(k: Any, x: Any, *args: Any) -> Any:
        found = plan(x.shape, *plain((x, *args)))
        sigma, hat = args[-2:]
        weight = named((x, *args), "weight")
        if k.wrt in ("weight", "bias"):
            tie = k.deltas(found.channel(k.i), k.j)
            return tie * hat[k.i] if k.wrt == "weight" else tie
        n = found.count
        same = found.same(k, k.i, k.j)
        # The ties that stand in both terms read best in front.
        own, ties = (k.S.Mul.make_args(e) for e in (k.deltas(k.i, k.j), same))
        both = [d for d in ties if d in own]
        own, ties = (k.S.Mul(*(d for d in e if d not in both)) for e in (own, ties))
        inside = k.S.Mul(*both) * (
            n * own - ties * ((1 if centred else 0) + hat[k.i] * hat[k.j])
        )
        slope = inside / (n * sigma[found.group(k, k.i)])
        return slope if weight is None else slope * weight[found.channel(k.i)]

    def helpers(b: Any, x: Any, *args: Any) -> tuple[Any, ...]:
        given = plain((x, *args))
        found = plan(b.shape(x), *given)
        if not found.count:
            return ()
        parts: tuple[Any, ...] = ()
        mean = None
        if centred:
            mean = b.helper(means, x, *given, label="μ")
            parts = (mean,)
        sigma = b.helper(sigmas, x, mean, *given, label="σ" if centred else "rms")
        return (*parts, sigma, b.helper(hats, x, mean, sigma, *given, label="x̂"))

    def backward(c: Any, x: Any, *args: Any) -> str:
        """``(u − mean(u) − x̂·mean(u·x̂))/σ`` within each group, for ``u = weight·v``."""
        weight, bias = (named((x, *args), which) for which in ("weight", "bias"))
        found = plan(x.shape, *plain((x, *args)))
        given = plain((x, *args))
        rows, axes = found.rows(x)
        dims = axes[0] if len(axes) == 1 else axes
        over = f"dim={dims}, keepdim=True"
        source = c.let("rows", f"{x}{rows}") if rows else x
        off = c.let("off", f"{source} - {source}.mean({over})") if centred else source
        sigma = c.let("sigma", f"torch.sqrt(({off}**2).mean({over}) + {eps(*given)!r})")
        hat = c.let("x_hat", f"{off} / {sigma}")
        back = f".reshape({x}.shape)" if rows else ""
        places = [axis % x.rank for axis in found.channel(range(x.rank))]
        others = tuple(axis for axis in range(x.rank) if axis not in places)
        if c.wrt in ("weight", "bias"):
            text = str(c.grad) if c.wrt == "bias" else f"{c.grad} * {hat}{back}"
            if not others:
                return text
            return f"({text}).sum(dim={others[0] if len(others) == 1 else others})"
        u = c.grad
        if weight is not None:
            tail = x.rank - 1 - max(places)
            wide = f"[:, {', '.join(['None'] * tail)}]" if tail else ""
            u = c.let("u", f"{c.grad} * {weight}{wide}")
        u = c.let("u", f"{u}{rows}") if rows else u
        mean = f" - {u}.mean({over})" if centred else ""
        return f"(({u}{mean} - {hat} * ({u} * {hat}).mean({over})) / {sigma}){back}"

    op = Op(
        f"{schema.rstrip(')')}, {aux}", _FAMILY, samples, homes=homes, shape=shape, element=element,
        jacobian=jacobian, aux=helpers, backward=backward, written=written, single=single,
        saved=_saved if centred else None,
        torch=call and (lambda torch, *args: call(torch, *args[:-statistics])),
    )
    register(op)
    rest = ", ".join(_declared(p) for p in op.parameters if not p.is_tensor and not p.is_aux)
    rest = f", {rest}" if rest else ""
    means = register(Op(
        f"{name}_mean(Tensor input{rest})", _FAMILY, (), homes="", stops=True, torch=_nothing,
        shape=lambda x, *args: plan(x, *args).groups,
        element=lambda k, x, *args: _mean(k, x, plan(x.shape, *args)),
        show=lambda x, *_: f"mean of {x} over each group",
    ))
    sigmas = register(Op(
        f"{name}_sigma(Tensor input, Tensor? mean{rest})", _FAMILY, (), homes="", stops=True,
        torch=_nothing, shape=lambda x, mean, *args: plan(x, *args).groups,
        element=lambda k, x, mean, *args: _deviation(
            k, x, mean, plan(x.shape, *args), eps(*args)),
        show=lambda x, mean, *_: f"sqrt(mean(({x} − {mean})²) + eps)" if centred
        else f"sqrt(mean({x}²) + eps)",
    ))
    hats = register(Op(
        f"{name}_hat(Tensor input, Tensor? mean, Tensor sigma{rest})", _FAMILY, (), homes="",
        stops=True, torch=_nothing, shape=lambda x, *_: x,
        element=lambda k, x, mean, sigma, *args: _hat(k, x, mean, sigma, plan(x.shape, *args)),
        show=lambda x, mean, sigma, *_: f"({x} − {mean})/{sigma}" if centred else f"{x}/{sigma}",
    ))
    return op


def _declared(p: Any) -> str:
    mark = ("[]" if p.is_list else "") + ("?" if p.optional else "")
    return f"{p.kind}{mark} {p.name}"


def _weight_shape(plan: _Plan, shape: Shape) -> Shape:
    places = plan.channel(range(len(shape)))
    return tuple(shape[axis] for axis in places)


# -- the five ------------------------------------------------------------------------------------


def _last(shape: Shape, sizes: Shape, *_: Any) -> _Plan:
    """layer_norm and rms_norm: over the last dims."""
    rank = len(sizes)
    expect(bool(rank) and tuple(shape[len(shape) - rank:]) == sizes and rank <= len(shape),
           "normalized_shape {} is not the end of the input's shape {}", sizes, shape,
           remedy="give the sizes of the last dimensions, as in layer_norm(x, (x.shape[-1],))")
    axes = tuple(range(len(shape) - rank, len(shape)))
    return _over(shape, axes, lambda at: tuple(at[axis] for axis in axes))


def _batch(shape: Shape, *_: Any) -> _Plan:
    expect(len(shape) >= 2, "batch_norm needs shape (N, C, …), found {}", shape,
           remedy="the channel is dimension 1")
    plan = _over(shape, tuple(a for a in range(len(shape)) if a != 1), lambda at: (at[1],))
    expect(plan.count != 1, "batch_norm in training needs more than one value per channel, found {}", shape,
           remedy="give a batch of at least 2")
    return plan


def _instance(shape: Shape, *_: Any) -> _Plan:
    expect(len(shape) >= 3 and size(shape[2:]) != 1,
           "instance_norm needs shape (N, C, L, …) with more than one element to a channel, found {}", shape,
           remedy="the channel is dimension 1")
    return _over(shape, tuple(range(2, len(shape))), lambda at: (at[1],))


def _grouped(shape: Shape, num_groups: int, *_: Any) -> _Plan:
    expect(len(shape) >= 2 and num_groups >= 1 and not (shape[1] % num_groups),
           f"group_norm with {num_groups} groups needs shape (N, C, …) with C a multiple of it, found {{}}",
           shape, remedy="the channel is dimension 1")
    return _channels(shape, num_groups)


_normalisation(
    "layer_norm(Tensor input, int[] normalized_shape, Tensor? weight=None, Tensor? bias=None, "
    "float eps=1e-05)",
    ("F.layer_norm(x[2,3], (3,))", "F.layer_norm(x[2,3], [3], w[3], b[3])",
     "F.layer_norm(x[2,3,2], (3, 2))", "layer_norm(x[4], [4], weight=w[4])"),
    _last,
    single=("input",),
)
_normalisation(
    "group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, "
    "float eps=1e-05)",
    ("F.group_norm(x[2,4], 2)", "F.group_norm(x[2,4,2], 2, w[4], b[4])",
     "F.group_norm(x[2,2,3], 2)"),
    _grouped,
)


def _rms_eps(shape: Any, eps: Any = None) -> float:
    """PyTorch's default is the machine epsilon of the dtype, here that of float64."""
    return 2.0**-52 if eps is None else float(eps)


_normalisation(
    "rms_norm(Tensor input, int[] normalized_shape, Tensor? weight=None, float? eps=None)",
    ("F.rms_norm(x[2,3], (3,))", "F.rms_norm(x[2,3], [3], w[3], eps=0.1)"),
    _last,
    centred=False, eps=_rms_eps,
)


_BATCH, _INSTANCE = (
    _normalisation(
        f"{_name}(Tensor input, Tensor? weight=None, Tensor? bias=None, float eps=1e-05)", (), _groups,
        lambda torch, x, w, b, eps, name=_name: getattr(torch.nn.functional, name)(
            x, None, None, w, b, True, 0.1, eps),
        homes="", written=lambda c, x, w, b, eps, *_, call=_call: call.format(x, w, b, repr(eps)),
    )
    for _name, _groups, _call in (
        ("batch_norm", _batch, "F.batch_norm({}, None, None, {}, {}, training=True, eps={})"),
        ("instance_norm", _instance, "F.instance_norm({}, weight={}, bias={}, eps={})"),
    )
)


def _evaluated(b: Any, x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> Any:
    """With running statistics: a scale and a shift for each channel."""
    expect(mean is not None and var is not None,
           "without training batch_norm needs running_mean and running_var",
           remedy="training=True takes the statistics of the batch")
    column = (-1, *(1 for _ in b.shape(x)[2:]))

    def wide(t: Any) -> Any:
        return b.call("reshape", t, column)

    y = b.call("sub", x, wide(mean))
    y = b.call("div", y, b.call("sqrt", b.call("add", wide(var), eps)))
    if weight is not None:
        y = b.call("mul", y, wide(weight))
    return y if bias is None else b.call("add", y, wide(bias))


register(Op(
    "batch_norm(Tensor input, Tensor? running_mean, Tensor? running_var, Tensor? weight=None, "
    "Tensor? bias=None, bool training=False, float momentum=0.1, float eps=1e-05)", _FAMILY,
    homes="F",
    expand=lambda b, x, mean, var, weight, bias, training, momentum, eps:
        b.apply(_BATCH, x, weight, bias, eps) if training
        else _evaluated(b, x, mean, var, weight, bias, eps),
    samples=("F.batch_norm(x[3,2], None, None, training=True)",
             "F.batch_norm(x[3,2], None, None, w[2], b[2], training=True)",
             "F.batch_norm(x[2,2,3], None, None, w[2], training=True)",
             "F.batch_norm(x[3,2], m[2], s[2], w[2], b[2])"),
))
register(Op(
    "instance_norm(Tensor input, Tensor? running_mean=None, Tensor? running_var=None, "
    "Tensor? weight=None, Tensor? bias=None, bool use_input_stats=True, float momentum=0.1, "
    "float eps=1e-05)", _FAMILY, homes="F",
    expand=lambda b, x, mean, var, weight, bias, own, momentum, eps:
        b.apply(_INSTANCE, x, weight, bias, eps) if own
        else _evaluated(b, x, mean, var, weight, bias, eps),
    samples=("F.instance_norm(x[2,2,3])", "F.instance_norm(x[1,2,4], weight=w[2], bias=b[2])"),
))


def _near(k: Any, here: Any, there: Any, size_: int) -> Any:
    """1 where the channel ``there`` is among the ``size_`` around ``here``."""
    return k.bracket(k.all(there >= here - size_ // 2, there <= here + (size_ - 1) // 2))


def _response(k: Any, x: Any, size_: int, alpha: float, offset: float) -> Any:
    c = k.bound(x.shape[1])
    total = k.sum(x[k.put(k.i, 1, c)] ** 2 * _near(k, k.i[1], c, size_), c)
    return k.number(offset) + k.number(alpha) * total / size_


def _local_response_slope(
    k: Any, x: Any, size_: int, alpha: float, beta: float, offset: float, d: Any
) -> Any:
    """``δ/D^β − 2αβ/size·x[i]·x[j]/D^(β + 1)`` for neighbouring channels."""
    power = k.number(beta)
    others = k.deltas((k.i[0], *k.i[2:]), (k.j[0], *k.j[2:]))
    factor = 2 * k.number(alpha) * power / size_
    near = _near(k, k.i[1], k.j[1], size_)
    return others * (
        k.delta(k.i[1], k.j[1]) - factor * near * x[k.i] * x[k.j] / d[k.i]
    ) / d[k.i] ** power


def _response_shape(x: Shape, *_: Any) -> Shape:
    expect(len(x) >= 3, "local_response_norm needs shape (N, C, L, …), found {}", x,
           remedy="the channel is dimension 1")
    return x


def _response_back(c: Any, x: Any, size_: int, alpha: float, beta: float, offset: float,
                   *_: Any) -> str:
    """``v/d^β − (2αβ/size)·x·(sum over the windows that x is in of v·y/d)``."""

    def windows(text: str, before: int, after: int) -> str:
        padded = f"F.pad(({text}).movedim(1, -1), ({before}, {after}))"
        return f"{padded}.unfold(-1, {size_}, 1).sum(dim=-1).movedim(-1, 1)"

    first, last = size_ // 2, (size_ - 1) // 2
    total = c.let("total", windows(f"{x}**2", first, last))
    base = c.let("base", f"{offset:g} + {alpha / size_!r} * {total}")
    spread = c.let("spread", windows(f"{c.grad} * {c.y} / {base}", last, first))
    return f"{c.grad} / {base} ** {beta!r} - {2 * alpha * beta / size_!r} * {x} * {spread}"


_RESPONSE = register(Op(
    "local_response(Tensor input, int size, float alpha, float k)", _FAMILY, (), homes="",
    stops=True, torch=_nothing, shape=_response_shape, element=_response,
    show=lambda x, size_, alpha, k: f"{k} + {alpha}·mean of {x}² over {size_} channels",
))
register(Op(
    "local_response_norm(Tensor input, int size, float alpha=0.0001, float beta=0.75, float k=1, "
    "Aux D)", _FAMILY, homes="F", shape=_response_shape, backward=_response_back,
    element=lambda k, x, size_, alpha, beta, offset, d: x[k.i] / d[k.i] ** k.number(beta),
    jacobian=_local_response_slope,
    aux=lambda b, x, size_, alpha, beta, offset: (
        b.helper(_RESPONSE, x, size_, alpha, offset, label="D"),),
    samples=("F.local_response_norm(x[1,3,2], 2)", "F.local_response_norm(x[2,4,2], 3, alpha=0.5)"),
))
