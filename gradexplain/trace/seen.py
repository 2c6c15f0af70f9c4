"""What was seen of a stretch of Python: the calls, what was noted of them, and their explanations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import torch

from gradexplain.errors import first_line
from gradexplain.recording.frames import Site
from gradexplain.trace.call import Brief, TracedCall
from gradexplain.trace.explain import explained, unexplained
from gradexplain.trace.journal import Journal
from gradexplain.trace.samples import Samples
from gradexplain.trace.snapshot import Fault, Snapshot

#: So many calls from one line are explained in full; where there are more, the first of them is.
FULL = 3
#: So many calls are explained in full altogether.
MOST = 30
#: So long formulas are held against PyTorch, over all calls: seconds of work, for those of a clock
#: would make the page depend on what else the machine does.
SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Pick:
    """Which calls are wanted: all that fit, the ``call``-th, those ``at_line``, the ``last``."""

    call: int | None = None
    at_line: int | None = None
    last: bool = False


class Seen:
    """Every call of ``backward`` in ``all``, the explained ones in ``calls``."""

    def __init__(self, pick: Pick | None = None) -> None:
        self.pick = pick or Pick()
        #: Whether no call in particular is wanted.
        self._any = self.pick == Pick()
        self.all: list[Brief] = []
        self.fault: Fault | None = None
        #: Whether ``fault`` ended the block, instead of being caught there.
        self.stopped = False
        #: What had been recorded when the block ended with an error that is no backward's.
        self.recorded: Snapshot | None = None
        self._until: float | None = None
        self._snapshots: dict[int, Snapshot] = {}
        self._explained: dict[int, TracedCall] = {}
        self._by_line: dict[tuple[str, int], list[int]] = {}
        self.journal = Journal()
        #: What failed in the recorder.
        self.failures: list[str] = []
        self._samples = Samples()
        #: The first call whose value or gradients are no numbers; that after gradients were gone.
        self.bad = self.gone = 0
        #: What the tape has seen by the end: where ways were cut, where numbers left, reads of .grad.
        self.cuts: list[tuple[str, str, Site | None, frozenset[int]]] = []
        self.left: list[tuple[str, Site | None, frozenset[int]]] = []
        self.reads: dict[int, tuple[str, Site | None]] = {}
        self.result_reads: list[tuple[str, Site | None, str, Site | None]] = []
        self.sums: dict[Site, int] = {}
        self.late: tuple[str, Site | None] = "", None

    @property
    def calls(self) -> list[TracedCall]:
        """The explanations of the calls that are explained in full, in order."""
        return [self.call(index) for index in self.full]

    @property
    def full(self) -> list[int]:
        """The numbers of the calls explained in full: of a line with many calls, the first."""
        if self.pick.call is not None or self.pick.last:
            return sorted(self._snapshots)
        shown = []
        for indices in self._by_line.values():
            kept = [i for i in indices if i in self._snapshots]
            shown += kept if len(indices) <= FULL else kept[:1]
            shown += [i for i in kept[1:] if len(indices) > FULL and self.all[i - 1].error]
        return sorted(shown)

    def call(self, index: int) -> TracedCall:
        """The explanation of one call that was captured; calls count from 1."""
        if index not in self._explained:
            with torch.enable_grad(), torch._C.DisableTorchFunction():
                self._explained[index] = self._explain(self._snapshots[index])
        return self._explained[index]

    def _explain(self, snapshot: Snapshot) -> TracedCall:
        try:
            if self._until is None:
                self._until = time.thread_time() + SECONDS
            return explained(snapshot, self._until)
        except Exception as error:  # one call's failure is not to cost the others' pages
            said = f"{type(error).__name__}: {first_line(error)}"
            self.all[snapshot.index - 1].failure = said
            return unexplained(snapshot, said)

    @cached_property
    def again(self) -> list[tuple[Snapshot, TracedCall]]:
        """Later calls, of which the custom Functions alone are compared."""
        with torch.enable_grad(), torch._C.DisableTorchFunction():
            return [(found, self._explain(found)) for found in self._samples.kept.values()]

    def recorded_call(self) -> TracedCall | None:
        """The operations that had been recorded when the block ended with an error."""
        if self.recorded is None:
            return None
        with torch.enable_grad(), torch._C.DisableTorchFunction():
            return explained(self.recorded)

    @property
    def snapshots(self) -> list[Snapshot]:
        """The captured calls that are looked at: the first of each line, and the first bad one."""
        kept = self._snapshots
        first = {next((i for i in found if i in kept), 0) for found in self._by_line.values()}
        return [
            snapshot
            for index, snapshot in sorted(self._snapshots.items())
            if index in first or snapshot.fault is not None
            or index in (self.bad, self.gone) or not self._any
        ]  # fmt: skip
