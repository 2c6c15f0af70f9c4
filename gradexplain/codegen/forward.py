"""The expression's own operations as PyTorch, written from its graph."""

from __future__ import annotations

import keyword
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from gradexplain.checking import numeric
from gradexplain.errors import UnsupportedError
from gradexplain.graph import Graph, Node, Ref
from gradexplain.routes.pytorch import function_of

#: Names that the code uses itself.
RESERVED = {"ctx", "torch", "F", "math", "grad_output", "self"}
_ATOM, _POWER, _UNARY, _MUL, _ADD = 4, 3, 2, 1, 0
_INFIX = {
    "{} + {}": ("+", _ADD), "{} - {}": ("-", _ADD), "{}*{}": ("*", _MUL), "{}/{}": ("/", _MUL),
    "{} @ {}": ("@", _MUL), "{}**{}": ("**", _POWER),
}  # fmt: skip


def python_names(graph: Graph) -> dict[str, str]:
    """What each label is called in the code."""
    names: dict[str, str] = {}
    taken = set(RESERVED)
    for node in graph.nodes:
        if node.is_literal:
            continue
        name = _plain(node.label)
        while name in taken or keyword.iskeyword(name) or not name.isidentifier():
            name += "_"
        names[node.label] = name
        taken.add(name)
    return names


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


class Writer:
    """Writes nodes of a graph as PyTorch.  ``known`` are the nodes that have a name in the code."""

    def __init__(self, graph: Graph, names: Mapping[str, str]) -> None:
        self.graph = graph
        self.names = names
        #: A tensor whose dtype and device constants take.
        self.like = names[graph.leaves[0].label]

    def text(self, node: Node, known: set[int]) -> str:
        """One node by its operation, unnamed values written out."""
        return self._call(node, known)[0]

    def _value(self, id: int, known: set[int]) -> tuple[str, int]:
        node = self.graph[id]
        if node.is_literal:
            return _number(node.value), _ATOM if node.value >= 0 else _UNARY
        if id in known or node.is_leaf:
            return self.names[node.label], _ATOM
        if node.op is None:
            return self.constant(node), _ATOM
        return self._call(node, known)

    def constant(self, node: Node) -> str:
        """A tensor of numbers that the expression holds."""
        values = node.value.tolist()
        if node.integer:
            return f"torch.tensor({_whole(values)!r}, device={self.like}.device)"
        return f"{self.like}.new_tensor({values!r})"

    def _call(self, node: Node, known: set[int]) -> tuple[str, int]:
        op = node.op
        assert op is not None
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
            return f"{a if la == _ATOM else f'({a})'}[{_index(node.args[1])}]", _ATOM
        if op.attribute:
            a, la = self._value(node.inputs[0], known)
            return f"{a if la == _ATOM else f'({a})'}.{op.name}", _ATOM
        return self._function(node, known), _ATOM

    def _function(self, node: Node, known: set[int]) -> str:
        op = node.op
        assert op is not None
        if (
            node.inputs
            and all(self.graph[i].is_literal for i in node.inputs)
            and hasattr(math, op.name)
        ):
            return f"math.{op.name}({', '.join(_number(self.graph[i].value) for i in node.inputs)})"
        if not op.spellings:
            if not is_spelled(node):
                raise UnsupportedError(f"codegen cannot write {op.name} as PyTorch yet")
            given = [a for p, a in zip(op.parameters, node.args, strict=True) if not p.is_aux]
            return f"torch.{op.name}({', '.join(self._argument(a, known) for a in given)})"
        home = op.spellings[0].rpartition(".")[0]
        if home in ("torch", "Tensor", "F", "linalg", "special"):
            function_of(numeric.torch_module(), op)
        pieces: list[str] = []
        later = False
        method = "Tensor" in op.homes.split() and op.family in ("reduction", "shape")
        owner = ""
        for place, (p, arg) in enumerate(zip(op.parameters, node.args, strict=True)):
            if p.is_aux:
                continue
            if place == 0 and isinstance(arg, Ref) and (method or home == "Tensor"):
                text, level = self._value(arg.id, known)
                owner = text if level == _ATOM else f"({text})"
                continue
            if not p.required and _same(arg, p.default):
                later = True
                continue
            shown = self._argument(arg, known)
            keep = (
                p.keyword_only
                or later
                or ((not p.is_tensor and p.name in ("dim", "dims", "keepdim")) and not p.is_list)
            )
            if p.name in ("dim", "keepdim"):
                keep = True
            if (home == "special" and p.name == "dim") or op.name in (
                "permute",
                "transpose",
                "unsqueeze",
            ):
                keep = p.keyword_only
            pieces.append(f"{p.name}={shown}" if keep else shown)
            later = later or keep
        name = "matmul" if op.name == "matmul" else op.name
        if owner:
            return f"{owner}.{name}({', '.join(pieces)})"
        prefix = {"linalg": "torch.linalg", "special": "torch.special"}.get(home, home)
        if prefix not in ("torch", "F", "torch.linalg", "torch.special"):
            raise UnsupportedError(f"codegen cannot write {op.name} as PyTorch yet")
        return f"{prefix}.{name}({', '.join(pieces)})"

    def _argument(self, arg: Any, known: set[int]) -> str:
        if isinstance(arg, Ref):
            text, _ = self._value(arg.id, known)
            node = self.graph[arg.id]
            if node.is_literal:
                return text
            return text
        if isinstance(arg, tuple):
            parts = [self._argument(part, known) for part in arg]
            if any(isinstance(part, Ref) for part in arg):
                return f"[{', '.join(parts)}]"
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        if isinstance(arg, str):
            return f'"{arg}"'
        if isinstance(arg, float):
            return _number(arg)
        return repr(arg)


#: Records that other records are made of, whose arguments are those of PyTorch's function.
_UNSPELLED = {
    "getitem", "roll", "index_select", "gather", "take", "take_along_dim", "masked_select",
    "repeat_interleave", "unfold", "diagonal", "flip", "softmax", "log_softmax", "expand",
}  # fmt: skip


def is_spelled(node: Node) -> bool:
    """Whether PyTorch has the operation under its name."""
    op = node.op
    return op is not None and (bool(op.spellings) or op.name == "getitem" or op.name in _UNSPELLED)


def _whole(values: Any) -> Any:
    return [_whole(v) for v in values] if isinstance(values, list) else int(values)


def _same(a: Any, b: Any) -> bool:
    return (type(a) is type(b) and a == b) or (
        isinstance(a, (int, float)) and isinstance(b, (int, float)) and a == b
    )


def _number(value: Any) -> str:
    if value in (float("inf"), float("-inf")):
        return "math.inf" if value > 0 else "-math.inf"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return repr(value)
    return repr(value)


def _index(index: Any) -> str:
    items = index if isinstance(index, tuple) else (index,)
    shown = []
    for item in items:
        if item is Ellipsis:
            shown.append("...")
        elif isinstance(item, slice):
            start, stop = ("" if n is None else str(n) for n in (item.start, item.stop))
            text = f"{start}:{stop}"
            shown.append(text + ("" if item.step is None else f":{item.step}"))
        elif item is None or isinstance(item, int):
            shown.append(repr(item))
        else:
            raise UnsupportedError("codegen cannot write this subscript as PyTorch yet")
    return ", ".join(shown)
