"""The edit that makes a claim right: a fault found by undoing it in the claim's own graph.

Each kind of edit is the inverse of one fault: another ``dim``, ``keepdim=True``, ``mean`` for
``sum``, the other sign, one power more or less, the input for the output, an operand transposed.
An edited claim is run at every trial; the first edit that is right at all of them names the fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gradexplain.checking import numeric
from gradexplain.checking.report import Fault
from gradexplain.errors import GradexplainError, Span
from gradexplain.graph import Builder, Graph, Node, Ref, op_call
from gradexplain.numbers import number
from gradexplain.ops import by_spelling
from gradexplain.ops.base import Op

if TYPE_CHECKING:
    from gradexplain.checking.trials import Trial

_NOWHERE = Span(0, 0)
_MOST = 250

#: ``make(builder, node, args)`` makes the node anew in another way.
Make = Callable[[Builder, Node, tuple[Any, ...]], Ref]


@dataclass(frozen=True, slots=True)
class Edit:
    """``node`` is replaced by ``make``; or, with ``swap``, uses of one leaf become another's.

    ``node`` is then the user whose uses change, None for all users.
    """

    fault: str
    sentence: str
    remedy: str
    node: int | None
    make: Make | None = None
    swap: tuple[str, str] | None = None


def find(name: str, trials: Sequence[Trial], v: str, output: str) -> Fault | None:
    """The fault whose correction makes the claim about ``name`` right at every trial."""
    if not trials or any(name not in t.setting.claims for t in trials):
        return None
    graphs = [t.setting.claims[name] for t in trials]
    if len({len(g.nodes) for g in graphs}) != 1:
        return None
    known: list[Mapping[str, Any]] = []
    for t in trials:
        found = _tensors(t)
        if found is None:
            return None
        known.append(found)
    labels = _labels(graphs[0])
    for count, edit in enumerate(_edits(graphs[0], trials[0], name, v, output, labels)):
        if count >= _MOST:
            return None
        if all(_right(edit, g, t, k, name) for g, t, k in zip(graphs, trials, known, strict=True)):
            return Fault(edit.fault, edit.sentence, edit.remedy)
    return None


def _tensors(trial: Trial) -> Mapping[str, Any] | None:
    graph = trial.setting.graph
    if graph is None:
        return None
    torch = numeric.torch_module()
    with torch.no_grad():
        leaves = {n: numeric.tensor(v, "float64") for n, v in trial.values.items()}
        tensors = numeric.run(graph, leaves, "float64", everything=True)
    return {graph[id].label: t for id, t in tensors.items() if hasattr(t, "detach")}


def _right(edit: Edit, graph: Graph, trial: Trial, known: Mapping[str, Any], name: str) -> bool:
    from gradexplain.checking.subjects import claim_rows
    from gradexplain.checking.trials import close

    try:
        edited = _applied(edit, graph, {k: tuple(t.shape) for k, t in known.items()})
        if edited.out.shape != trial.shape(name):
            return False
        true = trial.true[name]
        probe = trial.probes[1][0] if trial.probes else numeric.basis(trial.out_shape)[0]
        rows = claim_rows(edited, known, trial.setting.grad_names, [probe], "float64")
        with np.errstate(all="ignore"):
            if not close(rows.reshape(1, -1), probe.reshape(1, -1) @ true, true):
                return False
        rows = claim_rows(
            edited, known, trial.setting.grad_names, numeric.basis(trial.out_shape), "float64"
        )
        return close(rows.reshape(len(rows), -1), true, true)
    except (*numeric.REFUSALS, GradexplainError, KeyError, AttributeError):
        return False


def _applied(edit: Edit, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """``graph`` with the edit made, shapes worked out anew."""
    builder = Builder(graph.source)
    place: dict[int, Ref] = {}
    leaves: dict[str, Ref] = {}

    def leaf(label: str, shape: tuple[int, ...]) -> Ref:
        if label not in leaves:
            leaves[label] = builder.leaf(label, shape, _NOWHERE)
        return leaves[label]

    def moved(arg: Any, at: Mapping[int, Ref]) -> Any:
        if isinstance(arg, Ref):
            return at[arg.id]
        return tuple(moved(part, at) for part in arg) if isinstance(arg, tuple) else arg

    swapped: dict[int, Ref] = {}
    for node in graph.nodes:
        if node.is_leaf:
            place[node.id] = leaf(node.label, node.shape)
            if edit.swap is not None and node.label == edit.swap[0]:
                other = leaf(edit.swap[1], shapes[edit.swap[1]])
                swapped[node.id] = other
                if edit.node is None:
                    place[node.id] = other
            continue
        if node.op is None:
            place[node.id] = builder.constant(node.value, _NOWHERE, integer=node.integer)
            continue
        here: Mapping[int, Ref] = place
        if edit.swap is not None and edit.node == node.id:
            here = {**place, **swapped}
        args = moved(node.args, here)
        if edit.make is not None and edit.node == node.id:
            place[node.id] = edit.make(builder, node, args)
        else:
            place[node.id] = builder.apply(node.op, args, _NOWHERE, integer=node.integer)
    return builder.graph(place[graph.output])


def _op(name: str) -> Op:
    return by_spelling(f"torch.{name}")[0]


def _replaced(node: Node, args: tuple[Any, ...], **changed: Any) -> tuple[Any, ...]:
    assert node.op is not None
    return tuple(changed.get(p.name, arg) for p, arg in zip(node.op.parameters, args, strict=True))


def _with(**changed: Any) -> Make:
    """The same call with other parameters."""

    def make(builder: Builder, node: Node, args: tuple[Any, ...]) -> Ref:
        assert node.op is not None
        return builder.apply(node.op, _replaced(node, args, **changed), _NOWHERE)

    return make


def _as(name: str) -> Make:
    """Another operation with the same arguments."""

    def make(builder: Builder, node: Node, args: tuple[Any, ...]) -> Ref:
        return builder.apply(_op(name), args, _NOWHERE)

    return make


def _labels(graph: Graph) -> dict[int, str]:
    labels: dict[int, str] = {}
    for node in graph.nodes:
        if node.is_literal:
            labels[node.id] = number(node.value, 17)
        elif node.op is None:
            labels[node.id] = node.label
        else:
            text = op_call(node, labels)
            labels[node.id] = f"({text})" if node.op.infix else text
    return labels


def _edits(
    graph: Graph, trial: Trial, name: str, v: str, output: str, labels: dict[int, str]
) -> Iterator[Edit]:
    nodes = [n for n in graph.nodes if n.op is not None and n.id in graph.needed()]
    yield from _reductions(graph, nodes, labels)
    yield from _signs(graph, nodes, labels)
    powers = list(_powers(graph, nodes, labels))
    plain = {
        n.id for n in nodes if n.op is not None and n.op.name in ("pow", "square", "reciprocal")
    }
    yield from (edit for edit in powers if edit.node in plain)
    yield from _other_values(graph, nodes, trial, output, labels)
    yield from (edit for edit in powers if edit.node not in plain)
    yield from _transposes(graph, nodes, labels)


def _reductions(graph: Graph, nodes: Sequence[Node], labels: dict[int, str]) -> Iterator[Edit]:
    later: list[Edit] = []
    for node in nodes:
        assert node.op is not None
        parameters = node.parameters
        shown = op_call(node, labels)
        if "dim" not in parameters and "dims" not in parameters:
            continue
        if node.op.name in ("unsqueeze", "squeeze", "stack", "cat", "transpose", "permute"):
            continue
        if parameters.get("keepdim") is False:
            yield Edit(
                "missing_keepdim",
                f"keepdim=True is missing in {shown}: without it the result is broadcast along the "
                "wrong dim",
                f"write {_show(node, labels, keepdim=True)}",
                node.id,
                _with(keepdim=True),
            )
        rank = len(graph[node.inputs[0]].shape)
        now = parameters.get("dim", parameters.get("dims"))
        current = (
            {d % rank for d in ((now,) if isinstance(now, int) else now or ())} if rank else set()
        )
        optional = any(p.name == "dim" and p.optional for p in node.op.parameters)
        for dim in [*range(rank), None]:
            if (dim is None and (not optional or now is None)) or (
                dim is not None and current == {dim}
            ):
                continue
            value: Any = dim
            if isinstance(now, tuple) and dim is not None:
                value = (dim,)
            for keep in (parameters.get("keepdim"), True, False):
                if keep is not parameters.get("keepdim") and "keepdim" not in parameters:
                    continue
                change = {"dim": value} | ({"keepdim": keep} if "keepdim" in parameters else {})
                later.append(
                    Edit(
                        "wrong_dim",
                        f"{shown} runs over the wrong dim: it should be "
                        f"{_show(node, labels, **change)}",
                        f"write {_show(node, labels, **change)}",
                        node.id,
                        _with(**change),
                    )
                )
    yield from later
    for node in nodes:
        assert node.op is not None
        if node.op.name in ("sum", "mean"):
            other = "mean" if node.op.name == "sum" else "sum"
            shown = op_call(node, labels)
            yield Edit(
                "sum_vs_mean",
                f"{shown} is a {node.op.name} where a {other} is needed",
                f"write {other}{shown.removeprefix(node.op.name)}",
                node.id,
                _as(other),
            )


def _show(node: Node, labels: dict[int, str], **changed: Any) -> str:
    copy = Node(
        node.id, node.label, node.named, node.op, _replaced(node, node.args, **changed), node.shape,
        node.span,
    )  # fmt: skip
    return op_call(copy, labels)


def _signs(graph: Graph, nodes: Sequence[Node], labels: dict[int, str]) -> Iterator[Edit]:
    for node in nodes:
        assert node.op is not None
        if node.op.name in ("add", "sub"):
            other = "sub" if node.op.name == "add" else "add"
            shown = op_call(node, labels)
            flipped = Node(node.id, "", False, _op(other), node.args, node.shape, node.span)
            yield Edit(
                "wrong_sign",
                f"a sign is wrong: {shown} should be {op_call(flipped, labels)}",
                f"write {op_call(flipped, labels)}",
                node.id,
                _as(other),
            )
        if node.op.name == "neg":
            yield Edit(
                "wrong_sign",
                f"a sign is wrong: {op_call(node, labels)} should not be negated",
                f"write {labels[node.inputs[0]]}",
                node.id,
                lambda builder, node, args: args[0],
            )


def _other_values(
    graph: Graph, nodes: Sequence[Node], trial: Trial, output: str, labels: dict[int, str]
) -> Iterator[Edit]:
    """The output for an input, or the other way round, in all uses or in one."""
    inputs = list(trial.setting.shapes)
    leaves = [n for n in graph.nodes if n.is_leaf]
    pairs = []
    for leaf in leaves:
        if leaf.label == output:
            pairs += [(output, n) for n in inputs]
        elif leaf.label in inputs:
            pairs.append((leaf.label, output))
    for here, there in pairs:
        kind = "output" if here == output else "input"
        belongs = "input" if kind == "output" else "output"
        for node in (None, *nodes):
            if node is not None and not any(labels[i] == here for i in node.inputs):
                continue
            place = "" if node is None else f" in {op_call(node, labels)}"
            yield Edit(
                "output_for_input",
                f"the derivative is evaluated at the {kind} {here} where the {belongs} {there} "
                f"belongs{place}",
                f"write {there} for {here}{place}",
                None if node is None else node.id,
                swap=(here, there),
            )


def _squared(side: int) -> Make:
    """A product with one of its factors squared."""

    def make(builder: Builder, node: Node, args: tuple[Any, ...]) -> Ref:
        product = builder.apply(_op("mul"), args, _NOWHERE)
        return builder.apply(_op("mul"), (product, args[side]), _NOWHERE)

    return make


def _alone(side: int) -> Make:
    """One factor without the other."""
    return lambda builder, node, args: args[side]


def _powers(graph: Graph, nodes: Sequence[Node], labels: dict[int, str]) -> Iterator[Edit]:
    for node in nodes:
        assert node.op is not None
        shown = op_call(node, labels)

        def edit(make: Make, fixed: str, node: Node = node, shown: str = shown) -> Edit:
            return Edit(
                "exponent",
                f"an exponent is off by one: {shown} should be {fixed}",
                f"write {fixed}",
                node.id,
                make,
            )

        if node.op.name == "pow" and graph[node.inputs[1]].is_literal:
            base, exponent = labels[node.inputs[0]], float(graph[node.inputs[1]].value)
            for step in (1.0, -1.0):
                value = exponent + step

                def power(b: Builder, n: Node, args: tuple[Any, ...], value: float = value) -> Ref:
                    return b.apply(_op("pow"), (args[0], b.constant(value, _NOWHERE)), _NOWHERE)

                yield edit(power, f"{base}**{number(value)}")
        elif node.op.name in ("square", "reciprocal", "sqrt", "rsqrt"):
            start = {"square": 2.0, "reciprocal": -1.0, "sqrt": 0.5, "rsqrt": -0.5}[node.op.name]
            for step in (1.0, -1.0):
                value = start + step

                def power(b: Builder, n: Node, args: tuple[Any, ...], value: float = value) -> Ref:
                    return b.apply(_op("pow"), (args[0], b.constant(value, _NOWHERE)), _NOWHERE)

                yield edit(power, f"{labels[node.inputs[0]]}**{number(value)}")
        elif node.op.name == "div":
            a, b = (labels[i] for i in node.inputs)
            yield edit(
                lambda build, n, args: build.apply(
                    _op("div"),
                    (args[0], build.apply(_op("mul"), (args[1], args[1]), _NOWHERE)),
                    _NOWHERE,
                ),
                f"{a}/{b}**2",
            )
            yield edit(lambda build, n, args: args[0], a)
            yield edit(
                lambda build, n, args: build.apply(
                    _op("div"),
                    (build.apply(_op("mul"), (args[0], args[0]), _NOWHERE), args[1]),
                    _NOWHERE,
                ),
                f"{a}**2/{b}",
            )
        elif node.op.name == "mul":
            for side in (0, 1):
                if graph[node.inputs[side]].is_literal:
                    continue
                mine, other = labels[node.inputs[side]], labels[node.inputs[1 - side]]
                yield edit(_squared(side), f"{other}*{mine}**2")
                yield edit(_alone(1 - side), other)


def _transposes(graph: Graph, nodes: Sequence[Node], labels: dict[int, str]) -> Iterator[Edit]:
    def turned(builder: Builder, ref: Ref) -> Ref:
        if len(builder.nodes[ref.id].shape) < 2:
            return ref
        return builder.apply(by_spelling("torch.transpose")[0], (ref, -2, -1), _NOWHERE)

    for node in nodes:
        assert node.op is not None
        if node.op.name in ("matmul", "mm", "mv", "bmm"):
            a, b = (labels[i] for i in node.inputs)
            ways: list[tuple[str, Make]] = [
                (f"{a}.T @ {b}", lambda build, n, args: build.apply(_op("matmul"), (turned(build,
                args[0]), args[1]), _NOWHERE)), (f"{a} @ {b}.T", lambda build, n, args:
                build.apply(_op("matmul"), (args[0], turned(build, args[1])), _NOWHERE)),
                (f"{a}.T @ {b}.T", lambda
                build, n, args: build.apply(_op("matmul"), (turned(build, args[0]), turned(build,
                args[1])), _NOWHERE)), (f"({a} @ {b}).T", lambda build, n, args: turned(build,
                build.apply(_op("matmul"), args, _NOWHERE))), (f"{b} @ {a}", lambda build, n,
                args: build.apply(_op("matmul"), args[::-1], _NOWHERE)),
            ]  # fmt: skip
            for fixed, make in ways:
                yield Edit(
                    "transposed",
                    f"an operand is transposed: {op_call(node, labels)} should be {fixed}",
                    f"write {fixed}",
                    node.id,
                    make,
                )
        if node.op.name in ("T", "t", "transpose", "permute", "mT"):
            yield Edit(
                "transposed",
                f"{op_call(node, labels)} should not be transposed",
                f"write {labels[node.inputs[0]]}",
                node.id,
                lambda builder, node, args: args[0],
            )
