"""The line of PyTorch that computes each gradient: written by `codegen`, run, and kept if it is right."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from gradexplain.codegen.line import gradient_line
from gradexplain.codegen.lines import show
from gradexplain.explaining.running import Run
from gradexplain.explanation import Array
from gradexplain.ops.base import Shape
from gradexplain.routes.pytorch import Asked, Lines
from gradexplain.verdict import compare

#: Of larger programs no lines are written: they would be long, and there are the closed forms.
_NODES, _LEAVES = 16, 4

#: A longer line does not stand beside a formula.
_LONG = 72


def lines(run: Run) -> dict[str, str]:
    """``v / s - (v * x).sum(dim=0) / s**2`` by input, where it is short and gives the gradient."""
    reread, graph = run.problem.reread, run.graph
    if (
        not run.problem.check
        or reread is None
        or len(graph.nodes) > _NODES
        or len(run.leaves) > _LEAVES
    ):
        return {}
    # Axes that may differ have sizes of their own there: x.shape[0] * w.shape[1] where both are 2.
    general = run.closed.sizes.graph if run.closed.sizes is not None else graph
    shapes = {node.label: node.shape for node in general.leaves}
    made = {}
    for leaf in run.leaves:
        if own := _einsum(run, leaf.label):
            made[leaf.label] = own
            continue
        v_name = run.closed.v_name
        text = run.closed.remembered(
            ("line", leaf.label, v_name), partial(_line, reread, shapes, leaf.label, v_name)
        )
        if run.problem.v_source == "implicit":  # v is 1
            text = re.sub(rf"\b{run.closed.v_name} \* ", "", text)
            if re.search(rf"\b{run.closed.v_name}\b", text):
                continue
            text = text and show(ast.parse(text, mode="eval").body)  # v * (a + b) is a + b
        if text and len(text) <= _LONG:
            made[leaf.label] = text
    if not made:
        return {}
    values = {n.label: np.asarray(run.values[n.label]) for n in graph.leaves}
    for node in graph.nodes:
        if node.named and node.op is not None and node.id in run.chain.forward:
            values[node.label] = run.clean(run.chain.forward[node.id])
    values[run.closed.v_name] = run.v
    answer = Asked(Lines(made, values)).answer()
    return {
        name: text
        for name, text in made.items()
        if _same(answer.gradients.get(name), run.explanation.gradients[name].value)
    }


def _line(reread: Any, shapes: Mapping[str, Shape], name: str, v_name: str) -> str:
    try:
        return gradient_line(reread, shapes, name, v_name).partition(" = ")[2]
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError):
        return ""  # nothing that codegen cannot write is worth a page


def _einsum(run: Run, name: str) -> str:
    """The gradient of an einsum of inputs in the letters of the reader's own: its output's letters
    and the other operands' go to this one's; "" where they do not name each axis once."""
    node = run.graph.out
    if node.op is None or node.op.name != "einsum" or not isinstance(node.args[0], str):
        return ""
    given, arrow, out = node.args[0].replace(" ", "").partition("->")
    operands = [run.graph[id].label for id in node.inputs]
    terms = given.split(",")
    if not arrow or "." in given or operands.count(name) != 1 or len(terms) != len(operands):
        return ""
    own = terms[operands.index(name)]
    rest = [(t, o) for t, o in zip(terms, operands, strict=True) if o != name]
    known = out + "".join(t for t, _ in rest)
    if len(set(own)) < len(own) or len(set(out)) < len(out) or not set(own) <= set(known):
        return ""
    letters, values = zip((out, run.closed.v_name), *rest, strict=True)
    return f'torch.einsum("{",".join(letters)}->{own}", {", ".join(values)})'


def _same(found: Array | None, value: Array) -> bool:
    """Whether a line gave the gradient, in its shape or in one that broadcasts to it."""
    if found is None or not np.isfinite(value).all() or found.shape != value.shape:
        return False
    size = compare.largest(value)
    # Zeros are no gradient of 1e-13; where all is 0, what cancels in the line leaves a rounding of 1.
    return not any(
        compare.differs(
            found[part], value[part], 1e-9 * np.abs(value[part]) + 1e-12 * (size or 1.0)
        ).any()
        for part in compare.blocks(value.shape)
    )
