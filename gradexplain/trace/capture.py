"""One ``backward`` in full: its graph, and the numbers that flow through.

What a call sends to an input is the sum over the edges that leave its group towards that input, read
from hooks on the nodes while PyTorch computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gradexplain.explanation import Array
from gradexplain.recording.calls import KEY, Call, Operand, Target, attach
from gradexplain.recording.calls import Term as Sent
from gradexplain.recording.frames import Site
from gradexplain.recording.operators import Kind
from gradexplain.trace.groups import Group, is_leaf
from gradexplain.trace.heard import Heard
from gradexplain.trace.snapshot import Accumulated, CutOff, LeftOut, Value
from gradexplain.trace.values import Values, to_array

_WHY = {
    "detached": "detached",
    "copied": "copied as numbers",
    "no_grad": "computed under no_grad",
    "sampled": "drawn at random",
    "no derivative": "has no derivative",
    "gradient": "a gradient that was taken without create_graph=True",
    "constant": "a gradient that depends on nothing",
}


class Capture(Values):
    """The graph behind ``roots``; `listen` is told what flows while PyTorch computes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hooks: list[Any] = []
        self._sent: dict[tuple[int, int], Array] = {}
        self._upstream: dict[int, Array] = {}
        self._consumers: dict[int, list[Group]] = {}  # by value
        #: Gradients after a call that is over.
        self._after: dict[int, Any] = {}
        self._arrived: dict[int, Operand] = {}  # by value: its gradient, with create_graph=True

    def listen(self, inputs: list[Any] | None) -> None:
        """Be told of what flows while PyTorch carries out the call."""
        self._inputs = inputs
        self._retained = [
            (name, tensor)
            for name, tensor in self.variables.tensors
            if tensor.grad_fn is not None and tensor.retains_grad
            and (id(tensor.grad_fn), tensor.output_nr) in self.edge_values
        ]  # fmt: skip
        self._watched = [(self.snapshot.values[i], tensor) for i, tensor in self._leaves.items()]
        self._before = {id(tensor): to_array(_grad(tensor)) for _, tensor in self._watched}
        self._before.update((id(t), to_array(_grad(t))) for _, t in self._retained)
        for node in self.nodes.values():
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
            self._accumulated(self._inputs)
        self._left_out(self._inputs, returns=returns)

    def _safe(self, hook: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def safe(sent: Any, arriving: Any) -> None:
            try:
                hook(sent, arriving)
            except Exception as error:  # the backward pass is not to see that we failed
                self.recorder.broke(error)

        return safe

    def _hook(self, node: Any) -> Callable[[Any, Any], None]:
        if is_leaf(node):
            leaf = self._leaf(node.variable).id

            def leaf_hook(_: Any, arriving: Any) -> None:
                self._keep(self._upstream, leaf, arriving[0])
                self._differentiable(leaf, node, 0, arriving[0])

            return leaf_hook
        group = self.owner[id(node)]
        leaving = [
            (place, self._edge(target, nr).id)
            for place, (target, nr) in enumerate(node.next_functions)
            if target is not None and self.owner.get(id(target)) is not group
        ]
        arriving_at = [
            (nr, value.id) for (key, nr), value in self.edge_values.items() if key == id(node)
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
            for group in self.groups:
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
            if group.call is None or operation.opaque:
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

    def _accumulated(self, inputs: list[Any] | None) -> None:
        leaves = [(v.names[0] if v.names else "", v, tensor) for v, tensor in self._watched]
        retained = [
            (name, self.edge_values[id(tensor.grad_fn), tensor.output_nr], tensor)
            for name, tensor in self._retained
        ]
        for name, value, tensor in leaves + retained:
            kind = "leaf" if tensor.grad_fn is None else "retained"
            left = inputs is not None and not any(tensor is other for other in inputs)
            none = value.upstream is None and value.arrived is None
            if kind == "leaf" and (left or none):
                continue
            before, after = self._before[id(tensor)], self._after.get(id(tensor), _grad(tensor))
            self.snapshot.accumulated.append(
                Accumulated(
                    name, value.shape, kind, before, value.upstream, to_array(after), value.id
                )
            )

    def _returned(self, inputs: list[Any], result: Any) -> None:
        parts = result if isinstance(result, (tuple, list)) else [result]
        for tensor, gradient in zip(inputs, parts, strict=False):
            value: Value | None
            if tensor.grad_fn is not None:
                value = self.edge_values.get((id(tensor.grad_fn), tensor.output_nr))
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
                found.append(left(name, tensor, "the output was not computed from it"))
            else:
                found.append(left(name, tensor, _why(cut), cut.site))
        for name, tensor in self.variables.tensors:
            if isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad:
                frozen_at = self.recorder.ends.frozen.get(id(tensor), (None, None))[1]
                found.append(left(name, tensor, "it does not require grad", frozen_at))
        listed = {"mask", *(known.name for known in found)}
        for value in snapshot.values:
            if value.kind != "constant" or not value.names or value.names[0] in listed:
                continue
            site = None
            if value.cuts:
                why, site = _why(value.cuts[0]), value.cuts[0].site
            elif value.dtype.startswith(("int", "uint", "bool")):
                why = "it holds integers" if value.dtype != "bool" else "it holds true/false"
            else:
                why = "it does not require grad"
            found.append(LeftOut(value.names[0], value.shape, why, site))


class _Leaf:
    """A leaf in the place of a node of autograd's."""

    def __init__(self, variable: Any) -> None:
        self.variable = variable


def _why(cut: CutOff) -> str:
    words = _WHY[cut.why]
    return f"{cut.function} {words}" if cut.why == "no derivative" else words


def _grad(tensor: Any) -> Any:
    """``.grad`` without the warning for a tensor that has none."""
    if tensor.grad_fn is not None and not tensor.retains_grad:
        return None
    return tensor.grad
