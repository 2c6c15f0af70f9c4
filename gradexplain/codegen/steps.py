"""A backward one operation at a time: the contributions of the one reverse sweep, each as PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import zip_longest
from math import prod

from gradexplain.adjoint import Contribution, adjoint
from gradexplain.codegen.draft import Draft
from gradexplain.codegen.forward import Writer, is_spelled
from gradexplain.codegen.lines import Names, Statement, joined, statement
from gradexplain.codegen.record import Operand, Writing
from gradexplain.codegen.source import Source
from gradexplain.errors import UnsupportedError
from gradexplain.formula.calculus import tensor_arguments
from gradexplain.formula.local import RESULT, UPSTREAM, local_rule
from gradexplain.graph import Graph, Node, refs
from gradexplain.ops.base import Shape

#: A gradient as text, and the shape that it has: it broadcasts to that of its tensor.
Sent = tuple[str, Shape]


class Steps:
    """The chain rule of a class in the making."""

    def __init__(self, making: Draft) -> None:
        self._making = making
        self._graph = making.graph
        self._names = making.names
        self._free: Names = making.free
        self._body: list[Statement] = []

    def body(self) -> list[Statement]:
        graph, making = self._graph, self._making
        sent: dict[int, list[Sent]] = {}
        arrived: dict[int, Sent] = {graph.output: (making.v, graph.out.shape)}
        for contribution in adjoint(
            graph, [n.label for n in making.leaves], making.v
        ).contributions:
            node = contribution.node
            if node.id not in arrived:
                if node.id not in sent:
                    continue
                arrived[node.id] = self._total(node, sent[node.id])
            found = self._contribution(contribution, arrived[node.id])
            if found is not None:
                sent.setdefault(contribution.source.id, []).append(found)
        for leaf in reversed(making.leaves):
            if leaf.id in sent:
                self._total(leaf, sent[leaf.id])
        return self._body

    def _total(self, node: Node, sent: list[Sent]) -> Sent:
        """The gradient of ``node`` under a name."""
        text, shape = joined([text for text, _ in sent]), broadcast([shape for _, shape in sent])
        name = self._making.gradient_name(node)
        if node.is_leaf and shape != node.shape:
            call = "reshape({}.shape)" if prod(shape) == prod(node.shape) else "expand_as({})"
            text = f"({text}).{call.format(self._names[node.label])}"
        elif text.isidentifier() and not node.is_leaf:
            return text, shape
        self._body.append(statement(name, text, node.label if node.is_leaf else ""))
        return name, shape

    def _contribution(self, c: Contribution, upstream: Sent) -> Sent | None:
        node, op = c.node, c.node.op
        assert op is not None
        if op.stops or op.integer:
            return None
        recorded = self._by_record(node, c.source, upstream) if op.backward is not None else None
        if recorded is not None:
            return recorded
        try:
            return self._by_rule(c, upstream)
        except UnsupportedError:
            moved = (
                self._by_record(node, c.source, upstream) if op.moves and is_spelled(node) else None
            )
            if moved is not None:
                return moved
            if not op.pointwise:
                raise
            return self._summed(c, upstream)

    def _whole(self, node: Node, upstream: Sent) -> str:
        """The gradient that arrives at ``node``, in its whole shape."""
        text, shape = upstream
        if shape == node.shape:
            return text
        sizes = ["1" if n == 1 else self._making.size(n) for n in node.shape]
        if any(n is None for n in sizes):
            return f"{text}.expand_as({self._names[node.label]})"
        return f"{text}.expand({', '.join(n for n in sizes if n)})"

    def _by_record(self, node: Node, source: Node, upstream: Sent) -> Sent | None:
        """A contribution as the record writes it, or by where each element of a view came from."""
        grad = self._whole(node, upstream)
        if not grad.isidentifier():
            name = self._free.free(self._making.gradient_name(node))
            self._body.append(statement(name, grad))
            grad = name
        texts = [
            self._recorded(node, source, grad, name, part)
            for name, part, ref in tensor_arguments(node)
            if ref.id == source.id
        ]
        written = [t for t in texts if t is not None]
        return (joined(written), source.shape) if written and len(written) == len(texts) else None

    def _recorded(self, node: Node, source: Node, grad: str, wrt: str, part: int) -> str | None:
        op, making = node.op, self._making
        assert op is not None
        only = source.label if source.is_leaf else ""

        def let(hint: str, text: str) -> str:
            name = self._free.free(hint)
            self._body.append(statement(name, text, only))
            return name

        def moved(places: str) -> str:
            names = {**self._names, source.label: places}
            return Writer(self._graph, names, making.size).text(node, every)

        every = {n.id for n in self._graph.nodes}
        writing = Writing(
            Operand(grad, node.shape), Operand(self._names[node.label], node.shape),
            wrt=wrt, part=part, let=let, moved=moved,
        )  # fmt: skip
        if op.backward is None:
            return writing.same(making.writer.operand(source))
        return op.backward(writing, *making.writer.operands(node))

    def _by_rule(self, c: Contribution, upstream: Sent) -> Sent:
        """A contribution by the operation's own closed form."""
        names, shapes = local_names(self._graph, self._names, c.node, upstream[0])
        shapes[UPSTREAM] = upstream[1]
        source = Source(names, shapes, self._making.size, c.rule.sizes[c.place])
        name, places = self._names[c.source.label], c.rule.places[c.place]
        text = source.full(
            c.rule.contributions[c.place],
            places,
            name,
            c.source.shape,
            whole=False,
            leaf=c.source.is_leaf,
        )
        return text, source.layout

    def _summed(self, c: Contribution, upstream: Sent) -> Sent | None:
        """A contribution as if nothing were broadcast, summed to the input's shape."""
        node, graph = c.node, self._graph
        nodes = tuple(
            n if n.is_literal or n.id == node.id else replace(n, shape=node.shape)
            for n in graph.nodes
        )
        rule = local_rule(node, Graph(graph.source, nodes, graph.output))
        formula = rule.contributions[c.place]
        if formula is None:
            return None
        names, shapes = local_names(self._graph, self._names, node, self._whole(node, upstream))
        source = Source(
            names, dict.fromkeys(shapes, node.shape), self._making.size, rule.sizes[c.place]
        )
        name = self._names[c.source.label]
        text = source.full(formula, rule.places[c.place], name, node.shape)
        if c.source.shape != node.shape:
            text = f"({text}).sum_to_size({name}.shape)"
        return text, c.source.shape


def local_names(
    graph: Graph, names: dict[str, str], node: Node, upstream: str
) -> tuple[dict[str, str], dict[str, Shape]]:
    """What the names of a local rule are called in the code, and their shapes."""
    found = {UPSTREAM: upstream, RESULT: names[node.label]}
    shapes = {UPSTREAM: node.shape, RESULT: node.shape}
    for k, id in enumerate(dict.fromkeys(ref.id for ref in refs(node.args))):
        found[f"a{k}"] = names.get(graph[id].label, "")
        shapes[f"a{k}"] = graph[id].shape
    return found, shapes


def broadcast(shapes: Iterable[Shape]) -> Shape:
    columns = zip_longest(*(reversed(s) for s in shapes), fillvalue=1)
    return tuple(max(column) for column in columns)[::-1]
