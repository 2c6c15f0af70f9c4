"""From a program's tree to a graph: names, calls and operators become nodes.

A value is either a `Ref` (a tensor) or plain Python (a number, a shape, a dim): arithmetic on plain
numbers is done here, in floats, and a number becomes a tensor of shape ``()`` where it meets one.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain.binding import Dtype, Tensors, bind, is_regular
from gradexplain.errors import GradexplainError, InputError, Span, UnsupportedError
from gradexplain.graph import Builder, Graph, NamedNumber, Node, Ref
from gradexplain.ops import Op, all_spellings, by_spelling
from gradexplain.ops.base import Shape
from gradexplain.syntax import Program, attribute_span, span

#: Python's operators, by the operation that carries them out on tensors.
_BINARY: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", lambda a, b: a + b),
    ast.Sub: ("sub", lambda a, b: a - b),
    ast.Mult: ("mul", lambda a, b: a * b),
    ast.Div: ("div", lambda a, b: a / b),
    ast.FloorDiv: ("floor_divide", lambda a, b: a // b),
    ast.Mod: ("remainder", lambda a, b: a % b),
    ast.Pow: ("pow", lambda a, b: _power(a, b)),
    ast.MatMult: ("matmul", lambda a, b: _no_numbers()),
    ast.BitAnd: ("bitwise_and", lambda a, b: a & b),
    ast.BitOr: ("bitwise_or", lambda a, b: a | b),
}
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne",
}  # fmt: skip

#: Names that stand for a module of PyTorch (or Python's math) when nothing was assigned to them.
_MODULES = {
    "torch": "torch", "F": "F", "nn": "nn", "math": "math", "functional": "F", "special": "special",
    "linalg": "linalg", "torch.nn": "nn", "torch.nn.functional": "F", "nn.functional": "F",
    "torch.special": "special", "torch.linalg": "linalg", "torch.functional": "torch",
    "torch.Tensor": "Tensor", "Tensor": "Tensor", "np": "numpy", "numpy": "numpy",
}  # fmt: skip
_CONSTANTS = {
    "pi": NamedNumber("pi", math.pi), "e": NamedNumber("e", math.e), "inf": math.inf,
    "nan": math.nan, "tau": math.tau,
}  # fmt: skip

#: PyTorch's shorter names of dtypes.
_ALSO = {"double": "float64", "float": "float32"}

#: What draws random numbers.
_RANDOM = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "dropout",
           "uniform", "poisson", "dropout1d", "dropout2d", "alpha_dropout", "empty"}  # fmt: skip

#: Where a bare name is looked for, in this order.
_BARE = ("torch", "F", "linalg", "special", "Tensor")


def read(
    program: Program,
    shape_of: Callable[[str], Shape],
    value_of: Callable[[str], Any] = lambda name: None,
    dtype: str = "float64",
) -> Graph:
    """The graph of ``program``.

    ``shape_of(name)`` is the shape of an input; ``value_of(name)`` its value where the caller gave
    one, which matters only for an input that is used as an index; ``dtype`` is the one that an
    argument ``dtype=`` may name.  Raises `InputError` and
    `UnsupportedError`, each with its place.
    """
    return Reader(program, shape_of, value_of, dtype).graph()


@dataclass(slots=True)
class Reader:
    program: Program
    shape_of: Callable[[str], Shape]
    value_of: Callable[[str], Any]
    dtype: str = "float64"
    builder: Builder = field(init=False)
    names: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.builder = Builder(self.program.source)

    def graph(self) -> Graph:
        last: Any = None
        for statement in self.program.statements:
            last = self.value(statement.value)
            if statement.unpacks:
                last = self._unpack(last, statement.targets, statement.span)
            elif statement.targets:
                last = self._assign(statement.targets[0], last)
        if isinstance(last, (tuple, list)) and last and all(isinstance(r, Ref) for r in last):
            raise self._error(
                InputError(
                    f"the last statement gives {len(last)} tensors; backward starts from one",
                    remedy="pick one, as in `q[0]`, or join them with cat or stack",
                ),
                self.program.statements[-1].span,
            )
        output = self._tensor(last, self.program.statements[-1].span)
        node = self.builder.nodes[output.id]
        if node.integer:
            raise self._error(
                InputError(
                    "the output holds integers or true/false, which have no gradient",
                    remedy="end with a real-valued expression",
                ),
                self.program.statements[-1].span,
            )
        if node.op is None:
            # ``y = x``: a node of its own, so that the output is something computed.
            output = self.builder.apply(by_spelling("torch.positive")[0], (output,), node.span)
        if not self.builder.nodes[output.id].named:
            taken = set(self.names) | {n.label for n in self.builder.nodes if n.named}
            free = next(name for name in self._output_names() if name not in taken)
            output = self.builder.name(output, free)
        return self.builder.graph(output)

    def _output_names(self) -> Any:
        yield from ("y", "z", "out", "result")
        count = 1
        while True:
            yield f"y{count}"
            count += 1

    def _assign(self, name: str, value: Any) -> Any:
        if isinstance(value, Ref):
            value = self.builder.name(value, name)
        self.names[name] = value
        return value

    def _unpack(self, value: Any, targets: Sequence[str], place: Span) -> Any:
        if isinstance(value, Ref):
            shape = self.builder.nodes[value.id].shape
            if not shape:
                raise self._error(InputError("a tensor of shape () cannot be unpacked"), place)
            value = tuple(
                self._apply(by_spelling("operator.getitem")[0], (value, i), place)
                for i in range(min(shape[0], 1000))
            )
        if not isinstance(value, (tuple, list)) or len(value) != len(targets):
            found = len(value) if isinstance(value, (tuple, list)) else 1
            raise self._error(
                InputError(
                    f"{len(targets)} names for {found} value{'s' * (found != 1)}",
                    remedy="give as many names as there are values",
                ),
                place,
            )
        for name, part in zip(targets, value, strict=True):
            self._assign(name, part)
        return value

    # -- expressions -----------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        """The value of an expression: a `Ref`, or plain Python."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                return self._name(name, self._span(node))
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(node, type(op), self.value(left), self.value(right))
            case ast.UnaryOp(op=op, operand=operand):
                return self._unary(node, op, self.value(operand))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                a, b = self.value(left), self.value(right)
                return self._operator(_COMPARE[type(op)], (a, b), self._span(node))
            case ast.Call():
                return self._call(node)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Subscript(value=value, slice=index):
                return self._subscript(self.value(value), self.value(index), self._span(node))
            case ast.Slice(lower=lower, upper=upper, step=step):
                parts = [
                    None if part is None else self.value(part) for part in (lower, upper, step)
                ]
                if any(
                    p is not None and (isinstance(p, bool) or not isinstance(p, int)) for p in parts
                ):
                    raise self._error(InputError("a slice takes integers"), self._span(node))
                return slice(*parts)
            case ast.Tuple(elts=elements):
                return tuple(self.value(part) for part in elements)
            case ast.List(elts=elements):
                return [self.value(part) for part in elements]
        raise self._error(InputError("this is not part of the language"), self._span(node))

    def _span(self, node: ast.AST) -> Span:
        return span(self.program, node)

    def _error(self, error: GradexplainError, place: Span) -> GradexplainError:
        return error.at(self.program.source, place)

    def _name(self, name: str, place: Span) -> Any:
        if name in self.names:
            return self.names[name]
        if name in _CONSTANTS and self.value_of(name) is None:
            return _CONSTANTS[name]
        if name in ("torch", "F", "nn") and self.value_of(name) is None:
            raise self._error(
                InputError(
                    f"`{name}` is PyTorch's module, not a tensor",
                    remedy="name one of its functions, as in `torch.log(x)`",
                ),
                place,
            )
        try:
            shape = self.shape_of(name)
        except GradexplainError as error:
            raise self._error(error, place) from None
        self.names[name] = self.builder.leaf(name, shape, place)
        return self.names[name]

    def _binary(self, node: ast.BinOp, op: type[ast.operator], a: Any, b: Any) -> Any:
        name, plain = _BINARY[op]
        place = self._span(node)
        if _is_number(a) and _is_number(b):
            try:
                result = plain(a, b)
            except (ArithmeticError, ValueError, TypeError):
                result = math.nan
            if isinstance(result, complex) or result != result or abs(result) > 1e308:
                raise self._error(
                    InputError(
                        "this arithmetic has no finite real value",
                        remedy="numbers are computed in float64, up to 1.8e308",
                    ),
                    place,
                )
            # Integers stay integers (a dim, a size) while a float could hold them too.
            return result if abs(result) < 2**53 else float(result)
        for side, operand in ((node.left, a), (node.right, b)):
            if not _is_operand(operand):
                raise self._error(
                    InputError(
                        f"{_what(operand)} cannot be an operand of `{_symbol(op)}`",
                        remedy="operands are tensors and numbers",
                    ),
                    self._span(side),
                )
        return self._operator(name, (a, b), place)

    def _unary(self, node: ast.UnaryOp, op: ast.unaryop, operand: Any) -> Any:
        if isinstance(op, (ast.Not, ast.Invert)):
            if isinstance(operand, bool):
                return not operand
            return self._operator("logical_not", (operand,), self._span(node))
        if _is_number(operand):
            return -operand if isinstance(op, ast.USub) else operand
        if not _is_operand(operand):
            raise self._error(
                InputError(
                    f"{_what(operand)} has no sign", remedy="operands are tensors and numbers"
                ),
                self._span(node.operand),
            )
        return self._operator(
            "neg" if isinstance(op, ast.USub) else "positive", (operand,), self._span(node)
        )

    def _operator(self, name: str, args: tuple[Any, ...], place: Span) -> Any:
        records = by_spelling(f"torch.{name}")
        if not records:
            raise self._error(UnsupportedError(f"`{name}` is not supported yet"), place)
        return self._apply(records[0], args, place)

    def _attribute(self, node: ast.Attribute) -> Any:
        path = _dotted(node)
        if path is not None and path.partition(".")[0] not in self.names:
            module, _, last = path.rpartition(".")
            if _MODULES.get(module) and last in _CONSTANTS:
                return _CONSTANTS[last]
            if _MODULES.get(module) and self.value_of(path.partition(".")[0]) is None:
                if module == "torch" and last.startswith(
                    ("float", "int", "bool", "double", "long")
                ):
                    return Dtype(path, _ALSO.get(last, last) == self.dtype)
                raise self._error(
                    InputError(f"`{path}` is a function", remedy=f"call it, as in `{path}(x)`"),
                    self._span(node),
                )
        owner = self.value(node.value)
        name = node.attr
        place = attribute_span(self.program, node)
        if isinstance(owner, Results) and name in owner.fields:
            return owner[owner.fields.index(name)]
        if isinstance(owner, Ref):
            shape = self.builder.nodes[owner.id].shape
            if name == "shape":
                return shape
            if name in ("ndim",):
                return len(shape)
            if name == "data":
                name = "detach"
                return self._operator(name, (owner,), self._span(node))
            for op in by_spelling(f"Tensor.{name}"):
                if op.attribute:
                    return self._apply(op, (owner,), self._span(node))
            if by_spelling(f"Tensor.{name}"):
                raise self._error(
                    InputError(f"`.{name}` is a method", remedy=f"call it, as in `x.{name}()`"),
                    place,
                )
        raise self._error(_unknown(name, "an attribute", attributes=True), place)

    def _subscript(self, owner: Any, index: Any, place: Span) -> Any:
        if isinstance(owner, (tuple, list)):
            if isinstance(index, (int, slice)) and not isinstance(index, bool):
                try:
                    return owner[index]
                except IndexError:
                    raise self._error(
                        InputError(f"index {index} is out of range for {len(owner)} values"), place
                    ) from None
            raise self._error(InputError("an index here must be an integer"), place)
        if not isinstance(owner, Ref):
            raise self._error(InputError(f"{_what(owner)} has no elements to index"), place)
        return self._apply(by_spelling("operator.getitem")[0], (owner, index), place)

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Any:
        path = _dotted(node.func)
        method = isinstance(node.func, ast.Attribute) and not self._is_module(path)
        args: list[Any] = []
        if method:
            assert isinstance(node.func, ast.Attribute)
            owner = self.value(node.func.value)
            name = node.func.attr
            where = attribute_span(self.program, node.func)
            known = self._builtin_method(owner, name, node)
            if known is not _NOTHING:
                return known
            if _is_number(owner):
                owner = self.builder.constant(owner, self._span(node.func.value))
            if not isinstance(owner, Ref):
                raise self._error(InputError(f"{_what(owner)} has no methods"), where)
            args.append(owner)
            records = [op for op in by_spelling(f"Tensor.{name}") if not op.attribute]
        else:
            assert path is not None
            where = self._span(node.func)
            module, _, name = path.rpartition(".")
            records = self._functions(_MODULES.get(module, ""), name)
        args += [self.value(arg) for arg in node.args]
        kwargs = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        place = self._span(node)
        if not method and name == "len" and len(args) == 1 and isinstance(args[0], Ref):
            shape = self.builder.nodes[args[0].id].shape
            return shape[0] if shape else 1
        if name in ("tensor", "as_tensor", "Tensor", "array", "asarray") and not method:
            return self._literal(args, place, kwargs.get("dtype"))
        if not records:
            raise self._error(_unknown(name, "a method" if method else "a function", path), where)
        if name in ("requires_grad_", "requires_grad"):
            return args[0]
        result = self._apply_any(records, args, kwargs, place)
        if kwargs.get("inplace") is True or (records[0].inplace and args[-1] is True):
            self._changed(args[0], result, place)
        return result

    def _changed(self, old: Any, new: Ref, place: Span) -> None:
        """``inplace=True``: from here on, the names of ``old`` are those of ``new``."""
        node = self.builder.nodes[old.id] if isinstance(old, Ref) else None
        if node is None or node.op is None or node.op.moves:
            what = "an input" if node is None or node.op is None else "a view of another tensor"
            raise self._error(
                UnsupportedError(
                    f"inplace=True of {what} is not supported"
                    + (": PyTorch refuses to change a leaf in place" if "input" in what else ""),
                    remedy="leave it out, and give the result a name",
                ),
                place,
            )
        for name, value in self.names.items():
            if value == old:
                self.names[name] = new

    def _is_module(self, path: str | None) -> bool:
        if path is None:
            return False
        root = path.partition(".")[0]
        module = path.rpartition(".")[0]
        return module in _MODULES and root not in self.names and self.value_of(root) is None

    def _functions(self, module: str, name: str) -> list[Op]:
        homes = (module,) if module and module not in ("math", "numpy", "nn") else _BARE
        for home in homes:
            records = by_spelling(f"{home}.{name}")
            if records:
                return records
        return []

    def _builtin_method(self, owner: Any, name: str, node: ast.Call) -> Any:
        """What Python answers about a tensor without computing anything."""
        if not isinstance(owner, Ref):
            return _NOTHING
        shape = self.builder.nodes[owner.id].shape
        match name:
            case "size":
                values = [self.value(arg) for arg in node.args]
                values += [self.value(keyword.value) for keyword in node.keywords]
                if not values:
                    return shape
                if (
                    len(values) == 1
                    and isinstance(values[0], int)
                    and -len(shape) <= values[0] < len(shape)
                ):
                    return shape[values[0]]
                raise self._error(
                    InputError(f"size() takes one dimension of the {len(shape)}"), self._span(node)
                )
            case "dim" | "ndimension":
                return len(shape)
            case "numel" | "nelement":
                return math.prod(shape)
            case "to" if len(node.args) == 1 and not node.keywords:
                wanted = self.value(node.args[0])
                if isinstance(wanted, Dtype) and not wanted.own:
                    raise self._error(wanted.refused(), self._span(node.args[0]))
                return owner if isinstance(wanted, Dtype) else _NOTHING
            case "clone" | "contiguous" | "double" | "float" | "requires_grad_" | "cpu":
                return owner
        return _NOTHING

    def _apply_any(self, records: list[Op], args: list[Any], kwargs: Any, place: Span) -> Any:
        """The first record whose schema fits; else what the last but most specific one says."""
        errors = []
        for op in records:
            try:
                return self._apply(op, args, place, **kwargs)
            except GradexplainError as error:
                if len(records) == 1 or (
                    error.source is not None and not getattr(error, "binding", 0)
                ):
                    raise
                errors.append(error)
        raise errors[0]

    def _apply(self, op: Op, args: Sequence[Any], place: Span, /, **kwargs: Any) -> Any:
        try:
            tensors = Tensors(
                lambda value, integer=False: self._constant(value, place, integer),
                self._is_integer,
            )
            bound = bind(op, args, kwargs, tensors)
        except GradexplainError as error:
            error.binding = True  # type: ignore[attr-defined]
            raise self._error(error, place) from None
        if op.expand is not None:
            try:
                return op.expand(Calls(self, place), *bound)
            except GradexplainError as error:
                raise self._error(error, place) from None
        return self.builder.apply(op, bound, place)

    def _is_integer(self, ref: Ref) -> bool:
        """Whether a tensor can be an index; an input that is used as one becomes an integer input."""
        node = self.builder.nodes[ref.id]
        if node.integer:
            return True
        value = self._known(node)
        if value is None or not (np.isfinite(value) & (value == np.floor(value))).all():
            return False
        self.builder.nodes[ref.id] = dataclasses.replace(node, integer=True)
        self.builder.known[ref.id] = value
        return True

    def _known(self, node: Node) -> Any:
        """The value of an input or of a constant as an array, None where it is not known."""
        if node.is_leaf:
            return self.value_of(node.label)
        return None if node.op is not None else np.asarray(node.value)

    def _constant(self, value: Any, place: Span, integer: bool = False) -> Ref:
        if isinstance(value, (list, tuple)):
            if any(isinstance(part, Ref) for part in _flat(value)):
                raise InputError(
                    "a list of tensors is not a tensor", remedy="join them: stack([a, b])"
                )
            if not is_regular(value):
                raise InputError(
                    "a nested list of numbers must have rows of equal length",
                    remedy="write it as in [[1, 2], [3, 4]]",
                )
        return self.builder.constant(value, place, integer=integer)

    def _literal(self, args: list[Any], place: Span, dtype: Any = None) -> Any:
        whole = isinstance(dtype, Dtype) and dtype.path.rpartition(".")[2] in ("int64", "long")
        if isinstance(dtype, Dtype) and not dtype.own and not whole:
            raise self._error(dtype.refused(), place)
        if len(args) == 1 and isinstance(args[0], Ref):
            return args[0]
        if len(args) != 1 or not isinstance(args[0], (list, tuple, int, float)):
            raise self._error(InputError("tensor() takes one nested list of numbers"), place)
        try:
            if isinstance(args[0], (list, tuple)) and any(
                isinstance(p, Ref) for p in _flat(args[0])
            ):
                return self._apply(by_spelling("torch.stack")[0], args, place)
            return self._constant(args[0], place, whole)
        except GradexplainError as error:
            raise self._error(error, place) from None

    def _tensor(self, value: Any, place: Span) -> Ref:
        if isinstance(value, Ref):
            return value
        if isinstance(value, (int, float, list)):
            try:
                return self._constant(value, place)
            except GradexplainError as error:
                raise self._error(error, place) from None
        raise self._error(
            InputError(
                f"{_what(value)} is not a tensor", remedy="the last statement must be a tensor"
            ),
            place,
        )


class Results(tuple[Any, ...]):
    """Several results with names: ``x.max(dim=0).values``."""

    fields: tuple[str, ...]

    def __new__(cls, fields: tuple[str, ...], values: Sequence[Any]) -> Results:
        self = super().__new__(cls, values)
        self.fields = fields
        return self


@dataclass(frozen=True, slots=True)
class Calls:
    """What a record's ``expand`` builds with: ``b.call("narrow", x, dim, start, length)``."""

    reader: Reader
    place: Span

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        home = "operator" if name == "getitem" else ""
        records = by_spelling(f"{home}.{name}") or self.reader._functions("", name)
        return self.reader._apply_any(records, list(args), kwargs, self.place)

    def apply(self, op: Op, *args: Any) -> Ref:
        """A value of one record, its arguments in the order of the schema."""
        return self.reader.builder.apply(op, args, self.place)

    def constant(self, value: Any, *, integer: bool = False) -> Ref:
        """A number, a nested list, or an array."""
        return self.reader.builder.constant(value, self.place, integer=integer)

    def values(self, x: Ref) -> Any:
        """The values of an input or of a constant, None for what is computed."""
        return self.reader._known(self.node(x))

    def node(self, x: Ref) -> Node:
        return self.reader.builder.nodes[x.id]

    def shape(self, x: Ref) -> Shape:
        return self.reader.builder.nodes[x.id].shape

    def results(self, fields: tuple[str, ...], *values: Any) -> Results:
        return Results(fields, values)


_NOTHING = object()


def _power(a: float, b: float) -> float:
    """In floats: 9**9**9**9 must not become an integer of a billion digits."""
    result = float(a) ** float(b)
    whole = isinstance(a, int) and isinstance(b, int) and b >= 0
    return int(result) if whole and abs(result) < 2**53 else result


def _no_numbers() -> float:
    raise TypeError


def _is_number(value: Any) -> bool:
    """Whether arithmetic on it is done here; pi and e stay themselves in formulas."""
    return isinstance(value, (int, float)) and not isinstance(value, (bool, NamedNumber))


def _is_operand(value: Any) -> bool:
    return isinstance(value, (Ref, int, float, list))


def _symbol(op: type[ast.operator]) -> str:
    symbols = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//",
               ast.Mod: "%", ast.Pow: "**", ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|"}  # fmt: skip
    return symbols[op]


def _what(value: Any) -> str:
    match value:
        case Ref():
            return "a tensor"
        case None:
            return "None"
        case bool():
            return f"{value}"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case tuple():
            return "a tuple"
        case list():
            return "a list"
    return "a slice" if isinstance(value, slice) else "this"


def _dotted(node: ast.expr) -> str | None:
    """``torch.nn.functional.relu`` for a chain of names, None for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def _flat(value: Any) -> Any:
    stack = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, (list, tuple)):
            stack.extend(part)
        else:
            yield part


#: What belongs to a script around an expression, and what does its work here.
_INSTEAD = {
    "backward": "leave it out: backward is called for you, and --grad is its argument",
    "grad": "leave it out: .grad is worked out for every input",
    "retain_grad": "leave it out; --retain-grad NAME shows .grad of an intermediate",
    "requires_grad": "leave it out: every input requires grad, or those that --wrt names",
    "cuda": "leave it out: a gradient is the same on every device",
    **dict.fromkeys(
        ("item", "tolist", "numpy"), "leave it out: values are shown as they are, and a gradient needs tensors"
    ),
    **dict.fromkeys(("no_grad", "inference_mode"), "write `.detach()` where the gradient is to stop"),
    "is_grad_enabled": "leave it out: gradients are always enabled here",
}  # fmt: skip

#: The nearest operation where the spelling would not find it.
_NEAREST = {
    "svd": "linalg.pinv", "svdvals": "linalg.matrix_norm", "lstsq": "linalg.pinv",
    "eig": "matrix_power", "eigh": "matrix_power", "eigvals": "linalg.det",
    "eigvalsh": "linalg.det", "qr": "cholesky", "lu": "linalg.solve", "lu_factor": "linalg.solve",
    "lu_solve": "linalg.solve", "cholesky_solve": "linalg.solve", "ldl_factor": "cholesky",
    "matrix_rank": "linalg.matrix_norm", "cond": "linalg.matrix_norm",
}  # fmt: skip


def _unknown(
    name: str, what: str, path: str | None = None, attributes: bool = False
) -> GradexplainError:
    """The error for a name that no record has: unknown to PyTorch too, or not supported yet."""
    shown = f"`{path}`" if path and "." in path and what == "a function" else f"`{name}`"
    last = {spelling.rpartition(".")[2] for spelling in all_spellings()} - {"getitem", "positive"}
    near = difflib.get_close_matches(name, sorted(last), n=1, cutoff=0.7)
    remedy = f"did you mean `{near[0]}`?" if near else "`gradexplain ops` lists what is known"
    if name.rstrip("_").removesuffix("_like") in _RANDOM:
        return UnsupportedError(
            f"{shown} is not supported: it is random, and an explanation is the same every time",
            remedy="name an input instead, and give it values with --at",
        )
    if _known_to_torch(name, attributes):
        if name in _INSTEAD:
            return UnsupportedError(f"{shown} is no operation here", remedy=_INSTEAD[name])
        near = [_NEAREST[name]] if name in _NEAREST else difflib.get_close_matches(name, last, n=1)
        nearest = f"; the nearest that is: `{near[0]}`" if near else ""
        return UnsupportedError(
            f"{shown} is not supported yet", remedy=f"`gradexplain ops` lists what is{nearest}"
        )
    return InputError(f"{shown} is not {what} of PyTorch", remedy=remedy)


def _known_to_torch(name: str, attributes: bool) -> bool:
    """Asked only on the way to an error: the answer takes an import of PyTorch."""
    try:
        import torch
    except ImportError:
        return False
    homes = [torch.Tensor] if attributes else [
        torch, torch.nn.functional, torch.linalg, torch.special, torch.Tensor,
    ]  # fmt: skip
    return not name.startswith("_") and any(hasattr(home, name) for home in homes)
