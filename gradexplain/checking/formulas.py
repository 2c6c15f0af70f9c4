"""What is right, what is claimed, and their difference, as formulas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy

from gradexplain.checking import claims
from gradexplain.checking.report import InputReport
from gradexplain.checking.trials import Trial, Tries
from gradexplain.errors import GradexplainError
from gradexplain.formula.burden import burden
from gradexplain.formula.contract import contract
from gradexplain.formula.kinds import Bracket, element_symbol, label_of
from gradexplain.formula.letters import IN, Letters
from gradexplain.formula.printing import TextPrinter
from gradexplain.formula.tidy import equal, tidy
from gradexplain.graph import Graph
from gradexplain.routes.closed import ClosedForm
from gradexplain.routes.written import Written

if TYPE_CHECKING:
    from gradexplain.checking.truth import Truth

#: Longer formulas are not written out.
_LONG = 400


def describe(found: InputReport, trial: Trial, tries: Tries, name: str) -> None:
    """Fill in the formulas of a report, where there are any."""
    truth = tries.truth(trial.setting)
    if truth is None:
        return
    try:
        _describe(found, trial, truth, name)
    except GradexplainError:  # a formula that there is no printing of: the numbers stand
        return


def _describe(found: InputReport, trial: Trial, truth: Truth, name: str) -> None:
    setting = trial.setting
    graph = setting.graph
    assert graph is not None
    leaf = next(n for n in truth.leaves if n.label == name)
    shown = Written(truth.form).gradient(leaf)
    found.right = shown.text
    found.where, found.ranges = shown.where, shown.ranges
    if found.verdict == "right":
        return
    claim = setting.claims.get(name)
    if claim is None or claim.out.shape != leaf.shape:
        return
    both, results = claims.combined(graph, {name: claim}, setting.grad_names)
    form = ClosedForm(both, {}, trial.true[name], exact=False)
    form.v_name = v = setting.grad_names[0]
    calculus = form.calculus
    # Only the forward's values have names in these formulas.
    form.names = names = [n.label for n in graph.nodes if not n.is_literal] + [v]
    form.named = frozenset(n.id for n in graph.nodes)
    places = calculus.indices(leaf.shape, "d")
    right = form.gradient(both[leaf.id])
    if form.is_long(both[leaf.id]):
        return
    result = both[results[name]]
    raw = calculus.definition(result, places)
    raw = _written_out(raw, calculus, set(range(len(graph.nodes))))
    claimed = form._tidy(raw)
    gap = sympy.expand_mul(claimed) - sympy.expand_mul(right)
    gap = tidy(sympy.expand_mul(gap), burden, form.folds)
    letters = Letters(names)
    letters.axes(places, IN)
    ranks = {n.label: len(n.shape) for n in both.nodes}
    printer = TextPrinter(letters, names, ranks, form.loss_name)
    left = printer.gradient(name, places)
    claimed_text = f"{left} = {printer(claimed)}"
    if len(claimed_text) <= _LONG:
        found.claimed = claimed_text
    off = None
    if found.fault is not None and found.fault.code == "missing_off_diagonal":
        off = _off_diagonal(form, both, leaf.id)
    text = (
        f"missing: {_signed(printer(off))}"
        if off is not None
        else _gap(gap, claimed, right, printer)
    )
    if len(text) <= _LONG:
        found.difference = text
    symbols = [a for a in places if not a.is_Integer]
    lines = [
        line
        for formula in (claimed, gap)
        for line in Written(form).definitions(formula, letters, printer, tuple(places))
    ]
    told = {_told(line) for line in found.where}
    for line in lines:
        if _told(line) not in told:
            told.add(_told(line))
            found.where = (*found.where, line)
    found.ranges = Written(form).ranges(symbols, letters, ())


def _told(line: str) -> str:
    """What a line says the meaning of: ``s`` of ``s[k] = …``."""
    return line.partition(" = ")[0].partition("[")[0]


def _off_diagonal(form: ClosedForm, graph: Graph, leaf: int) -> Any:
    """``Σ_{i ≠ j} v·J``: what the off-diagonal terms contribute; None where J has no such
    formula.
    """
    calculus = form.calculus
    jacobian = form.jacobian(graph[leaf])
    if jacobian is None:
        return None
    out = calculus.indices(graph.out.shape, "o")
    places = calculus.indices(graph[leaf].shape, "d")
    total = sympy.S.Zero
    for term in sympy.Add.make_args(sympy.expand_mul(jacobian)):
        tied = {frozenset(d.args) for d in term.atoms(sympy.KroneckerDelta)}
        free = [
            (o, d) for o, d in zip(out, places, strict=True)
            if not o.is_Integer and frozenset((o, d)) not in tied
        ]  # fmt: skip
        if not free:
            continue
        apart = sympy.Or(*(sympy.Ne(o, d) for o, d in free))
        total += contract(
            element_symbol(form.v_name, out) * term * Bracket(apart), out, calculus.ranges
        )
    return sympy.factor_terms(total) if total != 0 else None


def _gap(gap: Any, claimed: Any, right: Any, printer: TextPrinter) -> str:
    """``missing: − Σ …``, ``too much: …``, or claimed minus right."""
    if gap == 0:
        return ""
    terms = sympy.Add.make_args(sympy.expand_mul(right))
    absent = -gap
    if any(_same(absent, term) for term in terms) or all(
        any(_same(part, term) for term in terms)
        for part in sympy.Add.make_args(sympy.expand_mul(absent))
    ):
        return f"missing: {_signed(printer(absent))}"
    return f"claimed − right = {printer(gap)}"


def _same(a: Any, b: Any) -> bool:
    return bool(a == b) or bool(equal(a, b))


def _signed(text: str) -> str:
    return f"− {text[1:]}" if text.startswith("−") else text


def _written_out(e: Any, calculus: Any, keep: set[int]) -> Any:
    """The claim's own atoms (its sums) replaced by their definitions; the forward's names stay."""
    for _ in range(20):
        put = {}
        for atom in e.atoms(sympy.Indexed, sympy.Symbol):
            if not isinstance(atom, sympy.Indexed) and atom.is_integer:
                continue
            node = calculus.node(label_of(atom))
            at = tuple(atom.indices) if isinstance(atom, sympy.Indexed) else ()
            if node is None or node.id in keep or node.op is None or len(at) != len(node.shape):
                continue
            definition = calculus.definition(node, at)
            if definition != atom:
                put[atom] = definition
        if not put:
            return e
        e = e.xreplace(put)
    return e
