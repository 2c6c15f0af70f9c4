"""The command line: options to calls, outcomes to exit codes, and nothing else on the terminal."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample import engine, weighted

import gradexplain
from gradexplain.cli import main
from gradexplain.cli.common import MAX_FILE
from gradexplain.errors import InputError
from gradexplain.formats import terminal
from gradexplain.formats.text import Style
from gradexplain.pages.options import Options
from gradexplain.pages.run import page

TESTS = Path(__file__).parent
PLAIN = str(weighted())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = engine()
    monkeypatch.setitem(sys.modules, "gradexplain.explaining.engine", module)
    monkeypatch.setitem(sys.modules, "gradexplain.accumulation", module)
    return module


def program(
    *arguments: str | bytes, status: str = "agree", before: str = "", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """The program in a process of its own, with the stand-in for the engine."""
    code = (
        f"import sys; sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]\n"
        f"import sample; sys.modules['gradexplain.explaining.engine'] = sample.engine(status={status!r})\n"
        "sys.modules['gradexplain.accumulation'] = sys.modules['gradexplain.explaining.engine']\n"
        f"{before}\n"
        "from gradexplain.cli import main; sys.exit(main())"
    )
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    environment = {**os.environ, "PYTHONUTF8": "1", **options.pop("env", {})}
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(
        command, stderr=subprocess.PIPE, env=environment, timeout=60, check=False, **options
    )


# -- what is asked ----------------------------------------------------------------------------------


def test_every_option_reaches_the_engine(fake: Any) -> None:
    arguments = ["--grad", "-0.1,1", "--at", "a=-1,2", "--at", "b=3", "--shape", "c=2,3"]
    arguments += ["--wrt", "a, b", "--dtype", "float32", "--no-check"]
    assert main(["run", "a*b", *arguments]) == 0
    (request,) = fake.requests
    assert request.expression == "a*b"
    assert np.array_equal(request.grad, [-0.1, 1])
    assert {name: value.tolist() for name, value in request.at.items()} == {"a": [-1, 2], "b": 3}
    assert request.shapes == {"c": (2, 3)}
    assert request.wrt == ("a", "b")
    assert (request.dtype, request.check) == ("float32", False)


def test_defaults(fake: Any) -> None:
    assert main(["run", "x"]) == 0
    (request,) = fake.requests
    assert (request.at, request.grad, request.shapes, request.wrt) == ({}, None, {}, None)
    assert (request.dtype, request.check) == (None, True)


@pytest.mark.parametrize(
    ("arguments", "expression"),
    [
        (["-x*2"], "-x*2"),
        (["-x*2", "--grad", "1"], "-x*2"),
        (["--grad", "1", "-x*2"], "-x*2"),
        (["--grad=1", "--", "--x"], "--x"),
        (["--no-check", "-x"], "-x"),
        (["--grad", "--", "x"], None),
    ],
)
def test_an_expression_may_begin_with_a_minus(
    fake: Any, arguments: list[str], expression: str | None
) -> None:
    code = main(["run", *arguments])
    assert [request.expression for request in fake.requests] == ([expression] * (code == 0))
    assert (code == 0) == (expression is not None)


def test_an_expression_from_a_file(fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffβ = x\r\nβ*2\n".encode())
    assert main(["run", "--file", str(path)]) == 0
    assert fake.requests[0].expression == "β = x\nβ*2\n"


def test_an_expression_from_standard_input(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"3*a\n")))
    assert main(["run", "-"]) == 0
    assert fake.requests[0].expression == "3*a\n"


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff*a", "is not UTF-8 text: byte 0 is 0xff"),
        (b"a" * (MAX_FILE + 1), f"is too large for an expression: more than {MAX_FILE} bytes"),
    ],
)
def test_unreadable_expressions(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    assert main(["run", "--file", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("fake")
def test_an_endless_file_is_not_read_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--file", "/dev/zero"]) == 2
    assert "/dev/zero is too large for an expression" in capsys.readouterr().err


# -- what is understood -----------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a command is missing\nremedy: gradexplain run EXPR, or gradexplain --help"),
        (["rum", "x"], "No such command 'rum'\nremedy: did you mean run?"),
        (["run", "--gard", "1", "x"], "No such option '--gard'\nremedy: did you mean --grad?"),
        (
            ["run", "x", "y"],
            (
                "Got unexpected extra argument (y)\n"
                "remedy: gradexplain run --help lists what can be given"
            ),
        ),
        (
            ["run", "x", "--grad"],
            (
                "Option '--grad' requires an argument\n"
                "remedy: gradexplain run --help lists what can be given"
            ),
        ),
        (
            ["run", "x", "--precision", "18"],
            (
                "Invalid value for '--precision': 18 is not in the range 1<=x<=17\n"
                "remedy: gradexplain run --help lists what can be given"
            ),
        ),
        (
            ["run", "x", "--width", "19"],
            (
                "Invalid value for '--width': 19 is not in the range 20<=x<=1000\n"
                "remedy: gradexplain run --help lists what can be given"
            ),
        ),
        (
            ["run"],
            (
                "the expression is missing\n"
                'remedy: give it as an argument, as in gradexplain run "3*a", or with --file PATH'
            ),
        ),
        (
            ["run", "x", "--file", "f"],
            "the expression is given twice, as EXPR and as --file\nremedy: leave one of them out",
        ),
        (
            ["run", "--file", "/no/such/\x1b[31m"],
            (
                "cannot read /no/such/\\x1b[31m: No such file or directory\n"
                "remedy: --file takes a file that holds an expression"
            ),
        ),
        (
            ["run", "x", "\x1b[31m\udcff"],
            (
                "Got unexpected extra argument (\\x1b[31m\\udcff)\n"
                "remedy: gradexplain run --help lists what can be given"
            ),
        ),
        (["run", "bad"], "no\n  a bad b\n    ^^^\nremedy: a good one"),
        (
            ["run", "RecursionError"],
            "the expression is nested too deeply\nremedy: name parts of it: s = …; x / s",
        ),
    ],
)
def test_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"gradexplain: {message}\n")


@pytest.mark.usefixtures("fake")
def test_an_internal_error_says_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "KeyError"]) == 70
    assert re.sub(r"line \d+", "line N", capsys.readouterr().err) == (
        f"gradexplain: internal error in gradexplain {gradexplain.__version__}, run command: "
        "KeyError: 'raised by the test' (gradexplain.cli.run, line N)\n"
        "remedy: please report this with the command you ran\n"
    )


@pytest.mark.usefixtures("fake")
def test_memory_that_is_used_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "MemoryError", "--memory", "512MiB"]) == 3
    assert capsys.readouterr().err == (
        "gradexplain: not enough memory: more than 512MiB is needed; missing: the question, the "
        "forward values, the Jacobian, the chain rule, the gradients, the verdict\n"
        "remedy: --memory 1GiB allows more; smaller shapes have the same formulas\n"
    )


@pytest.mark.usefixtures("fake")
def test_an_interrupt() -> None:
    assert main(["run", "KeyboardInterrupt"]) == 130


@pytest.mark.parametrize(
    ("status", "code"),
    [("agree", 0), ("convention", 0), ("skipped", 0), ("mismatch", 1), ("cannot tell", 3)],
)
def test_exit_codes(status: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = engine(status=status)
    for name in ("gradexplain.explaining.engine", "gradexplain.accumulation"):
        monkeypatch.setitem(sys.modules, name, module)
    assert main(["run", "x"]) == code


# -- where it goes ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("fake")
def test_text_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "x"]) == 0
    assert capsys.readouterr().out == PLAIN
    assert main(["run", "x", "--output", "-"]) == 0
    assert capsys.readouterr().out == PLAIN
    assert main(["run", "x", "--width", "80", "--precision", "3"]) == 0
    style = Style(width=80, precision=3)
    assert capsys.readouterr().out == terminal.render(page(weighted(), Options(precision=3)), style)


@pytest.mark.usefixtures("fake")
def test_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "x", "--format", "json"]) == 0
    document = capsys.readouterr().out
    assert json.loads(document)["schema"] == "gradexplain/1"
    path = tmp_path / "x.json"
    assert main(["run", "x", "--format", "json", "--output", str(path)]) == 0
    assert path.read_text("utf-8") == document


@pytest.mark.usefixtures("fake")
def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    path.chmod(0o640)
    assert main(["run", "x", "--output", str(path)]) == 0
    assert path.read_text("utf-8") == PLAIN
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


@pytest.mark.usefixtures("fake")
def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    assert main(["run", "x", "--output", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_text("utf-8") == PLAIN


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "Is a directory"), ("no/file", "No such file or directory")],
)
def test_an_unwritable_file(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "x", "--output", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith(
        f"gradexplain: cannot write to {tmp_path / name}: {reason}\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fake")
def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    assert main(["run", "bad", "--output", str(path)]) == 2
    assert path.read_text() == "old"


full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@full
@pytest.mark.usefixtures("fake")
def test_a_full_device_as_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "x", "--output", "/dev/full"]) == 2
    assert "cannot write to /dev/full: No space left on device" in capsys.readouterr().err
    assert not os.path.isfile("/dev/full")


@full
@pytest.mark.parametrize("arguments", [["run", "x"], ["run", "x", "--format", "json"], ["--help"]])
def test_a_full_standard_output(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as device:
        done = program(*arguments, stdout=device)
    assert done.returncode == 2
    assert b"No space left on device" in done.stderr
    assert done.stderr.count(b"gradexplain:") == 1
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize("arguments", [["run", "x"], ["run", "x", "--format", "json"], ["--help"]])
def test_a_closed_pipe(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = program(*arguments, stdout=pipe)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [["run", "x"], ["run", "x", "--format", "json"], ["--help"]])
def test_a_closed_standard_output(arguments: list[str]) -> None:
    done = program(*arguments, stdout=None, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_standard_output_that_does_not_block_loses_nothing() -> None:
    """As node leaves it to those that it starts."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    found: list[bytes] = []
    with os.fdopen(reader, "rb") as file, os.fdopen(writer, "wb") as pipe:
        thread = threading.Thread(target=lambda: found.append(file.read()))
        thread.start()
        done = program(
            "run", "x", "--format", "json", stdout=pipe,
            preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        )  # fmt: skip
        pipe.close()
        thread.join()
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(found[0])["schema"] == "gradexplain/1"


def test_a_closed_standard_output_does_not_matter_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    arguments = ["run", "x", "--output", str(path)]
    done = program(*arguments, stdout=None, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.read_text("utf-8") == PLAIN


def test_closed_standard_input_and_error() -> None:
    done = program("run", "-", stdin=None, preexec_fn=lambda: os.close(0))
    assert done.returncode == 2
    assert done.stderr.startswith(b"gradexplain: standard input is closed\n")
    done = program("run", preexec_fn=lambda: os.close(2))
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_while_it_works(number: int) -> None:
    # The signal comes from the work itself, which then waits for it to be delivered.
    code = f"import os, time\ndef stop(): os.kill(os.getpid(), {number}); time.sleep(50)\n"
    # A job in the background inherits ignored signals from its shell.
    done = program(
        "run", "x", before=code + "sample.weighted = stop",
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + number, b"")


def test_undecodable_arguments() -> None:
    done = program(b"run", b"x", b"\xff\x1b[2J", env={"PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"})
    assert done.returncode == 2
    assert done.stderr.startswith(rb"gradexplain: Got unexpected extra argument (\udcff\x1b[2J)")


def test_a_standard_output_without_unicode() -> None:
    done = program("run", "x", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout.decode("ascii") == terminal.render(page(weighted()), Style(encoding="ascii"))
    done = program("run", "x", "--format", "json", env={"PYTHONIOENCODING": "ascii"})
    assert json.loads(done.stdout.decode("ascii"))["loss"] == "L = 0.1·y[0] + 1·y[1] + 0.0001·y[2]"


def test_the_bytes_do_not_depend_on_the_environment() -> None:
    noise = {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "xterm-256color", "LC_ALL": "C"}
    for environment in ({"NO_COLOR": "1"}, noise | {"PYTHONHASHSEED": "7"}):
        assert program("run", "x", env=environment).stdout.decode() == PLAIN


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_its_width_and_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Style.of(Terminal()) == Style(width=70, color=True)
    assert Style.of(Terminal(), width=90, precision=3) == Style(90, True, "utf-8", 3)
    monkeypatch.setenv("NO_COLOR", "1")
    assert Style.of(Terminal()) == Style(width=70)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert Style.of(Terminal()) == Style(width=70)


# -- starting ---------------------------------------------------------------------------------------

HEAVY = {"numpy", "sympy", "torch", "rich", "mpmath"}


@pytest.mark.parametrize(
    "code",
    ["import gradexplain", "import gradexplain.cli.program", "from gradexplain import InputError"],
)
def test_importing_is_light(code: str) -> None:
    check = f"{code}; import sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, check=True, cwd=TESTS.parent
    )
    assert done.stdout == b"[]\n"


def test_public_names() -> None:
    import gradexplain

    assert set(gradexplain.__all__) <= set(dir(gradexplain))
    assert issubclass(gradexplain.InputError, gradexplain.GradexplainError)
    assert issubclass(gradexplain.UnsupportedError, gradexplain.GradexplainError)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = gradexplain.nothing


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    from gradexplain import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gradexplain {__version__}\n"
    for arguments in (["--help"], ["-h"], ["run", "--help"], ["run", "-h"]):
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert out.startswith("Usage: gradexplain")
        assert out.isascii()
        assert err == ""


def test_a_program_without_inputs_is_refused_in_pytorchs_words() -> None:
    with pytest.raises(InputError) as error:
        gradexplain.explain("a = 3; a*2")
    assert str(error.value) == (
        "y depends on no input that requires grad; PyTorch says: element 0 of tensors does not "
        "require grad and does not have a grad_fn\n"
        "remedy: use a name for the value to differentiate by, as in 3*x"
    )
