"""The recorder is in nobody's way: what it changes in PyTorch is counted, and put back."""

from __future__ import annotations

import gc
import runpy
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gradexplain
from gradexplain.recording.tape import TAPE
from gradexplain.trace.script import run
from gradexplain.trace.session import Trace


def state() -> tuple[Any, ...]:
    """Everything in PyTorch that a recorder replaces."""
    return (
        torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad,
        torch.autograd._engine_run_backward, torch.autograd.Function.__dict__["apply"],
        threading.Thread._bootstrap_inner,  # type: ignore[attr-defined]
        torch.optim.SGD.step, torch.optim.Adam.step, torch.optim.Optimizer.zero_grad,
        torch.nn.Module.zero_grad, torch.nn.Module.train, torch.optim.Optimizer.profile_hook_step,
        tuple(torch.overrides._get_current_function_mode_stack()),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    before = state()
    yield
    assert state() == before


def step() -> Any:
    w = torch.ones(2, requires_grad=True)
    (w * 3).sum().backward()
    return w.grad


def test_blocks_that_overlap() -> None:
    first, second = gradexplain.tracing(), gradexplain.tracing()
    a = first.__enter__()
    b = second.__enter__()
    step()
    first.__exit__(None, None, None)
    step()
    second.__exit__(None, None, None)
    step()
    assert (len(a.all), len(b.all)) == (1, 2)
    assert [call.check.status for call in (*a.calls, *b.calls) if call.check] == ["agree"] * 3


def test_a_generator_that_is_given_up() -> None:
    def losses() -> Iterator[Any]:
        with gradexplain.tracing() as t:
            while True:
                step()
                yield t

    one, two = losses(), losses()
    next(one)
    next(two)
    one.close()
    assert len(next(two).all) == 2
    del two
    gc.collect()


def test_an_exception_within_another_block() -> None:
    with gradexplain.tracing() as outer:
        with pytest.raises(ValueError), gradexplain.tracing():
            raise ValueError
        step()
    assert len(outer.calls) == 1


def test_backward_in_a_thread() -> None:
    with gradexplain.tracing() as t:
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    (call,) = t.calls
    assert [row.op for row in call.forward] == ["mul", "sum"]


def test_a_block_that_ends_in_another_thread() -> None:
    block = gradexplain.tracing()
    block.__enter__()
    thread = threading.Thread(target=block.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    step()
    TAPE.remove()  # this thread's stack is this thread's


def test_names_taken_before() -> None:
    grad, backward = torch.autograd.grad, torch.autograd.backward
    with gradexplain.tracing() as t:
        w = torch.ones(2, requires_grad=True)
        grad((w * 2).sum(), w)
        backward((w * 2).sum())
    assert [brief.function for brief in t.all] == ["grad", "autograd.backward"]


def test_a_warning_names_the_line_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "warns.py"
    path.write_text(
        "import torch\n"
        "x = torch.ones(3, requires_grad=True)\n"
        "loss = torch.nn.functional.mse_loss(x,\n"
        "                                    torch.ones(3, 1))\n"
        "loss.backward()\n"
        "y = torch.ones(2, requires_grad=True) * 2\n"
        "y.grad\n",
        "utf-8",
    )
    found = []
    for traced in (False, True):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if traced:
                run(str(path), (), Trace())
            else:
                exec(compile(path.read_text("utf-8"), str(path), "exec"), {"__name__": "__main__"})
        found.append({(w.filename, w.lineno, str(w.message)) for w in seen})
    assert found[0] == found[1]
    assert (str(path), 3) in {warning[:2] for warning in found[0]}


def test_a_failure_of_the_recorder_is_a_line_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise KeyError("ours")

    with gradexplain.tracing() as t:
        monkeypatch.setattr(TAPE, "_record", broken)
        gradient = step()
    torch.testing.assert_close(gradient, torch.full((2,), 3.0))
    assert t.failures[0] == "KeyError: 'ours'"


def test_a_call_that_cannot_be_explained_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradexplain.trace import seen

    real = seen.explained

    def explained(snapshot: Any, until: float) -> Any:
        if snapshot.index == 1:
            raise KeyError(9)
        return real(snapshot, until)

    monkeypatch.setattr(seen, "explained", explained)
    with gradexplain.tracing() as t:
        step()
        step()
    first, second = t.calls
    assert first.check is not None and second.check is not None
    assert (first.check.status, second.check.status) == ("cannot tell", "agree")
    assert t.all[0].failure == "KeyError: 9"


def test_results_of_no_grad_added_together() -> None:
    with gradexplain.tracing() as t:
        w = torch.ones(3, requires_grad=True)
        with torch.no_grad():
            c = w * 2 + w * 3
        (w * c).sum().backward()
    assert t.calls[0].gradients["w"].agrees


def test_what_is_compiled_runs_compiled() -> None:
    torch.manual_seed(0)
    with gradexplain.tracing() as t:
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh())
        compiled = torch.compile(net, backend="eager")
        compiled(torch.randn(2, 3)).sum().backward()
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 1
    assert t.failures == []
    assert {entry.name for entry in t.calls[0].accumulated} == {"net.0.weight", "net.0.bias"}


@pytest.mark.parametrize(
    "text",
    [
        "x = torch.ones(3, dtype=torch.complex64, requires_grad=True)\n(x * x.conj()).real.sum().backward()\n",
        "w = torch.ones(3, 2, requires_grad=True)\ntorch.sparse.mm(torch.eye(3).to_sparse(), w).sum().backward()\n",
        "torch.func.grad(lambda t: (t ** 2).sum())(torch.ones(2))\n",
        "torch.func.jacrev(lambda t: t ** 2)(torch.ones(2))\n",
        "torch.func.vmap(torch.func.grad(lambda t: t.sin()))(torch.ones(3))\n",
    ],
)
def test_what_has_no_formula_cannot_be_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text("import torch\n" + text, "utf-8")
    trace = Trace()
    run(str(path), (), trace)
    assert trace.failures == []
    assert trace.screen("script.py").status == "cannot tell"


def test_random_numbers_are_the_scripts_own() -> None:
    def drawn() -> list[float]:
        torch.manual_seed(3)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5))
        net(torch.randn(2, 3)).sum().backward()
        return torch.rand(3).tolist()  # type: ignore[no-any-return]

    alone = drawn()
    with gradexplain.tracing():
        assert drawn() == alone


def test_a_second_phase_is_explained_too() -> None:
    """Operations are recorded again where a long loop is followed by another one."""
    w = torch.ones(3, requires_grad=True)
    with gradexplain.tracing() as t:
        for _ in range(70):
            (w * 2).sum().backward()
        for _ in range(5):
            w.exp().sum().backward()
    assert [snapshot.index for snapshot in t.snapshots] == [1, 72]
    assert [call.check.status for call in t.calls if call.check] == ["agree", "agree"]


def test_the_last_call_is_told_of_as_it_was() -> None:
    """Leaves have changed since, and what dropout drew is freed: both were kept."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
    x = torch.randn(6, 3)
    with gradexplain.tracing(last=True) as t:
        for _ in range(20):
            net.zero_grad()
            net(x).pow(2).mean().backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.5 * parameter.grad
    (call,) = t.calls
    assert (call.index, call.check and call.check.status, call.unchecked) == (20, "agree", 0)


def test_an_overflow_is_no_mismatch() -> None:
    w = torch.full((2,), 1e30, requires_grad=True)
    with gradexplain.tracing() as t:
        (w * 1e10 * 1e10).sum().backward()
        (w * w * w).sum().backward()
    assert all(call.check is not None and call.check.status != "mismatch" for call in t.calls)


COMPILED = """
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh())
def wrong(graph, inputs):
    return lambda *args: [2 * out - out.detach() for out in graph(*args)]
fast = torch.compile(net, backend={backend})
for _ in range(2):
    fast(torch.randn(5, 3)).pow(2).mean().backward()
print(int(net[1].num_batches_tracked), torch.rand(1).item())
"""


@pytest.mark.filterwarnings("ignore")  # dynamo's own
def test_a_compiled_function_with_a_break_in_it_is_explained() -> None:
    """Each graph of it is one operation; Python that stands between the graphs runs once a call."""
    torch.manual_seed(0)
    w = torch.randn(3, 4, requires_grad=True)
    runs: list[int] = []

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(x @ w)
        torch._dynamo.graph_break()
        runs.append(1)
        return y.pow(2).sum()

    with gradexplain.tracing() as t:
        fast = torch.compile(forward, backend="eager")
        fast(torch.randn(5, 3)).backward()
    call = t.calls[0]
    assert (call.checked, call.unchecked, len(runs), t.failures) == (2, 0, 1, [])
    assert call.check is not None
    assert call.check.status == "agree"
    assert "tanh" in str(call.gradients["w"].where)


@pytest.mark.parametrize(
    ("backend", "status"), [('"aot_eager"', "agree"), ("wrong", "mismatch")]
)  # fmt: skip
def test_what_is_compiled_is_held_against_its_eager_operations(
    backend: str, status: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "script.py"
    path.write_text("import torch\n" + COMPILED.replace("{backend}", backend), "utf-8")
    trace = Trace()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(str(path), (), trace)
        told = capsys.readouterr().err
        torch._dynamo.reset()
        runpy.run_path(str(path))
    assert told == capsys.readouterr().out  # the same state and the same numbers drawn
    assert trace.failures == []
    check = trace.call(1).check
    assert check is not None
    assert check.status == status
