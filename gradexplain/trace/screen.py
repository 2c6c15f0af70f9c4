"""One screen of a trace, as data: the verdict, what is wrong, a row for each parameter, the path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradexplain.explanation import Array
from gradexplain.texts import listed
from gradexplain.trace.call import Brief, labels_of
from gradexplain.trace.diagnose.finding import Finding, Scene, line_of, norm, plain
from gradexplain.trace.rows import Row, collapsed, frozen, written
from gradexplain.trace.seen import Seen
from gradexplain.trace.snapshot import Fault, Operation, Snapshot
from gradexplain.verdict.status import worst

#: The path has so many, and is shown from so many on.
_STEPS, _FEWEST = 7, 3

#: What brings a block and what goes past it together.
_SUMS = {"add", "iadd", "radd"}

_NOTHING = 5

_TRANSFORMS = "torch.func differentiates by transforms of its own, which no formula is held against"


@dataclass(frozen=True, slots=True)
class Factor:
    """An operation or block on the gradient's path, repeated: the norm goes on by ``factor`` each
    time, and by ``branch`` through f alone where it is ``x + f(x)``.
    """

    operation: str
    line: int | None
    times: int
    factor: float
    branch: float


@dataclass(slots=True)
class Path:
    """The way from the output back: norms at both ends and what lies between."""

    start: str
    end: str
    first: float
    last: float
    factors: list[Factor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls that one line made."""

    first: int
    last: int
    function: str
    line: int | None
    source: str
    values: tuple[float | None, float | None]
    error: str
    failure: str


@dataclass(slots=True)
class Screen:
    """What the screen shows."""

    script: str
    status: str
    sentence: str
    findings: list[Finding]
    rows: list[Row]
    #: The rows before any were collapsed.
    every: list[Row]
    last_call: int | None
    path: Path | None
    nothing: list[tuple[str, str, int | None]]
    more_nothing: int
    accumulated: list[str]
    calls: list[Calls]
    failures: list[str]
    #: The error that stopped the script, or one that it caught.
    fault: Fault | None = None
    stopped: bool = False


def screen_of(trace: Seen, findings: list[Finding], script: str) -> Screen:
    """The screen of a script that has ended."""
    explained = [trace.call(snapshot.index) for snapshot in trace.snapshots]
    checks = [call.check for call in explained if call.check is not None and call.fault is None]
    status = worst([check.status for check in checks]) if checks else "cannot tell"
    checked = sum(call.checked for call in explained)
    operations = checked + sum(call.unchecked for call in explained)
    if any(call.check is not None and call.check.status == "mismatch" for _, call in trace.again):
        status = "mismatch"
    if any(b.failure or b.function == "torch.func" for b in trace.all) and status != "mismatch":
        status = "cannot tell"
    reasons = [check.reason.rstrip(".") for check in checks if check.status == status]
    if checked != operations:
        left = [note.data for call in explained for note in call.notes if note.kind == "opaque"]
        reasons = [f"not {data['function'].strip('_')}: {data['why']}" for data in left]
    main = next((s for s in reversed(trace.snapshots) if s.fault is None and s.operations), None)
    told = sorted(trace.snapshots, key=lambda s: s.function == "grad")
    first = next((s for s in told if s.fault is None and s.accumulated), main)
    nothing = _nothing(trace)
    rows, last = rows_of(trace, first)
    return Screen(
        script=script,
        status=status,
        sentence=_sentence(trace, status, checked, operations, reasons),
        findings=findings,
        rows=collapsed(rows),
        every=rows,
        last_call=last,
        path=None if first is None else path_of(Scene(first, labels_of(first))),
        nothing=nothing[:_NOTHING],
        more_nothing=max(0, len(nothing) - _NOTHING),
        accumulated=_accumulated(trace),
        calls=calls_of(trace.all),
        failures=trace.failures,
        fault=trace.fault if trace.fault and (trace.stopped or trace.fault.why) else None,
        stopped=trace.stopped,
    )


# -- verdict ---------------------------------------------------------------------------------------


def _sentence(
    trace: Seen, status: str, checked: int, operations: int, reasons: Sequence[str]
) -> str:
    indices = [s.index for s in trace.snapshots if s.fault is None]
    which = _numbered(indices)
    if trace.again:
        which += (
            f" (Functions also of {_numbered([snapshot.index for snapshot, _ in trace.again])})"
        )
    functional = any(brief.function == "torch.func" for brief in trace.all)
    if not indices:
        return f"{_TRANSFORMS}." if functional else "no call could be compared."
    compared = f"{checked} of {operations} operations of {which} were held against their formulas"
    reason = next(filter(None, reasons), "")
    if functional:
        reason = reason or _TRANSFORMS
    return {
        "agree": f"{compared}, and PyTorch's gradients are theirs.",
        "convention": f"{compared}; where they differ: {reason or 'mathematics leaves a choice'}.",
        "mismatch": f"{compared}, and some send back another gradient than their formula.",
        "cannot tell": f"{compared}{'; ' * bool(reason)}{reason}.",
        "skipped": f"{compared}.",
    }[status]


def _numbered(indices: Sequence[int]) -> str:
    return f"call{'s' * (len(indices) > 1)} {listed([*map(str, indices)], 6)}"


# -- rows ------------------------------------------------------------------------------------------


def rows_of(trace: Seen, snapshot: Snapshot | None) -> tuple[list[Row], int | None]:
    zeros: dict[str, float] = {}
    for entry in snapshot.accumulated if snapshot is not None else ():
        added = snapshot.values[entry.value].upstream if snapshot and entry.value >= 0 else None
        if added is not None and added.size:  # as PyTorch gave it: rounding noise is no zero
            zeros[entry.name] = float((added == 0).mean())
    rows = []
    calls = sorted({call for leaf in trace.journal.leaves.values() for call in leaf.stats})
    last = calls[-1] if len(calls) > 1 else None
    for leaf in trace.journal.leaves.values():
        if not leaf.stats or not (leaf.name or leaf.parameter):
            continue
        first = leaf.stats[min(leaf.stats)]
        final = leaf.stats[max(leaf.stats)] if len(leaf.stats) > 1 else None
        rows.append(
            Row(
                leaf.name or "a parameter", written(leaf.shape), 1,
                first.norm, first.largest, zeros.get(leaf.name), leaf.ratio,
                None if final is None else final.norm,
            )
        )  # fmt: skip
    if not rows and snapshot is not None:
        for entry in snapshot.accumulated:
            if entry.added is not None and entry.name:
                rows.append(
                    Row(
                        entry.name, written(entry.shape), 1, norm(entry.added),
                        float(np.abs(entry.added).max(initial=0)), zeros.get(entry.name), None, None,
                    )
                )  # fmt: skip
    order = {row.name: place for place, row in enumerate(rows)}
    if snapshot is not None:
        made = {e.name: n for n, e in enumerate(snapshot.accumulated)}
        order |= {row.name: made.get(row.name, len(made) + order[row.name]) for row in rows}
    rows.sort(key=lambda row: order[row.name])
    return rows + frozen(snapshot.left_out if snapshot is not None else (), rows), last


# -- the path --------------------------------------------------------------------------------------


def path_of(scene: Scene) -> Path | None:
    """The gradient's way from the output to the farthest leaf, with a factor for each part of it.

    A part lies between two values through which all of the gradient goes: an operation, or a block
    whose branches part and meet again.  What flows in one branch alone is no measure of the whole.
    """
    end = _farthest(scene)
    if end is None:
        return None
    last, leaf = end
    leading = {last.id}  # the operations by which something comes to the last one
    for operation in scene.operations[last.id + 1 :]:
        if any(scene.value(n).call in leading for n in operation.inputs):
            leading.add(operation.id)
    flowing = {n for n in scene.snapshot.roots if scene.value(n).call in leading}
    start = [scene.value(n) for n in sorted(flowing)]
    size = math.hypot(*(norm(v.arrived if v.upstream is None else v.upstream) for v in start))
    path = Path(scene.name(start[-1].id), scene.name(leaf), size, size)
    parts: dict[tuple[str, int | None], list[tuple[float, float]]] = {}
    within: list[Operation] = []
    for operation in reversed(scene.operations[last.id :]):
        if flowing.isdisjoint(operation.outputs):
            continue
        within.append(operation)
        flowing.difference_update(operation.outputs)
        flowing.update(n for n in operation.inputs if scene.value(n).call in leading)
        below = leaf if operation is last else min(flowing)
        array = last.sent.get(leaf) if operation is last else scene.value(below).upstream
        if len(flowing) > 1 or array is None:
            continue
        now = norm(array) if np.isfinite(array).all() else math.nan
        if size > 0:
            name, skipped = _part(within, below)
            branch = math.nan if skipped is None else norm(array - skipped) / size
            parts.setdefault((name, line_of(within[0].site)), []).append((now / size, branch))
        path.last = size = now
        within = []
        if math.isnan(now):
            break
    for (name, line), factors in parts.items():
        each, branches = zip(*factors, strict=True)
        path.factors.append(Factor(name, line, len(factors), _mean(each), _mean(branches)))
    if sum(factor.times for factor in path.factors) < _FEWEST:
        return None
    if len(path.factors) > _STEPS:
        path.factors = _telling(path.factors)
    return path


def _farthest(scene: Scene) -> tuple[Operation, int] | None:
    """The operation at the end of the longest way back, and the leaf that it reads."""
    depth: dict[int, int] = {}
    ends: dict[int, tuple[Operation, int]] = {}
    for operation in scene.operations:
        ways = [n for n in operation.inputs if scene.value(n).kind != "constant"]
        deepest = max(
            ways, key=lambda n: (depth.get(n, 0), bool(scene.value(n).names)), default=None
        )
        if deepest is not None:
            for output in operation.outputs:
                depth[output] = depth.get(deepest, 0) + 1
                ends[output] = ends.get(deepest, (operation, deepest))
    roots = [n for n in scene.snapshot.roots if n in ends]
    return ends[max(roots, key=lambda n: depth[n])] if roots else None


def _part(operations: Sequence[Operation], below: int) -> tuple[str, Array | None]:
    """What a part of the path is called; of ``x + f(x)`` what comes to x without f."""
    last = operations[0]
    if len(operations) == 1:
        return plain(last.name), None
    if plain(last.name) in _SUMS and below in last.inputs:
        return "x + f(x)", last.sent.get(below)
    return f"block of {len(operations)} operations", None


def _mean(factors: Sequence[float]) -> float:
    if any(map(math.isnan, factors)):
        return math.nan
    return float(np.exp(np.mean(np.log(factors)))) if all(factors) else 0.0


def _telling(factors: list[Factor]) -> list[Factor]:
    """Those that change the gradient most, in their order."""
    weight = {id(f): abs(math.log(f.factor)) * f.times if f.factor > 0 else 1e9 for f in factors}
    kept = sorted(factors, key=lambda f: -weight[id(f)])[:_STEPS]
    return [factor for factor in factors if factor in kept]


# -- what got nothing, what was there, the calls ---------------------------------------------------


def _nothing(trace: Seen) -> list[tuple[str, str, int | None]]:
    """Leaves that got no gradient in any call, and why."""
    got = {leaf.name for leaf in trace.journal.leaves.values() if leaf.stats}
    found: dict[str, tuple[str, str, int | None]] = {}
    for snapshot in trace.snapshots:
        for left in snapshot.left_out:
            if left.name in got or not (left.requires or left.parameter):
                continue
            line = line_of(left.site)
            found.setdefault(left.name, (left.name, left.why, line))
    by_reason: dict[tuple[str, int | None], list[str]] = {}
    for name, why, line in found.values():
        by_reason.setdefault((why, line), []).append(name)
    return [(listed(names, 3), why, line) for (why, line), names in by_reason.items()]


def _accumulated(trace: Seen) -> list[str]:
    """Calls that added to what was there."""
    calls: dict[int, list[tuple[str, float, float]]] = {}
    for leaf in trace.journal.leaves.values():
        for call, stat in leaf.stats.items():
            if stat.before > 0:
                calls.setdefault(call, []).append((leaf.name, stat.before, stat.norm))
    lines = []
    for call, entries in sorted(calls.items())[:1]:
        name, before, added = max(entries, key=lambda e: e[1])
        more = f", as {len(entries) - 1} more did" if len(entries) > 1 else ""
        again = f"; the same in {len(calls) - 1} more calls" if len(calls) > 1 else ""
        lines.append(
            f"call {call} adds to what was there: {name or 'a leaf'} held a gradient of norm "
            f"{before:.3g}{more}, and {added:.3g} was added to it{again}."
        )
    return lines


def calls_of(briefs: Sequence[Brief]) -> list[Calls]:
    """The calls of each line, which may take turns with those of others."""
    lines: dict[Any, list[Brief]] = {}
    for brief in briefs:
        lines.setdefault((brief.site, brief.function, bool(brief.error)), []).append(brief)
    return [
        Calls(
            first.index, last.index, first.function, line_of(first.site), first.text,
            (first.value, last.value), first.error, next((b.failure for b in found if b.failure), ""),
        )
        for found in lines.values()
        for first, last in [(found[0], found[-1])]
    ]  # fmt: skip
