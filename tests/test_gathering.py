"""Common factors and common denominators are those that SymPy finds."""

from __future__ import annotations

from typing import Any

import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from gradexplain.formula.gathering import factored, together
from gradexplain.formula.indices import index
from gradexplain.formula.kinds import Sum, element_symbol

_I, _P = index("d0"), index("b_c1s3")
_ATOMS = st.sampled_from(
    [element_symbol("x", (_I,)), element_symbol("w", (_P, _I)), element_symbol("c", ())]
)
_NUMBERS = st.sampled_from([sympy.Rational(*pair) for pair in ((2, 1), (-3, 1), (1, 2), (4, 3))])


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    powers = st.sampled_from([-2, -1, 2, sympy.S.Half, -sympy.S.Half])
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda terms: sympy.Add(*terms)),
        st.lists(inner, min_size=2, max_size=3).map(lambda factors: sympy.Mul(*factors)),
        st.tuples(inner, powers).map(lambda pair: pair[0] ** pair[1]),
        inner.map(sympy.exp),
        inner.map(lambda body: Sum(body, (_P, 0, 2))),
    )


@given(st.recursive(st.one_of(_ATOMS, _NUMBERS), _larger, max_leaves=8))
@settings(max_examples=150, deadline=None)
def test_as_sympy(e: Any) -> None:
    if e.has(sympy.zoo, sympy.nan, sympy.I):
        return
    assert factored(e) == sympy.factor_terms(e)
    assert together(e) == sympy.together(e)
