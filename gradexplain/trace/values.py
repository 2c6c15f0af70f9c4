"""What a graph's groups compute: values and operations, with the names that the script has for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from gradexplain.explanation import Array
from gradexplain.recording.calls import KEY, Call, Cut, Operand
from gradexplain.recording.calls import Term as Sent
from gradexplain.recording.ends import TAKEN
from gradexplain.recording.frames import Variables
from gradexplain.recording.tape import Tape
from gradexplain.trace.groups import Group, Groups, dtype_at, is_leaf, plain_name, shape_at
from gradexplain.trace.heard import write_mask
from gradexplain.trace.snapshot import (
    Arg,
    CutOff,
    Operation,
    Overwritten,
    Snapshot,
    Term,
    Value,
    View,
    args_in,
)

#: Of one ``backward``, the values kept have at most so many elements together.
MAX_KEPT = 40_000_000


#: Views of more elements are not followed one by one.
_PLACES = 100_000


class Values(Groups):
    """The graph behind ``roots`` written into a snapshot."""

    def __init__(
        self,
        snapshot: Snapshot,
        recorder: Tape,
        variables: Variables,
        roots: list[Any],
        most: int = MAX_KEPT,
    ) -> None:
        super().__init__(roots)
        self._most = min(most, MAX_KEPT)
        #: How many elements are kept of this call.
        self.kept = 0
        self.snapshot = snapshot
        #: Leaves as they were, where they have changed since.
        self.remembered: dict[int, Any] = {}
        self.recorder = recorder
        self.variables = variables
        self._values: dict[Any, Value] = {}
        self._leaves: dict[int, Any] = {}  # value id: the tensor
        self.edge_values: dict[tuple[int, int], Value] = {}
        self._parts: dict[int, int] = {}  # by operand, a view that is changed in place

    def read(self) -> None:
        """The calls and values behind the roots, in order of execution."""
        self._collect()
        self._form_groups()
        for group in self._sorted():
            self._operation(group)
        self.snapshot.roots += [self._root(root).id for root in self._roots]
        self.snapshot.taken |= {
            node.metadata[TAKEN] for node in self.nodes.values() if TAKEN in node.metadata
        }
        self._name()
        self._silent()

    def _silent(self) -> None:
        """What was changed after a call had saved it, without PyTorch's counting the change."""
        changes = self.recorder.changes
        if not changes:
            return
        by_storage: dict[int, list[Any]] = {}
        for change in changes:
            by_storage.setdefault(change.storage, []).append(change)
        for group in self.groups:
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
                    known = self.operand(operand)
                    name = known.names[0] if known.names else "a tensor"
                    assert call is not None
                    self.snapshot.silent.append(
                        Overwritten(name, call.kind.name, call.site, after[0].name, after[0].site)
                    )

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
        if self.kept + tensor.numel() > self._most:
            self.snapshot.spent = True
            return None
        array = to_array(tensor)
        if array is not None:
            self.kept += array.size
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

    def operand(self, operand: Operand) -> Value:
        if operand.leaf is not None:
            return self._leaf(operand.leaf)
        if operand.node is None:
            return self._constant(operand)
        value = self.edge_values.get((id(operand.node), operand.nr))
        if value is None:  # not on the way of the gradient
            return self._constant(operand)
        return value

    def _edge(self, node: Any, nr: int) -> Value:
        if is_leaf(node):
            return self._leaf(node.variable)
        return self.edge_values[id(node), nr]

    def _root(self, root: Any) -> Value:
        if root.grad_fn is None:
            return self._leaf(root)
        value = self.edge_values[id(root.grad_fn), root.output_nr]
        if value.array is None:
            value.array = self._array(root)
        return value

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
        if call is None or form is None:
            name = plain_name(group.nodes[0].name())
            operation = Operation(
                group.id, name, (), False, tuple(Arg(i) for i in inputs), {}, None,
                opaque="no call of the script made it",
            )  # fmt: skip
        else:
            operation = form
            operation.id, operation.within = group.id, within
            known = {a.id for a in args_in((operation.args, operation.kwargs))}
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
            dict.fromkeys([*(a.id for a in args_in((operation.args, operation.kwargs))), *inputs])
        )
        if operation.view is not None and operation.view.part in operation.inputs:
            operation.inputs.remove(operation.view.part)
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
            operation.operands = tuple(args_in((operation.args, operation.kwargs)))
            if not call.graphs:
                operation.opaque = "a custom autograd.Function"
        if call.targets:
            group = self._made(call)
            operation.within = self._within(group) if group is not None else ()
            if any(target.terms is None for target in call.targets):
                operation.opaque = "a backward pass through operations that were not seen"
            operation.gradients = tuple(
                tuple(
                    self._term(term, Arg(self.operand(target.of).id)) for term in target.terms or ()
                )
                for target in call.targets
            )
            operation.args = tuple(
                dict.fromkeys(
                    args_in([term.given for terms in operation.gradients for term in terms])
                )
            )
        return operation

    def _term(self, term: Sent, by: Arg) -> Term:
        form = self._form(term.call)
        form.within = (*form.within, by.id)  # what is sent to a result is sent by who reads it
        upstream = {path: Arg(self.operand(o).id) for path, o in term.upstream.items()}
        return Term(form, by, upstream, self._outputs_of(term.call))

    def _view(self, call: Call) -> View | None:
        """Where the elements of a view lie in its base; None where that cannot be told."""
        if call.view is None:
            return None
        (size, strides, offset), (base_size, base_strides, base_offset) = call.view
        place = _places(base_size, base_strides)
        source = call.base if call.base is not None else call.operands[0]
        base = Arg(self.operand(source).id)
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
        group = self._made(call)
        if group is None:
            return {}
        values = [self.snapshot.values[n] for n in self.snapshot.operations[group.id].outputs]
        return {value.path: value.id for value in values if not value.hidden}

    def _made(self, call: Call) -> Group | None:
        """The group of a call that is among the operations already."""
        return next((g for g in self.groups if g.call is call and g.id >= 0), None)

    def _within(self, group: Group) -> tuple[int, ...]:
        """What a backward pass reads of the calls that it goes through, besides their inputs."""
        calls = set(_passed(group.call)) if group.call is not None else set()
        found = []
        for node, nr in group.edges:
            owner = self.owner.get(id(node))
            if owner is None or owner.call is None or is_leaf(node):
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
            if target is not None and self.owner.get(id(target)) is group
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
                shape=shape_at(node, nr),
                dtype=dtype_at(node, nr),
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
            self.edge_values[key, nr] = value

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
            return Arg(self.operand(arg).id if part is None else part)
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
        for key, value in self.edge_values.items():
            name = by_edge.get(key)
            if name and name not in value.names:
                value.names = (*value.names, name)
        for group in self.groups:
            for place, target in enumerate(group.call.targets if group.call is not None else ()):
                of = self.operand(target.of)
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


def _passed(call: Call) -> Iterator[int]:
    """The ids of the calls that a backward pass goes back through, also of those within them."""
    for target in call.targets:
        for term in target.terms or ():
            yield id(term.call)
            yield from _passed(term.call)


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


def _places(size: Any, strides: Any, offset: int = 0) -> Array | None:
    """Where each element lies in the storage; None for too many."""
    if np.prod(size, dtype=float) > _PLACES:
        return None
    found = np.full(size, offset)
    for axis, (n, stride) in enumerate(zip(size, strides, strict=True)):
        found += (np.arange(n) * stride).reshape((-1, *[1] * (len(size) - axis - 1)))
    return found


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


def _same_memory(a: Any, b: Any) -> bool:
    return bool(
        a.shape == b.shape
        and a.dtype == b.dtype
        and a.layout == torch.strided == b.layout
        and a.data_ptr() == b.data_ptr()
        and a.stride() == b.stride()
        and a.numel() > 0
    )
