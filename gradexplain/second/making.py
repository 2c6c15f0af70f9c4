"""One Hessian in the making: every block and product by three routes, held against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import sympy

from gradexplain.arithmetic import mp
from gradexplain.explaining.judging import NOT_ENOUGH
from gradexplain.explaining.running import Run
from gradexplain.explanation import Array, Check, Difference
from gradexplain.formats.notation import latex
from gradexplain.formula.indices import Ranges
from gradexplain.formula.sizes import Unlettered
from gradexplain.graph import Node
from gradexplain.plan.arrays import to_float
from gradexplain.problem import Problem, is_small
from gradexplain.routes.chain import ChainRule, RightDigits, at_moved, cleaned, settled_chain
from gradexplain.routes.closed import ClosedForm, selects
from gradexplain.routes.double import Pass
from gradexplain.routes.judged import JudgedSteps, judged
from gradexplain.routes.pytorch import Asked
from gradexplain.routes.singular import Accounted, Singular
from gradexplain.routes.written import Shown, Written
from gradexplain.second import signs
from gradexplain.second.gradients import Gradients, closed
from gradexplain.second.model import Block, Hessian, Product
from gradexplain.verdict import compare, digits, fold
from gradexplain.verdict.status import worst

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
class HessianAsked:
    """What is asked of the second derivatives, and what is found."""

    u: dict[str, Array] | None
    weights: dict[str, Array]
    whole: bool
    #: The backward pass, with ``p``, the sum of every gradient times ``u_name``, at its end.
    steps: Gradients
    u_name: str
    p: str
    shared: Asked | None = None
    #: See `gradexplain.problem.Problem.again`.
    again: Mapping[int, Pass] = field(default_factory=dict)
    found: Hessian | None = None


class Making:
    """One Hessian in the making."""

    def __init__(self, run: Run, asked: HessianAsked) -> None:
        self.run = run
        self.asked = asked
        problem = run.problem
        self.problem: Problem = problem
        self.leaves = run.leaves
        self.implicit = problem.v_source == "implicit"
        self.v_name = run.explanation.grad.name
        self.forms: dict[str, ClosedForm] = {}
        self.formed: dict[tuple[str, str], bool] = {}
        assert asked.found is not None
        self.hessian = asked.found
        self.differences: list[Difference] = []
        self.few = ""  # an element that has few right digits, in words
        self._known: dict[int | None, Accounted] = {}
        self._rows = cache(self._chain_rows)
        self.answer = None if asked.shared is None else asked.shared.answer()
        if self.answer is not None and (self.answer.error or self.answer.second.error):
            self.refused = self.answer.error or self.answer.second.error
            self.answer = None
        else:
            self.refused = ""
        self.singular = run.judging.singular
        self.borders = signs.borders(run)
        # Whether PyTorch has nan where there is a second derivative, and one side's of two.
        self.undefined = self.corner = False
        # Whether the closed form has nan where PyTorch has a number: nothing checks that number.
        self.broken = False
        # What PyTorch's own derivatives may be off by, where they are coarser than rounding.
        operations = [node.op for node in run.graph.nodes if node.op is not None]
        self.coarse = compare.coarseness(operations, order=2)
        # Each route has a graph of its own.
        self.steps = self.formulas = asked.steps
        made = closed(run, None if self.implicit else self.v_name)
        if made is not None:
            self.formulas = made.with_sum(self.leaves, self.hessian.p, self.hessian.u)
        self.values = {
            **problem.values,
            **({} if self.implicit else {self.v_name: problem.v}),
            **{f"{self.hessian.u}.{n}": u for n, u in asked.weights.items()},
        }
        if len(self.leaves) == 1:
            (self.values[self.hessian.u],) = asked.weights.values()
        self._judge_steps()
        with mp.workdps(self.precision):
            self._blocks()
            self._whole()
            self._products()

    def _judge_steps(self) -> None:
        """The chain rule for ``H·u``, with the digits that it and H need, and each step of PyTorch's
        second pass held against it."""
        graph, wanted = self.steps.graph, list(self.problem.wanted)
        self.chain, self.precision, self.enough = settled_chain(
            graph, self._all_values(), np.ones(()), wanted,
            exact=is_small(graph) and self.asked.whole,
        )  # fmt: skip
        args = self._all_values(), np.ones(()), wanted, self.problem.dtype
        self.right = RightDigits(self.chain, self.precision, *args)
        self.judged: JudgedSteps | None = None
        if self.answer is not None:
            with mp.workdps(self.precision):
                self.judged = judged(
                    graph, self.chain.contributions, self.answer.second.steps, wanted,
                    self.problem.dtype, self.asked.again,
                )  # fmt: skip

    # -- blocks ----------------------------------------------------------------------------------

    def _blocks(self) -> None:
        rows = self._rows(compare.still) if self.asked.whole else {}
        if not self._derived() and self.formulas.sizes is not None:
            self.formulas = replace(self.formulas, sizes=None)
            self._derived()
        for a in self.leaves:
            for b in self.leaves:
                self.hessian.blocks[a.label, b.label] = self._block(a, b, rows)

    def _derived(self) -> bool:
        """Derive the formula of every block that has one; whether sizes may be letters in them."""
        made, few, found = self.formulas, len(self.leaves) <= _FEW, []
        for a in self.leaves:
            if (id := made.of.get(a.label)) is not None:
                exact = is_small(made.graph.at(id)) and self.asked.whole
                self.forms[a.label] = form = made.form(
                    id, self.values, np.ones(a.shape), exact=exact
                )
                form.long = form.long if few else _SHORT
        for a in self.leaves:
            for b in self.leaves if a.label in self.forms else ():
                self.formed[a.label, b.label] = formed = self._formed(a, b)
                found += [(self.forms[a.label], self.forms[a.label].jacobian(b))] if formed else []
        try:
            lettered = [form.lettered(formula) for form, formula in found if formula is not None]
        except Unlettered:
            return False
        return few and len(lettered) == len(found) and not any(map(selects, lettered))

    def _formed(self, a: Node, b: Node) -> bool:
        """Whether ``∂²L/∂a∂b`` is given by a formula; derived once for both orders."""
        if a.id != b.id and len(self.leaves) > _MANY:
            return False
        form, other = self.forms[a.label], self.forms.get(b.label)
        places = [leaf.label for leaf in self.leaves]
        if other is not None and places.index(b.label) < places.index(a.label):
            if other.is_long(a):
                return len(self.leaves) <= _FEW
            form.give(b, *signs.transposed(other, b, a))
        return len(self.leaves) <= _FEW or not form.is_long(b)

    def _block(self, a: Node, b: Node, rows: Mapping[tuple[str, str], Any]) -> Block:
        name, shape = f"{a.label},{b.label}", a.shape + b.shape
        form = self.forms.get(a.label)
        d = self._left(a, "", b, "")
        if form is None:  # no gradient flows to it at all
            zero = np.zeros(shape) if self.asked.whole else None
            return Block(name, 0, f"{d} = 0", latex(f"{d} = 0"), (), "", a.label, b.label, "zero",
                         shape, zero, zero, zero, zero)  # fmt: skip
        formed = self.formed[a.label, b.label]
        if formed:
            shown, structure = Written(form).jacobian(b)
            text = self._titled(shown, a, b)
            block = Block(
                name, shown.formula, text, latex(text), shown.where, shown.ranges, a.label, b.label,
                signs.words(structure, self.hessian.scalar, a, b), shape, None, None, None, None,
            )  # fmt: skip
        else:
            block = Block(name, None, f"{d} = …", latex(f"{d} = …"), (), "", a.label, b.label,
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
            block.value = cleaned(pair, exact=form.exact)
            size = np.maximum(pair[1], size)
        block.tolerance, exact = signs.bounds(size, block.known, self.problem.v, self.problem.dtype)
        block.verdict, block.margin = self._compare(
            self._left(a, "", b, ""), block.value, stepped, block.torch, block.tolerance, exact,
            lambda found: self._lost(a, b, found), b, self.steps.of.get(a.label),
        )  # fmt: skip
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
            return form.at(values, self.problem.v, exact=form.exact).gradient_value(a)[0]

        with np.errstate(all="ignore"):
            below, here, above = gradient(-h), gradient(0.0), gradient(h)
            return to_float((here - below) / h), to_float((above - here) / h)

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
        lost: Callable[[Array], Any],
        node: Node,
        id: int | None = None,
    ) -> tuple[str, float | None]:
        """The verdict on ``H·u`` for ``node``, or the Jacobian of the value ``id`` by it, and its margin;
        differences are kept.  ``lost`` says which elements of PyTorch's have few right digits."""
        accounted, pairs = self._accounted(node, id), []
        if value is not None:
            pairs.append((("closed form", "chain rule"), value, chain, exact))
        if torch is not None:
            first = ("chain rule", chain) if value is None else ("closed form", value)
            pairs.append(((first[0], "PyTorch"), first[1], torch, tolerance))
        found = [d for pair in pairs if (d := compare.worst(name, *pair))]
        self.differences += found
        status = "skipped" if torch is None else "agree"
        if found and all(map(self._by_kernel, found)):
            status = "convention"
        elif found:
            left = (accounted(compare.differs(*pair[1:]), *pair[1:3]) for pair in pairs)
            status = "mismatch" if any(part.any() for part in left) else "convention"
        if torch is None or self.judged is None:
            return status, None
        (routes, expected, given, allowed) = pairs[-1]
        dtype, scale = self.problem.dtype, compare.largest(self.problem.v)
        whole = compare.judge(name, routes, expected, given, allowed, dtype, scale)
        if status == "convention":
            return status, whole.margin
        few = digits.worst(name, lost(given), given, expected, dtype)[1]
        if status == whole.verdict == "agree" and not few:
            return status, whole.margin
        # The bound is carried through both passes: what decides are the steps, each by itself.
        steps = worst(step.verdict for step in self.judged.every())
        alone = value is None or not compare.differs(value, chain, exact).any()
        if alone and steps in ("agree", "convention"):
            if not few or not self._astray:
                self.differences = [d for d in self.differences if d not in found]
                self.few = self.few or few
                return "convention" if few else steps, whole.margin
            if not digits.few(digits.whole(given, expected, dtype, scale), dtype):
                return "cannot tell", whole.margin
        if status == "agree":
            status = whole.verdict
        return status, whole.margin

    def _accounted(self, node: Node, id: int | None = None) -> Callable[[Array, Array, Array], Any]:
        """What nothing accounts for of differences in ``H·u``, or in the Jacobian of the value ``id``."""

        def left(wrong: Array, one: Array, other: Array) -> Any:
            if id not in self._known:
                graph = self.steps.graph
                graph = graph if id is None else graph.at(id)
                args = *self._marks, self.problem.wanted
                self._known[id] = Accounted(graph, self.chain.forward, *args)
            return self._known[id].left(wrong, one, other, node)

        return left

    @cached_property
    def _marks(self) -> tuple[dict[int, Array], list[Singular], dict[int, Array]]:
        """`Accounted`'s for both passes: gradients on the way are values of the second."""
        run, first = self.run, self.run.judging.accounted
        special, points = dict(first.special), [*first.points, *self.borders]
        for id, (value, _) in replace(first, points=points).marked.upstream.items():
            if (gradient := self.steps.of.get(run.graph[id].label)) is not None:
                special[gradient] = np.isnan(value)
        forward = self.chain.forward.items()
        return special, points, {id: np.isinf(to_float(value)) for id, (value, _) in forward}

    def _follows(self, leaf: Node, product: Product) -> bool:
        """Whether ``H·u`` differs only where H does, and there for a reason."""
        column = [b for b in self.hessian.blocks.values() if b.column == leaf.label]
        assert product.torch is not None and product.tolerance is not None
        wrong = compare.differs(product.known, product.torch, product.tolerance)
        for block in column:
            if block.verdict == "convention" and block.torch is not None:
                assert block.tolerance is not None
                off = compare.differs(block.known, block.torch, block.tolerance)
                wrong &= ~off.any(axis=tuple(range(off.ndim - len(leaf.shape))))
        return not wrong.any() and all(block.verdict != "mismatch" for block in column)

    @cached_property
    def _astray(self) -> bool:
        """Whether the run whose steps were judged is borne out by neither PyTorch's own ``H·u``, which
        lacks digits that it has, nor by its H."""
        assert self.answer is not None
        second, blocks = self.answer.second, self.answer.blocks
        for b in self.leaves:
            total = size = zero = np.zeros(b.shape)
            runs = (run.get(b.label) for run in (second.gradients, second.stepped))
            run, stepped = (zero if array is None else array for array in runs)
            wrong, sure = self.right.lost(b, run), ~self.right.lost(b, stepped)
            for (a, own), block in blocks.items():
                if own == b.label:
                    u = self.asked.weights[a]
                    total = total + np.tensordot(u, block, u.ndim)
                    size = size + np.tensordot(np.abs(u), np.abs(block), u.ndim)
            wrong |= bool(blocks) & compare.differs(total, stepped, compare.SEEN * size)
            if (wrong & sure).any():
                return True
        return False

    def _lost(self, a: Node, b: Node, found: Array) -> Any:
        """True at the elements of a block that have few right digits in ``found``."""
        key, dtype = (a.label, b.label), self.problem.dtype

        def moved() -> Iterator[Array]:
            return (self._rows(move)[key][0] for move in compare.moves(dtype))

        exact, scale = self._rows(compare.still)[key][0], compare.largest(self.problem.v)
        return digits.lost(found, exact, dtype, scale, moved if self.chain.exact else None)

    def _chain_rows(self, move: compare.Move) -> dict[tuple[str, str], tuple[Array, Array]]:
        """Every block by the chain rule on the graph of the backward pass, a row at a time, at values
        that are moved so."""
        graph, exact = self.steps.graph, self.chain.exact
        values = at_moved(graph, self._all_values(), move)
        found = {}
        for a in self.leaves:
            id = self.steps.of.get(a.label)
            rows: dict[str, list[Any]] = {b.label: [] for b in self.leaves}
            chain = None
            if id is not None:
                chain = ChainRule(graph.at(id), values, exact=exact)
            for place in np.ndindex(*a.shape):
                if chain is not None:
                    basis = np.zeros(a.shape)
                    basis[place] = 1.0
                    chain.backward(basis, list(self.problem.wanted))
                for b in self.leaves:
                    none = np.zeros(b.shape), np.zeros(b.shape)
                    pair = none if chain is None else chain.upstream.get(b.id, none)
                    size = np.asarray(pair[1], dtype=np.float64)
                    rows[b.label].append((cleaned(pair, exact=exact), size))
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

    def _titled(self, shown: Shown, a: Node, b: Node) -> str:
        """The formula's lines with ``∂²L/∂a∂b`` to the left."""
        left, _, right = shown.text.partition(" = ")
        above, below = left[1:].rsplit("/∂", 1)
        at = above.removeprefix(f"{a.label}.grad")
        return f"{self._left(a, at, b, below[len(b.label) :])} = {right}"

    def _left(self, a: Node, at: str, b: Node, there: str) -> str:
        scalar = self.hessian.scalar
        if a.id == b.id and not a.shape:
            return f"∂²{scalar}/∂{a.label}²"
        return f"∂²{scalar}/∂{a.label}{at}∂{b.label}{there}"

    # -- the whole -------------------------------------------------------------------------------

    def _whole(self) -> None:
        h = self.hessian
        reach = self.run.graph.reach(list(self.problem.wanted))
        moving = {n.label for n in self.run.graph.nodes if n.id in reach}
        h.constant = all(
            block.formula is not None and signs.is_constant(block.formula, moving)
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
            h.eigenvalues = signs.eigenvalues(h.matrix)
            h.definiteness = signs.definiteness(h.eigenvalues)

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
        given = self.asked.u is not None
        graph = self.formulas.graph
        exact = is_small(graph) and self.asked.whole
        form = self.formulas.form(graph.output, self.values, np.ones(()), exact=exact)
        form.scalar = form.loss_name = self.hessian.p
        # Where H is whole, a product that nobody asked for has nothing to add.
        chain = self.chain if given or not self.asked.whole else None
        for leaf in self.leaves:
            product = self._product(leaf, form)
            product.given = given
            self.hessian.products[leaf.label] = product
            if chain is None:
                continue
            zero = np.zeros(leaf.shape)
            pair = chain.upstream.get(leaf.id, (zero, zero))
            product.chain_rule, size = cleaned(pair, exact=chain.exact), pair[1]
            if product.value is not None:
                pair = form.gradient_value(leaf)
                product.value = cleaned(pair, exact=exact)
                size = np.maximum(pair[1], size)
            if self.answer is not None:
                kept = self.answer.second.gradients.get(leaf.label)
                product.torch = zero if kept is None else kept
            product.tolerance, bound = signs.bounds(
                size, product.known, self.problem.v, self.problem.dtype
            )
            product.verdict, product.margin = self._compare(
                f"(H·{self.hessian.u})" + (f".{leaf.label}" if len(self.leaves) > 1 else ""),
                product.value, product.chain_rule, product.torch, product.tolerance, bound,
                partial(self.right.lost, leaf), leaf,
            )  # fmt: skip
            if product.verdict == "mismatch" and self._follows(leaf, product):
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
            text = self._product_text("", "…", leaf)
            return Product(leaf.label, None, text, latex(text), (), "", None, zero, None, zero)
        if not any(self.forms[a.label].is_long(leaf) for a, _ in column):
            total, ranges = sympy.S.Zero, Ranges()
            for a, _ in column:
                u = self.hessian.u if len(self.leaves) == 1 else f"{self.hessian.u}.{a.label}"
                own = self.forms[a.label]
                shape = own.graph[a.id].shape
                own.calculus.indices(own.graph[leaf.id].shape, "d")
                total += own.calculus.weighted(own.jacobian(leaf), u, shape)
                ranges |= own.calculus.ranges
            form.give(leaf, total, ranges)
        shown = Written(form).gradient(leaf)
        left, _, right = shown.text.partition(" = ")
        at = left.rsplit("/∂", 1)[1][len(leaf.label) :]
        text = self._product_text(at, right, leaf)
        return Product(
            leaf.label,
            shown.formula,
            text,
            latex(text),
            shown.where,
            shown.ranges,
            zero,
            zero,
            None,
            zero,
        )

    def _product_text(self, at: str, right: str, leaf: Node) -> str:
        of = "" if len(self.leaves) == 1 else f".{leaf.label}"
        return f"(H·{self.hessian.u}){of}{at} = {right}"

    # -- verdict ---------------------------------------------------------------------------------

    def check(self) -> Check:
        h = self.hessian
        items: list[Block | Product] = [*h.blocks.values(), *h.products.values()]
        status = "agree" if self.asked.shared is not None else "skipped"
        if self.answer is not None and not self.enough:
            self.refused = NOT_ENOUGH
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
        steps = () if self.judged is None else self.judged.every()
        if found.status == "convention" and any(step.why == "coarse" for step in steps):
            found.reason = found.reason or compare.COARSE
        elif found.status == "convention":
            whys = {step.why for step in steps}
            found.reason = found.reason or fold.reason(found.status, whys, 0, 0, self.few)
        if self.broken and found.status == "convention":
            found.status = "cannot tell"
            found.reason = (
                "the closed form meets 0/0 or 0·inf at this point and has no number there; "
                "PyTorch's numbers stand alone"
            )
        return found
