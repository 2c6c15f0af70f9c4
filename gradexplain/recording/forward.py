"""What the forward of a custom ``autograd.Function`` computes, as graphs.

The recorder of ``gradexplain check`` sees its calls.  Here the function runs once, in the midst of
a script: what leaves PyTorch on the way (``.numpy()``, ``.item()``) or comes in as numbers cannot be
told from a constant, so there is no graph then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradexplain.errors import GradexplainError
from gradexplain.graph import Graph
from gradexplain.recording.graphs import Recorder
from gradexplain.recording.operators import LEAVING

#: Forwards with more numbers in their constants than this have no graph.
_NUMBERS = 10_000


class Forward(Recorder):
    """Records while it is entered; ``inputs`` are the leaves ``a0``, ``a1``, … in order."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        super().__init__()
        self._left = False
        for place, tensor in enumerate(inputs):
            if tensor.is_floating_point() and id(tensor) not in self.refs:
                self.leaf(f"a{place}", tensor)

    def __torch_function__(self, func: Any, *rest: Any, **more: Any) -> Any:
        self._left = self._left or getattr(func, "__name__", "") in LEAVING
        return super().__torch_function__(func, *rest, **more)

    def _source(self, tensor: Any) -> Any:
        """The input that a result is, as another tensor: a Function that returns what it is given."""
        for known, _ in self.refs.values():
            if id(tensor) not in self.refs and known.shape == tensor.shape:
                if known.data_ptr() == tensor.data_ptr() and known.stride() == tensor.stride():
                    return known
        return tensor

    def _constant(self, tensor: Any) -> Any:
        # A tensor of unknown origin may come from the inputs by a way outside of PyTorch.
        self._left = self._left or (tensor.is_floating_point() and tensor.ndim > 0)
        return None if self._left or tensor.numel() > _NUMBERS else super()._constant(tensor)

    def graphs(
        self, outputs: Sequence[tuple[Any, tuple[int, ...]]]
    ) -> dict[tuple[int, ...], Graph]:
        """The graph of each output by its place; none where one of them has none."""
        found: dict[tuple[int, ...], Graph] = {}
        changed = any(tensor.is_floating_point() for tensor in self.in_place)  # no counter of steps
        for tensor, path in outputs:
            try:
                graph = None if self._left or changed else self.graph(self._source(tensor))
            except GradexplainError:
                graph = None
            if graph is None or self._left:
                return {}
            found[path] = graph
        return found
