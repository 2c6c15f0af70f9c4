"""What an operation is: one record, from which everything else follows.

An `Op` says, in one place, how PyTorch spells the operation, which arguments it takes, which shape it
returns, and how one element of the result is made from elements of the inputs.  The parser, the
graph, the closed form, the chain rule, PyTorch's route, ``gradexplain ops``, the documentation and
the tests all read the record; none of them knows an operation by name.

The names that a record may use
-------------------------------

``schema``
    The signature in the notation of PyTorch's own ``native_functions.yaml``, without the return type:
    ``sum(Tensor input, int[]? dim=None, bool keepdim=False)``.  Kinds: ``Tensor``, ``Tensor?``,
    ``Tensor[]``, ``IntTensor`` (an index:
    integer values, not differentiable), ``int``, ``int[]``,
    ``float``, ``bool``, ``str``, ``Index`` (a subscript), ``Any`` (as written, lists as tuples); each
    with ``?`` for "or None".  After ``*`` the arguments are keyword-only.  ``bool inplace=False`` says
    that a caller may give it; the record does not see it.  ``Aux`` at the end: a part
    of the formula with a name of its own (a softmax, a standard deviation), which ``aux`` makes and no
    caller gives.
``formula`` (pointwise operations)
    One element of the result as an expression in the names of the tensor arguments and in the
    functions of `gradexplain.formula.functions`: ``a if a > 0 else 0``.  Broadcasting is the
    driver's: no record mentions it.  An argument that is no tensor is itself: ``eps is None``,
    ``approximate == "tanh"`` are decided when the formula is built.
``derivatives`` (optional, pointwise operations)
    ``{"a": "y*(1 - y)"}``: a shorter form of a derivative, ``y`` being the result.  The tests hold it
    against SymPy's derivative of ``formula``.
``element`` (all other operations)
    ``element(k, *arguments)`` returns the SymPy expression of ``out[k.i]``; ``k`` is a
    `gradexplain.formula.kit.Kit` (output indices ``k.i``, bound indices ``k.bound(n)``, sums
    ``k.sum``), a tensor argument is indexed as ``x[index…]`` and has ``.shape``.
``jacobian`` (optional, all other operations)
    ``jacobian(k, *arguments)`` returns ``∂out[k.i]/∂x[k.j]`` for the input ``k.wrt``, where the
    element formula's own derivative would not be the one a textbook prints, or where there is none.
    ``k.out[…]`` is the result.
``aux``
    ``aux(b, *arguments)`` makes the values that the ``Aux`` arguments are, with ``b.helper(op, …)``: no
    gradient flows through them, the record's ``jacobian`` is total.
``written`` (optional)
    ``written(c, *arguments)``: the value as PyTorch, for `gradexplain codegen`, where a plain call of
    the first spelling would not do; arguments are names of the code (`gradexplain.codegen.record`).
``backward`` (optional)
    ``backward(c, *arguments)``: the gradient of the input ``c.wrt`` as a person would write it in
    PyTorch, where the formula's own sums over places would not be that (None where they would).
    Nothing else reads it, and what is generated with it is held against the closed form.
``spelt`` (optional)
    How people write the operation in others, ``1/(1 + exp(-input))``, in the language; ``{dim}`` is
    any dim.  Closed forms of such programs are derived with this record.
``remark``
    One sentence, printed wherever a gradient meets the operation: that it goes no further.
``kink``
    One sentence: what PyTorch returns where the derivative does not exist.  Printed when it matters.
``coarse``
    PyTorch's own kernel is known to be less exact than its dtype.  The tolerance stays as it is: a
    difference as small as that counts as a convention, and the note names the kernel.
``singular``
    Conditions, as expressions in the argument names (pointwise operations), under which the
    operation has no derivative (``a == 0`` for ``abs``) or no value (``a <= 0`` for ``log``).
``samples``
    Calls in the language with the shapes of their inputs, at least one; the registry's tests run them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradexplain.errors import InputError

Shape = tuple[int, ...]

#: Where PyTorch keeps an operation; ``operator`` is Python's own.
HOMES = ("torch", "Tensor", "F", "linalg", "special", "operator")

#: The families, in the order in which they are listed.
FAMILIES = (
    "pointwise", "activation", "comparison", "reduction", "contraction", "linear algebra", "shape",
    "normalisation", "loss", "constant",
)  # fmt: skip

_ARGUMENT = re.compile(
    r"(?P<kind>[A-Za-z]+)(?P<list>\[\])?(?P<optional>\?)?\s+(?P<name>\w+)(\s*=\s*(?P<default>.+))?$"
)
_DEFAULTS: Mapping[str, Any] = {
    "None": None, "True": True, "False": False, "()": (), "inf": float("inf"), "-inf": float("-inf"),
}  # fmt: skip


def no_slope(*_: Any) -> None:
    """The ``jacobian`` of a helper whose own derivative has no formula here."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a schema."""

    name: str
    kind: str
    is_list: bool
    optional: bool
    required: bool
    default: Any
    keyword_only: bool

    @property
    def is_tensor(self) -> bool:
        return self.kind in ("Tensor", "IntTensor")

    @property
    def is_aux(self) -> bool:
        return self.kind == "Aux"


@dataclass(frozen=True, slots=True)
class Coarse:
    """A kernel of PyTorch's that is less exact than its dtype: by how much of the value, and why.

    ``order`` is that of the derivative from which on it shows.  Where the kernel rounds what is larger
    than its result, ``terms(g, y, *arguments)`` is the size of that, a NumPy array in the input's shape;
    ``g`` is the upstream gradient, ``y`` PyTorch's own result.  Where a rounding of ``y`` may change all
    of it, ``kernel(g, y, *arguments)`` is what it makes of ``y``, and the size of what it rounds then.
    """

    relative: float
    why: str
    order: int = 1
    terms: Callable[..., Any] | None = None
    kernel: Callable[..., Any] | None = None


@dataclass(frozen=True, eq=False)
class Op:
    """One operation.  See the module's docstring for what each field means."""

    schema: str
    family: str
    samples: tuple[str, ...]
    #: Where PyTorch keeps it: any of ``torch``, ``Tensor``, ``F``, ``linalg``, ``special``.
    homes: str = "torch Tensor"
    #: Other spellings, with their home: ``special.expit``.
    aliases: tuple[str, ...] = ()
    formula: str = ""
    derivatives: Mapping[str, str] = field(default_factory=dict)
    shape: Callable[..., Shape] | None = None
    element: Callable[..., Any] | None = None
    jacobian: Callable[..., Any] | None = None
    #: Shown as a function, ``sigmoid(x[i])``, instead of written out.
    named: bool = False
    spelt: tuple[str, ...] = ()
    #: How a node is shown in the forward table: ``{} + {}`` in its tensors' names, or a function of
    #: all arguments as text; without either as a call.
    infix: str = ""
    show: Callable[..., str] | None = None
    kink: str = ""
    remark: str = ""
    singular: tuple[str, ...] = ()
    #: The same for other operations: ``singular_at(result, *arguments)`` as NumPy arrays, a mask.
    singular_at: Callable[..., Any] | None = None
    #: Read as an attribute: ``x.T``.
    attribute: bool = False
    #: ``averages(*arguments)``: the sizes whose product the record divides by, for the reader to see
    #: where 1/6 comes from.
    averages: Callable[..., Sequence[int]] | None = None
    #: Only moves elements: written into a formula instead of being given a name.
    moves: bool = False
    #: The gradient does not pass (``detach``); the result holds no real numbers (comparisons).
    stops: bool = False
    integer: bool = False
    #: ``expand(b, *arguments)``: made of other operations, whose nodes ``b`` (a
    #: `gradexplain.reading.applying.Calls`) makes; may return a tuple of values.
    expand: Callable[..., Any] | None = None
    #: Where PyTorch's own backward is coarser than its dtype.
    coarse: tuple[Coarse, ...] = ()
    #: The inputs whose gradient PyTorch's kernel computes in single precision where the dtype has fewer
    #: digits; those of the others, where there are any, it adds up in the dtype, a row at a time.
    single: tuple[str, ...] = ()
    #: ``saved(node)``: what PyTorch kept of the ``Aux`` values, in their order, from its node of the
    #: backward graph; None for what it did not.
    saved: Callable[[Any], Sequence[Any]] | None = None
    #: ``aux(b, *arguments)``: the values of the ``Aux`` arguments; ``b`` is a
    #: `gradexplain.graph.Maker`.
    aux: Callable[..., tuple[Any, ...]] | None = None
    #: ``torch(torch, *arguments)`` where a plain call under the first spelling would not do.
    torch: Callable[..., Any] | None = None
    #: ``value(exact, *arguments)``: the result where the element formula would overflow or be hopeless
    #: to evaluate.  Tensors come as pairs, value and magnitude (`gradexplain.plan.arrays.Pair`),
    #: and so does the result; its magnitude may be a function of no arguments, for where it costs as
    #: much as the value and nobody asks.
    value: Callable[..., Any] | None = None

    #: The record whose derivations this one shares: it differs from it in name alone.
    pattern: Op | None = None

    #: The value, and the gradient of one input, as a person writes them in PyTorch.
    written: Callable[..., str] | None = None
    backward: Callable[..., str | None] | None = None

    name: str = field(init=False)
    parameters: tuple[Parameter, ...] = field(init=False)
    #: PyTorch's has an argument ``inplace``, its last.
    inplace: bool = field(init=False)

    def __post_init__(self) -> None:
        name, parameters = parse_schema(self.schema)
        object.__setattr__(self, "name", name)
        kept = tuple(p for p in parameters if p.name != "inplace")
        object.__setattr__(self, "parameters", kept)
        object.__setattr__(self, "inplace", len(kept) < len(parameters))
        for spelling in self.aliases:
            if spelling.partition(".")[0] not in HOMES or spelling.count(".") != 1:
                raise ValueError(f"{name}: {spelling!r} is not a home and a name")
        if not self.samples and self.spellings:
            raise ValueError(f"{name}: an operation needs at least one sample")
        if bool(self.formula) + bool(self.element or self.jacobian) + bool(self.expand) != 1:
            raise ValueError(f"{name}: give a formula, an element or an expansion")

    @property
    def pointwise(self) -> bool:
        return bool(self.formula)

    @property
    def inline(self) -> bool:
        """Whether its formula is written into the one that uses it, when the user gave it no name."""
        return self.pointwise or self.moves

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every name it goes by: ``torch.log``, ``Tensor.log``, …; the first is the one to print."""
        return tuple(f"{home}.{self.name}" for home in self.homes.split()) + self.aliases

    def __reduce__(self) -> tuple[Callable[[str], Op], tuple[str]]:
        """An operation travels between processes by its schema: the record itself is code."""
        return by_schema, (self.schema,)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


_BY_SCHEMA: dict[str, Op] = {}
_BY_SPELLING: dict[str, list[Op]] = {}


def register(op: Op) -> Op:
    """Enter ``op`` in the registry; several operations may share a name and differ in their schema."""
    if op.schema in _BY_SCHEMA:
        raise ValueError(f"declared twice: {op.schema}")
    if op.family not in FAMILIES:
        raise ValueError(f"{op.schema}: there is no family {op.family!r}")
    _BY_SCHEMA[op.schema] = op
    for spelling in op.spellings:
        _BY_SPELLING.setdefault(spelling, []).append(op)
    return op


def pointwise(
    schema: str, formula: str = "", *samples: str, family: str = "pointwise", also: str = "",
    singular: str = "", **fields: Any,
) -> Op:  # fmt: skip
    """Register a pointwise operation; a row of a table, in which what is usual is left out.

    A name alone is a function of one tensor ``input``; the ``formula`` is then that function, and the
    sample its call of ``x[3]``.  ``also`` is another name of it in ``torch`` and of a tensor.
    """
    if "(" not in schema:
        formula, samples = formula or f"{schema}(input)", samples or (f"{schema}(x[3])",)
        schema += "(Tensor input)"
    if also:
        fields["aliases"] = (f"torch.{also}", f"Tensor.{also}")
    if singular:
        fields["singular"] = (singular,)
    return register(Op(schema, family, samples, formula=formula, **fields))


def all_ops() -> Iterator[Op]:
    """Every record that can be called, in the order of declaration."""
    yield from (op for op in _BY_SCHEMA.values() if op.spellings)


def by_schema(schema: str) -> Op:
    return _BY_SCHEMA[schema]


def by_spelling(spelling: str) -> list[Op]:
    """The records that go by a full spelling such as ``torch.max`` (several where it is overloaded)."""
    return _BY_SPELLING.get(spelling, [])


def all_spellings() -> Iterator[str]:
    yield from _BY_SPELLING


def parse_schema(schema: str) -> tuple[str, tuple[Parameter, ...]]:
    """``sum(Tensor input, int[]? dim=None)`` as its name and its parameters."""
    name, _, rest = schema.partition("(")
    parameters: list[Parameter] = []
    keyword_only = False
    for piece in (part.strip() for part in rest.removesuffix(")").split(", ")):
        if piece == "*":
            keyword_only = True
            continue
        if not piece:
            continue  # no arguments at all: a constant
        match = _ARGUMENT.match(piece)
        if match is None:
            raise ValueError(f"schema {schema!r}: cannot read {piece!r}")
        default = match["default"]
        parameters.append(
            Parameter(
                name=match["name"],
                kind=match["kind"],
                is_list=bool(match["list"]),
                optional=bool(match["optional"]),
                required=default is None and match["kind"] != "Aux",
                default=None if default is None else _default(default),
                keyword_only=keyword_only,
            )
        )
    return name, tuple(parameters)


def _default(text: str) -> Any:
    if text in _DEFAULTS:
        return _DEFAULTS[text]
    if text[0] in "\"'":
        return text[1:-1]
    return int(text) if re.fullmatch(r"-?\d+", text) else float(text)


# -- shape rules that many records share ---------------------------------------------------------


def broadcast(*shapes: Shape) -> Shape:
    """The common shape of ``shapes`` under PyTorch's broadcasting, or `InputError`.

    Source: the PyTorch documentation, "Broadcasting semantics".
    """
    rank = max(map(len, shapes), default=0)
    result = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in shapes if -axis <= len(shape)}
        wide = sizes - {1}
        if len(wide) > 1:
            shown = " and ".join(map(show_shape, shapes))
            raise InputError(
                f"shapes {shown} cannot be broadcast: sizes "
                f"{' and '.join(map(str, sorted(wide)))} meet at dimension {axis}",
                remedy="sizes must be equal or 1, counted from the last dimension; "
                "keepdim=True, unsqueeze or reshape can make them so",
            )
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def show_shape(shape: Shape) -> str:
    """A shape as PyTorch users write it: ``(3,)``, ``(2, 3)``, ``()``."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def expect(condition: bool, message: str, *shapes: Shape, remedy: str = "") -> None:
    """`InputError` unless ``condition``; ``{}`` in the message stand for the shapes."""
    if not condition:
        said = message.format(*map(show_shape, shapes)) if shapes else message
        raise InputError(said, remedy=remedy)


def normal_dim(dim: int, rank: int) -> int:
    """``dim`` counted from the front, or `InputError` in PyTorch's words."""
    room = max(rank, 1)
    if not -room <= dim < room:
        raise InputError(
            f"dimension out of range: expected one in [{-room}, {room - 1}], but got {dim}",
            remedy="a tensor with n dimensions has dim 0 to n - 1, or -1 counted from the last",
        )
    return dim % room


def normal_dims(dim: int | tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
    """The dims a reduction runs over, sorted: all of them for None or an empty tuple."""
    if dim is None or dim == ():
        return tuple(range(rank))
    given = (dim,) if isinstance(dim, int) else dim
    dims = [normal_dim(d, rank) for d in given]
    if len(set(dims)) < len(dims):
        raise InputError(f"dim {given} names a dimension twice", remedy="name each dimension once")
    return tuple(sorted(d for d in dims if d < rank))


def reduced(shape: Shape, dims: tuple[int, ...], keepdim: bool) -> Shape:
    """``shape`` after a reduction over ``dims``."""
    if keepdim:
        return tuple(1 if axis in dims else n for axis, n in enumerate(shape))
    return tuple(n for axis, n in enumerate(shape) if axis not in dims)
