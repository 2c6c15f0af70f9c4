"""From a program's tree to a graph, and to what the text itself asks of ``backward``."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from types import MappingProxyType
from typing import Any

from gradexplain.errors import InputError, Span
from gradexplain.examples import candidates, example_values
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node, Ref, renumbered
from gradexplain.limits import MAX_GRAPH_NODES
from gradexplain.ops import by_spelling
from gradexplain.ops.base import Shape
from gradexplain.reading.inputs import Inputs
from gradexplain.reading.objects import Class, Own, Tensor, Unread, what
from gradexplain.reading.outcome import BackwardCall, Numbers, Remark
from gradexplain.reading.program import Program
from gradexplain.reading.session import Session
from gradexplain.reading.statements import connect, run_whole
from gradexplain.reading.tokens import one_line
from gradexplain.texts import listed


def read(
    program: Program,
    shape_of: Callable[[str], Shape],
    given: Mapping[str, Array] = MappingProxyType({}),
    dtype: str = "float64",
    *,
    any_size: bool = False,
) -> Graph:
    """The graph of ``program``.

    ``shape_of(name)`` is the shape of an input; ``given`` has the values of those that the caller
    gave, which matters only for an input that is used as an index; ``dtype`` is the one that an
    argument ``dtype=`` may name; with ``any_size`` tensors may have more elements than can be
    worked with, for formulas alone.  Raises `InputError` and
    `UnsupportedError`, each with its place.
    """
    s = Session(program, Inputs(given, default=shape_of), dtype, any_size=any_size)
    output = _read(s)
    if s.calls:
        _named(s, s.calls)
        output = Ref(s.calls[-1].start)
    return s.builder.graph(output)


def resized(program: Program, reading: Reading, shapes: Mapping[str, Shape]) -> Graph:
    """The graph of a script whose own tensors have other ``shapes``; ``reading`` is what it says.

    Raises `GradexplainError` where what the text makes does not follow from them.
    """
    inputs = Inputs(default=lambda name: shapes.get(name, ()))
    s = Session(program, inputs, reading.dtype, any_size=True, values=True)
    s.sized = {n.label: (n.shape, tuple(shapes[n.label])) for n in reading.graph.leaves}
    s.before = list(reading.ways)
    s.most = 4 * reading.steps + 400  # a loop over sizes is no longer at others
    whole, _, starts = _whole(s, _read(s))
    return renumbered(whole.pruned(starts)[0])[0]


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
    #: How much there was to read, and how conditions on numbers were decided.
    steps: int = 0
    ways: tuple[bool, ...] = ()


def read_text(
    program: Program, inputs: Inputs, dtype: str | None, numbers: Numbers | None = None
) -> Reading:
    """What ``program`` says.  ``dtype`` None leaves the dtype to the text; ``numbers`` is asked where
    the text depends on numbers that are computed in it.
    """
    s = Session(program, inputs, dtype, numbers, values=True)
    output = _read(s)
    if s.calls or s.script:
        return _of_script(s, output)
    graph = s.builder.graph(output)
    examples = {n.label for n in graph.leaves if s.made[n.label].example}
    return Reading(
        graph,
        _values(s, graph),
        frozenset(examples - set(inputs.given)) - inputs.ones,
        None,
        s.run_dtype(graph),
        (),
        (),
        statements_of(program, graph),
        tuple(s.remarks),
    )


def _read(s: Session) -> Ref:
    """Read the text; the node of its output, which means nothing where it calls backward."""
    s.script = _is_script(s.program.body)
    if s.script:  # what is not reached from the calls that are explained is left out afterwards
        s.builder.most = s.most
    connect(s)
    if s.program.notation:
        s.say(
            "notation", one_line=one_line(s.program.notation), one_line2=one_line(s.program.source)
        )
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
        last = next((t for t in reversed(tensors) if s.requires(t)), last if tensors else None)
    if isinstance(last, (tuple, list)) and last and all(isinstance(r, Tensor) for r in last):
        s.refuse("several tensors", place, count=len(last))
    if isinstance(last, (list, int, float)):
        ref = _constant(s, last, place)
    elif isinstance(last, Tensor):
        ref = s.ref(last)
    elif last is None:
        own = [f"`{v.name}`" for v in s.scopes[0].values() if isinstance(v, (Own, Class))]
        key = "calls nothing" if own else "computes nothing"
        s.refuse(key, place, names=listed(own, 4), last=own[-1] if own else "")
    else:
        why = last.why if isinstance(last, Unread) else "the last statement must be a tensor"
        s.fail(f"{what(last)} is not a tensor", place, why)
    node = s.builder.nodes[ref.id]
    if node.integer:
        s.refuse("whole output", place)
    return _started(s, ref, ())


def _started(s: Session, ref: Ref, first: Sequence[str]) -> Ref:
    """Where backward starts: something computed (``y = x`` has a node of its own), with a name."""
    node = s.builder.nodes[ref.id]
    if node.op is None:
        ref = s.builder.apply(by_spelling("torch.positive")[0], (ref,), node.span)
    if not s.builder.nodes[ref.id].named or ref.id in s.inner:
        taken = {name for scope in s.scopes for name in scope}
        taken |= {n.label for n in s.builder.nodes if n.named}
        names = chain(first, ("y", "z", "out", "result"), (f"y{n}" for n in count(1)))
        ref = s.builder.name(ref, next(n for n in names if n not in taken), again=True)
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


# -- what the text asks ----------------------------------------------------------------------------


def _whole(s: Session, output: Ref) -> tuple[Graph, list[BackwardCall], list[int]]:
    """Everything that a script computed, the calls that are explained, and where they start."""
    calls = _kept(s)
    _named(s, calls)
    starts = [call.start for call in calls] or [output.id]
    return s.builder.graph(Ref(starts[0]), [call.made for call in s.calls]), calls, starts


def _of_script(s: Session, output: Ref) -> Reading:
    """The reading of a text that makes its own leaves, or calls backward itself: what it computed
    beside that is left out."""
    whole, calls, starts = _whole(s, output)
    statements = _shown(s, whole, calls, starts)
    dtype = s.run_dtype(Graph("", whole.nodes, starts[-1]))
    asked = {label for call in calls for label in call.wanted or ()}
    kept = [t.ref.id for t in s.retained if t.ref is not None]
    kept += [n.id for n in whole.nodes if n.label in asked and not n.is_leaf]
    needed = {id for id in starts for id in Graph("", whole.nodes, id).needed()}
    also = [n.id for n in whole.nodes if n.label in asked and n.is_leaf and n.id not in needed]
    graph, at = whole.pruned([*starts, *also])
    if len(graph.nodes) > MAX_GRAPH_NODES:
        s.lack(
            "too large",
            calls[-1].place if calls else _last_place(s, s.program),
            most=MAX_GRAPH_NODES,
        )
    values = _values(s, graph)
    leaves = [(s.made[n.label], n.label) for n in graph.leaves]
    own = [*{id(m.tensor): label for m, label in leaves if m.requires_grad}.values()]
    made = [label for label in own if s.made[label].dtype is not None]
    every = not calls or any(call.wanted is None for call in calls)
    wanted = [label for label in made if every or label in asked] if made else own
    examples = {n.label for n in graph.leaves if s.made[n.label].example}
    examples -= set(s.inputs.given) | s.inputs.ones
    retain = [graph[at[id]].label for id in dict.fromkeys(kept) if id in at]
    graph, new = renumbered(graph)
    _left_open(s, {label: new[label] for label in new if label in examples})
    return Reading(
        graph,
        {new[label]: found for label, found in values.items()},
        frozenset(new[label] for label in examples),
        tuple(new[label] for label in wanted),
        dtype,
        tuple(_moved(call, at, new) for call in calls),
        tuple(new.get(label, label) for label in retain),
        statements,
        tuple(s.remarks),
        script=True,
        returned=bool(calls) and all(call.returned for call in calls),
        steps=s.steps,
        ways=tuple(s.ways),
    )


def _left_open(s: Session, names: Mapping[str, str]) -> None:
    """Say which values the text leaves open: what it draws at random, and names that it never makes."""
    drawn = {new: s.made[old] for old, new in names.items() if s.made[old].dtype is not None}
    free = [new for new in names.values() if new not in drawn]
    if drawn:
        texts = dict.fromkeys(f"`{s.text(leaf.tensor.place)}`" for leaf in drawn.values())
        s.say(
            "example values",
            listed=listed(list(drawn), 5),
            texts=listed(list(texts), 5),
            names=next(iter(drawn)),
        )
    if free:
        s.say(
            "example values: free",
            listed=listed(free, 5),
            kind="an input" if len(free) == 1 else "inputs",
            first=free[0],
        )


def _moved(call: BackwardCall, at: Mapping[int, int], new: Mapping[str, str]) -> BackwardCall:
    """A call in the terms of the graph that is left."""
    wanted = None if call.wanted is None else tuple(new.get(n, n) for n in call.wanted)
    return dataclasses.replace(
        call,
        start=at[call.start],
        zeroed=frozenset(new[label] for label in call.zeroed if label in new),
        wanted=wanted,
    )


def _kept(s: Session) -> list[BackwardCall]:
    """The last call, and those before it that were made at the same values."""
    if not s.calls:
        return []
    s.calls[:] = [
        call
        for n, call in enumerate(s.calls)
        if not call.derived
        or not any(call.derived & set(s.needed(later.start)) for later in s.calls[n + 1 :])
    ]
    alike = [call for call in s.calls if call.returned == s.calls[-1].returned]
    last = _versions(s, s.calls[-1])
    kept: list[BackwardCall] = []
    for call in reversed(alike):
        versions = _versions(s, call)
        changed = any(last.get(tensor, node) is not node for tensor, node in versions.items())
        if changed or any(n.id >= call.made and s.made[n.label].later for n in last.values()):
            break  # leaves that this call's gradients may have made
        kept.insert(0, call)
        last = {**versions, **last}
    if len(alike) < len(s.calls):
        s.say("other calls", whose="backward's" if s.calls[-1].returned else "its")
    if len(kept) < len(alike):
        s.say(
            "earlier calls",
            count=len(alike),
            kind="call is" if len(kept) == 1 else f"{len(kept)} calls are",
        )
        kept[0] = dataclasses.replace(kept[0], zeroed=frozenset())
    return [_uncarried(s, call) for call in kept]


def _uncarried(s: Session, call: BackwardCall) -> BackwardCall:
    """The call without those leaves whose ``.grad`` still holds what calls at other values left in it."""
    labels = [node.label for node in _versions(s, call).values()]
    held = [label for label in labels if label in s.carried]
    if call.returned or call.wanted is not None or not held:
        return call
    names = listed([s.made[label].tensor.name or label for label in held], 5)
    wanted = tuple(label for label in labels if label not in held)
    if not wanted:
        s.lack("carried gradient", call.place, names=names)
    s.say("carried", names=names)
    return dataclasses.replace(call, wanted=wanted)


def _versions(s: Session, call: BackwardCall) -> dict[int, Node]:
    """The leaf that each tensor is in a call."""
    nodes = s.builder.nodes
    return {
        id(s.made[n.label].tensor): n
        for n in (nodes[id] for id in s.needed(call.start))
        if n.is_leaf and s.made[n.label].requires_grad
    }


def _named(s: Session, calls: list[BackwardCall]) -> None:
    """Give every start a name, and make it something computed."""
    for place, call in enumerate(calls):
        ref = _started(s, Ref(call.start), ["L"])
        calls[place] = dataclasses.replace(call, start=ref.id)


def _values(s: Session, graph: Graph) -> dict[str, Array]:
    """The value of every leaf; those that nobody gave are made to suit the whole graph."""
    free = [n for n in graph.leaves if s.made[n.label].value is None and not s.made[n.label].later]
    free = [n for n in free if not s.inputs.gives(n.label)]
    others = [n for n in graph.leaves if n not in free]
    known = {n.label: s.leaf_value(n.label, n.shape) for n in others}
    made = example_values(graph, free)
    if free and s.numbers is not None:
        for found in candidates(graph, free):
            if s.numbers.suits(graph, {**known, **found}):
                made = found
                break
    for label, value in made.items():
        s.made[label].value = value
    return {**known, **made}


# -- what is shown ---------------------------------------------------------------------------------


def _shown(
    s: Session, graph: Graph, calls: Sequence[BackwardCall], starts: Sequence[int]
) -> tuple[str, ...]:
    """The statements of a script that computed what is differentiated, and the calls of backward."""
    needed = {id for start in starts for id in Graph("", graph.nodes, start).needed()}
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
    spans = [statement.span for statement in program.statements]
    lines = [one_line(program.source[place.start : place.end]) for place in spans]
    if lines and not program.statements[-1].targets:
        lines[-1] = f"{graph.out.label} = {lines[-1]}"
    return tuple(lines)
