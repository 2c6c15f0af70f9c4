"""The samples: each file's own command, its output compared byte for byte.

    UPDATE_GOLDEN=1 python -m pytest tests/test_samples.py

writes the outputs anew; look at what changed before you commit it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

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


def compare(found: bytes, golden: Path) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_bytes(found)
    assert found.decode() == golden.read_bytes().decode()


def compare_json(found: bytes, golden: Path, schema: dict[str, Any]) -> None:
    """As `compare`, but that numbers which the schema says PyTorch computed may differ in the last
    digits; both are valid documents of the schema."""
    document = json.loads(found.rpartition(b"exit code")[0])
    jsonschema.validate(document, schema)
    same = golden.exists() and same_document(
        document, json.loads(golden.read_bytes().rpartition(b"exit code")[0]), schema, schema
    )
    if not same:
        compare(found, golden)


def same_document(found: Any, golden: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether two documents are the same but for the last digits of PyTorch's numbers."""
    if "x-computed-by" in schema:
        found, golden = (np.array(d, dtype=float) for d in (found, golden))
        return np.allclose(found, golden, rtol=1e-9, atol=1e-12, equal_nan=True)
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    for choice in schema.get("anyOf", ()):
        if "$ref" in choice and isinstance(found, dict):
            return same_document(found, golden, choice, root)
    if isinstance(found, dict) and isinstance(golden, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        others = others if isinstance(others, dict) else {}
        return found.keys() == golden.keys() and all(
            same_document(found[key], golden[key], known.get(key, others), root) for key in found
        )
    if isinstance(found, list) and isinstance(golden, list) and "items" in schema:
        return len(found) == len(golden) and all(
            same_document(f, g, schema["items"], root) for f, g in zip(found, golden, strict=True)
        )
    return found == golden


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
