"""Several backward calls, starts in the middle, retained gradients, and where the pass stops."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gradexplain
from gradexplain.accumulation import explain_calls
from gradexplain.cli import main
from gradexplain.formats import terminal
from gradexplain.formats.text import Style
from gradexplain.pages.run import page

LAYERS = "x2 = x1*w1; y = x2*w2; L = Y - y; L2 = x1*x1"
SQUARE = [[2, 2], [2, 2]]
AT = {
    "x1": SQUARE,
    "w1": [[5, 5], [5, 5]],
    "w2": [[6, 6], [6, 6]],
    "Y": [[10, 10], [10, 10]],
}
ONE = {"a": 1.0, "b": 1.0, "c": 1.0}


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The JSON that ``run`` prints, and that it ended well."""
    assert main(["run", *arguments, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def message(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["run", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def at(values: dict[str, Any]) -> list[str]:
    return [part for name, value in values.items() for part in ("--at", f"{name}={value}")]


# -- several calls ----------------------------------------------------------------------------


def test_two_calls_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "3*a + 2*b*b + log(c)", *at(ONE), "--grad", "1", "--grad", "1")
    first, second = found["calls"]
    assert {n: g["after"] for n, g in first["gradients"].items()} == {"a": 3, "b": 4, "c": 1}
    assert {n: g["after"] for n, g in second["gradients"].items()} == {"a": 6, "b": 8, "c": 2}
    assert {n: g["torch"] for n, g in second["gradients"].items()} == {"a": 6, "b": 8, "c": 2}
    assert found["check"]["status"] == "agree"
    (note,) = [n for n in found["notes"] if n["kind"] == "accumulation"]
    assert "a.grad is 3 + 3 = 6" in note["text"]


def test_another_output_adds_to_the_same_leaf(capsys: pytest.CaptureFixture[str]) -> None:
    two = ["--from", "L", "--from", "L2", "--grad", "ones", "--grad", "ones"]
    first, second = document(capsys, LAYERS, *at(AT), *two)["calls"]
    assert first["gradients"]["x1"]["after"] == [[-30, -30], [-30, -30]]
    assert second["gradients"]["x1"]["after"] == [[-26, -26], [-26, -26]]
    assert second["gradients"]["x1"]["torch"] == [[-26, -26], [-26, -26]]
    assert second["gradients"]["w1"]["added"] is None
    assert second["gradients"]["w1"]["after"] == [[-12, -12], [-12, -12]]
    assert second["explanation"]["output"]["name"] == "L2"
    assert list(second["explanation"]["gradients"]) == ["x1"]


def test_zeroing_between_calls() -> None:
    x = explain_calls("2*b*b", [1, 10], at={"b": 3}, zero_grad=True)
    assert [float(c.gradients["b"].after) for c in x.calls] == [12, 120]
    assert [c.zeroed for c in x.calls] == [False, True]
    assert x.check is not None and x.check.status == "agree"


def test_calls_with_different_vectors() -> None:
    x = explain_calls("w*w*x", [[1, 0], [0, 1]], at={"w": [2, 3], "x": [5, 7]})
    after = [c.gradients["w"].after for c in x.calls]
    assert [a.tolist() for a in after if a is not None] == [[20, 0], [20, 42]]


def test_as_the_same_calls_in_a_program() -> None:
    w = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    h = w.tanh()
    first, second = (h * h).sum(), h.exp()
    first.backward(retain_graph=True)
    second.backward(torch.tensor([1.0, -2.0], dtype=torch.float64), retain_graph=True)
    x = explain_calls(
        "h = tanh(w); first = (h*h).sum(); second = exp(h)",
        [None, [1, -2]],
        starts=["first", "second"],
        at={"w": [0.5, 2.0]},
    )
    assert w.grad is not None
    after = x.calls[-1].gradients["w"].after
    # In float64, by other roundings than PyTorch's.
    assert after is not None and np.allclose(after, w.grad.numpy(), rtol=1e-13)


# -- freeing the graph ------------------------------------------------------------------------


def test_a_second_call_on_a_freed_graph(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "y = b*b; L = a + y", *at({"a": 1, "b": 2}), "--no-retain-graph")
    first, second = found["calls"]
    assert first["error"] is None
    assert "backward through the graph a second time" in second["error"]
    assert second["failed_at"] == "y"
    # What a program finds in .grad after the exception: a's share had been added already.
    assert {n: g["torch"] for n, g in second["gradients"].items()} == {"a": 2, "b": 4}
    assert found["freed"] == [
        {"node": "y", "function": "MulBackward0", "saved": ["self", "other"]},
        {"node": "L", "function": "AddBackward0", "saved": []},
    ]
    (note,) = [n for n in found["notes"] if n["kind"] == "freed graph"]
    assert note["moved"] == ["a"] and "retain_graph=True" in note["text"]


@pytest.mark.parametrize("expression", ["(a + 2).sum()", "-(a - 1).mean()", "a.reshape(4).sum()"])
def test_operations_that_save_nothing_can_be_gone_through_again(expression: str) -> None:
    x = explain_calls(expression, at={"a": SQUARE}, retain_graph=False)
    assert [c.error for c in x.calls] == ["", ""]
    assert not any(saved.names for saved in x.saved)
    assert any("nothing to free" in note.text for note in x.notes)


@pytest.mark.parametrize("expression", ["3*a", "a*a", "exp(a)", "a**2", "2**a", "a/3"])
def test_what_a_program_would_meet(expression: str) -> None:
    """The saved tensors, and the second call's fate, of the very text."""
    a = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    y = eval(expression, {"a": a, "exp": torch.exp})
    fn = y.grad_fn
    names = [n[11:] for n in dir(fn) if n.startswith("_raw_saved_")]
    expected = {n for n in names if getattr(fn, f"_saved_{n}") is not None}
    x = explain_calls(expression, at={"a": 2}, retain_graph=False)
    assert [(s.function, set(s.names)) for s in x.saved] == [(type(fn).__name__, expected)]
    y.backward()
    with pytest.raises(RuntimeError):
        y.backward()
    assert x.calls[1].error


def test_graphs_that_share_no_operation_are_freed_apart() -> None:
    x = explain_calls(
        "L = x*x; L2 = exp(x)", [1, 1], starts=["L", "L2"], at={"x": 2}, retain_graph=False
    )
    assert [c.error for c in x.calls] == ["", ""]
    assert any("needed by none of the others" in note.text for note in x.notes)


def test_without_pytorch_nothing_is_claimed() -> None:
    x = explain_calls("x*x", at={"x": 2}, retain_graph=False, check=False)
    assert x.saved == [] and all(not c.error for c in x.calls)
    assert any("was not asked" in note.text for note in x.notes)


# -- in the middle ----------------------------------------------------------------------------


def test_backward_from_an_intermediate(capsys: pytest.CaptureFixture[str]) -> None:
    v = "[[-1,-1],[-1,-1]]"
    found = document(capsys, LAYERS, *at(AT), "--from", "y", "--grad", v)
    assert found["output"]["name"] == "y"
    gradients = {n: g["value"] for n, g in found["gradients"].items()}
    assert gradients["x1"] == [[-30, -30], [-30, -30]]
    assert gradients["w1"] == [[-12, -12], [-12, -12]]
    assert gradients["w2"] == [[-10, -10], [-10, -10]]
    assert [row["node"] for row in found["forward"]] == ["x2", "y"]
    assert found["check"]["status"] == "agree"


def test_the_v_of_every_named_intermediate(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "y = 2*x; z = (y**2).sum()", "--at", "x=1,2,3")
    y = found["intermediates"]["y"]
    assert y["value"] == y["chain_rule"] == y["torch"] == [4, 8, 12]
    assert y["formula"] == "y.grad[j] = 2·y[j]"
    assert (y["whole"], y["part"]) == (["x"], [])


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("y = 2*x; z = (y**2).sum()", {"x": [1, 2, 3]}),
        ("s = x.sum(dim=0); h = x/s; L = (h*h*w).sum()", {"x": [[2, 1], [3, 3]], "w": [1, -2]}),
        ("h = tanh(w@x); p = softmax(h, dim=0); L = -log(p[1])", {"w": [[1, 2], [3, 1]],
                                                                   "x": [0.2, 0.1]}),
    ],
)  # fmt: skip
def test_backward_with_that_v_gives_the_same_gradients(
    expression: str, values: dict[str, Any]
) -> None:
    whole = gradexplain.explain(expression, at=values)
    assert whole.intermediates
    for name, i in whole.intermediates.items():
        there = explain_calls(expression, [i.value], starts=[name], at=values)
        for leaf in i.whole:
            assert np.allclose(there.gradients[leaf].value, whole.gradients[leaf].value)
        for leaf in i.part:
            assert not np.allclose(there.gradients[leaf].value, whole.gradients[leaf].value)
        for leaf in set(values) - {*i.whole, *i.part}:
            assert not there.gradients[leaf].value.any()


def test_a_name_that_was_assigned_twice_is_the_last_one() -> None:
    x = explain_calls("x = x*2; x = x**2; x.sum()", [[1, 1]], starts=["x"], at={"x": [1, 2]})
    assert x.output.name == "x″" or x.output.name == "x′′"
    assert x.gradients["x"].value.tolist() == [8, 16]


# -- what stops, and what is kept -------------------------------------------------------------


def test_a_retained_gradient(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "y = x*x; 3*y", "--at", "x=2,3", "--grad", "1,10",
                     "--retain-grad", "y")  # fmt: skip
    assert found["intermediates"]["y"]["torch"] == [3, 30]
    assert found["intermediates"]["y"]["retained"] is True
    (note,) = [n for n in found["notes"] if n["kind"] == "non-leaf"]
    assert "y.retain_grad()" in note["text"]


def test_a_retained_gradient_accumulates_too() -> None:
    x = explain_calls("y = x*x; L = 3*y", [1, 1], at={"x": 2}, retain_grad="y")
    kept = [c.gradients["y"] for c in x.calls]
    assert [(float(k.after), float(k.torch)) for k in kept] == [(3, 3), (6, 6)]


def test_the_start_itself_can_be_retained() -> None:
    x = explain_calls("y = x*x; 3*y", [7], starts=["y"], at={"x": 2}, retain_grad=["y"])
    assert x.intermediates["y"].value == x.intermediates["y"].torch == 7


def test_where_the_pass_stops() -> None:
    x = gradexplain.explain("h = x*w; L = (h + tensor([1, 2])).sum()", at={"x": [1, 2], "w": 3},
                            wrt="x")  # fmt: skip
    assert [(s.node, s.input, s.kind) for s in x.stops] == [
        ("t2", "t1", "constant"),
        ("h", "w", "not wanted"),
    ]
    page = " ".join(str(x).split())
    assert "to w stops here: w does not require grad: it is not in --wrt" in page


def test_detach_stops() -> None:
    x = gradexplain.explain("h = x.detach(); L = h*x", at={"x": 3})
    assert [(s.node, s.input, s.kind) for s in x.stops] == [("L", "h", "stopped")]
    assert x.gradients["x"].value == 3


# -- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--from", "q"], "--from q: no value has that name; the computed values are: y, L"),
        (["--from", "x"], "x is an input: nothing was computed"),
        (["--from", "y", "--from", "L", "--grad", "1"], "--from is given 2 times and --grad 1"),
        (["--retain-grad", "x"], "x is an input: PyTorch keeps its .grad anyway"),
        (["--from", "y", "--retain-grad", "L"], "L plays no part in y"),
        (["--zero-grad"], "--zero-grad zeroes between calls"),
        (["--from", "y", "--wrt", "k"], "y does not require grad"),
        (["--order", "2", "--grad", "1", "--grad", "1"], "--order 2 differentiates one"),
        (["--grad", "1", "--grad", "1,2"], "mismatch in shape"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    error = message(capsys, "y = x*x; L = 3*y + k", "--at", "x=2", "--at", "k=1", *arguments)
    assert error.startswith("gradexplain: " + expected)
    assert error.count("remedy:") == 1


def test_several_grads_need_a_command_that_takes_them() -> None:
    sys.stdout = io.StringIO() if sys.stdout is None else sys.stdout
    assert main(["hessian", "x*x", "--grad", "1", "--grad", "2"]) == 2


# -- samples ----------------------------------------------------------------------------------

SAMPLES = sorted((Path(__file__).parent.parent / "samples").glob("accumulate_*.args"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
@pytest.mark.parametrize("width", [80, 100])
def test_pages_fit(path: Path, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = path.read_text("utf-8").splitlines()
    assert main([*arguments, "--width", str(width)]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= width
    if width == 100:
        assert page == path.with_suffix(".txt").read_text("utf-8")


def test_the_page_from_python_is_the_command_lines() -> None:
    x = explain_calls("2*b*b", [1, 1], at={"b": 3})
    assert str(x) == terminal.render(page(x), Style())
    assert "call 2  y.backward(1, retain_graph=True)" in str(x)
