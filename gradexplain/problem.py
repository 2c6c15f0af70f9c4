"""From a request to a problem: what is asked, read, bound to values and found to be possible.

Needs neither SymPy nor PyTorch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from gradexplain.errors import GradexplainError, InputError
from gradexplain.explanation import (
    Array,
    Note,
)
from gradexplain.graph import Graph, as_before
from gradexplain.limits import BUDGET, CHECKED_BYTES, EXPLAINED_BYTES, MAX_ELEMENTS, show_size
from gradexplain.numbers import number
from gradexplain.ops.base import Shape, show_shape
from gradexplain.plan.cost import room
from gradexplain.reading.arrays import ONES, Value, as_array, bind
from gradexplain.reading.inputs import Inputs
from gradexplain.reading.language import Reading, read, read_text, resized
from gradexplain.reading.names import check_names
from gradexplain.reading.program import Program
from gradexplain.reading.syntax import parse
from gradexplain.routes.double import Pass
from gradexplain.routes.pytorch import Question
from gradexplain.routes.replay import Replay
from gradexplain.tensors import spot
from gradexplain.verdict import compare

DType = Literal["float64", "float32"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.  Values are arrays in float64; ``grad`` may be `ONES`, or None for a scalar's 1."""

    expression: str
    at: Mapping[str, Value] = field(default_factory=dict)
    grad: Value | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    wrt: tuple[str, ...] | None = None
    #: None: that of the tensors which the text makes, else float64.
    dtype: str | None = None
    check: bool = True
    #: the element of a gradient that is to be explained in full: ``x[0,0]``
    element: str = ""


def request_of(
    expression: str,
    at: Mapping[str, Any] | None,
    grad: Any,
    shapes: Mapping[str, Sequence[int]] | None,
    wrt: str | Sequence[str] | None,
    dtype: str | None,
    check: bool,
) -> Request:
    """A request from what a Python program gives."""
    if not isinstance(expression, str):
        raise InputError(
            f"the expression must be a string, found {type(expression).__name__}",
            remedy='write it as text, as in explain("3*a + b")',
        )
    if dtype is not None and dtype not in compare.ROUNDOFF:
        raise InputError(f"dtype {dtype!r} is not supported", remedy="use 'float64' or 'float32'")
    names = wrt.split(",") if isinstance(wrt, str) else wrt
    return Request(
        expression,
        {name: as_array(value, f"at[{name!r}]") for name, value in (at or {}).items()},
        None if grad is None else as_array(grad, "grad"),
        {name: tuple(int(n) for n in shape) for name, shape in (shapes or {}).items()},
        None if names is None else tuple(name.strip() for name in names),
        dtype,
        check,
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """A request with everything worked out: a graph at a point, and the argument of ``backward``.

    ``values`` are the leaves' values by label, as the dtype holds them; ``wanted`` the leaves that
    require grad; ``v`` has the output's shape, and ``v_source`` is ``given``, ``ones`` or
    ``implicit``.  ``examples`` names the leaves whose values were made up.  ``source`` and
    ``statements`` are for the reader only.
    """

    graph: Graph
    values: Mapping[str, Array]
    v: Array
    wanted: tuple[str, ...]
    dtype: str = "float64"
    check: bool = True
    v_source: str = "given"
    examples: frozenset[str] = frozenset()
    source: str = ""
    statements: tuple[str, ...] = ()
    #: Computed values whose ``.grad`` is asked for (``retain_grad``).
    retain: tuple[str, ...] = ()
    #: Reads the program with its inputs in other shapes, where there is a program.
    reread: Callable[[Mapping[str, Shape]], Graph] | None = None
    #: What the graph follows from, where formulas may be used again: the program and the shapes.
    key: tuple[Any, ...] = ()
    #: Whether gradients are those of the output itself, as formulas then say: ∂S/∂x, without a v.
    scalar: bool = False
    #: Where PyTorch's answer comes from, when it is not asked for this problem alone.
    asked: Answering | None = None
    #: The name that a sub-expression was given because it makes the formulas shorter; None where one is
    #: looked for when the question has been shown: it takes SymPy.
    shared: str | None = ""
    #: The element of a gradient that is explained in full, where one is asked for.
    element: tuple[str, tuple[int, ...]] | None = None
    #: The values of a recorded backward pass, see `judged`.
    again: Mapping[int, Pass] = field(default_factory=dict)
    #: What is to be said of the text.
    remarks: tuple[Note, ...] = ()

    def question(self, retain: tuple[str, ...] = ()) -> Question:
        """What PyTorch is asked; ``retain`` are computed values whose gradients are wanted too."""
        return Question(self.graph, self.values, self.v, self.wanted, self.dtype, retain)


class Answering(Protocol):
    """Somebody who has asked PyTorch: see `gradexplain.routes.pytorch.Asked`."""

    def answer(self) -> Any: ...

    def drop(self) -> None: ...


def problem_of(request: Request) -> Problem:
    """The problem that a request states; raises `GradexplainError` where it states none."""
    return problem_at(request, bound_of(request))


@dataclass(frozen=True, slots=True)
class Bound:
    """What a request's text says, with the leaves' values as the dtype holds them.

    The request's ``v`` is not looked at.
    """

    program: Program
    reading: Reading
    values: Mapping[str, Array]
    given: Mapping[str, Array]

    @property
    def key(self) -> tuple[Any, ...]:
        """What the graph follows from: the text, the shapes, the values of indices, the dtype."""
        leaves = tuple(
            (n.label, n.shape, self.values[n.label].tobytes() if n.integer else None)
            for n in self.graph.leaves
        )
        return self.program.source, leaves, self.dtype

    def reread(self, shapes: Mapping[str, Shape]) -> Graph:
        """The program with its inputs in other shapes."""
        if self.reading.script:
            return resized(self.program, self.reading, shapes)
        given = {name: _stretched(value, shapes[name]) for name, value in self.given.items()}
        return read(self.program, shapes.__getitem__, given, self.dtype, any_size=True)

    @property
    def graph(self) -> Graph:
        return self.reading.graph

    @property
    def dtype(self) -> str:
        return self.reading.dtype


def _stretched(value: Array, shape: Shape) -> Array:
    """A value where another shape is asked for: its largest element alone, which takes no memory.

    What no array can be as large as stays as it is.
    """
    if value.shape == shape or not value.size or math.prod(shape) > MAX_ELEMENTS:
        return value
    return np.broadcast_to(value.max(), shape)


def bound_of(request: Request) -> Bound:
    program = parse(request.expression)
    reading, values = _bound(program, request)
    _check_total(reading.graph, request.check)
    given = {name: values[name] for name, value in request.at.items() if value is not ONES}
    return Bound(program, reading, values, given)


def problem_at(request: Request, bound: Bound, graph: Graph | None = None) -> Problem:
    """The problem of ``request``, for the output of ``graph`` where that is another one."""
    program, values, reading = bound.program, bound.values, bound.reading
    graph = graph or bound.graph
    key = bound.key if graph is bound.graph and not reading.script else ()
    whole, small = graph is bound.graph, reading.steps <= _MANY_STEPS
    graph = as_before(key, graph) if key else graph
    wanted = _wanted(graph, request.wrt, reading.wanted)
    grad = request.grad
    if grad is None and len(reading.calls) == 1 and graph.output == reading.calls[0].start:
        grad = reading.calls[0].v

    def reread(shapes: Mapping[str, Shape]) -> Graph:
        """The program with its inputs in other shapes, ending where ``graph`` does."""
        return bound.reread(shapes).at(graph.output)

    return Problem(
        graph=graph,
        values=values,
        v=_upstream(grad, bound.dtype, graph.out.shape, graph.out.label),
        wanted=tuple(wanted),
        dtype=bound.dtype,
        check=request.check,
        v_source="implicit" if grad is None else "ones" if grad is ONES else "given",
        examples=reading.examples,
        source=program.source,
        statements=reading.statements,
        retain=reading.retain,
        remarks=tuple(Note(remark.kind, remark.text) for remark in reading.remarks),
        reread=reread if small and (whole or reading.script) else None,
        key=key,
        element=_element(graph, wanted, request.element) if request.element else None,
    )


def with_shared_name(problem: Problem) -> Problem:
    """``problem`` with a name for a sub-expression that makes its formulas shorter, where one does."""
    from gradexplain.routes.shared import named, shared  # SymPy is loaded here

    found = shared(problem.graph, problem.wanted)
    if found is None:
        return problem
    id, name = found
    reread = problem.reread
    return replace(
        problem,
        graph=named(problem.graph, id, name),
        reread=reread and (lambda shapes: named(reread(shapes), id, name)),
        shared=name,
    )


#: Scripts that took more to read than this are not read again for the letters of sizes.
_MANY_STEPS = 2000

#: Up to this many elements in all, and multiplications, values are computed with digits to spare.
_EXACT_ELEMENTS, _EXACT_WORK = 2_000, 20_000


def is_small(graph: Graph) -> bool:
    """Whether the tensors are small enough for digits to spare."""
    elements, work = 0, 0
    for node in graph.nodes:
        sizes = [math.prod(graph[i].shape) for i in node.inputs] + [math.prod(node.shape)]
        elements += sizes[-1]
        work += max(max(sizes), round(math.prod(sizes) ** (1 / 2)) if len(sizes) == 3 else 0)
    return elements <= _EXACT_ELEMENTS and work <= _EXACT_WORK


# -- binding what was given to the graph ---------------------------------------------------------


def _bound(program: Program, request: Request) -> tuple[Reading, dict[str, Array]]:
    """What the text says, and the value of each leaf as the dtype holds it."""
    given = {name: value for name, value in request.at.items() if value is not ONES}
    for name, value in given.items():
        shape = tuple(request.shapes.get(name, value.shape))
        if shape != value.shape:
            raise InputError(
                f"{name} has shape {show_shape(value.shape)} by --at but {show_shape(shape)} by --shape",
                remedy="leave one of the two out",
            )
    example = _example_shape(request)

    def shape_of(name: str) -> Shape:
        return given[name].shape if name in given else example

    inputs = Inputs(given, frozenset(request.at) - frozenset(given), request.shapes, shape_of)
    reading = read_text(program, inputs, request.dtype, Replay(_gradient_text))
    check_names((*request.at, *request.shapes), [node.label for node in reading.graph.leaves])
    values = {
        name: bind(value, reading.dtype, f"--at {name}" if name in given else name)
        for name, value in reading.values.items()
    }
    return reading, values


def _gradient_text(graph: Graph, name: str, v_name: str) -> str:
    """The gradient of an input as PyTorch; loaded only where a text differentiates a gradient."""
    from gradexplain.codegen.line import gradient_text

    try:
        return gradient_text(graph, name, v_name)
    except (GradexplainError, SyntaxError):
        return ""


def _example_shape(request: Request) -> Shape:
    """The shape of example values: v's, or (3,) for ``ones``, or a scalar's."""
    if request.grad is ONES:
        return () if request.at or request.shapes else (3,)
    if request.grad is None:
        return ()
    return tuple(request.grad.shape)


def _wanted(graph: Graph, wrt: tuple[str, ...] | None, own: tuple[str, ...] | None) -> list[str]:
    """The leaves to differentiate by: those of ``wrt``, else those that the text says, else all."""
    leaves = [node.label for node in graph.leaves if not node.integer]
    if own is not None and wrt is None:
        leaves = [label for label in leaves if label in own]
    if not leaves:
        raise InputError(
            f"{graph.out.label} depends on no input that requires grad; PyTorch says: element 0 of "
            "tensors does not require grad and does not have a grad_fn",
            remedy="use a name for the value to differentiate by, as in 3*x",
        )
    if wrt is None:
        return leaves
    for name in wrt:
        node = graph.by_label(name)
        if name in leaves:
            continue
        if node is not None and node.integer and node.is_leaf:
            raise InputError(
                f"{name} holds integers used as an index: it has no gradient",
                remedy=f"leave {name} out of --wrt",
            )
        if node is not None and node.op is not None:
            raise InputError(
                f"{name} is computed, not an input: PyTorch keeps no .grad for it",
                remedy=f"name inputs in --wrt ({', '.join(leaves)}); the chain rule shows what "
                f"flows into {name}",
            )
        raise InputError(
            f"{name or 'an empty name'} in --wrt is not an input; the inputs are: "
            f"{', '.join(leaves) or 'none'}",
            remedy="name inputs of the expression, separated by commas",
        )
    return [name for name in leaves if name in wrt]


def _element(graph: Graph, wanted: Sequence[str], text: str) -> tuple[str, tuple[int, ...]]:
    """``x[0,0]`` as a name and an index; `InputError` where there is no such element."""
    found = re.fullmatch(r"\s*([^\W\d]\w*)\s*(?:\[((?:\s*-?\d+\s*(?:,|(?=\])))*)\s*\])?\s*", text)
    name = found[1] if found else ""
    if found is None or name not in wanted:
        raise InputError(
            f"{text.strip() or 'an empty text'} is no element of an input's gradient",
            remedy=f"name one as in {wanted[0]}[0]; the inputs are: {', '.join(wanted)}",
        )
    node = graph.by_label(name)
    assert node is not None
    index = tuple(map(int, re.findall(r"-?\d+", found[2] or "")))
    shape = node.shape
    if len(index) != len(shape) or not all(-n <= i < n for i, n in zip(index, shape, strict=True)):
        ends = ([0] * len(shape), [n - 1 for n in shape])
        first, last = (f"{name}[{','.join(map(str, end))}]" if shape else name for end in ends)
        raise InputError(
            f"{text.strip()} is no single element of {name}, whose shape is {show_shape(shape)}",
            remedy=f"write {first}" if first == last else f"write one of {first} to {last}",
        )
    return name, tuple(i % n for i, n in zip(index, shape, strict=True))


def _check_total(graph: Graph, check: bool) -> None:
    """Refuse what does not fit, before anything is computed."""
    total = sum(math.prod(node.shape) for node in graph.nodes)
    size = total * (CHECKED_BYTES if check else EXPLAINED_BYTES)
    if BUDGET.memory is None or size <= BUDGET.memory:
        return
    largest = max(graph.nodes, key=lambda node: (math.prod(node.shape), node.op is not None))
    name = largest.op.name if largest.op is not None else largest.label
    raise InputError(
        f"the values of all {len(graph.nodes)} steps, the largest of {name}, have {total:,} elements: "
        f"that takes {show_size(size)} here; {show_size(BUDGET.memory)} allowed",
        remedy="use smaller shapes: the formulas are the same at any size; "
        f"or allow more: --memory {room(size // 2)}",
    )


def _upstream(grad: Value | None, dtype: str, shape: Shape, name: str) -> Array:
    """v in the output's shape, or the error that PyTorch would raise."""
    if grad is None:
        if math.prod(shape) != 1:
            flat = len(shape) == 1
            example = ",".join(["1"] * min(shape[0], 4)) if flat and shape[0] <= 4 else "ones"
            raise InputError(
                "grad can be implicitly created only for scalar outputs; "
                f"{name} has shape {show_shape(shape)}",
                remedy=f"give v in that shape, as in --grad {example}; or make the output a scalar, "
                f"as in {name}.sum()",
            )
        return np.ones(shape)
    if grad is ONES:
        return np.ones(shape)
    v = bind(grad, dtype, "--grad")
    if v.shape == () and math.prod(shape) == 1:
        return v.reshape(shape)  # one number for one element, whatever the dimensions
    if v.shape != shape:
        if math.prod(shape) == v.size and math.prod(shape) > 0:
            remedy = f"v has the right number of elements: nest it as shape {show_shape(shape)}"
        elif math.prod(shape) == 1:
            remedy = "give one number, or let the inputs have the shape of v (--shape, --at)"
        else:
            remedy = (
                f"give v in shape {show_shape(shape)} (ones is one that always fits), or let the "
                "inputs have other shapes (--shape, --at)"
            )
        raise InputError(
            f"mismatch in shape: v has shape {show_shape(v.shape)} and {name} has shape "
            f"{show_shape(shape)}; the argument of backward has the output's shape",
            remedy=remedy,
        )
    return v


# -- words ---------------------------------------------------------------------------------------


def loss_text(v: Array, name: str, loss: str, v_name: str) -> str:
    """The scalar whose gradient is asked for, written out where it is short."""
    if v.size <= 4:
        if v.shape == ():
            return f"{loss} = {number(float(v))}·{name}"
        text = ""
        for place in np.ndindex(*v.shape):
            value = float(v[place])
            sign = " − " if value < 0 and text else " + " if text else "−" if value < 0 else ""
            text += f"{sign}{number(abs(value))}·{spot(name, place)}"
        return f"{loss} = {text}"
    letters = "ikmacegopqrstuwx"[: v.ndim]
    index = ",".join(letters)
    under = letters if len(letters) == 1 else f"{{{index}}}"
    return f"{loss} = Σ_{under} {v_name}[{index}]·{name}[{index}]"
