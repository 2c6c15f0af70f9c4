"""One wrong input, and everything that hypotheses ask of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from gradexplain import points
from gradexplain.checking import edits, numeric
from gradexplain.checking.bench import Bench
from gradexplain.checking.formula_bench import FormulaBench
from gradexplain.checking.report import Fault, PointReport
from gradexplain.checking.subjects import alike, setting_at
from gradexplain.checking.trials import Trial, Tries, close
from gradexplain.errors import GradexplainError
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node
from gradexplain.ops.base import Shape

_NUMBERS = ("wrong_sign", "sum_vs_mean", "biased_variance", "extra_factor", "missing_factor",
            "constant_factor")  # fmt: skip


def ratio(a: Array, b: Array, scale: Array, dtype: str) -> float | None:
    """``c`` such that ``a = c·b`` throughout; None where there is none."""
    place = np.unravel_index(int(np.argmax(np.abs(np.nan_to_num(b)))), b.shape)
    if not np.isfinite(a).all() or not np.isfinite(b).all() or b[place] == 0:
        return None
    c = float(a[place] / b[place])
    return c if c != 0 and close(a, c * b, scale, dtype) else None


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
        """The fault whose mend is an edit of the user's own source, or of the claim's text."""
        if not self._looked:
            self._looked = True
            # What J is a number of times: a number is wrong.
            first = _NUMBERS if self.factors() is not None else ()
            for bench in self._benches():
                if self._repaired is not None and isinstance(bench, FormulaBench):
                    break
                found = edits.find(bench, pairs=not self.named, first=first, known=self.tries.mends)
                if found:
                    self.tries.mends.append(found)
                    self._repaired = edits.fault(bench, found)
                    break
                if bench.nearly:
                    near = edits.fault(bench, bench.nearly)
                    hint = f"{near.remedy} mends it at these arguments, but not at others"
                    self._repaired = replace(near, remedy="", patch=(), hint=hint)
        return self._repaired

    def agreed(self) -> Fault | None:
        """The fault whose mend, of those that were found, mends all that are asked for."""
        mends = self.tries.mends
        found = (edits.fault(b, m) for b in self._benches() if (m := edits.among(b, mends)))
        return next(found, None)

    def factors(self) -> list[float] | None:
        """How many times J the claim is at each trial; None where it is not."""
        found = [
            None if (j := t.claimed(self.name)) is None
            else ratio(j, t.true[self.name], t.true[self.name], t.dtype)
            for t in self.regular
        ]  # fmt: skip
        known = [f for f in found if f is not None]
        return known if len(known) == len(found) else None

    #: Whether a fault has been named by what J is: then two edits are not looked for.
    named: bool = False
    #: Every input that is wrong, and the fault whose mend mends them all.
    together: tuple[str, ...] = ()

    def _benches(self) -> Iterator[Bench | FormulaBench]:
        functions = self.first.setting.functions
        told = self.telling if functions else []
        rest = [*(t for t in self.regular if t not in told), *self.elsewhere] if functions else []
        for function in functions:
            special = [t for t in self.trials if t.special and t not in told]
            bench = Bench(function, told, self.names, rest, special, self.beside)
            # One tree of one source: what mends one input is tried for the next.
            bench.tree = bench.tree and self.tries.trees.setdefault(function, bench.tree)
            yield bench
        claims = getattr(self.tries.subject, "claimed", ())
        program = next((c.program for c in claims if c.name == self.name), None)
        yield FormulaBench(program, self.regular, self.name, self.output)

    @functools.cached_property
    def elsewhere(self) -> list[Trial]:
        """A trial at other sizes, where all were at one: a mend that holds by chance at a size is
        none.
        """
        shapes, subject = self.first.setting.shapes, self.tries.subject
        arguments = getattr(getattr(subject, "binding", None), "arguments", {})
        if any(dict(t.setting.shapes) != shapes for t in self.regular) or any(
            hasattr(value, "shape") for value in arguments.values()
        ):
            return []
        # What was given is data of some kind, 0 or 1 it may be: it is no other elsewhere.
        values = [t.values for t in self.regular]
        given = {n: values[0][n] for n in shapes if len(values) > 1
                 and all(np.array_equal(v[n], values[0][n]) for v in values)}  # fmt: skip

        def unlike(other: Mapping[str, Shape]) -> bool:
            """Where sizes that are even are odd: what takes the ones may not take the others."""
            return any(
                (a - b) % 2 for n in shapes for a, b in zip(shapes[n], other[n], strict=True)
            )

        for other in sorted(points.others(dict(shapes), {}), key=unlike):
            held = {n: np.resize(value, other[n]) for n, value in given.items()}
            setting = None if other == shapes else setting_at(subject, other, held)
            if setting is None or not alike(self.first.setting, setting):
                continue
            trial = self.tries.at(setting, held, 4, signed=True)
            if trial is None:
                continue
            result = trial.result(self.name)
            if result.problem == "raises":
                return []
            # What is right at the sizes asked about has to be right at these.
            right = [n for n in setting.wanted if all(t.right(n) for t in self.regular)]
            shape = None if result.rows is None else result.rows.shape[1:]
            if shape in (None, trial.shape(self.name)) and all(map(trial.right, right)):
                return [trial]
        return []

    @property
    def beside(self) -> list[list[Trial]]:
        """The trials of the same source at other arguments, of each of them two."""
        tries = self.tries
        if tries.beside is None and tries.kin is not None:
            tries.beside, (kin, points) = [], tries.kin
            points = points or [
                PointReport(t.what, dict(t.setting.shapes), t.values, t.out_shape, ())
                for t in self.regular
            ]
            for other in kin(points[0]) if callable(kin) else kin:
                with contextlib.suppress(GradexplainError):
                    setting = other.setting(points[0].shapes, points[0].values)
                    of = Tries(other, tries.dtype)
                    made = [of.trial(setting, p.what, dict(p.values)) for p in points[:2]
                            if p.shapes == points[0].shapes]  # fmt: skip
                    tries.beside.append([t for t in made if t is not None])
        return tries.beside or []

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
        for function in self.first.setting.functions:
            bench = Bench(function, self.regular, [self.name], beside=self.beside)
            found = edits.written(bench, self.name, line)
            if found:
                return edits.fault(bench, found)
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
