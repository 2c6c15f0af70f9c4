# ruff: noqa: E501  (a table: one case on a line)
"""Expressions with right backwards, and the same backwards written differently.

``claims`` are in the language, which is also PyTorch's; ``variants`` are other right ones.  ``diagonal``
is what the claim becomes when the off-diagonal terms of J are forgotten.  ``kinks`` are claims that are
wrong only at a kink.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    expression: str
    shapes: dict[str, tuple[int, ...]]
    claims: dict[str, str]
    variants: tuple[dict[str, str], ...] = ()
    diagonal: dict[str, str] = field(default_factory=dict)
    kinks: tuple[dict[str, str], ...] = ()
    #: A value is used several times, and each term of the claim is the contribution of one use.
    repeated: bool = False
    #: Right for matrices whose two sizes are equal too.
    square: bool = True


M = (2, 3)


def one(expression: str, claim: str, *variants: str, **others: object) -> Case:
    """A case of one input ``x``, a matrix."""
    for key in ("diagonal",):
        if key in others:
            others[key] = {"x": others[key]}
    if "kinks" in others:
        others["kinks"] = tuple({"x": k} for k in others["kinks"])  # type: ignore[attr-defined]
    shapes = others.pop("shapes", {"x": M})
    return Case(expression, shapes, {"x": claim}, tuple({"x": v} for v in variants), **others)  # type: ignore[arg-type]


def more(expression: str, shapes: dict[str, tuple[int, ...]], claims: dict[str, str],
         *variants: dict[str, str], **others: object) -> Case:  # fmt: skip
    """A case of several inputs; a variant says only what it writes differently."""
    full = tuple({**claims, **v} for v in variants)
    return Case(expression, shapes, claims, full, **others)  # type: ignore[arg-type]


AB = {"a": M, "b": M}
XB = {"x": (2, 3), "b": (3,)}
XW = {"x": (2, 3), "w": (3, 4)}

CASES: tuple[Case, ...] = (
    # -- elementwise ---------------------------------------------------------------------------
    one("exp(x)", "v*y", "v*exp(x)", "y*v", "torch.exp(x)*grad_output"),
    one("log(x)", "v/x", "v*x**-1", "v*(1/x)", "v*torch.reciprocal(x)", "v*x/x**2"),
    one("tanh(x)", "v*(1 - y**2)", "v*(1 - y*y)", "v - v*y**2", "v*(1 - tanh(x)**2)", "v/cosh(x)**2", "(1 - y)*(1 + y)*v"),
    one("sigmoid(x)", "v*y*(1 - y)", "v*(y - y**2)", "v*exp(-x)/(1 + exp(-x))**2", "y*v - y*y*v"),
    one("x**3", "3*v*x**2", "v*3*x*x", "x.square()*v*3", "3*x**2*v"),
    one("x*exp(x)", "v*exp(x) + v*x*exp(x)", "v*exp(x)*(1 + x)", "v*(y + exp(x))", "v*exp(x) + v*y", repeated=True),
    one("sin(x)*x**2", "v*cos(x)*x**2 + 2*v*sin(x)*x", "v*x*(x*cos(x) + 2*sin(x))", "v*(cos(x)*x.square() + 2*x*sin(x))", repeated=True),
    one("sqrt(x)", "0.5*v/y", "v/(2*sqrt(x))", "v/2*x**-0.5", "v*0.5*torch.rsqrt(x)"),
    one("log1p(exp(x))", "v*sigmoid(x)", "v/(1 + exp(-x))", "v*exp(x)/(1 + exp(x))", "v*(1 - exp(-y))"),
    one("x*sigmoid(x)", "v*sigmoid(x) + v*x*sigmoid(x)*(1 - sigmoid(x))", "v*(y + sigmoid(x)*(1 - y))", "v*sigmoid(x)*(1 + x*(1 - sigmoid(x)))", repeated=True),
    one("relu(x)", "v*(x > 0)", "where(x > 0, v, 0*v)", "v*(y > 0)", kinks=("v*(x >= 0)",)),
    one("abs(x)", "v*sign(x)", "where(x > 0, v, -v)*(x != 0)", kinks=("where(x >= 0, v, -v)", "where(x > 0, v, -v)")),
    one("clamp(x, 0, 1)", "v*(x >= 0)*(x <= 1)", "where(x < 0, 0*v, v)*(x <= 1)", kinks=("v*(x > 0)*(x < 1)",)),
    # -- two inputs, broadcasting ---------------------------------------------------------------
    more("a*b", AB, {"a": "v*b", "b": "v*a"}, {"a": "b*v"}, {"b": "a*grad_output"}),
    more("a/b", AB, {"a": "v/b", "b": "-v*a/b**2"}, {"b": "-v*y/b"}, {"a": "v*b**-1"}, {"b": "0 - a*v/(b*b)"}),
    more("a**2*b + a*b**3", AB, {"a": "2*v*a*b + v*b**3", "b": "v*a**2 + 3*v*a*b**2"}, {"a": "v*b*(2*a + b*b)"}, {"b": "v*a*(a + 3*b**2)"}),
    more("x + b", XB, {"x": "v", "b": "v.sum(dim=0)"}, {"b": "sum(v, dim=0)"}, {"b": "v[0] + v[1]"}, square=False),
    more("x*b", XB, {"x": "v*b", "b": "(v*x).sum(dim=0)"}, {"b": "sum(x*v, dim=0)"}, {"b": "(v*x)[0] + (v*x)[1]"}),
    more("x/c", {"x": (2, 3), "c": (2, 1)}, {"x": "v/c", "c": "-(v*x).sum(dim=1, keepdim=True)/c**2"}, {"c": "(-v*x/c**2).sum(dim=1, keepdim=True)"}, {"c": "-(v*y).sum(dim=1, keepdim=True)/c"}),
    more("exp(x - c)*b", {"x": (2, 3), "c": (2, 1), "b": (3,)}, {"x": "v*y", "c": "-(v*y).sum(dim=1, keepdim=True)", "b": "(v*exp(x - c)).sum(dim=0)"}, {"b": "(v*y).sum(dim=0)/b"}, {"x": "v*exp(x - c)*b"}),
    # -- reductions ------------------------------------------------------------------------------
    one("x.sum(dim=1)", "v.unsqueeze(1)*ones_like(x)", "v[:, None].expand(2, 3)", square=False),
    one("x.mean(dim=0)", "v.unsqueeze(0)*ones_like(x)/x.shape[0]", "v[None, :].expand_as(x)/x.size(0)"),
    one("(x**2).sum(dim=0)", "2*v*x", "v*x + x*v", "2*v[None, :]*x"),
    one("(x**2).mean(dim=1)", "2*v.unsqueeze(1)*x/x.shape[1]", "v[:, None]*x*2/x.size(1)"),
    one("logsumexp(x, dim=1)", "v.unsqueeze(1)*softmax(x, dim=1)", "v[:, None]*exp(x - y[:, None])", "v[:, None]*exp(x)/exp(x).sum(dim=1, keepdim=True)"),
    one("x.norm(dim=1, keepdim=True)", "v*x/y", "v*x*y**-1", "x/y*v", "v*x/sqrt((x**2).sum(dim=1, keepdim=True))"),
    one("(x**3).sum()", "3*v*x**2", "v*3*x.square()", "3*x*x*v"),
    # -- normalisations ---------------------------------------------------------------------------
    one("x / x.sum(dim=0)", "v/x.sum(dim=0) - (v*x).sum(dim=0)/x.sum(dim=0)**2", "(v - (v*y).sum(dim=0))/x.sum(dim=0)", "(v*x.sum(dim=0) - (v*x).sum(dim=0))/x.sum(dim=0)**2", "v/x.sum(0) - (v*y).sum(0)/x.sum(0)", diagonal="v*(1/x.sum(dim=0) - x/x.sum(dim=0)**2)", repeated=True),
    one("softmax(x, dim=1)", "y*(v - (v*y).sum(dim=1, keepdim=True))", "y*v - y*(v*y).sum(dim=1, keepdim=True)", "y*(v - sum(y*v, dim=1, keepdim=True))", "softmax(x, 1)*(v - (v*softmax(x, 1)).sum(1, keepdim=True))", diagonal="v*(y - y*y)"),
    one("log_softmax(x, dim=1)", "v - exp(y)*v.sum(dim=1, keepdim=True)", "v - softmax(x, dim=1)*v.sum(dim=1, keepdim=True)", "v - v.sum(1, keepdim=True)*y.exp()", diagonal="v*(1 - exp(y))"),
    one("x - x.mean(dim=0)", "v - v.mean(dim=0)", "v - v.sum(dim=0)/x.shape[0]", "v - v.mean(0, keepdim=True)", diagonal="v*(1 - 1/x.shape[0])", repeated=True),
    one("x / x.norm(dim=1, keepdim=True)", "v/x.norm(dim=1, keepdim=True) - x*(v*x).sum(dim=1, keepdim=True)/x.norm(dim=1, keepdim=True)**3", "(v - y*(v*y).sum(dim=1, keepdim=True))/x.norm(dim=1, keepdim=True)", diagonal="v*(1 - y**2)/x.norm(dim=1, keepdim=True)", repeated=True),
    one("s = x.sum(dim=1, keepdim=True); x*s", "v*s + (v*x).sum(dim=1, keepdim=True)", "s*v + sum(v*x, dim=1, keepdim=True)", "v*x.sum(1, keepdim=True) + (x*v).sum(1, keepdim=True)", diagonal="v*(s + x)", repeated=True),
    one("x*exp(-x.mean(dim=1, keepdim=True))", "v*exp(-x.mean(dim=1, keepdim=True)) - (v*y).mean(dim=1, keepdim=True)", "exp(-x.mean(1, keepdim=True))*(v - (v*x).mean(1, keepdim=True))", diagonal="v*(exp(-x.mean(dim=1, keepdim=True)) - y/x.shape[1])", repeated=True),
    # -- contractions ------------------------------------------------------------------------------
    more("x @ w", XW, {"x": "v @ w.T", "w": "x.T @ v"}, {"x": "(w @ v.T).T"}, {"w": "(v.T @ x).T"}, {"w": "matmul(x.t(), v)"}, {"x": "torch.mm(v, w.t())"}),
    more("x @ w + b", {**XW, "b": (4,)}, {"x": "v @ w.T", "w": "x.T @ v", "b": "v.sum(dim=0)"}, {"x": "matmul(v, w.T)"}, {"b": "sum(v, 0)"}),
    more("tanh(x @ w)", XW, {"x": "(v*(1 - y**2)) @ w.T", "w": "x.T @ (v*(1 - y**2))"}, {"x": "(v - v*y*y) @ w.T"}, {"w": "((v*(1 - y*y)).T @ x).T"}),
    more("w @ x", {"w": (3, 2), "x": (2,)}, {"w": "v[:, None]*x[None, :]", "x": "w.T @ v"}, {"w": "v.unsqueeze(1) @ x.unsqueeze(0)"}, {"x": "v @ w"}, square=False),
    more("(x * (x @ w)).sum(dim=1)", {"x": (2, 3), "w": (3, 3)}, {"x": "v.unsqueeze(1)*(x @ w) + (v.unsqueeze(1)*x) @ w.T", "w": "x.T @ (v.unsqueeze(1)*x)"}, {"x": "v[:, None]*(x @ w + x @ w.T)"}, repeated=True, square=False),
    # -- moving and indexing -------------------------------------------------------------------------
    one("x.T", "v.T", "v.t()", "v.transpose(0, 1)", "permute(v, (1, 0))"),
    one("x[:, 1:]**2", "cat([zeros_like(x[:, :1]), 2*v*x[:, 1:]], dim=1)", "cat([0*x[:, :1], 2*x[:, 1:]*v], dim=1)", square=False),
    one("x.reshape(3, 2)*2", "2*v.reshape(2, 3)", "(v + v).reshape(2, 3)", "v.view(2, 3)*2", square=False),
    more("cat([a, b], dim=0)**2", {"a": (2, 3), "b": (1, 3)}, {"a": "2*v[:2]*a", "b": "2*v[2:]*b"}, {"a": "v[:2]*(a + a)"}, square=False),
    more("stack([a, b]).prod(dim=0)", AB, {"a": "v*b", "b": "v*a"}, {"a": "b*v"}, square=False),
)  # fmt: skip
