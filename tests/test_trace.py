"""`gradexplain trace` against PyTorch's own ``.grad``, on the scripts in ``tests/traced``."""

from __future__ import annotations

import gc
import json
import os
import runpy
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accepting import compare_numbers, same_but_for_digits

import gradexplain
from gradexplain.cli import main
from gradexplain.trace.script import run
from gradexplain.trace.seen import Pick
from gradexplain.trace.session import Trace

HERE = Path(__file__).parent
ROOT = HERE.parent
SCRIPTS = sorted((HERE / "traced").glob("*.py"))
ERRORS = sorted((HERE / "traced" / "errors").glob("*.py"))
SAMPLES = sorted((ROOT / "samples").glob("trace_*.py"))

#: Scripts in which something that is no operation changes a gradient: it is PyTorch's own, marked so.
OPAQUE = {"hooks"}

#: Scripts in which every operation has one, so that the chain rule is independent of PyTorch.
COMPLETE = {
    "assignments", "attention", "branch_taken", "branches", "conv", "custom_function", "doubling", "dropout", "embedding",
    "frozen", "gan", "grad_only", "gradient_penalty", "higher_order",
    "in_place", "inputs_only", "micro_batches", "mlp_adam", "multiple_losses",
    "no_grad", "rnn_unrolled", "shared", "train_function", "transformer", "views",
    "weighted_losses",
}  # fmt: skip


@contextmanager
def quietly() -> Iterator[None]:
    """A script's own warnings and default dtype are its own affair."""
    dtype = torch.get_default_dtype()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)


def traced(path: Path, pick: Pick | None = None, *arguments: str) -> Trace:
    found = Trace(pick)
    with quietly():
        run(str(path), arguments, found)
    return found


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text("import torch\n" + text, "utf-8")
    return path


def leaves(namespace: dict[str, Any]) -> dict[str, Any]:
    """Every tensor that the script can name: variables and parameters."""
    found = {}
    for name, value in namespace.items():
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, torch.nn.Module):
            found.update({f"{name}.{path}": p for path, p in value.named_parameters()})
        elif hasattr(value, "model"):
            found.update({f"self.model.{p}": t for p, t in value.model.named_parameters()})
    return {name: tensor for name, tensor in found.items() if tensor.is_leaf}


@contextmanager
def listening(log: list[list[tuple[Any, Any, Any]]]) -> Iterator[None]:
    """Note every leaf's ``.grad`` before and after each backward, by PyTorch alone."""
    original = torch.autograd.backward

    def reachable(tensors: Any) -> list[Any]:
        roots = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
        stack, seen, found = [r.grad_fn for r in roots], set(), []
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                found.append(node.variable)
            stack += [n for n, _ in node.next_functions]
        return found

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
        here = reachable(tensors)
        before = [None if t.grad is None else t.grad.clone() for t in here]
        original(tensors, *args, **kwargs)
        log.append([(t, b, None if t.grad is None else t.grad.clone())
                    for t, b in zip(here, before, strict=True)])  # fmt: skip

    torch.autograd.backward = backward
    try:
        yield
    finally:
        torch.autograd.backward = original


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_right(path: Path) -> None:
    """Tracing changes nothing, and says what PyTorch's own .grad says."""
    log: list[list[tuple[Any, Any, Any]]] = []
    with quietly(), listening(log):
        plain = leaves(runpy.run_path(str(path), run_name="__main__"))
    trace = Trace(Pick())
    with quietly():
        # every call, not only the first ones of a line
        trace._wanted = lambda index, place: True  # type: ignore[method-assign]
        run(str(path), (), trace)
    assert trace.fault is None
    assert trace.all
    backward = []
    for brief in trace.all:
        call = trace.call(brief.index)
        assert call.check is not None
        assert call.check.status == "agree", call.check
        if call.function != "grad":
            backward.append(call)
    if path.stem != "checkpoint":  # which calls backward inside of backward
        assert len(backward) == len(log)
    for call, seen in zip(backward, log, strict=False):
        got = [(b, a) for _, b, a in seen if a is not None and (b is None or not torch.equal(a, b))]
        mine = [e for e in call.accumulated if e.kind == "leaf"]
        by_name = {e.name: e for e in mine}
        changed = {id(t): (b, a) for t, b, a in seen}
        matched = 0
        for name, tensor in plain.items():
            if id(tensor) in changed and name in by_name:
                before, after = changed[id(tensor)]
                entry = by_name[name]
                assert entry.after is not None and entry.added is not None
                np.testing.assert_array_equal(entry.after, after.double().numpy())
                start = 0.0 if before is None else before.double().numpy()
                scale = max(1.0, float(np.abs(entry.after).max()))
                assert np.abs(start + entry.added - entry.after).max() <= 1e-5 * scale
                matched += 1
        assert matched >= min(1, len(got))
        assert len(mine) >= len(got)


@pytest.mark.parametrize("name", sorted(OPAQUE | COMPLETE))
def test_complete(name: str) -> None:
    calls = traced(HERE / "traced" / f"{name}.py").calls
    assert all(call.complete for call in calls) == (name in COMPLETE)


WORDS = {
    "caught": ("has shape (2,)", "torch.ones_like(y)"),
    "changed_in_place": ("exp at line 6 saved its result y", "make a new tensor at line 8"),
    "freed_graph": ("The backward at line 7", "retain_graph=True"),
    "hidden_state": ("made at line 8 in a step before", "h = h.detach()"),
    "integers": ("integers", "make it a float"),
    "leaf_in_place": ("w is a leaf", "torch.no_grad()"),
    "no_grad_fn": ("y does not depend on any tensor", "requires_grad=True"),
    "not_a_scalar": ("means v = 1", "y.sum().backward()"),
    "optimizer_between": ("SGD.step() at line 11", "before the optimizer's step"),
    "shape_of_gradient": ("v has shape (3,), y has shape (1,)", "in the shape of y"),
    "unbind_in_place": ("several views", "clone()"),
    "under_no_grad": ("under torch.no_grad() (line 7)", "outside of torch.no_grad()"),
    "unused_input": ("not computed from one of the inputs", "allow_unused=True"),
    "wrong_function": ("in that argument's shape", "gradcheck"),
    "not_autograd": ("", ""),
}


@pytest.mark.parametrize("path", ERRORS, ids=lambda path: path.stem)
def test_errors(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why, remedy = WORDS[path.stem]
    with quietly():
        code = main(["trace", str(path)])
    assert code == (0 if path.stem == "caught" else 1)
    out, err = capsys.readouterr()
    text = " ".join(out.split())
    assert why in text
    assert remedy in text
    assert "tests/traced" not in out + err
    assert str(ROOT) not in out + err
    assert ("stopped with" in err) == (code == 1)


def test_what_ran_before_an_error_is_shown() -> None:
    trace = traced(HERE / "traced" / "errors" / "unbind_in_place.py")
    recorded = trace.recorded_call()
    assert recorded is not None
    assert [row.node for row in recorded.forward] == ["t1", "a", "b"]


# -- names -----------------------------------------------------------------------------------------


def test_parameters_are_named_as_the_module_names_them() -> None:
    trace = traced(HERE / "traced" / "mlp_adam.py")
    assert [e.name for e in trace.calls[0].accumulated] == [
        "net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias",
    ]  # fmt: skip
    names = [row.node for row in trace.calls[0].forward]
    assert names[-2:] == ["prediction", "loss"]


def test_a_loop_is_explained_as_executed() -> None:
    (call,) = traced(HERE / "traced" / "doubling.py").calls
    assert [row.expression for row in call.forward] == [
        "x*2", *(f"y@{n}*2" for n in range(1, 9))
    ]  # fmt: skip
    assert call.gradients["x"].text == "x.grad[j] = 512·v[j]"


def test_few_versions_are_primed() -> None:
    (call,) = traced(HERE / "traced" / "in_place.py").calls
    assert [row.node for row in call.forward if row.node.startswith("y")] == ["y", "y′", "y′′"]


def test_lines() -> None:
    (call,) = traced(HERE / "traced" / "branch_taken.py").calls
    rows: list[Any] = list(call.forward)
    assert [(row.line, row.expression) for row in rows] == [
        (8, "x*3"), (14, "-y"), (9, "t1**2"), (15, "sum(z)"),
    ]  # fmt: skip
    assert call.line == 15
    assert call.source == "z.sum().backward()"


def test_names_through_functions_and_methods() -> None:
    (call,) = traced(HERE / "traced" / "train_function.py").calls
    assert "self.model.weight" in call.inputs
    assert [row.node for row in call.forward][-1] == "loss"
    assert "error" in [row.node for row in call.forward]


# -- what got what ---------------------------------------------------------------------------------


def test_reasons_for_nothing() -> None:
    (call,) = traced(HERE / "traced" / "no_grad.py").calls
    found = {left.name: (left.why, left.site.line if left.site else None) for left in call.left_out}
    assert found["b"] == ("computed under no_grad", 11)
    assert found["c"] == ("detached", 12)
    assert found["d"] == ("the output was not computed from it", None)
    assert found["scale"] == ("computed under no_grad", 11)


def test_frozen_parameters() -> None:
    (call,) = traced(HERE / "traced" / "frozen.py").calls
    found = {left.name: left.why for left in call.left_out}
    assert found["net.body.weight"] == "it does not require grad"
    assert [e.name for e in call.accumulated] == ["net.head.weight", "net.head.bias"]


def test_before_added_after() -> None:
    first, second = traced(HERE / "traced" / "micro_batches.py").calls
    assert all(e.before is None for e in first.accumulated)
    for a, b in zip(first.accumulated, second.accumulated, strict=True):
        assert b.before is not None and a.after is not None
        np.testing.assert_array_equal(a.after, b.before)
    assert any(note.kind == "accumulated" for note in second.notes)


def test_inputs_only() -> None:
    (call,) = traced(HERE / "traced" / "inputs_only.py").calls
    assert [e.name for e in call.accumulated] == ["x"]
    assert [(left.name, left.why) for left in call.left_out] == [("w", "it is not among inputs=")]


def test_returned() -> None:
    (call,) = traced(HERE / "traced" / "grad_only.py").calls
    assert [(e.name, e.kind, e.added is None) for e in call.accumulated] == [
        ("x", "returned", False), ("y", "returned", False), ("unused", "returned", True),
    ]  # fmt: skip


def test_hooks_are_seen() -> None:
    (call,) = traced(HERE / "traced" / "hooks.py").calls
    hooks = [step for step in call.steps if step.op == "hook"]
    assert [step.node for step in hooks] == ["h", "x"]
    np.testing.assert_array_equal(hooks[0].upstream, [6, 12])
    np.testing.assert_array_equal(hooks[0].contribution, [60, 120])
    np.testing.assert_array_equal(hooks[1].contribution, [181, 361])
    kept = {e.name: e for e in call.accumulated}
    assert kept["h"].kind == "retained"
    np.testing.assert_array_equal(kept["h"].after, [60, 120])


def test_a_custom_function_is_one_node() -> None:
    (call,) = traced(HERE / "traced" / "custom_function.py").calls
    assert [row.expression for row in call.forward] == ["Cube.apply(x, 2)", "y + x", "sum(t1)"]
    (step,) = [step for step in call.steps if step.node == "y"]
    assert getattr(step, "kind", "") == "formula"
    assert step.rule


def test_a_wrong_custom_backward_is_found(tmp_path: Path) -> None:
    (call,) = traced(script(tmp_path, (
        "class Twice(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, x):\n"
        "        return 2*x\n"
        "    @staticmethod\n"
        "    def backward(ctx, g):\n"
        "        return 3*g\n"
        "x = torch.ones(2, requires_grad=True)\n"
        "Twice.apply(x).sum().backward()\n"
    ))).calls  # fmt: skip
    assert call.check is not None
    assert call.check.status == "mismatch"
    assert "check script.py:Twice" in " ".join(str(call).split())
    np.testing.assert_array_equal(call.gradients["x"].torch, [3, 3])
    np.testing.assert_array_equal(call.gradients["x"].value, [2, 2])


@pytest.mark.parametrize(
    "forward",
    [
        "torch.tensor(2 * x.detach().numpy())",
        "x * float(x.sum())",
        "x * x.sum().item() + x.new_tensor(x.tolist())",
        "torch.linalg.lu_factor(x.outer(x) + torch.eye(2))[0].sum() * x",
    ],
)
def test_a_forward_that_leaves_pytorch_is_not_held_against_a_formula(
    forward: str, tmp_path: Path
) -> None:
    """What came back could depend on the input: its derivative is not known."""
    (call,) = traced(script(tmp_path, (
        "class Own(torch.autograd.Function):\n"
        "    @staticmethod\n"
        "    def forward(ctx, x):\n"
        f"        return {forward}\n"
        "    @staticmethod\n"
        "    def backward(ctx, g):\n"
        "        return 3*g\n"
        "x = torch.ones(2, requires_grad=True)\n"
        "Own.apply(x).sum().backward()\n"
    ))).calls  # fmt: skip
    assert not call.complete
    assert (call.checked, call.unchecked) == (1, 1)
    assert "check script.py:Own" in " ".join(str(call).split())


# -- picking ---------------------------------------------------------------------------------------


def test_a_long_loop_is_explained_once(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(HERE / "traced" / "mlp_adam.py")
    assert main(["trace", "--full", path]) == 0
    out, _ = capsys.readouterr()
    assert out.count("Call ") == 1
    assert "5 other calls" in out
    assert main(["trace", "--call", "4", path]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("Call 4 of 6")
    assert main(["trace", "--last", path]) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("Call 6 of 6")
    assert main(["trace", "--at-line", "15", path]) == 0
    assert main(["trace", "--at-line", "3", path]) == 2
    assert "on line 15" in capsys.readouterr().err
    assert main(["trace", "--call", "40", path]) == 2
    assert main(["trace", "--call", "1", "--last", path]) == 2


def test_arguments_are_the_scripts_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script(tmp_path, (
        "import sys\n"
        "print('argv', sys.argv[1:], __name__)\n"
        "torch.ones(2, requires_grad=True).sum().backward()\n"
    ))  # fmt: skip
    assert main(["trace", "--format", "json", str(path), "--last", "-x", "--", "1"]) == 0
    out, err = capsys.readouterr()
    assert "argv ['--last', '-x', '--', '1'] __main__" in err
    document = json.loads(out)
    assert document["schema"] == "gradexplain-trace/1"
    assert document["calls"][0]["check"]["status"] == "agree"


def test_json_on_stdout_even_from_other_processes(tmp_path: Path) -> None:
    path = script(tmp_path, (
        "import os, subprocess, sys\n"
        "os.write(1, b'raw\\n')\n"
        "subprocess.run([sys.executable, '-c', 'print(1)'], check=True)\n"
        "torch.ones(2, requires_grad=True).sum().backward()\n"
    ))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "gradexplain", "trace", "--format", "json", str(path)],
        capture_output=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    assert done.stderr.split() == [b"raw", b"1"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("torch.ones(1, requires_grad=True).sum().backward()\nexit(3)\n", 3, "status 3"),
        ("torch.ones(1, requires_grad=True).sum().backward()\nexit(-1)\n", 255, "status 255"),
        ("torch.ones(1, requires_grad=True).sum().backward()\nexit('no')\n", 1, "status 1"),
        ("torch.ones(1, requires_grad=True).sum().backward()\nexit()\n", 0, ""),
        ("x = 1\n", 2, "never called backward"),
        ("x = = 1\n", 2, "line 2"),
        ("\0\n", 2, "null bytes"),
        ("1/0\n", 1, "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_endings(
    text: str, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", str(script(tmp_path, text))]) == code
    assert said in capsys.readouterr().err


def test_no_such_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "nowhere.py"]) == 2
    assert "no file nowhere.py" in capsys.readouterr().err
    assert main(["trace"]) == 2


def test_user_text_is_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = script(tmp_path, (
        "d = {'[red]': torch.ones(2, requires_grad=True)}\n"
        "d['[red]'].sum().backward()  # [bold] :smile:\n"
    ))  # fmt: skip
    assert main(["trace", str(path)]) == 0
    out = capsys.readouterr().out
    assert "[bold] :smile:" in out
    assert "d['[red]']" in out


# -- from Python -----------------------------------------------------------------------------------


def test_tracing() -> None:
    with gradexplain.tracing() as t:
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        y = x * x
        y.backward(torch.tensor([1.0, 0.5]))
    (call,) = t.calls
    assert isinstance(call, gradexplain.Explanation)
    assert call.gradients["x"].agrees
    np.testing.assert_array_equal(call.gradients["x"].torch, [2, 2])
    assert call.gradients["x"].text == "x.grad[j] = 2·x[j]·v[j]"
    assert "y.backward(torch.tensor([1.0, 0.5]))" in str(call)
    assert call.to_dict()["call"] == 1
    with pytest.raises(gradexplain.InputError), gradexplain.tracing(call=1, last=True):
        pass


def test_an_exception_goes_on_and_is_explained() -> None:
    with pytest.raises(RuntimeError), gradexplain.tracing() as t:
        torch.ones(2, requires_grad=True).exp().backward()
    assert t.fault is not None
    assert "v = 1" in t.fault.why


def test_in_a_notebook_cell() -> None:
    """A cell's lines are in linecache under a name that is no file's."""
    import linecache

    text = "x = torch.ones(3, requires_grad=True)\nz = (x*3).sum()\nz.backward()\n"
    name = "<ipython-input-1-abc>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    with gradexplain.tracing() as t:
        exec(compile(text, name, "exec"), {"torch": torch})
    (call,) = t.calls
    assert call.source == "z.backward()"
    assert call.file == "the cell"
    assert [row.node for row in call.forward] == ["t1", "z"]


def test_nothing_is_left_behind() -> None:
    before = torch.autograd.Function.__dict__["apply"]
    with gradexplain.tracing():
        pass
    assert torch.autograd.Function.__dict__["apply"] is before
    assert not torch.overrides._get_current_function_mode_stack()


def test_memory_is_freed_with_the_graph() -> None:
    alive: list[Any] = []
    with gradexplain.tracing() as t:
        w = torch.ones(4, requires_grad=True)
        total = torch.zeros(())
        for _ in range(8):
            h = w * 2
            h.add_(1)
            view = h[:2]
            view.mul_(3)
            alive.append(weakref.ref(h))
            loss = h.sum()
            loss.backward()
            total += loss.detach()
        del h, view, loss
        gc.collect()
        assert [ref() is None for ref in alive].count(False) <= 1
    assert len(t.all) == 8


def test_a_wrong_number_is_found_where_it_arises() -> None:
    """One contribution of PyTorch's, changed by a thousandth, is a mismatch at its operation."""
    from gradexplain.trace.explain import explained

    trace = traced(HERE / "traced" / "mlp_adam.py")
    snapshot = trace._snapshots[1]
    tanh = next(o for o in snapshot.operations if o.name == "tanh")
    (number,) = tanh.sent
    tanh.sent[number] = tanh.sent[number] * 1.001
    call = explained(snapshot)
    assert call.check is not None
    assert call.check.status == "mismatch"
    assert [d.routes[0] for d in call.check.differences] == ["tanh by its formula"]
    assert "MISMATCH" in str(call)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_held_to_its_own_roundings(dtype: str, tmp_path: Path) -> None:
    (call,) = traced(script(tmp_path, (
        f"x = torch.tensor([1.5, 2.25], dtype=torch.{dtype}, requires_grad=True)\n"
        "((x*3).tanh() * x).sum().backward()\n"
    ))).calls  # fmt: skip
    assert call.check is not None
    assert call.check.status == "agree"
    assert call.compared == call.contributions


def test_a_large_graph_is_not_explained_one_by_one(tmp_path: Path) -> None:
    trace = traced(script(tmp_path, (
        "x = torch.ones(2, requires_grad=True)\n"
        "y = x\n"
        "for _ in range(21_000):\n"
        "    y = y + 1\n"
        "y.sum().backward()\n"
    )))  # fmt: skip
    assert "too large" in [note.kind for note in trace.calls[0].notes]
    assert "too many operations" in str(trace.calls[0])


# -- samples ---------------------------------------------------------------------------------------


def output(*arguments: str) -> bytes:
    """What the command prints, what the script printed after it, and the exit code."""
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    done = subprocess.run(
        [sys.executable, "-m", "gradexplain", "trace", *arguments],
        capture_output=True, check=False, cwd=ROOT, env=env | {"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    said = b"".join(
        line for line in done.stderr.splitlines(keepends=True) if line.startswith(b"gradexplain")
    )
    return done.stdout + said + f"exit code {done.returncode}\n".encode()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples(
    sample: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code = main(["trace", "--full", str(sample.relative_to(ROOT))])
    shown = capsys.readouterr()
    said = [line for line in shown.err.splitlines(keepends=True) if line.startswith("gradexplain")]
    found = f"{shown.out}{''.join(said)}exit code {code}\n"
    compare_numbers(found, sample.with_suffix(".trace.txt"))


@pytest.mark.parametrize(
    ("page", "other", "same"),
    [
        ("x  [0.1, 2]  y", "x  [0.1000001, 2]\n  y", True),
        ("x [0, 1]", "x [-7.45058e-09, 1]", True),
        ("x [0.1, 2]", "x [0.1001, 2]", False),
        ("x [0.1, 2]", "z [0.1, 2]", False),
        ("x2 is 3", "x3 is 3", False),
        ("x [1, 2]", "x [1, 2, 2]", False),
    ],
)
def test_pages_are_compared_by_number(page: str, other: str, same: bool) -> None:
    assert same_but_for_digits(page, other) is same


def test_the_command_writes_the_same() -> None:
    """By the real command; the samples are traced in this process."""
    sample = ROOT / "samples" / "trace_weighted_vector.py"
    shown = output("--full", str(sample.relative_to(ROOT))).decode()
    compare_numbers(shown, sample.with_suffix(".trace.txt"))


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", ["doubling", "hooks", "views", "no_grad", "gan"])
def test_width(name: str, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["trace", "--full", "--width", str(width), str(HERE / "traced" / f"{name}.py")]) == 0
    )
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


def test_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        main(["trace", "--format", "json", str(HERE / "traced" / "gan.py")])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


# -- what the script catches itself -----------------------------------------------------------------


def test_a_step_that_fails_and_is_caught(tmp_path: Path) -> None:
    """Recording goes on: what the script does after its own except clause is explained."""
    found = traced(script(tmp_path, (
        "w = torch.tensor([1.0, 2.0], requires_grad=True)\n"
        "class Failing(torch.optim.SGD):\n"
        "    def step(self):\n"
        "        raise ValueError('no step')\n"
        "for make in (Failing, torch.optim.SGD):\n"
        "    opt = make([w], lr=0.1)\n"
        "    opt.zero_grad()\n"
        "    try:\n"
        "        y = (w * w).sum()\n"
        "        y.backward()\n"
        "        opt.step()\n"
        "    except ValueError:\n"
        "        z = (w * 3).sum()\n"
        "        z.backward()\n"
    )))  # fmt: skip
    assert found.fault is None
    assert [call.complete for call in found.calls] == [True] * 3
    assert [[row.op for row in call.forward] for call in found.calls] == [["mul", "sum"]] * 3


def test_optimizers_are_left_as_they_were() -> None:
    before = (torch.optim.SGD.step, torch.optim.Adam.step, torch.optim.Optimizer.profile_hook_step)
    with gradexplain.tracing():
        w = torch.ones(2, requires_grad=True)
        w.sum().backward()
        torch.optim.RMSprop([w]).step()
    after = (torch.optim.SGD.step, torch.optim.Adam.step, torch.optim.Optimizer.profile_hook_step)
    assert before == after
    torch.optim.RMSprop([w]).step()


def test_a_call_that_fails_and_is_caught(tmp_path: Path) -> None:
    """An error that the script got over does not explain a later one."""
    found = traced(script(tmp_path, (
        "w = torch.tensor([1.0, 2.0], requires_grad=True)\n"
        "try:\n"
        "    w @ torch.ones(3)\n"
        "except RuntimeError:\n"
        "    pass\n"
        "(w * w).sum().backward()\n"
        "raise ValueError('mine')\n"
    )))  # fmt: skip
    assert found.fault is not None
    assert found.fault.message == "mine"
    assert "size" not in found.fault.why
    assert [call.complete for call in found.calls] == [True]


def test_the_path_goes_through_whole_blocks(tmp_path: Path) -> None:
    """What lies between two values that all of the gradient passes has one factor."""
    trace = traced(script(tmp_path, (
        "from torch import nn\n"
        "x, stem = torch.randn(4, 6), nn.Linear(6, 6)\n"
        "blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(9))\n"
        "h = stem(x)\n"
        "for block in blocks:\n"
        "    h = h + 0.01*torch.tanh(block(h))\n"
        "h = torch.relu(h) * torch.sigmoid(h)\n"
        "h.sum().backward()\n"
    )))  # fmt: skip
    path = trace.screen("script.py").path
    assert path is not None
    assert [(f.operation, f.line, f.times) for f in path.factors] == [
        ("sum", 9, 1), ("block of 3 operations", 8, 1), ("x + f(x)", 7, 9), ("linear", 5, 1),
    ]  # fmt: skip
    assert path.end == "stem.weight"
    whole = np.prod([f.factor**f.times for f in path.factors])
    np.testing.assert_allclose(whole, path.last / path.first, rtol=1e-9)
    by_name = {e.name: e.after for e in trace.calls[0].accumulated}
    np.testing.assert_allclose(path.last, np.linalg.norm(by_name["stem.weight"]))  # type: ignore[arg-type]
    assert 0.9 < path.factors[2].factor < 1.1
    assert 0 < path.factors[2].branch < 0.02
