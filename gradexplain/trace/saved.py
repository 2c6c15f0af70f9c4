"""For PyTorch's errors: which backward freed a graph, and what was changed after it was saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradexplain.recording.calls import KEY
from gradexplain.recording.frames import Site
from gradexplain.recording.operators import SPOKEN
from gradexplain.trace.groups import bare_name, is_leaf
from gradexplain.trace.snapshot import Overwritten
from gradexplain.trace.values import Values

#: Where a node of autograd's keeps which backward freed it.
_FREED = "gradexplain freed"


def mark_freed(capture: Values, site: Site | None) -> None:
    """Remember which backward freed what the nodes had saved."""
    for node in capture.nodes.values():
        if not is_leaf(node):
            node.metadata.setdefault(_FREED, site)


def freed_at(capture: Values) -> Site | None:
    """Where an earlier backward freed this graph, or a part of it."""
    for node in capture.nodes.values():
        if not is_leaf(node) and node.metadata.get(_FREED) is not None:
            found: Site = node.metadata[_FREED]
            return found
    return None


def carried_over(capture: Values) -> tuple[str, Site | None]:
    """The value by which this graph hangs on one that was freed: its name, and where it was made."""
    for node in capture.nodes.values():
        if is_leaf(node) or _FREED in node.metadata:
            continue
        for target, nr in node.next_functions:
            if target is None or is_leaf(target) or _FREED not in target.metadata:
                continue
            value = capture.edge_values.get((id(target), nr))
            group = capture.owner.get(id(target))
            site = group.call.site if group is not None and group.call is not None else None
            return (value.names[0] if value is not None and value.names else ""), site
    return "", None


def overwritten(capture: Values, made_by: str) -> Overwritten | None:
    """The value that was changed in place after it was saved, the change, and who had saved it."""
    choices: list[Overwritten] = []
    refused: list[Overwritten] = []
    for group in capture.groups:
        for operand in group.call.operands if group.call is not None else ():
            if operand.intact:
                continue
            if operand.leaf is not None or operand.node is None:
                found = capture.operand(operand)
            else:
                known = capture.edge_values.get((id(operand.node), operand.nr))
                if known is None:
                    continue
                found = known
            storage = operand.value.untyped_storage().data_ptr()
            change = next(
                (
                    c
                    for c in capture.recorder.changes
                    if c.storage == storage and c.version > operand.version
                ),
                None,
            )
            first = operand.node is not None and bare_name(operand.node.name()) == bare_name(
                made_by
            )
            # Who saved it, as far as PyTorch refuses to hand it out: the call that made it, or this one.
            node = operand.node
            own = node.metadata.get(KEY) if node is not None and _refuses([node]) else None
            call = group.call if own is None else own[0]
            assert call is not None
            item = Overwritten(
                found.names[0] if found.names else "", _spoken(call.kind.name), call.site,
                "" if change is None else _spoken(change.name),
                None if change is None else change.site, result=own is not None,
            )  # fmt: skip
            known_to = refused if own is not None or _refuses(group.nodes) else choices
            known_to.insert(0 if first and made_by else len(known_to), item)
    return next(iter(refused), None) or _own_result(capture) or next(iter(choices), None)


def _spoken(name: str) -> str:
    return SPOKEN.get(name, name)


def _refuses(nodes: Sequence[Any]) -> bool:
    """Whether PyTorch no longer hands out what one of the nodes has saved, for it was changed."""
    for node in nodes:
        for name in dir(node):
            try:
                name.startswith("_saved_") and getattr(node, name)
            except RuntimeError as error:
                if "inplace" in str(error):
                    return True
    return False


def _own_result(capture: Values) -> Overwritten | None:
    """A call's own result that it had saved, as exp does, and another call changed."""
    for group in capture.groups:
        call = group.call
        if call is None or call.kind.kind != "inplace" or not call.operands:
            continue
        before = call.operands[0]
        entry = before.node.metadata.get(KEY) if before.node is not None else None
        if entry is None or not _refuses([before.node]):
            continue
        maker = entry[0]
        value = capture.edge_values.get((id(before.node), before.nr))
        names = value.names if value is not None else ()
        return Overwritten(
            names[0] if names else "", _spoken(maker.kind.name), maker.site,
            _spoken(call.kind.name), call.site, result=True,
        )  # fmt: skip
    return None
