"""What the order of backward, step and zero_grad tells, and who is in which optimizer."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gradexplain.trace.diagnose.finding import Finding, assigned, at, short, told
from gradexplain.trace.journal import Event, Journal, Leaf
from gradexplain.trace.seen import Seen

#: Calls in a row with the same loss, after steps, before it is called constant.
_SAME = 5

#: Losses added up with their graphs are said from so many on.
_ADDED = 3

#: A loss has run away when it is this much larger than at first.
_AWAY = 1e4

#: A learning rate is gone when it is this much smaller than it was, for so many steps at the end and
#: for this share of them all.
_GONE, _STEPS, _SHARE = 1e-5, 5, 0.25


def of_steps(trace: Seen) -> Iterator[Finding]:
    """The findings of a whole script."""
    journal = trace.journal
    stale = any(event.kind == "stale" for event in journal.events)
    for event in journal.events:
        if event.kind != "by hand" or not stale:
            yield _event(event, journal)
    yield from _never_stepped(trace)
    yield from _left_out(journal)
    yield from _unused(journal)
    yield from _shared(journal)
    for place, count in trace.sums.items():
        if count >= _ADDED:
            name = place.names[0] if place.names else "the sum"
            yield told("graph grows: added up", place, name=name, count=count)
    for mode in journal.modes.values():
        if mode.left >= 2 and not mode.back:
            yield told("left in eval", mode.place)
            break
    yield from _losses(trace)
    yield from _rates(journal)
    yield from _kept_graphs(trace)


# -- one step --------------------------------------------------------------------------------------


def _event(event: Event, journal: Journal) -> Finding:
    """What was noted when it came, with what is known by the end."""
    said, key = dict(event.said), event.kind
    optimizer = event.optimizer
    if optimizer is not None:
        said["optimizer"] = optimizer.name
    if event.kind == "wiped":
        key, zero = "zero_grad before step", said.pop("zero")
        said["how"] = f"zero_grad() at {at(zero)}" if zero else "setting .grad to nothing"
    elif event.kind == "by hand":
        key, leaves = "zero_grad forgotten: by hand", said.pop("leaves")
        said["names"] = [leaf.name or "a leaf" for leaf in leaves]
        stat = leaves[0].stats[event.call]
        said |= {"name": said["names"][0], "before": stat.before, "norm": stat.norm}
    elif event.kind == "stale" and optimizer is not None:
        key, leaves = "zero_grad forgotten: stale", said.pop("leaves")
        said["names"] = [leaf.name or "a parameter" for leaf in leaves]
        stat = next((s for s in leaves[0].stats.values() if s.before > 0), None)
        others = [z for z in journal.zeroed if not z[2] & set(optimizer.leaves)]
        said["numbers"] = "" if stat is None else (
            f" ({leaves[0].name or 'the first one'}: {short(stat.before)} was there, "
            f"{short(stat.norm)} was added)"
        )  # fmt: skip
        said["others"] = (
            f" The zero_grad() at {at(others[-1][1])} clears other parameters." if others else ""
        )
    return told(key, event.site, event.call, **said)


# -- who is in which optimizer ---------------------------------------------------------------------


def _never_stepped(trace: Seen) -> Iterator[Finding]:
    """Optimizers that have taken no step by the end, and whose parameters nobody else changes."""
    idle = _idle(trace.journal)
    if idle:
        names = list(dict.fromkeys(name for name, _ in idle))
        last = trace.all[-1].site if trace.all else None
        yield told("step never taken", last, names=names, count=len(trace.all), first=names[0])


def _idle(journal: Journal) -> list[tuple[str, frozenset[int]]]:
    leaves = journal.leaves.values()
    return [
        (name, members) for key, (name, members) in journal.at_hand.items()
        if key not in journal.optimizers
        and any(leaf.key in members and _got(leaf) for leaf in leaves)
        and not any(leaf.key in members and leaf.changed for leaf in leaves)
    ]  # fmt: skip


def _left_out(journal: Journal) -> Iterator[Finding]:
    """Parameters with gradients that are in no optimizer, and that nothing else changes."""
    first = next(iter(journal.optimizers.values()), None)
    if first is None:
        return
    inside = {key for optimizer in journal.optimizers.values() for key in optimizer.leaves}
    inside = inside.union(*(members for _, members in _idle(journal)))
    got = [leaf for leaf in journal.leaves.values() if _got(leaf)]
    left = [
        leaf for leaf in got
        if (leaf.parameter or leaf.unregistered) and leaf.key not in inside and leaf.name
        and not leaf.changed
    ]  # fmt: skip
    counts = Counter(leaf.name for leaf in left)
    names = list(counts)
    if left and len(left) == len(got) and len(names) == len(left):
        yield told("not in the optimizer: others", first.site, names=names, optimizer=first.name)
    elif len(names) < len(left):
        again = next(name for name in names if counts[name] > 1)
        attribute = f"self.{again.rpartition('.')[2]}"
        places = assigned("" if first.site is None else first.site.filename, attribute)
        made = [site for function, site, _ in places if function != "__init__"]
        yield told(
            "not in the optimizer: made anew", made[-1] if made else first.site, name=again,
            optimizer=first.name, step=first.site,
        )  # fmt: skip
    elif left:
        variant = "unregistered" if any(leaf.unregistered for leaf in left) else "left out"
        yield told(
            f"not in the optimizer: {variant}", first.site, names=names, optimizer=first.name,
            kind=first.kind,
        )  # fmt: skip


def _unused(journal: Journal) -> Iterator[Finding]:
    """Parameters that an optimizer has and that no ``backward`` reaches."""
    for optimizer in journal.optimizers.values():
        members = [journal.leaves[key] for key in optimizer.leaves if key in journal.leaves]
        if members and not any(leaf.stats or leaf.requires is not False for leaf in members):
            names = [leaf.name or "a parameter" for leaf in members]
            said = {"names": names, "optimizer": optimizer.name}
            yield told("optimised but unused: frozen", optimizer.site, **said)
        unused = [leaf for leaf in members if not leaf.reached and leaf.stepped and leaf.requires]
        if unused and len(unused) < len(members) and journal.backwards:
            names = [leaf.name or "a parameter without a name" for leaf in unused]
            yield told(
                "optimised but unused", optimizer.site, names=names, optimizer=optimizer.name
            )


def _shared(journal: Journal) -> Iterator[Finding]:
    """Learning rates of 0, parameters in one storage, a scheduler that comes too early."""
    for optimizer in journal.optimizers.values():
        for keys, top in zip(optimizer.groups, optimizer.tops, strict=False):
            leaves = [journal.leaves[key] for key in keys if key in journal.leaves]
            names = [leaf.name or "a parameter" for leaf in leaves if _got(leaf)]
            if top == 0 and names and any(optimizer.tops) and optimizer.steps > 1:
                yield told(
                    "learning rate 0", optimizer.site, names=names, optimizer=optimizer.name,
                    count=optimizer.steps,
                )  # fmt: skip
        for one, other in journal.shared:
            if one.key in optimizer.leaves:
                yield told(
                    "one storage", optimizer.site, first=one.name, second=other.name,
                    optimizer=optimizer.name,
                )  # fmt: skip
    if journal.early is not None:
        name, place, key = journal.early
        known = journal.optimizers.get(key)
        if known is not None and known.steps > 1:
            yield told("scheduler first", place, name=name, optimizer=known.name)


def _got(leaf: Leaf) -> bool:
    return any(stat.norm > 0 for stat in leaf.stats.values())


# -- losses and learning rates ---------------------------------------------------------------------


def _losses(trace: Seen) -> Iterator[Finding]:
    by_line: dict[Any, list[Any]] = {}
    for brief in trace.all:
        if brief.value is not None and brief.function != "grad":
            by_line.setdefault(brief.site, []).append(brief)
    optimizers = trace.journal.optimizers.values()
    rates = {rate for optimizer in optimizers for rate in optimizer.rates}
    if not any(optimizer.steps > 1 for optimizer in optimizers):
        return
    rate = f" (lr={short(max(rates))})" if rates else ""
    for place, briefs in by_line.items():
        values = [brief.value for brief in briefs]
        finite = [value for value in values if math.isfinite(value)]
        if len(briefs) < _SAME:
            continue
        if len(set(values)) == 1 and values[0] == values[0] and finite:
            moved = any(leaf.ratio for leaf in trace.journal.leaves.values())
            variant = "rate" if rates == {0.0} else "moved" if moved else "still"
            if variant == "still" and trace.journal.shrunk is not None:
                name, clipped, then, now = trace.journal.shrunk
                yield told("clipped to nothing", clipped, name=name, then=then, now=now)
                continue
            yield told(
                f"constant loss: {variant}", place, value=values[0], count=len(values), rate=rate
            )
        elif len(finite) >= 2 and abs(finite[0]) > 0:
            worst = max(range(len(finite)), key=lambda n: abs(finite[n]))
            grown = abs(finite[worst]) / max(abs(finite[0]), 1e-12)
            if grown > _AWAY and worst >= len(finite) - 2 and finite[worst] > 0:
                yield told(
                    "diverging", place, briefs[worst].index, first=finite[0], worst=finite[worst],
                    start=briefs[0].index, end=briefs[worst].index,
                    rate=rate,
                )  # fmt: skip


def _rates(journal: Journal) -> Iterator[Finding]:
    """A scheduler that makes the steps ever smaller long before the end."""
    for key, optimizer in journal.optimizers.items():
        top = max(optimizer.history.values(), default=0.0)
        last = max((n for n, rate in optimizer.history.items() if rate > _GONE * top), default=0)
        gone = {n: rate for n, rate in optimizer.history.items() if n > last}
        name, place = journal.schedulers.get(key, ("", None))
        if not last or not gone or not name:
            continue
        if optimizer.steps - min(gone) >= max(_STEPS, _SHARE * optimizer.steps):
            yield told(
                "learning rate gone", place, top=top, rate=gone[max(gone)], first=min(gone),
                steps=optimizer.steps, optimizer=optimizer.name, scheduler=name,
            )  # fmt: skip


# -- graphs that are kept --------------------------------------------------------------------------


def _kept_graphs(trace: Seen) -> Iterator[Finding]:
    for place, count in trace.journal.kept.items():
        sizes = count.sizes
        growing = len(sizes) >= 4 and all(a < b for a, b in itertools.pairwise(sizes))
        if growing and count.carried is not None:
            names = count.carried.names
            yield told(
                "graph grows: carried", count.carried, backward=place, first=sizes[0],
                last=sizes[-1], count=len(sizes), name=names[0] if names else "h",
                what=names[0] if names else "what one step hands on to the next",
            )  # fmt: skip
        elif len(sizes) >= 3 and count.again == 0:
            yield told("graph kept", place, count=len(sizes))
