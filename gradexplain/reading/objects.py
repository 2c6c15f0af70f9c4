"""What a name of a program can stand for, beside Python's numbers, texts, lists and functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain.errors import Span
from gradexplain.explanation import Array, Shape
from gradexplain.graph import NamedNumber, Ref

#: Element types without a gradient.
WHOLE = frozenset({"int8", "int16", "int32", "int64", "uint8", "bool"})


#: Operations whose result shares its elements with what it is made of.
VIEWS = frozenset({"view", "reshape", "transpose", "t", "permute", "subscript", "squeeze", "unsqueeze", "narrow",
                    "select", "expand", "flatten", "unflatten", "diagonal", "movedim", "mT", "T", "view_as",
                    "unfold", "split", "chunk", "unbind", "tensor_split", "expand_as", "ravel", "hsplit",
                    "detach", "getitem"})  # fmt: skip


#: Operations that PyTorch has no backward for: it raises where a gradient arrives at one.
NO_BACKWARD = frozenset({"floor_divide", "heaviside"})


def is_basic(index: Any) -> bool:
    """Whether a subscript gives a view: it is made of integers and slices."""
    return all(
        item is None or isinstance(item, (int, slice, type(...))) and not isinstance(item, bool)
        for item in (index if isinstance(index, tuple) else (index,))
    )


class Drawn(list[Any]):
    """What a generator gives, worked out at once: right as long as nobody changes the names it ``reads``
    before all of it was taken."""

    def __init__(self, values: Iterable[Any], reads: frozenset[str]) -> None:
        super().__init__(values)
        self.reads = reads


#: Operations whose result on whole numbers is whole.
STAYS_WHOLE = frozenset({"add", "sub", "mul", "neg", "abs", "floor_divide", "remainder", "pow", "clamp",
                    "minimum", "maximum", "sign", "square", "where", "relu", "sum", "prod", "max", "min",
                    "amax", "amin", "cumsum", "cumprod", "dot", "matmul", "floor", "ceil", "trunc",
                    "round", "sort", "topk", "positive"})  # fmt: skip


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor: an object of its own, as in PyTorch, whose value a node of the graph stands for.

    ``ref`` is None until the value is used: then a leaf is made where it has a name or requires grad,
    else a constant.  ``dtype`` None is that of the whole run.
    """

    shape: Shape
    place: Span
    ref: Ref | None = None
    dtype: str | None = None
    requires_grad: bool = False
    #: The elements, where the text has them.
    value: Array | None = None
    #: The elements, worked out when they are needed: a gradient, or what is made of one.
    later: Callable[[], Array] | None = None
    #: Whether the elements are made up, because the text leaves them open (``torch.randn``).
    example: bool = False
    name: str = ""
    #: What it is called where nobody gives it a name.
    hint: str = ""
    #: Whether ``.grad`` is kept although it is computed.
    retained: bool = False
    grad: Tensor | None = None
    #: What it shares its elements with, and how often it was changed in place.
    view: View | None = None
    version: int = 0
    home: int = 0
    #: The tensor whose ``.grad`` this is.
    grad_of: Tensor | None = None
    #: Made by ``nn.Parameter``: a module that holds it has it among its parameters.
    is_parameter: bool = False
    #: The hooks that change its gradient, each with its place; what stands for it, of which node and call.
    hooks: list[tuple[Any, Span]] | None = None
    hooked: tuple[Ref, int, Ref] | None = None
    #: The rows written into it one by one (``y[0] = …``), None where a row is still the first value's.
    rows: list[Any] | None = None

    @property
    def is_leaf(self) -> bool:
        """Made by the text, not computed by an operation."""
        return self.value is not None or self.later is not None


#: When an operation that gives a view gives a copy instead: "uneven" where a step along an axis is
#: not the same everywhere in the elements' own order, "apart" where they do not stand one after the other.
COPIES = {"reshape": "uneven", "flatten": "uneven", "ravel": "apart", "contiguous": "apart"}


@dataclass(eq=False, slots=True)
class View:
    """Elements of another tensor: ``again`` takes them anew, ``index`` is the subscript where it is one."""

    base: Tensor
    again: Callable[[Tensor], Any]
    index: Any = None
    #: The base's version that was taken.
    version: int = 0
    #: Without a gradient: ``x.data``, ``x.detach()``.
    detached: bool = False
    #: One of several: ``x.chunk(2)``.
    several: bool = False
    #: Which of the base's elements it saw: those before ``x.data = …`` or after.
    home: int = 0
    #: When it is no view but a copy, which is found out where it matters.
    copies: str = ""


@dataclass(slots=True)
class Leaf:
    """A leaf of the graph as it was when its node was made."""

    tensor: Tensor
    value: Array | None
    later: Callable[[], Array] | None
    dtype: str | None
    requires_grad: bool
    example: bool


@dataclass(frozen=True, slots=True)
class Module:
    """A module of Python by its own name, whatever it was imported as."""

    path: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a module: ``torch.nn.functional.relu``."""

    path: str


@dataclass(eq=False, slots=True)
class Own:
    """A ``def`` or ``lambda`` of the text, with the scopes it was written in."""

    name: str
    arguments: ast.arguments
    body: list[ast.stmt] | ast.expr
    defaults: Mapping[str, Any]
    scopes: tuple[dict[str, Any], ...]
    place: Span
    #: Written by the library, not in the text.
    placed: bool = False


@dataclass(eq=False, slots=True)
class Layer:
    """A module of ``torch.nn``, or an object of a class of the text: the function it applies, its
    parameters, the modules in it, and what else it holds.
    """

    kind: str
    call: Callable[..., Any]
    parameters: dict[str, Tensor] = field(default_factory=dict)
    children: dict[str, Layer] = field(default_factory=dict)
    training: bool = True
    own: Class | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    #: What is called before and after it: ``register_forward_hook`` and the function.
    hooks: list[tuple[str, Any]] = field(default_factory=list)

    def modules(self, at: str = "") -> Iterator[tuple[str, Layer]]:
        """Itself and all in it, each with its name."""
        yield at, self
        for name, child in self.children.items():
            yield from child.modules(f"{at}.{name}" if at else name)

    def named_parameters(self) -> list[tuple[str, Tensor]]:
        return [
            (f"{at}.{name}" if at else name, parameter)
            for at, module in self.modules()
            for name, parameter in module.parameters.items()
        ]

    def all_parameters(self) -> list[Tensor]:
        return [parameter for _, parameter in self.named_parameters()]

    def names(self, prefix: str) -> None:
        """Give the parameters the names that they have in ``prefix``."""
        for name, parameter in self.named_parameters():
            parameter.name = parameter.name or f"{prefix}_{name}".replace(".", "_")


@dataclass(eq=False, slots=True)
class Class:
    """A class of the text: what stands in its body, and the class of the text it is made from."""

    name: str
    base: Class | None
    #: ``forward`` of a module, ``__call__`` of any other.
    called: str
    body: dict[str, Any] = field(default_factory=dict)
    #: Written by the library, not in the text.
    placed: bool = False
    #: Of a dataclass, the names that its constructor takes.
    fields: list[str] | None = None
    statics: set[str] = field(default_factory=set)
    properties: set[str] = field(default_factory=set)

    def find(self, name: str) -> Any:
        """A method or a value, its own or one of those above."""
        if name in self.body:
            return self.body[name]
        return None if self.base is None else self.base.find(name)


@dataclass(frozen=True, slots=True)
class Super:
    """``super()``: an object as one of the class above."""

    self: Layer
    base: Class | None


@dataclass(eq=False, slots=True)
class Optimizer:
    """An optimizer: groups of tensors that it changes, each with the options for them."""

    kind: str
    param_groups: list[dict[str, Any]]
    #: The last step of each parameter, and its place in that.
    steps: dict[int, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


@dataclass(frozen=True, slots=True)
class Unread:
    """What is not read: it may be passed over, and is refused where a tensor would be made of it."""

    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a value before it is called."""

    owner: Any
    name: str
    place: Span


class Results(tuple[Any, ...]):
    """Several results with names: ``x.max(dim=0).values``."""

    fields: tuple[str, ...]

    def __new__(cls, fields: tuple[str, ...], values: Sequence[Any]) -> Results:
        self = super().__new__(cls, values)
        self.fields = fields
        return self

    def like(self, values: Sequence[Any]) -> Results:
        """Others under the same names."""
        return Results(self.fields, values)


@dataclass(frozen=True, slots=True)
class Call:
    """A call with its arguments worked out; ``where`` is the place of the function's name."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    place: Span
    where: Span

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by its place or its name."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get(name, default)


def is_number(value: Any) -> bool:
    """Whether arithmetic on it is done here; pi and e stay themselves in formulas."""
    return isinstance(value, (int, float)) and not isinstance(value, (bool, NamedNumber))


#: Kinds of values in words.
_WORDS: tuple[tuple[Any, str], ...] = (
    ((Tensor, Ref), "a tensor"), (type(None), "None"), (bool, "{0}"), ((int, float), "a number"),
    (str, "a string"), (tuple, "a tuple"), (list, "a list"), (dict, "a dict"), (slice, "a slice"),
    ((Own, Function, Method), "a function"), (Class, "the class `{0.name}`"), (Unread, "`{0.text}`"),
    (Module, "the module `{0.path}`"), (object, "this"),
)  # fmt: skip


def what(value: Any) -> str:
    """A value in words."""
    if isinstance(value, Layer):
        own = value.own is not None and not value.own.placed
        return f"an object of `{value.kind}`" if own else f"nn.{value.kind}"
    return next(words for kind, words in _WORDS if isinstance(value, kind)).format(value)


def promoted(kinds: Iterator[str | None] | Any) -> str | None:
    """The dtype of a result; None where an argument has that of the run."""
    found = list(kinds)
    floats = [k for k in found if k is None or k not in WHOLE]
    if not floats:
        return np.result_type(*found).name if found else None
    if None in floats:
        return None
    return "float64" if "float64" in floats else "float32"


#: In a text to be filled in: a part of an argument, a width of an argument, a wide one.
_RISKY = re.compile(r"{[^}:]*[._\[]|{[^}]*(?:{|\d{3})|%[^a-zA-Z%]*(?:[*(]|\d{3})")


def formatted(write: Callable[..., str], template: str, *parts: Any) -> str | None:
    """A text with numbers and texts put in; None where it is not known, or would take much."""
    given = [n for part in parts for n in (part if isinstance(part, tuple) else (part,))]
    if _RISKY.search(template) or not all(isinstance(n, (int, float, str)) for n in given):
        return None
    try:
        return write(template, *parts)
    except (ValueError, TypeError, LookupError):
        return None
