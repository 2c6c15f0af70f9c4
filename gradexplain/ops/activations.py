"""Activation functions, pointwise ones and those along a dim."""
# fmt: off

from __future__ import annotations

from functools import partial
from typing import Any

from gradexplain.errors import UnsupportedError
from gradexplain.ops.base import Coarse, Op, Shape, expect, normal_dim, pointwise, register
from gradexplain.ops.kernels import softmax
from gradexplain.ops.reductions import SOFTMAX, inner, same_but

_FAMILY = "activation"
activation = partial(pointwise, family=_FAMILY)

def _prelu_shape(x: Shape, w: Shape) -> Shape:
    count = 1 if not w else w[0]
    channels = x[1] if len(x) > 1 else 1
    expect(len(w) <= 1 and count in (1, channels),
           f"prelu needs one weight, or one for each of the {channels} channels (dimension 1), "
           "found shape {}", w, remedy=f"give the weight shape (1,) or ({channels},)")
    return x


def _prelu(k: Any, x: Any, w: Any) -> Any:
    place = () if not w.rank else (k.i[1] if w.shape[0] > 1 else 0,)
    return k.choose(x[k.i] > 0, x[k.i], w[place] * x[k.i])


def _rrelu(b: Any, x: Any, lower: float, upper: float, training: bool) -> Any:
    expect(not training, "rrelu with training=True is random", remedy="use training=False")
    return b.call("leaky_relu", x, (lower + upper) / 2)


# -- rectifiers ----------------------------------------------------------------------------------

activation("relu(Tensor input, bool inplace=False)", "input if input > 0 else 0", "relu(x[2,3] - 3.5)",
    singular="input == 0", named=True, kink="relu'(0) = 0, as PyTorch", homes="torch Tensor F")
activation("relu6(Tensor input, bool inplace=False)", "0 if input <= 0 else input if input < 6 else 6",
    "F.relu6(x[3,3] - 2.5)", singular="input == 0 or input == 6", named=True, homes="F",
    kink="relu6 has the slope 0 at 0 and at 6, as PyTorch")
activation("leaky_relu(Tensor input, float negative_slope=0.01, bool inplace=False)",
    "input if input > 0 else negative_slope*input", "F.leaky_relu(x[2,3] - 3.5)", "leaky_relu(x[3] - 2.5, 0.2)",
    singular="input == 0", named=True, homes="F", derivatives={"input": "1 if input > 0 else negative_slope"},
    kink="leaky_relu'(0) = negative_slope, as PyTorch")
register(Op(
    "prelu(Tensor input, Tensor weight)", _FAMILY, homes="torch Tensor F", shape=_prelu_shape, element=_prelu,
    singular_at=lambda y, x, w: x == 0, kink="prelu'(0) = weight, as PyTorch",
    samples=("F.prelu(x[2,3] - 3.5, w[3])", "prelu(x[3] - 2.5, w[1])"),
))
register(Op(
    "rrelu(Tensor input, float lower=0.125, float upper=0.3333333333333333, bool training=False, "
    "bool inplace=False)",
    _FAMILY, homes="torch F",
    expand=_rrelu,
    samples=("F.rrelu(x[3] - 2.5)", "F.rrelu(x[3] - 2.5, 0.1, 0.3)"),
))
activation("elu(Tensor input, float alpha=1, bool inplace=False)", "input if input > 0 else alpha*expm1(input)",
    "F.elu(x[2,3] - 3.5)", "F.elu(x[3] - 2.5, alpha=0.5)", singular="input == 0 and alpha != 1", named=True,
    homes="F", derivatives={"input": "1 if input > 0 else alpha*exp(input)"}, kink="elu'(0) = alpha, as PyTorch")
activation("selu(Tensor input, bool inplace=False)",
    "selu_scale*input if input > 0 else selu_scale*selu_alpha*expm1(input)", "F.selu(x[2,3] - 3.5)",
    singular="input == 0", named=True, homes="torch F",
    derivatives={"input": "selu_scale if input > 0 else selu_scale*selu_alpha*exp(input)"},
    kink="selu'(0) is the slope from the left, as PyTorch")
activation("celu(Tensor input, float alpha=1, bool inplace=False)",
    "input if input > 0 else alpha*expm1(input/alpha)", "F.celu(x[2,3] - 3.5)", "F.celu(x[3] - 2.5, alpha=2)",
    named=True, homes="torch F", derivatives={"input": "1 if input > 0 else exp(input/alpha)"},
    coarse=(Coarse(2e-7, "PyTorch takes 1/alpha in single precision, in float64 too"),))
activation("threshold(Tensor input, float threshold, float value, bool inplace=False)",
    "input if input > threshold else value", "F.threshold(x[3], 1.5, 20)", singular="input == threshold", named=True,
    homes="torch F", kink="threshold has the slope 0 at its threshold, as PyTorch")

# -- smooth ones ---------------------------------------------------------------------------------

activation("sigmoid", "1/(1 + exp(-input))", named=True, derivatives={"input": "y*(1 - y)"}, homes="torch Tensor F",
    aliases=("special.expit",), spelt=("1/(1 + exp(-input))", "exp(input)/(1 + exp(input))"))
activation("logsigmoid", "min(input, 0) - log1p(exp(-abs(input)))", "F.logsigmoid(x[3] - 2)", named=True, homes="F",
    derivatives={"input": "sigmoid(-input)"})
activation("softplus(Tensor input, float beta=1, float threshold=20)",
    "input if input*beta > threshold else log1p(exp(beta*input))/beta", "softplus(x[3])", "F.softplus(x[3], beta=2)",
    "F.softplus(x[3], 2, 3)", named=True,
    derivatives={"input": "1 if input*beta > threshold else sigmoid(beta*input)"}, homes="F")
def _with_part(
    schema: str, formula: str, part: str, slope: str, part_shown: Any, call: Any = None, show: Any = None,
    samples: tuple[str, ...] = (), written: Any = None,
) -> Op:
    """A function of each element whose derivative reads best in a part of it, ``t``.

    ``formula`` and ``slope`` are in ``input`` and ``t``, ``part`` says what ``t`` is.
    """
    name = schema.partition("(")[0]
    helper = register(Op(
        f"{name}_part(Tensor input)", _FAMILY, (), homes="", stops=True, formula=part,
        show=part_shown,
        torch=lambda *_: None,
    ))

    def built(k: Any, text: str, x: Any, t: Any) -> Any:
        return k.build(text, {"input": x[k.i], "t": t[k.i]})

    return register(Op(
        schema, _FAMILY, samples, homes="F" if samples else "", shape=lambda x, *_: x, show=show,
        element=lambda k, x, t: built(k, formula, x, t),
        jacobian=lambda k, x, t: k.deltas(k.i, k.j) * built(k, slope, x, t),
        aux=lambda b, x: (b.helper(helper, x, label="t"),), torch=call,
        written=written,
    ))


def _gelu_back(c: Any, x: Any, *_: Any) -> str:
    """The slope is saved: with it backward is one product, where PyTorch's computes erf and exp."""
    cdf = f"0.5 * (1 + torch.erf({x} / math.sqrt(2)))"
    slope = f"{cdf} + {x} * torch.exp(-0.5 * {x}**2) / math.sqrt(2 * math.pi)"
    return f"{c.grad} * {c.let('slope', slope)}"


_GELU_TANH = _with_part(
    "gelu(Tensor input, Aux t)", "input*(1 + t)/2",
    "tanh(sqrt(2/pi)*(input + 0.044715*input**3))",
    "(1 + t)/2 + input*(1 - t**2)*(1 + 0.134145*input**2)/sqrt(2*pi)",
    lambda x: f"tanh(sqrt(2/pi)*({x} + 0.044715*{x}**3))",
    lambda torch, x, _: torch.nn.functional.gelu(x, approximate="tanh"),
    lambda x, _: f"gelu({x}, approximate='tanh')",
    written=lambda c, x, _: f'F.gelu({x}, approximate="tanh")',
)
_GELU = register(Op(
    "gelu(Tensor input)", _FAMILY, (), homes="", formula="input*ndtr(input)",
    torch=lambda torch, x: torch.nn.functional.gelu(x),
    # backward: the derived one has its constants in three places.
    written=lambda c, x: f"F.gelu({x})", backward=_gelu_back,
))


def _gelu(b: Any, x: Any, approximate: str) -> Any:
    expect(approximate in ("none", "tanh"), f"gelu: {approximate!r} is no approximation",
           remedy="use 'none' or 'tanh'")
    return b.apply(_GELU if approximate == "none" else _GELU_TANH, x)


register(Op(
    "gelu(Tensor input, *, str approximate='none')", _FAMILY, homes="F", expand=_gelu,
    samples=("F.gelu(x[3] - 2)", "F.gelu(x[3] - 2, approximate='tanh')"),
))
activation("silu(Tensor input, bool inplace=False)", "input*sigmoid(input)", "F.silu(x[3] - 2)", homes="F")
_with_part(
    "mish(Tensor input, bool inplace=False, Aux t)", "input*t", "tanh(softplus(input, 1, 20))",
    "t + input*sigmoid(input)*(1 - t**2)", lambda x: f"tanh(softplus({x}))", samples=("F.mish(x[3] - 2)",),
)
register(Op(
    "softsign(Tensor input)", _FAMILY, formula="input/(1 + abs(input))", named=True, homes="F",
    derivatives={"input": "1/(1 + abs(input))**2"}, samples=("F.softsign(x[3] - 2)",),
    coarse=(Coarse(0.0, "PyTorch takes the difference of 1/(1 + |x|) and |x|/(1 + |x|)²",
                   terms=lambda g, _, x: abs(g) / (1 + abs(x))),),
))
activation("tanhshrink", "input - tanh(input)", "F.tanhshrink(x[3] - 2)", named=True, homes="F",
    derivatives={"input": "tanh(input)**2"},
    coarse=(Coarse(0.0, "PyTorch takes the difference of 1 and 1 − tanh(x)²", terms=lambda g, _, x: abs(g)),))

# -- piecewise linear ones -----------------------------------------------------------------------

activation("hardtanh(Tensor input, float min_val=-1, float max_val=1, bool inplace=False)",
    "min_val if input <= min_val else input if input < max_val else max_val", "F.hardtanh(x[3] - 2.5)",
    "F.hardtanh(x[2,3], 1.5, 4.5)", singular="input == min_val or input == max_val", named=True, homes="F",
    kink="hardtanh has the slope 0 at its bounds, as PyTorch")
register(Op(
    "hardsigmoid(Tensor input, bool inplace=False)", _FAMILY, named=True, homes="F",
    formula="0 if input <= -3 else (input + 3)/6 if input < 3 else 1",
    singular=("abs(input) == 3",), coarse=(Coarse(3e-8, "PyTorch multiplies by 1/6 rounded to single precision, "
                   "0.16666667163372, in float64 too"),),
    kink="hardsigmoid has the slope 0 at -3 and 3, as PyTorch",
    samples=("F.hardsigmoid(2*x[5] - 5.5)",),
))
activation("hardswish(Tensor input, bool inplace=False)",
    "0 if input <= -3 else input*(input + 3)/6 if input < 3 else input", "F.hardswish(2*x[5] - 5.5)",
    singular="abs(input) == 3", named=True, homes="F",
    derivatives={"input": "0 if input <= -3 else (2*input + 3)/6 if input < 3 else 1"},
    kink="hardswish has the slope 0 at -3 and 1 at 3, as PyTorch")
activation("hardshrink(Tensor input, float lambd=0.5)", "0 if abs(input) <= lambd else input",
    "F.hardshrink(x[4] - 2.25)", "hardshrink(x[4] - 2.25, lambd=1)", singular="abs(input) == lambd", named=True,
    homes="torch Tensor F", kink="hardshrink has the slope 0 at ±lambd, as PyTorch")
activation("softshrink(Tensor input, float lambd=0.5)",
    "input - lambd if input > lambd else input + lambd if input < -lambd else 0", "F.softshrink(x[4] - 2.25)",
    "F.softshrink(x[4] - 2.25, lambd=1)", singular="abs(input) == lambd", named=True, homes="F",
    derivatives={"input": "1 if abs(input) > lambd else 0"}, kink="softshrink has the slope 0 at ±lambd, as PyTorch")


def _dropout(b: Any, x: Any, p: float, training: bool) -> Any:
    if training and p:
        raise UnsupportedError(
            "dropout is not supported: it is random, and an explanation is the same every time",
            remedy="training=False passes everything; or give the mask as an input, "
            "x*mask/(1 - p)",
        )
    return b.call("clone", x)


for _name, _more in (
    ("dropout", ("torch.dropout",)), ("alpha_dropout", ("torch.alpha_dropout",)),
    ("feature_alpha_dropout", ()), ("dropout1d", ()), ("dropout2d", ()), ("dropout3d", ()),
):
    _training = "False" if "alpha" in _name else "True"
    register(Op(
        f"{_name}(Tensor input, float p=0.5, bool training={_training}, bool inplace=False)",
        _FAMILY, homes="F", aliases=_more, expand=_dropout,
        samples=(f"F.{_name}(x[3], training=False)", f"F.{_name}(x[3], 0)"),
    ))


# -- along a dim ---------------------------------------------------------------------------------


def _same(shape: Shape, dim: int | None = None, *_: Any) -> Shape:
    if dim is not None:
        normal_dim(dim, len(shape))
    return shape


def _exponentials(sign: int) -> Any:
    """``exp(±x)/Σ exp(±x)`` along a dim: softmax, softmin."""

    def element(k: Any, x: Any, dim: int) -> Any:
        at, bound = inner(k, x, dim, True)
        return k.exp(sign * x[k.i]) / k.sum(k.exp(sign * x[at]), *bound)

    return element


def _slope(sign: int) -> Any:
    def jacobian(k: Any, x: Any, dim: int) -> Any:
        d = normal_dim(dim, x.rank)
        if x.rank == 0:
            return k.S.S.Zero
        tie = k.delta(k.i[d], k.j[d])
        return sign * same_but(k, d) * k.out[k.i] * (tie - k.out[k.put(k.i, d, k.j[d])])

    return jacobian


def _stable(sign: int, log: bool = False) -> Any:
    def value(exact: bool, x: Any, dim: int, *_: Any) -> Any:
        if x[0].ndim == 0:
            return x[0] * 0 + (not log), x[1] * 0
        return softmax(x, (dim,), sign=sign, log=log)

    return value


def _log_softmax(k: Any, x: Any, dim: int, _: Any) -> Any:
    at, bound = inner(k, x, dim, True)
    return x[k.i] - k.log(k.sum(k.exp(x[at]), *bound))


def _log_softmax_slope(k: Any, x: Any, dim: int, p: Any) -> Any:
    d = normal_dim(dim, x.rank)
    if x.rank == 0:
        return k.S.S.Zero
    return same_but(k, d) * (k.delta(k.i[d], k.j[d]) - p[k.put(k.i, d, k.j[d])])


register(Op(
    "softmax(Tensor input, int dim)", _FAMILY,
    shape=_same, element=_exponentials(1), jacobian=_slope(1), value=_stable(1),
    homes="torch Tensor F special",
    samples=("softmax(x[3], dim=0)", "x[2,3].softmax(-1)", "F.softmax(x[2,3,2], dim=1)"),
    spelt=("exp(input)/exp(input).sum({dim}, keepdim=True)", "exp(input)/exp(input).sum()"),
))
register(Op(
    "softmin(Tensor input, int dim)", _FAMILY, homes="F",
    shape=_same, element=_exponentials(-1), jacobian=_slope(-1), value=_stable(-1),
    samples=("F.softmin(x[3], dim=0)", "F.softmin(x[2,3], -1)"),
))
register(Op(
    "log_softmax(Tensor input, int dim, Aux p)", _FAMILY,
    aux=lambda b, x, dim: (b.helper(SOFTMAX, x, dim, label="p"),),
    shape=_same, element=_log_softmax, jacobian=_log_softmax_slope, value=_stable(1, log=True),
    homes="torch Tensor F special",
    samples=("log_softmax(x[3], dim=0)", "x[2,3].log_softmax(-1)"),
))


def _halved(shape: Shape, dim: int) -> Shape:
    d = normal_dim(dim, len(shape))
    expect(bool(shape) and not (shape[d] % 2),
           f"glu halves dimension {dim}, whose size must be even, found shape {{}}", shape,
           remedy="name a dimension of even size with dim=")
    return (*shape[:d], shape[d] // 2, *shape[d + 1 :])


def _glu(k: Any, x: Any, dim: int) -> Any:
    d = normal_dim(dim, x.rank)
    half = x.shape[d] // 2
    return x[k.i] * k.sigmoid(x[k.put(k.i, d, k.i[d] + half)])


def _glu_back(c: Any, x: Any, dim: int) -> str:
    half = f"{x}.shape[{dim}] // 2"
    gate = c.let("gate", f"{x}.narrow({dim}, {half}, {half}).sigmoid()")
    by_value = c.let("by_value", f"{c.grad} * {gate}")
    by_gate = f"{by_value} * {x}.narrow({dim}, 0, {half}) * (1 - {gate})"
    return f"torch.cat([{by_value}, {by_gate}], dim={dim})"


register(Op(
    "glu(Tensor input, int dim=-1)", _FAMILY, homes="F", shape=_halved, element=_glu,
    # backward: the derived one pads both halves to the whole and computes the gate twice.
    backward=_glu_back,
    samples=("F.glu(x[4])", "F.glu(x[2,4])", "F.glu(x[4,3], dim=0)"),
))
