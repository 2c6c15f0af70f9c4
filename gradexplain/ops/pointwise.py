"""Pointwise operations: one element of the result from one element of each input.

Broadcasting is the driver's.  ``singular`` says where there is no value or no derivative.
"""

from __future__ import annotations

from gradexplain.ops.base import Op, register

_FAMILY = "pointwise"

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
    "pow(Tensor input, Tensor exponent)", _FAMILY,
    formula="input**exponent", infix="{}**{}",
    singular=("input == 0 and exponent < 1",),
    kink="pow at 0: PyTorch returns exponent·0^(exponent − 1), and 0 for the exponent 0",
    samples=("x[2,3]**2", "x[3]**y[2,3]", "2**x[3]", "x[3]**-0.5", "pow(x[3], 3)"),
    torch=lambda torch, a, b: a**b,
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
    aliases=("Tensor.sqrt",), homes="torch", samples=("sqrt(x[3])",),
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

# -- exponentials and logarithms -----------------------------------------------------------------

register(Op(
    "exp(Tensor input)", _FAMILY, formula="exp(input)", samples=("exp(x[3])",),
))
register(Op(
    "expm1(Tensor input)", _FAMILY, formula="expm1(input)", homes="torch Tensor special",
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
    homes="torch Tensor special", samples=("log1p(x[3])",),
))

# -- trigonometry --------------------------------------------------------------------------------

register(Op("sin(Tensor input)", _FAMILY, formula="sin(input)", samples=("sin(x[3])",)))
register(Op("cos(Tensor input)", _FAMILY, formula="cos(input)", samples=("cos(x[3])",)))
register(Op(
    "tan(Tensor input)", _FAMILY, formula="tan(input)", samples=("tan(x[3])",),
))
register(Op("sinh(Tensor input)", _FAMILY, formula="sinh(input)", samples=("sinh(x[3])",)))
register(Op("cosh(Tensor input)", _FAMILY, formula="cosh(input)", samples=("cosh(x[3])",)))
register(Op("tanh(Tensor input)", _FAMILY, formula="tanh(input)", homes="torch Tensor F",
            samples=("tanh(x[3])",)))

# -- activations ---------------------------------------------------------------------------------

register(Op(
    "sigmoid(Tensor input)", "activation", formula="1/(1 + exp(-input))", named=True,
    derivatives={"input": "y*(1 - y)"}, homes="torch Tensor F",
    aliases=("torch.special.expit",), samples=("sigmoid(x[3])",),
))
register(Op(
    "relu(Tensor input)", "activation", formula="input if input > 0 else 0", named=True,
    singular=("input == 0",), kink="relu'(0) = 0, as PyTorch", homes="torch Tensor F",
    samples=("relu(x[2,3] - 3.5)",),
))
register(Op(
    "softplus(Tensor input, float beta=1, float threshold=20)", "activation", named=True,
    formula="input if input*beta > threshold else log1p(exp(beta*input))/beta",
    derivatives={"input": "1 if input*beta > threshold else sigmoid(beta*input)"},
    homes="F", samples=("softplus(x[3])", "F.softplus(x[3], beta=2)"),
))

