"""A graph as SVG and as dot: layered from left to right by `gradexplain.formats.layout`."""

from __future__ import annotations

from html import escape

from gradexplain.document.model import Graph, GraphNode
from gradexplain.formats.layout import Item, layout

_ROW, _HEIGHT, _GAP, _MARGIN, _TOP = 62, 32, 46, 12, 28

_STYLE = (
    "rect{fill:#fff;stroke:#555}text{font:13px monospace;fill:#111}path{fill:none;stroke:#555}"
    ".output rect{stroke-width:2}.flow{fill:#8a1c7c}"
    ".fn{font-size:10px;fill:#565b66}"
)


def svg(graph: Graph, *, alone: bool = False) -> str:
    """The drawing; ``alone`` as a file of its own, with its style."""
    layers = layout(graph)
    texts = {node.name: node for node in graph.nodes}
    widths = [
        max((_width(texts[item.name]) for item in level if item.real), default=10)
        for level in layers
    ]
    lefts = [_MARGIN + sum(widths[:n]) + _GAP * n for n in range(len(layers))]
    flow = f"◄ {graph.flow}"
    width = lefts[-1] + widths[-1] + _MARGIN + 10 * len(flow)
    height = _TOP + _MARGIN + 6 + max(i.row for level in layers for i in level) * _ROW + _HEIGHT

    def box(item: Item) -> tuple[float, float, float]:
        """Left, right and middle of an item."""
        wide = _width(texts[item.name]) if item.real else widths[item.layer]
        left = lefts[item.layer]
        return left, left + wide, _TOP + item.row * _ROW + _HEIGHT / 2

    lines: list[str] = []
    marks: list[str] = []
    for tail, head in dict.fromkeys(graph.edges):
        points = []
        for item in _way(layers, tail, head):
            left, right, middle = box(item)
            points += [(left, middle), (right, middle)]
        points = points[1:-1]
        path = f"M{points[0][0]:g} {points[0][1]:g}"
        for (x, y), (p, q) in zip(points, points[1:], strict=False):
            bend = (x + p) / 2
            path += f" C{bend:g} {y:g} {bend:g} {q:g} {p:g} {q:g}"
        data = f'data-tail="{escape(tail)}" data-head="{escape(head)}"'
        lines.append(f'<path class="edge" {data} d="{path}"/>')
        x = (points[-2][0] + points[-1][0]) / 2
        y = min(points[-2][1], points[-1][1]) - _HEIGHT / 2 - 6
        marks.append(f'<text class="mark" {data} x="{x:g}" y="{y:g}" text-anchor="middle"></text>')
    boxes = []
    for level in layers:
        for item in level:
            if not item.real:
                continue
            left, right, middle = box(item)
            node = texts[item.name]
            at = (
                f'x="{(left + right) / 2:g}" y="{middle + _HEIGHT / 2 + 11:g}" text-anchor="middle"'
            )
            below = f'<text class="fn" {at}>{escape(node.grad_fn)}</text>' if node.grad_fn else ""
            boxes.append(
                f'<g class="node {node.role}" data-node="{escape(node.name)}">'
                f"<title>{escape(node.detail or node.text)}</title>"
                f'<rect x="{left:g}" y="{middle - _HEIGHT / 2:g}" width="{right - left:g}" '
                f'height="{_HEIGHT}" rx="6"/>'
                f'<text x="{(left + right) / 2:g}" y="{middle + 5:g}" text-anchor="middle">'
                f"{escape(node.text)}</text>{below}</g>"
            )
            if node.role == "output":
                boxes.append(
                    f'<text class="flow" x="{right + 6:g}" y="{middle + 5:g}">{escape(flow)}</text>'
                )
    style = f"<style>{_STYLE}</style>" if alone else ""
    name = 'xmlns="http://www.w3.org/2000/svg" ' if alone else ""
    return (
        f'<svg {name}role="img" aria-label="the graph of the computation" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">'
        f"{style}{''.join(lines)}{''.join(boxes)}{''.join(marks)}</svg>"
    )


def _width(node: GraphNode) -> int:
    """How wide the box of an operation is, and what PyTorch calls its backward under it."""
    return max(8 * len(node.text) + 20, 6 * len(node.grad_fn))


def _way(layers: list[list[Item]], tail: str, head: str) -> list[Item]:
    """The items that an edge goes through."""
    end = next(i for level in layers for i in level if i.real and i.name == head)
    return [i for level in layers[: end.layer] for i in level if i.name == tail] + [end]


def dot(graph: Graph) -> str:
    """The graph in Graphviz's language."""

    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = ["digraph {", "  rankdir=LR;", "  node [shape=box, fontname=monospace];"]
    for node in graph.nodes:
        shape = ", shape=oval" if node.role != "operation" else ""
        lines.append(
            f"  {quoted(node.name)} [label={quoted(' '.join(filter(None, (node.text, node.grad_fn))))}{shape}];"
        )
    lines += [f"  {quoted(tail)} -> {quoted(head)};" for tail, head in graph.edges]
    out = next(node for node in graph.nodes if node.role == "output")
    lines.append(f"  backward [label={quoted(graph.flow)}, shape=plaintext];")
    lines.append(f"  backward -> {quoted(out.name)} [style=dashed];")
    return "\n".join([*lines, "}"]) + "\n"
