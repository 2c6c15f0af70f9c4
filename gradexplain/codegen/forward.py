"""The expression's own operations as PyTorch, written from its graph."""

from __future__ import annotations

import keyword
import math
import sys
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradexplain.codegen.lines import Names
from gradexplain.codegen.numbers import NEAR, integer, is_prime, shortest
from gradexplain.codegen.record import Operand
from gradexplain.errors import UnsupportedError
from gradexplain.graph import Graph, Node, Ref
from gradexplain.installed import imported
from gradexplain.ops.base import Shape
from gradexplain.routes.pytorch import function_of

#: Names that the code uses itself.
RESERVED = {
    "ctx", "torch", "F", "math", "grad_output", "self",
    "ValueError", "float", "int", "len", "max", "min", "range", "slice", "sum", "tuple",
}  # fmt: skip
_ATOM, _POWER, _UNARY, _MUL, _ADD = 4, 3, 2, 1, 0
_INFIX = {
    "{} + {}": ("+", _ADD), "{} - {}": ("-", _ADD), "{}*{}": ("*", _MUL), "{}/{}": ("/", _MUL),
    "{} @ {}": ("@", _MUL), "{}**{}": ("**", _POWER),
}  # fmt: skip


def python_names(graph: Graph) -> dict[str, str]:
    """What each label is called in the code."""
    names: dict[str, str] = {}
    free = Names({*RESERVED, *keyword.kwlist})
    for node in sorted(graph.nodes, key=lambda n: _word(n) != ""):
        name = _word(node) or _plain(node.label)
        if not node.is_literal:
            names[node.label] = free.free(
                f"{name}_" if name in RESERVED or keyword.iskeyword(name) else name
            )
    return names


#: What values without a name are called, by the operation that makes them.
_RESULTS = {
    "softmax": "p", "log_softmax": "log_p", "sqrt": "root",
    **{name: name for name in ("norm", "mean", "std", "var", "exp", "log", "tanh", "sigmoid", "relu", "gelu",
       "silu", "sin", "cos",
       "softplus", "logsumexp", "conv1d", "conv2d", "conv3d", "batch_norm", "layer_norm", "rsqrt")},
}  # fmt: skip


def _word(node: Node) -> str:
    """A word for a value that has no name of its own."""
    if node.op is None:
        return (
            "index" if node.integer and not node.is_leaf and node.label.startswith("mask") else ""
        )
    return "" if node.named else _RESULTS.get(node.op.name, "")


#: Letters of the records' own names, as words.
_WORDS = {
    "μ": "mu", "σ": "sigma", "λ": "lam", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta",
    "ρ": "rho", "τ": "tau", "ε": "eps", "θ": "theta", "φ": "phi",
}  # fmt: skip


def _plain(label: str) -> str:
    """A label as a name: ``x̂`` is ``x_hat``, ``μ`` is ``mu``."""
    text = unicodedata.normalize("NFD", label).replace("\u0302", "_hat").replace("\u0304", "_bar")
    text = "".join(_WORDS.get(ch, ch) for ch in text)
    text = "".join(ch if ch.isascii() and (ch.isalnum() or ch == "_") else "_" for ch in text)
    return text if text.strip("_") and not text[0].isdigit() else f"t{text}"


@dataclass(eq=False)
class Writer:
    """Writes nodes of a graph as PyTorch.  ``known`` are the nodes that have a name in the code."""

    graph: Graph
    names: Mapping[str, str]
    #: What a number is that is the size of an axis.
    size: Callable[[int], str | None] = lambda n: None

    def __post_init__(self) -> None:
        #: A tensor whose dtype and device constants take.
        self.like = self.names[self.graph.leaves[0].label]

    def text(self, node: Node, known: set[int]) -> str:
        """One node by its operation, unnamed values written out."""
        return self._call(node, known)[0]

    def _value(self, id: int, known: set[int]) -> tuple[str, int]:
        node = self.graph[id]
        if node.is_literal:
            return self.number(node.value), _ATOM if node.value >= 0 else _UNARY
        if id in known or node.is_leaf:
            return self.names[node.label], _ATOM
        if node.op is None:
            return self.constant(node), _ATOM
        return self._call(node, known)

    def number(self, value: Any) -> str:
        """A number; the sizes of axes in it by name."""
        if not isinstance(value, int) or isinstance(value, bool):
            return shortest(value)

        def size(n: int) -> str | None:  # a number of the user's is no size that it happens to be
            return self.size(n) if is_prime(n) else None

        return f"-{integer(-value, size)}" if value < 0 else integer(value, size)

    def constant(self, node: Node) -> str:
        """A tensor of numbers that the expression holds."""
        values = node.value.tolist()
        if node.integer:
            return f"torch.tensor({_whole(values)!r}, device={self.like}.device)"
        if node.value.size > 1 and np.ptp(node.value) == 0:
            shape, value = self._argument(node.shape, set()), float(node.value.flat[0])
            made = {0.0: "zeros({})", 1.0: "ones({})"}.get(value, f"full({{}}, {shortest(value)})")
            return f"{self.like}.new_{made.format(shape)}"
        return f"{self.like}.new_tensor({values!r})"

    def _call(self, node: Node, known: set[int]) -> tuple[str, int]:
        op = node.op
        assert op is not None
        if op.written is not None:
            known_names = [self._inner(arg, known) for arg in node.args]
            return op.written(self, *known_names), _ATOM
        if op.infix in _INFIX and len(node.inputs) == 2 and all(
            p.is_aux or isinstance(a, Ref) or a == p.default
            for p, a in zip(op.parameters, node.args, strict=True)
        ):  # fmt: skip
            sign, level = _INFIX[op.infix]
            (a, la), (b, lb) = (self._value(i, known) for i in node.inputs)
            if sign == "**":
                a = a if la >= _ATOM else f"({a})"
                b = b if lb >= _UNARY else f"({b})"
                simple = (
                    a.replace("_", "").replace(".", "").isalnum()
                    and b.lstrip("-").replace(".", "").isalnum()
                )
                return (f"{a}**{b}" if simple else f"{a} ** {b}"), _POWER
            a = a if la >= level else f"({a})"
            b = b if lb > level else f"({b})"
            return f"{a} {sign} {b}", level
        if op.name == "neg":
            a, la = self._value(node.inputs[0], known)
            return f"-{a if la >= _POWER else f'({a})'}", _UNARY
        if op.name == "positive":
            a, la = self._value(node.inputs[0], known)
            return (f"{a}.clone()" if la == _ATOM else a), la
        if op.name == "getitem":
            a, la = self._value(node.inputs[0], known)
            places = self.index(node.args[1], known, self.graph[node.inputs[0]].shape)
            return f"{a if la == _ATOM else f'({a})'}[{places}]", _ATOM
        if op.attribute:
            a, la = self._value(node.inputs[0], known)
            return f"{a if la == _ATOM else f'({a})'}.{op.name}", _ATOM
        return self._function(node, known), _ATOM

    def _function(self, node: Node, known: set[int]) -> str:
        op = node.op
        assert op is not None
        if hasattr(math, op.name) and len(node.inputs) == 1 and self.is_number(node):
            return f"math.{op.name}({self._value(node.inputs[0], known)[0]})"
        home = op.spellings[0].rpartition(".")[0] if op.spellings else "Tensor"
        if home not in _PREFIXES:
            raise UnsupportedError(f"codegen cannot write {op.name} as PyTorch yet")
        own = home == "Tensor" or (
            "Tensor" in op.homes.split() and op.family in ("reduction", "shape")
        )
        if op.spellings and "torch" in sys.modules:  # else it is found out when the line is run
            function_of(imported(), op)
        owner, pieces = "", []
        for place, (p, arg) in enumerate(zip(op.parameters, node.args, strict=True)):
            if p.is_aux or (not p.required and arg == p.default):
                continue
            if place == 0 and own and isinstance(arg, Ref) and not self.graph[arg.id].is_literal:
                text, level = self._value(arg.id, known)
                owner = text if level == _ATOM else f"({text})"
                continue
            if p.name in _SETTINGS and isinstance(arg, tuple) and len(arg) == 1:
                arg = arg[0]
            shown = self._argument(arg, known)
            if p.kind == "IntTensor":
                shown = self._operand(arg, whole=True) if self._is_number(arg) else shown
            elif p.is_tensor and self._is_number(arg) and self._needs_tensor(node, arg):
                shown = f"{self.like}.new_tensor({shown})"
            # Behind what is required PyTorch has arguments that no record knows: by name.
            named = p.keyword_only or not p.required or (p.name == "dim" and op.family != "shape")
            pieces.append(f"{p.name}={shown}" if named else shown)
        if owner:
            return f"{owner}.{op.name}({', '.join(pieces)})"
        return f"{_PREFIXES[home]}.{op.name}({', '.join(pieces)})"

    def is_number(self, node: Node) -> bool:
        """Whether a value is made of numbers alone, so that it is one in Python."""
        made = node.op is not None and node.op.pointwise and node.shape == ()
        return node.is_literal or (made and all(self.is_number(self.graph[i]) for i in node.inputs))

    def _is_number(self, arg: Any) -> bool:
        return isinstance(arg, Ref) and self.graph[arg.id].is_literal

    def _needs_tensor(self, node: Node, arg: Ref) -> bool:
        """Whether PyTorch's function takes no number where the expression has one."""
        op = node.op
        if op is None or not op.pointwise or "torch" not in sys.modules:
            return False
        torch = imported()
        sample = [
            self.graph[a.id].value if a == arg else torch.ones(()) if isinstance(a, Ref) else a
            for a in node.args
        ]
        try:
            function_of(torch, op)(*sample)
        except TypeError:
            return True
        except RuntimeError:  # something else is wrong with the sample
            return False
        return False

    def _inner(self, arg: Any, known: set[int]) -> Any:
        """An argument as ``written`` sees it: a value that may be put before a dot."""
        if isinstance(arg, Ref):
            text, level = self._value(arg.id, known)
            return Operand(text if level == _ATOM else f"({text})", self.graph[arg.id].shape)
        return arg

    def operand(self, node: Node) -> Operand:
        """A node as a record's ``backward`` sees it."""
        text = self.number(node.value) if node.is_literal else self.names[node.label]
        return Operand(text, node.shape)

    def operands(self, node: Node) -> list[Any]:
        """The arguments of a node as a record's ``backward`` sees them."""
        assert node.op is not None
        return [
            self._operand(arg, whole=p.kind == "IntTensor")
            for p, arg in zip(node.op.parameters, node.args, strict=True)
        ]

    def _operand(self, arg: Any, *, whole: bool = False) -> Any:
        if isinstance(arg, Ref):
            node = self.graph[arg.id]
            if whole and node.is_literal:
                text = f"torch.tensor({int(node.value)}, device={self.like}.device)"
                return Operand(text, node.shape)
            return self.operand(node)
        if isinstance(arg, tuple) and any(isinstance(part, Ref) for part in arg):
            return tuple(self._operand(part) for part in arg)
        return arg

    def _argument(self, arg: Any, known: set[int]) -> str:
        if isinstance(arg, Ref):
            return self._value(arg.id, known)[0]
        if isinstance(arg, tuple):
            parts = [self._argument(part, known) for part in arg]
            if any(isinstance(part, Ref) for part in arg):
                return f"[{', '.join(parts)}]"
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        if isinstance(arg, str):
            return f'"{arg}"'
        return self.number(arg) if isinstance(arg, (int, float)) else repr(arg)

    def index(self, index: Any, known: set[int], shape: Shape = ()) -> str:
        """A subscript of a tensor of this ``shape`` as it is written."""
        items = index if isinstance(index, tuple) else (index,)
        sizes: list[int | None] = [None] * len(items)
        if shape and all(item is Ellipsis or isinstance(item, (int, slice)) for item in items):
            before = items.index(Ellipsis) if Ellipsis in items else len(items)
            behind = len(items) - before - 1
            sizes = [*shape[:before], None, *shape[len(shape) - behind :]]
        return ", ".join(self._place(*pair, known) for pair in zip(items, sizes, strict=False))

    def _place(self, item: Any, size: int | None, known: set[int]) -> str:
        if isinstance(item, Operand):
            return item
        if isinstance(item, Ref) and self.graph[item.id].op is None and item.id not in known:
            value = self.graph[item.id].value
            if value is not None and np.ndim(value) == 1:  # a list of lists is several subscripts
                return repr(_whole(value.tolist()))
        if item is Ellipsis:
            return "..."
        if isinstance(item, slice):
            start, stop = (self._bound(n, size) for n in (item.start or None, item.stop))
            return f"{start}:{stop}" + ("" if item.step in (None, 1) else f":{item.step}")
        return self._argument(item, known)

    def _bound(self, n: int | None, size: int | None) -> str:
        """Where a slice starts or stops: counted from the end where it is near to that of any size."""
        if n is None or n == size:
            return ""
        if size is not None and -NEAR < n - size < 0 and not self.number(size).isdigit():
            return str(n - size)
        return self.number(n)


#: Arguments for each spatial dim, of which one number stands for all.
_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "dims")
_PREFIXES = {
    "torch": "torch", "F": "F", "linalg": "torch.linalg", "special": "torch.special",
    "Tensor": "torch",
}  # fmt: skip


#: Records that other records are made of, whose arguments are those of PyTorch's function.
_UNSPELLED = {
    "getitem", "roll", "index_select", "gather", "take", "take_along_dim", "masked_select",
    "repeat_interleave", "unfold", "diagonal", "flip", "softmax", "log_softmax", "expand",
}  # fmt: skip


def is_spelled(node: Node) -> bool:
    """Whether PyTorch has the operation under its name."""
    op = node.op
    return op is not None and (
        bool(op.spellings) or op.written is not None or op.name in _UNSPELLED
    )


def _whole(values: Any) -> Any:
    return [_whole(v) for v in values] if isinstance(values, list) else int(values)
