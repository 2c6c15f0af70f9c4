"""Time, memory, interrupts and PyTorch's process, by the real command.

Nothing here is timed: a test waits for what must happen, and fails by pytest's own patience.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from accepting import same_document

from gradexplain.cli import main
from gradexplain.document.schema import schema_of
from gradexplain.stability.search import Stability
from gradexplain.supervisor import helper, link
from tests.fuzz.moments import caught_up, living

TESTS = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the supervisor needs Linux"
)


def command(*arguments: str, work: str = "", **options: Any) -> subprocess.Popen[str]:
    """The real command; ``work`` is what stands in for the making of an explanation."""
    code = [f"import sys; sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]"]
    if work:
        code += [
            "import sample; sys.modules['gradexplain.explaining.engine'] = sample.engine()",
            "sys.modules['gradexplain.accumulation'] = sys.modules['gradexplain.explaining.engine']",
        ]
        code += [f"def work():\n    {work}", "sample.weighted = work"]
    code += ["from gradexplain.cli import main; sys.exit(main())"]
    return subprocess.Popen(
        [sys.executable, "-c", "\n".join(code), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def done(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    assert living(process.pid) == []
    return process.returncode, out, err


#: A loop that Python can interrupt, and an operation that nothing can.
LOOP = "while True: pass"
STUCK = "return 3 ** 10 ** 9"
#: Where it does not matter what is done.
WAIT = "import time\n    while True: time.sleep(0.01)"
MISSING = (
    "the question, the forward values, the Jacobian, the chain rule, the gradients, the verdict"
)


@pytest.mark.parametrize("work", [LOOP, STUCK], ids=["loop", "stuck"])
def test_time(work: str) -> None:
    for seconds in (2, 8, 32):  # until it has come so far on a busy machine
        code, out, err = done(
            command("run", "x", "--no-check", "--timeout", str(seconds), work=work)
        )
        assert (code, out) == (3, "")
        if "missing: the answer" not in err:
            break
    assert err == (
        f"gradexplain: not finished within {seconds} seconds; missing: {MISSING}\n"
        f"remedy: --timeout {2 * seconds} allows more; smaller shapes have the same formulas\n"
    )


#: An allocation that fails at once, many that together are too much, and a helper's.
GREEDY = "return bytearray(1 << 40)"
GROWING = "x = []\n    while True: x.append(bytearray(1 << 20))"


@pytest.mark.parametrize("work", [GREEDY, GROWING], ids=["greedy", "growing"])
def test_memory(work: str) -> None:
    code, out, err = done(command("run", "x", "--no-check", "--memory", "256MiB", work=work))
    assert (code, out) == (3, "")
    assert err == (
        f"gradexplain: not enough memory: more than 256MiB is needed; missing: {MISSING}\n"
        "remedy: --memory 512MiB allows more; smaller shapes have the same formulas\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "softmax(x,dim=1).exp()*x", "--shape", "x=4000,4000", "--grad", "ones"],
            "the values of all 4 steps, the largest of softmax, have 64,000,000 elements: "
            "that takes 3.81GiB here; 2GiB allowed",
        ),
        (
            ["run", "block_diag(x,x,x,x)", "--shape", "x=1200,1200", "--no-check"],
            "a tensor of shape (4800, 4800) has 23,040,000 elements; the most is 16,000,000",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_work(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"gradexplain: {message}\n")
    assert "remedy: use " in err


def test_the_answer_so_far() -> None:
    """What is missing is said; a command within its time is not disturbed."""
    work = "return sample.normalised()"
    slow = f"import itertools; {work}"
    process = command("run", "x", "--no-check", "--timeout", "50", "--format", "json", work=slow)
    assert done(process)[0] == 0
    arguments = ["hessian", "x**2", "--no-check", "--timeout", "0.001"]
    code, out, err = done(command(*arguments))
    assert (code, out) == (3, "")
    assert "not finished within 0.001 seconds; missing: the answer\n" in err


@pytest.mark.parametrize(
    ("arguments", "place", "missing", "shown"),
    [
        (
            ["hessian", "x**3 * w"],
            "gradexplain.hessians.notes",
            "second derivatives",
            [
                "∂²y/∂x∂w = 3·x²",
                "cannot tell: not finished within 60 seconds",
                "H is symmetric, ∂²y/∂w∂x",
            ],
        ),
        (
            ["hessian", "x**3 * w"],
            "gradexplain.second.making.Making._joined",
            "second derivatives",
            ["H is symmetric where it is continuous (Schwarz's theorem), ∂²y/∂w∂x"],
        ),
        (
            ["check", "x / x.sum(dim=0)", "--claim", "x: v"],
            "gradexplain.checking.checker.diagnose",
            "what is wrong, and why",
            ["WRONG: the gradient by x.", "not finished within 60 seconds"],
        ),
        (
            ["codegen", "x * 2", "--name", "Twice"],
            "gradexplain.checking.generated.failure",
            "the proof that it is right",
            ["# NOT PROVEN: ", "class Twice(torch.autograd.Function):"],
        ),
    ],
    ids=["hessian", "hessian of unknown symmetry", "check", "codegen"],
)
def test_what_is_there_is_shown(
    arguments: list[str],
    place: str,
    missing: str,
    shown: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where time is over within the work that ``place`` does."""

    def late(*_: object) -> None:
        raise link.TimeUp

    monkeypatch.setattr(place, late)
    assert main(arguments) == 3
    out, err = capsys.readouterr()
    assert [text for text in shown if text not in out] == []
    assert err.startswith(f"gradexplain: not finished within 60 seconds; missing: {missing}\n")


def test_nonsense_budgets() -> None:
    for option, value, message in [
        ("--timeout", "-1", "-1 is no number of seconds above 0, nor none"),
        ("--memory", "lots", "lots is no size, as 512MiB or 2GiB, nor none"),
    ]:
        code, _, err = done(command("run", "x", option, value))
        assert code == 2
        assert err == (
            f"gradexplain: Invalid value for '{option}': {message}\n"
            "remedy: gradexplain run --help lists what can be given\n"
        )


# -- interrupts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("group", [False, True], ids=["one", "group"])
def test_signals(number: int, group: bool) -> None:
    """At any moment: silent, nothing left, and the signal's code."""
    before = {"preexec_fn": lambda: signal.signal(number, signal.SIG_DFL)}  # nohup's would stay
    processes = [command("run", "x", work=WAIT, **before) for _ in range(4)]
    for delay, process in zip((0, 0.03, 0.1, 0.8), processes, strict=True):
        caught_up(process)
        time.sleep(delay)
        (os.killpg if group else os.kill)(process.pid, number)
    for process in processes:
        assert done(process) == (128 + number, "", "")


def test_a_killed_command_leaves_nothing() -> None:
    process = command("run", "x", work=WAIT)
    caught_up(process)
    time.sleep(1.5)
    process.kill()
    process.communicate(timeout=120)
    assert living(process.pid) == []


def test_an_ignored_signal_stays_ignored() -> None:
    """As by nohup, or for a shell's background job."""
    before = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = command("run", "x", "--no-check", "--timeout", "3", work=WAIT, **before)
    time.sleep(1)
    process.send_signal(signal.SIGHUP)
    assert done(process)[0] == 3


# -- PyTorch's process -----------------------------------------------------------------------------

#: What stands in for PyTorch, and what is then said.
TORCHES = {
    "hangs": ("import time; time.sleep(1000)", "its process did not answer in the time allowed"),
    "stopped": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "its process was stopped",
    ),
    "crashes": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "its process crashed (SIGSEGV)",
    ),
    "exits": ("import os; os._exit(7)", "its process ended without an answer (status 7)"),
    "broken": (
        "raise OSError('libtorch.so: cannot open shared object file')",
        "it cannot be imported: OSError: libtorch.so: cannot open shared object file",
    ),
    "lacks": (
        "import nosuchmodule",
        "it cannot be imported: ModuleNotFoundError: No module named 'nosuchmodule'",
    ),
    "absent": (
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
        "it is not installed",
    ),
}


def _with_torch(folder: Path, source: str) -> dict[str, str]:
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(source + "\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def test_pytorch_that_does_not_work(tmp_path: Path) -> None:
    """All at once: some wait for the end of their time, which a busy machine has to have room in."""
    arguments = ["run", "x*2", "--format", "json", "--timeout", "20"]
    processes = {}
    for name, (source, _) in TORCHES.items():
        (tmp_path / name).mkdir()
        environment = _with_torch(tmp_path / name, source)
        processes[name] = command(*arguments, env=environment)
    for name, (_, reason) in TORCHES.items():
        code, out, err = done(processes[name])
        assert (name, code, err) == (name, 3, "")
        answer = json.loads(out)
        assert answer["check"]["status"] == "cannot tell"
        assert answer["check"]["reason"] == f"PyTorch could not be asked: {reason}"
        assert answer["gradients"], "the closed form and the chain rule are there all the same"


def test_commands_that_need_pytorch_say_that_it_is_broken(tmp_path: Path) -> None:
    environment = _with_torch(tmp_path, TORCHES["broken"][0])
    (tmp_path / "s.py").write_text("")
    (tmp_path / "x.pt").write_bytes(b"")
    commands = [
        ["codegen", "x*2"],
        ["check", "x", "--claim", "x: v"],
        ["check", f"{tmp_path}/s.py:f"],
        ["trace", f"{tmp_path}/s.py"],
    ]
    for arguments in commands:
        assert done(command(*arguments, env=environment)) == (
            2,
            "",
            f"gradexplain: PyTorch: {TORCHES['broken'][1]}\n"
            'remedy: python -c "import torch" must work first\n',
        )


def test_the_python_api_in_odd_processes() -> None:
    """Kept for the next call; a Path on sys.path; no executable; PyTorch's own modes."""
    code = """
import pathlib, sys
import gradexplain
from gradexplain.supervisor import helper

def status():
    return gradexplain.explain("x @ x", shapes={"x": (2, 2)}, grad="ones").check.status

assert status() == "agree"
helper = helper.HELPERS
(kept,) = helper.idle
assert status() == "agree" and helper.idle == [kept]
kept._process.kill()
kept._process.wait()
sys.path.insert(0, pathlib.Path("/nowhere"))
assert status() == "agree" and helper.idle != [kept]
helper.stop()
sys.executable = None
assert "torch" not in sys.modules and status() == "agree" and "torch" in sys.modules
import torch
with torch.device("meta"), torch.inference_mode(), torch.autocast("cpu"):
    assert status() == "agree"
"""
    process = subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
        start_new_session=True,
    )
    assert done(process) == (0, "", "")


def test_the_module_does_not_import_from_the_working_directory(tmp_path: Path) -> None:
    for name in ("torch", "numpy", "sympy", "click", "random", "select"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from here')")
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done_ = subprocess.run(
        [sys.executable, "-m", "gradexplain", "run", "x*2", "--format", "json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done_.returncode, done_.stderr) == (0, "")
    assert json.loads(done_.stdout)["check"]["status"] == "agree"


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    """PyTorch's libraries cannot be loaded there, which ends the process; PyTorch's process is elsewhere."""
    gone = tmp_path / "gone"
    gone.mkdir()

    def enter() -> None:
        os.chdir(gone)
        gone.rmdir()

    code, out, err = done(command("run", "x*2", "--format", "json", preexec_fn=enter))
    assert (code, err) == (0, "")
    assert json.loads(out)["check"]["status"] == "agree"
    gone.mkdir()
    code, out, err = done(command("codegen", "x*2", preexec_fn=enter))
    assert (code, out, err) == (2, "", (
        "gradexplain: PyTorch: the working directory is gone\nremedy: cd to another\n"
    ))  # fmt: skip


def test_a_system_that_has_no_room_for_a_process() -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))  # the interpreter itself needs 5

    assert done(command("run", "x*2", preexec_fn=few)) == (
        2,
        "",
        "gradexplain: the system refused: Too many open files\n",
    )


def test_a_process_that_the_system_gives_little_memory(tmp_path: Path) -> None:
    """With ``ulimit -v``: what our own budget is does not matter, nor how a library in C++ ends there."""

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))

    message = (
        "gradexplain: not enough memory: the system allows this process 400MiB\n"
        "remedy: ulimit -v unlimited allows more\n"
    )
    code, out, err = done(command("codegen", "x*2", preexec_fn=little))
    assert (code, out) == (3, "")
    assert err.endswith(message)


def test_a_traced_script_has_time_and_interrupts_of_its_own(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(
        "import atexit, os, signal, time, torch\n"
        "atexit.register(lambda: print('at the end'))\n"
        "x = torch.ones(3, requires_grad=True)\n"
        "time.sleep(3)\n"
        "x.sum().backward()\n"
        "try:\n"
        "    os.kill(os.getppid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('caught')\n"
    )
    # Tests that are started in the background may have been told to ignore interrupts.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    code, out, err = done(command("trace", "--timeout", "50", str(script), **heard))
    assert code == 0
    assert "agree" in out
    assert out.endswith("at the end\n")
    assert err == "caught\n"


@pytest.mark.parametrize("last", ["", "1/0\n"], ids=["to its end", "raises"])
def test_a_script_cannot_close_our_streams(last: str, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text(
        "import sys, torch\n"
        "x = torch.ones(3, requires_grad=True)\n"
        "x.sum().backward()\n"
        f"sys.stdout.close(); sys.stderr.close()\n{last}"
    )
    code, out, err = done(command("trace", str(script)))
    assert "agree" in out
    assert code == (1 if last else 0)
    assert err.endswith("gradexplain: s.py stopped with ZeroDivisionError\n" if last else "")


@pytest.mark.parametrize(
    ("arguments", "end", "said"),
    [
        (["trace", "FILE"], "os.abort()", "by SIGABRT\nremedy: python -X faulthandler FILE.py may show where"),
        (["check", "FILE:F"], "os._exit(0)", "with status 0\nremedy: leave os._exit() out"),
    ],
)  # fmt: skip
def test_a_stranger_that_ends_the_process(
    arguments: list[str], end: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.py"
    path.write_text(
        f"import os, torch\ntorch.ones(3, requires_grad=True).sum().backward()\n{end}\n"
    )
    arguments = [word.replace("FILE", str(path)) for word in arguments]
    message = f"gradexplain: the code that was run ended its process {said}\n"
    assert done(command(*arguments)) == (2, "", message)


def test_the_python_api_within_a_time() -> None:
    """The same explanation, the same errors, and an end that nothing can put off."""
    import gradexplain
    from gradexplain.supervisor.within import within

    try:
        found = gradexplain.explain("x ** 2", at={"x": 3}, timeout=100)
        assert found.check is not None and found.check.status == "agree"
        assert found.gradients["x"].value == 6
        assert gradexplain.hessian("x ** 2", at={"x": 3}, timeout=100).check.status == "agree"  # type: ignore[union-attr]
        twice = gradexplain.explain_calls("x ** 2", [1, 1], at={"x": 3}, timeout=100)
        assert twice.check is not None and twice.check.status == "agree"
        assert not gradexplain.check("x ** 2", "x: x*v", at={"x": 3}, timeout=100).right
        with pytest.raises(gradexplain.InputError, match="timeout is for an expression"):
            gradexplain.check(abs, timeout=100)
        with pytest.raises(gradexplain.InputError, match="something is missing"):
            gradexplain.explain("x *", timeout=100)
        with pytest.raises(gradexplain.BudgetError) as error:
            within(1, pow, 3, 10**9)
        assert str(error.value) == ("not finished within 1 seconds\nremedy: timeout=2 allows more")
        with pytest.raises(gradexplain.BudgetError) as error:
            within(100, bytearray, 1 << 40)
        assert str(error.value) == (
            "not enough memory: more than 2GiB is needed\n"
            "remedy: smaller shapes have the same formulas"
        )
    finally:
        helper.HELPERS.stop()


def test_the_same_bytes_whatever_the_machine() -> None:
    """Threads, kernels, capabilities, hash seeds and locales change nothing."""
    arguments = ["run", "softmax(x @ w, dim=1)", "--shape", "x=3,4", "--shape", "w=4,2"]
    arguments += ["--grad", "ones", "--format", "json"]
    environments: list[dict[str, str]] = [
        {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", "COLUMNS": "40"},
        {"PYTHONHASHSEED": "2", "OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "1",
         "ATEN_CPU_CAPABILITY": "default", "LC_ALL": "C", "TZ": "Asia/Tokyo"},
    ]  # fmt: skip
    processes = [command(*arguments, env={**os.environ, **given}) for given in environments]
    pages = {done(process)[1] for process in processes}
    assert len(pages) == 1
    assert '"status": "agree"' in pages.pop()


def test_digits_that_were_counted_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    """Other instructions of PyTorch change its last digits, and so where they go; nothing else."""
    arguments = ["stability", "1 - sigmoid(x)", "--range", "x=-30,30", "--shape", "x=19"]
    arguments += ["--format", "json"]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    code, out, err = done(command(*arguments, env=environment))
    assert (code, err) == (main(arguments), "")
    pages = [json.loads(page) for page in (out, capsys.readouterr().out)]
    schema = schema_of(Stability)
    assert same_document(*pages, schema, schema, atol=1.0)


def test_an_array_that_the_other_end_has_is_named_and_not_sent() -> None:
    import numpy as np

    given = np.arange(200_000.0)
    there = [bytearray(part) for part in link.packed((given, given + 1))[1:]]
    x, other = link.unpacked(there)
    answer = link.packed({"x": x, "new": other * 2, "small": np.ones(3)}, there)
    assert [len(part) for part in answer[2:]] == [given.nbytes, 24]
    pipe = io.BytesIO(b"".join(bytes(part) for part in answer))
    found = link.unpacked(link.read(pipe, there))
    np.testing.assert_array_equal(found["x"], given)
    np.testing.assert_array_equal(found["new"], 2 * given + 2)
    np.testing.assert_array_equal(found["small"], np.ones(3))
