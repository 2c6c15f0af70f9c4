"""Pointwise operations: one element of the result from one element of each input.

Broadcasting is the driver's.  ``singular`` says where there is no value or no derivative.
"""
# fmt: off

from __future__ import annotations

import math
import operator
from functools import partial
from typing import Any

import numpy as np

from gradexplain.errors import UnsupportedError
from gradexplain.ops.base import Coarse, Op, pointwise, register

_FAMILY = "pointwise"
_SPECIAL = "torch Tensor special"

# -- arithmetic ----------------------------------------------------------------------------------

pointwise("add(Tensor input, Tensor other, *, float alpha=1)", "input + alpha*other", "add(x[2,3], y[3])",
    "add(x[3], y[3], alpha=2)", "x[2,1] + y[3]", infix="{} + {}",
    torch=lambda torch, a, b, alpha: a + b if alpha == 1 else torch.add(a, b, alpha=alpha))
pointwise("sub(Tensor input, Tensor other, *, float alpha=1)", "input - alpha*other", "sub(x[2,3], y[3])", "2 - x[3]",
    also="subtract", infix="{} - {}",
    torch=lambda torch, a, b, alpha: a - b if alpha == 1 else torch.sub(a, b, alpha=alpha))
pointwise("rsub(Tensor input, Tensor other, *, float alpha=1)", "other - alpha*input", "torch.rsub(x[2,3], y[3])",
    "torch.rsub(x[3], 1, alpha=2)", homes="torch", torch=lambda torch, a, b, alpha: torch.rsub(a, b, alpha=alpha))
pointwise("mul(Tensor input, Tensor other)", "input*other", "x[2,3]*y[3]", "3*x[4]", "x[2,1,2]*y[3,1]", "x[3]*x",
    also="multiply", infix="{}*{}", torch=lambda torch, a, b: a * b)
pointwise("div(Tensor input, Tensor other)", "input/other", "x[2,3]/y[3]", "1/x[4]", "x[3]/2", singular="other == 0",
    infix="{}/{}", aliases=("torch.divide", "Tensor.divide", "torch.true_divide", "Tensor.true_divide"),
    torch=lambda torch, a, b: a / b)
pointwise("div(Tensor input, Tensor other, *, str? rounding_mode)",
    "input/other if rounding_mode is None else floor(input/other) if rounding_mode == 'floor' else trunc(input/other)",
    "div(x[2,3], y[3], rounding_mode='floor')", "x[3].div(2, rounding_mode='trunc')",
    "div(x[3], y[3], rounding_mode=None)", singular="other == 0", also="divide",
    remark="a rounded quotient is constant between its jumps, its derivative is 0",
    torch=lambda torch, a, b, mode: torch.div(a, b, rounding_mode=mode))
register(Op(
    "floor_divide(Tensor input, Tensor other)", _FAMILY, stops=True,
    formula="floor(input/other)", infix="{}//{}",
    remark="its derivative is 0 wherever it exists, and PyTorch has no backward for it "
           "(div(…, rounding_mode='floor') has one, which returns 0)",
    samples=("x[3] + floor_divide(x, 2)", "x[3]*(x // 2)"),
    written=lambda c, a, b: f"torch.floor_divide({_apart(c, a)}, {_apart(c, b, True)})",
    torch=lambda torch, a, b: torch.floor_divide(_still(a), _still(b)),
))
pointwise("fmod(Tensor input, Tensor other)", "input - other*trunc(input/other)", "fmod(x[2,3], 2.5)",
    "fmod(x[2,3], y[3])", singular="input/other == trunc(input/other)",
    kink="at a multiple of the divisor PyTorch returns the slope 1, that of either side")
pointwise("remainder(Tensor input, Tensor other)", "input - other*floor(input/other)", "x[2,3] % 2.5",
    "remainder(x[2,3], y[3])", singular="input/other == floor(input/other)", infix="{} % {}",
    kink="at a multiple of the divisor PyTorch returns the slope 1, that of either side",
    torch=lambda torch, a, b: torch.remainder(a, b))
pointwise("pow(Tensor input, Tensor exponent)", "input**exponent", "x[2,3]**2", "x[3]**y[2,3]", "2**x[3]",
    "x[3]**-0.5", "pow(x[3], 3)", singular="input == 0 and exponent < 1", infix="{}**{}",
    kink="pow at 0: PyTorch returns exponent·0^(exponent − 1), and 0 for the exponent 0",
    torch=lambda torch, a, b: a**b)
pointwise("float_power(Tensor input, Tensor exponent)", "input**exponent", "float_power(x[2,3], 2)",
    "x[3].float_power(y[3])", "float_power(2, x[3])", singular="input == 0 and exponent < 1",
    torch=lambda torch, a, b: torch.float_power(a, b))
pointwise("neg", "-input", "-x[3]", "neg(x[2,2])", also="negative", infix="-{}")
pointwise("positive", "input", "+x[3]", infix="+{}")
pointwise("type_as(Tensor input, Tensor other)", "input", "x[3]*(x > 2).type_as(x)", homes="Tensor",
    infix="float({})", written=lambda c, a, b: f"{a}.type_as({b if b.isidentifier() else c.like})")
pointwise("square", "input**2")
pointwise("reciprocal", "1/input", singular="input == 0")
pointwise("sqrt", singular="input <= 0",
    kink="sqrt has no finite slope at 0: PyTorch returns inf, or nan where v is 0")
pointwise("rsqrt", "1/sqrt(input)", singular="input <= 0")
pointwise("abs", "", "abs(x[4] - 5)", singular="input == 0", also="absolute",
    kink="abs'(0) = 0, as PyTorch (the sign of 0)")
pointwise("deg2rad", "input*pi/180")
pointwise("rad2deg", "input*180/pi")
pointwise("lerp(Tensor input, Tensor end, Tensor weight)", "input + weight*(end - input)", "lerp(x[2,3], y[3], 0.3)",
    "lerp(x[3], y[3], w[2,3])", torch=lambda torch, a, b, w: torch.lerp(_like(torch, a, b), _like(torch, b, a), w))
pointwise("addcmul(Tensor input, Tensor tensor1, Tensor tensor2, *, float value=1)", "input + value*tensor1*tensor2",
    "addcmul(x[2,3], a[3], b[2,1])", "addcmul(x[3], a[3], b[3], value=0.5)")
pointwise("addcdiv(Tensor input, Tensor tensor1, Tensor tensor2, *, float value=1)", "input + value*tensor1/tensor2",
    "addcdiv(x[2,3], a[3], b[2,1])", "addcdiv(x[3], a[3], b[3], value=0.5)", singular="tensor2 == 0")
pointwise("hypot(Tensor input, Tensor other)", "sqrt(input**2 + other**2)", "hypot(x[2,3], y[3])",
    singular="input == 0 and other == 0", kink="hypot has no derivative at (0, 0): PyTorch returns 0/0 = nan")
pointwise("ldexp(Tensor input, Tensor other)", "input*2**other", "ldexp(x[2,3], y[3])")

# -- exponentials and logarithms -----------------------------------------------------------------

pointwise("exp")
pointwise("exp2", homes=_SPECIAL)
pointwise("expm1", homes=_SPECIAL, named=True, derivatives={"input": "y + 1"})
pointwise("log", singular="input <= 0")
pointwise("log2", singular="input <= 0")
pointwise("log10", singular="input <= 0")
pointwise("log1p", singular="input <= -1", homes=_SPECIAL)
pointwise("logaddexp(Tensor input, Tensor other)", "max(input, other) + log1p(exp(-abs(input - other)))",
    "logaddexp(x[2,3], y[3])", named=True, derivatives={"input": "exp(input - y)", "other": "exp(other - y)"})
pointwise("logaddexp2(Tensor input, Tensor other)", "max(input, other) + log1p(exp2(-abs(input - other)))/log(2)",
    "logaddexp2(x[2,3], y[3])", named=True, derivatives={"input": "exp2(input - y)", "other": "exp2(other - y)"})
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
pointwise("entr", "0 if input == 0 else -input*log(input)", "torch.special.entr(x[3])", singular="input <= 0",
    homes="special", named=True, derivatives={"input": "-log(input) - 1"})

# -- trigonometry --------------------------------------------------------------------------------

pointwise("sin")
pointwise("cos")
pointwise("tan")
pointwise("asin", "", "asin(x[3]/4)", "arcsin(x[2]/3)", singular="abs(input) >= 1", also="arcsin")
pointwise("acos", "", "acos(x[3]/4)", singular="abs(input) >= 1", also="arccos")
pointwise("atan", also="arctan")
register(Op(
    "atan2(Tensor input, Tensor other)", _FAMILY, formula="atan2(input, other)", named=True,
    derivatives={"input": "other/nonzero(input**2 + other**2)",
                 "other": "-input/nonzero(input**2 + other**2)"},
    aliases=("torch.arctan2", "Tensor.arctan2"), singular=("input == 0 and other == 0",),
    kink="atan2 has no derivative at (0, 0): PyTorch returns 0",
    samples=("atan2(x[2,3], y[3])", "atan2(-x[3], 2 - x)"),
))
pointwise("sinh")
pointwise("cosh")
register(Op(
    "tanh(Tensor input)", _FAMILY, formula="tanh(input)", homes="torch Tensor F",
    samples=("tanh(x[3])",),
    spelt=("(exp(input) - exp(-input))/(exp(input) + exp(-input))",
           "(exp(2*input) - 1)/(exp(2*input) + 1)"),
))
pointwise("asinh", also="arcsinh")
pointwise("acosh", "", "acosh(1 + x[3])", singular="input <= 1", also="arccosh")
pointwise("atanh", "", "atanh(x[3]/4)", singular="abs(input) >= 1", also="arctanh")
register(Op(
    "sinc(Tensor input)", _FAMILY, formula="sinc(input)", homes=_SPECIAL,
    coarse=(Coarse(0.0, "PyTorch takes the difference of cos(πx)/x and sin(πx)/(πx²), which are nearly equal near 0",
                   # Both are 1/|x| at most; a rounding of πx moves their difference by π of it.
                   terms=lambda g, _, x: abs(g) * (2 / abs(x) + 3.2)),),
    samples=("sinc(x[3]/4)",),
))

# -- special functions ---------------------------------------------------------------------------

pointwise("erf", homes=_SPECIAL)
pointwise("erfc", homes=_SPECIAL)
pointwise("erfinv", "", "erfinv(x[3]/4)", singular="abs(input) >= 1", homes=_SPECIAL)
_TRIGAMMA = "PyTorch sums trigamma as a short series, which gives about nine digits in float64 too"

pointwise("lgamma", "", "lgamma(x[3])", "lgamma(x[3] - 3.5)", singular="input <= 0 and input == floor(input)",
    coarse=(Coarse(1e-9, _TRIGAMMA, 2),), aliases=("special.gammaln",))
pointwise("digamma", "polygamma(0, input)", "digamma(x[3])", "digamma(x[3] - 3.5)",
    singular="input <= 0 and input == floor(input)", aliases=("special.digamma", "special.psi"),
    coarse=(Coarse(1e-9, _TRIGAMMA),))
pointwise("polygamma(int n, Tensor input)", "polygamma(n, input)", "polygamma(1, x[3])", "polygamma(2, x[3])",
    singular="input <= 0 and input == floor(input)", homes="torch special",
    torch=lambda torch, n, x: torch.polygamma(n, x))
register(Op(
    "polygamma(Tensor input, int n)", _FAMILY, homes="Tensor",
    expand=lambda b, x, n: b.call("polygamma", n, x), samples=("x[3].polygamma(1)",),
))
pointwise("ndtr", "(1 + erf(input/sqrt(2)))/2", "torch.special.ndtr(x[3] - 2)", homes="special", named=True,
    derivatives={"input": "exp(-input**2/2)/sqrt(2*pi)"})
pointwise("log_ndtr", "log((1 + erf(input/sqrt(2)))/2)", "torch.special.log_ndtr(x[3] - 2)", homes="special", named=True,
    derivatives={"input": "exp(-input**2/2 - y)/sqrt(2*pi)"})
pointwise("ndtri", "sqrt(2)*erfinv(2*input - 1)", "torch.special.ndtri(x[3]/4)", homes="special", named=True,
    singular="abs(2*input - 1) >= 1", derivatives={"input": "sqrt(2*pi)*exp(y**2/2)"})

pointwise("erfcx", "exp(input**2)*erfc(input)", "torch.special.erfcx(x[3])", homes="special", named=True,
    derivatives={"input": "2*input*y - 2/sqrt(pi)"})

# -- steps: the derivative is 0 wherever it exists -----------------------------------------------

_FLAT = "it is constant between its jumps, so its derivative is 0 and no gradient gets past it"

pointwise("sign", "", "sign(x[3] - 2)", "x[3]*sign(x - 1.5)", remark=_FLAT)
pointwise("sgn", "sign(input)", "x[3]*sgn(x - 1.5)", remark=_FLAT)
pointwise("floor", "", "floor(x[3]/2)", "x[3] - floor(x/2)", remark=_FLAT)
pointwise("ceil", "", "ceil(x[3]/2)", "x[3]*ceil(x/2)", remark=_FLAT)
pointwise("round(Tensor input, *, int decimals=0)", "round(input*10**decimals)/10**decimals", "round(x[3]/2)",
    "x[3]*round(x/3, decimals=1)", remark=_FLAT)
pointwise("trunc", "", "trunc(x[3]/2 - 1)", "x[3]*fix(x/2)", also="fix", remark=_FLAT)
pointwise("frac", "input - trunc(input)", "frac(x[3]/2.5)", singular="input == trunc(input)",
    kink="at an integer PyTorch returns the slope 1, that of either side")
pointwise("heaviside(Tensor input, Tensor values)", "0 if input < 0 else values if input == 0 else 1",
    "x[3]*heaviside(x - 2, 0.5)", stops=True,
    remark="PyTorch has no backward for heaviside; its derivative is 0 wherever it exists",
    written=lambda c, a, b: f"torch.heaviside({_apart(c, a)}, {_apart(c, b)})",
    torch=lambda torch, a, b: torch.heaviside(_still(a), _like(torch, _still(b), a)))
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
              "input == max if max is not None else input == min",
              # PyTorch gives neither bound a gradient where both are the same.
              "input == max if min is None else input == min if max is None else min == max"),
    kink=_CLAMPED, aliases=("torch.clip", "Tensor.clip"),
    samples=("clamp(x[2,3], 2, 5)", "x[3].clamp(min=1.5)", "clip(x[3], max=2.5)",
             "clamp(x[2,3], a[3]/3, b[3]/3)", "torch.clamp(x[3], min=y[3])",
             "clamp(x[3], max=y[3])", "clamp(x[4], 2, 3)"),
    torch=lambda torch, x, low, high: torch.clamp(x, **_bounds(torch, x, low, high)),
))
for _name, _sign, _at in (("min", "<", 1.5), ("max", ">", 2.5)):
    pointwise(f"clamp_{_name}(Tensor input, Tensor {_name})", f"{_name} if input {_sign} {_name} else input",
        f"x[3].clamp_{_name}({_at})", f"clamp_{_name}(x[2,3], y[3]/3)", singular=f"input == {_name}", named=True,
        kink=_CLAMPED, torch=lambda torch, x, bound, name=_name: getattr(torch, f"clamp_{name}")(x, bound))


def _bounds(torch: object, x: object, low: object, high: object) -> dict[str, object]:
    """``clamp`` takes two numbers or two tensors."""
    given = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
    if any(hasattr(bound, "detach") for bound in given.values()):
        return {name: _like(torch, bound, x) for name, bound in given.items()}
    return given


for _name, _sign, _other in (("maximum", ">", "<"), ("minimum", "<", ">")):
    pointwise(f"{_name}(Tensor input, Tensor other)", f"input if input {_sign} other else other",
        f"{_name}(x[2,3], y[3]/2)", f"{_name}(x[3], 2)", singular="input == other", named=True,
        derivatives={which: f"(1 if input {sign} other else 0) + (1 if input == other else 0)/2"
                     for which, sign in (("input", _sign), ("other", _other))},
        kink="at a tie each of the two gets half, as in PyTorch")
for _name, _sign in (("fmax", ">="), ("fmin", "<=")):
    pointwise(f"{_name}(Tensor input, Tensor other)", f"input if input {_sign} other else other",
        f"{_name}(x[2,3], y[3]/2)", singular="input == other", named=True,
        kink=f"at a tie {_name} gives all to its first argument, as PyTorch")
pointwise("copysign(Tensor input, Tensor other)", "abs(input) if other >= 0 else -abs(input)",
    "copysign(x[2,3], y[3] - 8)", "copysign(x[3], -1)", singular="input == 0", named=True,
    derivatives={"input": "sign(input) if other >= 0 else -sign(input)", "other": "0"},
    kink="copysign has the slope 0 at 0, as abs", torch=lambda torch, a, b: torch.copysign(a, b))
pointwise("nan_to_num(Tensor input, float nan=0, float? posinf=None, float? neginf=None)",
    "replaced(input, nan, 1.7976931348623157e308 if posinf is None else posinf, "
    "-1.7976931348623157e308 if neginf is None else neginf)",
    "nan_to_num(x[3])", "nan_to_num(x[3], nan=1.5)", named=True, derivatives={"input": "isfinite(input)"})
pointwise("where(IntTensor condition, Tensor input, Tensor other)", "input if condition else other",
    "where(x[2,3] > 2, x**2, 3*x)", "where(x[3] >= y[3], x, y)", "torch.where(x[3] < 2, x, 0)", homes="torch",
    torch=lambda torch, c, a, b: torch.where(c.bool(), a, b))
pointwise("where(Tensor input, IntTensor condition, Tensor other)", "input if condition else other",
    "x[2,3].where(x > 2, 0)", homes="Tensor", torch=lambda torch, a, c, b: a.where(c.bool(), b))
pointwise("masked_fill(Tensor input, IntTensor mask, Tensor value)", "value if mask else input",
    "x[2,3].masked_fill(x > 2, 0)", "masked_fill(x[3], y[3] > 5, 2.5)",
    torch=lambda torch, x, mask, value: x.masked_fill(mask.bool(), value))

_TRUTH = "a comparison is true or false: it has no derivative and no gradient gets past it"

comparison = partial(pointwise, family="comparison", integer=True)

for _name, _sign, _long in (
    ("lt", "<", "less"), ("le", "<=", "less_equal"), ("gt", ">", "greater"),
    ("ge", ">=", "greater_equal"), ("eq", "==", ""), ("ne", "!=", "not_equal"),
):
    comparison(f"{_name}(Tensor input, Tensor other)", f"1 if input {_sign} other else 0",
        f"where(x[3] {_sign} 2, x, 5)", f"x[3]*{_name}(x, y[3]/2)", also=_long, infix=f"{{}} {_sign} {{}}",
        remark=_TRUTH, torch=lambda torch, a, b, name=_name: getattr(operator, name)(a, b))
comparison("logical_not", "0 if input else 1", "where(logical_not(x[3] > 2), x, 5)")
comparison("logical_and(Tensor input, Tensor other)", "1 if input and other else 0",
    "where(logical_and(x[4] > 1, x < 4), x, 5)")
comparison("logical_or(Tensor input, Tensor other)", "1 if input or other else 0",
    "where(logical_or(x[4] < 2, x > 3), x, 5)")


def _joined(name: str, sign: str) -> Any:
    """``&`` and ``|`` of conditions; of integers they would be something else."""

    def expand(b: Any, x: Any, other: Any) -> Any:
        for side in (x, other):
            node = b.node(side)
            given = node.value is not None and np.isin(node.value, (0, 1)).all()
            if not given and (node.op is None or node.op.family != "comparison"):
                raise UnsupportedError(
                    f"`{sign}` joins conditions here, and what stands beside it is none",
                    remedy=f"write them in parentheses, as in `(a > 0) {sign} (b > 0)`",
                )
        return b.call(name, x, other)

    return expand


for _name, _sign, _of in (("and", "&", "(x[4] > 1) & (x < 4)"), ("or", "|", "(x[4] < 2) | (x > 3)")):
    register(Op(
        f"bitwise_{_name}(Tensor input, Tensor other)", "comparison",
        expand=_joined(f"logical_{_name}", _sign), samples=(f"where({_of}, x, 5)",),
    ))
comparison("logical_xor(Tensor input, Tensor other)", "1 if (input and not other) or (other and not input) else 0",
    "where(logical_xor(x[4] < 2, x < 3), x, 5)")
comparison("isfinite", "", "where(isfinite(x[3]), x, 5)", remark=_TRUTH, homes="torch")


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
