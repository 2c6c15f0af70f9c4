"""The right gradient of one input as a line of PyTorch: the remedy that a check ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy

from gradexplain.codegen.draft import Draft
from gradexplain.codegen.idioms import idiomatic
from gradexplain.codegen.lines import show, statement, unsigned
from gradexplain.codegen.numbers import PRIMES
from gradexplain.codegen.source import Source
from gradexplain.errors import GradexplainError
from gradexplain.formula.calculus import ADJOINT
from gradexplain.formula.kinds import label_of
from gradexplain.formula.sizes import PRIMES as LETTERED
from gradexplain.graph import Graph
from gradexplain.ops.base import Shape

_LONG = 200


def gradient_line(
    graph_at: Callable[[Mapping[str, Shape]], Graph | None],
    shapes: Mapping[str, Shape],
    name: str,
    v_name: str,
) -> str:
    """``grad_x = …``; "" where there is no short one.

    ``graph_at`` gives the forward's graph at any shapes: it is read at axes of prime sizes, so that
    a size in the formula is told from a number of the user's.
    """
    try:
        graph = at_primes(graph_at, shapes)
        text = "" if graph is None else gradient_text(graph, name, v_name)
    except (GradexplainError, SyntaxError):  # a part that PyTorch has no call for is no expression
        return ""
    return f"grad_{name} = {text}" if 0 < len(text) <= _LONG else ""


def at_primes(
    graph_at: Callable[[Mapping[str, Shape]], Graph | None], shapes: Mapping[str, Shape]
) -> Graph | None:
    """The graph with a prime for each size of ``shapes``, or for each of a letter's, where there are enough."""
    sizes = sorted({n for shape in shapes.values() for n in shape if n != 1})
    if len(sizes) >= len(PRIMES[0]):
        return None
    free = [n for n in sizes if n in LETTERED] or sizes
    primes = dict(zip(free, PRIMES[0], strict=False))
    return graph_at({k: tuple(primes.get(n, n) for n in s) for k, s in shapes.items()})


def gradient_text(graph: Graph, name: str, v_name: str) -> str:
    """The gradient of one input as an expression of PyTorch, at the graph's own sizes; "" for none."""
    draft = Draft(graph, {}, general=True)
    form = draft.form
    form.v_name = v_name
    leaf = graph.by_label(name)
    if leaf is None:  # at other sizes the text has other inputs
        return ""
    formula = form.gradient(leaf)
    if any(label_of(a).startswith(ADJOINT) for a in formula.atoms(sympy.Indexed, sympy.Symbol)):
        return ""
    names = draft.names
    names[v_name] = v_name
    for node in graph.nodes:
        if node.op is not None and not node.named:
            text = draft.writer.text(node, set())
            names[node.label] = f"({text})" if node.op.infix else text
    shapes = {n.label: n.shape for n in graph.nodes} | {v_name: graph.out.shape}
    places = form.calculus.indices(leaf.shape, "d")
    source = Source(names, shapes, draft.size, form.calculus.ranges)
    text = source.full(formula, places, name, leaf.shape)
    (line,) = unsigned(idiomatic([statement(name, text)], None))
    return show(line.value)
