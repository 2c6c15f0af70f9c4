"""A loss that is no number, of which no operation was recorded: read from what autograd has saved.

Operations of a long loop are recorded at first only.  Autograd's nodes still hold what they need for
their backward: the first that holds something without a value is the operation; where the graph is
that of a call which was captured, it has that call's line.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from gradexplain.recording.calls import nodes_behind
from gradexplain.recording.frames import Site
from gradexplain.trace.capture import Capture
from gradexplain.trace.groups import bare_name, is_leaf, plain_name
from gradexplain.trace.journal import NODES

#: The nodes of a captured graph, in order, each with its operation's name and place.
Plan = list[tuple[str, str, Site | None]]

#: By node: what it saves, where that has no value, and what is said of the element there.
_ROWS: tuple[tuple[str, str, Callable[[Any], Any], str], ...] = (
    ("Log|Log2|Log10", "self", lambda x: x <= 0, "of {}"),
    ("Log1p", "self", lambda x: x <= -1, "of {}"),
    ("Sqrt", "result", torch.isnan, "of a negative number"),
    ("Div", "other", lambda x: x == 0, "divides by 0"),
    ("Exp|Expm1", "result", torch.isinf, "overflows"),
    ("Reciprocal|Rsqrt", "result", torch.isinf, "of 0"),
    ("Acos|Asin", "self", lambda x: x.abs() > 1, "of {}"),
    (
        "Softmax|LogSoftmax",
        "result",
        torch.isnan,
        "has a row in which everything is -inf or no number",
    ),
)


#: By node: what it saves where its derivative is infinite, as in ``_ROWS``.
_STEEP = (
    ("Sqrt", "result", lambda x: x == 0, "of 0"),
    ("Acos|Asin", "self", lambda x: x.abs() >= 1, "of {}"),
    *(row for row in _ROWS if row[0] in ("Log|Log2|Log10", "Div", "Reciprocal|Rsqrt")),
)

#: So many of them are looked at in each call.
_LOOKED_AT = 12

#: The way from the root to a node, its row, its operation's name and place.
Steep = tuple[tuple[int, ...], Any, str, "Site | None"]


def steep_in(capture: Capture, root: Any) -> list[Steep]:
    """The nodes behind ``root`` whose derivative is infinite somewhere."""
    found: list[Steep] = []
    queue: list[tuple[Any, tuple[int, ...]]] = [(root.grad_fn, ())]
    seen = {None, root.grad_fn}
    for node, way in queue if root.grad_fn is not None else ():
        group = capture.owner.get(id(node))
        call = group.call if group is not None else None
        row = next((r for r in _STEEP if re.fullmatch(r[0], bare_name(node.name()))), None)
        # What divides and is no constant.
        if row is not None and call is not None and node.next_functions[-1][0] is not None:
            found.append((way, row, call.kind.name, call.site))
        for place, (following, _) in enumerate(node.next_functions):
            if following not in seen:
                seen.add(following)
                queue.append((following, (*way, place)))
    return found[:_LOOKED_AT]


def steep_at(root: Any, known: list[Steep]) -> tuple[str, Site | None]:
    """The first of them that is there just now, before a backward; empty for none."""
    for way, (pattern, saved, bad, said), name, site in known:
        node = root.grad_fn
        for place in way:
            following = () if node is None else node.next_functions
            node = following[place][0] if place < len(following) else None
        if node is None or not re.fullmatch(pattern, bare_name(node.name())):
            continue
        value = _saved(node, saved)
        if value is not None and bool((wrong := bad(value)).any()):
            element = f"{float(value[wrong].reshape(-1)[0]):.3g}"
            return (
                f"{name.strip('_')} {said.format(element)}: its derivative is infinite there",
                site,
            )
    return "", None


def plan_of(capture: Capture) -> Plan:
    """What is kept of a captured call."""
    found = []
    for node in _ordered(capture.nodes.values()):
        group = capture.owner.get(id(node))
        call = group.call if group is not None else None
        name = bare_name(node.name()).lower() if call is None else call.kind.name
        found.append((plain_name(node.name()), name, None if call is None else call.site))
    return found


def first_bad(roots: list[Any], plan: Plan | None) -> tuple[str, Site | None]:
    """The first operation that has no value, as in ``log of 0``, and its place; empty for none."""
    behind = list(nodes_behind(roots, NODES))
    for leaf in (node.variable for node in behind if is_leaf(node)):
        if not torch.isfinite(leaf).all():
            return "a parameter is no number before anything is computed: a step before", None
    nodes = _ordered(behind)
    if plan is None or [row[0] for row in plan] != [plain_name(node.name()) for node in nodes]:
        plan = [(plain_name(n.name()), bare_name(n.name()).lower(), None) for n in nodes]
    for node, (_, name, place) in zip(nodes, plan, strict=True):
        for pattern, saved, bad, said in _ROWS:
            value = _saved(node, saved) if re.fullmatch(pattern, bare_name(node.name())) else None
            if value is not None and bool((wrong := bad(value)).any()):
                element = float(value[wrong].reshape(-1)[0])
                return f"{name.strip('_')} {said.format(f'{element:.3g}')}", place
        if re.fullmatch("Pow", bare_name(node.name())) and _roots_of_negative(node):
            return f"{name.strip('_')} of a negative number, to a power that is no integer", place
        for saved in ("self", "other", "result"):
            value = _saved(node, saved)
            if value is not None and bool(torch.isnan(value).any()):
                return f"{name.strip('_')} is the first whose numbers are nan", place
    return "", None


def _roots_of_negative(node: Any) -> bool:
    base, power = _saved(node, "self"), node._saved_exponent
    return (
        base is not None and isinstance(power, float) and power % 1 != 0 and bool((base < 0).any())
    )


def _ordered(nodes: Any) -> list[Any]:
    return sorted((n for n in nodes if not is_leaf(n)), key=lambda node: node._sequence_nr())


def _saved(node: Any, name: str) -> Any:
    try:
        value = getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # freed, or changed since
        return None
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach()
    return None
