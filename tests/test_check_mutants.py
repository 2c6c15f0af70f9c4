"""Wrong backwards are detected and named, right ones called right.  The whole table is
``python -m tests.mutants``; here four mutants of each fault, and every right variant as a formula."""

from __future__ import annotations

import warnings

from tests.mutants.cases import CASES
from tests.mutants.make import mutants, variants
from tests.mutants.table import run, shown


def test_there_are_enough() -> None:
    assert len(CASES) >= 30
    assert sum(1 for case in CASES for _ in variants(case)) >= 100


def test_a_part_of_the_table() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows, alarms, right = run(each=4, with_gradcheck=False)
    table = shown(rows.values(), alarms, right)
    made = sum(r.made for r in rows.values())
    assert made >= 70 and len(rows) >= 20
    assert not alarms, table
    assert all(not r.missed for r in rows.values()), table
    assert sum(r.named for r in rows.values()) >= 0.95 * made, table


def test_mutants_differ_from_what_is_right() -> None:
    for case in CASES[:3]:
        assert all(m.claims != case.claims or m.code for m in mutants(case))
