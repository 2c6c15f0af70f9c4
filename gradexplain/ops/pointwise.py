"""Pointwise operations: one element of the result from one element of each input.

Broadcasting is the driver's.  ``singular`` says where there is no value or no derivative.
"""
# fmt: off

from __future__ import annotations

import math
from typing import Any

from gradexplain.errors import UnsupportedError
from gradexplain.ops.base import Coarse, Op, register

_FAMILY = "pointwise"
_SPECIAL = "torch Tensor special"

# -- arithmetic ----------------------------------------------------------------------------------

register(Op(
    "add(Tensor input, Tensor other, *, float alpha=1)", _FAMILY,
    formula="input + alpha*other", infix="{} + {}",
    samples=("add(x[2,3], y[3])", "add(x[3], y[3], alpha=2)", "x[2,1] + y[3]"),
    torch=lambda torch, a, b, alpha: a + b if alpha == 1 else torch.add(a, b, alpha=alpha),
))
register(Op(
    "sub(Tensor input, Tensor other, *, float alpha=1)", _FAMILY,
    formula="input - alpha*other", infix="{} - {}",
    aliases=("torch.subtract", "Tensor.subtract"),
    samples=("sub(x[2,3], y[3])", "2 - x[3]"),
    torch=lambda torch, a, b, alpha: a - b if alpha == 1 else torch.sub(a, b, alpha=alpha),
))
register(Op(
    "rsub(Tensor input, Tensor other, *, float alpha=1)", _FAMILY,
    formula="other - alpha*input", homes="torch",
    samples=("torch.rsub(x[2,3], y[3])", "torch.rsub(x[3], 1, alpha=2)"),
    torch=lambda torch, a, b, alpha: torch.rsub(a, b, alpha=alpha),
))
register(Op(
    "mul(Tensor input, Tensor other)", _FAMILY,
    formula="input*other", infix="{}*{}",
    aliases=("torch.multiply", "Tensor.multiply"),
    samples=("x[2,3]*y[3]", "3*x[4]", "x[2,1,2]*y[3,1]", "x[3]*x"),
    torch=lambda torch, a, b: a * b,
))
register(Op(
    "div(Tensor input, Tensor other)", _FAMILY,
    formula="input/other", infix="{}/{}", singular=("other == 0",),
    aliases=("torch.divide", "Tensor.divide", "torch.true_divide", "Tensor.true_divide"),
    samples=("x[2,3]/y[3]", "1/x[4]", "x[3]/2"),
    torch=lambda torch, a, b: a / b,
))
register(Op(
    "div(Tensor input, Tensor other, *, str? rounding_mode)", _FAMILY,
    formula="input/other if rounding_mode is None else floor(input/other) "
            "if rounding_mode == 'floor' else trunc(input/other)",
    aliases=("torch.divide", "Tensor.divide"),
    singular=("other == 0",),
    remark="a rounded quotient is constant between its jumps, its derivative is 0",
    samples=("div(x[2,3], y[3], rounding_mode='floor')", "x[3].div(2, rounding_mode='trunc')",
             "div(x[3], y[3], rounding_mode=None)"),
    torch=lambda torch, a, b, mode: torch.div(a, b, rounding_mode=mode),
))
register(Op(
    "floor_divide(Tensor input, Tensor other)", _FAMILY, stops=True,
    formula="floor(input/other)", infix="{}//{}",
    remark="its derivative is 0 wherever it exists, and PyTorch has no backward for it "
           "(div(…, rounding_mode='floor') has one, which returns 0)",
    samples=("x[3] + floor_divide(x, 2)", "x[3]*(x // 2)"),
    written=lambda c, a, b: f"torch.floor_divide({_apart(c, a)}, {_apart(c, b, True)})",
    torch=lambda torch, a, b: torch.floor_divide(_still(a), _still(b)),
))
register(Op(
    "fmod(Tensor input, Tensor other)", _FAMILY,
    formula="input - other*trunc(input/other)", singular=("input/other == trunc(input/other)",),
    kink="at a multiple of the divisor PyTorch returns the slope 1, that of either side",
    samples=("fmod(x[2,3], 2.5)", "fmod(x[2,3], y[3])"),
))
register(Op(
    "remainder(Tensor input, Tensor other)", _FAMILY, infix="{} % {}",
    formula="input - other*floor(input/other)", singular=("input/other == floor(input/other)",),
    kink="at a multiple of the divisor PyTorch returns the slope 1, that of either side",
    samples=("x[2,3] % 2.5", "remainder(x[2,3], y[3])"),
    torch=lambda torch, a, b: torch.remainder(a, b),
))
register(Op(
    "pow(Tensor input, Tensor exponent)", _FAMILY,
    formula="input**exponent", infix="{}**{}",
    singular=("input == 0 and exponent < 1",),
    kink="pow at 0: PyTorch returns exponent·0^(exponent − 1), and 0 for the exponent 0",
    samples=("x[2,3]**2", "x[3]**y[2,3]", "2**x[3]", "x[3]**-0.5", "pow(x[3], 3)"),
    torch=lambda torch, a, b: a**b,
))
register(Op(
    "float_power(Tensor input, Tensor exponent)", _FAMILY,
    formula="input**exponent", singular=("input == 0 and exponent < 1",),
    samples=("float_power(x[2,3], 2)", "x[3].float_power(y[3])", "float_power(2, x[3])"),
    torch=lambda torch, a, b: torch.float_power(a, b),
))
register(Op(
    "neg(Tensor input)", _FAMILY, formula="-input", infix="-{}",
    aliases=("torch.negative", "Tensor.negative"), samples=("-x[3]", "neg(x[2,2])"),
))
register(Op(
    "positive(Tensor input)", _FAMILY, formula="input", infix="+{}", samples=("+x[3]",),
))
register(Op(
    "square(Tensor input)", _FAMILY, formula="input**2", samples=("square(x[3])",),
))
register(Op(
    "reciprocal(Tensor input)", _FAMILY, formula="1/input", singular=("input == 0",),
    samples=("reciprocal(x[3])",),
))
register(Op(
    "sqrt(Tensor input)", _FAMILY, formula="sqrt(input)", singular=("input <= 0",),
    kink="sqrt has no finite slope at 0: PyTorch returns inf, or nan where v is 0",
    samples=("sqrt(x[3])",),
))
register(Op(
    "rsqrt(Tensor input)", _FAMILY, formula="1/sqrt(input)", singular=("input <= 0",),
    samples=("rsqrt(x[3])",),
))
register(Op(
    "abs(Tensor input)", _FAMILY, formula="abs(input)", singular=("input == 0",),
    kink="abs'(0) = 0, as PyTorch (the sign of 0)",
    aliases=("torch.absolute", "Tensor.absolute"), samples=("abs(x[4] - 5)",),
))
register(Op(
    "deg2rad(Tensor input)", _FAMILY, formula="input*pi/180", samples=("deg2rad(x[3])",),
))
register(Op(
    "rad2deg(Tensor input)", _FAMILY, formula="input*180/pi", samples=("rad2deg(x[3])",),
))
register(Op(
    "lerp(Tensor input, Tensor end, Tensor weight)", _FAMILY,
    formula="input + weight*(end - input)",
    samples=("lerp(x[2,3], y[3], 0.3)", "lerp(x[3], y[3], w[2,3])"),
    torch=lambda torch, a, b, w: torch.lerp(_like(torch, a, b), _like(torch, b, a), w),
))
register(Op(
    "addcmul(Tensor input, Tensor tensor1, Tensor tensor2, *, float value=1)", _FAMILY,
    formula="input + value*tensor1*tensor2",
    samples=("addcmul(x[2,3], a[3], b[2,1])", "addcmul(x[3], a[3], b[3], value=0.5)"),
))
register(Op(
    "addcdiv(Tensor input, Tensor tensor1, Tensor tensor2, *, float value=1)", _FAMILY,
    formula="input + value*tensor1/tensor2", singular=("tensor2 == 0",),
    samples=("addcdiv(x[2,3], a[3], b[2,1])", "addcdiv(x[3], a[3], b[3], value=0.5)"),
))
register(Op(
    "hypot(Tensor input, Tensor other)", _FAMILY, formula="sqrt(input**2 + other**2)",
    singular=("input == 0 and other == 0",),
    kink="hypot has no derivative at (0, 0): PyTorch returns 0/0 = nan",
    samples=("hypot(x[2,3], y[3])",),
))
register(Op(
    "ldexp(Tensor input, Tensor other)", _FAMILY, formula="input*2**other",
    samples=("ldexp(x[2,3], y[3])",),
))

# -- exponentials and logarithms -----------------------------------------------------------------

register(Op(
    "exp(Tensor input)", _FAMILY, formula="exp(input)", samples=("exp(x[3])",),
))
register(Op(
    "exp2(Tensor input)", _FAMILY, formula="exp2(input)", homes=_SPECIAL, samples=("exp2(x[3])",),
))
register(Op(
    "expm1(Tensor input)", _FAMILY, formula="expm1(input)", homes=_SPECIAL, named=True,
    derivatives={"input": "y + 1"},
    samples=("expm1(x[3])",),
))
register(Op(
    "log(Tensor input)", _FAMILY, formula="log(input)", singular=("input <= 0",),
    samples=("log(x[3])",),
))
register(Op(
    "log2(Tensor input)", _FAMILY, formula="log2(input)", singular=("input <= 0",),
    samples=("log2(x[3])",),
))
register(Op(
    "log10(Tensor input)", _FAMILY, formula="log10(input)", singular=("input <= 0",),
    samples=("log10(x[3])",),
))
register(Op(
    "log1p(Tensor input)", _FAMILY, formula="log1p(input)", singular=("input <= -1",),
    homes=_SPECIAL, samples=("log1p(x[3])",),
))
register(Op(
    "logaddexp(Tensor input, Tensor other)", _FAMILY, named=True,
    formula="max(input, other) + log1p(exp(-abs(input - other)))",
    derivatives={"input": "exp(input - y)", "other": "exp(other - y)"},
    samples=("logaddexp(x[2,3], y[3])",),
))
register(Op(
    "logaddexp2(Tensor input, Tensor other)", _FAMILY, named=True,
    formula="max(input, other) + log1p(exp2(-abs(input - other)))/log(2)",
    derivatives={"input": "exp2(input - y)", "other": "exp2(other - y)"},
    samples=("logaddexp2(x[2,3], y[3])",),
))
register(Op(
    # The upper bound is 1 - eps as floats subtract: 0.9 itself is within it.
    "logit(Tensor input, float? eps=None, Aux top)", _FAMILY, homes=_SPECIAL,
    aux=lambda b, x, eps: (None if eps is None else 1.0 - eps,),
    formula="log(input/(1 - input)) if eps is None else log(eps/(1 - eps)) if input < eps else "
            "log(top/(1 - top)) if input > top else log(input/(1 - input))",
    singular=("input <= 0 or input >= 1",),
    samples=("logit(x[3]/4)", "logit(x[5]/6, eps=0.3)"),
))
register(Op(
    "xlogy(Tensor input, Tensor other)", _FAMILY, homes=_SPECIAL, named=True,
    formula="0 if input == 0 else input*log(other)",
    derivatives={"input": "0 if input == 0 and other <= 0 else log(other)",
                 "other": "input/other"},
    singular=("other <= 0",),
    kink="0·log(0) counts as 0, and so does its slope in the first argument, as in PyTorch",
    samples=("xlogy(x[2,3], y[3])", "xlogy(2, x[3])"),
    torch=lambda torch, a, b: torch.xlogy(a, b),
))
register(Op(
    "xlog1py(Tensor input, Tensor other)", _FAMILY, homes="special", named=True,
    formula="0 if input == 0 else input*log1p(other)",
    derivatives={"input": "0 if input == 0 and other <= -1 else log1p(other)",
                 "other": "input/(1 + other)"},
    singular=("other <= -1",), samples=("torch.special.xlog1py(x[2,3], y[3])",),
))
register(Op(
    "entr(Tensor input)", _FAMILY, homes="special", named=True,
    formula="0 if input == 0 else -input*log(input)", derivatives={"input": "-log(input) - 1"},
    singular=("input <= 0",), samples=("torch.special.entr(x[3])",),
))

# -- trigonometry --------------------------------------------------------------------------------

register(Op("sin(Tensor input)", _FAMILY, formula="sin(input)", samples=("sin(x[3])",)))
register(Op("cos(Tensor input)", _FAMILY, formula="cos(input)", samples=("cos(x[3])",)))
register(Op(
    "tan(Tensor input)", _FAMILY, formula="tan(input)", samples=("tan(x[3])",),
))
register(Op(
    "asin(Tensor input)", _FAMILY, formula="asin(input)", aliases=("torch.arcsin", "Tensor.arcsin"),
    singular=("abs(input) >= 1",), samples=("asin(x[3]/4)", "arcsin(x[2]/3)"),
))
register(Op(
    "acos(Tensor input)", _FAMILY, formula="acos(input)", aliases=("torch.arccos", "Tensor.arccos"),
    singular=("abs(input) >= 1",), samples=("acos(x[3]/4)",),
))
register(Op(
    "atan(Tensor input)", _FAMILY, formula="atan(input)", aliases=("torch.arctan", "Tensor.arctan"),
    samples=("atan(x[3])",),
))
register(Op(
    "atan2(Tensor input, Tensor other)", _FAMILY, formula="atan2(input, other)", named=True,
    derivatives={"input": "other/nonzero(input**2 + other**2)",
                 "other": "-input/nonzero(input**2 + other**2)"},
    aliases=("torch.arctan2", "Tensor.arctan2"), singular=("input == 0 and other == 0",),
    kink="atan2 has no derivative at (0, 0): PyTorch returns 0",
    samples=("atan2(x[2,3], y[3])", "atan2(-x[3], 2 - x)"),
))
register(Op("sinh(Tensor input)", _FAMILY, formula="sinh(input)", samples=("sinh(x[3])",)))
register(Op("cosh(Tensor input)", _FAMILY, formula="cosh(input)", samples=("cosh(x[3])",)))
register(Op(
    "tanh(Tensor input)", _FAMILY, formula="tanh(input)", homes="torch Tensor F",
    samples=("tanh(x[3])",),
    spelt=("(exp(input) - exp(-input))/(exp(input) + exp(-input))",
           "(exp(2*input) - 1)/(exp(2*input) + 1)"),
))
register(Op(
    "asinh(Tensor input)", _FAMILY, formula="asinh(input)",
    aliases=("torch.arcsinh", "Tensor.arcsinh"), samples=("asinh(x[3])",),
))
register(Op(
    "acosh(Tensor input)", _FAMILY, formula="acosh(input)", singular=("input <= 1",),
    aliases=("torch.arccosh", "Tensor.arccosh"), samples=("acosh(1 + x[3])",),
))
register(Op(
    "atanh(Tensor input)", _FAMILY, formula="atanh(input)", singular=("abs(input) >= 1",),
    aliases=("torch.arctanh", "Tensor.arctanh"), samples=("atanh(x[3]/4)",),
))
register(Op(
    "sinc(Tensor input)", _FAMILY, formula="sinc(input)", homes=_SPECIAL,
    coarse=(Coarse(0.0, "PyTorch takes the difference of cos(πx)/x and sin(πx)/(πx²), which are nearly equal near 0",
                   # Both are 1/|x| at most; a rounding of πx moves their difference by π of it.
                   terms=lambda g, x: abs(g) * (2 / abs(x) + 3.2)),),
    samples=("sinc(x[3]/4)",),
))

# -- special functions ---------------------------------------------------------------------------

register(Op(
    "erf(Tensor input)", _FAMILY, formula="erf(input)", homes=_SPECIAL, samples=("erf(x[3])",),
))
register(Op(
    "erfc(Tensor input)", _FAMILY, formula="erfc(input)", homes=_SPECIAL, samples=("erfc(x[3])",),
))
register(Op(
    "erfinv(Tensor input)", _FAMILY, formula="erfinv(input)", homes=_SPECIAL,
    singular=("abs(input) >= 1",), samples=("erfinv(x[3]/4)",),
))
_TRIGAMMA = "PyTorch sums trigamma as a short series, which gives about nine digits in float64 too"

register(Op(
    "lgamma(Tensor input)", _FAMILY, formula="lgamma(input)", coarse=(Coarse(1e-9, _TRIGAMMA, 2),),
    aliases=("special.gammaln",), singular=("input <= 0 and input == floor(input)",),
    samples=("lgamma(x[3])", "lgamma(x[3] - 3.5)"),
))
register(Op(
    "digamma(Tensor input)", _FAMILY, formula="polygamma(0, input)",
    aliases=("special.digamma", "special.psi"),
    singular=("input <= 0 and input == floor(input)",), coarse=(Coarse(1e-9, _TRIGAMMA),),
    samples=("digamma(x[3])", "digamma(x[3] - 3.5)"),
))
register(Op(
    "polygamma(int n, Tensor input)", _FAMILY, formula="polygamma(n, input)",
    homes="torch special", singular=("input <= 0 and input == floor(input)",),
    samples=("polygamma(1, x[3])", "polygamma(2, x[3])"),
    torch=lambda torch, n, x: torch.polygamma(n, x),
))
register(Op(
    "polygamma(Tensor input, int n)", _FAMILY, homes="Tensor",
    expand=lambda b, x, n: b.call("polygamma", n, x), samples=("x[3].polygamma(1)",),
))
register(Op(
    "ndtr(Tensor input)", _FAMILY, formula="(1 + erf(input/sqrt(2)))/2", homes="special",
    named=True, derivatives={"input": "exp(-input**2/2)/sqrt(2*pi)"},
    samples=("torch.special.ndtr(x[3] - 2)",),
))

# -- steps: the derivative is 0 wherever it exists -----------------------------------------------

_FLAT = "it is constant between its jumps, so its derivative is 0 and no gradient gets past it"

register(Op(
    "sign(Tensor input)", _FAMILY, formula="sign(input)", remark=_FLAT,
    samples=("sign(x[3] - 2)", "x[3]*sign(x - 1.5)"),
))
register(Op(
    "sgn(Tensor input)", _FAMILY, formula="sign(input)", remark=_FLAT,
    samples=("x[3]*sgn(x - 1.5)",),
))
register(Op(
    "floor(Tensor input)", _FAMILY, formula="floor(input)", remark=_FLAT,
    samples=("floor(x[3]/2)", "x[3] - floor(x/2)"),
))
register(Op(
    "ceil(Tensor input)", _FAMILY, formula="ceil(input)", remark=_FLAT,
    samples=("ceil(x[3]/2)", "x[3]*ceil(x/2)"),
))
register(Op(
    "round(Tensor input, *, int decimals=0)", _FAMILY, remark=_FLAT,
    formula="round(input*10**decimals)/10**decimals",
    samples=("round(x[3]/2)", "x[3]*round(x/3, decimals=1)"),
))
register(Op(
    "trunc(Tensor input)", _FAMILY, formula="trunc(input)", remark=_FLAT,
    aliases=("torch.fix", "Tensor.fix"), samples=("trunc(x[3]/2 - 1)", "x[3]*fix(x/2)"),
))
register(Op(
    "frac(Tensor input)", _FAMILY, formula="input - trunc(input)",
    singular=("input == trunc(input)",),
    kink="at an integer PyTorch returns the slope 1, that of either side",
    samples=("frac(x[3]/2.5)",),
))
register(Op(
    "heaviside(Tensor input, Tensor values)", _FAMILY, stops=True,
    formula="0 if input < 0 else values if input == 0 else 1",
    remark="PyTorch has no backward for heaviside; its derivative is 0 wherever it exists",
    samples=("x[3]*heaviside(x - 2, 0.5)",),
    written=lambda c, a, b: f"torch.heaviside({_apart(c, a)}, {_apart(c, b)})",
    torch=lambda torch, a, b: torch.heaviside(_still(a), _like(torch, _still(b), a)),
))
register(Op(
    "detach(Tensor input)", _FAMILY, formula="input", stops=True,
    remark="detach takes the value out of the graph, so backward stops here and treats it as a "
           "constant",
    samples=("x[3]*x.detach()", "x[3]/x.sum().detach()"),
    torch=lambda torch, x: _still(x),
))


def _apart(c: Any, x: Any, number: bool = False) -> str:
    """A tensor in code without its history: PyTorch has no derivative of what it goes into."""
    if any(map(str.isalpha, x)):
        return f"{x}.detach()"
    return str(x) if number else f"{c.like}.new_tensor({x})"


def _still(x: object) -> object:
    return x.detach() if hasattr(x, "detach") else x


def _like(torch: object, x: object, other: object) -> object:
    """A number beside a tensor as a tensor of its dtype."""
    return x if hasattr(x, "detach") else torch.as_tensor(x, dtype=other.dtype)  # type: ignore[attr-defined]


# -- bounds, choices and comparisons -------------------------------------------------------------

_CLAMPED = "at a bound itself clamp passes the gradient on (slope 1), as PyTorch"

register(Op(
    "clamp(Tensor input, Tensor? min=None, Tensor? max=None)", _FAMILY, named=True,
    formula="(max if input > max else input) if min is None else "
            "(min if input < min else input) if max is None else "
            "max if input > max or min > max else min if input < min else input",
    singular=("input == min if min is not None else input == max",
              "input == max if max is not None else input == min"),
    kink=_CLAMPED, aliases=("torch.clip", "Tensor.clip"),
    samples=("clamp(x[2,3], 2, 5)", "x[3].clamp(min=1.5)", "clip(x[3], max=2.5)",
             "clamp(x[2,3], a[3]/3, b[3]/3)", "torch.clamp(x[3], min=y[3])",
             "clamp(x[3], max=y[3])", "clamp(x[4], 2, 3)"),
    torch=lambda torch, x, low, high: torch.clamp(x, **_bounds(torch, x, low, high)),
))
register(Op(
    "clamp_min(Tensor input, Tensor min)", _FAMILY, named=True,
    formula="min if input < min else input", singular=("input == min",), kink=_CLAMPED,
    samples=("x[3].clamp_min(1.5)", "clamp_min(x[2,3], y[3]/3)"),
    torch=lambda torch, x, low: torch.clamp_min(x, low),
))
register(Op(
    "clamp_max(Tensor input, Tensor max)", _FAMILY, named=True,
    formula="max if input > max else input", singular=("input == max",), kink=_CLAMPED,
    samples=("x[3].clamp_max(2.5)", "clamp_max(x[2,3], y[3]/3)"),
    torch=lambda torch, x, high: torch.clamp_max(x, high),
))


def _bounds(torch: object, x: object, low: object, high: object) -> dict[str, object]:
    """``clamp`` takes two numbers or two tensors."""
    given = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
    if any(hasattr(bound, "detach") for bound in given.values()):
        return {name: _like(torch, bound, x) for name, bound in given.items()}
    return given


register(Op(
    "maximum(Tensor input, Tensor other)", _FAMILY, named=True,
    formula="input if input > other else other",
    derivatives={
        "input": "(1 if input > other else 0) + (1 if input == other else 0)/2",
        "other": "(1 if input < other else 0) + (1 if input == other else 0)/2",
    },
    singular=("input == other",), kink="at a tie each of the two gets half, as in PyTorch",
    samples=("maximum(x[2,3], y[3]/2)", "maximum(x[3], 2)"),
))
register(Op(
    "minimum(Tensor input, Tensor other)", _FAMILY, named=True,
    formula="input if input < other else other",
    derivatives={
        "input": "(1 if input < other else 0) + (1 if input == other else 0)/2",
        "other": "(1 if input > other else 0) + (1 if input == other else 0)/2",
    },
    singular=("input == other",), kink="at a tie each of the two gets half, as in PyTorch",
    samples=("minimum(x[2,3], y[3]/2)", "minimum(x[3], 2)"),
))
register(Op(
    "fmax(Tensor input, Tensor other)", _FAMILY, named=True,
    formula="input if input >= other else other",
    singular=("input == other",), kink="at a tie fmax gives all to its first argument, as PyTorch",
    samples=("fmax(x[2,3], y[3]/2)",),
))
register(Op(
    "fmin(Tensor input, Tensor other)", _FAMILY, named=True,
    formula="input if input <= other else other",
    singular=("input == other",), kink="at a tie fmin gives all to its first argument, as PyTorch",
    samples=("fmin(x[2,3], y[3]/2)",),
))
register(Op(
    "copysign(Tensor input, Tensor other)", _FAMILY, named=True,
    formula="abs(input) if other >= 0 else -abs(input)",
    derivatives={"input": "sign(input) if other >= 0 else -sign(input)", "other": "0"},
    singular=("input == 0",), kink="copysign has the slope 0 at 0, as abs",
    samples=("copysign(x[2,3], y[3] - 8)", "copysign(x[3], -1)"),
    torch=lambda torch, a, b: torch.copysign(a, b),
))
register(Op(
    "nan_to_num(Tensor input, float nan=0, float? posinf=None, float? neginf=None)", _FAMILY,
    named=True,
    formula="replaced(input, nan, 1.7976931348623157e308 if posinf is None else posinf, "
            "-1.7976931348623157e308 if neginf is None else neginf)",
    derivatives={"input": "isfinite(input)"},
    samples=("nan_to_num(x[3])", "nan_to_num(x[3], nan=1.5)"),
))
register(Op(
    "where(IntTensor condition, Tensor input, Tensor other)", _FAMILY,
    formula="input if condition else other", homes="torch",
    samples=("where(x[2,3] > 2, x**2, 3*x)", "where(x[3] >= y[3], x, y)",
             "torch.where(x[3] < 2, x, 0)"),
    torch=lambda torch, c, a, b: torch.where(c.bool(), a, b),
))
register(Op(
    "where(Tensor input, IntTensor condition, Tensor other)", _FAMILY, homes="Tensor",
    formula="input if condition else other", samples=("x[2,3].where(x > 2, 0)",),
    torch=lambda torch, a, c, b: a.where(c.bool(), b),
))
register(Op(
    "masked_fill(Tensor input, IntTensor mask, Tensor value)", _FAMILY,
    formula="value if mask else input",
    samples=("x[2,3].masked_fill(x > 2, 0)", "masked_fill(x[3], y[3] > 5, 2.5)"),
    torch=lambda torch, x, mask, value: x.masked_fill(mask.bool(), value),
))

_TRUTH = "a comparison is true or false: it has no derivative and no gradient gets past it"

for _name, _sign, _long in (
    ("lt", "<", "less"), ("le", "<=", "less_equal"), ("gt", ">", "greater"),
    ("ge", ">=", "greater_equal"), ("eq", "==", ""), ("ne", "!=", "not_equal"),
):
    register(Op(
        f"{_name}(Tensor input, Tensor other)", "comparison", integer=True,
        infix=f"{{}} {_sign} {{}}",
        formula=f"1 if input {_sign} other else 0", remark=_TRUTH,
        aliases=(f"torch.{_long}", f"Tensor.{_long}") if _long else (),
        samples=(f"where(x[3] {_sign} 2, x, 5)", f"x[3]*{_name}(x, y[3]/2)"),
        torch=lambda torch, a, b, name=_name: getattr(torch, name)(a, b),
    ))
register(Op(
    "logical_not(Tensor input)", "comparison", integer=True, formula="0 if input else 1",
    samples=("where(logical_not(x[3] > 2), x, 5)",),
))
register(Op(
    "logical_and(Tensor input, Tensor other)", "comparison", integer=True,
    formula="1 if input and other else 0",
    samples=("where(logical_and(x[4] > 1, x < 4), x, 5)",),
))
register(Op(
    "logical_or(Tensor input, Tensor other)", "comparison", integer=True,
    formula="1 if input or other else 0",
    samples=("where(logical_or(x[4] < 2, x > 3), x, 5)",),
))
def _joined(name: str, sign: str) -> Any:
    """``&`` and ``|`` of conditions; of integers they would be something else."""

    def expand(b: Any, x: Any, other: Any) -> Any:
        import numpy as np

        for side in (x, other):
            node = b.node(side)
            given = node.value is not None and np.isin(node.value, (0, 1)).all()
            if not given and (node.op is None or node.op.family != "comparison"):
                raise UnsupportedError(
                    f"`{sign}` joins conditions here, and {node.label} is none",
                    remedy=f"write them in parentheses, as in `(a > 0) {sign} (b > 0)`",
                )
        return b.call(name, x, other)

    return expand


for _name, _sign, _of in (("and", "&", "(x[4] > 1) & (x < 4)"), ("or", "|", "(x[4] < 2) | (x > 3)")):
    register(Op(
        f"bitwise_{_name}(Tensor input, Tensor other)", "comparison",
        expand=_joined(f"logical_{_name}", _sign), samples=(f"where({_of}, x, 5)",),
    ))
register(Op(
    "logical_xor(Tensor input, Tensor other)", "comparison", integer=True,
    formula="1 if (input and not other) or (other and not input) else 0",
    samples=("where(logical_xor(x[4] < 2, x < 3), x, 5)",),
))
register(Op(
    "isfinite(Tensor input)", "comparison", integer=True, formula="isfinite(input)", remark=_TRUTH,
    samples=("where(isfinite(x[3]), x, 5)",), homes="torch",
))


def _without_nan(b: Any, x: Any) -> Any:
    """Whether ``x`` is finite once nan is 0."""
    return b.call("isfinite", b.call("nan_to_num", x, posinf=math.inf, neginf=-math.inf))


register(Op(
    "isinf(Tensor input)", "comparison", homes="torch",
    expand=lambda b, x: b.call("logical_not", _without_nan(b, x)),
    samples=("where(isinf(x[3]), 5, x)",),
))
register(Op(
    "isnan(Tensor input)", "comparison", homes="torch",
    expand=lambda b, x: b.call("logical_and", b.call("logical_not", b.call("isfinite", x)), _without_nan(b, x)),
    samples=("where(isnan(x[3]), 5, x)",),
))
