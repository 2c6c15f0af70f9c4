"""What is known of a Hessian: its blocks, the product ``H·u``, and what they say, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from gradexplain.document.keys import HIDDEN, TOLERANCE, Key, Keys
from gradexplain.document.shows import Shows
from gradexplain.explanation import Array, Check, Explanation, Formula, Gradient, Note, Shape

#: H is computed whole for up to this many elements of the inputs together; beyond, H·u is checked.
WHOLE = 32


@dataclass(slots=True)
class Block(Formula):
    """``∂²L/∂row∂column`` in the shape ``row.shape + column.shape``, by three routes.

    ``formula`` is None where it would be too long to be read: there ``value`` is None, and the chain
    rule's numbers are compared with PyTorch's.  All are None where H is too large to compute whole.
    """

    row: str
    column: str
    structure: str
    shape: Shape
    value: Array | None
    chain_rule: Array | None
    torch: Array | None
    tolerance: Array | None
    verdict: str = "skipped"
    margin: float | None = None

    JSON: ClassVar[Keys] = {
        "chain_rule": Key(computed="NumPy, where the tensors are large"),
        "torch": Key(computed="PyTorch"),
        "tolerance": TOLERANCE,
        "agrees": Key(about="false only for a mismatch"),
    }

    @property
    def known(self) -> Array:
        """The numbers: the closed form's, or the chain rule's where there is no formula."""
        found = self.chain_rule if self.value is None else self.value
        assert found is not None
        return found

    @property
    def agrees(self) -> bool:
        """False only for a mismatch."""
        return self.verdict != "mismatch"


@dataclass(slots=True)
class Product(Gradient):
    """``H·u`` for one input, in its shape; ``given`` is False where no vector was asked for.

    ``value`` is None where its formula would be too long to be read.
    """

    value: Array | None  # type: ignore[assignment]

    @property
    def known(self) -> Array:
        """The numbers: the closed form's, or the chain rule's where there is no formula."""
        return self.chain_rule if self.value is None else self.value

    given: bool = True

    JSON: ClassVar[Keys] = {
        "value": Key(given="given"),
        "chain_rule": Key(given="given", computed="NumPy, where the tensors are large"),
        "torch": Key(given="given", computed="PyTorch"),
        "tolerance": Key(digits=2, given="given"),
    }


@dataclass(slots=True)
class Hessian(Shows):
    """Every second derivative of a scalar, of ``Σ v·y`` where the output is not one.

    ``first`` explains the gradient; ``blocks[a, b]`` is ``∂²L/∂a∂b``.  ``matrix`` is H with the
    elements of all inputs in order, ``eigenvalues`` are in ascending order; both are None, and
    ``definiteness`` is empty, where H is too large.
    """

    first: Explanation
    scalar: str
    #: What the vector of ``H·u`` is called.
    u: str
    #: What ``Σ u·∇scalar``, whose gradient ``H·u`` is, is called.
    p: str
    blocks: dict[tuple[str, str], Block] = field(default_factory=dict)
    products: dict[str, Product] = field(default_factory=dict)
    vector: dict[str, Array] | None = None
    matrix: Array | None = None
    symmetric: bool | None = None
    #: Whether no second derivative depends on the inputs, and whether they exist everywhere.
    constant: bool = False
    smooth: bool = True
    eigenvalues: tuple[float, ...] | None = None
    definiteness: str = ""
    check: Check | None = None
    notes: list[Note] = field(default_factory=list)

    SCHEMA: ClassVar[str] = "gradexplain-hessian/1"
    PAGE: ClassVar[str] = "gradexplain.pages.hessian"
    JSON: ClassVar[Keys] = {
        "first": Key(
            flat=True,
            only=(
                "expression",
                "dtype",
                "output",
                "grad",
                "grad_source",
                "loss",
                "inputs",
                "gradients",
            ),
        ),
        "u": HIDDEN,
        "p": HIDDEN,
        "blocks": Key("hessian", about="∂²/∂A∂B for every ordered pair of inputs, by A,B"),
        "products": Key("product", about="H·u for each input"),
        "matrix": HIDDEN,
        "eigenvalues": Key(about="in ascending order", computed="NumPy"),
        "definiteness": Key(null=True),
    }
