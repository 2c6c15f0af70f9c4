"""From a program's tree to a graph: names, calls and operators become nodes.

A value is either a `Ref` (a tensor) or plain Python (a number, a shape, a dim): arithmetic on plain
numbers is done here, in floats, and a number becomes a tensor of shape ``()`` where it meets one.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradexplain.errors import GradexplainError, InputError, Span, UnsupportedError
from gradexplain.graph import Builder, Graph, NamedNumber, Ref
from gradexplain.ops import by_spelling
from gradexplain.ops.base import Shape
from gradexplain.reading.applying import Applier, Results, flat
from gradexplain.reading.arguments import Dtype
from gradexplain.reading.names import ALSO, CONSTANTS, MODULES, dotted, functions, unknown
from gradexplain.reading.program import Program, attribute_span, span

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


def read(
    program: Program,
    shape_of: Callable[[str], Shape],
    value_of: Callable[[str], Any] = lambda name: None,
    dtype: str = "float64",
    *,
    any_size: bool = False,
) -> Graph:
    """The graph of ``program``.

    ``shape_of(name)`` is the shape of an input; ``value_of(name)`` its value where the caller gave
    one, which matters only for an input that is used as an index; ``dtype`` is the one that an
    argument ``dtype=`` may name; with ``any_size`` tensors may have more elements than can be
    worked with, for formulas alone.  Raises `InputError` and
    `UnsupportedError`, each with its place.
    """
    return Reader(program, shape_of, value_of, dtype, any_size).graph()


@dataclass(slots=True)
class Reader:
    program: Program
    shape_of: Callable[[str], Shape]
    value_of: Callable[[str], Any]
    dtype: str = "float64"
    any_size: bool = False
    builder: Builder = field(init=False)
    applier: Applier = field(init=False)
    names: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.builder = Builder(self.program.source, any_size=self.any_size)
        self.applier = Applier(self.builder, self.value_of)

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
                self.applier.apply(by_spelling("operator.getitem")[0], (value, i), place)
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
        if name in CONSTANTS and self.value_of(name) is None:
            return CONSTANTS[name]
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
        return self.applier.apply(records[0], args, place)

    def _attribute(self, node: ast.Attribute) -> Any:
        path = dotted(node)
        if path is not None and path.partition(".")[0] not in self.names:
            module, _, last = path.rpartition(".")
            if MODULES.get(module) and last in CONSTANTS:
                return CONSTANTS[last]
            if MODULES.get(module) and self.value_of(path.partition(".")[0]) is None:
                if module == "torch" and last.startswith(
                    ("float", "int", "bool", "double", "long")
                ):
                    return Dtype(path, ALSO.get(last, last) == self.dtype)
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
                    return self.applier.apply(op, (owner,), self._span(node))
            if by_spelling(f"Tensor.{name}"):
                raise self._error(
                    InputError(f"`.{name}` is a method", remedy=f"call it, as in `x.{name}()`"),
                    place,
                )
        raise self._error(unknown(name, "an attribute", attributes=True), place)

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
        return self.applier.apply(by_spelling("operator.getitem")[0], (owner, index), place)

    # -- calls -----------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Any:
        path = dotted(node.func)
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
            records = functions(MODULES.get(module, ""), name)
        args += [self.value(arg) for arg in node.args]
        kwargs = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        place = self._span(node)
        if not method and name == "len" and len(args) == 1 and isinstance(args[0], Ref):
            shape = self.builder.nodes[args[0].id].shape
            return shape[0] if shape else 1
        if name in ("tensor", "as_tensor", "Tensor", "array", "asarray") and not method:
            return self._literal(args, place, kwargs.get("dtype"))
        if not records:
            raise self._error(unknown(name, "a method" if method else "a function", path), where)
        if name in ("requires_grad_", "requires_grad"):
            return args[0]
        result = self.applier.apply_any(records, args, kwargs, place)
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
        return module in MODULES and root not in self.names and self.value_of(root) is None

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
                isinstance(p, Ref) for p in flat(args[0])
            ):
                return self.applier.apply(by_spelling("torch.stack")[0], args, place)
            return self.applier.constant(args[0], place, whole)
        except GradexplainError as error:
            raise self._error(error, place) from None

    def _tensor(self, value: Any, place: Span) -> Ref:
        if isinstance(value, Ref):
            return value
        if isinstance(value, (int, float, list)):
            try:
                return self.applier.constant(value, place)
            except GradexplainError as error:
                raise self._error(error, place) from None
        raise self._error(
            InputError(
                f"{_what(value)} is not a tensor", remedy="the last statement must be a tensor"
            ),
            place,
        )


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
