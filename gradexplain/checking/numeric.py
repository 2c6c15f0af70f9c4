"""Graphs run by PyTorch in float64 or float32: forward values, and J by basis vectors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gradexplain.errors import GradexplainError
from gradexplain.explanation import Array
from gradexplain.graph import Graph, Node, Ref, put
from gradexplain.installed import imported
from gradexplain.ops.base import Shape
from gradexplain.routes.pytorch import call

#: What PyTorch raises when it does not like a call.
REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)
#: What evaluating a graph of our own may raise: PyTorch's refusals, and our own messages.
UNEVALUATED = (*REFUSALS, GradexplainError)


def torch_module() -> Any:
    return imported()


def seed(number: int) -> None:
    """torch.manual_seed, which keeps a traceback for every device that is not there."""
    torch = torch_module()
    if torch.cuda.is_initialized():
        torch.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)


@contextlib.contextmanager
def settled(dtype: str = "float64") -> Iterator[None]:
    """PyTorch in one thread, for with tensors as small as these threads only wait for each other;
    and what the user's code makes without a dtype is of the one that it is asked about in.
    """
    torch = torch_module()
    threads, kind = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(kind)


def tensor(values: Any, dtype: str, *, grad: bool = False) -> Any:
    torch = torch_module()
    return torch.tensor(
        np.asarray(values, dtype=np.float64), dtype=getattr(torch, dtype)
    ).requires_grad_(grad)


def array(found: Any) -> Array:
    torch = torch_module()
    return np.asarray(found.detach().to(torch.float64).cpu().numpy())


def basis(shape: Shape) -> list[Array]:
    """The unit vectors of ``shape``, in order."""
    found = []
    for place in range(math.prod(shape)):
        unit = np.zeros(math.prod(shape))
        unit[place] = 1.0
        found.append(unit.reshape(shape))
    return found


def run(
    graph: Graph,
    known: Mapping[str, Any],
    dtype: str,
    cut: Callable[[Node, int], bool] | None = None,
    *,
    everything: bool = False,
) -> dict[int, Any]:
    """The tensor of each node that the output needs (or each at all); leaves are ``known`` by
    label.

    ``cut(node, use)`` says that no gradient flows to the use-th tensor of a node's arguments.
    """
    torch = torch_module()
    kind = getattr(torch, dtype)
    needed = set(range(len(graph.nodes))) if everything else graph.needed()
    tensors: dict[int, Any] = {}
    for node in graph.nodes:
        if node.is_leaf:
            if node.label in known:
                found = known[node.label]
                tensors[node.id] = found.to(torch.int64) if node.integer else found
            continue
        if node.id not in needed:
            continue
        if node.op is not None:
            args, scope = node.args, tensors
            if cut is not None:
                args, scope = _cut(node, tensors, cut)
            tensors[node.id] = call(torch, node.op, args, scope, kind)
        elif node.is_literal:
            tensors[node.id] = node.value
        elif node.integer:
            tensors[node.id] = torch.tensor(node.value, dtype=torch.int64)
        else:
            tensors[node.id] = torch.tensor(node.value, dtype=kind)
    return tensors


def _cut(node: Node, tensors: dict[int, Any], cut: Callable[[Node, int], bool]) -> Any:
    """A node's arguments with some uses detached."""
    scope = dict(tensors)
    count = 0

    def left(id: int) -> Ref:
        nonlocal count
        use, count = count, count + 1
        if not cut(node, use) or not hasattr(tensors[id], "detach"):
            return Ref(id)
        scope[-1 - use] = tensors[id].detach()
        return Ref(-1 - use)

    return put(node.args, left), scope


def jacobians(
    graph: Graph,
    values: Mapping[str, Array],
    wanted: Sequence[str],
    dtype: str = "float64",
    cut: Callable[[Node, int], bool] | None = None,
) -> dict[str, Array]:
    """J by each of ``wanted`` as a matrix (outputs by inputs), by PyTorch's autograd."""
    leaves = {name: tensor(value, dtype, grad=name in wanted) for name, value in values.items()}
    out = run(graph, leaves, dtype, cut)[graph.output]
    return rows_of(out, [leaves[name] for name in wanted], wanted)


def rows_of(out: Any, leaves: Sequence[Any], names: Sequence[str]) -> dict[str, Array]:
    torch = torch_module()
    found: dict[str, list[Array]] = {name: [] for name in names}
    for unit in basis(tuple(out.shape)):
        grads: Sequence[Any] = [None] * len(leaves)
        if out.requires_grad:
            v = torch.tensor(unit, dtype=out.dtype)
            grads = torch.autograd.grad(out, leaves, v, retain_graph=True, allow_unused=True)
        for name, leaf, grad in zip(names, leaves, grads, strict=True):
            found[name].append(np.zeros(leaf.numel()) if grad is None else array(grad).ravel())
    return {
        name: np.array(rows).reshape(len(rows), leaf.numel())
        for (name, rows), leaf in zip(found.items(), leaves, strict=True)
    }
