"""What one ``backward`` told, kept by reference until it is known whether anybody asks for it.

Of a loop only the last call may be wanted, and only the end tells which that was.  Nothing is worked
out here: gradients are kept as PyTorch made them, leaves as copies, for an optimizer changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from gradexplain.recording.calls import KEY, Call, Operand
from gradexplain.recording.operators import Kind

_LEAF = "AccumulateGrad"

_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"}


def write_mask(node: Any, call: Call) -> None:
    """Dropout is a product with the mask that it drew, which autograd saves until it is used."""
    if call.kind.name not in _DROPOUTS or node.name() != "MulBackward0":
        return
    mask = node._saved_other
    if mask is None or tuple(mask.shape) != tuple(node._input_metadata[0].shape):
        return
    drawn = Operand(mask)
    drawn.names = ("mask",)
    source = call.args[0] if call.args else call.kwargs["input"]
    call.args, call.kwargs = (source, drawn), {}
    call.kind = Kind(call.kind.kind, "times_mask", ("torch.mul",))


class Heard:
    """The call on ``roots``; at most ``room`` elements are kept."""

    def __init__(self, roots: list[Any], room: int) -> None:
        self.spent = False
        self._room = room
        self._once: dict[Any, Any] = {}
        self._told: list[tuple[Any, Any, Any]] = []
        self.leaves: list[Any] = [r for r in roots if r.grad_fn is None and r.requires_grad]
        self._hooks: list[Any] = []
        for node, uses in _nodes(roots).items():
            kind = type(node).__name__
            if kind == _LEAF:
                leaf = node.variable
                self.leaves.append(leaf)
                if uses == 1 and not leaf._backward_hooks:
                    self._once[node] = leaf  # what arrives is what was sent
                    continue
            elif kind == "MulBackward0" and KEY in node.metadata:
                write_mask(node, node.metadata[KEY][0])
            self._hooks.append(node.register_hook(partial(self._tell, node)))
        size = sum(leaf.numel() for leaf in self.leaves)
        self._copies = 3 * size <= room
        self._room -= 3 * size if self._copies else 0
        self.values = self._kept(leaf.detach() for leaf in self.leaves)
        self.before = self._kept(leaf.grad for leaf in self.leaves)
        self.after: list[Any] = []

    def _kept(self, tensors: Iterator[Any]) -> list[Any]:
        if not self._copies:
            self.spent = True
            return []
        found = [None if tensor is None else tensor.detach() for tensor in tensors]
        dense = [t for t in found if t is not None and t.layout is torch.strided]
        copies = iter(torch._foreach_mul(dense, 1) if dense else ())  # all in one call
        return [
            t if t is None else next(copies) if t.layout is torch.strided else t.clone()
            for t in found
        ]

    def _tell(self, node: Any, sent: Any, arriving: Any) -> None:
        for tensor in sent:
            if tensor is not None:
                self._room -= tensor.numel()
        if self._room >= 0:
            self._told.append((node, sent, arriving))
        else:
            self.spent = True

    def end(self) -> None:
        """The call is over."""
        self.after = self._kept(leaf.grad for leaf in self.leaves)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def tell(self, hook: Callable[[Any], Callable[[Any, Any], None]]) -> None:
        """Tell it all again, to the hook of each node."""
        for node, sent, arriving in self._told:
            hook(node)(sent, arriving)
            for gradient, (target, _) in zip(sent, node.next_functions, strict=False):
                if target in self._once and gradient is not None:
                    hook(target)((), (gradient,))


def _nodes(roots: list[Any]) -> dict[Any, int]:
    """Autograd's nodes behind the roots, each with the number of places that lead there."""
    found = dict.fromkeys((root.grad_fn for root in roots if root.grad_fn is not None), 1)
    for node in (queue := list(found)):
        for following, _ in node.next_functions:
            if following is None:
                continue
            if following not in found:
                found[following] = 0
                queue.append(following)
            found[following] += 1
    return found
