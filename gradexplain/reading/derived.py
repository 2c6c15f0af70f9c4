"""Gradients as values: what ``create_graph=True`` and a derivative of a derivative differentiate again.

The backward of each operation is written out as the line of PyTorch that `gradexplain.codegen` has for
it, and read like the text itself.  What PyTorch's own double backward gives is held against it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain.errors import Span
from gradexplain.explanation import Array
from gradexplain.graph import Builder, Graph, Node, Ref, put
from gradexplain.reading.names import DEFAULTS
from gradexplain.reading.objects import Tensor
from gradexplain.reading.session import Session

#: What to do where a gradient is not written out.
TRACE = "gradexplain trace FILE runs the script and explains it"


@dataclass(frozen=True, slots=True)
class Derived:
    """A gradient that was written out: ``torch.autograd.grad(start, inputs, v, create_graph=True)``.

    All are ids; ``results`` stand in the order of ``inputs``, None where no gradient arrives.
    """

    start: int
    v: int
    inputs: tuple[int, ...]
    results: tuple[int | None, ...]


@dataclass(slots=True)
class Sweep:
    """One backward pass whose gradients are nodes."""

    s: Session
    place: Span
    dtype: str | None
    arrived: dict[int, Tensor] = field(default_factory=dict)

    def back(self, start: int, wanted: Sequence[int]) -> list[Tensor | None]:
        nodes = self.s.builder.nodes
        graph = Graph("", tuple(nodes), start)
        way = graph.downstream(set(wanted)) & set(self.s.needed(start))
        for id in sorted(way, reverse=True):
            node = nodes[id]
            if node.op is None or id not in self.arrived:
                continue
            for source in dict.fromkeys(node.inputs):
                if source in way:
                    self._send(node, source)
        return [self.arrived.get(id) for id in wanted]

    def _send(self, node: Node, source: int) -> None:
        s = self.s
        alone, names = _alone(node, s.builder)
        text = s.runner(self.place).line(alone, names[source], "g")
        scope: dict[str, Any] = {name: self._tensor(id) for id, name in names.items()}
        scope |= {"g": self.arrived[node.id], "y": self._tensor(node.id)}
        used = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
        if not text or used - scope.keys() - DEFAULTS.keys():
            s.lack("not written out", self.place, text=s.text(node.span))
        with s.scope((scope,)), s.placed(self.place), s.gradients(True):
            found = s.evaluate(ast.parse(text, mode="eval").body)
            shape = s.builder.nodes[source].shape
            if not isinstance(found, Tensor):
                found = s.literal(s.filled(shape, float(found)), self.dtype, self.place)
            scope |= {"found": found, "shape": shape, "old": self.arrived.get(source)}
            if found.shape != shape:
                scope["found"] = s.evaluate(_BROADCAST)
            self.arrived[source] = s.evaluate(_ADD) if source in self.arrived else scope["found"]

    def _tensor(self, id: int) -> Tensor:
        return self.s.computed(Ref(id), self.dtype, self.place)


_BROADCAST = ast.parse("torch.broadcast_to(found, shape)", mode="eval").body
_ADD = ast.parse("old + found", mode="eval").body


def _alone(node: Node, builder: Builder) -> tuple[Graph, dict[int, str]]:
    """The operation of one node as a graph of its own; what it is made from is called a0, a1, …"""
    assert node.op is not None
    sub = Builder(any_size=builder.any_size)
    made: dict[int, Ref] = {}
    names: dict[int, str] = {}

    def moved(id: int) -> Ref:
        if id not in made:
            source = builder.nodes[id]
            if (
                source.op is None
                and source.value is not None
                and (source.integer or not source.shape)
            ):
                made[id] = sub.constant(source.value, source.span, integer=source.integer)
            else:
                names[id] = f"a{len(names)}"
                made[id] = sub.leaf(names[id], source.shape, source.span, integer=source.integer)
        return made[id]

    kept = zip(node.op.parameters, node.args, strict=True)
    given = tuple(put(a, moved) for p, a in kept if node.op.aux is None or not p.is_aux)
    return sub.graph(sub.name(sub.apply(node.op, given, node.span), "y")), names


def gradients(
    s: Session, output: Tensor, v: Tensor | None, inputs: Sequence[Tensor], place: Span
) -> list[Tensor | None]:
    """``torch.autograd.grad(output, inputs, v, create_graph=True)``, its results computed values."""
    if s.any_size:
        s.lack("at its own sizes", place)
    start = s.ref(output).id
    if s.opaque & set(s.needed(start)):
        s.unsupported("a Function of the text is not differentiated twice", place, TRACE)
    wanted = [s.ref(part).id for part in inputs]
    first = v if v is not None else s.literal(s.filled(output.shape, 1.0), output.dtype, place)
    upstream = s.ref(first).id
    sweep = Sweep(s, place, output.dtype, {start: s.computed(Ref(upstream), first.dtype, place)})
    found = sweep.back(start, wanted)
    results: list[int | None] = []
    for place_, part in enumerate(found):
        if part is not None and s.ref(part).id in (upstream, *wanted):
            with s.scope(({"found": part},)), s.placed(place):  # a value of its own
                part = found[place_] = s.evaluate(ast.parse("found * 1", mode="eval").body)
        results.append(None if part is None else s.ref(part).id)
    s.follow()
    s.derived.append(Derived(start, upstream, tuple(wanted), tuple(results)))
    return found


def held(s: Session, start: int, v: Array | None, place: Span) -> None:
    """Hold what differentiating a written gradient gives against PyTorch's own double backward."""
    needed = set(s.needed(start))
    inside = [d for d in s.derived if any(id in needed for id in d.results if id is not None)]
    if not inside or s.any_size:
        return
    also = [id for d in inside for id in (d.start, d.v, *d.inputs)]
    also += [id for d in inside for id in d.results if id is not None]
    graph, at = Graph("", tuple(s.builder.nodes), start).pruned([start, *also])
    moved = [
        (at[d.start], at[d.v], tuple(at[i] for i in d.inputs), tuple(map(at.get, d.results)))
        for d in inside
    ]
    leaves, dtype = s.leaves(graph), s.run_dtype(graph)
    wanted = [n.label for n in graph.leaves if s.made[n.label].requires_grad]
    runner = s.runner(place)
    own = runner.gradients(graph, leaves, dtype, v, wanted)
    theirs = runner.gradients(graph, leaves, dtype, v, wanted, moved)
    if not _alike(own, theirs, dtype):
        s.lack("other double backward", place)
    s.say("create_graph")


def _alike(own: Mapping[str, Array | None], theirs: Mapping[str, Array | None], dtype: str) -> bool:
    """Whether two gradients are the same, in the measure of the largest number of the whole gradient."""
    near = 1e-3 if dtype == "float32" else 1e-8
    pairs = [(own.get(name), other) for name, other in theirs.items()]
    given = [part for pair in pairs for part in pair if part is not None]
    sizes = [np.abs(part)[np.isfinite(part)].max(initial=0.0) for part in given]
    scale = near * max(sizes, default=0.0)
    for array, other in pairs:
        mine, theirs_ = (0.0 if part is None else part for part in (array, other))
        if not np.allclose(mine, theirs_, rtol=near, atol=scale, equal_nan=True):
            return False
    return True
