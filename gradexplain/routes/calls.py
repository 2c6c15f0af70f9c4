"""PyTorch's answer to several ``backward`` calls on one graph, and what its nodes keep for them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradexplain.errors import first_line
from gradexplain.explanation import Array, Saved
from gradexplain.graph import Graph, put
from gradexplain.ops.base import Op
from gradexplain.routes import pytorch
from gradexplain.routes.pytorch import Answer, Asked, Question, tensors_of, to_array

#: Python's own operators, by how a record shows them: ``3*x`` saves another tensor than mul(3, x).
_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "{} + {}": operator.add, "{} - {}": operator.sub, "{}*{}": operator.mul,
    "{}/{}": operator.truediv, "{}**{}": operator.pow, "{} @ {}": operator.matmul,
    "-{}": operator.neg,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CallsAnswer:
    """``alone[k]`` is what the k-th call gives by itself, ``after[k]`` every ``.grad`` after it.

    ``failed`` is the message of the call that PyTorch refused, the last one in ``after``, and
    ``failed_at`` the operation whose backward raised it.
    """

    alone: tuple[Answer, ...]
    after: tuple[Mapping[str, Array | None], ...]
    saved: tuple[Saved, ...] = ()
    failed: str = ""
    failed_at: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class CallsQuestion:
    """``starts[k].backward(vs[k])`` one after the other; ``starts`` are ids of nodes."""

    graph: Graph
    values: Mapping[str, Array]
    starts: tuple[int, ...]
    vs: tuple[Array, ...]
    wanted: tuple[str, ...]
    retain: tuple[str, ...]
    dtype: str
    #: What is zeroed before each call, and whether each keeps the graph.
    zeroed: tuple[frozenset[str], ...]
    retain_graph: tuple[bool, ...]
    #: The inputs that each asks for; ``narrow`` if by ``inputs=``.
    inputs: tuple[tuple[str, ...], ...]
    narrow: bool

    def ask(self) -> CallsAnswer:
        import torch

        rest = self.dtype, self.retain
        asked = zip(map(self.graph.at, self.starts), self.vs, self.inputs, strict=True)
        alone = tuple(Question(g, self.values, v, by, *rest).ask() for g, v, by in asked)
        refused = next((answer.error for answer in alone if answer.error), "")
        return CallsAnswer((), (), error=refused) if refused else self._together(torch, alone)

    def _run(self, torch: Any) -> tuple[dict[int, Any], dict[str, Any]]:
        """Every value, and the tensors whose ``.grad`` is asked for."""
        needed = {id for start in self.starts for id in self.graph.at(start).needed()}
        tensors = tensors_of(
            torch, self.graph, self.values, self.wanted, self.dtype, needed, _as_written
        )
        kept = {n.label: tensors[n.id] for n in self.graph.leaves if n.label in self.wanted}
        for node in self.graph.nodes:
            if node.label in self.retain and node.id in tensors:
                kept[node.label] = tensors[node.id]
                if tensors[node.id].requires_grad:
                    tensors[node.id].retain_grad()
        return tensors, kept

    def _together(self, torch: Any, alone: tuple[Answer, ...]) -> CallsAnswer:
        tensors, kept = self._run(torch)
        owners = _owners(self.graph, tensors)
        saved = tuple(Saved(label, type(fn).__name__, _saved(fn)) for fn, label in owners.items())
        running: list[str] = []
        for fn, label in owners.items():
            fn.register_prehook(lambda grads, label=label: running.append(label))
        after: list[Mapping[str, Array | None]] = []
        failed = failed_at = ""
        for number, (start, v) in enumerate(zip(self.starts, self.vs, strict=True)):
            for name in self.zeroed[number] & kept.keys():
                kept[name].grad = None
            output = tensors[start]
            try:
                retain = self.retain_graph[number]
                asked = [kept[name] for name in self.inputs[number]]
                v_ = torch.tensor(v, dtype=output.dtype)
                output.backward(v_, retain, inputs=asked if self.narrow else None)
            except RuntimeError as error:
                failed, failed_at = first_line(error), running[-1] if running else ""
            after.append({name: to_array(torch, tensor.grad) for name, tensor in kept.items()})
            if failed:
                break
        return CallsAnswer(alone, tuple(after), saved, failed, failed_at)


def _as_written(
    torch: Any, op: Op, args: Sequence[Any], tensors: Mapping[int, Any], dtype: Any
) -> Any:
    """One operation with the operators that the text has."""
    values = list(put(tuple(args), tensors.__getitem__))
    plain = values[: op.infix.count("{}")]
    rest = zip(op.parameters[len(plain) :], values[len(plain) :], strict=True)
    usual = op.infix in _OPERATORS and all(value == p.default for p, value in rest)
    if usual and any(isinstance(value, torch.Tensor) for value in plain):
        return _OPERATORS[op.infix](*plain)
    return pytorch.call(torch, op, args, tensors, dtype)


def _owners(graph: Graph, tensors: Mapping[int, Any]) -> dict[Any, str]:
    """PyTorch's backward nodes, in order, each with the value of ours whose operation made it."""
    owners: dict[Any, str] = {}
    for node in graph.nodes:
        if node.op is None or tensors.get(node.id) is None:
            continue
        made: list[Any] = []
        pending = [tensors[node.id].grad_fn]
        while pending:
            fn = pending.pop()
            if fn is None or fn in owners or fn in made or type(fn).__name__ == "AccumulateGrad":
                continue
            made.append(fn)
            pending += [following for following, _ in fn.next_functions]
        owners.update(dict.fromkeys(reversed(made), node.label))
    return owners


def _saved(fn: Any) -> tuple[str, ...]:
    """The tensors that a backward node keeps, by PyTorch's names for them."""
    mark = "_raw_saved_"
    words = [name.removeprefix(mark) for name in sorted(dir(fn)) if name.startswith(mark)]
    kept = {word: getattr(fn, f"_saved_{word}", None) for word in words}
    empty = {word for word, own in kept.items() if isinstance(own, (tuple, list)) and not own}
    names = [word for word, own in kept.items() if own is not None and word not in empty]
    return tuple(sorted(names, key=lambda name: name != "self"))


@dataclass(slots=True)
class Part:
    """One part of an answer that several explanations share."""

    whole: Asked
    pick: Callable[[Any], Answer]
    #: Whether nobody else needs the answer when this one is dropped.
    last: bool = False

    def answer(self) -> Answer:
        found = self.whole.answer()
        return Answer({}, found.error) if found.error else self.pick(found)

    def drop(self) -> None:
        if self.last:
            self.whole.drop()
