"""The closed form: elements of a graph's values as formulas, their derivatives, and ``Jᵀv``.

A formula speaks of *atoms*: elements of leaves, of values that the user named, and of values that are
sums or whole-tensor functions (softmax, a norm).  Other values are written out.  The derivative of an
atom is derived once, in its own indices, and put in wherever the atom occurs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import sympy

from gradexplain.errors import UnsupportedError
from gradexplain.formula.contract import close_sum, contract, delta, join_digits, open_sum
from gradexplain.formula.functions import ABSENT, build, named_function, total_derivative
from gradexplain.formula.indices import Ranges, index
from gradexplain.formula.kinds import (
    Cases,
    Lookup,
    atoms,
    element_symbol,
    indices_of,
    label_of,
    real,
)
from gradexplain.formula.kit import Kit, Tensor, number
from gradexplain.graph import Graph, Node, Ref, put
from gradexplain.limits import MAX_WRITTEN
from gradexplain.ops.base import Shape, no_slope

#: What the name of ``∂L/∂h`` begins with, where it stands for a value in a formula.
ADJOINT = "∂/∂"

#: The same for the output's derivative ``∂y[i]/∂h[p]``, whose indices are the output's, then h's.
TOTAL = "∂y/∂"


#: Conditions of a record's ``singular`` that hold at 0.
_POLES = ("== 0", "<= 0")


class Calculus:
    """Formulas for the values of one graph.

    Output indices are the symbols ``o0, o1, …``, a leaf's ``d0, d1, …``; an axis of one element has
    the index 0.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ranges = Ranges()
        self._by_label = {node.label: node for node in graph.nodes}
        self._slopes: dict[tuple[int, str], Any] = {}
        self._definitions: dict[int, Any] = {}
        self._parts: dict[str, list[Node]] = {}
        self._users: dict[int, list[Node]] | None = None
        self._literals = False
        #: How many operations would be written out inside one another.
        self._depth: dict[int, int] = {}
        for node in graph.nodes:
            inside = (self._depth[id] for id in node.inputs if not self.is_atom(graph[id]))
            self._depth[node.id] = 1 + max(inside, default=0)

    # -- indices and elements --------------------------------------------------------------------

    def indices(self, shape: Shape, letter: str) -> tuple[Any, ...]:
        """One index symbol for each axis of ``shape``; 0 for an axis of one element."""
        letters = [index(f"{letter}{axis}") for axis in range(len(shape))]
        self.ranges.update((i, n) for i, n in zip(letters, shape, strict=True) if n != 1)
        return tuple(sympy.S.Zero if n == 1 else i for i, n in zip(letters, shape, strict=True))

    def fresh(self, shape: Shape) -> tuple[Any, ...]:
        return tuple(self.ranges.fresh(n) for n in shape)

    def is_atom(self, node: Node) -> bool:
        op = node.op
        deep = self._depth[node.id] == MAX_WRITTEN
        return op is None or node.named or not op.inline or op.stops or deep

    def atom(self, node: Node, at: Sequence[Any]) -> Any:
        """The symbol of one element of a value."""
        return element_symbol(node.label, at)

    def node(self, label: str) -> Node | None:
        """The node of this name (None for ``v`` and other symbols)."""
        return self._by_label.get(label)

    def tensor(self, node: Node) -> Tensor:
        """The node as an argument of a record's rule."""
        return Tensor(node.shape, lambda at: self.element(node, at))

    def element(self, node: Node, at: Sequence[Any]) -> Any:
        """One element, as an atom or written out."""
        if node.is_literal:
            symbol = real(f"{float(node.value):g}")
            return symbol if self._literals else number(node.value)
        if node.op is None and node.value is not None:
            same = uniform(node)
            if same is not None:
                return number(int(same) if same.is_integer() else same)
        if node.integer and self.is_atom(node):
            first = None if self._is_target(node) else _first(node)
            if first is not None:
                return first + at[0]
            return Lookup(sympy.Symbol(node.label), *at)
        if self.is_atom(node):
            return self.atom(node, at)
        return self.definition(node, at)

    def _is_target(self, node: Node) -> bool:
        """Whether a loss holds what it is given against ``node``: ``[0, 1]`` is no range then."""
        users = (user.op for user in self.graph.nodes if node.id in user.inputs)
        return any(op is not None and op.family == "loss" for op in users)

    def definition(self, node: Node, at: Sequence[Any]) -> Any:
        """One element by the record's formula, in terms of the node's inputs."""
        op = node.op
        assert op is not None
        if op.pointwise:
            values = {}
            for parameter, arg in zip(op.parameters, node.args, strict=True):
                if isinstance(arg, Ref):
                    source = self.graph[arg.id]
                    # An infinity, and 0 where the operation has no value at 0 (x/0, 0**x), stand as
                    # names: SymPy would compute with them at once.
                    poles = any(f"{parameter.name} {s}" in c for c in op.singular for s in _POLES)
                    self._literals = source.is_literal and (
                        not math.isfinite(source.value) or (source.value == 0 and poles)
                    )
                    values[parameter.name] = self.tensor(source).broadcast(at)
                    self._literals = False
                elif isinstance(arg, (int, float)) and not isinstance(arg, bool):
                    values[parameter.name] = number(arg)
                else:
                    values[parameter.name] = arg
            if op.named:
                function = named_function(op)
                return function(
                    *(ABSENT if values[n] is None else values[n] for n in function.names)
                )
            return build(op.formula, values)
        if op.element is None:
            return self.atom(node, at)
        kit = Kit(self.ranges, node.shape, tuple(at))
        return op.element(kit, *self.arguments(node))

    def arguments(self, node: Node) -> tuple[Any, ...]:
        return put(node.args, lambda id: self.tensor(self.graph[id]))  # type: ignore[no-any-return]

    # -- derivatives -----------------------------------------------------------------------------

    def reaches(self, node: Node, leaf: str) -> bool:
        """Whether a gradient flows from ``node`` to ``leaf``."""
        return node.id in self.graph.downstream({self._by_label[leaf].id})

    def jacobian(self, node: Node, leaf: Node, limit: int | None = None) -> Any:
        """``∂node[o0, o1, …]/∂leaf[d0, d1, …]``, not tidied; None once it has more than ``limit``
        operations."""
        out = self.indices(node.shape, "o")
        self.indices(leaf.shape, "d")
        if limit is not None:
            # Part by part from the leaf, so that growth is seen before it happens.
            for part in self.parts(leaf):
                if part.id == leaf.id:
                    continue
                slope = self._slope(part, leaf, self.indices(part.shape, f"n{part.id}x"))
                if slope.count_ops() > limit:
                    return None
        return self._slope(node, leaf, out)

    def parts(self, leaf: Node) -> list[Node]:
        """The atoms between ``leaf`` and the output through which a gradient flows, in order."""
        if leaf.label not in self._parts:
            needed = self.graph.needed()
            self._parts[leaf.label] = [
                node
                for node in self.graph.nodes
                if node.id in needed
                and self.reaches(node, leaf.label)
                and (self.is_atom(node) or node.id == self.graph.output)
            ]
        return self._parts[leaf.label]

    def users(self, source: Node) -> list[Node]:
        """The parts whose formula has ``source`` in it, written out values between looked through."""
        if self._users is None:
            self._users = {}
            needed = self.graph.needed()
            behind: dict[int, set[int]] = {}  # the atoms in each value's formula
            for node in self.graph.nodes:
                behind[node.id] = found = set()
                if node.op is None or node.integer or node.op.stops:
                    continue  # no gradient flows through it
                for id in node.inputs:
                    found |= {id} if self.is_atom(self.graph[id]) else behind[id]
                if node.id in needed and (self.is_atom(node) or node.id == self.graph.output):
                    for id in found:
                        self._users.setdefault(id, []).append(node)
        return self._users.get(source.id, [])

    def partial(self, node: Node, source: Node) -> Any:
        """``∂node[o…]/∂source[d…]`` with every other atom held fixed."""
        out = self.indices(node.shape, "o")
        wrt = self.indices(source.shape, "d")

        def of_atom(atom: Any) -> Any:
            if isinstance(atom, (sympy.Sum, sympy.Product)):
                return self._total_slope(atom, of_atom)
            if label_of(atom) != source.label:
                return sympy.S.Zero
            return self._ties(indices_of(atom), wrt)

        if node.op is None:
            return sympy.S.Zero
        if node.op.jacobian is None:
            return total_derivative(self.definition(node, out), of_atom)
        total = sympy.S.Zero
        for name, part, ref in tensor_arguments(node):
            argument = self.graph[ref.id]
            inner = self.fresh(argument.shape)
            slope = total_derivative(self.element(argument, inner), of_atom)
            if slope != 0:
                local = self.local(node, out, name, part, inner)
                total += contract(local * slope, inner, self.ranges)
        return total

    def _ties(self, at: Sequence[Any], wrt: Sequence[Any]) -> Any:
        ties = sympy.Mul(*(delta(a, d, self.ranges) for a, d in zip(at, wrt, strict=True)))
        return join_digits(ties, self.ranges)

    def _slope(self, node: Node, leaf: Node, at: Sequence[Any]) -> Any:
        """The derivative of ``node[at]`` by ``leaf[d…]``."""
        if not self.reaches(node, leaf.label):
            return sympy.S.Zero
        wrt = self.indices(leaf.shape, "d")
        if node.id == leaf.id:
            return self._ties(at, wrt)
        key = node.id, leaf.label
        own = self.indices(node.shape, f"n{node.id}x")
        if key not in self._slopes:
            self._slopes[key] = self._derive(node, leaf, own)
        places = {o: a for o, a in zip(own, at, strict=True) if o != a}
        return self._put(self._slopes[key], places)

    def _put(self, e: Any, places: dict[Any, Any]) -> Any:
        """``e`` with index symbols replaced, deltas decided anew."""
        if not places:
            return e
        e = e.xreplace(places)
        decided = {
            d: delta(d.args[0], d.args[1], self.ranges) for d in atoms(e, sympy.KroneckerDelta)
        }
        decided = {old: new for old, new in decided.items() if old != new}
        return e.xreplace(decided) if decided else e

    def _derive(self, node: Node, leaf: Node, at: Sequence[Any]) -> Any:
        """The same at the node's own indices ``at``."""
        assert node.op is not None
        if node.op.jacobian is None:
            if node.id not in self._definitions:
                self._definitions[node.id] = self.definition(node, at)
            return self.slope_of(self._definitions[node.id], leaf)
        total = sympy.S.Zero
        for name, part, ref in tensor_arguments(node):
            source = self.graph[ref.id]
            if not self.reaches(source, leaf.label):
                continue
            inner = self.fresh(source.shape)
            local = self.local(node, at, name, part, inner)
            total += contract(local * self._slope_at(source, leaf, inner), inner, self.ranges)
        return total

    def _slope_at(self, node: Node, leaf: Node, at: Sequence[Any]) -> Any:
        """Like `_slope`, for a value that may be written out."""
        if self.is_atom(node):
            return self._slope(node, leaf, at)
        return self.slope_of(self.definition(node, at), leaf)

    def local(self, node: Node, at: Sequence[Any], name: str, part: int, inner: Any) -> Any:
        """The record's own ``∂node[at]/∂argument[inner]``."""
        assert node.op is not None and node.op.jacobian is not None
        if node.op.jacobian is no_slope:
            raise UnsupportedError(
                f"second derivatives are not supported through {node.op.name}, which the first "
                "derivative is made of",
                remedy="gradexplain run explains the first derivative",
            )
        out = Tensor(node.shape, lambda place: self.atom(node, place))
        kit = Kit(self.ranges, node.shape, tuple(at), j=tuple(inner), wrt=name, part=part, out=out)
        return node.op.jacobian(kit, *self.arguments(node))

    def slope_of(self, e: Any, leaf: Node) -> Any:
        """The derivative of a formula by ``leaf[d…]``, sums contracted."""

        def of_atom(atom: Any) -> Any:
            if isinstance(atom, (sympy.Sum, sympy.Product)):
                return self._total_slope(atom, of_atom)
            node = self.node(label_of(atom))
            if node is None:
                return sympy.S.Zero
            return self._slope(node, leaf, indices_of(atom))

        return total_derivative(e, of_atom)

    def _total_slope(self, total: Any, of_atom: Any) -> Any:
        """The derivative of a sum, or of a product: ``Σ_q ∂f(q) · Π_{p ≠ q} f(p)``."""
        body, bound = open_sum(total, self.ranges)
        if isinstance(total, sympy.Sum):
            return contract(total_derivative(body, of_atom), bound, self.ranges)
        others, left = open_sum(total, self.ranges)
        away = sympy.Or(*(sympy.Ne(p, q) for p, q in zip(left, bound, strict=True)))
        rest = close_sum(Cases((others, away), (1, True)), left, self.ranges, sympy.Product)
        return contract(total_derivative(body, of_atom) * rest, bound, self.ranges)

    def weighted(self, jacobian: Any, upstream: str, shape: Shape) -> Any:
        """``Σ_o upstream[o]·J[o, d]``: the vector-Jacobian product, contracted."""
        out = self.indices(shape, "o")
        return contract(element_symbol(upstream, out) * jacobian, out, self.ranges)


def _first(node: Node) -> int | None:
    """``a`` of a constant index table ``a, a + 1, a + 2, …``; None for any other."""
    if node.value is None or len(node.shape) != 1 or node.is_literal:
        return None
    values = [int(n) for n in node.value]
    straight = values == list(range(values[0], values[0] + len(values))) if values else False
    return values[0] if straight and values[0] >= 0 else None


def uniform(node: Node) -> float | None:
    """The number that a constant holds at every place, None where there is no such number."""
    if node.value is None or node.is_literal or node.integer or not node.value.size:
        return None
    value = float(node.value.flat[0])
    # A value that was spread over a shape is not looked at everywhere: the shape may be any.
    same = not any(node.value.strides) or (node.value == value).all()
    return value if math.isfinite(value) and same else None


def literal_value(label: str) -> float | None:
    """The value of an atom that stands for a number of the expression, None for any other."""
    try:
        return float(label)
    except ValueError:
        return None


def tensor_arguments(node: Node) -> Iterable[tuple[str, int, Ref]]:
    """``(argument, which of a list, tensor)`` for each tensor that a gradient may flow to."""
    assert node.op is not None
    for parameter, arg in zip(node.op.parameters, node.args, strict=True):
        if parameter.kind != "Tensor":
            continue
        if isinstance(arg, Ref):
            yield parameter.name, 0, arg
        elif isinstance(arg, tuple):
            for part, ref in enumerate(arg):
                yield parameter.name, part, ref
