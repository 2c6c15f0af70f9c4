"""The graph of a program, as it is drawn."""

from __future__ import annotations

from gradexplain.document.model import Graph, GraphNode
from gradexplain.explanation import Explanation, ForwardRow

_SIGNS = {
    "add": "+", "sub": "−", "mul": "×", "div": "/", "matmul": "@", "mm": "@", "pow": "^", "neg": "−",
    "gt": ">", "lt": "<", "ge": "≥", "le": "≤", "eq": "=", "ne": "≠",
}  # fmt: skip


def graph_of(x: Explanation) -> Graph | None:
    """The operations and what they are made from; None where there is nothing to draw."""
    fixed = constants(x)
    rows = {r.node: r for r in x.forward if r.part_of is None and r.node not in fixed}
    if not rows:
        return None
    nodes = [GraphNode(name, name, "input") for name in x.inputs]
    known = {*x.inputs, *rows}
    edges: list[tuple[str, str]] = []
    for row in rows.values():
        out = row.node == x.output.name
        text = _text(row, known, fixed)
        if row.named and not out:
            text = f"{row.node} = {text}"
        nodes.append(GraphNode(row.node, text, "operation", row.expression, row.grad_fn))
        edges += [(source, row.node) for source in dict.fromkeys(row.inputs) if source in known]
        if out:
            nodes.append(GraphNode(f"{row.node} ", row.node, "output"))
            edges.append((row.node, f"{row.node} "))
    if not any(node.role == "output" for node in nodes):
        return None
    used = {tail for tail, _ in edges}
    kept = tuple(node for node in nodes if node.role != "input" or node.name in used)
    return Graph(
        kept, tuple(edges), x.grad.name if x.grad.source != "implicit" else "1", _remarks(x)
    )


def constants(x: Explanation) -> dict[str, str]:
    """The values that are made of numbers alone, as ``sqrt(2)`` is."""
    found: dict[str, str] = {}
    names = {*x.inputs, *(row.node for row in x.forward)}
    for row in x.forward:
        if not row.named and row.text and not row.shape:
            made = (i in found or i not in names for i in row.inputs)
            found |= {row.node: row.text} if row.inputs and all(made) else {}
    return found


def _text(row: ForwardRow, known: set[str], fixed: dict[str, str]) -> str:
    """An operation without the values that its edges bring: ``×3``, ``sum(dim=0)``."""
    sign = _SIGNS.get(row.op)
    numbers = [fixed.get(i, i) for i in row.inputs if i not in known]
    if sign is not None:
        if row.op == "neg" or not numbers:
            return sign
        first = row.inputs[0] not in known
        if row.op in ("mul", "add"):
            return f"{sign}{numbers[0]}"
        return f"{numbers[0]} {sign}" if first else f"{sign}{numbers[0]}"
    if row.op == "getitem" and len(row.expression) < 24:
        return row.expression.removeprefix(row.inputs[0])
    head, bracket, rest = row.expression.partition("(")
    if not bracket:
        return row.op
    kept = [
        part for part in rest.removesuffix(")").split(", ")
        if part not in known and not set(part.strip("[]").split(", ")) <= known
    ]  # fmt: skip
    return f"{head}({', '.join(kept)})" if kept and len(head) + len(", ".join(kept)) < 24 else head


def _remarks(x: Explanation) -> tuple[str, ...]:
    """Which inputs are reached by several paths."""
    paths: dict[str, int] = {x.output.name: 1}
    for step in x.steps:
        paths[step.input] = paths.get(step.input, 0) + paths.get(step.node, 0)
    return tuple(
        f"{name} is reached by {paths[name]} paths: {paths[name]} contributions"
        for name in x.inputs
        if paths.get(name, 0) > 1 and x.inputs[name].wanted
    )
