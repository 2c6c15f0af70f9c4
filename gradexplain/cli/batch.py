"""``gradexplain batch``: problems in, one JSON object a line; their answers out, one a line."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from gradexplain.cli import output, shell
from gradexplain.cli.common import budget_options, output_option
from gradexplain.errors import InputError
from gradexplain.limits import BUDGET, MAX_VALUE_TEXT
from gradexplain.supervisor import link
from gradexplain.verdict.status import EXIT

if TYPE_CHECKING:
    from gradexplain.batch.pools import Pool
    from gradexplain.batch.problems import Answer


@click.command(short_help="Answer many problems, one JSON object a line.")
@click.argument("problems", metavar="PROBLEMS.jsonl", required=False, shell_complete=shell.files)
@output_option
@click.option("--jobs", metavar="N", type=click.IntRange(1, 1024), help="Processes. [one a core]")
@budget_options
@click.option("--resume", is_flag=True, help="Leave out the problems that FILE has answers to.")
@click.option("--unordered", is_flag=True, help="Write answers as they come.")
@click.option(
    "--cluster", metavar="ADDRESS", help="dask.distributed's scheduler, tcp://HOST:PORT, or local."
)
@click.option(
    "--generate", "names", metavar="OP", multiple=True, shell_complete=shell.operations,
    help="Write random problems of an operation instead; repeatable.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Write random problems of every operation.")
@click.option("-n", "count", metavar="N", type=click.IntRange(1), default=1000, help="[1000]")
@click.option("--seed", type=int, default=1, help="The same seed, the same problems. [1]")
def batch(
    problems: str | None,
    path: str | None,
    jobs: int | None,
    resume: bool,
    unordered: bool,
    cluster: str | None,
    names: tuple[str, ...],
    everything: bool,
    count: int,
    seed: int,
) -> int:
    """Answer problems, one JSON object a line of PROBLEMS.jsonl, or - for standard input.

    \b
    gradexplain batch --all -n 1000 -o problems.jsonl
    gradexplain batch problems.jsonl -o answers.jsonl --jobs 4

    A problem has an expression and what run takes: at, grad, shapes, wrt, dtype, check; a command
    (run, hessian, or check with claims) and an id. Its answer has its line, its id, a status
    (agree, convention, mismatch, cannot tell, skipped; or error, timeout, memory, crashed, with
    the error) and the answer itself, as --format json. The answers are in the order of the problems.

    --timeout and --memory are for one problem. One that makes no sense, or passes its time or
    memory, is one line of the answers.
    What was answered when the command is stopped stays; --resume goes on from there.

    Exit codes: 0 every problem was answered and agrees, 1 some do not agree, 2 the request was
    not understood, 3 some could not be answered or checked.
    """
    gc.set_threshold(700, 10, 10)  # it may work for days
    timeout, memory = link.state.timeout, BUDGET.memory  # of each problem; all have no limit
    link.timeout(None)
    link.memory(None)
    if names or everything:
        from gradexplain.batch import generated

        if problems is not None:
            raise InputError(
                "--generate and --all write problems; they take none",
                remedy=f"leave {problems} out",
            )
        with _lines_out(path, False) as write:
            for text in generated.problems(() if everything else names, count, seed):
                write(text)
        return 0
    if problems is None:
        raise InputError(
            "the problems are missing",
            remedy="name a file of them, as in gradexplain batch problems.jsonl; or --generate",
        )
    from gradexplain.batch import many, pools

    done, codes = _done(path) if resume else (frozenset(), set())
    jobs = jobs or os.cpu_count() or 1
    pool: AbstractContextManager[Pool] = (
        pools.local(jobs, timeout, memory)
        if cluster is None
        else pools.cluster(cluster, jobs, timeout, memory)
    )
    with (
        _opened(problems) as file,
        _lines_out(path, resume) as write,
        _progress(problems, len(done)) as progress,
        pool as places,
    ):
        for answer in many.answers(_problems(file, done), places, ordered=not unordered):
            write(answer.text)
            codes.add(EXIT.get(answer.status, 3))
            progress(answer)
    return 1 if 1 in codes else max(codes, default=0)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed", remedy="name a file of problems")
        yield sys.stdin.buffer
        return
    with output.refusals(path, "read", "batch takes a file of problems"):
        file = open(path, "rb")
    with file:
        yield file


def _problems(file: BinaryIO, done: frozenset[int]) -> Iterator[tuple[int, str]]:
    """The lines that are problems, with their numbers; blank ones are none."""
    number = 0
    while data := file.readline(MAX_VALUE_TEXT + 2):
        number += 1
        whole = data.endswith(b"\n")
        while not whole and (rest := file.readline(MAX_VALUE_TEXT)):
            data, whole = data[: MAX_VALUE_TEXT + 1], rest.endswith(b"\n")
        text = data.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
        if text.strip() and number not in done:
            yield number, text


@contextmanager
def _lines_out(path: str | None, resume: bool) -> Iterator[Any]:
    """A function that writes one whole line, at once."""
    if path is None:
        yield output.write
        return
    with output.refusals(path):
        file = open(path, "ab" if resume else "wb", buffering=0)
    with file:

        def write(text: str) -> None:
            with output.refusals(path):
                output.write_all(file.fileno(), text.encode())

        yield write


def _done(path: str | None) -> tuple[frozenset[int], set[int]]:
    """The lines that ``path`` has answers to, and their exit codes; what is no whole line is cut off."""
    import json

    if path is None:
        raise InputError("--resume needs the file of answers", remedy="give it with -o FILE")
    done: set[int] = set()
    codes: set[int] = set()
    if not os.path.exists(path):
        return frozenset(), codes
    with output.refusals(path), open(path, "rb+") as file:
        end = 0
        for data in file:
            if not data.endswith(b"\n"):
                break
            try:
                answer = json.loads(data)
                done.add(answer["line"])
                codes.add(EXIT.get(answer["status"], 3))
            except (ValueError, TypeError, KeyError):
                raise InputError(
                    f"{path} is no file of answers: its line {len(done) + 1} is something else",
                    remedy="name the file that batch wrote, or leave --resume out",
                ) from None
            end += len(data)
        file.truncate(end)
    return frozenset(done), codes


@contextmanager
def _progress(path: str, done: int) -> Iterator[Any]:
    """A function that counts answers, on a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda answer: None
        return
    from rich import progress
    from rich.console import Console

    total = None
    if os.path.isfile(path):
        with open(path, "rb") as file:
            total = sum(1 for line in file if line.strip())
    bar = progress.Progress(
        progress.BarColumn(), progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}  {task.fields[failed]} failed"),
        progress.TimeRemainingColumn(), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    failed = 0
    with bar:
        task = bar.add_task("", total=total, completed=done, rate="", failed=0)

        def show(answer: Answer) -> None:
            nonlocal failed
            failed += EXIT.get(answer.status, 3) == 3
            speed = bar.tasks[0].speed
            rate = "" if speed is None else f"{speed:.1f}/s"
            bar.update(task, advance=1, rate=rate, failed=failed)

        yield show
