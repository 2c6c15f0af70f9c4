"""What the order of backward, step and zero_grad tells, and who is in which optimizer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gradexplain.recording.frames import Site
from gradexplain.trace.diagnose.finding import Finding, at, line_of, listed, short
from gradexplain.trace.journal import Event, Journal, Leaf, Optimizer

if TYPE_CHECKING:
    from gradexplain.trace.session import Trace

#: Calls in a row with the same loss, after steps, before it is called constant.
_SAME = 5

_UNREGISTERED = (
    "parameters() does not find what a plain list, dict or tensor of a module holds: use "
    "nn.ModuleList, nn.ModuleDict or nn.Parameter."
)

#: Losses added up with their graphs are said from so many on.
_ADDED = 3

#: A loss has run away when it is this much larger than at first.
_AWAY = 1e4


def of_steps(trace: Trace) -> Iterator[Finding]:
    """The findings of a whole script."""
    journal = trace.journal
    for event in journal.events:
        yield _EVENTS[event.kind](event, journal)
    if (
        journal.at_hand
        and not journal.optimizers
        and not any(leaf.changed for leaf in journal.leaves.values())
    ):
        names = list(dict.fromkeys(journal.at_hand.values()))
        yield Finding(
            "step never taken",
            f"{listed(names)}.step() is never called: {len(trace.all)} backward calls compute "
            "gradients, and no parameter changes.",
            f"call {names[0]}.step() after each backward.",
            line_of(*(brief.site for brief in trace.all[-1:])),
        )
    yield from _memberships(journal)
    for place, count in trace.sums.items():
        if count >= _ADDED:
            yield _added_up(place, count)
    for mode in journal.modes.values():
        if mode.left >= 2 and not mode.back:
            yield Finding(
                "left in eval",
                f"The module stays in evaluation after the eval() at {at(mode.place)}: the backward calls "
                "that come after it train without dropout, and batch normalisation no longer learns "
                "its statistics.",
                "call model.train() where each epoch of training begins.",
                line_of(mode.place),
            )
            break
    yield from _losses(trace)
    yield from _kept_graphs(trace)


# -- one step --------------------------------------------------------------------------------------


def _stale(event: Event, journal: Journal) -> Finding:
    used, backward, step = event.sites
    optimizer: Optimizer = event.data["optimizer"]
    leaves: list[Leaf] = event.data["leaves"]
    names = [leaf.name or "a parameter" for leaf in leaves]
    others = [z for z in journal.zeroed if not z[2] & set(optimizer.leaves)]
    leaf = leaves[0]
    stats = [s for s in leaf.stats.values() if s.before > 0]
    numbers = ""
    if stats:
        numbers = (
            f" ({leaf.name or 'the first one'}: {short(stats[0].before)} was there, "
            f"{short(stats[0].norm)} was added)"
        )
    text = (
        f"The gradients are never set to zero: the backward at {at(backward)} adds to what "
        f"{optimizer.name}.step() at {at(step)} has used already, in {listed(names)}{numbers}, so "
        "each step goes along the sum of all gradients so far."
    )
    if others:
        text += f" The zero_grad() at {at(others[-1][1])} clears other parameters."
    remedy = f"call {optimizer.name}.zero_grad() before the backward at {at(backward)}."
    return Finding("zero_grad forgotten", text, remedy, line_of(backward, step), event.data["call"])


def _wiped(event: Event, journal: Journal) -> Finding:
    zero, backward, step = event.sites
    optimizer: Optimizer = event.data["optimizer"]
    how = f"zero_grad() at {at(zero)}" if zero is not None else "setting .grad to nothing"
    return Finding(
        "zero_grad before step",
        f"{optimizer.name}.step() at {at(step)} has nothing to work with: {how} comes between the "
        f"backward at {at(backward)} and the step, and clears what that backward computed.",
        "call zero_grad() before backward, or after step: zero_grad, backward, step.",
        line_of(zero, step),
        event.data["call"],
    )


def _double(event: Event, journal: Journal) -> Finding:
    (step,) = event.sites
    optimizer: Optimizer = event.data["optimizer"]
    return Finding(
        "step taken twice",
        f"{optimizer.name}.step() at {at(step)} is a second step with the same gradients: no "
        "backward has come between it and the step before.",
        "call step() once for each backward.",
        line_of(step),
        event.data["call"],
    )


def _by_hand(event: Event, journal: Journal) -> Finding:
    (backward,) = event.sites
    leaf: Leaf = event.data["leaves"][0]
    names = [leaf.name or "a leaf" for leaf in event.data["leaves"]]
    stat = leaf.stats[event.data["call"]]
    return Finding(
        "zero_grad forgotten",
        f"The gradients are never set to zero: {listed(names)} {'is' if len(names) == 1 else 'are'} "
        f"updated by hand, and the backward at {at(backward)} adds to the gradient that was used for "
        f"it ({leaf.name or 'a leaf'}: {short(stat.before)} was there, {short(stat.norm)} was added).",
        f"set {leaf.name or 'w'}.grad = None after each update.",
        line_of(backward),
        event.data["call"],
    )


def _added_up(place: Site, count: int) -> Finding:
    """Losses added up with their graphs."""
    name = place.names[0] if place.names else "the sum"
    return Finding(
        "graph grows",
        f"{name} at {at(place)} adds up losses that backward has gone through already, more than "
        f"{count} times: it keeps autograd's nodes of every call, and grows with the loop.",
        "add the number alone: loss.item() (or loss.detach()).",
        line_of(place),
    )


_EVENTS = {"by hand": _by_hand, "stale": _stale, "wiped": _wiped, "double step": _double}


# -- who is in which optimizer ---------------------------------------------------------------------


def _memberships(journal: Journal) -> Iterator[Finding]:
    optimizers = list(journal.optimizers.values())
    if not optimizers:
        return
    inside = {key for optimizer in optimizers for key in optimizer.leaves}
    got = [leaf for leaf in journal.leaves.values() if _got(leaf)]
    left = [
        leaf for leaf in got
        if (leaf.parameter or leaf.unregistered) and leaf.key not in inside and leaf.name
    ]  # fmt: skip
    left = [leaf for leaf in left if not leaf.changed]
    if left and len(left) < len(got):
        names = [leaf.name for leaf in left]
        verb = "gets a gradient and is" if len(left) == 1 else "get gradients and are"
        yield Finding(
            "not in the optimizer",
            f"{listed(names)} {verb} in no optimizer: {optimizers[0].name}.step() at "
            f"{at(optimizers[0].site)} changes the others only.",
            _UNREGISTERED
            if any(leaf.unregistered for leaf in left)
            else "give it all that is to learn, as in "
            f"torch.optim.{optimizers[0].kind}(model.parameters()), after the last layer was made; or "
            "set requires_grad_(False) on what is to stay as it is.",
            line_of(optimizers[0].site),
        )
    if left and len(left) == len(got):
        yield Finding(
            "not in the optimizer",
            f"None of the parameters that get a gradient ({listed([x.name for x in left])}) is in "
            f"{optimizers[0].name}: its step at {at(optimizers[0].site)} changes other tensors.",
            "make the optimizer from the parameters of the module that is used, after it was made.",
            line_of(optimizers[0].site),
        )
        return
    for optimizer in optimizers:
        members = [journal.leaves[key] for key in optimizer.leaves if key in journal.leaves]
        unused = [leaf for leaf in members if not leaf.reached and leaf.stepped and leaf.requires]
        if unused and len(unused) < len(members) and journal.backwards:
            names = [leaf.name or "a parameter without a name" for leaf in unused]
            yield Finding(
                "optimised but unused",
                f"{listed(names)} {'is' if len(names) == 1 else 'are'} in {optimizer.name} (its step "
                f"is at {at(optimizer.site)}), but no backward ever reaches "
                f"{'it' if len(names) == 1 else 'them'}: the loss is not computed from "
                f"{'it' if len(names) == 1 else 'them'}.",
                "use it in forward, or take it out of the model.",
                line_of(optimizer.site),
            )


def _got(leaf: Leaf) -> bool:
    return any(stat.norm > 0 for stat in leaf.stats.values())


# -- losses ----------------------------------------------------------------------------------------


def _losses(trace: Trace) -> Iterator[Finding]:
    by_line: dict[Any, list[Any]] = {}
    for brief in trace.all:
        if brief.value is not None and brief.function != "grad":
            by_line.setdefault(brief.site, []).append(brief)
    stepped = any(optimizer.steps > 1 for optimizer in trace.journal.optimizers.values())
    for place, briefs in by_line.items():
        values = [brief.value for brief in briefs]
        finite = [value for value in values if math.isfinite(value)]
        if len(briefs) < _SAME:
            continue
        if stepped and len(set(values)) == 1 and values[0] == values[0] and finite:
            rates = {r for o in trace.journal.optimizers.values() for r in o.rates}
            still = ": lr is 0" if rates == {0.0} else ", for no step changes a parameter"
            moved = any(leaf.ratio for leaf in trace.journal.leaves.values())
            yield Finding(
                "constant loss",
                f"The loss at {at(place)} is {short(values[0])} in all of its {len(values)} calls"
                + ("" if moved else still)
                + ".",
                "give the optimizer a learning rate above 0."
                if rates == {0.0}
                else "look below for what gets no gradient.",
                line_of(place),
            )
        elif len(finite) >= 2 and abs(finite[0]) > 0 and stepped:
            worst = max(range(len(finite)), key=lambda n: abs(finite[n]))
            grown = abs(finite[worst]) / max(abs(finite[0]), 1e-12)
            if grown > _AWAY and worst >= len(finite) - 2 and finite[worst] > 0:
                rates = {r for o in trace.journal.optimizers.values() for r in o.rates}
                rate = f" (lr={short(max(rates))})" if rates else ""
                yield Finding(
                    "diverging",
                    f"The loss at {at(place)} runs away: {short(finite[0])} at call "
                    f"{briefs[0].index}, {short(finite[worst])} at call {briefs[worst].index}: the "
                    f"steps are too long{rate}.",
                    "take a smaller lr, or torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) "
                    "before step.",
                    line_of(place),
                    briefs[worst].index,
                )


# -- graphs that are kept --------------------------------------------------------------------------


def _kept_graphs(trace: Trace) -> Iterator[Finding]:
    for place, count in trace.journal.kept.items():
        sizes = count.sizes
        growing = len(sizes) >= 4 and all(a < b for a, b in itertools.pairwise(sizes))
        if growing and count.carried is not None:
            names = count.carried.names
            what = names[0] if names else "what one step hands on to the next"
            yield Finding(
                "graph grows",
                f"Each backward at {at(place)} goes back through all the steps before it "
                f"({sizes[0]} nodes at first, {sizes[-1]} at call {len(sizes)} of them): {what}, made "
                f"at {at(count.carried)}, is used again in the next step with its whole graph.",
                f"detach it where one step ends, as in {names[0] if names else 'h'} = "
                f"{names[0] if names else 'h'}.detach(), and leave out retain_graph=True.",
                line_of(count.carried),
            )
        elif len(sizes) >= 3 and count.again == 0:
            yield Finding(
                "graph kept",
                f"retain_graph=True at {at(place)} keeps the graph of each of {len(sizes)} calls, and "
                "no later backward goes through one of them again: memory is held for nothing.",
                "leave out retain_graph=True.",
                line_of(place),
                remark=True,
            )
