"""The faults that a check can name: a number, a name, what it is, an example and its mend."""

from __future__ import annotations

from dataclasses import dataclass

from gradexplain.errors import InputError


@dataclass(frozen=True, slots=True)
class Kind:
    """``example`` is an expression, a claim with the fault, and the right claim."""

    number: int
    name: str
    title: str
    about: str
    example: tuple[str, str, str] | None = None

    @property
    def code(self) -> str:
        return f"GX{self.number}"


KINDS = (
    Kind(
        101,
        "missing_term",
        "a term of a sum is missing",
        "The derivative is a sum of terms, one for each way by which the input reaches the "
        "output, and one of them is not there. In a normalisation it is often the one through "
        "the mean, or the one through the variance.",
    ),
    Kind(
        102,
        "missing_accumulation",
        "the contribution of one use of a repeated value is missing",
        "A value is used several times. Each use contributes to its gradient, and the "
        "contributions are added; one is missing.",
        ("x*exp(x)", "x: v*exp(x)", "x: v*exp(x) + v*x*exp(x)"),
    ),
    Kind(
        103,
        "missing_factor",
        "a factor is missing",
        "A factor of the chain rule is missing: the local derivative of one step, a saved "
        "scale, a weight; or inside a sum, as in y*(v - v.sum()) for softmax.",
    ),
    Kind(
        104,
        "missing_off_diagonal",
        "the off-diagonal terms of J are missing",
        "Each output depends on several elements of the input, and only its own is "
        "differentiated: J is taken to be diagonal. Typical of softmax, of normalisations, of "
        "anything that divides by a sum.",
        (
            "x / x.sum(dim=0)",
            "x: v*(1/x.sum(dim=0) - x/x.sum(dim=0)**2)",
            "x: v/x.sum(dim=0) - (v*x).sum(dim=0)/x.sum(dim=0)**2",
        ),
    ),
    Kind(
        105,
        "constant_factor",
        "off by a constant factor",
        "The gradient, or a term of it, is a constant times what it should be.",
        ("x**3", "x: v*x**2", "x: 3*v*x**2"),
    ),
    Kind(
        106,
        "wrong_sign",
        "a wrong sign",
        "A plus stands where a minus belongs, or the other way round.",
        ("x**3", "x: -3*v*x**2", "x: 3*v*x**2"),
    ),
    Kind(
        107,
        "transposed",
        "the transposed Jacobian",
        "A matrix is transposed where it should not be, or is not where it should; or the "
        "factors of a product are exchanged. The shapes of the result tell, unless they are "
        "square.",
        ("x @ w", "x: v @ w.T; w: v.T @ x", "x: v @ w.T; w: x.T @ v"),
    ),
    Kind(
        108,
        "missing_broadcast_sum",
        "the sum over a broadcast dimension is forgotten",
        "An input was broadcast. Its gradient is the sum over every dim that broadcasting widened.",
    ),
    Kind(
        109,
        "wrong_dim",
        "a reduction over the wrong dim",
        "A reduction runs over another dim than the forward's.",
        (
            "softmax(x, dim=1)",
            "x: y*(v - (v*y).sum(dim=0, keepdim=True))",
            "x: y*(v - (v*y).sum(dim=1, keepdim=True))",
        ),
    ),
    Kind(
        110,
        "sum_vs_mean",
        "a sum where a mean was needed, or a mean where a sum was",
        "The derivative of a mean divides by the number of elements, that of a sum does not.",
        ("x - x.mean(dim=0)", "x: v - v.sum(dim=0)", "x: v - v.mean(dim=0)"),
    ),
    Kind(
        111,
        "missing_keepdim",
        "keepdim=True is missing",
        "Without keepdim=True a reduced value loses its dim, and broadcasting lines it up "
        "with another one.",
        (
            "softmax(x, dim=1)",
            "x: y*(v - (v*y).sum(dim=1))",
            "x: y*(v - (v*y).sum(dim=1, keepdim=True))",
        ),
    ),
    Kind(
        112,
        "output_for_input",
        "evaluated at the output where the input belongs, or the other way round",
        "The derivative is evaluated at the output where the input belongs, or the other way "
        "round: exp'(x) is y, and tanh'(x) is 1 - y**2, not 1 - x**2.",
        ("exp(x)", "x: v*x", "x: v*y"),
    ),
    Kind(
        113,
        "v_unused",
        "the upstream gradient v is not used",
        "backward returns a product with the upstream gradient. What does not depend on it is "
        "J's own entries, right for v = 1 only.",
        ("sin(x)", "x: cos(x)", "x: v*cos(x)"),
    ),
    Kind(
        114,
        "v_nonlinear",
        "not linear in v: the upstream gradient is used twice",
        "A vector-Jacobian product is linear in v: twice the v is twice the gradient.",
        ("sin(x)", "x: v*v*cos(x)", "x: v*cos(x)"),
    ),
    Kind(
        115,
        "wrong_input",
        "the gradient of another input",
        "A value is used where another one belongs: the gradient of another input, or another "
        "saved tensor.",
        ("a/b", "a: v/b; b: v/b", "a: v/b; b: -v*a/b**2"),
    ),
    Kind(
        116,
        "swapped",
        "the gradients of two inputs are swapped",
        "The gradients stand in another order than forward's arguments.",
        ("a/b", "a: -v*a/b**2; b: v/b", "a: v/b; b: -v*a/b**2"),
    ),
    Kind(
        117,
        "none",
        "None instead of a gradient",
        "None says that an input needs no gradient. To autograd it is 0.",
        ("sin(x)", "x: None", "x: v*cos(x)"),
    ),
    Kind(
        118,
        "detached",
        "the result is detached: no gradient flows",
        "The result does not require grad, or the gradient is 0 everywhere: detach(), item(), "
        ".data, or ctx.mark_non_differentiable.",
        ("sin(x)", "x: 0*v", "x: v*cos(x)"),
    ),
    Kind(
        119,
        "wrong_shape",
        "a result of the wrong shape",
        "A gradient has the shape of its input.",
    ),
    Kind(
        120,
        "kink",
        "wrong only at a kink",
        "Right but where the forward has a kink, and PyTorch's convention is another.",
        ("relu(x)", "x: v*(x >= 0)", "x: v*(x > 0)"),
    ),
    Kind(
        121,
        "one_point",
        "wrong only at particular points",
        "Right but at particular points.",
    ),
    Kind(
        122,
        "exponent",
        "an exponent is off by one",
        "A power is one too high or too low: 1/s where 1/s**2 belongs.",
        ("x**3", "x: 3*v*x**3", "x: 3*v*x**2"),
    ),
    Kind(
        123,
        "nondeterministic",
        "the backward is not deterministic",
        "Run twice with the same v, the backward gives two gradients, by chance: what forward "
        "drew at random is drawn again instead of saved.",
    ),
    Kind(
        124,
        "inplace_forward",
        "the forward changes its input in place",
        "forward changes its input: what is saved, and what the caller holds, is no longer "
        "the input.",
    ),
    Kind(
        125,
        "inplace_buffer",
        "a gradient buffer with requires_grad=True is assigned in place",
        "backward fills a buffer that requires grad; PyTorch refuses that under create_graph=True.",
    ),
    Kind(
        126,
        "float32_rounding",
        "float32 rounding, and nothing else",
        "Nothing is wrong but the precision: a step of backward runs in float32.",
    ),
    Kind(
        127,
        "extra_factor",
        "a factor too many",
        "A factor too many: applied twice, or of another formula.",
    ),
    Kind(
        128,
        "extra_term",
        "a term too many",
        "A term too many.",
    ),
    Kind(
        129,
        "inverse",
        "a factor is multiplied where it divides, or the other way round",
        "A factor is multiplied where it divides, or the other way round.",
    ),
    Kind(
        130,
        "wrong_constant",
        "a wrong constant",
        "A number of the formula is another than the forward's.",
    ),
    Kind(
        131,
        "square_of_difference",
        "(1 - y)**2 where 1 - y**2 belongs",
        "tanh'(x) is 1 - y**2, not (1 - y)**2.",
    ),
    Kind(
        132,
        "biased_variance",
        "n where the variance has n - 1, or the other way round",
        "torch.var and torch.std divide by n - 1 unless told otherwise; a normalisation "
        "divides by n. The derivative divides by the same.",
    ),
    Kind(
        133,
        "eps",
        "eps is missing, or in the wrong place",
        "eps stands under the root in one place and beside it in another, or is left out.",
    ),
    Kind(
        134,
        "mask_not_applied",
        "the forward's mask is not applied",
        "What the forward cuts off has no gradient: the mask multiplies the upstream gradient.",
    ),
    Kind(
        135,
        "wrong_condition",
        "a condition is wrong",
        "A comparison is the wrong way round, or compares with another number.",
    ),
    Kind(
        136,
        "swapped_branches",
        "the branches of a where are swapped",
        "torch.where(c, a, b) has its branches exchanged.",
    ),
    Kind(
        137,
        "swapped_halves",
        "the halves of what was split or joined are swapped",
        "What chunk, split or cat took apart or joined comes back in another order.",
    ),
    Kind(
        138,
        "missing_unsqueeze",
        "unsqueeze is missing",
        "A value without the reduced dim is broadcast along the wrong one; square inputs hide it.",
    ),
    Kind(
        139,
        "extra_keepdim",
        "keepdim=True where the dim has to go",
        "A dim of size 1 is kept where it has to go.",
    ),
    Kind(
        140,
        "symmetric_assumption",
        "right for symmetric matrices only",
        "Right for symmetric matrices only: 2*A @ x where (A + A.T) @ x belongs.",
    ),
    Kind(
        141,
        "condition",
        "right under a condition only",
        "Right for inputs that meet a condition, wrong for others.",
    ),
    Kind(
        142,
        "approximation",
        "an approximation where the exact derivative is needed",
        "The derivative of an approximation for an exact function: GELU by tanh for GELU by erf.",
    ),
    Kind(
        143,
        "kernel_not_flipped",
        "a kernel or a sequence is not flipped",
        "The gradient of a convolution by its input is a convolution with the flipped kernel; "
        "that of cumsum runs from the other end.",
    ),
    Kind(
        144,
        "wrong_slice",
        "a wrong slice or index",
        "A slice or an index is another than the forward's.",
    ),
    Kind(
        145,
        "wrong_function",
        "a wrong function",
        "A function stands where another one belongs, or one too many.",
    ),
    Kind(
        146,
        "missing_call",
        "a function is not applied",
        "A value is used as it is where a function of it belongs: out where out.exp() is meant.",
    ),
    Kind(
        147,
        "not_reentrant",
        "the backward changes what it keeps: a second run differs",
        "The backward changes what it keeps, on ctx or in place: a second backward with "
        "retain_graph=True gives another gradient.",
    ),
    Kind(
        148,
        "grad_output_changed",
        "the backward changes grad_output in place",
        "grad_output belongs to autograd and may be used by others: work on a copy.",
    ),
    Kind(
        149,
        "needs_input_grad",
        "wrong when only some inputs need a gradient",
        "Right when every input needs a gradient, wrong when only some do.",
    ),
    Kind(
        150,
        "second_order",
        "right at first order, wrong when differentiated again",
        "The gradient is right; its own derivative is not: a saved value was detached, or the "
        "backward leaves autograd. once_differentiable says so honestly.",
    ),
    Kind(
        151,
        "forward_differs",
        "the forward is not that of the reference",
        "The forward does not compute what the reference does: its gradient is that of "
        "something else.",
    ),
    Kind(
        152,
        "raises",
        "the backward raises an error",
        "backward raises an error.",
    ),
    Kind(
        154,
        "layout",
        "wrong for some layouts of v",
        "Right for a contiguous v, wrong for one that is not, is expanded, or belongs to one of "
        "several outputs: a kernel reads memory without looking at strides. "
        "grad_output.contiguous() mends it.",
    ),
    Kind(
        155,
        "once_differentiable",
        "the backward cannot be differentiated again",
        "@once_differentiable says that the backward is not made of differentiable operations: "
        "a gradient penalty or a Hessian raises an error, instead of being wrong.",
    ),
    Kind(
        153,
        "unknown",
        "no single fault that is known here explains it",
        "No single fault that is known here, and no two, explain the difference.",
    ),
)

#: Every fault by its name.
BY_NAME = {kind.name: kind for kind in KINDS}


def title(code: str) -> str:
    """What a fault is, in a few words; of each, where there are several."""
    return "; and ".join(BY_NAME[name].title for name in code.split("+"))


def codes(fault: str) -> str:
    """``GX104``; ``GX101+GX105`` where there are several."""
    return "+".join(BY_NAME[name].code for name in fault.split("+"))


def find(text: str) -> Kind:
    """The fault of a code or a name.  Raises `InputError` for any other text."""
    wanted = text.strip()
    for kind in KINDS:
        if wanted.upper() == kind.code or wanted == kind.name:
            return kind
    raise InputError(
        f"there is no fault {wanted}",
        remedy=f"they are {KINDS[0].code} to {KINDS[-1].code}; gradexplain explain lists them",
    )
