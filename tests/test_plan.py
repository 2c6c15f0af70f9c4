"""The array program: each operation against the formula worked out element by element."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from gradexplain import explain, limits
from gradexplain.arithmetic import mp
from gradexplain.errors import InputError
from gradexplain.formula.functions import PRIMITIVES
from gradexplain.formula.indices import index
from gradexplain.formula.kinds import Bracket, Cases, FloorDiv, Greatest, Lookup
from gradexplain.plan import blocks, contraction, cost
from gradexplain.plan.arrays import Relative, to_exact, to_float
from gradexplain.plan.evaluate import Evaluator, lowered
from gradexplain.plan.exact import power
from gradexplain.plan.program import Axis, needed
from gradexplain.problem import Request, problem_of
from gradexplain.reading.arrays import ONES

SIZES = {index(name): n for name, n in {"i": 3, "j": 3, "p": 3, "q": 4}.items()}
i, j, p, q = SIZES
SHAPES = {"a": (3, 4), "b": (4, 3), "c": (3,), "s": ()}
TABLES = {"idx": np.array([2, 0, 2])}
TENSORS = {
    name: np.linspace(0.3, 1.7, math.prod(shape)).reshape(shape) for name, shape in SHAPES.items()
}


def at(name: str, *places: Any) -> Any:
    symbol = sympy.Symbol(name, real=True)
    return sympy.Indexed(sympy.IndexedBase(symbol), *places) if places else symbol


def over(body: Any, *bound: Any, kind: Any = sympy.Sum) -> Any:
    return kind(body, *((s, 0, SIZES[s] - 1) for s in bound))


def within(value: Any, condition: Any) -> Any:
    return Cases((value, condition), (1, True))


idx = Lookup(sympy.Symbol("idx"), i)

#: A formula and the kinds of operation that it must be lowered to.
FORMULAS: dict[str, tuple[Any, set[str]]] = {
    "matrix product": (over(at("a", i, q) * at("b", q, j), q), {"contract"}),
    "inner sums": (over(at("a", i, q) * over(at("b", q, p) * at("c", p), p), q), {"contract"}),
    "squares": (over((at("a", i, q) - at("s")) ** 2, q), {"contract"}),
    "an index in no factor": (over(at("c", i), q), {"element"}),
    "window": (over(at("c", i + p - 1) * Bracket(sympy.And(i + p >= 1, i + p <= 3)), p), {"window"}),
    "diagonal": (at("a", i, i), {"window"}),
    "backwards": (at("c", 2 - i), {"window"}),
    "a digit": (at("c", FloorDiv(i + j, sympy.Integer(2))), {"gather"}),
    "taken by a table": (at("c", idx) * at("c", i), {"gather"}),
    "put by a table": (over(at("c", i) * sympy.KroneckerDelta(j, idx), i), {"scatter"}),
    "added by a table": (at("a", i, q) + at("c", i) * sympy.KroneckerDelta(q, idx), {"place"}),
    "greatest": (over(at("a", i, q), q, kind=Greatest), {"reduce"}),
    "the mean of each block": (
        over(at("b", j, sympy.S(2)) * at("a", FloorDiv(i, sympy.Integer(2)), q), q) * at("c", i),
        {"take"},
    ),
    "product": (over(at("a", i, q), q, kind=sympy.Product), {"reduce"}),
    "up to": (over(at("c", p) * Bracket(sympy.Le(p, i)), p), {"scan"}),
    "from": (over(at("c", p) * Bracket(sympy.Ge(p, i)) * at("c", i), p), {"scan"}),
    "decayed": (over(at("c", p) * sympy.exp(at("c", i) - at("c", p)) * Bracket(i <= p), p), {"scan"}),
    "decayed upwards": (over(sympy.exp(at("c", p) - 2 * at("c", i)) * at("c", p) * Bracket(p <= i), p), {"scan"}),
    "running product": (over(within(at("c", p), sympy.Le(p, i)), p, kind=sympy.Product), {"scan"}),
    "all others": (over(within(at("c", p), sympy.Ne(p, i)), p, kind=sympy.Product), {"scan"}),
    "all before": (over(within(at("c", p), sympy.Lt(p, i)), p, kind=sympy.Product), {"scan"}),
    "slope of a running product": (
        over(at("c", p) * Bracket(i <= p) * over(
            within(at("c", j), sympy.And(j <= p, sympy.Ne(j, i))), j, kind=sympy.Product), p),
        {"scan"},
    ),
    "choice": (Cases((at("c", i), at("c", i) > 1), (i + 0.5, True)), {"choose"}),
    "quotient": (at("c", i) / at("a", i, q) ** 2 / at("s"), {"map"}),
    "delta": (sympy.KroneckerDelta(i, 1) * at("c", i), {"select"}),
}  # fmt: skip


def by_hand(e: Any) -> float:
    """A formula without free indices, its sums written out."""
    if isinstance(e, (sympy.Sum, sympy.Product, Greatest)):
        spans = [range(int(last) + 1) for _, _, last in e.limits]
        terms = [
            by_hand(
                e.function.xreplace(
                    {s: sympy.Integer(k) for (s, *_), k in zip(e.limits, at, strict=True)}
                )
            )
            for at in itertools.product(*spans)
        ]
        fold = {sympy.Sum: sum, sympy.Product: math.prod}.get(type(e), max)
        return float(fold(terms))
    if isinstance(e, sympy.Indexed):
        return float(TENSORS[e.base.label.name][tuple(int(whole(k)) for k in e.indices)])
    if e.is_Symbol:
        return float(TENSORS[e.name])
    if isinstance(e, Cases):
        return next(by_hand(value) for value, condition in e.args if holds(condition))
    if isinstance(e, Bracket):
        return float(holds(e.condition))
    if isinstance(e, sympy.KroneckerDelta):
        return float(whole(e.args[0]) == whole(e.args[1]))
    if e.is_Mul:
        factors = sorted(e.args, key=lambda f: not isinstance(f, (Bracket, sympy.KroneckerDelta)))
        total = 1.0
        for factor in factors:
            total *= by_hand(factor) if total else 0.0
        return total
    if e.is_Add:
        return sum(by_hand(t) for t in e.args)
    if e.is_Pow:
        return float(by_hand(e.base) ** by_hand(e.exp))
    if isinstance(e, sympy.exp):
        return math.exp(by_hand(e.args[0]))
    return float(e)


def whole(e: Any) -> int:
    if isinstance(e, Lookup):
        return int(TABLES[e.args[0].name][tuple(int(k) for k in e.args[1:])])
    if isinstance(e, FloorDiv):
        return int(e.args[0]) // int(e.args[1])
    return int(e)


def holds(c: Any) -> bool:
    if isinstance(c, sympy.And):
        return all(holds(part) for part in c.args)
    if c in (sympy.true, sympy.false):
        return bool(c)
    sides = [by_hand(side) for side in c.args]
    return bool(c.func(*(sympy.Float(side) for side in sides)))


def element(e: Any, places: dict[Any, int]) -> float:
    return by_hand(e.xreplace({s: sympy.Integer(k) for s, k in places.items()}))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("kind", ["float64", "exact"])
def test_each_operation(name: str, kind: str) -> None:
    formula, kinds = FORMULAS[name]
    free = sorted((s for s in formula.free_symbols if s in SIZES), key=str)
    shape = tuple(SIZES[s] for s in free)
    exact = kind == "exact"

    def resolve(label: str) -> tuple[Any, Any]:
        value = TENSORS[label]
        return (to_exact(value) if exact else value.astype(float)), np.abs(value)

    evaluator = Evaluator(resolve, SIZES, exact=exact, lookup=TABLES.__getitem__)
    value, size = evaluator.value(formula, free, shape)
    wanted = np.array([
        element(formula, dict(zip(free, at, strict=True)))
        for at in itertools.product(*(range(n) for n in shape))
    ]).reshape(shape)  # fmt: skip
    assert exact or value.dtype == np.float64
    # Exact numbers become float64 once; in float64 the few terms are added up in another order.
    np.testing.assert_allclose(to_float(value), wanted, rtol=1e-13)
    # A magnitude is a bound of |value| at least, and no wild one.
    assert (size >= np.abs(wanted) * (1 - 1e-12)).all()
    assert (size <= 1000 * (1 + np.abs(wanted))).all()
    assert kinds <= {node.kind for node in needed(lowered(formula, *_known(free)))}


#: Formulas with temporaries, and whether they are carried out in blocks.
IN_BLOCKS: dict[str, tuple[Any, bool]] = {
    "rows": (sympy.exp(at("a", i, q)) / (1 + over(sympy.exp(at("a", i, p)) * at("b", p, j), p)), True),
    "columns summed first": (sympy.exp(at("a", i, q)) * over(at("a", p, q), p), True),
    "a sum of blocks": (over(sympy.exp(at("a", i, q) + at("c", i)), i, q), True),
    "a square": (over((at("a", i, q) - at("c", i)) ** 2, q), True),
    "greatest of rows": (over(at("a", i, q) + at("c", i), q, kind=Greatest) - at("c", i), True),
    "a table": (at("c", idx) * sympy.exp(at("a", i, q)), True),
    "running": (over(sympy.exp(at("c", p)) * Bracket(sympy.Le(p, i)), p) + at("c", i), False),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FORMULAS, *IN_BLOCKS])
def test_in_blocks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    formula, cut = IN_BLOCKS.get(name, (FORMULAS.get(name, ("",))[0], None))
    free = sorted((s for s in formula.free_symbols if s in SIZES), key=str)
    shape = tuple(SIZES[s] for s in free)

    def found() -> tuple[Any, Any]:
        evaluator = Evaluator(lambda label: (TENSORS[label], np.abs(TENSORS[label])), SIZES,
                              exact=False, lookup=TABLES.__getitem__)  # fmt: skip
        return evaluator.value(formula, free, shape)

    whole = found()
    monkeypatch.setattr(blocks, "BLOCK", 4)
    monkeypatch.setattr(blocks, "LARGE", 1)
    blocks.schedule.cache_clear()
    try:
        parts = found()
        root = lowered(formula, *_known(free))
        assert cut is None or any(step[1] for step in blocks.schedule(root, True)) == cut
    finally:
        blocks.schedule.cache_clear()
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-14)
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-14)


def _known(free: list[Any]) -> tuple[Any, Any]:
    tables = ((label, t.shape) for label, t in TABLES.items())
    return tuple((s, SIZES[s]) for s in free), (*SHAPES.items(), *tables)


def test_what_stands_twice_is_computed_once() -> None:
    total = over(at("a", i, q), q)
    root = lowered(sympy.exp(total) / total + total, ((i, 3),), tuple(SHAPES.items()))
    assert [node.kind for node in needed(root)].count("contract") == 1


def test_a_selector_hides_what_is_not_finite() -> None:
    """``[i = 0]/c[i]`` is 0 where c is 0, also inside a sum."""
    zero = np.array([1.0, 0.0, 0.0])
    formula = over(Bracket(sympy.Le(i, 0)) / at("c", i) * at("c", i) ** -1, i)
    for exact in (False, True):
        value = to_exact(zero) if exact else zero
        found = Evaluator(lambda _, v=value: (v, zero), SIZES, exact=exact).value(formula, (), ())
        assert float(to_float(found[0])) == 1.0
        assert np.isfinite(found[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ijkl", max_size=3), min_size=1, max_size=8), st.text("ijkl", max_size=3))
def test_contractions_in_any_order(factors: list[str], out: str) -> None:
    """Both for few factors and for many, against NumPy's own."""
    parts = ["".join(dict.fromkeys(f)) for f in factors]
    out = "".join(a for a in dict.fromkeys(out) if any(a in f for f in parts))
    size = dict(zip("ijkl", (2, 3, 4, 1), strict=True))
    source = np.random.default_rng(len(parts))
    arrays = [source.standard_normal([size[a] for a in f]) for f in parts]
    axes = [tuple(Axis(a, size[a]) for a in f) for f in parts]
    target = tuple(Axis(a, size[a]) for a in out)
    wanted = np.einsum(f"{','.join(parts)}->{out}", *arrays)
    np.testing.assert_allclose(contraction.contracted(arrays, axes, target), wanted, atol=1e-12)
    masks = [False] * len(parts)
    found = contraction.masked(arrays, axes, masks, target, 0.0)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_the_cheapest_order() -> None:
    """``(A·B)·x`` is A·(B·x)."""
    n, m, k = Axis("i", 50), Axis("j", 50), Axis("k", 50)
    assert contraction.cost([(n, m), (m, k), (k,)], (m, k))[0] == 2 * 2500 + 50 + 2 * 2500


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_polygamma_far_below_zero(n: int) -> None:
    """By reflection: the recurrence would take 10⁶ steps and more."""
    found = PRIMITIVES["polygamma"].exact
    assert found is not None
    for a in ("-0.3", "-7.25", "-20.5"):
        wanted = mp.polygamma(n, mp.mpf(a))
        assert abs(found(n, mp.mpf(a)) - wanted) <= abs(wanted) * mp.mpf(10) ** -45 + 1e-45
    far = found(n, mp.mpf(-(10**15)) - mp.mpf("0.25"))
    assert mp.isfinite(far) and far != 0


def test_what_no_arithmetic_reaches() -> None:
    """An exponent of astronomic length is an overflow, or 0."""
    tower = mp.exp(mp.exp(mp.mpf(40)))
    for name, below, above in (("exp", 0, mp.inf), ("sinh", -mp.inf, mp.inf), ("erfc", 2, 0)):
        kernel = PRIMITIVES[name].exact
        assert kernel is not None
        assert kernel(-tower) == below and kernel(tower) == above
    assert power(tower, tower) == mp.inf and power(tower, -tower) == 0
    near = 1 + mp.mpf(10) ** -40
    assert abs(power(near, mp.mpf(10) ** 30) - (1 + mp.mpf(10) ** -10)) < 1e-19
    assert PRIMITIVES["lgamma"].exact is not None
    assert mp.isfinite(PRIMITIVES["lgamma"].exact(mp.mpf(-(10**15)) - mp.mpf("0.5")))


def test_windows_are_views() -> None:
    """Of 451² windows of 2,500 elements none is copied: 5 GB would be needed."""
    k, m = index("k"), index("m")
    body = at("t", p + k, q + m) * Bracket(sympy.Ge(p + k, 0))
    e = sympy.Sum(body, (k, 0, 49), (m, 0, 49))
    values = np.arange(500.0 * 500).reshape(500, 500)
    evaluator = Evaluator(lambda _: (values, values), {p: 451, q: 451}, exact=False)
    tracemalloc.start()
    found, size = evaluator.value(e, (p, q), (451, 451))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0, 0] == values[:50, :50].sum() and found[450, 450] == values[450:, 450:].sum()
    # The windows' own errors, and 2,500 additions one after another, of which 32 are allowed anyway.
    np.testing.assert_allclose(size, found * (1 + 2500 / 32))
    assert peak < 50_000_000


def test_costs_are_known_before_anything_runs() -> None:
    k = index("k")
    product = sympy.Sum(at("m", i, k) * at("m", k, j), (k, 0, 99))
    root = lowered(product, ((i, 100), (j, 100)), (("m", (100, 100)),))
    assert cost.cost(root) == (100**3 + 2 * 100**2, 100**2, 8 * 100**2)
    wide = sympy.exp(at("c", i) * at("c", j)) / at("s")
    many = lowered(wide, ((i, 30_000), (j, 30_000)), (("c", (30_000,)), ("s", ())))
    found = cost.cost(many)
    assert found.elements >= 9 * 10**8 and found.bytes >= 8 * 9 * 10**8
    wanted = "outer takes 13.4GiB here; 2GiB allowed"
    with pytest.raises(InputError) as error:
        cost.hold(many, "outer", exact=False, magnitudes=False)
    assert str(error.value) == (
        f"{wanted}\nremedy: use smaller inputs, or allow more: --memory 32GiB"
    )


def test_a_difference_larger_than_its_terms_is_distributed() -> None:
    """``Σ_m (c[p]·c[m] − c[j])·c[m]`` over 300³: no array has 300³ elements, 27 million."""
    m = index("m")
    body = (at("c", p) * at("c", m) - at("c", j)) * at("c", m)
    e = sympy.Sum(body, (m, 0, 299))
    values = np.linspace(-1, 2, 300)
    root = lowered(e, ((j, 300), (p, 300)), (("c", (300,)),))
    assert max(node.elements for node in needed(root)) <= 300**2
    found, _ = Evaluator(lambda _: (values, values), {j: 300, p: 300}, exact=False).value(
        e, (p, j), (300, 300)
    )
    wanted = np.outer(values, np.full(300, (values**2).sum())) - values * values.sum()
    np.testing.assert_allclose(found, wanted, atol=1e-11)


@pytest.mark.parametrize("name", [n for n in FORMULAS if n not in ("put by a table", "delta")])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_magnitudes_that_are_so_many_times_the_values(name: str, sign: float) -> None:
    """Sizes given as such, or as arrays: the magnitudes are the same, also where terms cancel."""
    formula = FORMULAS[name][0]
    free = sorted((s for s in formula.free_symbols if s in SIZES), key=str)
    given = {
        k: np.where(np.arange(v.size).reshape(v.shape) % 2, v, sign * v) for k, v in TENSORS.items()
    }
    found = []
    for size in (np.abs, lambda value: Relative(value)):

        def resolve(label: str, size: Any = size) -> tuple[Any, Any]:
            return given[label], size(given[label])

        evaluator = Evaluator(resolve, SIZES, exact=False, lookup=TABLES.__getitem__)
        found.append(evaluator.value(formula, free, tuple(SIZES[s] for s in free)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    # The same terms, added up in another order.
    np.testing.assert_allclose(np.asarray(found[1][1]), found[0][1], rtol=1e-13)


@pytest.mark.parametrize(
    ("expression", "shape"),
    [("block_diag(x, x, x, x)", (250, 250)), ("sort(x, dim=1)[0]", (600, 600)),
     ("topk(x, 5, dim=1)[0]", (600, 600)), ("softmax(x, dim=1)", (600, 600))],
)  # fmt: skip
def test_no_more_memory_is_taken_than_is_counted(expression: str, shape: tuple[int, ...]) -> None:
    request = Request(expression, grad=ONES, shapes={"x": shape})
    explain(expression, shapes={"x": (8, 8)}, grad="ones")  # what is loaded and derived once
    graph = problem_of(request).graph
    counted = limits.CHECKED_BYTES * sum(math.prod(node.shape) for node in graph.nodes)
    tracemalloc.start()
    explain(expression, shapes={"x": shape}, grad="ones")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < counted + 10_000_000
