"""Who got no gradient, and the line at which the way to it was cut."""

from __future__ import annotations

from collections.abc import Iterator

from gradexplain.recording.frames import Site
from gradexplain.trace.diagnose.finding import Finding, at, plain, told
from gradexplain.trace.seen import Seen
from gradexplain.trace.snapshot import Snapshot

#: Operations to which a constant adds nothing that depends on a parameter.
_ADDING = {"add", "iadd", "radd", "sub", "isub", "rsub", "mse_loss", "l1_loss", "smooth_l1_loss"}


def _method(function: str) -> str:
    return "." + function if function in ("detach", "detach_", "data") else function.strip("_")


def of_cuts(trace: Seen) -> Iterator[Finding]:
    """Leaves that no backward ever reached although the script counts on it."""
    yield from _read_on_results(trace)
    journal = trace.journal
    if not journal.backwards:
        return
    yield from _without_graph(trace)
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
    cuts = [cut for snapshot in trace.snapshots for value in snapshot.values for cut in value.cuts]
    for cut in cuts:  # what a loss reads explains more than what was cut somewhere
        if key in cut.leaves:
            return cut.why, cut.function, cut.site
    for why, function, site, leaves in trace.cuts:
        if key in leaves:
            return why, function, site
    for function, site, leaves in trace.left:
        if key in leaves:
            return "left", function, site
    return None


def _without_graph(trace: Seen) -> Iterator[Finding]:
    """Derivatives by the input, as a physics-informed loss or a penalty adds them, as constants."""
    for snapshot in trace.snapshots:
        added = {n for o in snapshot.operations if plain(o.name) in _ADDING for n in o.inputs}
        for value in (snapshot.values[number] for number in sorted(added)):
            for cut in value.cuts:
                if cut.why == "gradient" and (not value.shape or cut.site in snapshot.taken):
                    leaves = [trace.journal.leaves.get(key) for key in cut.leaves]
                    names = [leaf.name for leaf in leaves if leaf and leaf.stepped]
                    if names:
                        yield told("cut off: gradient", cut.site, names=names)


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
