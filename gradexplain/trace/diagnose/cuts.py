"""Who got no gradient, and the line at which the way to it was cut."""

from __future__ import annotations

from collections.abc import Iterator

from gradexplain.recording.frames import Site
from gradexplain.trace.diagnose.finding import Finding, at, told
from gradexplain.trace.seen import Seen
from gradexplain.trace.snapshot import Snapshot


def _method(function: str) -> str:
    return "." + function if function in ("detach", "detach_", "data") else function.strip("_")


def of_cuts(trace: Seen) -> Iterator[Finding]:
    """Leaves that no backward ever reached although the script counts on it."""
    yield from _read_on_results(trace)
    journal = trace.journal
    if not journal.backwards:
        return
    members = {key for optimizer in journal.optimizers.values() for key in optimizer.leaves}
    wanted = {k: v for k, v in trace.reads.items() if k not in journal.leaves
              or not journal.leaves[k].stats}  # fmt: skip
    names: dict[tuple[str, str, Site | None], list[str]] = {}
    for key, (name, read) in wanted.items():
        reason = _reason(trace, key)
        if reason is not None:
            names.setdefault(reason, []).append(name or f"the tensor whose .grad {at(read)} reads")
    for key in members - wanted.keys():
        leaf = journal.leaves.get(key)
        if leaf is None or leaf.reached or not leaf.stepped or not leaf.requires:
            continue
        reason = _reason(trace, key)
        if reason is not None:
            names.setdefault(reason, []).append(leaf.name or "a parameter")
    for (why, function, site), found in names.items():
        yield told(f"cut off: {why}", site, names=found, function=_method(function))


def _reason(trace: Seen, key: int) -> tuple[str, str, Site | None] | None:
    """Why nothing reaches a leaf: what was seen to cut the way from it."""
    for why, function, site, leaves in trace.cuts:
        if key in leaves:
            return why, function, site
    for function, site, leaves in trace.left:
        if key in leaves:
            return "left", function, site
    return None


def _read_on_results(trace: Seen) -> Iterator[Finding]:
    """``.grad`` of a tensor that is no leaf."""
    for name, made, function, read in trace.result_reads:
        by = f" by {function.strip('_')} at {at(made)}" if made is not None else ""
        yield told("grad of a result", read, what=name or "a result", by=by, name=name or "y")


def of_changes(snapshot: Snapshot) -> Iterator[Finding]:
    """Values that were changed behind autograd's back after an operation had saved them."""
    for silent in snapshot.silent:
        yield told(
            "changed behind autograd", silent.changed_at, snapshot.index, name=silent.name,
            function=silent.changed, operation=silent.saved, saved=silent.saved_at,
        )  # fmt: skip
