"""One trial: J as it should be and J as the claim implements it, at one point."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradexplain import points
from gradexplain.checking import numeric
from gradexplain.checking.report import PointReport
from gradexplain.checking.subjects import (
    Implemented,
    Result,
    Setting,
    Subject,
)
from gradexplain.checking.truth import Truth, magnitude
from gradexplain.errors import InputError
from gradexplain.explanation import Array
from gradexplain.ops.base import Shape
from gradexplain.routes.chain import ChainRule
from gradexplain.verdict import compare


@dataclass(eq=False)
class Trial:
    """``true`` and ``claimed`` are matrices of outputs by inputs; ``special`` points may be
    kinks.
    """

    what: str
    setting: Setting
    values: dict[str, Array]
    special: bool
    dtype: str
    true: dict[str, Array] = field(default_factory=dict)
    reference: dict[str, Array] = field(default_factory=dict)
    size: dict[str, Array] = field(default_factory=dict)
    implemented: Implemented = field(default_factory=lambda: Implemented({}))
    #: Upstream gradients that are no basis vectors, with what they should give and gave.
    probes: list[tuple[Array, dict[str, Result]]] = field(default_factory=list)
    #: The point is singular: mathematics and PyTorch's convention may differ.
    singular: bool = False
    #: Inputs whose claim is not finite here, though nothing is singular.
    holes: set[str] = field(default_factory=set)
    #: Inputs whose claim takes another slope at a kink than PyTorch.
    kinks: set[str] = field(default_factory=set)
    _sizes: dict[str, Array] = field(default_factory=dict)
    #: Inputs whose claim is wrong where there is no kink: nothing is excused by one.
    hopeless: set[str] = field(default_factory=set)
    #: Inputs whose claim raises here, though J is finite.
    raised: set[str] = field(default_factory=set)
    #: Inputs whose claim differs by a tiny constant that is meant.
    excused: set[str] = field(default_factory=set)
    _smooth: bool | None = None
    _wrong: dict[str, tuple[Any, Array]] = field(default_factory=dict)

    @property
    def out_shape(self) -> Shape:
        return self.setting.out_shape

    def result(self, name: str) -> Result:
        return self.implemented.results[name]

    def shape(self, name: str) -> Shape:
        return self.setting.shapes[name]

    def is_integer(self, name: str) -> bool:
        """Whether an input is of integers, which stay what they are."""
        binding = getattr(getattr(self.setting, "subject", None), "binding", None)
        return binding is not None and name in binding.integers

    def claimed(self, name: str) -> Array | None:
        """J as implemented; None where no array of the right shape came back."""
        rows = self.result(name).rows
        if rows is None or rows.shape[1:] != self.shape(name):
            return None
        return rows.reshape(len(rows), -1)

    def tolerance(self, name: str, dtype: str | None = None) -> Array:
        """The difference allowed at each entry."""
        if name not in self._sizes:
            total = self.size[name]
            graph = self.setting.claims.get(name)
            if graph is None:
                # What the backward computes is not known: its cancellation is given room.
                total = 64 * total + 64 * np.abs(self.true[name])
            elif graph.out.shape == self.shape(name):
                known = self._known()
                if known is not None:
                    # Where the claim has no value there is none that room could be given.
                    with contextlib.suppress(InputError):
                        total = total + magnitude(graph, known).reshape(1, -1)
            self._sizes[name] = total
        unit = np.array([1.0])
        found = compare.bound(self._sizes[name], self.true[name], unit, dtype or self.dtype)
        return np.asarray(found + self.setting.slack(self.values, name))

    def _coarse(self) -> bool:
        nodes = self.setting.graph.nodes if self.setting.graph is not None else ()
        return any(n.op.coarse for n in nodes if n.op is not None)

    def _known(self) -> dict[str, Array] | None:
        if self.setting.graph is None:
            return None
        known = {n: numeric.array(t) for n, t in forward_tensors(self.setting, self.values).items()}
        for label in self.setting.grad_names:
            known[label] = np.ones(self.out_shape)
        return known

    def wrong(self, name: str, claimed: Array | None = None) -> Array:
        """True at each entry of J that is wrong.  At a kink PyTorch's own answer is right too, and
        where its kernel is coarse.
        """
        if claimed is not None:
            return self._compared(name, claimed)
        rows = self.result(name).rows
        if name not in self._wrong or self._wrong[name][0] is not rows:
            self._wrong[name] = rows, self._compared(name, self.claimed(name))
        return self._wrong[name][1]

    def _compared(self, name: str, found: Array | None) -> Array:
        true = self.true[name]
        if found is None:
            return np.ones(true.shape, dtype=bool)
        if name in self.excused:
            return np.zeros(true.shape, dtype=bool)
        tolerance = self.tolerance(name)
        wrong = np.asarray(compare.differs(found, true, tolerance), dtype=bool)
        if wrong.any() and (self.singular or self._coarse()):
            wrong &= np.asarray(compare.differs(found, self.reference[name], tolerance), dtype=bool)
            if self.reference[name].size:
                # Where the mathematics has no value and PyTorch's is nan, anything goes.
                wrong &= ~(~np.isfinite(self.reference[name]) & ~np.isfinite(true))
        elif wrong.any():
            wrong &= np.isfinite(true)
        if wrong.any() and self.special and not np.isfinite(found[wrong]).any() and self.smooth:
            # x·y/x at 0: another way to write what is right, with a hole where there is no kink.
            self.holes.add(name)
            wrong &= np.isfinite(found)
        if wrong.any() and self.special and name not in self.hopeless:
            kept = self.setting.between(self.values, name, wrong, found)
            gone = np.asarray(wrong & ~np.asarray(kept, dtype=bool))
            if gone.any():
                (self.holes if not np.isfinite(found[gone]).any() else self.kinks).add(name)
            wrong = kept
        return wrong

    @property
    def smooth(self) -> bool:
        """Whether the forward is differentiable here, as far as the records say."""
        graph = self.setting.graph
        if graph is None:
            return True
        if self._smooth is None:
            from gradexplain.routes.singular import singular_nodes

            chain = ChainRule(graph, self.values, exact=False)
            chain.backward(np.ones(self.out_shape), list(self.setting.wanted))
            self._smooth = not singular_nodes(graph, chain, list(self.setting.wanted))
        return self._smooth

    def right(self, name: str) -> bool:
        return not self.wrong(name).any()

    def excuse(self, names: Sequence[str]) -> None:
        self.excused.update(names)
        self._wrong.clear()

    def finite(self, name: str) -> bool:
        """Whether the claim is."""
        claimed = self.claimed(name)
        return claimed is not None and bool(np.isfinite(claimed).all())

    def run(self, grad: Array | None = None) -> None:
        """Run the claim: basis vectors, and a few others."""
        units = numeric.basis(self.out_shape)
        probes = _probes(self.out_shape)
        if grad is not None:
            probes.append(grad)
        found = self.setting.implemented(self.values, [*units, *probes], self.dtype)
        self.implemented = found
        count = len(units)
        for place, v in enumerate(probes):
            row = {
                name: Result(None if r.rows is None else r.rows[count + place], r.problem, r.error)
                for name, r in found.results.items()
            }
            self.probes.append((v, row))
        for result in found.results.values():
            if result.rows is not None:
                result.rows = result.rows[:count]

    def again(self) -> Trial:
        """The same point, at which nothing has been claimed yet."""
        return replace(self, probes=[], holes=set(), kinks=set(), hopeless=set(), raised=set(),
                       _wrong={})  # fmt: skip

    def fits(self, name: str, candidate: Array | None) -> bool:
        """Whether ``candidate`` is J as the claim implements it."""
        claimed = self.claimed(name)
        if candidate is None or claimed is None or candidate.shape != claimed.shape:
            return False
        return close(claimed, candidate, self.true[name], self.dtype)


def close(a: Array, b: Array, scale: Array, dtype: str = "float64") -> bool:
    """Equal but for rounding."""
    with np.errstate(all="ignore"):
        sizes = [np.abs(x[np.isfinite(x)]).max(initial=0.0) for x in (a, b, scale)]
        unit = 1e-9 if dtype == "float64" else 3e-4
        same = (np.abs(a - b) <= unit * max(sizes)) | (np.isnan(a) & np.isnan(b)) | (a == b)
    return bool(same.all())


def forward_tensors(setting: Setting, values: Mapping[str, Array]) -> dict[str, Any]:
    """The forward's values by label, in float64."""
    graph = setting.graph
    assert graph is not None
    with numeric.torch_module().no_grad():
        leaves = {name: numeric.tensor(v, "float64") for name, v in values.items()}
        tensors = numeric.run(graph, leaves, "float64", everything=True)
    return {graph[id].label: found for id, found in tensors.items() if hasattr(found, "detach")}


#: Subjects, or what makes them of a point, and the points that they are held at where there are any.
Kin = tuple[Callable[[PointReport], Iterable[Subject]] | Sequence[Subject], Sequence[PointReport]]


class Tries:
    """Makes the trials of one check; truths are derived once for each graph."""

    def __init__(
        self,
        subject: Subject,
        dtype: str,
        met: Mapping[str, Callable[[Array], Array]] | None = None,
    ) -> None:
        self.subject = subject
        self.dtype = dtype
        #: What values of an input are made to meet.
        self.met = met or {}
        #: By `id`, and with the setting itself: once it is gone another may have its id.
        self.truths: dict[int, tuple[Setting, Truth]] = {}
        #: The source of each Function, and the edits of it that made an input right.
        self.trees: dict[Any, Any] = {}
        self.mends: list[list[Any]] = []
        #: The same source at other arguments, at the first of some points or at those that are
        #: given: what mends it has to be right there too.
        self.kin: Kin | None = None
        #: Their trials, once they are asked for.
        self.beside: list[list[Trial]] | None = None

    def meeting(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Values of ours, made to meet what is asked of them."""
        return {n: self.met[n](v) if n in self.met else v for n, v in values.items()}

    def held(
        self, setting: Setting, values: Mapping[str, Array], given: Mapping[str, Array]
    ) -> dict[str, Array]:
        """What is given, and values of ours that meet what is asked of them, in the order of the
        inputs and as the dtype holds them.
        """
        known = {**self.meeting(values), **given}
        return {name: held(known[name], self.dtype) for name in setting.shapes}

    def at(
        self, setting: Setting, given: Mapping[str, Array], seed: int, *, signed: bool,
        grad: Array | None = None,
    ) -> Trial | None:  # fmt: skip
        """The trial at values of the first kind at which J is finite."""
        free = {n: s for n, s in setting.shapes.items() if n not in given}
        for what, values in points.regular(free, seed, signed=signed):
            trial = self.trial(setting, what, self.held(setting, values, given), grad=grad)
            if trial is not None:
                return trial
        return None

    def truth(self, setting: Setting) -> Truth | None:
        if setting.graph is None:
            return None
        if id(setting) not in self.truths:
            truth = Truth(setting.graph, setting.wanted, setting.grad_names[0])
            self.truths[id(setting)] = setting, truth
        return self.truths[id(setting)][1]

    def trial(
        self,
        setting: Setting,
        what: str,
        values: dict[str, Array],
        *,
        special: bool = False,
        finite: bool = True,
        grad: Array | None = None,
    ) -> Trial | None:
        """The trial at one point; None where J is not finite there and it should be."""
        trial = Trial(what, setting, values, special, self.dtype)
        try:
            trial.reference = setting.reference(values, "float64")
        except numeric.REFUSALS as error:
            if finite:
                return None  # a singular matrix: no value here
            said = str(error).strip().split("\n")[0]
            raise InputError(
                f"PyTorch cannot compute the forward at this point: {said}",
                remedy="give other values with --at",
            ) from None
        if finite and not all(np.isfinite(j).all() for j in trial.reference.values()):
            return None
        truth = self.truth(setting)
        if truth is None:
            trial.true = trial.reference
            trial.size = {name: np.abs(j) for name, j in trial.true.items()}
        else:
            try:
                jacobians = truth.jacobians(values)
            except InputError:
                if finite:
                    return None  # PyTorch's rounding gives a value where there is none
                raise
            for name, (j, size) in jacobians.items():
                trial.true[name], trial.size[name] = j, size
        for name in setting.wanted:
            tolerance = compare.bound(trial.size[name], trial.true[name], np.ones(1), "float64")
            apart = compare.differs(trial.reference[name], trial.true[name], 64 * tolerance)
            trial.singular = trial.singular or bool(np.any(apart))
        if finite and not special and trial.singular:
            return None
        trial.run(grad)
        return trial


def _probes(shape: Shape) -> list[Array]:
    """0, two general vectors, and twice the first of them: what linearity is held against."""
    general = 0.5 + points.spread(shape, 7)
    other = points.spread(shape, 11) - 0.5
    return [np.zeros(shape), general, 2 * general, other]


def held(value: Any, dtype: str) -> Array:
    """A value as the dtype holds it, in float64."""
    kind = np.float32 if dtype == "float32" else np.float64
    return np.asarray(value).astype(kind).astype(np.float64)
