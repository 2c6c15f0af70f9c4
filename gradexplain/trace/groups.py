"""Autograd's graph behind some tensors, as the calls that made its nodes.

Autograd's graph has nodes of PyTorch's own; a recorded call made one or several of them: its group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gradexplain.recording.calls import KEY, Call, Operand, geometry, nodes_behind
from gradexplain.recording.operators import Kind

#: More of autograd's nodes than this are not explained one by one.
MAX_NODES = 20_000


_LEAF = "AccumulateGrad"


#: Nodes that autograd makes without a call: for sums of gradients, and for what ``.grad`` holds.
_OWN = {
    "AddBackward0": "torch.add", "CloneBackward0": "torch.positive",
    "CopyBackwards": "torch.positive",
}  # fmt: skip


class TooLarge(Exception):
    """The graph has too many nodes to be explained one by one."""


class Group:
    """The nodes of one call: a recorded one, or some that no recorded call made."""

    __slots__ = ("call", "edges", "id", "nodes")

    def __init__(self, call: Call | None) -> None:
        self.call = call
        self.nodes: list[Any] = []
        self.edges: list[tuple[Any, int]] = []  # the inputs' places, in order
        self.id = -1


class Groups:
    """The groups behind ``roots``, each with its inputs; `sorted` puts them in order."""

    def __init__(self, roots: list[Any]) -> None:
        self._roots = roots
        self._root_edges = {
            (id(root.grad_fn), root.output_nr): root for root in roots if root.grad_fn is not None
        }
        self.nodes: dict[int, Any] = {}
        self.owner: dict[int, Group] = {}
        self.groups: list[Group] = []
        self._operands: dict[tuple[int, int], list[Operand]] = {}
        self._used: dict[int, list[tuple[Any, int]]] = {}  # by group: the outputs used further on

    def _collect(self) -> None:
        self.nodes = {id(node): node for node in nodes_behind(self._roots, MAX_NODES + 1)}
        if len(self.nodes) > MAX_NODES:
            raise TooLarge

    def _form_groups(self) -> None:
        groups: dict[int, Group] = {}
        recorded = []
        for node in self.nodes.values():
            entry = node.metadata.get(KEY) if not is_leaf(node) else None
            if entry is None:
                continue
            call = entry[0]
            group = groups.get(id(call))
            if group is None:
                group = groups[id(call)] = Group(call)
                self.groups.append(group)
            recorded.append((node, group))
            self.owner[id(node)] = group
            group.nodes.append(node)
            for operand in [*call.operands, *([call.base] if call.base else [])]:
                if operand.node is not None:
                    self._operands.setdefault((id(operand.node), operand.nr), []).append(operand)
        # A backward pass reads what earlier calls have made within: those take their nodes first.
        for node, group in sorted(recorded, key=_expanded):
            self._expand(node, group)
        # What is left was made by no call that was seen.
        stack = [root.grad_fn for root in self._roots if root.grad_fn is not None]
        seen: set[int] = set()
        while stack:
            node = stack.pop(0)
            if id(node) in seen or is_leaf(node):
                continue
            seen.add(id(node))
            if id(node) not in self.owner:
                group = Group(self._own_call(node))
                self.groups.append(group)
                group.nodes.append(node)
                self.owner[id(node)] = group
                self._expand(node, group)
            stack.extend(n for n, _ in node.next_functions if n is not None)

    def _own_call(self, node: Any) -> Call | None:
        """A node that no call of the script made, as the call that it stands for."""
        name = plain_name(node.name())
        spelling = _OWN.get(name)
        edges = [(target, nr) for target, nr in node.next_functions if target is not None]
        operands = [Operand.at(target, nr) for target, nr in edges]
        if name == "AsStridedBackward0" and len(edges) == 1:
            owner = self.owner.get(id(edges[0][0]))
            call = owner.call if owner is not None else None
            if call is None or not call.operands:
                return None
            base = call.view[1] if call.view is not None else None
            if base is None and call.kind.kind == "inplace":
                base = geometry(call.operands[0].value)
            if base is None or base[0] != shape_at(*edges[0]):
                return None
            kind = Kind("own", "view", ("torch.as_strided",))
            own = (
                tuple(node._saved_size),
                tuple(node._saved_stride),
                base[2] if node._saved_storage_offset is None else node._saved_storage_offset,
            )
            made = Call(kind, tuple(operands), {}, operands, None)
            made.view = own, base
            return made
        if spelling is None or len(edges) != 1 + (spelling == "torch.add"):
            return None
        if getattr(node, "_saved_alpha", 1) != 1:
            return None
        name = spelling.removeprefix("torch.")
        return Call(Kind("own", name, (spelling,)), tuple(operands), {}, operands, None)

    def _expand(self, start: Any, group: Group) -> None:
        """Take the nodes behind ``start`` that belong to ``group``, up to the group's inputs."""
        inputs = set()
        if group.call is not None:
            inputs = {(id(o.node), o.nr) for o in group.call.operands if o.node is not None}
        stack = [start]
        while stack:
            for node, nr in stack.pop().next_functions:
                if node is None or self.owner.get(id(node)) is group:
                    continue
                outside = (
                    is_leaf(node)
                    or id(node) in self.owner
                    or (id(node), nr) in inputs
                    or (group.call is None and (id(node), nr) in self._operands)
                )
                if not outside:
                    self.owner[id(node)] = group
                    group.nodes.append(node)
                    stack.append(node)

    def _edges(self, group: Group) -> Iterator[tuple[Any, int, Any, int]]:
        """The edges that leave a group: ``(node, place, target, nr)``."""
        for node in group.nodes:
            for place, (target, nr) in enumerate(node.next_functions):
                if target is not None and self.owner.get(id(target)) is not group:
                    yield node, place, target, nr

    def _sorted(self) -> list[Group]:
        """The groups in order of execution, each after those that made its inputs."""
        for group in self.groups:
            seen = set()
            for _, _, target, nr in self._edges(group):
                if (id(target), nr) not in seen:
                    seen.add((id(target), nr))
                    group.edges.append((target, nr))
                    owner = self.owner.get(id(target))
                    if owner is not None:
                        self._used.setdefault(id(owner), []).append((target, nr))
        for key, nr in self._root_edges:
            owner = self.owner.get(key)
            if owner is not None:
                self._used.setdefault(id(owner), []).append((self.nodes[key], nr))
        order: list[Group] = []
        state: dict[int, int] = {}
        stack: list[tuple[Group, bool]] = [
            (self.owner[id(root.grad_fn)], False)
            for root in reversed(self._roots)
            if root.grad_fn is not None and id(root.grad_fn) in self.owner
        ]
        while stack:
            group, done = stack.pop()
            if done:
                order.append(group)
                continue
            if state.get(id(group)):
                continue
            state[id(group)] = 1
            stack.append((group, True))
            for target, _ in reversed(group.edges):
                owner = self.owner.get(id(target))
                if owner is not None and not state.get(id(owner)):
                    stack.append((owner, False))
        by_time = sorted(order, key=_time)
        place = {id(group): n for n, group in enumerate(by_time)}
        after = all(
            place[id(self.owner[id(target)])] < place[id(group)]
            for group in by_time
            for target, _ in group.edges
            if id(target) in self.owner
        )
        return by_time if after else order


def _expanded(pair: tuple[Any, Group]) -> tuple[bool, int]:
    node, group = pair
    backward = group.call is not None and bool(group.call.targets)
    return backward, int(node._sequence_nr()) if backward else 0


def _time(group: Group) -> int:
    """When autograd made the group's first node: later ones have higher numbers."""
    return int(group.nodes[0]._sequence_nr())


def is_leaf(node: Any) -> bool:
    return bool(type(node).__name__ == _LEAF)


def bare_name(name: str) -> str:
    """A node's name without what PyTorch adds: ``Exp`` of ``ExpBackward0``."""
    return re.sub(r"Backward\d*$", "", plain_name(name))


def plain_name(name: str) -> str:
    return name.rpartition("::")[2]


def shape_at(node: Any, nr: int) -> tuple[int, ...]:
    return tuple(node._input_metadata[nr].shape)


def dtype_at(node: Any, nr: int) -> str:
    return str(node._input_metadata[nr].dtype).removeprefix("torch.")
