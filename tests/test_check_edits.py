"""The table of edits: which edit is chosen, how it is written, and that it makes the claim right."""

from __future__ import annotations

import ast

import pytest

from gradexplain.checking.checker import check
from gradexplain.checking.places import bearing, edits, slots
from gradexplain.checking.report import CheckReport, Fault, InputReport, Patch, together
from gradexplain.checking.rewriting import RULES, Scope, replaced, text

SOFTMAX = "softmax(x, dim=1)"


@pytest.mark.parametrize(
    ("expression", "claim", "code", "remedy"),
    [
        ("x**3", "x: 3*v*x**3", "exponent", "x: 3 * v * x ** 2"),
        ("exp(x)", "x: v*x", "output_for_input", "x: v * y"),
        (SOFTMAX, "x: y*(v - (v*y).sum(dim=1))", "missing_keepdim",
         "x: y * (v - (v * y).sum(dim=1, keepdim=True))"),
        (SOFTMAX, "x: y*(v - (v*y).sum(dim=0, keepdim=True))", "wrong_dim",
         "x: y * (v - (v * y).sum(dim=1, keepdim=True))"),
        (SOFTMAX, "x: y*(v - v.sum(dim=1, keepdim=True))", "missing_factor",
         "x: y * (v - (v * y).sum(dim=1, keepdim=True))"),
        ("x - x.mean(dim=0)", "x: v - v.sum(dim=0)", "sum_vs_mean", "x: v - v.mean(dim=0)"),
        ("x @ w", "x: v @ w", "transposed", "x: v @ w.T"),
    ],
)  # fmt: skip
def test_the_edit_of_a_claim(expression: str, claim: str, code: str, remedy: str) -> None:
    shapes = {"x": (3, 3), "w": (3, 3)} if "w" in expression else None
    fault = check(expression, claim, shapes=shapes).fault
    assert fault is not None
    assert (fault.code, fault.remedy) == (code, remedy)
    assert check(expression, remedy, shapes=shapes).right


def test_two_faults_at_once() -> None:
    fault = check("x*exp(x)", "x: v*exp(x) - v*x").fault
    assert fault is not None and fault.remedy
    assert check("x*exp(x)", fault.remedy).right
    assert len(fault.code.split("+")) in (1, 2)


SOURCE = """\
def backward(ctx, grad):
    x, = ctx.saved_tensors
    grad = 2 * x * grad
    return grad
"""


def test_an_edit_leaves_the_rest_as_it_was() -> None:
    tree = ast.parse(SOURCE).body[0]
    assert isinstance(tree, ast.FunctionDef)
    scope = Scope({"x": 2, "grad": 2}, upstream=frozenset({"grad"}), inputs=frozenset({"x"}))
    found = list(edits(bearing(tree, [0]), scope))
    assert ast.unparse(tree) + "\n" == SOURCE
    shown = set()
    for edit in found:
        edit.slot.put(edit.new)
        shown.add(ast.unparse(ast.fix_missing_locations(tree)))
        edit.slot.put(edit.old)
    assert ast.unparse(tree) + "\n" == SOURCE
    assert SOURCE.strip() not in shown
    assert SOURCE.strip().replace("2 * x", "2 * x ** 3") in shown
    # No place is given the same text twice.
    assert len({(id(e.slot), text(e.new)) for e in found}) == len(found)


def test_faults_asked_for_come_first() -> None:
    tree = ast.parse(SOURCE).body[0]
    assert isinstance(tree, ast.FunctionDef)
    scope = Scope({"x": 2, "grad": 2}, upstream=frozenset({"grad"}))
    codes = [e.code for e in edits(bearing(tree, [0]), scope, first=("missing_term",))]
    plain = [e.code for e in edits(bearing(tree, [0]), scope)]
    assert codes[0] == "missing_term" != plain[0]
    assert len(codes) == len(plain) and len(RULES) > 40


def test_only_what_bears_on_a_result_is_edited() -> None:
    tree = ast.parse("def f(ctx, g):\n    a = g * 2\n    b = g * 3\n    return a, b\n").body[0]
    assert isinstance(tree, ast.FunctionDef)
    scope = Scope({"g": 1, "a": 1, "b": 1}, upstream=frozenset({"g"}))
    for place, mine, other in ((0, "g * 2", "g * 3"), (1, "g * 3", "g * 2")):
        olds = {text(e.old) for e in edits(bearing(tree, [place]), scope)}
        assert mine in olds and other not in olds


def test_parts_are_replaced_in_a_copy() -> None:
    node = ast.parse("2 * (x @ g)", mode="eval").body
    assert isinstance(node, ast.BinOp)
    part = next(n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == "g")
    new = ast.parse("g + g.T", mode="eval").body
    assert text(replaced(node, {id(node): node.right, id(part): new})) == "x @ (g + g.T)"
    assert text(node) == "2 * (x @ g)"
    assert any(s.place == "factor" for s in slots(ast.parse("def f(g):\n    return 2 * g")))


def test_two_mends_of_one_line_are_one_line() -> None:
    old = "    return g * a, g * b"
    texts = (11, 5, "    return g * b, g * b"), (18, 5, "    return g * a, g * a + g")
    inputs = {}
    for name, (column, width, new) in zip("ab", texts, strict=True):
        fault = Fault("unknown", "", new.strip(), (Patch(3, 3, new, old, column, width),))
        inputs[name] = InputReport(name, (2,), "wrong", fault)
    report = CheckReport("f", "y", "float64", "wrong", inputs, [])
    together(report)
    assert [i.remedy for i in report.inputs.values()] == ["return g * b, g * a + g"] * 2
    assert {i.patch[0].text for i in report.inputs.values()} == {"    return g * b, g * a + g"}
