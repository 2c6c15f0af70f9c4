"""The names that formulas use beside the user's own."""

from __future__ import annotations

from gradexplain.graph import Graph


def free_names(graph: Graph) -> tuple[str, str]:
    """Names for the argument of ``backward`` and for the scalar ``L = Σ v·y`` that no value has."""
    taken = {node.label for node in graph.nodes}
    return (
        next(name for name in ("v", "g", "upstream", "grad_output") if name not in taken),
        next(name for name in ("L", "S", "loss", "L_v") if name not in taken),
    )
