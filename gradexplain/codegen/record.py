"""What a record's ``written`` and ``backward`` write with: operands that are names in the code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradexplain.ops.base import Shape


class Operand(str):
    """A tensor as it is called in the code; ``shape`` is the one that the code is derived at."""

    shape: Shape

    def __new__(cls, name: str, shape: Shape) -> Operand:
        self = super().__new__(cls, name)
        self.shape = shape
        return self

    @property
    def is_tensor(self) -> bool:
        """Not a number of the expression."""
        return self[:1].isalpha() or self[:1] == "_"

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True, eq=False)
class Writing:
    """``c`` in a record: ``c.grad`` is the upstream gradient, ``c.y`` the result, ``c.wrt`` the input.

    ``let(name, text)`` names an intermediate value, by a name that is free.  Where an input was
    broadcast, or a reduced dim is missing, ``total`` and ``wide`` bring shapes together.
    """

    grad: Operand
    y: Operand
    let: Callable[[str, str], str]
    moved: Callable[[str], str]
    wrt: str = ""
    part: int = 0

    @staticmethod
    def operand(name: str, shape: Shape) -> Operand:
        return Operand(name, shape)

    def wide(self, text: str, x: Operand, dims: tuple[int, ...], keepdim: bool) -> str:
        """A value without its reduced ``dims``, with them as dims of one element."""
        if keepdim or len(dims) == x.rank:
            return text
        if dims == tuple(range(len(dims))):
            return text
        for d in dims:
            text = f"{text}.unsqueeze({d})"
        return text

    def total(self, text: str, x: Operand, shape: Shape) -> str:
        """A gradient of ``shape`` summed over what broadcasting repeated ``x`` over."""
        if tuple(shape) == x.shape:
            return text
        return f"({text}).sum_to_size({x}.shape)"

    def scatter(self, x: Operand, move: Callable[[str], str], *, kind: str = "") -> str:
        """The gradient of an operation whose every element is one of ``x``'s: it is carried out on
        the places of x's elements, which then say where each came from."""
        dtype = f", dtype={kind}" if kind else ""
        here = f"torch.arange({x}.shape.numel(){dtype}, device={self.grad}.device)"
        places = self.let("places", move(f"{here}.reshape({x}.shape)"))
        flat = f"{places}.flatten(){'.long()' if kind else ''}"
        zeros = f"{self.grad}.new_zeros({x}.shape.numel())"
        return f"{zeros}.index_add(0, {flat}, {self.grad}.flatten()).reshape({x}.shape)"

    def same(self, x: Operand) -> str:
        """The gradient of an operation that only moves elements, by `scatter`."""
        return self.scatter(x, self.moved)
