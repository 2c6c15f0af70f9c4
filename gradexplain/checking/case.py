"""One wrong input, and everything that hypotheses ask of it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from gradexplain.checking import edits, numeric, points, repairs
from gradexplain.checking.report import Fault
from gradexplain.checking.trials import Trial, Tries
from gradexplain.errors import GradexplainError
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node


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
            told = self.telling
            rest = [t for t in self.regular if t not in told] + self.elsewhere
            found = edits.find(function, told, self.names, pairs=not self.named, others=rest)
            if found:
                return edits.fault(function, found)
        return None

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
        for other in points.others(dict(shapes), {}):
            if other == shapes or not subject.accepts(other, {}):
                continue
            with contextlib.suppress(GradexplainError):
                setting = subject.setting(other, {})
                for what, values in points.regular(other, 4, signed=True):
                    trial = self.tries.trial(setting, what, values)
                    if trial is not None:
                        return [trial]
        return []

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
            found = edits.written(function, self.regular, self.name, line)
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
