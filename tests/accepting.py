"""Outputs that are compared byte for byte with files.

    UPDATE_GOLDEN=1 python -m pytest tests/test_samples.py

writes those that changed anew, shows what changed, and fails: look at it, and run the tests again.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np


def compare(found: bytes | str, golden: Path) -> None:
    """Hold ``found`` against the file ``golden``."""
    new = found if isinstance(found, str) else found.decode()
    old = golden.read_text("utf-8") if golden.exists() else ""
    if new != old and os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(new, "utf-8", newline="\n")
    assert new == old


#: A number in a page, and what its width changes: how a table is set and where a line ends.
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])")
_SETTING = re.compile(r"[\s─]+")


def compare_numbers(found: str, golden: Path) -> None:
    """As `compare`, but that numbers, which are PyTorch's, may differ in the last of their digits."""
    old = golden.read_text("utf-8") if golden.exists() else ""
    if not same_but_for_digits(found, old):
        compare(found, golden)


def same_but_for_digits(found: str, golden: str) -> bool:
    """Whether two pages are the same but for float32's last digits, and numbers of that size."""
    (text, numbers), (other, others) = (
        (_SETTING.sub(" ", _NUMBER.sub("#", page)), _NUMBER.findall(page))
        for page in (found, golden)
    )
    if text != other:
        return False
    ours, theirs = (np.array([float(n.replace("−", "-")) for n in ns]) for ns in (numbers, others))
    return np.allclose(ours, theirs, rtol=2e-5, atol=1e-6)


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


def same_document(
    found: Any, golden: Any, schema: dict[str, Any], root: dict[str, Any], atol: float = 1e-12
) -> bool:
    """Whether two documents are the same but for the last digits of PyTorch's numbers."""
    if "x-computed-by" in schema:
        found, golden = (np.array(d, dtype=float) for d in (found, golden))
        return np.allclose(found, golden, rtol=1e-9, atol=atol, equal_nan=True)
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    for choice in schema.get("anyOf", ()):
        if "$ref" in choice and isinstance(found, dict):
            return same_document(found, golden, choice, root, atol)
    if isinstance(found, dict) and isinstance(golden, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        others = others if isinstance(others, dict) else {}
        return found.keys() == golden.keys() and all(
            same_document(found[key], golden[key], known.get(key, others), root, atol)
            for key in found
        )
    if isinstance(found, list) and isinstance(golden, list) and "items" in schema:
        return len(found) == len(golden) and all(
            same_document(f, g, schema["items"], root, atol)
            for f, g in zip(found, golden, strict=True)
        )
    return found == golden
