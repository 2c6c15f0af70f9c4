"""What is known of a class before its backward is written: names, sizes, and how values are computed."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

import numpy as np

from gradexplain.codegen.forward import RESERVED, Writer, is_spelled, python_names
from gradexplain.codegen.lines import (
    WIDTH,
    Names,
    Statement,
    laid_out,
    renumbered,
    split,
    statement,
)
from gradexplain.codegen.numbers import is_prime
from gradexplain.codegen.places import unsupported
from gradexplain.codegen.source import Source
from gradexplain.errors import UnsupportedError
from gradexplain.graph import Graph, Node, refs
from gradexplain.ops.base import Shape
from gradexplain.routes.closed import ClosedForm


class Draft:
    """An expression's graph at shapes that stand for any, and its names in the code."""

    def __init__(
        self,
        graph: Graph,
        pattern: Mapping[str, Shape],
        name: str = "",
        *,
        general: bool,
        jvp: bool = False,
    ) -> None:
        self.jvp = jvp
        self.pattern = dict(pattern)
        self.name = name
        self.general = general
        self.graph = graph
        self.names = python_names(graph)
        self.writer = Writer(graph, self.names, self.size)
        self.leaves = [n for n in graph.leaves if not n.integer]
        self.form = ClosedForm(graph, {}, np.zeros(()), exact=False)
        self.form.v_name = "grad_output" if "grad_output" not in self.names else "grad_out"
        self.v = self.form.v_name
        self.labels = {n.label: n for n in graph.nodes}
        self.by_name = {self.names[n.label]: n for n in graph.nodes if n.label in self.names}
        self.free = Names({*self.by_name, *RESERVED, self.v})
        self.shapes = {n: node.shape for n, node in self.by_name.items()}

    def size(self, n: int) -> str | None:
        """The size ``n`` of an axis, as an expression in an input's shape."""
        if not self.general:
            return None
        sizes = {k for leaf in self.leaves for k in leaf.shape if is_prime(k)}
        # (n − 1)/2 and its like: a size that was cancelled, which nothing can tell from a number.
        cancelled = n >= 9 and any((k - 1) % n == 0 and n < k - 1 for k in sizes)
        if cancelled and str(n) not in self.graph.source:
            raise UnsupportedError("codegen cannot tell a size from a number in this formula")
        told = bool(self.name)  # without forward nothing refuses other sizes: a number stays one
        for leaf in self.leaves:
            for axis, k in enumerate(leaf.shape):
                if k == n and (told or is_prime(n)):
                    return f"{self.names[leaf.label]}.shape[{axis}]"
        return None

    def gradient_name(self, node: Node) -> str:
        return f"grad_{self.names[node.label]}"

    def closure(self, wanted: set[int], known: set[int]) -> set[int]:
        """The operations that make ``wanted`` from the inputs and ``known``."""
        needed: set[int] = set()
        pending = [i for i in wanted if i not in known]
        while pending:
            id = pending.pop()
            node = self.graph[id]
            if id in needed or id in known or node.is_leaf or node.is_literal:
                continue
            if node.op is None and id not in wanted:
                continue
            needed.add(id)
            pending += self.made_from(node)
        return needed

    def made_from(self, node: Node) -> tuple[int, ...]:
        """What a node is computed from: without the parts that only its formula has."""
        if node.op is not None and not is_spelled(node):
            return node.inputs
        if node.op is None:
            return ()
        plain = [a for p, a in zip(node.op.parameters, node.args, strict=True) if not p.is_aux]
        return tuple(ref.id for ref in refs(plain))

    def computed(self, wanted: set[int], known: set[int]) -> list[Statement]:
        """Statements that compute ``wanted``, naming what the user named and what is used twice."""
        graph = self.graph
        needed = self.closure(wanted, known)
        uses: dict[int, int] = {}
        for id in needed:
            for source in self.made_from(graph[id]):
                uses[source] = uses.get(source, 0) + 1
                if not is_spelled(graph[id]):
                    uses[source] += 1  # its formula speaks of elements: they need a name
        found: list[Statement] = []
        have = set(known)
        for node in graph.nodes:
            if node.id not in needed:
                continue
            if node.op is None:
                found.append(statement(self.names[node.label], self.writer.constant(node)))
                have.add(node.id)
                continue
            inline = not node.named and uses.get(node.id, 0) == 1 and node.id not in wanted
            text = self.writer.text(node, have) if is_spelled(node) else self._by_formula(node)
            if inline and len(text) < 40:
                continue
            found.append(statement(self.names[node.label], text))
            have.add(node.id)
        return found

    def fitted(self, body: Iterable[Statement], indent: int = 8) -> list[Statement]:
        """Statements of a line each, where that can be."""
        room = [WIDTH - (indent if s.only else 8) for s in body]
        parts = [p for s, w in zip(body, room, strict=True) for p in split(s, self.free, w)]
        saved = {self.names[n.label] for n in (*self.graph.leaves, self.graph.out)}
        return renumbered(parts, {*RESERVED, *saved})

    def written(self, body: Iterable[Statement], indent: int = 8) -> list[str]:
        return [line for s in body for line in laid_out(s.target, s.value, indent)]

    def _by_formula(self, node: Node) -> str:
        """A value that PyTorch has no call for, by its element formula."""
        shapes = {n.label: n.shape for n in self.graph.nodes}
        source = Source(self.names, shapes, self.size, self.form.calculus.ranges)
        places = self.form.calculus.indices(node.shape, f"n{node.id}x")
        definition = self.form.calculus.definition(node, places)
        if definition == self.form.calculus.atom(node, places):
            raise unsupported(node.op.name if node.op is not None else node.label)
        return source.full(definition, places, "", node.shape)


def shape_of(e: ast.expr) -> ast.Name | None:
    """The name of which ``e`` needs the shape alone."""
    match e:
        case (
            ast.Attribute(value=ast.Name() as name, attr="shape")
            | ast.Call(func=ast.Attribute(value=ast.Name() as name, attr="numel"))
            | ast.Call(func=ast.Attribute(attr="expand_as"), args=[ast.Name() as name])
            | ast.Call(
                func=ast.Attribute(attr="zeros_like" | "full_like"), args=[ast.Name() as name, *_]
            )
        ):
            return name
    return None


def value_names(e: ast.expr) -> set[str]:
    """The names whose values ``e`` needs."""
    shaped = {id(shape_of(part)) for part in ast.walk(e) if isinstance(part, ast.expr)}
    return {n.id for n in ast.walk(e) if isinstance(n, ast.Name) and id(n) not in shaped}
