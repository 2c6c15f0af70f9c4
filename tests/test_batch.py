"""``gradexplain batch``: every problem has one line, whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import gradexplain
from gradexplain.batch import generated, pools, problems
from gradexplain.batch.pools import Pool
from gradexplain.cli import main
from gradexplain.errors import InputError
from gradexplain.supervisor.helper import Helpers

ROOT = Path(gradexplain.__file__).parent.parent
COMMAND = [sys.executable, "-c", "from gradexplain.cli import main; raise SystemExit(main())"]


def batch(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "batch", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text("utf-8") if path.exists() else ""
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def many(path: Path, count: int) -> Path:
    path.write_text(
        "".join(
            json.dumps({"id": k, "expression": "x.exp().sum()", "at": {"x": [k / 10, 1]}}) + "\n"
            for k in range(count)
        )
    )
    return path


@pytest.mark.parametrize(
    ("problem", "status", "error"),
    [
        ('{"id": 7, "expression": "x*2", "check": false}', "skipped", None),
        (
            '{"id": 7, "expression": "x**2", "command": "check", "claims": "x: 2*x*v"}',
            "agree",
            None,
        ),
        (
            '{"id": 7, "expression": "x**2", "command": "check", "claims": {"x": "v"}}',
            "mismatch",
            None,
        ),
        ('{"id": 7, "expression": "x**2", "command": "hessian", "check": false}', "skipped", None),
        (
            '{"id": 7, "expression": "x*", "at": {}}',
            "error",
            "something is missing after `*`\n  x*\n   ^",
        ),
        ("{}", "error", "line 3 has no 'expression'"),
        ("[1]", "error", "line 3 is list, not a JSON object"),
        ("{", "error", "line 3 is not JSON: Expecting property name enclosed in double quotes"),
        ('{"expression": 3}', "error", "line 3: 'expression' is not text"),
        (
            '{"expression": "x", "at": [1]}',
            "error",
            "line 3: 'at' is not an object of values by name",
        ),
        (
            '{"expression": "x", "shapes": {"x": 3}}',
            "error",
            "line 3: the shape of 'x' is not a list",
        ),
        ('{"expression": "x", "at": {"x": "one"}}', "error", "at['x']"),
        ('{"expression": "x", "command": "rm"}', "error", "line 3: command 'rm' is none of run"),
        ('{"expression": "x", "claims": "x: v"}', "error", "line 3: 'claims' is no key of run"),
        ("[" * 100_000, "error", "line 3 is not JSON"),
        ('{"expression": "x", "command": []}', "error", "line 3: 'command' is not text"),
    ],
)
def test_one_problem(problem: str, status: str, error: str | None) -> None:
    answer = problems.answered(3, problem)
    found = json.loads(answer.text)
    assert answer.text.count("\n") == 1
    assert (answer.line, answer.status, found["line"]) == (3, status, 3)
    assert found["status"] == status
    if error is None:
        assert found["id"] == 7
        assert found["answer"]["schema"].startswith("gradexplain")
        assert "error" not in found
    else:
        assert found["error"].startswith(error)
        assert "answer" not in found


def test_an_id_is_said_as_json_can() -> None:
    """Python reads more than JSON may hold."""
    text = '{"id": [1e400, NaN, "\\ud800"], "expression": "x", "check": false}'
    for answer in (problems.answered(3, text), problems.unanswered(3, text, "timeout", "late")):
        found = json.loads(answer.text, parse_constant=pytest.fail)
        assert found["id"] == ["inf", "nan", "\ud800"]


def test_a_future_that_fails_is_one_line() -> None:
    future: Future[Any] = Future()
    future.set_exception(RuntimeError("worker died"))
    pool = Pool(lambda line, text: future, 1)
    answer = pool.answer(future, 5, '{"id": "a", "expression": "x"}')
    assert json.loads(answer.text) == {
        "line": 5, "id": "a", "status": "crashed", "error": "its process ended without an answer",
    }  # fmt: skip


def test_a_problem_that_needs_more_of_pytorch_than_its_process_has() -> None:
    """The process begins anew, and still takes one core: two workers would stand in each other's way."""
    given = {"expression": "cross(x, y)", "at": {"x": [1, 2, 3], "y": [3, 1, 2]}, "grad": [1, 1, 2]}
    helpers = Helpers(1)
    try:
        assert pools.answer_within(1, json.dumps(given), None, None, helpers).status == "agree"
        (helper,) = helpers.idle
        helper.send(torch.get_num_threads, None)
        assert helper.receive(None) == 1
        assert b"GRADEXPLAIN_ALL" in Path(f"/proc/{helper._process.pid}/environ").read_bytes()
    finally:
        helpers.stop()


def test_time_and_memory_are_each_problems_own(tmp_path: Path) -> None:
    source, out = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    source.write_text(
        '{"expression": "x @ x", "shapes": {"x": [3000, 3000]}, "grad": "ones"}\n{"expression": "x"}\n'
    )
    # Time enough for a busy machine: it is memory that is missing.
    process = batch(
        str(source), "-o", str(out), "--jobs", "1", "--memory", "60MiB", "--timeout", "600"
    )
    assert process.communicate() == ("", "")
    assert [a["status"] for a in lines(out)] in (["memory", "agree"], ["error", "agree"])
    process = batch(
        str(source), "-o", str(out), "--jobs", "1", "--timeout", "1", "--memory", "8GiB"
    )
    assert process.communicate() == ("", "")
    assert process.returncode == 3
    first, _ = lines(out)
    assert first == {"line": 1, "status": "timeout", "error": "not finished within 1 seconds"}


def test_killed_and_resumed_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    """One process dies before any problem was begun, one after some answers, and then all of them."""
    source, out = many(tmp_path / "p.jsonl", 30), tmp_path / "a.jsonl"
    with source.open("a") as file:
        file.write("\nnonsense\n")
    process = batch(str(source), "-o", str(out), "--jobs", "2")
    while not (workers := _workers(process.pid)):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    for count, end in (
        (3, lambda: os.kill(_workers(process.pid)[0], signal.SIGSEGV)),
        (6, process.kill),
    ):
        while len(out.read_bytes().splitlines() if out.exists() else []) < count:
            assert process.poll() is None
            time.sleep(0.02)
        end()
    assert process.communicate() == ("", "")
    before = out.read_text("utf-8")
    with out.open("a") as file:
        file.write('{"line": 99, "half')  # as a disk that was full leaves it
    process = batch(str(source), "-o", str(out), "--jobs", "1", "--resume")
    assert process.communicate() == ("", "")
    assert process.returncode == 3
    assert out.read_text("utf-8").startswith(before)
    *found, last = lines(out)
    assert [(a["line"], a["id"]) for a in found] == [(k + 1, k) for k in range(30)]
    assert {a["status"] for a in found} <= {"agree", "crashed"}
    assert [a["status"] for a in found].count("crashed") <= 2
    assert (last["line"], last["status"]) == (32, "error")


def _workers(front: int) -> list[int]:
    """The processes below a command that run problems."""
    parents = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(pid)] = int(state[1])
    below = [pid for pid, parent in parents.items() if parent == front]
    return [pid for pid, parent in parents.items() if parent in below]


def test_resume_wants_a_file_of_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = many(tmp_path / "p.jsonl", 1), tmp_path / "a.jsonl"
    assert main(["batch", str(source), "--resume"]) == 2
    assert "--resume needs the file of answers" in capsys.readouterr().err
    out.write_text("{}\n")
    assert main(["batch", str(source), "--resume", "-o", str(out)]) == 2
    assert "is no file of answers: its line 1 is something else" in capsys.readouterr().err
    assert main(["batch", str(tmp_path / "none.jsonl")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_any_executor() -> None:
    given = [{"expression": f"x*{k}", "id": k} for k in range(6)]
    with ThreadPoolExecutor(1) as executor:
        found = list(gradexplain.explain_many(given, executor=executor))
    assert [(a["line"], a["id"], a["status"]) for a in found] == [
        (k + 1, k, "agree") for k in range(6)
    ]


def test_generated_problems_are_valid_and_the_same_for_a_seed() -> None:
    made = list(generated.problems(["softmax", "matmul"], 6, 3))
    assert made == list(generated.problems(["softmax", "matmul"], 6, 3))
    assert made != list(generated.problems(["softmax", "matmul"], 6, 4))
    for line, text in enumerate(made, 1):
        answer = problems.answered(line, text)
        assert answer.status == "agree", answer.text
    with pytest.raises(InputError, match="`nothing` is not among the operations"):
        list(generated.problems(["nothing"], 1, 1))


# -- a cluster -------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A real scheduler and two workers on the loopback interface."""
    pytest.importorskip("distributed")
    place = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    dask = [sys.executable, "-m", "dask"]
    started = [
        subprocess.Popen(
            [
                *dask,
                "scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--no-dashboard",
                "--no-show",
                "--scheduler-file",
                str(place),
            ],
            **quiet,
        )  # type: ignore[call-overload]  # fmt: skip
    ]
    started += [
        subprocess.Popen(
            [
                *dask,
                "worker",
                "--scheduler-file",
                str(place),
                "--host",
                "127.0.0.1",
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
                "--local-directory",
                str(tmp_path / str(k)),
            ],
            **quiet,
        )  # type: ignore[call-overload]  # fmt: skip
        for k in range(2)
    ]
    try:
        while not place.exists() or not place.read_text().strip():
            assert started[0].poll() is None
            time.sleep(0.1)
        from distributed import Client

        address = json.loads(place.read_text())["address"]
        with Client(address, timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
        yield address, started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_a_worker(
    cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    address, workers = cluster
    source, out = many(tmp_path / "p.jsonl", 30), tmp_path / "a.jsonl"
    process = batch(str(source), "-o", str(out), "--cluster", address)
    while len(out.read_bytes().splitlines() if out.exists() else []) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    workers[0].kill()
    process.communicate()
    assert process.returncode == 0
    assert [(a["id"], a["status"]) for a in lines(out)] == [(k, "agree") for k in range(30)]
