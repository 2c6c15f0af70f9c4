"""The samples: each file's own command, its output compared byte for byte (see `accepting`)."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from accepting import compare, compare_json

from gradexplain.cli import main
from gradexplain.document.schema import schema_of
from gradexplain.explanation import Explanation

ROOT = Path(__file__).parent.parent
SAMPLES = sorted((ROOT / "samples").glob("*.expr"))
GOLDEN = ROOT / "tests" / "golden"
#: What a page would follow.
_TERMINAL = ("NO_COLOR", "COLUMNS", "FORCE_COLOR")


def command(sample: Path) -> list[str]:
    """The command in a sample's comments."""
    line = next(
        line for line in sample.read_text("utf-8").splitlines() if line.startswith("# gradexplain")
    )
    return shlex.split(line.removeprefix("# gradexplain "))


def output(arguments: list[str], *, process: bool = False, **environment: str) -> bytes:
    """What the command prints (standard error after standard output), and its exit code.

    In this process, where all is loaded, unless ``process`` or another environment is wanted.
    """
    if process or environment:
        env = {k: v for k, v in os.environ.items() if k not in _TERMINAL}
        run = subprocess.run(
            [sys.executable, "-m", "gradexplain", *arguments],
            cwd=ROOT,
            env=env | {"PYTHONIOENCODING": "utf-8", **environment},
            capture_output=True,
            check=False,
        )
        return run.stdout + run.stderr + f"exit code {run.returncode}\n".encode()
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(ROOT)
        for name in _TERMINAL:
            patch.delenv(name, raising=False)
        code = main(arguments)
    written = [stream.buffer.getvalue() for stream in (out, err)]  # type: ignore[attr-defined]
    return b"".join(written) + f"exit code {code}\n".encode()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_text(sample: Path) -> None:
    by_process = sample.stem == "weighted-vector"
    compare(output(command(sample), process=by_process), sample.with_suffix(".txt"))


@pytest.mark.parametrize(
    "name", ["weighted-vector", "column-normalise", "zero-point", "blind-test-vector", "kink"]
)
def test_json(name: str) -> None:
    arguments = [*command(ROOT / "samples" / f"{name}.expr"), "--format", "json"]
    compare_json(output(arguments), GOLDEN / f"{name}.json", schema_of(Explanation))


@pytest.mark.parametrize(
    ("name", "options", "environment"),
    [
        ("column-normalise", ["--width", "80"], {}),
        ("column-normalise", [], {"PYTHONIOENCODING": "ascii"}),
        ("three-layers", ["--dtype", "float32"], {}),
        ("weighted-vector", ["--precision", "3", "--no-check"], {}),
    ],
    ids=["80 columns", "ascii", "float32", "three digits, no check"],
)
def test_variants(
    name: str, options: list[str], environment: dict[str, str], request: pytest.FixtureRequest
) -> None:
    variant = request.node.callspec.id.replace(" ", "-").replace(",", "")
    found = output([*command(ROOT / "samples" / f"{name}.expr"), *options], **environment)
    compare(found, GOLDEN / f"{name}.{variant}.txt")
