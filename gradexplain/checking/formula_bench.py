"""A claim, run with its text changed: what `gradexplain.checking.bench` is for code."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradexplain.checking import numeric
from gradexplain.checking.bench import dims_of
from gradexplain.checking.places import Edit
from gradexplain.checking.rewriting import Scope
from gradexplain.checking.subjects import claim_rows
from gradexplain.checking.trials import Trial, close, forward_tensors
from gradexplain.errors import GradexplainError
from gradexplain.graph import Graph, op_call
from gradexplain.reading.language import read
from gradexplain.reading.program import Program
from gradexplain.reading.syntax import parse

#: Longer claims of code are not written out.
_LONG = 600


class FormulaBench:
    """One claim against the truth at every trial.  ``program`` is how it was written; of code
    without a source it is what was recorded.
    """

    most, run = 1200, 1200
    tried = 0
    returned = (0,)
    nearly: Sequence[Edit] = ()
    #: The last text that was right.
    mended = ""

    def __init__(
        self, program: Program | None, trials: Sequence[Trial], name: str, output: str
    ) -> None:
        self.trials, self.name, self.output = trials, name, output
        self.tree: ast.FunctionDef | None = None
        if any(name not in t.setting.claims or t.setting.graph is None for t in trials):
            return
        self.known = [forward_tensors(t.setting, t.values) for t in trials]
        self.program = program or _program(trials[0].setting.claims[name])
        if self.program is None or not isinstance(self.program.body[-1], ast.Expr):
            return
        *before, last = self.program.body
        assert isinstance(last, ast.Expr)
        body = [*before, ast.Return(last.value)]
        arguments = ast.parse("lambda: 0", mode="eval").body.args  # type: ignore[attr-defined]
        self.tree = ast.FunctionDef("claim", arguments, body, [])

    @property
    def text(self) -> str:
        assert self.tree is not None
        *before, last = self.tree.body
        assert isinstance(last, ast.Return) and last.value is not None
        return "; ".join(ast.unparse(s) for s in (*before, last.value))

    def right(self) -> bool:
        found = self._holds(whole=False) and self._holds(whole=True)
        self.mended = self.text if found else self.mended
        return found

    def runs(self) -> bool:
        return self._holds(whole=False, compared=False)

    def _holds(self, *, whole: bool, compared: bool = True) -> bool:
        """Whether the claim, as the tree is now, is right for a general v, or for all of J."""
        assert self.tree is not None and self.program is not None
        *before, last = self.tree.body
        assert isinstance(last, ast.Return) and last.value is not None
        body = (*before, ast.Expr(last.value))
        for statement in body:
            ast.fix_missing_locations(statement)
        program = Program(self.program.source, self.program.statements, body)
        for trial, known in zip(self.trials, self.known, strict=True):
            true, vs = trial.true[self.name], [trial.probes[1][0]]
            if whole:
                vs = numeric.basis(trial.out_shape)
            names = trial.setting.grad_names
            shapes = dict.fromkeys(names, trial.out_shape)
            shapes |= {n: tuple(t.shape) for n, t in known.items()}
            try:
                graph = read(program, shapes.__getitem__)
                if graph.out.shape != trial.shape(self.name):
                    return False
                rows = claim_rows(graph, known, names, vs, "float64").reshape(len(vs), -1)
            except (*numeric.UNEVALUATED, KeyError, AttributeError, AssertionError):
                return False  # what an edit made of it is no formula
            right = true if whole else vs[0].reshape(1, -1) @ true
            if compared and not close(rows, right, true):
                return False
        return True

    def scope(self) -> Scope:
        """What the claim can name."""
        assert self.tree is not None
        first, graph = self.trials[0], self.trials[0].setting.graph
        assert graph is not None
        used = {n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name)}
        upstream = [n for n in first.setting.grad_names if n in used] or first.setting.grad_names
        inputs = frozenset(first.setting.shapes)
        named = {n.label for n in graph.nodes if n.named} | inputs | {self.output}
        # y′ is a name of ours, for an output where the reader has a y.
        tensors = {n: t.ndim for n, t in self.known[0].items() if n in named and n.isidentifier()}
        sizes = [f"{n}.shape[{i}]" for n in inputs for i in range(tensors.get(n, 0))]
        return Scope(
            {**tensors, **{n: len(first.out_shape) for n in upstream[:1]}},
            numbers=tuple(sorted(sizes)[:8]),
            upstream=frozenset(upstream[:1]),
            outputs=frozenset({self.output} & set(tensors)),
            inputs=inputs,
            rank=max([len(first.out_shape), *tensors.values()]),
            dims=tuple(dict.fromkeys(["-1", "0", "1", *dims_of(self.tree)]))[:6],
        )


def labels_of(graph: Graph, named: bool = False) -> dict[int, str]:
    """Each value as it reads, written out; with ``named`` those that have a name by it."""
    labels: dict[int, str] = {}
    for node in graph.nodes:
        if node.is_literal:
            labels[node.id] = repr(node.value)
        elif node.op is None or (named and node.named):
            labels[node.id] = node.label
        else:
            shown = op_call(node, labels)
            labels[node.id] = f"({shown})" if node.op.infix else shown
    return labels


def _program(graph: Graph) -> Program | None:
    """A recorded claim as a text; None where it would be too long."""
    labels = labels_of(graph)
    if any(len(shown) > _LONG for shown in labels.values()):
        return None
    try:
        return parse(labels[graph.output])
    except GradexplainError:
        return None
