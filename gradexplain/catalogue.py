"""What each operation is, for readers: derived from its record, by its first sample."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gradexplain.document.keys import HIDDEN, Key, Keys
from gradexplain.document.shows import Shows
from gradexplain.errors import InputError
from gradexplain.formula.letters import IN, OUT, Letters
from gradexplain.formula.local import RESULT, local_rule, renamed
from gradexplain.formula.printing import TextPrinter
from gradexplain.graph import Graph, Node, op_call, refs
from gradexplain.ops import Op, all_ops
from gradexplain.ops.base import FAMILIES
from gradexplain.ops.samples import parse
from gradexplain.problem import Request, problem_of
from gradexplain.reading.arguments import signature
from gradexplain.reading.arrays import ONES
from gradexplain.reading.library import Composition, compositions


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation.  ``formula`` is one element of the result in the names of the arguments, at the
    shapes of the first sample; ``derivatives`` are ``(argument, ∂out/∂argument)``, and ``where`` says
    what the other names in them are.  An operation that stands for others has ``made_of`` instead.
    """

    name: str
    family: str
    signature: str
    spellings: tuple[str, ...]
    sample: str
    formula: str
    derivatives: tuple[tuple[str, str], ...]
    where: tuple[str, ...]
    made_of: tuple[str, ...]
    kink: str

    JSON: ClassVar[Keys] = {"derivatives": HIDDEN, "slopes": Key("derivatives")}

    @property
    def slopes(self) -> dict[str, str]:
        """The derivatives by argument."""
        return dict(self.derivatives)


@dataclass(frozen=True, slots=True)
class Catalogue(Shows):
    """The operations that were asked for."""

    operations: list[Entry]

    SCHEMA: ClassVar[str] = "gradexplain-ops/1"
    PAGE: ClassVar[str] = "gradexplain.pages.catalogue"


def entries(name: str | None = None) -> list[Entry]:
    """The operations that go by ``name`` (by any spelling), or all, by family; `InputError` if none."""
    wanted = [op for op in all_ops() if name is None or goes_by(op, name)]
    wanted.sort(key=lambda op: FAMILIES.index(op.family))
    written = [made for made in compositions() if name is None or goes_by(made, name)]
    if not wanted and not written:
        assert name is not None
        spelled = [s for op in all_ops() for s in op.spellings] + [m.name for m in compositions()]
        known = sorted({s.rpartition(".")[2] for s in spelled})
        near = difflib.get_close_matches(name.rpartition(".")[2], known, n=1)
        raise InputError(
            f"`{name}` is not among the operations",
            remedy=f"did you mean `{near[0]}`?" if near else "`gradexplain ops` lists them all",
        )
    return [*map(_entry, wanted), *map(_composed, written)]


def goes_by(op: Op | Composition, name: str) -> bool:
    return any(name in (s, s.rpartition(".")[2]) for s in op.spellings) or (
        name.startswith("torch.nn.functional.") and f"F.{name.rpartition('.')[2]}" in op.spellings
    )


def _entry(op: Op) -> Entry:
    expression, shapes = parse(op.samples[0])
    graph = problem_of(Request(expression, shapes=shapes, grad=ONES)).graph
    node = next((n for n in reversed(graph.nodes) if n.op is op), None)
    if node is None and _speaks_for(graph.out.op, op):
        node = graph.out
    formula = ""
    derivatives: tuple[tuple[str, str], ...] = ()
    where: tuple[str, ...] = ()
    made_of: tuple[str, ...] = ()
    if node is None:
        made_of = _made_of(graph)
    else:
        formula, derivatives = _formulas(node, graph)
        where = _parts(node, graph)
    return Entry(
        op.name,
        op.family,
        signature(op),
        tuple(s for s in op.spellings if not s.startswith("operator.")),
        expression,
        formula,
        derivatives,
        where,
        made_of,
        op.kink,
    )


def _composed(made: Composition) -> Entry:
    expression, shapes = parse(made.samples[0])
    return Entry(
        made.name, "composition", made.signature, made.spellings, expression, "", (), (),
        _made_of(problem_of(Request(expression, shapes=shapes, grad=ONES)).graph), "",
    )  # fmt: skip


def _made_of(graph: Graph) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n.op.name for n in graph.nodes if n.op is not None))


def _speaks_for(inner: Op | None, op: Op) -> bool:
    """Whether ``op`` stands for a record that no one calls by name, with arguments of the same names."""
    if inner is None or inner.spellings:
        return False
    names = {p.name for p in op.parameters}
    return all(p.is_aux or not p.is_tensor or p.name in names for p in inner.parameters)


def _formulas(node: Node, graph: Graph) -> tuple[str, tuple[tuple[str, str], ...]]:
    rule = local_rule(node, graph)
    order = list(dict.fromkeys(ref.id for ref in refs(node.args)))
    labels = _argument_names(node, graph)
    names = {f"a{place}": labels[id] for place, id in enumerate(order)}

    def printer(*axes: Iterable[Any]) -> TextPrinter:
        letters = Letters(names.values())
        for symbols, alphabet in zip(axes, (OUT, IN), strict=False):
            letters.axes(tuple(symbols), alphabet)
        return TextPrinter(letters, list(names.values()))

    show = printer(rule.axes)
    formula = ""
    if node.op is not None and (node.op.formula or node.op.element):
        left = show.element(RESULT, rule.axes) if rule.axes else RESULT
        formula = f"{left} = {show(renamed(rule.element, names))}"
    derivatives = []
    aux = _aux(node)
    for place, id in enumerate(order):
        slope = rule.slopes[place]
        if slope is None or id in aux:
            continue
        show = printer(rule.axes, rule.places[place])
        left = show.derivative(RESULT, rule.axes, labels[id], rule.places[place])
        derivatives.append((labels[id], f"{left} = {show(renamed(slope, names))}"))
    return formula, tuple(derivatives)


def _parts(node: Node, graph: Graph) -> tuple[str, ...]:
    """``p = softmax(input, dim=0)``: the values that the record's formulas name beside its arguments."""
    labels = {n.id: n.label for n in graph.nodes} | dict(_argument_names(node, graph))
    return tuple(f"{labels[id]} = {op_call(graph[id], labels)}" for id in sorted(_aux(node)))


def _aux(node: Node) -> set[int]:
    """The values of a node's ``Aux`` arguments."""
    assert node.op is not None
    pairs = zip(node.op.parameters, node.args, strict=True)
    return {ref.id for parameter, arg in pairs if parameter.is_aux for ref in refs((arg,))}


def _argument_names(node: Node, graph: Graph) -> Mapping[int, str]:
    """Each tensor by the name of its argument; a number by itself."""
    assert node.op is not None
    names: dict[int, str] = {}
    for parameter, arg in zip(node.op.parameters, node.args, strict=True):
        for place, ref in enumerate(refs((arg,))):
            name = parameter.name
            if isinstance(arg, tuple):
                name = f"{name}{place}"
            names.setdefault(ref.id, name)
    return names
