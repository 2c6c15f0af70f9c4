"""Who got no gradient, and the line at which the way to it was cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradexplain.recording.frames import Site
from gradexplain.trace.diagnose.finding import Finding, at, line_of, listed
from gradexplain.trace.snapshot import Snapshot

if TYPE_CHECKING:
    from gradexplain.trace.session import Trace

#: What to write instead of what cut the way.
REMEDIES = {
    "detached": "leave out {0}, or detach only what is to stay constant.",
    "no_grad": "compute it outside of torch.no_grad().",
    "copied": "torch.{0}(…) copies numbers: use torch.stack(list) for a list of tensors, or the "
    "tensor itself.",
    "left": "keep the tensor: {0}() makes a number that autograd knows nothing of.",
    "no derivative": "use a function with a derivative in place of {0}, such as softmax for argmax or "
    "sigmoid for a comparison.",
}


def cause(why: str, function: str, site: Site | None) -> str:
    """What cut the way, with its line."""
    words = {
        "detached": f"{_method(function)} at {at(site)} detaches it",
        "no_grad": f"{_method(function)} at {at(site)} runs under torch.no_grad()",
        "copied": f"torch.{function}(…) at {at(site)} copies the numbers and leaves the graph behind",
        "left": f"{function}() at {at(site)} turns it into plain numbers",
        "no derivative": f"{_method(function)} at {at(site)} has no derivative",
    }
    return words[why]


def _method(function: str) -> str:
    return "." + function if function in ("detach", "detach_", "data") else function.strip("_")


def of_cuts(trace: Trace) -> Iterator[Finding]:
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
        yield Finding(
            "cut off",
            f"{listed(found)} {'gets' if len(found) == 1 else 'get'} no gradient: "
            f"{cause(why, function, site)}.",
            REMEDIES[why].format(_method(function)),
            line_of(site),
        )


def _reason(trace: Trace, key: int) -> tuple[str, str, Site | None] | None:
    """Why nothing reaches a leaf: what was seen to cut the way from it."""
    for why, function, site, leaves in trace.cuts:
        if key in leaves:
            return why, function, site
    for function, site, leaves in trace.left:
        if key in leaves:
            return "left", function, site
    return None


def _read_on_results(trace: Trace) -> Iterator[Finding]:
    """``.grad`` of a tensor that is no leaf."""
    for name, made, function, read in trace.result_reads:
        what = name or "a result"
        by = f" by {function.strip('_')} at {at(made)}" if made is not None else ""
        yield Finding(
            "grad of a result",
            f"{what}.grad, read at {at(read)}, is None: {what} is no leaf, it was computed{by}, and "
            "backward keeps .grad for leaves only.",
            f"call {name or 'y'}.retain_grad() before backward, or ask for it: "
            f"torch.autograd.grad(loss, {name or 'y'}).",
            line_of(read),
        )


def of_changes(snapshot: Snapshot) -> Iterator[Finding]:
    """Values that were changed behind autograd's back after an operation had saved them."""
    for silent in snapshot.silent:
        yield Finding(
            "changed behind autograd",
            f"{silent.name} was changed through .data ({silent.function} at {at(silent.changed)}) "
            f"after {silent.operation} at {at(silent.saved)} had saved it: the gradient is computed "
            "with the new value, and PyTorch does not notice.",
            "change it after backward, under torch.no_grad() instead of .data, so that PyTorch "
            "notices.",
            line_of(silent.changed),
            snapshot.index,
        )
