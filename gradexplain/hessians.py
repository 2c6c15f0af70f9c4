"""Second derivatives: every ``∂²L/∂a∂b`` in closed form, the Hessian's signs, and ``H·u``.

The gradient's closed form is differentiated again.  A second route differentiates the backward pass
operation by operation (`gradexplain.second.backward_graph`), and PyTorch does so with
``create_graph=True``; the three are compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import sympy
from sympy.core.relational import Relational

from gradexplain.document.keys import HIDDEN, TOLERANCE, Key, Keys
from gradexplain.engine import (
    DType,
    Problem,
    Request,
    Run,
    explanation_of,
    is_small,
    problem_of,
    request_of,
)
from gradexplain.errors import InputError
from gradexplain.explanation import (
    Array,
    Check,
    Difference,
    Explanation,
    Formula,
    Gradient,
    Note,
    Shape,
)
from gradexplain.formula.functions import build, mp
from gradexplain.formula.indices import Ranges, index
from gradexplain.formula.kit import number
from gradexplain.formula.latex import LatexPrinter
from gradexplain.formula.letters import Letters
from gradexplain.graph import Node, Ref
from gradexplain.notes import at as place_of
from gradexplain.notes import singular_nodes
from gradexplain.ops.base import show_shape
from gradexplain.plan.arrays import to_float
from gradexplain.plan.evaluate import Evaluator
from gradexplain.reading.arrays import ONES, Value, as_array, bind
from gradexplain.routes.calls import Part, Shared
from gradexplain.routes.chain import ChainRule, cleaned
from gradexplain.routes.closed import ClosedForm, Shown
from gradexplain.routes.pytorch import Asked
from gradexplain.routes.second import HessianQuestion
from gradexplain.second import Gradients, closed, free_label, stepped
from gradexplain.supervisor.within import within
from gradexplain.verdict import compare, fold

#: H is computed whole for up to this many elements of the inputs together; beyond, H·u is checked.
WHOLE = 32

#: The formulas of a pair of inputs are written out whatever their length for up to ``_FEW`` inputs, as
#: far as they are short for more, and for each input with itself alone beyond ``_MANY``.
_FEW, _MANY = 3, 12
_SHORT = 60

#: What is said of a second derivative whose formula is not written out.
BY_NUMBERS = "by numbers"

#: A difference quotient that is to bear a second derivative out: how many binary digits its step is
#: below the point (with digits to spare, and in float64), and how near it must come.
_FINE, _COARSE = 45, 20
_NEAR = 1e-4


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
class Hessian:
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

    def to_dict(self, precision: int | None = None) -> dict[str, Any]:
        """The JSON document ``gradexplain-hessian/1``."""
        from gradexplain.document import serialise

        return serialise.document(self, precision)

    def __str__(self) -> str:
        """The page that the command line prints, 100 columns wide and without colour."""
        from gradexplain.formats import terminal  # formats and pages read this
        from gradexplain.pages import hessian

        return terminal.render(hessian.page(self))


def hessian(
    expression: str,
    *,
    at: Mapping[str, Any] | None = None,
    grad: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    wrt: str | Sequence[str] | None = None,
    vector: Any = None,
    dtype: DType | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> Hessian:
    """Every second and mixed partial derivative of ``expression``, as `gradexplain.explain` has it.

    ``grad`` weighs the elements of an output that is not a scalar.  ``vector`` is the ``u`` of the
    product ``H·u``: an array in the input's shape, or a mapping from inputs to theirs.  ``timeout`` is
    `gradexplain.explain`'s.
    """
    u: dict[str | None, Value] = {}
    if isinstance(vector, Mapping):
        u = {name: as_array(value, f"vector[{name!r}]") for name, value in vector.items()}
    elif vector is not None:
        u = {None: as_array(vector, "vector")}
    request = request_of(expression, at, grad, shapes, wrt, dtype, check)
    if timeout is not None:
        return within(timeout, hessian_of, request, u)
    return hessian_of(request, u)


def hessian_of(request: Request, vector: Mapping[str | None, Value]) -> Hessian:
    """The Hessian that a request asks for; ``vector`` is by input, or under None for all."""
    problem = problem_of(request)
    leaves = [n for n in problem.graph.leaves if n.label in problem.wanted and not n.integer]
    u = _vector(vector, leaves, problem.dtype)
    problem = replace(problem, scalar=problem.v_source == "implicit")
    whole = sum(math.prod(leaf.shape) for leaf in leaves) <= WHOLE
    weights = u if u is not None or whole else _probe(leaves)
    extra = _Second(u, weights, whole)
    if problem.check:
        question = HessianQuestion(problem.question(), whole, weights)
        extra.shared = Shared(Asked(question))
        asked = Part(extra.shared, lambda answer: answer.first, last=True)
        problem = replace(problem, asked=asked)
    first = explanation_of(replace(problem, extra=extra))
    found = extra.found
    assert found is not None
    found.check = first.check
    found.notes = [*first.notes, *found.notes]
    return found


def _vector(
    given: Mapping[str | None, Value], leaves: Sequence[Node], dtype: str
) -> dict[str, Array] | None:
    """``u`` for each input; an input that is not named gets zeros."""
    if not given:
        return None
    names = [leaf.label for leaf in leaves]
    if None in given:
        u = given[None]
        if u is ONES:
            return {leaf.label: np.ones(leaf.shape) for leaf in leaves}
        u = bind(u, dtype, "--vector")  # type: ignore[arg-type]
        if len(leaves) == 1 and u.shape == leaves[0].shape:
            return {names[0]: u}
        sizes = [math.prod(leaf.shape) for leaf in leaves]
        if len(leaves) > 1 and u.shape == (sum(sizes),):
            # One vector over the elements of all inputs, in their order.
            parts = np.split(u, np.cumsum(sizes)[:-1])
            return {n.label: part.reshape(n.shape) for n, part in zip(leaves, parts, strict=True)}
        if len(leaves) == 1:
            raise InputError(
                f"mismatch in shape: --vector has shape {show_shape(u.shape)} and {names[0]} has "
                f"shape {show_shape(leaves[0].shape)}; u has the input's shape",
                remedy=f"give u in shape {show_shape(leaves[0].shape)}, or ones",
            )
        raise InputError(
            f"mismatch in shape: --vector has shape {show_shape(u.shape)} and the inputs "
            f"{', '.join(names)} have {sum(sizes)} elements together",
            remedy=f"give {sum(sizes)} numbers, or one for each input as in --vector {names[0]}=…",
        )
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InputError(
            f"--vector {unknown[0]}: no input of that name is differentiated by",
            remedy=f"the inputs are: {', '.join(names)}",
        )
    found: dict[str, Array] = {}
    for leaf in leaves:
        value = given.get(leaf.label, np.zeros(leaf.shape))
        part = np.ones(leaf.shape) if value is ONES else value
        part = bind(part, dtype, f"--vector {leaf.label}")  # type: ignore[arg-type]
        if part.shape != leaf.shape:
            raise InputError(
                f"mismatch in shape: --vector {leaf.label} has shape {show_shape(part.shape)} and "
                f"{leaf.label} has shape {show_shape(leaf.shape)}",
                remedy=f"give it in shape {show_shape(leaf.shape)}, or ones",
            )
        found[leaf.label] = part
    return found


def _probe(leaves: Sequence[Node]) -> dict[str, Array]:
    """Directions of no pattern, the same ones every time, along which a large H is checked."""
    source = np.random.default_rng(3)
    return {leaf.label: source.uniform(0.5, 1.5, leaf.shape) for leaf in leaves}


@dataclass(slots=True)
class _Second:
    """The second derivatives, made when the gradient has been explained."""

    u: dict[str, Array] | None
    weights: dict[str, Array] | None
    whole: bool
    shared: Shared | None = None
    found: Hessian | None = None

    def begin(self, run: Run) -> None:
        """Nothing is shown before all is known."""

    def further(self, run: Run) -> list[Check]:
        made = _Making(run, self)
        self.found = made.hessian
        return [made.check()]


class _Making:
    """One Hessian in the making."""

    def __init__(self, run: Run, asked: _Second) -> None:
        self.run = run
        self.asked = asked
        problem = run.problem
        self.problem: Problem = problem
        self.leaves = run.leaves
        self.implicit = problem.v_source == "implicit"
        self.v_name = run.explanation.grad.name
        scalar = run.graph.out.label if self.implicit else run.closed.loss_name
        self.forms: dict[str, ClosedForm] = {}
        self.hessian = Hessian(run.explanation, scalar, self.u_name, self.p_name, vector=asked.u)
        self.differences: list[Difference] = []
        self.answer = None if asked.shared is None else asked.shared.answer()
        if self.answer is not None and (self.answer.error or self.answer.refused):
            self.refused = self.answer.error or self.answer.refused
            self.answer = None
        else:
            self.refused = ""
        self.singular = singular_nodes(run.graph, run.chain, list(problem.wanted))
        self.borders = borders(run)
        # Whether PyTorch has nan where there is a second derivative, and one side's of two.
        self.undefined = self.corner = False
        # Whether the closed form has nan where PyTorch has a number: nothing checks that number.
        self.broken = False
        # What PyTorch's own derivatives may be off by, where they are coarser than rounding.
        operations = [node.op for node in run.graph.nodes if node.op is not None]
        self.coarse = compare.coarseness(operations, order=2)
        # Each route has a graph of its own.
        v_name = None if self.implicit else self.v_name
        steps = stepped(run.graph, problem.wanted, v_name)
        self.steps, self.formulas = (
            Gradients(made.summed(self.leaves, self.p_name, self.u_name), made.of)
            for made in (steps, closed(run, v_name) or steps)
        )
        self.values = {
            **problem.values,
            **({} if self.implicit else {self.v_name: problem.v}),
            **{f"{self.u_name}.{n}": u for n, u in (asked.weights or {}).items()},
        }
        if len(self.leaves) == 1 and asked.weights is not None:
            (self.values[self.u_name],) = asked.weights.values()
        self._blocks()
        self._whole()
        self._products()
        self._notes()

    @property
    def u_name(self) -> str:
        return free_label(self.run.graph, "u", "w", "direction")

    @property
    def p_name(self) -> str:
        return free_label(self.run.graph, "P", "Q", "R")

    # -- blocks ----------------------------------------------------------------------------------

    def _blocks(self) -> None:
        rows = self._chain_rows() if self.asked.whole else {}
        for a in self.leaves:
            id = self.formulas.of.get(a.label)
            if id is not None:
                graph = self.formulas.at(id)
                exact = is_small(graph) and self.asked.whole
                form = ClosedForm(graph, self.values, np.ones(a.shape), exact=exact)
                if len(self.leaves) > _FEW:
                    form.long = _SHORT
                self.forms[a.label] = form
        for a in self.leaves:
            for b in self.leaves:
                self.hessian.blocks[a.label, b.label] = self._block(a, b, rows)

    def _formed(self, a: Node, b: Node) -> bool:
        """Whether ``∂²L/∂a∂b`` is given by a formula; derived once for both orders."""
        if a.id != b.id and len(self.leaves) > _MANY:
            return False
        form, other = self.forms[a.label], self.forms.get(b.label)
        places = [leaf.label for leaf in self.leaves]
        if other is not None and places.index(b.label) < places.index(a.label):
            if other.is_long(a):
                return len(self.leaves) <= _FEW
            form.give(b, *_transposed(other, b, a))
        return len(self.leaves) <= _FEW or not form.is_long(b)

    def _block(self, a: Node, b: Node, rows: Mapping[tuple[str, str], Any]) -> Block:
        name, shape = f"{a.label},{b.label}", a.shape + b.shape
        form = self.forms.get(a.label)
        d, latex = self._left(a, "", b, ""), self._latex_left(a, "", b, "")
        if form is None:  # no gradient flows to it at all
            zero = np.zeros(shape) if self.asked.whole else None
            return Block(name, 0, f"{d} = 0", f"{latex} = 0", (), "", a.label, b.label, "zero",
                         shape, zero, zero, zero, zero)  # fmt: skip
        formed = self._formed(a, b)
        if formed:
            shown, words = form.shown_jacobian(b)
            text, latex = self._titled(shown, a, b)
            block = Block(
                name, shown.formula, text, latex, shown.where, shown.ranges, a.label, b.label,
                _words(words, self.hessian.scalar, a, b), shape, None, None, None, None,
            )  # fmt: skip
        else:
            block = Block(name, None, f"{d} = …", f"{latex} = \\dots", (), "", a.label, b.label,
                          BY_NUMBERS, shape, None, None, None, None)  # fmt: skip
        if self.asked.whole:
            self._numbers(a, b, block, form if formed else None, *rows[a.label, b.label])
        return block

    def _numbers(
        self, a: Node, b: Node, block: Block, form: ClosedForm | None, stepped: Array, size: Array
    ) -> None:
        """The block's values by each route, and the verdict on them."""
        block.chain_rule = stepped
        block.torch = None if self.answer is None else self.answer.blocks.get((a.label, b.label))
        if form is not None:
            pair = form.jacobian_value(b)
            assert pair is not None
            block.value = cleaned(pair, exact=form.exact)
            size = np.maximum(pair[1], size)
        block.tolerance, exact = self._bounds(size, block.known)
        block.verdict = self._compare(
            self._left(a, "", b, ""), block.value, stepped, block.torch, block.tolerance, exact
        )
        if block.value is None or block.torch is None:
            return
        if block.verdict == "mismatch" and not compare.differs(block.value, stepped, exact).any():
            if self._stands(a, b, block):
                block.verdict = "convention"
        if block.verdict == "convention":
            self.broken |= bool((np.isnan(block.value) & np.isfinite(block.torch)).any())

    def _stands(self, a: Node, b: Node, block: Block) -> bool:
        """Whether ``(∂L/∂a(b ± h) − ∂L/∂a(b))/h`` bears the closed form out where PyTorch differs.

        A limit is taken from both sides.  Where PyTorch has nan the closed form must be a limit, and
        where PyTorch has a number the two limits must be the two routes' numbers: a corner.
        """
        assert block.value is not None and block.torch is not None and block.tolerance is not None
        wrong = compare.differs(block.value, block.torch, block.tolerance)
        places = np.argwhere(wrong)
        columns = {tuple(place[len(a.shape) :].tolist()) for place in places}
        limits = {column: self._quotients(a, b, column) for column in columns}
        for place in places:
            row, column = tuple(place[: len(a.shape)]), tuple(place[len(a.shape) :].tolist())
            ours, theirs = block.value[tuple(place)], block.torch[tuple(place)]
            before, after = (side[row] for side in limits[column])
            if not np.isfinite(ours) or not np.isfinite([before, after]).all():
                return False
            near = [abs(limit - ours) <= _NEAR * (1 + abs(ours)) for limit in (before, after)]
            if np.isnan(theirs):
                if not all(near):
                    return False
                self.undefined = True
                continue
            other = after if near[0] else before
            if not any(near) or all(near) or abs(other - theirs) > _NEAR * (1 + abs(theirs)):
                return False
            self.corner = True
        return True

    def _quotients(self, a: Node, b: Node, column: tuple[int, ...]) -> tuple[Array, Array]:
        """The difference quotients of the gradient by ``b[column]`` from below and from above."""
        form = self.run.closed

        size = max(1.0, abs(float(self.problem.values[b.label][column])))
        h = math.ldexp(1.0, math.frexp(size)[1] - (_FINE if form.exact else _COARSE))

        def gradient(step: float) -> Any:
            moved = np.array(self.problem.values[b.label], dtype=np.float64)
            moved[column] += step
            values = {**self.problem.values, b.label: moved}
            there = ClosedForm(
                self.run.graph, values, self.problem.v, exact=form.exact, formulas=form
            )
            return there.gradient_value(a)[0]

        with np.errstate(all="ignore"):
            below, here, above = gradient(-h), gradient(0.0), gradient(h)
            return to_float((here - below) / h), to_float((above - here) / h)

    def _bounds(self, size: Any, value: Array) -> tuple[Array, Array]:
        """What PyTorch may differ by, and what the other two routes may."""
        dtypes = self.problem.dtype, "float64"
        found, exact = (compare.bound(size, value, self.problem.v, dtype) for dtype in dtypes)
        return found, exact

    def _by_kernel(self, difference: Difference) -> bool:
        return compare.by_kernel(difference, self.coarse, self.problem.dtype)

    def _compare(
        self,
        name: str,
        value: Array | None,
        chain: Array,
        torch: Array | None,
        tolerance: Array,
        exact: Array,
    ) -> str:
        """The verdict on one block or product; differences are kept."""
        pairs = []
        if value is not None:
            pairs.append((("closed form", "chain rule"), value, chain, exact))
        if torch is not None:
            first = ("chain rule", chain) if value is None else ("closed form", value)
            pairs.append(((first[0], "PyTorch"), first[1], torch, tolerance))
        found = compare.differences(name, pairs)
        self.differences += found
        known = bool(self.singular or self.borders)
        asked = torch is not None
        return fold.verdict(found, asked=asked, singular=known, by_kernel=self._by_kernel)

    def _chain_rows(self) -> dict[tuple[str, str], tuple[Array, Array]]:
        """Every block by the chain rule on the graph of the backward pass, a row at a time."""
        graph = self.steps.graph
        small = sum(math.prod(leaf.shape) for leaf in self.leaves) <= WHOLE // 2
        exact = is_small(graph) and small
        values = self._all_values()
        found = {}
        for a in self.leaves:
            id = self.steps.of.get(a.label)
            rows: dict[str, list[Any]] = {b.label: [] for b in self.leaves}
            chain = None
            if id is not None:
                chain = ChainRule(self.steps.at(id), values, exact=exact)
            for place in np.ndindex(*a.shape):
                if chain is not None:
                    basis = np.zeros(a.shape)
                    basis[place] = 1.0
                    chain.backward(basis, list(self.problem.wanted))
                for b in self.leaves:
                    pair = None if chain is None else chain.upstream.get(b.id)
                    zero = np.zeros(b.shape)
                    rows[b.label].append(
                        (zero, zero)
                        if pair is None
                        else (cleaned(pair, exact=exact), np.asarray(pair[1], dtype=np.float64))
                    )
            for b in self.leaves:
                shape = a.shape + b.shape
                found[a.label, b.label] = (
                    np.array([row[0] for row in rows[b.label]]).reshape(shape),
                    np.array([row[1] for row in rows[b.label]]).reshape(shape),
                )
        return found

    def _all_values(self) -> dict[str, Array]:
        """The values of every leaf of the graphs; directions that are not asked for are 1."""
        leaves = {n.label: n.shape for n in self.steps.graph.nodes if n.is_leaf}
        return {
            label: np.asarray(self.values.get(label, np.ones(shape)))
            for label, shape in leaves.items()
        }

    # -- titles ----------------------------------------------------------------------------------

    def _titled(self, shown: Shown, a: Node, b: Node) -> tuple[str, str]:
        """The formula's lines with ``∂²L/∂a∂b`` to the left."""
        left, _, right = shown.text.partition(" = ")
        above, below = left[1:].rsplit("/∂", 1)
        text = self._left(a, above.removeprefix(f"{a.label}.grad"), b, below[len(b.label) :])
        tex_left, _, tex_right = shown.latex.partition(" = ")
        places = re.fullmatch(r"\\frac\{\\partial (.*)\}\{\\partial (.*)\}", tex_left)
        tops = ["", ""]
        if places is not None:
            name = LatexPrinter(Letters(())).name
            tops = [
                places[1].removeprefix(name(f"{a.label}.grad")),
                places[2].removeprefix(name(b.label)),
            ]
        return f"{text} = {right}", f"{self._latex_left(a, tops[0], b, tops[1])} = {tex_right}"

    def _left(self, a: Node, at: str, b: Node, there: str) -> str:
        scalar = self.hessian.scalar
        if a.id == b.id and not a.shape:
            return f"∂²{scalar}/∂{a.label}²"
        return f"∂²{scalar}/∂{a.label}{at}∂{b.label}{there}"

    def _latex_left(self, a: Node, at: str, b: Node, there: str) -> str:
        name = LatexPrinter(Letters(())).name
        below = rf"\partial {name(a.label)}{at} \, \partial {name(b.label)}{there}"
        if a.id == b.id and not a.shape:
            below = rf"\partial {name(a.label)}^2"
        return rf"\frac{{\partial^2 {name(self.hessian.scalar)}}}{{{below}}}"

    # -- the whole -------------------------------------------------------------------------------

    def _whole(self) -> None:
        h = self.hessian
        reach = self.run.graph.reach(list(self.problem.wanted))
        moving = {n.label for n in self.run.graph.nodes if n.id in reach}
        h.constant = all(
            block.formula is not None and _is_constant(block.formula, moving)
            for block in h.blocks.values()
        )
        h.smooth = not any(
            n.op is not None and (n.op.kink or n.op.singular or n.op.singular_at is not None)
            for n in self.run.graph.nodes
            if n.id in reach & self.run.graph.needed()
        )
        if not self.asked.whole:
            return
        h.matrix = self._joined(lambda block: block.known)
        if not h.matrix.size or not np.isfinite(h.matrix).all():
            return
        slack = self._joined(lambda block: block.tolerance)
        # Of two orders of differentiating the closed form derives one, the chain rule both.
        stepped = self._joined(lambda block: block.chain_rule)
        h.symmetric = bool((np.abs(stepped - stepped.T) <= slack + slack.T).all())
        if h.symmetric:
            h.eigenvalues = _eigenvalues(h.matrix)
            h.definiteness = _definiteness(h.eigenvalues)

    def _joined(self, part: Callable[[Block], Array | None]) -> Array:
        """A matrix of the blocks' arrays, with the elements of all inputs in order."""
        sizes = {leaf.label: math.prod(leaf.shape) for leaf in self.leaves}
        rows = [
            [
                np.reshape(np.asarray(part(self.hessian.blocks[a, b])), (n, m))
                for b, m in sizes.items()
            ]
            for a, n in sizes.items()
        ]
        return np.block(rows) if sum(sizes.values()) else np.zeros((0, 0))

    # -- H·u -------------------------------------------------------------------------------------

    def _products(self) -> None:
        weights, given = self.asked.weights, self.asked.u is not None
        graph = self.formulas.graph
        exact = is_small(graph) and self.asked.whole
        form = ClosedForm(graph, self.values, np.ones(()), exact=exact)
        form.scalar = form.loss_name = self.p_name
        chain = None
        if weights is not None:
            steps = self.steps.graph
            chain = ChainRule(steps, self.values, exact=exact and is_small(steps))
            chain.backward(np.ones(()), list(self.problem.wanted))
        for leaf in self.leaves:
            product = self._product(leaf, form)
            product.given = given
            self.hessian.products[leaf.label] = product
            if chain is None:
                continue
            zero = np.zeros(leaf.shape)
            size: Any = 0.0
            if leaf.id in chain.upstream:
                pair = chain.upstream[leaf.id]
                product.chain_rule, size = cleaned(pair, exact=chain.exact), pair[1]
            if product.value is not None:
                pair = form.gradient_value(leaf)
                product.value = cleaned(pair, exact=exact)
                size = np.maximum(pair[1], size)
            if self.answer is not None:
                kept = self.answer.product.get(leaf.label)
                product.torch = zero if kept is None else kept
            product.tolerance, bound = self._bounds(size, product.known)
            product.verdict = self._compare(
                f"(H·{self.u_name})" + (f".{leaf.label}" if len(self.leaves) > 1 else ""),
                product.value, product.chain_rule, product.torch, product.tolerance, bound,
            )  # fmt: skip
            row = {
                block.verdict for block in self.hessian.blocks.values() if block.row == leaf.label
            }
            if product.verdict == "mismatch" and "convention" in row and "mismatch" not in row:
                product.verdict = "convention"  # its numbers are H's, which are accounted for

    def _product(self, leaf: Node, form: ClosedForm) -> Product:
        """``H·u`` for one input without its numbers: ``Σ_a u_a·∂²L/∂a∂leaf``."""
        zero = np.zeros(leaf.shape)
        column = [
            (a, block)
            for a in self.leaves
            if (block := self.hessian.blocks[a.label, leaf.label]).formula != 0
        ]
        if len(self.leaves) > _FEW and any(block.formula is None for _, block in column):
            text, latex = self._product_titles("", "", "…", r"\dots", leaf)
            return Product(leaf.label, None, text, latex, (), "", None, zero, None, zero)
        if not any(self.forms[a.label].is_long(leaf) for a, _ in column):
            total, ranges = sympy.S.Zero, Ranges()
            for a, _ in column:
                u = self.u_name if len(self.leaves) == 1 else f"{self.u_name}.{a.label}"
                calculus = self.forms[a.label].calculus
                total += calculus.weighted(self.forms[a.label].jacobian(leaf), u, a.shape)
                ranges |= calculus.ranges
            form.give(leaf, total, ranges)
        shown = form.shown_gradient(leaf)
        left, _, right = shown.text.partition(" = ")
        at = left.rsplit("/∂", 1)[1][len(leaf.label) :]
        tex_left, _, tex_right = shown.latex.partition(" = ")
        places = re.fullmatch(r"\\frac\{\\partial .*\}\{\\partial (.*)\}", tex_left)
        name = LatexPrinter(Letters(())).name
        tex_at = places[1].removeprefix(name(leaf.label)) if places is not None else ""
        text, latex = self._product_titles(at, tex_at, right, tex_right, leaf)
        return Product(
            leaf.label,
            shown.formula,
            text,
            latex,
            shown.where,
            shown.ranges,
            zero,
            zero,
            None,
            zero,
        )

    def _product_titles(
        self, at: str, tex_at: str, right: str, tex_right: str, leaf: Node
    ) -> tuple[str, str]:
        of = "" if len(self.leaves) == 1 else f".{leaf.label}"
        u, name = self.u_name, LatexPrinter(Letters(())).name
        tex_of = "" if not of else rf"^{{({name(leaf.label)})}}"
        return f"(H·{u}){of}{at} = {right}", f"(H {u}){tex_of}{tex_at} = {tex_right}"

    # -- verdict ---------------------------------------------------------------------------------

    def check(self) -> Check:
        h = self.hessian
        items: list[Block | Product] = [*h.blocks.values(), *h.products.values()]
        status = "agree" if self.asked.shared is not None else "skipped"
        if self.refused:
            status = "cannot tell"
        found = fold.check(
            status,
            (item.verdict for item in items),
            self.problem.dtype,
            (item.tolerance for item in items if item.tolerance is not None),
            self.differences,
            self.refused,
            self._by_kernel,
        )
        if self.broken and found.status == "convention":
            found.status = "cannot tell"
            found.reason = (
                "the closed form meets 0/0 or 0·inf at this point and has no number there; "
                "PyTorch's numbers stand alone"
            )
        return found

    def _notes(self) -> None:
        h = self.hessian
        kinks = [point.node for point in self.singular if point.node.op and point.node.op.kink]
        if kinks and not self.broken:
            names = list(dict.fromkeys(node.op.name for node in kinks if node.op))
            h.notes.append(
                Note(
                    "second-order kink",
                    f"There is no second derivative there either: PyTorch differentiates the "
                    f"formula that its backward of {' and '.join(names)} chose for the first one.",
                    {"nodes": [node.label for node in kinks]},
                )
            )
        for node, at in self.borders:
            if node.op is None or node in kinks:
                continue
            h.notes.append(
                Note(
                    "second-order kink",
                    f"{place_of(node.label, at)} is where the formula of {node.op.name} "
                    "changes: its second derivative may differ on the two sides, and PyTorch takes "
                    "that of the side on which its backward stands.",
                    {"nodes": [node.label], "index": list(at)},
                )
            )
        if self.undefined:
            h.notes.append(
                Note(
                    "second-order artefact",
                    "The second derivative exists, and the difference quotients of the gradient "
                    "tend to the closed form's number: PyTorch's nan is an artefact of its double "
                    "backward, which meets 0/0 or 0·inf here.",
                )
            )
        if self.corner:
            h.notes.append(
                Note(
                    "second-order kink",
                    "The gradient has a corner here: its difference quotients tend to the closed "
                    "form's number on one side and to PyTorch's on the other.",
                )
            )
        long = [block for block in h.blocks.values() if block.formula is None]
        if long and self.asked.whole:
            h.notes.append(
                Note(
                    "long",
                    f"{len(long)} of the {len(h.blocks)} second derivatives have no formula here: "
                    "for these the chain rule and PyTorch alone are compared.",
                )
            )
        if not self.asked.whole:
            h.notes.append(
                Note(
                    "large",
                    f"H has more than {WHOLE}×{WHOLE} entries: it is not computed whole, and the "
                    "routes are compared along "
                    + ("the vector." if self.asked.u is not None else "a direction of no pattern."),
                )
            )
        if h.symmetric is False:
            h.notes.append(
                Note(
                    "not symmetric",
                    "The mixed derivatives differ with their order here: the point is singular, "
                    "and the order in which limits are taken matters.",
                )
            )
        if h.definiteness and not h.constant:
            gradients = h.first.gradients.values()
            if all(not g.value.any() for g in gradients):
                word = {
                    "positive definite": "a strict local minimum",
                    "negative definite": "a strict local maximum",
                    "indefinite": "a saddle point",
                }.get(h.definiteness)
                if word:
                    h.notes.append(
                        Note("stationary", f"The gradient is 0 here, so this is {word}.")
                    )


def borders(run: Run) -> list[tuple[Node, tuple[int, ...]]]:
    """Operations at a point where the condition between two of their formulas changes."""
    reach = run.graph.reach(run.wanted) & run.graph.needed()
    found = []
    for node in run.graph.nodes:
        if node.id not in reach or node.op is None or not node.op.pointwise:
            continue
        axes = tuple(sympy.Symbol(f"i{n}", integer=True) for n in range(len(node.shape)))
        arrays: dict[str, Array] = {}
        names: dict[str, Any] = {}
        for parameter, arg in zip(node.op.parameters, node.args, strict=True):
            if isinstance(arg, Ref):
                value = to_float(run.chain.forward[arg.id][0])
                arrays[parameter.name] = np.broadcast_to(value, node.shape)
                symbol = sympy.Symbol(parameter.name, real=True)
                names[parameter.name] = (
                    sympy.Indexed(sympy.IndexedBase(symbol), *axes) if axes else symbol
                )
            elif isinstance(arg, (int, float)):
                names[parameter.name] = number(arg)
        try:
            formula = build(node.op.formula, names)
        except (KeyError, TypeError, ValueError):
            continue  # an argument that is no number: nothing to compare
        evaluator = Evaluator(
            lambda name, arrays=arrays: (arrays[name], np.abs(arrays[name])),  # type: ignore[misc]
            dict(zip(axes, node.shape, strict=True)),
            exact=False,
        )
        for relation in sorted(formula.atoms(Relational), key=str):
            edge = sympy.Eq(relation.lhs, relation.rhs, evaluate=False)
            mask = evaluator.holds(edge, axes, node.shape)
            if mask.any():
                found.append((node, tuple(int(i) for i in np.argwhere(mask)[0])))
                break
    return found


def _transposed(form: ClosedForm, row: Node, column: Node) -> tuple[Any, Ranges]:
    """``∂²L/∂column∂row`` from ``∂²L/∂row∂column``, and the ranges of its indices."""
    formula, known = form.jacobian(column), form.calculus.ranges
    rows, columns = ((form.calculus.indices(n.shape, c), n) for n, c in ((row, "o"), (column, "d")))
    swapped = {}
    for (places, _), letter in ((rows, "d"), (columns, "o")):
        for axis, place in enumerate(places):
            if not place.is_Integer:
                swapped[place] = index(f"{letter}{axis}")
    bound = Ranges({symbol: n for symbol, n in known.items() if "_" in symbol.name})
    return formula.xreplace(swapped), bound


def _words(words: str, scalar: str, a: Node, b: Node) -> str:
    """The structure of a block: it is the Jacobian of a gradient, but that need not be said."""
    if words.startswith("zero"):
        return "zero"
    return re.sub(r" \([^()]* is linear in [^()]*\)", "", words)


def _is_constant(formula: Any, moving: set[str]) -> bool:
    """Whether none of the values in a formula depends on the inputs."""
    return all(
        s.is_integer or s.name.removesuffix(".grad") not in moving
        for s in sympy.sympify(formula).atoms(sympy.Symbol)
    )


def _eigenvalues(matrix: Array) -> tuple[float, ...]:
    """Of the symmetric part, in ascending order, rounding noise put to 0."""
    half = (matrix + matrix.T) / 2
    n = len(half)
    found = mp.eigsy(mp.matrix(half.tolist()), eigvals_only=True)
    values = sorted(float(found[k]) for k in range(n))
    largest = max(map(abs, values), default=0.0)
    noise = 64 * n * compare.ROUNDOFF["float64"] * largest
    return tuple(0.0 if abs(value) <= noise else value for value in values)


def _definiteness(eigenvalues: Sequence[float]) -> str:
    low, high = min(eigenvalues), max(eigenvalues)
    if low == high == 0:
        return "zero"
    if low > 0:
        return "positive definite"
    if high < 0:
        return "negative definite"
    if low == 0:
        return "positive semidefinite"
    if high == 0:
        return "negative semidefinite"
    return "indefinite"
