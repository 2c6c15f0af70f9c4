"""The names that formulas use beside the user's own."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gradexplain.graph import Graph, Node, fact, labels_of, op_call

#: An unnamed value is its own text up to this many characters, a number beyond.
OWN = 24


def free_names(graph: Graph) -> tuple[str, str]:
    """Names for the argument of ``backward`` and for the scalar ``L = Σ v·y`` that no value has."""
    return (
        free_name(graph, "v", "g", "upstream", "grad_output"),
        free_name(graph, "L", "S", "loss", "L_v"),
    )


@fact
def free_name(graph: Graph, *names: str) -> str:
    """The first of ``names`` that no value has."""
    taken = {node.label for node in graph.nodes}
    return next((name for name in names if name not in taken), f"{names[-1]}_")


@fact
def own_texts(graph: Graph, most: int = OWN) -> Mapping[int, str]:
    """Each value's text in the reader's names: ``2*b``, ``log(c)``; a longer one's is its label."""
    texts = dict(labels_of(graph))
    for node in graph.nodes:
        if node.op is None or node.named:
            continue
        shown = {id: texts[id] for id in node.inputs}
        for place, id in enumerate(node.inputs):
            inner = _binds(graph[id]) if texts[id] != graph[id].label else _TIGHT
            outer = _binds(node) if node.op.infix else _LOOSE if node.op.show is None else _TIGHT
            if inner < outer or (inner == outer < _TIGHT and place):
                shown[id] = f"({texts[id]})"
        text = re.sub(r"(?<=\w\()\(([^()]*)\)(?=[,)])", r"\1", op_call(node, texts | shown))
        # A value beside an operation, as x̂ = (x − μ)/σ, has a name of its own.
        plain = node.id not in graph.helpers() or re.fullmatch(r"\w+\([^²−+]*\)", text)
        if len(text) <= most and plain:
            texts[node.id] = text
    return texts


_LOOSE, _SUM, _PRODUCT, _POWER, _TIGHT = range(5)


def _binds(node: Node) -> int:
    """How tightly the operation of an unnamed value holds its operands."""
    if node.op is None or not node.op.infix:
        return _TIGHT
    sign = node.op.infix.replace("{}", "").strip()
    if len(node.inputs) == 1:  # -(a + b)
        return _PRODUCT
    return {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "@": _PRODUCT}.get(sign, _POWER)


def quoted(graph: Graph, texts: Mapping[int, str]) -> dict[str, str]:
    """What formulas call each unnamed value: its text, in parentheses where it is no call."""
    return {
        node.label: f"({texts[node.id]})" if node.op.infix else texts[node.id]
        for node in graph.nodes
        if node.op is not None and texts[node.id] != node.label
    }
