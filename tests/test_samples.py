"""The samples: each file's own command, its output compared byte for byte (see `accepting`)."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from accepting import compare, compare_json

from gradexplain.document.schema import schema_of
from gradexplain.explanation import Explanation

ROOT = Path(__file__).parent.parent
SAMPLES = sorted((ROOT / "samples").glob("*.expr"))
GOLDEN = ROOT / "tests" / "golden"


def command(sample: Path) -> list[str]:
    """The command in a sample's comments."""
    line = next(
        line for line in sample.read_text("utf-8").splitlines() if line.startswith("# gradexplain")
    )
    return shlex.split(line.removeprefix("# gradexplain "))


def output(arguments: list[str], **environment: str) -> bytes:
    """What the command prints (standard error after standard output), and its exit code."""
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    env |= {"PYTHONIOENCODING": "utf-8", **environment}
    run = subprocess.run(
        [sys.executable, "-m", "gradexplain", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        check=False,
    )
    return run.stdout + run.stderr + f"exit code {run.returncode}\n".encode()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_text(sample: Path) -> None:
    compare(output(command(sample)), sample.with_suffix(".txt"))


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
