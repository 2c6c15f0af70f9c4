"""Signals at any moment: each command is stopped somewhere, with its output to here or there.

    python -m tests.fuzz --signals 300 --seed 7

A command that is stopped says nothing, ends with the signal's code, and leaves no process.
"""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_SCRIPT = """\
import torch
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
opt = torch.optim.Adam(net.parameters())
for step in range(4):
    opt.zero_grad()
    net(torch.ones(5, 3)).pow(2).sum().backward()
    opt.step()
"""
_PROBLEMS = "".join(f'{{"expression": "sin(x)*{k}", "id": {k}}}\n' for k in range(1, 4))
_COMMANDS = {
    "run": ["run", "softmax(x @ w, dim=1)", "--shape=x=3,4", "--shape=w=4,2", "--grad=ones"],
    "check": ["check", "x / x.sum(dim=0)", "--claim", "x: v"],
    "hessian": ["hessian", "tanh(x * w).sum()", "--shape=x=3", "--shape=w=3"],
    "stability": ["stability", "log(exp(x) - 1)", "--range=x=0.001,20"],
    "codegen": ["codegen", "x / x.sum(dim=0)"],
    "trace": ["trace", "script.py"],
    "batch": ["batch", "problems.jsonl", "--jobs", "2"],
}
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PLACES = ("pipe", "file", "closed", "/dev/full")


def stopped(count: int, seed: int) -> int:
    """``count`` commands, each stopped at a moment of its own; how many did not end as they should."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "script.py").write_text(_SCRIPT)
        (folder / "problems.jsonl").write_text(_PROBLEMS)
        for number in range(count):
            chance = random.Random(f"{seed} {number}")
            command = chance.choice([*_COMMANDS])
            delay = chance.choice([0.02, 0.1, 0.4, 1.2, 3.0, 5.0]) * chance.uniform(0.5, 1.5)
            stop, place = chance.choice(_STOPS), chance.choice(_PLACES)
            group, silent = chance.random() < 0.5, chance.random() < 0.3
            said = _stopped(folder, _COMMANDS[command], delay, stop, place, group, silent)
            if said:
                wrong += 1
                about = f"{stop.name} {'to all ' * group}after {delay:.2f} s, output {place}"
                print(
                    f"{number}: {shlex.join(_COMMANDS[command])[:60]}: {about}: {said}", flush=True
                )
    print(f"{count} commands stopped, {wrong} not as they should")
    return wrong


def _stopped(
    folder: Path,
    arguments: list[str],
    delay: float,
    stop: int,
    place: str,
    group: bool,
    silent: bool,
) -> str:
    """What is wrong with how a command ended, "" for nothing."""
    start = "import sys; from gradexplain.cli import main; sys.exit(main())"
    with open(folder / "out", "wb") as file, open("/dev/full", "wb") as full:
        out = {"file": file, "/dev/full": full}.get(place, subprocess.PIPE)

        def prepare() -> None:
            for number in _STOPS:
                signal.signal(number, signal.SIG_DFL)
            for descriptor in [0] * silent + [1] * (place == "closed"):
                os.close(descriptor)

        process = subprocess.Popen(
            [sys.executable, "-c", start, *arguments], stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=folder, preexec_fn=prepare,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        caught_up(process)
        time.sleep(delay)
        (os.killpg if group else os.kill)(process.pid, stop)
        try:
            _, err = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "it did not end"
    left = living(process.pid)
    code = process.returncode
    if left:
        return f"{left} left of it"
    if code == 128 + stop:
        return f"it said {err[-600:]!r}" if err else ""
    known = {0, 1, 141} if place == "closed" else {0, 1, 2} if place == "/dev/full" else {0, 1}
    refused = err.startswith("gradexplain: cannot write to standard output") and code == 2
    return "" if code in known and (not err or refused) else f"exit code {code}, {err[-600:]!r}"


def caught_up(process: subprocess.Popen[str]) -> None:
    """Wait until a command is past the interpreter's own start, which no program can provide for."""
    bit = 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        caught = next(line for line in status if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) & bit:
            return
        time.sleep(0.001)


def living(session: int) -> list[int]:
    """What lives of a command when it has ended, which nothing should."""
    deadline = time.monotonic() + 20
    while True:
        found = [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if _lives(pid, session)
        ]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _lives(pid: int, session: int) -> bool:
    try:
        state, _, _, found = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:4]
    except (OSError, ValueError):
        return False
    return int(found) == session and state not in "ZX"
