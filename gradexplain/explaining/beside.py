"""The lines of PyTorch that compute the gradients: written by `codegen`, run, and kept if they are right.

A line each where it is short; else the chain rule of all, operation by operation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from gradexplain.codegen.line import at_primes, gradient_line
from gradexplain.errors import GradexplainError
from gradexplain.explaining.running import Run
from gradexplain.explanation import Array
from gradexplain.ops.base import Shape
from gradexplain.routes.pytorch import Asked, Lines
from gradexplain.verdict import compare

#: Of larger programs no lines are written: they would be long, and there are the closed forms.
_NODES, _LEAVES = 16, 4

#: A chain of more operations, or more lines, is `codegen`'s.
_OPERATIONS, _MOST = 24, 16

#: What codegen cannot write is not worth a page.
_ERRORS = (
    GradexplainError,
    SyntaxError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    RuntimeError,
)

#: A longer line does not stand beside a formula.
_LONG = 72


def lines(run: Run) -> tuple[dict[str, str], list[str]]:
    """``v / s - (v * x).sum(dim=0) / s**2`` by input, where it is short and gives the gradient; else
    all that computes them."""
    reread, graph = run.problem.reread, run.graph
    if reread is None:
        return {}, []
    # Axes that may differ have sizes of their own there: x.shape[0] * w.shape[1] where both are 2.
    general = run.closed.sizes.graph if run.closed.sizes is not None else graph
    shapes = {node.label: node.shape for node in general.leaves}
    made = _right(run, _each(run, shapes), "")
    left = [leaf.label for leaf in run.leaves if leaf.label not in made]
    if not left:
        return made, []
    v_name = run.closed.v_name
    code = run.closed.remembered(
        ("lines", *left, v_name), partial(_chain, reread, shapes, left, v_name)
    )
    if code and run.problem.v_source == "implicit":
        code = _without(code, v_name) or f"{v_name} = torch.ones_like({graph.out.label})\n{code}"
    with suppress(ValueError, KeyError):  # a line that names nothing, a gradient without a line
        said = dict(line.split(" = ", 1) for line in code.splitlines())
        # The last line of each stands beside its gradient.
        own = {name: said.pop(f"grad_{name}") for name in left}
        before = [" = ".join(line) for line in said.items()]
        if _right(run, own, "\n".join(before)) == own:
            return made | own, before
    return made, []


def _each(run: Run, shapes: Mapping[str, Shape]) -> dict[str, str]:
    """A line for each gradient that has a short one."""
    reread, graph, made = run.problem.reread, run.graph, {}
    if len(graph.nodes) > _NODES or len(run.leaves) > _LEAVES:
        return {}
    for leaf in run.leaves:
        if own := _einsum(run, leaf.label):
            made[leaf.label] = own
            continue
        v_name = run.closed.v_name
        text = run.closed.remembered(
            ("line", leaf.label, v_name), partial(_line, reread, shapes, leaf.label, v_name)
        )
        if run.problem.v_source == "implicit":  # v is 1
            whole = text.removesuffix(f".expand_as({leaf.label})")
            number = not leaf.shape and f"{v_name}." not in whole
            one = "1" if number else f"torch.ones_like({leaf.label})"
            bare = _without(text, v_name) if whole == text else ""
            text = bare or _without(re.sub(rf"\b{v_name}\b", one, whole), v_name)
        if text and len(text) <= _LONG:
            made[leaf.label] = text
    return made


def _without(text: str, v_name: str) -> str:
    """Lines of PyTorch where v is 1, without it; "" where it stays."""
    bare = re.sub(rf"\b{v_name} \* |(?<= )\* {v_name}\b(?![.\[])", "", text)
    if re.search(rf"\b{v_name}\b", bare):
        return ""
    # v * (a + b) is a + b
    found = "\n".join(map(ast.unparse, ast.parse(bare).body)).replace("'", '"')
    return re.sub(r"(?<=\w) \*\* (?=\w)", "**", found)


def _chain(reread: Any, shapes: Mapping[str, Shape], wanted: Sequence[str], v_name: str) -> str:
    """The chain rule as lines of PyTorch; "" where there are none, or many."""
    from gradexplain.codegen.making import Making  # what most first pages do without

    try:
        graph = at_primes(reread, shapes)
        if graph is None or len(graph.needed()) > _OPERATIONS:
            return ""
        making = Making(graph, shapes, general=True, way="steps")
        found = making.alone(wanted)
    except _ERRORS:
        return ""
    return re.sub(rf"\b{making.v}\b", v_name, "\n".join(found)) if len(found) <= _MOST else ""


def _right(run: Run, made: Mapping[str, str], before: str) -> dict[str, str]:
    """The expressions that give the gradients, after what is run ``before`` them."""
    if not made:
        return {}
    graph = run.graph
    values = {n.label: np.asarray(run.values[n.label]) for n in graph.leaves}
    values |= {n.label: values[n.label].astype(int) for n in graph.leaves if n.integer}
    for node in graph.nodes:
        if node.named and node.op is not None and node.id in run.chain.forward:
            values[node.label] = run.clean(run.chain.forward[node.id])
    values[run.closed.v_name] = run.v
    answer = Asked(Lines(made, values, before)).answer()
    return {
        name: text
        for name, text in made.items()
        if _same(answer.gradients.get(name), run.explanation.gradients[name].value)
    }


def _line(reread: Any, shapes: Mapping[str, Shape], name: str, v_name: str) -> str:
    try:
        return gradient_line(reread, shapes, name, v_name).partition(" = ")[2]
    except _ERRORS:
        return ""


def _einsum(run: Run, name: str) -> str:
    """The gradient of an einsum of inputs in the letters of the reader's own: its output's letters
    and the other operands' go to this one's; "" where they do not name each axis once."""
    node = run.graph.out
    if node.op is None or node.op.name != "einsum" or not isinstance(node.args[0], str):
        return ""
    given, arrow, out = node.args[0].replace(" ", "").partition("->")
    operands = [run.graph[id].label for id in node.inputs]
    pairs = [*zip(given.split(","), operands, strict=False)]
    if not arrow or "." in given or operands.count(name) != 1 or len(pairs) != len(operands):
        return ""
    own = next(t for t, o in pairs if o == name)
    letters, values = zip(
        (out, run.closed.v_name), *(p for p in pairs if p[1] != name), strict=True
    )
    if len({*own}) < len(own) or len({*out}) < len(out) or not {*own} <= {*"".join(letters)}:
        return ""
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
