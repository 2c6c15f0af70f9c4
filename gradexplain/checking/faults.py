"""The faults: each is a hypothesis, and the first that explains every trial is the one named.

A hypothesis says what J the claim would implement if it had that fault, from the true J, its
terms and the graph; it is held against the J that the claim does implement at every point.  The
order is from what must hold before J can be spoken of (a result, of the right shape, linear in
``v``) to the simplest explanation of a wrong J.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradexplain.checking import edits, numeric, repairs
from gradexplain.checking.report import Fault
from gradexplain.checking.trials import Trial, Tries, close, is_linear
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node, op_call
from gradexplain.ops.base import show_shape
from gradexplain.render.numbers import number


@dataclass(eq=False)
class Case:
    """One wrong input, and everything that hypotheses ask of it."""

    name: str
    trials: list[Trial]
    tries: Tries
    output: str
    v: str = "v"
    _repaired: Fault | None = None
    _looked: bool = False
    _cuts: dict[int, list[tuple[Node, int, dict[str, Array]]]] = field(default_factory=dict)

    @property
    def regular(self) -> list[Trial]:
        """The trials that a hypothesis must explain: those at no kink."""
        return [t for t in self.trials if not t.special] or self.trials

    @property
    def first(self) -> Trial:
        return next((t for t in self.regular if not t.right(self.name)), self.regular[0])

    @property
    def graph(self) -> Graph | None:
        return self.first.setting.graph

    def explains(self, candidate: Callable[[Trial], Array | None]) -> bool:
        """Whether ``candidate(trial)`` is the claim's J at every regular trial."""
        if any(t.claimed(self.name) is None for t in self.regular):
            return False
        return all(t.fits(self.name, candidate(t)) for t in self.regular)

    def repaired(self) -> Fault | None:
        """The fault whose correction in the claim's own graph makes it right."""
        if not self._looked:
            self._looked = True
            self._repaired = self._by_edits() or repairs.find(
                self.name, self.regular, self.v, self.output
            )
        return self._repaired

    #: Whether a fault has been named by what J is: then two edits are not looked for.
    named: bool = False
    #: Every input that is wrong, and the fault whose mend mends them all.
    together: tuple[str, ...] = ()

    def _by_edits(self) -> Fault | None:
        """The fault whose mend is an edit of the user's own source."""
        for function in getattr(self.first.setting, "functions", ()):
            found = edits.find(function, self.telling, self.names, pairs=not self.named)
            if found:
                return edits.fault(function, found)
        return None

    @property
    def telling(self) -> list[Trial]:
        """Trials that tell a right backward from this one, those at which it is wrong first."""
        wrong = [t for t in self.trials if any(not t.right(n) for n in self.names)]
        found = sorted(self.regular, key=lambda t: t not in wrong)[:3]
        special = [t for t in wrong if t not in found][:1]
        return [*special, *found] if special and not any(t in wrong for t in found) else found

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs that a mend has to mend: all, where the backward does not even run."""
        return self.together or (self.name,)

    def written(self, line: str) -> Fault | None:
        """A mend that writes the right gradient for what is returned."""
        for function in getattr(self.first.setting, "functions", ()):
            found = edits.written(function, self.telling, self.name, line)
            if found:
                return edits.fault(function, found)
        return None

    def cuts(self, trial: Trial) -> list[tuple[Node, int, dict[str, Array]]]:
        """J with one use of one value detached, for each use: (node, which tensor, J by input)."""
        graph = trial.setting.graph
        if graph is None:
            return []
        if id(trial) not in self._cuts:
            reach, needed = graph.reach([self.name]), graph.needed()
            found = []
            edges = [
                (node, use)
                for node in graph.nodes
                if node.id in needed and node.id in reach
                for use, source in enumerate(node.inputs)
                if source in reach
            ]
            if len(edges) <= 60:
                for node, use in edges:
                    j = numeric.jacobians(
                        graph, trial.values, [self.name], "float64", _is_use(node, use)
                    )
                    found.append((node, use, j))
            self._cuts[id(trial)] = found
        return self._cuts[id(trial)]


def _is_use(node: Node, use: int) -> Callable[[Node, int], bool]:
    return lambda n, u: n.id == node.id and u == use


#: Faults of the forward, or of how the backward runs: no other formula mends them.
UNMENDED = ("forward_differs", "inplace_forward", "inplace_buffer", "nondeterministic")


def diagnose(case: Case) -> Fault:
    """The simplest fault that explains every trial."""
    code = bool(getattr(case.first.setting, "functions", ()))
    for hypothesis in _OF_CODE if code else _HYPOTHESES:
        fault = hypothesis(case)
        if fault is not None:
            case.named = True
            mend = (
                case.repaired() if code and fault.code not in UNMENDED and not fault.patch else None
            )
            if mend is not None and mend.patch:
                fault = replace(fault, remedy=mend.remedy, patch=mend.patch)
            return fault
    wrong = [t for t in case.regular if not t.right(case.name)]
    if len(wrong) < len(case.regular):
        said = " and at ".join(dict.fromkeys(t.what for t in wrong))
        fine = " and at ".join(dict.fromkeys(t.what for t in case.regular if t.right(case.name)))
        return Fault(
            "one_point", f"the gradient by {case.name} is wrong at {said}, and right at {fine}"
        )
    return Fault(
        "unknown",
        f"the gradient by {case.name} is wrong, and no single fault known here explains it",
    )


# -- before J can be spoken of -------------------------------------------------------------------


def _in_place(case: Case) -> Fault | None:
    changed = case.first.implemented.mutated
    if not changed:
        return None
    names = " and ".join(changed)
    return Fault(
        "inplace_forward",
        f"the forward changes its input {names} in place, so what is saved for the backward "
        f"(and what the caller holds) is no longer {names}",
        f"compute a new tensor in forward, as in {changed[0]} = {changed[0]}.clone(); or "
        f"out = {changed[0]} / s instead of {changed[0]} /= s",
    )


def _forward_differs(case: Case) -> Fault | None:
    for t in case.regular:
        gap = t.setting.forward_gap(t.values, t.dtype)
        if gap is not None:
            return Fault(
                "forward_differs",
                f"the forward is not that of the reference: they differ by up to {number(gap)}",
                "make the forward right first: its backward is compared with the reference's",
            )
    return None


def _upstream_changed(case: Case) -> Fault | None:
    if not any(t.implemented.v_changed for t in case.trials):
        return None
    return Fault(
        "grad_output_changed",
        f"the backward changes the upstream gradient {case.v} in place: what else uses it gets the "
        "changed values",
        "work on a copy, as in grad_input = grad_output.clone()",
    )


def _buffer(case: Case) -> Fault | None:
    if not any(t.implemented.buffer for t in case.trials):
        return None
    return Fault(
        "inplace_buffer",
        "the backward assigns in place to a buffer made with requires_grad=True: PyTorch refuses "
        "that as soon as gradients are recorded (create_graph=True, double backward)",
        f"grad_{case.name} = torch.zeros_like({case.name})  # without requires_grad=True",
    )


def _detached(case: Case) -> Fault | None:
    if any(t.result(case.name).problem == "detached" for t in case.trials):
        return Fault(
            "detached",
            f"{case.output} is detached: no gradient flows back to {case.name} at all",
            "do not call detach(), item() or ctx.mark_non_differentiable on what is returned",
        )
    return None


def _none(case: Case) -> Fault | None:
    if any(t.result(case.name).problem == "none" for t in case.trials):
        return Fault(
            "none",
            f"the backward returns None for {case.name}, whose gradient is not 0",
            f"return the gradient by {case.name} in its place among forward's arguments",
        )
    return None


def _unsteady(case: Case) -> Fault | None:
    if any(t.implemented.leftover for t in case.trials):
        return Fault(
            "not_reentrant",
            f"the backward is not reentrant: run again with the same {case.v} (retain_graph=True) "
            "it gives another gradient, because it changes what it keeps",
            "leave ctx and the saved tensors as they are: work on copies",
        )
    if any(case.name in t.implemented.unsteady for t in case.trials):
        return Fault(
            "nondeterministic",
            f"the backward is not deterministic: the same {case.v} gives different gradients "
            f"by {case.name}",
            "save what forward drew at random (a dropout mask) instead of drawing it again",
        )
    return None


def _raises(case: Case) -> Fault | None:
    trial = next((t for t in case.trials if t.result(case.name).problem == "raises"), None)
    if trial is None:
        return None
    return Fault("raises", f"the backward raises: {trial.result(case.name).error}")


def _shape(case: Case) -> Fault | None:
    """A result whose shape is not the input's: what would make it right?"""
    name = case.name
    bad = [t for t in case.trials if _result_shape(t, name) not in (None, t.shape(name))]
    if not bad:
        return None
    first = bad[0]
    found, expected = _result_shape(first, name), first.shape(name)
    assert found is not None
    shapes = f"{show_shape(found)} instead of {show_shape(expected)}"

    def all_right(change: Callable[[Trial, Array], Array | None]) -> bool:
        for t in case.regular:
            rows = t.result(name).rows
            if rows is None:
                return False
            try:
                changed = np.array([change(t, row) for row in rows])
            except (ValueError, IndexError):
                return False
            if changed.shape[1:] != t.shape(name):
                return False
            if not close(changed.reshape(len(changed), -1), t.true[name], t.true[name], t.dtype):
                return False
        return True

    other = _other_input(case)
    if other is not None and other.code == "swapped":
        return other
    if all_right(lambda t, row: _sum_to(row, t.shape(name))):
        dims = _summed(found, expected)
        keep = ", keepdim=True" if len(found) == len(expected) else ""
        dim = dims[0] if len(dims) == 1 else tuple(dims)
        return Fault(
            "missing_broadcast_sum",
            f"{name} was broadcast, and the gradient is not summed over the dims that "
            f"broadcasting widened: it has shape {shapes}",
            f"grad_{name} = grad_{name}.sum(dim={dim}{keep})",
        )
    for axes in itertools.permutations(range(len(found))):
        if list(axes) != sorted(axes) and all_right(_turned(axes)):
            fix = ".T" if len(axes) == 2 else f".permute{axes}"
            return Fault(
                "transposed",
                f"the gradient by {name} is transposed: it has shape {shapes}",
                f"grad_{name} = grad_{name}{fix}",
            )
    fault = other or case.repaired() or _widened(case)
    if fault is not None:
        return fault
    if all_right(lambda t, row: row.reshape(t.shape(name))):
        return Fault(
            "wrong_shape",
            f"the gradient by {name} has the right numbers in the wrong shape: {shapes}",
            f"grad_{name} = grad_{name}.reshape({name}.shape)",
        )
    wide = first.out_shape == found and found != expected
    return Fault(
        "wrong_shape",
        f"the gradient by {name} has shape {shapes}"
        + (f": that is the shape of {case.output}" if wide else ""),
        f"return a gradient of {name}'s own shape",
    )


def _turned(axes: tuple[int, ...]) -> Callable[[Trial, Array], Array]:
    return lambda t, row: row.transpose(axes)


def _widened(case: Case) -> Fault | None:
    """What is wrong besides, where the result broadcasts to the input's shape."""
    name = case.name
    kept = [t.result(name).rows for t in case.regular]
    try:
        for t, rows in zip(case.regular, kept, strict=True):
            if rows is None or math.prod(rows.shape[1:]) == 1:
                return None
            wide = [np.broadcast_to(row, t.shape(name)) for row in rows]
            t.result(name).rows = np.array(wide)
        return next((f for f in (h(case) for h in (_sign, _diagonal, _uses, _term)) if f), None)
    except ValueError:
        return None
    finally:
        for t, rows in zip(case.regular, kept, strict=True):
            t.result(name).rows = rows


def _result_shape(trial: Trial, name: str) -> tuple[int, ...] | None:
    rows = trial.result(name).rows
    return None if rows is None else rows.shape[1:]


def _sum_to(row: Array, shape: tuple[int, ...]) -> Array | None:
    lead = row.ndim - len(shape)
    if lead < 0 or any(m != n and m != 1 for n, m in zip(row.shape[lead:], shape, strict=True)):
        return None
    axes = tuple(i + lead for i, m in enumerate(shape) if m == 1 and row.shape[i + lead] != 1)
    return np.asarray(row.sum(axis=(*range(lead), *axes))).reshape(shape)


def _summed(found: tuple[int, ...], expected: tuple[int, ...]) -> list[int]:
    lead = len(found) - len(expected)
    return [*range(lead), *(i + lead for i, m in enumerate(expected) if m != found[i + lead])]


def _linearity(case: Case) -> Fault | None:
    kinds = {is_linear(t, case.name) for t in case.regular}
    v = case.v
    if "nonlinear" in kinds:
        return Fault(
            "v_nonlinear",
            f"the gradient by {case.name} is not linear in {v}: doubling {v} does not double it, "
            f"as if {v} were used twice",
            f"multiply by {v} exactly once in each term",
        )
    if "constant" in kinds:
        return Fault(
            "v_unused",
            f"the gradient by {case.name} does not depend on {v}: the upstream gradient is "
            "not used",
            f"grad_{case.name} = {v} * …",
        )
    if "affine" in kinds:
        return Fault(
            "v_unused",
            f"a term of the gradient by {case.name} does not depend on {v}: for {v} = 0 the "
            "gradient is not 0",
            f"multiply every term by {v}",
        )
    return None


def _kink(case: Case) -> Fault | None:
    """Wrong at special points only."""
    name = case.name
    wrong = [t for t in case.trials if not t.right(name)]
    if not wrong or not all(t.special for t in wrong) or all(t.special for t in case.trials):
        return None
    graph, trial = wrong[0].setting.graph, wrong[0]
    place = np.argwhere(trial.wrong(name))[0]
    index = np.unravel_index(int(place[1]), trial.shape(name))
    at = f"{name}[{','.join(map(str, map(int, index)))}]" if index else name
    value = number(float(trial.values[name][tuple(index)]))
    want = number(float(trial.reference[name][tuple(place)]))
    got_matrix = trial.claimed(name)
    got = number(float(got_matrix[tuple(place)])) if got_matrix is not None else "nothing"
    kinks = [n.op.kink for n in graph.nodes if n.op is not None and n.op.kink] if graph else []
    kinked = any(
        n.op is not None and (n.op.kink or n.op.singular or n.op.singular_at)
        for n in (graph.nodes if graph else ())
    )
    convention = f" ({kinks[0]})" if kinks else ""
    return Fault(
        "kink" if kinked else "one_point",
        f"the gradient by {name} is right but for single points: at {at} = {value} the entry of J "
        f"is {want}{convention}, and the claim has {got}",
        f"treat {at} = {value} as PyTorch does, with torch.where or a strict comparison",
    )


def _rounding(case: Case) -> Fault | None:
    """Every difference is within what float32 explains."""
    name = case.name
    if case.first.dtype == "float32" or all(
        t.right(name) and is_linear(t, name) == "linear" for t in case.regular
    ):
        return None
    for trial in case.regular:
        if is_linear(trial, name, "float32") != "linear":
            return None
        claimed = trial.claimed(name)
        if claimed is None:
            return None
        with np.errstate(all="ignore"):
            gap = np.abs(claimed - trial.true[name])
        if not (gap <= trial.tolerance(name, "float32")).all():
            return None
        scale = np.abs(trial.true[name]).max(initial=0.0)
        if gap.max(initial=0.0) > 1e-5 * max(scale, 1e-3):
            return None
    return Fault(
        "float32_rounding",
        f"the gradient by {name} differs by no more than float32 rounding: a step of the backward "
        "is computed in float32, and nothing else is wrong",
        "keep grad_output's dtype (no .float(), no torch.float32 constants); test with float64",
    )


# -- hypotheses about J ---------------------------------------------------------------------------


def _zero(case: Case) -> Fault | None:
    if case.explains(lambda t: np.zeros_like(t.true[case.name])):
        return Fault(
            "detached",
            f"the gradient by {case.name} is 0 everywhere, as if the result were detached",
            f"return the gradient of {case.name}, not zeros",
        )
    return None


def _other_input(case: Case) -> Fault | None:
    """The gradient of another input, or two swapped."""
    name = case.name
    for other in case.first.setting.wanted:
        if other == name:
            continue
        if not all(_gives(t, name, other) for t in case.regular):
            continue
        if all(
            t.shape(name) == t.shape(other) and close(t.true[name], t.true[other], t.true[name])
            for t in case.regular
        ):
            continue
        if all(_gives(t, other, name) for t in case.regular):
            return Fault(
                "swapped",
                f"the gradients of {name} and {other} are swapped",
                f"return the gradients in the order of forward's arguments: "
                f"{', '.join(case.first.setting.shapes)}",
            )
        return Fault(
            "wrong_input",
            f"what is returned for {name} is the gradient of {other}",
            f"return the gradient of {name} in its place",
        )
    # Another input about which there is no claim.
    graph = case.graph
    for leaf in graph.leaves if graph is not None else ():
        if leaf.label in case.first.setting.wanted or leaf.integer:
            continue
        if case.explains(functools.partial(_autograd, name=leaf.label)):
            return Fault(
                "wrong_input", f"what is returned for {name} is the gradient of {leaf.label}"
            )
    return None


def _swapped(case: Case) -> Fault | None:
    fault = _other_input(case)
    return fault if fault is not None and fault.code == "swapped" else None


def _autograd(trial: Trial, name: str) -> Array | None:
    if trial.setting.graph is None:
        return None
    return numeric.jacobians(trial.setting.graph, trial.values, [name])[name]


def _gives(trial: Trial, name: str, other: str) -> bool:
    """Whether the result for ``name`` is the true gradient of ``other``."""
    rows = trial.result(name).rows
    if rows is None or rows.shape[1:] != trial.shape(other):
        return False
    return close(rows.reshape(len(rows), -1), trial.true[other], trial.true[other], trial.dtype)


def _sign(case: Case) -> Fault | None:
    if case.explains(lambda t: -t.true[case.name]):
        return Fault(
            "wrong_sign",
            f"the gradient by {case.name} has the wrong sign throughout",
            f"grad_{case.name} = -grad_{case.name}",
        )
    return None


def _diagonal(case: Case) -> Fault | None:
    """Right on the diagonal, and 0 elsewhere."""
    name = case.name
    if not all(t.out_shape == t.shape(name) for t in case.regular):
        return None

    def diagonal(t: Trial) -> Array:
        return t.true[name] * np.eye(len(t.true[name]))

    if all(np.array_equal(diagonal(t), t.true[name]) for t in case.regular) or not case.explains(
        diagonal
    ):
        return None
    trial = case.first
    off = trial.true[name] * (1 - np.eye(len(trial.true[name])))
    blank = int((off != 0).sum())
    element = f"{case.output}{_letters(trial.out_shape, 'ikmac')}"
    return Fault(
        "missing_off_diagonal",
        f"the off-diagonal terms of J are missing: each {element} depends on other elements "
        f"of {name} too ({blank} entries that are not 0 here)",
    )


def _letters(shape: tuple[int, ...], letters: str) -> str:
    return f"[{','.join(letters[: len(shape)])}]" if shape else ""


def _approximation(case: Case) -> Fault | None:
    """Near the truth everywhere, and not it: tanh's approximation of erf, in GELU."""
    name = case.name
    graph = case.graph
    exact = graph is not None and any(
        n.op is not None and n.op.name in ("erf", "gelu", "erfc") for n in graph.nodes
    )
    if not exact or any(t.claimed(name) is None for t in case.regular):
        return None
    for t in case.regular:
        gap = np.abs(np.asarray(t.claimed(name)) - t.true[name]).max(initial=0.0)
        if not gap <= 5e-3 * np.abs(t.true[name]).max(initial=0.0):
            return None
    return Fault(
        "approximation",
        f"the gradient by {name} is that of an approximation: it is right to two or three digits "
        "everywhere, where the forward computes the exact function",
        "use the same function in both: F.gelu(x) with erf's derivative, or "
        'F.gelu(x, approximate="tanh") with that of tanh',
    )


def _uses(case: Case) -> Fault | None:
    """J without the contribution of one use of a value, or with that of one use alone."""
    name = case.name
    trials = case.regular
    if not trials or any(t.setting.graph is None or t.claimed(name) is None for t in trials):
        return None
    cuts = [case.cuts(t) for t in trials]
    if len({len(c) for c in cuts}) != 1:
        return None
    graph = trials[0].setting.graph
    assert graph is not None
    uses = graph.uses()
    labels = _labels(graph)
    for place, (node, use, _) in enumerate(cuts[0]):
        if not all(t.fits(name, c[place][2][name]) for t, c in zip(trials, cuts, strict=True)):
            continue
        source = graph[node.inputs[use]]
        into = op_call(node, labels)
        if uses.get(source.id, 0) >= 2:
            return Fault(
                "missing_accumulation",
                f"{labels[source.id]} is used {_times(uses[source.id])}, and the contribution of "
                f"its use in {into} is missing from the gradient by {name}",
                f"add the contribution that flows through {_title(node, labels)}",
            )
        return Fault(
            "missing_term",
            f"the contribution to {name} through {labels[source.id]} is missing, as if "
            f"{labels[source.id]} were a constant in {into}",
            f"add the contribution that flows through {labels[source.id]}",
        )
    # One use alone, of a value that is used more than twice.
    for source in graph.nodes:
        mine = [p for p, (n, u, _) in enumerate(cuts[0]) if n.inputs[u] == source.id]
        if len(mine) < 3:
            continue
        for place in mine:

            def alone(t: Trial, c: list[Any], place: int = place, mine: list[int] = mine) -> Array:
                total = sum(t.true[name] - c[p][2][name] for p in mine if p != place)
                return np.asarray(t.true[name] - total)

            if all(t.fits(name, alone(t, c)) for t, c in zip(trials, cuts, strict=True)):
                return Fault(
                    "missing_accumulation",
                    f"{labels[source.id]} is used {_times(len(mine))}, and only one contribution "
                    f"is in the gradient by {name}: they must be added",
                    f"grad_{name} = the sum of all {len(mine)} contributions",
                )
    return None


def _times(count: int) -> str:
    return {2: "twice", 3: "three times", 4: "four times"}.get(count, f"{count} times")


def _title(node: Node, labels: dict[int, str]) -> str:
    assert node.op is not None
    return labels[node.id] if node.named else op_call(node, labels)


def _labels(graph: Graph) -> dict[int, str]:
    """Labels for a sentence: an unnamed value reads as its call."""
    labels: dict[int, str] = {}
    for node in graph.nodes:
        if node.is_literal:
            labels[node.id] = number(node.value, 17)
        elif node.op is None or node.named:
            labels[node.id] = node.label
        else:
            text = op_call(node, labels)
            labels[node.id] = f"({text})" if node.op.infix else text
    return labels


def _term(case: Case) -> Fault | None:
    """J with one additive term left out, of the wrong sign, or with a wrong factor."""
    name = case.name
    trials = case.regular
    if any(t.setting.graph is None or t.claimed(name) is None for t in trials):
        return None
    values = []
    for t in trials:
        truth = case.tries.truth(t.setting)
        assert truth is not None
        leaf = next(n for n in truth.leaves if n.label == name)
        values.append(truth.term_values(leaf, t.values))
    count = len(values[0])
    if count < 2 or count > 8 or any(len(v) != count for v in values):
        return None
    for size in (1, 2):
        if size >= count:
            break
        for group in itertools.combinations(range(count), size):
            factors = []
            for t, terms in zip(trials, values, strict=True):
                gap = np.asarray(t.claimed(name)) - t.true[name]
                term = np.asarray(sum(terms[k] for k in group))
                factors.append(_ratio(gap, term, t.true[name], t.dtype))
            if any(f is None for f in factors):
                continue
            found = [f for f in factors if f is not None]
            same = max(found) - min(found) <= 1e-9 * max(map(abs, found))
            factor = found[0]
            which = "a term" if size == 1 else "two terms"
            if same and abs(factor + 1) < 1e-9:
                return Fault(
                    "missing_term",
                    f"{which} of the gradient by {name} {'is' if size == 1 else 'are'} missing",
                )
            if size > 1:
                continue
            if same and abs(factor + 2) < 1e-9:
                return Fault("wrong_sign", f"one term of the gradient by {name} has the wrong sign")
            fault = case.repaired()
            if fault is not None:
                return fault
            if same:
                return Fault(
                    "constant_factor",
                    f"one term of the gradient by {name} is off by the constant factor "
                    f"{number(1 + factor)}",
                )
            size_name = _size_factor([1 + f for f in found], trials, name)
            if size_name is not None:
                return Fault(
                    "constant_factor",
                    f"one term of the gradient by {name} is off by the factor {size_name}",
                )
    return None


def _ratio(a: Array, b: Array, scale: Array, dtype: str) -> float | None:
    """``c`` such that ``a = c·b`` throughout; None where there is none."""
    place = np.unravel_index(int(np.argmax(np.abs(np.nan_to_num(b)))), b.shape)
    if not np.isfinite(a).all() or not np.isfinite(b).all() or b[place] == 0:
        return None
    c = float(a[place] / b[place])
    if c == 0 or not close(a, c * b, scale, dtype):
        return None
    return c


def _factor(case: Case) -> Fault | None:
    """A constant times J."""
    name = case.name
    found = []
    for t in case.regular:
        claimed = t.claimed(name)
        ratio = None if claimed is None else _ratio(claimed, t.true[name], t.true[name], t.dtype)
        if ratio is None:
            return None
        found.append(ratio)
    if not found:
        return None
    if max(found) - min(found) <= 1e-9 * max(map(abs, found)):
        size_name = None
        several = len({t.out_shape for t in case.regular}) > 1
        means = case.graph is not None and any(
            n.op is not None and n.op.name == "mean" for n in case.graph.nodes
        )
        if not several:
            # At one shape 1/N and 1/2 may be the same number.
            fault = case.repaired()
            if fault is not None and fault.code == "sum_vs_mean" and (abs(found[0]) < 1 or means):
                return fault
        if not several and abs(found[0]) not in (2.0, 0.5):
            size_name = _size_factor(found, case.regular, name)
        value = size_name or _fraction(found[0])
        inverse = f"/ {value}" if not size_name else f"/ ({value})"
        return Fault(
            "constant_factor",
            f"the gradient by {name} is {value} times what it should be",
            f"grad_{name} = grad_{name} {inverse}",
        )
    fault = case.repaired()
    if fault is not None and fault.code in ("sum_vs_mean", "wrong_dim"):
        return fault
    size_name = _size_factor(found, case.regular, name)
    if size_name is None:
        return None
    means = case.graph is not None and any(
        n.op is not None and n.op.name == "mean" for n in case.graph.nodes
    )
    if means and abs(found[0]) > 1:
        return Fault(
            "sum_vs_mean",
            f"the gradient by {name} is {size_name} times what it should be: the mean in the "
            "forward divides by it, and the backward does not",
            f"grad_{name} = grad_{name} / ({size_name})",
        )
    return Fault(
        "constant_factor",
        f"the gradient by {name} is {size_name} times what it should be",
        f"grad_{name} = grad_{name} / ({size_name})",
    )


def _fraction(value: float) -> str:
    for q in range(1, 13):
        p = value * q
        if abs(p - round(p)) < 1e-9 * abs(p):
            return f"{round(p)}/{q}" if q > 1 else f"{round(p)}"
    return number(value)


def _size_factor(found: Sequence[float], trials: Sequence[Trial], name: str) -> str | None:
    """``found`` as the sizes of dims at every trial: ``1/x.shape[0]``; None if it is none."""
    for inverse in (False, True):
        for what, of in _sizes(trials[0], name):
            sizes = [of(t) for t in trials]
            if all(n is not None for n in sizes) and all(
                abs(f - (1 / n if inverse else n)) <= 1e-9 * abs(f)
                for f, n in zip(found, sizes, strict=True)
                if n
            ):
                return f"1/{what}" if inverse else what
    return None


def _sizes(trial: Trial, name: str) -> Iterator[tuple[str, Callable[[Trial], float]]]:
    """The sizes that a factor may be, by name."""

    def of_input(label: str, dim: int) -> Callable[[Trial], float]:
        return lambda t: t.shape(label)[dim]

    def of_output(dim: int) -> Callable[[Trial], float]:
        return lambda t: t.out_shape[dim]

    def count(label: str) -> Callable[[Trial], float]:
        return lambda t: math.prod(t.shape(label))

    shapes = dict(trial.setting.shapes)
    for label in (name, *(n for n in shapes if n != name)):
        for dim in range(len(shapes[label])):
            yield f"{label}.shape[{dim}]", of_input(label, dim)
        yield f"{label}.numel()", count(label)
    for dim in range(len(trial.out_shape)):
        yield f"the output's size in dim {dim}", of_output(dim)
    yield "the output's number of elements", lambda t: math.prod(t.out_shape)


def _transposed(case: Case) -> Fault | None:
    name = case.name
    fault = case.repaired()
    if fault is not None and fault.code == "transposed":
        return fault
    if all(len(t.true[name]) == t.true[name].shape[1] for t in case.regular) and case.explains(
        lambda t: t.true[name].T
    ):
        return Fault(
            "transposed",
            f"the claim multiplies by J where Jᵀ belongs: its Jacobian by {name} is the transpose",
            "contract the output's index with v: Jᵀv[j] = Σ_i J[i,j]·v[i]",
        )
    for axes_of in ("input", "output"):
        for axes in itertools.permutations(
            range(len(case.first.shape(name) if axes_of == "input" else case.first.out_shape))
        ):
            if list(axes) == sorted(axes):
                continue

            def moved(
                t: Trial, axes: tuple[int, ...] = axes, axes_of: str = axes_of
            ) -> Array | None:
                full = t.true[name].reshape(t.out_shape + t.shape(name))
                lead = len(t.out_shape)
                order = (
                    (*range(lead), *(lead + a for a in axes))
                    if axes_of == "input"
                    else (*axes, *range(lead, full.ndim))
                )
                turned = full.transpose(order)
                return turned.reshape(t.true[name].shape) if turned.shape == full.shape else None

            if case.explains(moved):
                what = f"the gradient by {name}" if axes_of == "input" else case.v
                return Fault("transposed", f"{what} is transposed", f"transpose {what} back (.T)")
    return None


def _edited(case: Case) -> Fault | None:
    fault = case.repaired()
    return None if fault is None or fault.code == "unknown" else fault


def _by_power(case: Case) -> Fault | None:
    """J times a power of a forward value, entry by entry: an exponent off by one."""
    name = case.name
    trials = case.regular
    if any(t.setting.graph is None or t.claimed(name) is None for t in trials):
        return None
    from gradexplain.checking.trials import forward_values

    known = [forward_values(t.setting, t.values) for t in trials]
    for label in known[0]:
        for power in (1, -1):
            for side in ("input", "output"):

                def scaled(
                    t: Trial,
                    k: dict[str, Array],
                    label: str = label,
                    power: int = power,
                    side: str = side,
                ) -> Array | None:
                    shape = t.shape(name) if side == "input" else t.out_shape
                    try:
                        with np.errstate(all="ignore"):
                            factor = np.broadcast_to(k[label], shape).ravel() ** float(power)
                    except ValueError:
                        return None
                    return t.true[name] * (factor[None, :] if side == "input" else factor[:, None])

                if all(t.fits(name, scaled(t, k)) for t, k in zip(trials, known, strict=True)):
                    graph = trials[0].setting.graph
                    assert graph is not None
                    node = graph.by_label(label)
                    assert node is not None
                    shown = _labels(graph)[node.id]
                    extra = "too many" if power == 1 else "missing"
                    return Fault(
                        "exponent",
                        f"the exponent of {shown} is off by one in the gradient by {name}: one "
                        f"factor {shown} is {extra}",
                        f"grad_{name} = grad_{name} {'/' if power == 1 else '*'} {shown}",
                    )
    return None


_HYPOTHESES: tuple[Callable[[Case], Fault | None], ...] = (
    _in_place, _buffer, _detached, _none, _unsteady, _raises, _shape, _rounding, _linearity, _kink,
    _zero, _other_input, _sign, _diagonal, _approximation, _uses, _factor, _term, _transposed, _edited, _by_power,
)  # fmt: skip

#: For code: what its own source shows comes before what J alone suggests.
_OF_CODE: tuple[Callable[[Case], Fault | None], ...] = (
    _in_place, _forward_differs, _upstream_changed, _buffer, _detached, _none, _unsteady, _rounding, _linearity,
    _zero, _swapped, _diagonal, _approximation, _edited, _kink, _uses, _raises, _shape, _other_input, _sign, _factor, _term,
    _transposed, _by_power,
)  # fmt: skip
