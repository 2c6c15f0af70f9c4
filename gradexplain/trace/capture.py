"""One ``backward`` in full: autograd's graph as recorded calls, and the numbers that flow through.

Autograd's graph has nodes of PyTorch's own; a recorded call made one or several of them (its
group).  What a call sends to an input is the sum over the edges that leave its group towards that
input, read from hooks on the nodes while PyTorch computes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradexplain.explanation import Array
from gradexplain.recording.calls import KEY, Call, Cut, Operand, Target, attach, geometry
from gradexplain.recording.calls import Term as Sent
from gradexplain.recording.frames import Site, Variables
from gradexplain.recording.operators import Kind
from gradexplain.recording.tape import Tape
from gradexplain.trace.heard import Heard, write_mask
from gradexplain.trace.snapshot import (
    Accumulated,
    Arg,
    CutOff,
    LeftOut,
    Operation,
    Silent,
    Snapshot,
    Term,
    Value,
    View,
)

#: More of autograd's nodes than this are not explained one by one.
MAX_NODES = 20_000
#: Of one ``backward``, the values kept have at most so many elements together.
MAX_KEPT = 40_000_000

_LEAF = "AccumulateGrad"

#: Where a node of autograd's keeps which backward freed it.
_FREED = "gradexplain freed"


@dataclass(frozen=True, slots=True)
class Overwritten:
    """A saved value that was changed in place: who saved it, and what changed it, where seen."""

    name: str
    saved: str
    saved_at: Site | None
    changed: str
    changed_at: Site | None
    #: Whether it is the call's own result.
    result: bool = False


class Group:
    """The nodes of one call: a recorded one, or some that no recorded call made."""

    __slots__ = ("call", "edges", "id", "nodes", "outputs")

    def __init__(self, call: Call | None) -> None:
        self.call = call
        self.nodes: list[Any] = []
        self.edges: list[tuple[Any, int]] = []  # the inputs' places, in order
        self.outputs: dict[tuple[int, int], tuple[Any, int]] = {}
        self.id = -1


class Capture:
    """The graph behind ``roots``; `run` lets PyTorch compute and listens."""

    def __init__(
        self,
        snapshot: Snapshot,
        recorder: Tape,
        variables: Variables,
        roots: list[Any],
        most: int = MAX_KEPT,
    ) -> None:
        self._most = min(most, MAX_KEPT)
        self.snapshot = snapshot
        self._roots = roots
        #: Leaves as they were, where they have changed since.
        self.remembered: dict[int, Any] = {}
        self._root_edges = {
            (id(root.grad_fn), root.output_nr): root for root in roots if root.grad_fn is not None
        }
        self.recorder = recorder
        self.variables = variables
        self._nodes: dict[int, Any] = {}
        self._owner: dict[int, Group] = {}
        self._groups: list[Group] = []
        self._values: dict[Any, Value] = {}
        self._leaves: dict[int, Any] = {}  # value id: the tensor
        self._kept = 0
        self._hooks: list[Any] = []
        self._sent: dict[tuple[int, int], Array] = {}
        self._upstream: dict[int, Array] = {}
        self._operands: dict[tuple[int, int], list[Operand]] = {}
        self._edge_values: dict[tuple[int, int], Value] = {}
        self._used: dict[int, list[tuple[Any, int]]] = {}  # by group: the outputs used further on
        self._parts: dict[int, int] = {}  # by operand, a view that is changed in place
        self._consumers: dict[int, list[Group]] = {}  # by value
        self._after: dict[int, Any] = {}
        self._arrived: dict[int, Operand] = {}  # by value: its gradient, with create_graph=True

    # -- the graph -------------------------------------------------------------------------------

    def read(self) -> None:
        """The calls and values behind the roots, in order of execution."""
        self._collect([root.grad_fn for root in self._roots if root.grad_fn is not None])
        self._form_groups()
        for group in self._sorted():
            self._operation(group)
        self.snapshot.roots += [self._root(root).id for root in self._roots]
        self._name()
        self._silent()

    def _collect(self, roots: list[Any]) -> None:
        stack = list(roots)
        while stack:
            node = stack.pop()
            if id(node) in self._nodes:
                continue
            self._nodes[id(node)] = node
            if len(self._nodes) > MAX_NODES:
                raise TooLarge
            stack.extend(n for n, _ in node.next_functions if n is not None)

    def _form_groups(self) -> None:
        groups: dict[int, Group] = {}
        recorded = []
        for node in self._nodes.values():
            entry = node.metadata.get(KEY) if not _is_leaf(node) else None
            if entry is None:
                continue
            call = entry[0]
            group = groups.get(id(call))
            if group is None:
                group = groups[id(call)] = Group(call)
                self._groups.append(group)
            recorded.append((node, group))
            self._owner[id(node)] = group
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
            if id(node) in seen or _is_leaf(node):
                continue
            seen.add(id(node))
            if id(node) not in self._owner:
                group = Group(self._own_call(node))
                self._groups.append(group)
                group.nodes.append(node)
                self._owner[id(node)] = group
                self._expand(node, group)
            stack.extend(n for n, _ in node.next_functions if n is not None)

    def _own_call(self, node: Any) -> Call | None:
        """A node that no call of the script made, as the call that it stands for."""
        name = _plain(node.name())
        spelling = _OWN.get(name)
        edges = [(target, nr) for target, nr in node.next_functions if target is not None]
        operands = [Operand.at(target, nr) for target, nr in edges]
        if name == "AsStridedBackward0" and len(edges) == 1:
            owner = self._owner.get(id(edges[0][0]))
            call = owner.call if owner is not None else None
            if call is None or not call.operands:
                return None
            base = call.view[1] if call.view is not None else None
            if base is None and call.kind.kind == "inplace":
                base = geometry(call.operands[0].value)
            if base is None or base[0] != _shape(*edges[0]):
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
                if node is None or self._owner.get(id(node)) is group:
                    continue
                outside = (
                    _is_leaf(node)
                    or id(node) in self._owner
                    or (id(node), nr) in inputs
                    or (group.call is None and (id(node), nr) in self._operands)
                )
                if not outside:
                    self._owner[id(node)] = group
                    group.nodes.append(node)
                    stack.append(node)

    def _edges(self, group: Group) -> Iterator[tuple[Any, int, Any, int]]:
        """The edges that leave a group: ``(node, place, target, nr)``."""
        for node in group.nodes:
            for place, (target, nr) in enumerate(node.next_functions):
                if target is not None and self._owner.get(id(target)) is not group:
                    yield node, place, target, nr

    def _sorted(self) -> list[Group]:
        """The groups in order of execution, each after those that made its inputs."""
        for group in self._groups:
            seen = set()
            for _, _, target, nr in self._edges(group):
                if (id(target), nr) not in seen:
                    seen.add((id(target), nr))
                    group.edges.append((target, nr))
                    owner = self._owner.get(id(target))
                    if owner is not None:
                        self._used.setdefault(id(owner), []).append((target, nr))
        for key, nr in self._root_edges:
            owner = self._owner.get(key)
            if owner is not None:
                self._used.setdefault(id(owner), []).append((self._nodes[key], nr))
        order: list[Group] = []
        state: dict[int, int] = {}
        stack: list[tuple[Group, bool]] = [
            (self._owner[id(root.grad_fn)], False)
            for root in reversed(self._roots)
            if root.grad_fn is not None and id(root.grad_fn) in self._owner
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
                owner = self._owner.get(id(target))
                if owner is not None and not state.get(id(owner)):
                    stack.append((owner, False))
        by_time = sorted(order, key=_time)
        place = {id(group): n for n, group in enumerate(by_time)}
        after = all(
            place[id(self._owner[id(target)])] < place[id(group)]
            for group in by_time
            for target, _ in group.edges
            if id(target) in self._owner
        )
        return by_time if after else order

    def _silent(self) -> None:
        """What was changed after a call had saved it, without PyTorch's counting the change."""
        changes = self.recorder.changes
        if not changes:
            return
        by_storage: dict[int, list[Any]] = {}
        for change in changes:
            by_storage.setdefault(change.storage, []).append(change)
        for group in self._groups:
            call = group.call
            for operand in call.operands if call is not None and call.stamp else ():
                if not operand.intact or operand.value.layout is not torch.strided:
                    continue
                after = [
                    c
                    for c in by_storage.get(operand.value.untyped_storage().data_ptr(), ())
                    if c.stamp > call.stamp  # type: ignore[union-attr]
                ]
                if after and _saves(group.nodes, operand.value):
                    known = self._operand(operand)
                    name = known.names[0] if known.names else "a tensor"
                    assert call is not None
                    self.snapshot.silent.append(
                        Silent(name, call.kind.name, call.site, after[0].name, after[0].site)
                    )

    # -- values ----------------------------------------------------------------------------------

    def _new(self, kind: str, tensor: Any, array: Array | None) -> Value:
        value = Value(
            id=len(self.snapshot.values),
            kind=kind,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            array=array,
        )
        self.snapshot.values.append(value)
        return value

    def _array(self, tensor: Any) -> Array | None:
        """A copy in float64; None for what cannot be or is not kept."""
        if tensor is None:
            return None
        if self._kept + tensor.numel() > self._most:
            self.snapshot.spent = True
            return None
        array = to_array(tensor)
        if array is not None:
            self._kept += array.size
        return array

    def _leaf(self, tensor: Any) -> Value:
        key = "leaf", id(tensor)
        if key not in self._values:
            known = self.remembered.get(id(tensor), tensor)
            value = self._values[key] = self._new("leaf", tensor, self._array(known))
            self._leaves[value.id] = tensor
            name = self.variables.name(tensor)
            value.names = (name,) if name else ()
        return self._values[key]

    def _constant(self, operand: Operand) -> Value:
        tensor = operand.value
        dense = tensor.layout is torch.strided and tensor.numel() > 0
        place = tensor.data_ptr() if dense else id(operand)
        strides = tensor.stride() if dense else ()
        key = "constant", place, tensor.shape, strides, operand.version
        if key not in self._values:
            array = self._array(tensor) if operand.intact else None
            value = self._values[key] = self._new("constant", tensor, array)
            name = next(
                (
                    name
                    for name, other in self.variables.tensors
                    if not other.requires_grad and _same_memory(other, tensor)
                ),
                "",
            )
            value.names = operand.names or ((name,) if name else ())
            value.cuts = tuple(_cut_off(cut) for cut in operand.cuts)
        return self._values[key]

    def _operand(self, operand: Operand) -> Value:
        if operand.leaf is not None:
            return self._leaf(operand.leaf)
        if operand.node is None:
            return self._constant(operand)
        value = self._edge_values.get((id(operand.node), operand.nr))
        if value is None:  # not on the way of the gradient
            return self._constant(operand)
        return value

    def _edge(self, node: Any, nr: int) -> Value:
        if _is_leaf(node):
            return self._leaf(node.variable)
        return self._edge_values[id(node), nr]

    def _root(self, root: Any) -> Value:
        if root.grad_fn is None:
            return self._leaf(root)
        value = self._edge_values[id(root.grad_fn), root.output_nr]
        if value.array is None:
            value.array = self._array(root)
        return value

    # -- operations ------------------------------------------------------------------------------

    def _operation(self, group: Group) -> None:
        call = group.call
        snapshot = self.snapshot
        group.id = len(snapshot.operations)
        form = None
        if call is not None:
            if not call.targets:
                write_mask(group.nodes[0], call)
            form = self._form(call)
        within = self._within(group)
        edges = [self._edge(*edge).id for edge in group.edges]
        inputs = [number for number in dict.fromkeys(edges) if number not in within]
        nodes = tuple(dict.fromkeys(_plain(node.name()) for node in group.nodes))
        if call is None or form is None:
            name = _plain(group.nodes[0].name())
            operation = Operation(
                group.id, name, (), False, tuple(Arg(i) for i in inputs), {}, None,
                opaque="no call of the script made it",
            )  # fmt: skip
        else:
            operation = form
            operation.id, operation.within = group.id, within
            known = {a.id for a in _args((operation.args, operation.kwargs))}
            if operation.view is not None:
                known.add(operation.view.base.id)
                inputs = [operation.view.base.id, *inputs]
            if operation.opaque:
                pass
            elif call.base is not None and operation.view is None:
                operation.opaque = "it changes a view in place, and so the tensor behind it"
                operation.args = tuple(Arg(i) for i in inputs)
                operation.kwargs = {}
            elif not known.issuperset(inputs):
                operation.opaque = "it reads more tensors than it was given"
                operation.args = tuple(Arg(i) for i in inputs)
                operation.kwargs = {}
        operation.inputs = list(
            dict.fromkeys([*(a.id for a in _args((operation.args, operation.kwargs))), *inputs])
        )
        if operation.view is not None and operation.view.part in operation.inputs:
            operation.inputs.remove(operation.view.part)
        operation.nodes = nodes
        snapshot.operations.append(operation)
        self._outputs(group, operation)

    def _form(self, call: Call) -> Operation:
        """A call with its tensors as values."""
        kind = call.kind
        view = self._view(call)
        operation = Operation(
            -1, kind.name, kind.spellings, kind.swap,
            tuple(self._packed(arg) for arg in call.args),
            {k: self._packed(arg) for k, arg in call.kwargs.items()},
            call.site, inplace=kind.kind == "inplace", graphs=dict(call.graphs), view=view,
            defaults=kind.defaults,
        )  # fmt: skip
        if call.custom:
            operation.operands = tuple(_args((operation.args, operation.kwargs)))
            if not call.graphs:
                operation.opaque = "a custom autograd.Function"
        if call.targets:
            if any(target.terms is None for target in call.targets):
                operation.opaque = "a backward pass through operations that were not seen"
            operation.gradients = tuple(
                tuple(
                    Term(
                        self._form(term.call),
                        Arg(self._operand(target.of).id),
                        {path: Arg(self._operand(o).id) for path, o in term.upstream.items()},
                        self._outputs_of(term.call),
                    )
                    for term in target.terms or ()
                )
                for target in call.targets
            )
            operation.args = tuple(dict.fromkeys(_args(operation.gradients)))
        return operation

    def _view(self, call: Call) -> View | None:
        """Where the elements of a view lie in its base; None where that cannot be told."""
        if call.view is None:
            return None
        (size, strides, offset), (base_size, base_strides, base_offset) = call.view
        place = _places(base_size, base_strides)
        source = call.base if call.base is not None else call.operands[0]
        base = Arg(self._operand(source).id)
        places = _places(size, strides, offset - base_offset)
        if place is None or places is None or places.size == 0:
            return None
        order = np.argsort(place, axis=None)
        at = np.searchsorted(place.ravel(), places, sorter=order)
        if at.max() >= order.size or (place.ravel()[order[at]] != places).any():
            return None
        if call.base is None:
            return View(base, order[at])
        target = call.args[0] if call.args else None
        if not isinstance(target, Operand) or np.unique(places).size < places.size:
            return None
        part = self._parts.get(id(target))
        if part is None:
            made = self._new("part", target.value, self._array(target.value))
            part = self._parts[id(target)] = made.id
        return View(base, order[at], part)

    def _outputs_of(self, call: Call) -> dict[tuple[int, ...], int]:
        group = next((g for g in self._groups if g.call is call and g.id >= 0), None)
        if group is None:
            return {}
        values = [self.snapshot.values[n] for n in self.snapshot.operations[group.id].outputs]
        return {value.path: value.id for value in values if not value.hidden}

    def _within(self, group: Group) -> tuple[int, ...]:
        """What a backward pass reads of the calls that it goes through, besides their inputs."""
        calls = {
            id(term.call)
            for target in (group.call.targets if group.call is not None else ())
            for term in target.terms or ()
        }
        found = []
        for node, nr in group.edges:
            owner = self._owner.get(id(node))
            if owner is None or owner.call is None or _is_leaf(node):
                continue
            value = self._edge(node, nr)
            if id(owner.call) in calls or (calls and owner.call.targets and value.hidden):
                found.append(value.id)
        return tuple(dict.fromkeys(found))

    def _outputs(self, group: Group, operation: Operation) -> None:
        """A value for each place at which something of the group is used further on."""
        wanted: dict[tuple[int, int], tuple[Any, int]] = {}
        for node in group.nodes:
            entry = node.metadata.get(KEY)
            if entry is not None and entry[0] is group.call:
                for nr in entry[1]:
                    wanted[id(node), nr] = node, nr
        for node, nr in self._used.get(id(group), ()):
            wanted[id(node), nr] = node, nr
        call = group.call
        within = {
            (id(target), nr)
            for node in group.nodes
            for target, nr in node.next_functions
            if target is not None and self._owner.get(id(target)) is group
        }
        for (key, nr), (node, _) in wanted.items():
            operands = self._operands.get((key, nr), [])
            entry = node.metadata.get(KEY)
            if call is not None and call.targets and entry is not None and nr in entry[1]:
                operands = [*operands, call.targets[entry[1][nr][0]].value]
            tensor = next((o.value for o in operands if o.intact), None)
            if tensor is None:
                tensor = self._root_edges.get((key, nr))
            value = Value(
                id=len(self.snapshot.values),
                kind="result",
                shape=_shape(node, nr),
                dtype=_dtype(node, nr),
                names=self._site_names(group, {} if entry is None else entry[1], nr),
                array=self._array(tensor),
                call=operation.id,
                path=() if entry is None else entry[1].get(nr, ()),
                hidden=call is not None
                and call.kind.kind != "own"
                and (entry is None or nr not in entry[1]),
                inside=(key, nr) in within,
            )
            self.snapshot.values.append(value)
            operation.outputs.append(value.id)
            self._edge_values[key, nr] = value

    def _site_names(
        self, group: Group, paths: dict[int, tuple[int, ...]], nr: int
    ) -> tuple[str, ...]:
        """The names that the script's assignment gives to an output."""
        call = group.call
        if call is None or call.site is None or nr not in paths or call.base is not None:
            return ()
        if call.targets:
            return ()
        names, path = call.site.names, paths[nr]
        if not path:
            return names if len(names) == 1 else ()
        if len(names) > 1:
            return (names[path[0]],) if path[0] < len(names) else ()
        return ()

    def _packed(self, arg: Any) -> Any:
        if isinstance(arg, Operand):
            part = self._parts.get(id(arg))
            return Arg(self._operand(arg).id if part is None else part)
        if isinstance(arg, (list, tuple)):
            return (list if isinstance(arg, list) else tuple)(self._packed(part) for part in arg)
        return arg

    def _name(self) -> None:
        """Names for results that were not assigned where they were made."""
        by_edge = {
            (id(tensor.grad_fn), tensor.output_nr): name
            for name, tensor in reversed(self.variables.tensors)
            if tensor.grad_fn is not None
        }
        for key, value in self._edge_values.items():
            name = by_edge.get(key)
            if name and name not in value.names:
                value.names = (*value.names, name)
        for group in self._groups:
            for place, target in enumerate(group.call.targets if group.call is not None else ()):
                of = self._operand(target.of)
                for number in self.snapshot.operations[group.id].outputs:
                    value = self.snapshot.values[number]
                    if value.path == (place,) and not value.names and of.names:
                        value.names = (f"{of.names[0]}.grad",)
        # A change in place leaves the name where it was.
        values = self.snapshot.values
        changes = [o for o in self.snapshot.operations if o.inplace and o.outputs and o.args]
        for operation in [*reversed(changes), *changes]:
            view = operation.view
            changed = operation.args[0] if view is None else view.base
            if isinstance(changed, Arg):
                before, after = values[changed.id], values[operation.outputs[0]]
                before.names = before.names or after.names
                after.names = after.names or before.names

    # -- the backward pass -----------------------------------------------------------------------

    def listen(self, inputs: list[Any] | None) -> None:
        """Be told of what flows while PyTorch carries out the call."""
        self._inputs = inputs
        self._retained = [
            (name, tensor)
            for name, tensor in self.variables.tensors
            if tensor.grad_fn is not None and tensor.retains_grad
            and (id(tensor.grad_fn), tensor.output_nr) in self._edge_values
        ]  # fmt: skip
        self._watched = [(self.snapshot.values[i], tensor) for i, tensor in self._leaves.items()]
        self._before = {id(tensor): to_array(_grad(tensor)) for _, tensor in self._watched}
        self._before.update((id(t), to_array(_grad(t))) for _, t in self._retained)
        for node in self._nodes.values():
            self._hooks.append(node.register_hook(self._safe(self._hook(node))))

    def catch_up(self, inputs: list[Any] | None, heard: Heard) -> None:
        """Be told what a call told that is over."""
        self._inputs, self._retained = inputs, []
        self._watched = [(self.snapshot.values[i], tensor) for i, tensor in self._leaves.items()]
        places = {id(leaf): place for place, leaf in enumerate(heard.leaves)}
        kept = bool(heard.after)
        self._before, self._after = {}, {}
        for _, tensor in self._watched:
            place = places[id(tensor)]
            self._before[id(tensor)] = to_array(heard.before[place]) if kept else None
            self._after[id(tensor)] = heard.after[place] if kept else tensor.grad
        self.snapshot.spent |= heard.spent
        heard.tell(lambda node: self._safe(self._hook(node)))

    def deaf(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def finish(self, result: Any, *, returns: bool) -> None:
        """What has flowed, and what was accumulated or returned."""
        self._flows()
        if returns:
            self._returned(self._inputs or [], result)
        else:
            self._accumulated(self._watched, self._retained, self._before, self._inputs)
        self._left_out(self._inputs, returns=returns)

    def _safe(self, hook: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def safe(sent: Any, arriving: Any) -> None:
            try:
                hook(sent, arriving)
            except Exception as error:  # the backward pass is not to see that we failed
                self.recorder.broke(error)

        return safe

    def _hook(self, node: Any) -> Callable[[Any, Any], None]:
        if _is_leaf(node):
            leaf = self._leaf(node.variable).id

            def leaf_hook(_: Any, arriving: Any) -> None:
                self._keep(self._upstream, leaf, arriving[0])
                self._differentiable(leaf, node, 0, arriving[0])

            return leaf_hook
        group = self._owner[id(node)]
        leaving = [
            (place, self._edge(target, nr).id)
            for place, (target, nr) in enumerate(node.next_functions)
            if target is not None and self._owner.get(id(target)) is not group
        ]
        arriving_at = [
            (nr, value.id) for (key, nr), value in self._edge_values.items() if key == id(node)
        ]

        def hook(sent: Any, arriving: Any) -> None:
            for place, value in leaving:
                if place < len(sent) and sent[place] is not None:
                    self._keep(self._sent, (group.id, value), sent[place])
            for nr, value in arriving_at:
                if nr < len(arriving) and arriving[nr] is not None:
                    self._keep(self._upstream, value, arriving[nr])
                    self._differentiable(value, node, nr, arriving[nr])

        return hook

    def _differentiable(self, value: int, node: Any, nr: int, gradient: Any) -> None:
        """With ``create_graph=True``, a gradient is made by calls in its turn: remember by which."""
        if not self.snapshot.create_graph or gradient is None:
            return
        arrived = self._arrived[value] = Operand(gradient)
        made = gradient.grad_fn
        if made is None:
            return
        entry = made.metadata.get(KEY)
        if entry is not None and (not entry[0].targets or gradient.output_nr in entry[1]):
            return  # passed on as it came, or v itself
        terms = self._terms(value)
        of = Operand.at(node, nr)
        for term in terms or ():
            for operand in term.call.operands:
                if operand.same(of):
                    of = operand
        target = Target(of, arrived, terms)
        if entry is not None:
            call = entry[0]
        else:
            call = Call(Kind("op", "gradient"), (), {}, [], self.snapshot.site)
        call.targets = (*call.targets, target)
        call.operands += [target.of] if target.terms is None else []
        for term in target.terms or ():
            call.operands += [*term.call.operands, *term.upstream.values()]
        attach(made, gradient.output_nr, call, (len(call.targets) - 1,))

    def _terms(self, value: int) -> tuple[Sent, ...] | None:
        """What the gradient of a value is the sum of; None where that is not known."""
        if not self._consumers:
            for group in self._groups:
                for number in dict.fromkeys(self._edge(*edge).id for edge in group.edges):
                    self._consumers.setdefault(number, []).append(group)
        if value in self.snapshot.roots:
            return None
        terms = []
        for group in self._consumers.get(value, ()):
            operation = self.snapshot.operations[group.id]
            upstream = {
                self.snapshot.values[number].path: self._arrived[number]
                for number in operation.outputs
                if number in self._arrived
            }
            if group.call is None or operation.opaque or value in operation.within:
                return None
            if upstream:
                terms.append(Sent(group.call, upstream))
        return tuple(terms)

    def _keep(self, where: dict[Any, Array], key: Any, gradient: Any) -> None:
        array = self._array(gradient)
        if array is not None:
            where[key] = where[key] + array if key in where else array

    def _flows(self) -> None:
        snapshot = self.snapshot
        for (operation, value), array in self._sent.items():
            snapshot.operations[operation].sent[value] = array
            found = snapshot.values[value]
            found.arrived = array if found.arrived is None else found.arrived + array
        for root, v in zip(snapshot.roots, snapshot.v, strict=False):
            found = snapshot.values[root]
            found.arrived = v if found.arrived is None else found.arrived + v
        for number, array in self._upstream.items():
            snapshot.values[number].upstream = array

    def _accumulated(
        self,
        watched: list[tuple[Value, Any]],
        retained: list[tuple[str, Any]],
        before: dict[int, Array | None],
        inputs: list[Any] | None,
    ) -> None:
        for value, tensor in watched:
            after = to_array(self._after.get(id(tensor), _grad(tensor)))
            if inputs is not None and not any(tensor is other for other in inputs):
                continue
            if value.upstream is None and value.arrived is None:
                continue
            self.snapshot.accumulated.append(
                Accumulated(
                    value.names[0] if value.names else "",
                    value.shape,
                    "leaf",
                    before[id(tensor)],
                    value.upstream,
                    after,
                    value.id,
                )
            )
        for name, tensor in retained:
            value = self._edge_values[id(tensor.grad_fn), tensor.output_nr]
            self.snapshot.accumulated.append(
                Accumulated(
                    name,
                    value.shape,
                    "retained",
                    before[id(tensor)],
                    value.upstream,
                    to_array(_grad(tensor)),
                    value.id,
                )
            )

    def _returned(self, inputs: list[Any], result: Any) -> None:
        parts = result if isinstance(result, (tuple, list)) else [result]
        for tensor, gradient in zip(inputs, parts, strict=False):
            value: Value | None
            if tensor.grad_fn is not None:
                value = self._edge_values.get((id(tensor.grad_fn), tensor.output_nr))
            else:
                value = self._leaf(tensor)
            name = self.variables.name(tensor)
            if value is not None and name and not value.names:
                value.names = (name,)
            array = to_array(gradient)
            if value is not None and array is not None:
                value.upstream = array
                if tensor.grad_fn is None:
                    self._differentiable(value.id, _Leaf(tensor), 0, gradient)
                elif value.id not in self._arrived:
                    self._differentiable(value.id, tensor.grad_fn, tensor.output_nr, gradient)
            self.snapshot.accumulated.append(
                Accumulated(
                    name,
                    tuple(tensor.shape),
                    "returned",
                    None,
                    array,
                    array,
                    -1 if value is None else value.id,
                )
            )

    # -- for errors ------------------------------------------------------------------------------

    def mark_freed(self, site: Site | None) -> None:
        """Remember which backward freed what the nodes had saved."""
        for node in self._nodes.values():
            if not _is_leaf(node):
                node.metadata.setdefault(_FREED, site)

    def freed_at(self) -> Site | None:
        """Where an earlier backward freed this graph, or a part of it."""
        for node in self._nodes.values():
            if not _is_leaf(node) and node.metadata.get(_FREED) is not None:
                found: Site = node.metadata[_FREED]
                return found
        return None

    def carried_over(self) -> tuple[str, Site | None]:
        """The value by which this graph hangs on one that was freed: its name, and where it was made."""
        for node in self._nodes.values():
            if _is_leaf(node) or _FREED in node.metadata:
                continue
            for target, nr in node.next_functions:
                if target is None or _is_leaf(target) or _FREED not in target.metadata:
                    continue
                value = self._edge_values.get((id(target), nr))
                group = self._owner.get(id(target))
                site = group.call.site if group is not None and group.call is not None else None
                return (value.names[0] if value is not None and value.names else ""), site
        return "", None

    def overwritten(self, made_by: str) -> Overwritten | None:
        """The value that was changed in place after it was saved, the change, and who had saved it."""
        choices: list[Overwritten] = []
        for group in self._groups:
            for operand in group.call.operands if group.call is not None else ():
                if operand.intact:
                    continue
                if operand.leaf is not None or operand.node is None:
                    found = self._operand(operand)
                else:
                    known = self._edge_values.get((id(operand.node), operand.nr))
                    if known is None:
                        continue
                    found = known
                storage = operand.value.untyped_storage().data_ptr()
                change = next(
                    (
                        c
                        for c in self.recorder.changes
                        if c.storage == storage and c.version > operand.version
                    ),
                    None,
                )
                first = operand.node is not None and _bare(operand.node.name()) == _bare(made_by)
                assert group.call is not None
                item = Overwritten(
                    found.names[0] if found.names else "",
                    group.call.kind.name, group.call.site,
                    "" if change is None else change.name,
                    None if change is None else change.site,
                )  # fmt: skip
                choices.insert(0 if first and made_by else len(choices), item)
        return choices[0] if choices else self._own_result(made_by)

    def _own_result(self, made_by: str) -> Overwritten | None:
        """A call's own result that it had saved, as exp does, and another call changed."""
        for group in self._groups:
            call = group.call
            if call is None or call.kind.kind != "inplace" or not call.operands:
                continue
            before = call.operands[0]
            entry = before.node.metadata.get(KEY) if before.node is not None else None
            if entry is None or _bare(before.node.name()) != _bare(made_by):
                continue
            maker = entry[0]
            value = self._edge_values.get((id(before.node), before.nr))
            names = value.names if value is not None else ()
            return Overwritten(
                names[0] if names else "", maker.kind.name, maker.site, call.kind.name, call.site,
                result=True,
            )  # fmt: skip
        return None

    # -- what got nothing ------------------------------------------------------------------------

    def _left_out(self, inputs: list[Any] | None, *, returns: bool) -> None:
        snapshot = self.snapshot
        found = snapshot.left_out

        def left(name: str, tensor: Any, why: str, site: Site | None = None) -> LeftOut:
            parameter = isinstance(tensor, torch.nn.Parameter)
            return LeftOut(
                name, tuple(tensor.shape), why, site, parameter, bool(tensor.requires_grad)
            )

        cuts = [(value, cut) for value in snapshot.values for cut in value.cuts]
        reached = {id(tensor): number for number, tensor in self._leaves.items()}
        for name, tensor in self.variables.tensors:
            if not tensor.is_leaf or not tensor.requires_grad:
                continue
            number = reached.get(id(tensor))
            if number is not None:
                value = snapshot.values[number]
                if inputs is not None and not any(tensor is other for other in inputs):
                    where = "inputs=" if not returns else "the inputs that grad was asked for"
                    found.append(left(name, tensor, f"it is not among {where}"))
                elif value.upstream is None and value.arrived is None and tensor.grad is None:
                    found.append(left(name, tensor, "no gradient is sent to it"))
                continue
            if returns:
                continue
            cut = next((cut for _, cut in cuts if id(tensor) in cut.leaves), None)
            if cut is None:
                why = "the output was not computed from it"
                found.append(left(name, tensor, why))
            else:
                found.append(left(name, tensor, _why(cut), cut.site))
        used = {value.names[0] for value in snapshot.values if value.names}
        for name, tensor in self.variables.tensors:
            frozen = isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad
            if frozen and name not in used:
                frozen_at = self.recorder.frozen.get(id(tensor), (None, None))[1]
                found.append(left(name, tensor, "it does not require grad", frozen_at))
        for value in snapshot.values:
            if value.kind != "constant" or not value.names or value.names == ("mask",):
                continue
            site = None
            if value.cuts:
                why, site = _why(value.cuts[0]), value.cuts[0].site
            elif value.dtype.startswith(("int", "uint", "bool")):
                why = "it holds integers" if value.dtype != "bool" else "it holds true/false"
            else:
                why = "it does not require grad"
            found.append(LeftOut(value.names[0], value.shape, why, site))

    @property
    def kept(self) -> int:
        """How many elements are kept of this call."""
        return self._kept


def _saves(nodes: list[Any], tensor: Any) -> bool:
    """Whether one of the nodes has kept the tensor's own memory for its backward."""
    place = tensor.data_ptr()
    for node in nodes:
        for name in dir(node):
            if not name.startswith("_saved_"):
                continue
            try:
                saved = getattr(node, name)
            except RuntimeError:  # freed, or changed as PyTorch notices itself
                continue
            if isinstance(saved, torch.Tensor) and saved.data_ptr() == place:
                return True
    return False


class _Leaf:
    """A leaf in the place of a node of autograd's."""

    def __init__(self, variable: Any) -> None:
        self.variable = variable


#: Nodes that autograd makes without a call: for sums of gradients, and for what ``.grad`` holds.
_OWN = {
    "AddBackward0": "torch.add", "CloneBackward0": "torch.positive",
    "CopyBackwards": "torch.positive",
}  # fmt: skip


#: Views of more elements are not followed one by one.
_PLACES = 100_000


def _places(size: Any, strides: Any, offset: int = 0) -> Array | None:
    """Where each element lies in the storage; None for too many."""
    if np.prod(size, dtype=float) > _PLACES:
        return None
    found = np.full(size, offset)
    for axis, (n, stride) in enumerate(zip(size, strides, strict=True)):
        found += (np.arange(n) * stride).reshape((-1, *[1] * (len(size) - axis - 1)))
    return found


def _expanded(pair: tuple[Any, Group]) -> tuple[bool, int]:
    node, group = pair
    backward = group.call is not None and bool(group.call.targets)
    return backward, int(node._sequence_nr()) if backward else 0


def _time(group: Group) -> int:
    """When autograd made the group's first node: later ones have higher numbers."""
    return int(group.nodes[0]._sequence_nr())


class TooLarge(Exception):
    """The graph has too many nodes to be explained one by one."""


_WHY = {
    "detached": "detached",
    "copied": "copied as numbers",
    "no_grad": "computed under no_grad",
    "no derivative": "has no derivative",
}


def _why(cut: CutOff) -> str:
    words = _WHY[cut.why]
    return f"{cut.function} {words}" if cut.why == "no derivative" else words


def _cut_off(cut: Cut) -> CutOff:
    tensors = (reference() for reference in cut.sources)
    leaves = [id(tensor) for tensor in tensors if tensor is not None]
    return CutOff(cut.why, cut.name, cut.site, tuple(leaves))


def to_array(tensor: Any) -> Array | None:
    """A copy in float64; None for None, complex numbers and what has no elements in memory."""
    if tensor is None:
        return None
    if tensor.is_complex() or tensor.is_quantized or tensor.device.type == "meta":
        return None
    with torch.no_grad():
        dense = tensor.detach()
        if dense.layout != torch.strided:
            dense = dense.to_dense()
        array: Array = dense.to(device="cpu", dtype=torch.float64, copy=True).numpy()
    return np.array(array)


def _grad(tensor: Any) -> Any:
    """``.grad`` without the warning for a tensor that has none."""
    if tensor.grad_fn is not None and not tensor.retains_grad:
        return None
    return tensor.grad


def _is_leaf(node: Any) -> bool:
    return bool(type(node).__name__ == _LEAF)


def _bare(name: str) -> str:
    """A node's name without what PyTorch adds: ``Exp`` of ``ExpBackward0``."""
    return re.sub(r"Backward\d*$", "", _plain(name))


def _plain(name: str) -> str:
    return name.rpartition("::")[2]


def _shape(node: Any, nr: int) -> tuple[int, ...]:
    return tuple(node._input_metadata[nr].shape)


def _dtype(node: Any, nr: int) -> str:
    return str(node._input_metadata[nr].dtype).removeprefix("torch.")


def _same_memory(a: Any, b: Any) -> bool:
    return bool(
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.layout == torch.strided == b.layout
        and a.data_ptr() == b.data_ptr()
        and a.stride() == b.stride()
        and a.numel() > 0
    )


def _args(value: Any) -> Iterator[Arg]:
    if isinstance(value, Arg):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _args(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _args(part)
    elif isinstance(value, Term):
        yield from _args((value.call.args, value.call.kwargs, value.by, value.upstream))
