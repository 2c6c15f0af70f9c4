"""From a program's tree to a graph, and to what the text itself asks of ``backward``."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from gradexplain.errors import InputError, Span
from gradexplain.examples import example_values
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Ref
from gradexplain.ops import by_spelling
from gradexplain.ops.base import Shape
from gradexplain.reading.inputs import Inputs
from gradexplain.reading.objects import Tensor, what
from gradexplain.reading.program import Program
from gradexplain.reading.session import BackwardCall, Numbers, Remark, Session
from gradexplain.reading.statements import connect, run_whole


def read(
    program: Program,
    shape_of: Callable[[str], Shape],
    value_of: Callable[[str], Any] = lambda name: None,
    dtype: str = "float64",
    *,
    any_size: bool = False,
) -> Graph:
    """The graph of ``program``.

    ``shape_of(name)`` is the shape of an input; ``value_of(name)`` its value where the caller gave
    one, which matters only for an input that is used as an index; ``dtype`` is the one that an
    argument ``dtype=`` may name; with ``any_size`` tensors may have more elements than can be
    worked with, for formulas alone.  Raises `InputError` and
    `UnsupportedError`, each with its place.
    """
    s = Session(program, Inputs(_Given(value_of), default=shape_of), dtype, any_size=any_size)
    output = _read(s)
    if s.calls:
        _named(s, s.calls)
        output = Ref(s.calls[-1].start)
    return s.builder.graph(output)


class _Given(dict[str, Any]):
    """Values that a function knows."""

    def __init__(self, value_of: Callable[[str], Any]) -> None:
        super().__init__()
        self.value_of = value_of

    def __contains__(self, name: object) -> bool:
        return self.value_of(str(name)) is not None

    def __getitem__(self, name: str) -> Any:
        return self.value_of(name)

    def get(self, name: str, default: Any = None) -> Any:
        found = self.value_of(name)
        return default if found is None else found


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says: a graph, the values of its leaves, and the calls of ``backward`` in it.

    ``graph`` ends at the output: where the first call starts, or the last statement's value.
    ``values`` are those of every leaf, ``examples`` the leaves whose values nobody gave.  ``wanted``
    are the leaves that require grad, None for all.  ``dtype`` is the run's.  ``retain`` names
    computed values whose ``.grad`` is kept, ``statements`` what was computed, one line each.
    """

    graph: Graph
    values: Mapping[str, Array]
    examples: frozenset[str]
    wanted: tuple[str, ...] | None
    dtype: str
    calls: tuple[BackwardCall, ...]
    retain: tuple[str, ...]
    statements: tuple[str, ...]
    remarks: tuple[Remark, ...]
    #: The text is a script, whose tensors have the sizes that it gives them.
    script: bool = False
    #: Gradients are returned (``torch.autograd.grad``): nothing accumulates.
    returned: bool = False


def read_text(
    program: Program, inputs: Inputs, dtype: str | None, numbers: Numbers | None = None
) -> Reading:
    """What ``program`` says.  ``dtype`` None leaves the dtype to the text; ``numbers`` is asked where
    the text depends on numbers that are computed in it.
    """
    s = Session(program, inputs, dtype, numbers, values=True)
    output = _read(s)
    if s.calls:
        return _of_calls(s)
    graph = s.builder.graph(output)
    return _finished(
        s, graph, (), statements_of(program, graph) if not s.script else _shown(s, graph)
    )


def _read(s: Session) -> Ref:
    """Read the text; the node of its output, which means nothing where it calls backward."""
    s.script = _is_script(s.program.body)
    connect(s)
    last = run_whole(s, s.program.body)
    return Ref(s.calls[-1].start) if s.calls else _output(s, last, s.program)


def _is_script(body: tuple[ast.stmt, ...]) -> bool:
    """Whether the text is a script and not a formula: it imports, makes leaves or calls backward."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.For, ast.With)):
                return True
            if isinstance(node, ast.keyword) and node.arg == "requires_grad":
                return True
            if isinstance(node, ast.Attribute) and node.attr in (
                "backward", "requires_grad_", "autograd", "Variable", "Parameter",
            ):  # fmt: skip
                return True
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("Variable", "print"):
                    return True
    return False


# -- the output ------------------------------------------------------------------------------------


def _output(s: Session, last: Any, program: Program) -> Ref:
    """The node that backward starts from where the text does not call it: the last value."""
    place = _last_place(s, program)
    if s.script and not isinstance(last, Tensor):
        tensors = [v for v in s.scopes[0].values() if isinstance(v, Tensor)]
        last = next((t for t in reversed(tensors) if s.requires(t)), last)
    if isinstance(last, (tuple, list)) and last and all(isinstance(r, Tensor) for r in last):
        s.fail(
            f"the last statement gives {len(last)} tensors; backward starts from one",
            place,
            "pick one, as in `q[0]`, or join them with cat or stack",
        )
    if isinstance(last, list) or (isinstance(last, (int, float)) and not isinstance(last, bool)):
        ref = _constant(s, last, place)
    elif isinstance(last, Tensor):
        ref = s.ref(last)
    elif isinstance(last, bool):
        ref = _constant(s, last, place)
    elif last is None:
        s.fail(
            "the text computes nothing that could be differentiated",
            place,
            "end with an expression, as in `y = f(x)`; a function is read where it is called",
        )
    else:
        s.fail(f"{what(last)} is not a tensor", place, "the last statement must be a tensor")
    node = s.builder.nodes[ref.id]
    if node.integer:
        s.fail(
            "the output holds integers or true/false, which have no gradient",
            place,
            "end with a real-valued expression",
        )
    if node.op is None:
        # ``y = x``: a node of its own, so that the output is something computed.
        ref = s.builder.apply(by_spelling("torch.positive")[0], (ref,), node.span)
    if not s.builder.nodes[ref.id].named:
        taken = {name for scope in s.scopes for name in scope}
        taken |= {n.label for n in s.builder.nodes if n.named}
        ref = s.builder.name(ref, next(name for name in _output_names() if name not in taken))
    return ref


def _constant(s: Session, value: Any, place: Span) -> Ref:
    try:
        return s.applier.constant(value, place)
    except InputError as error:
        raise s.at(error, place) from None


def _last_place(s: Session, program: Program) -> Span:
    if program.statements:
        return program.statements[-1].span
    return Span(0, len(program.source))


def _output_names() -> Iterator[str]:
    yield from ("y", "z", "out", "result")
    count = 1
    while True:
        yield f"y{count}"
        count += 1


# -- what the text asks ----------------------------------------------------------------------------


def _of_calls(s: Session) -> Reading:
    """The reading of a text that calls backward itself."""
    kept = _kept(s)
    if len(kept) < len(s.calls):
        s.remark(
            "earlier calls",
            f"The text calls backward {len(s.calls)} times and changes its leaves in between: the "
            f"last {'call is' if len(kept) == 1 else f'{len(kept)} calls are'} explained, at the "
            "values that the leaves have by then. gradexplain trace runs a script and shows every "
            "step.",
        )
        kept[0] = dataclasses.replace(kept[0], zeroed=frozenset())
    _named(s, kept)
    for call in kept:
        s.leaves(Graph("", tuple(s.builder.nodes), call.start))
    graph = s.builder.graph(Ref(kept[0].start))
    graph, calls = _renamed(s, graph, kept)
    return _finished(s, graph, calls, _shown(s, graph, calls))


def _kept(s: Session) -> list[BackwardCall]:
    """The last call, and those before it that were made at the same values."""
    last = _versions(s, s.calls[-1])
    kept: list[BackwardCall] = []
    for call in reversed(s.calls):
        versions = _versions(s, call)
        if any(last.get(tensor, label) != label for tensor, label in versions.items()):
            break
        kept.insert(0, call)
        last = {**versions, **last}
    return kept


def _versions(s: Session, call: BackwardCall) -> dict[int, str]:
    """The label that each tensor's leaf has in a call."""
    graph = Graph("", tuple(s.builder.nodes), call.start)
    needed = graph.needed()
    return {
        id(s.made[n.label].tensor): n.label
        for n in graph.nodes
        if n.id in needed and n.is_leaf and s.made[n.label].requires_grad
    }


def _named(s: Session, calls: list[BackwardCall]) -> None:
    """Give every start a name, and make it something computed."""
    for place, call in enumerate(calls):
        node = s.builder.nodes[call.start]
        ref = Ref(call.start)
        if node.op is None:
            ref = s.builder.apply(by_spelling("torch.positive")[0], (ref,), node.span)
        if not s.builder.nodes[ref.id].named:
            taken = {name for scope in s.scopes for name in scope}
            taken |= {n.label for n in s.builder.nodes if n.named}
            names = (name for name in chain(["L"], _output_names()) if name not in taken)
            ref = s.builder.name(ref, next(names))
        calls[place] = dataclasses.replace(call, start=ref.id)


def _renamed(
    s: Session, graph: Graph, calls: list[BackwardCall]
) -> tuple[Graph, tuple[BackwardCall, ...]]:
    """The leaves that were changed by their own names: ``w`` for ``w″``."""
    new: dict[str, str] = {}
    for call in calls:
        for label in _versions(s, call).values():
            base = re.sub("′+$|@[0-9]+$", "", label)
            if base != label and s.made.get(base) is not None:
                if s.made[base].tensor is s.made[label].tensor:
                    new[label], new[base] = base, label
    if not new:
        return graph, tuple(calls)
    nodes = tuple(
        dataclasses.replace(n, label=new.get(n.label, n.label)) if n.is_leaf else n
        for n in graph.nodes
    )
    s.made = {new.get(label, label): leaf for label, leaf in s.made.items()}
    changed = tuple(
        dataclasses.replace(
            call,
            zeroed=frozenset(new.get(label, label) for label in call.zeroed),
            wanted=None if call.wanted is None else tuple(new.get(n, n) for n in call.wanted),
        )
        for call in calls
    )
    return Graph(graph.source, nodes, graph.output), changed


def _finished(
    s: Session, graph: Graph, calls: tuple[BackwardCall, ...], statements: tuple[str, ...]
) -> Reading:
    starts = [call.start for call in calls] or [graph.output]
    needed: set[int] = set()
    for start in starts:
        needed |= Graph("", graph.nodes, start).needed()
    whole = Graph("", graph.nodes, starts[-1])
    labels = [n.label for n in graph.nodes if n.is_leaf and (n.id in needed or not s.script)]
    own = [n for n in labels if s.made[n].dtype is not None and s.made[n].requires_grad]
    asked = {label for call in calls for label in call.wanted or ()}
    leaves = [label for label in own if not asked or label in asked]
    retain = [
        n.label
        for t in s.retained
        if t.ref is not None and (n := graph.nodes[t.ref.id]).id in needed
    ]
    retain += [label for label in asked if label not in labels]
    if s.script and not own:
        leaves = [label for label in labels if s.made[label].requires_grad]
    values = _values(s, graph, labels)
    examples = {label for label in labels if s.made[label].example and label not in s.inputs.given}
    examples -= s.inputs.ones
    return Reading(
        graph,
        values,
        frozenset(examples),
        tuple(leaves) if s.script else None,
        s.run_dtype(whole),
        calls,
        tuple(dict.fromkeys(retain)),
        statements,
        tuple(s.remarks),
        s.script,
        s.returned,
    )


def _values(s: Session, graph: Graph, labels: Sequence[str]) -> dict[str, Array]:
    """The value of every leaf; those that nobody gave are made to suit the whole graph."""
    free = [n for n in graph.leaves if s.made[n.label].value is None and not s.made[n.label].later]
    made = example_values(graph, [n for n in free if not s.inputs.gives(n.label)])
    values: dict[str, Array] = {}
    for node in graph.leaves:
        leaf = s.made[node.label]
        if node.label in made:
            leaf.value = made[node.label]
        elif node.label not in labels and leaf.later:
            leaf.value = np.ones(node.shape)  # it plays no part: any value will do
        values[node.label] = s.leaf_value(node.label, node.shape)
    return values


# -- what is shown ---------------------------------------------------------------------------------


def _shown(s: Session, graph: Graph, calls: tuple[BackwardCall, ...] = ()) -> tuple[str, ...]:
    """The statements of a script that computed what is differentiated, and the calls of backward."""
    starts = [call.start for call in calls] or [graph.output]
    needed: set[int] = set()
    for start in starts:
        needed |= Graph("", graph.nodes, start).needed()
    computed = {id for id in needed if graph.nodes[id].op is not None}
    lines: list[str] = []
    told: set[int] = set()
    for text, first, last in s.shown:
        made = {id for id in range(first, last) if id in computed} - told
        if made and "backward(" not in text:
            lines.append(text)
            told |= made
    lines += [s.text(call.place) for call in calls]
    return tuple(lines)


def statements_of(program: Program, graph: Graph) -> tuple[str, ...]:
    """The statements as typed, one each; a bare last expression gets the output's name."""
    lines = []
    for statement in program.statements:
        text = program.source[statement.span.start : statement.span.end]
        lines.append(" ".join(text.split()))
    if lines and not program.statements[-1].targets:
        lines[-1] = f"{graph.out.label} = {lines[-1]}"
    return tuple(lines)
