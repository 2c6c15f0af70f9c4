"""What is wrong with a training, in one sentence each: kind by kind, from what was seen.

`steps` reads the order of backward, step and zero_grad, `values` the numbers of a captured call,
`nan` where the first nan or infinity comes from, `cuts` who got no gradient.  Nothing is said of
what is as it should be: a false diagnosis is a defect.
"""

from __future__ import annotations

from gradexplain.trace.call import labels_of
from gradexplain.trace.diagnose.cuts import of_changes, of_cuts
from gradexplain.trace.diagnose.finding import Finding, Scene
from gradexplain.trace.diagnose.nan import of_calls, of_numbers
from gradexplain.trace.diagnose.steps import of_steps
from gradexplain.trace.diagnose.values import of_functions, of_values
from gradexplain.trace.seen import Seen

#: The order in which findings are told: what explains others comes first.
_ORDER = (
    "not a number", "changed behind autograd", "zero_grad before step", "zero_grad forgotten",
    "wrong backward", "step with scaled gradients", "clipped while scaled", "clipped too late",
    "learning rate gone", "graph grows", "left in eval", "step taken twice", "step never taken",
    "cut off", "not in the optimizer", "softmax twice", "softmax across samples", "sigmoid twice",
    "relu before the loss", "nll_loss without log_softmax", "broadcast in the loss", "swapped",
    "learning rate 0", "one storage", "derivative 0", "gradient stops", "scheduler first",
    "clipped to nothing",
    "dead units", "saturated", "vanishing", "exploding", "diverging", "unstable form",
    "grad of a result", "graph kept", "optimised but unused", "constant loss",
    "bias before a normalisation", "scaled gradient",
)  # fmt: skip

#: What another finding, when there is one, explains already.
_FOLLOWS = {
    "constant loss": set(_ORDER[: _ORDER.index("dead units")]),
    "optimised but unused": {"cut off", "not in the optimizer"},
    "vanishing": {"not a number", "dead units", "saturated"},
    "exploding": {"not a number"},
    "diverging": {"zero_grad forgotten"},
    "not a number": {"diverging"},
    "dead units": {"not a number"},
    "gradient stops": {"not a number", "dead units", "saturated", "derivative 0", "vanishing"},
    "saturated": {"not a number"},
    "bias before a normalisation": {"not a number"},
}  # fmt: skip


def diagnosed(trace: Seen) -> list[Finding]:
    """The findings of a trace, the most telling first; each sentence once."""
    found = [*of_steps(trace), *of_cuts(trace)]
    snapshots = trace.snapshots
    still = {leaf.name for leaf in trace.journal.leaves.values() if leaf.is_still}
    for snapshot in snapshots:
        scene = Scene(snapshot, labels_of(snapshot))
        found += [*of_numbers(scene), *of_changes(snapshot)]
        if snapshot.fault is None:
            found += of_values(scene, still)
            if any(operation.graphs for operation in scene.operations):
                found += of_functions(scene, trace.call(snapshot.index))
    for snapshot, call in trace.again:
        found += of_functions(Scene(snapshot, labels_of(snapshot)), call, ": later")
    found += of_calls(trace, {snapshot.index for snapshot in snapshots})
    kinds = {finding.kind for finding in found}
    told: dict[tuple[str, int | None], Finding] = {}
    for finding in found:
        if not kinds & _FOLLOWS.get(finding.kind, set()):
            told.setdefault((finding.kind, finding.line), finding)
    return sorted(told.values(), key=lambda f: _ORDER.index(f.kind))


__all__ = ["Finding", "diagnosed"]
