"""JSON documents from dataclasses, and the schemas that are made from the same tables."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from typing import Any

import jsonschema
import numpy as np
import pytest
from accepting import same_document
from sample import array, normalised, weighted

from gradexplain.cli.program import main
from gradexplain.cli.schema import DOCUMENTS
from gradexplain.document import serialise
from gradexplain.document.schema import schema_of
from gradexplain.explanation import Explanation, Note


def schema(command: str) -> dict[str, Any]:
    module, name = DOCUMENTS[command]
    return schema_of(getattr(import_module(module), name))


def test_an_explanation() -> None:
    document = json.loads(serialise.text(weighted()))
    jsonschema.validate(document, schema("run"))
    assert document["schema"] == "gradexplain/1"
    assert document["grad"] == [0.1, 1, 0.0001]
    assert document["inputs"]["a"] == {
        "name": "a",
        "shape": [3],
        "value": [1, 2, 3],
        "given": False,
        "wanted": True,
        "integer": False,
        "boolean": False,
    }
    assert document["jacobian"]["b"] == {
        "name": "b",
        "formula": "∂y[i]/∂b[j] = 4·b[i]·δ(i,j)",
        "latex": r"4 b_i \delta_{ij}",
        "where": [],
        "ranges": "i, j = 0…2",
        "structure": "diagonal",
        "shape": [3, 3],
        "value": [[16, 0, 0], [0, 20, 0], [0, 0, 24]],
    }
    c = document["gradients"]["c"]
    assert c["torch"] == c["value"] == [0.0142857142857, 0.125, 1.11111111111e-05]
    assert c["agrees"] is True
    assert "calls" not in document and "freed" not in document


def test_the_layout() -> None:
    value = {"list": [1, 2.5], "rows": [{"a": float("-inf")}], "empty": {}, "none": None}
    assert (
        serialise.written(serialise.plain(value, 3))
        == """\
{
  "list": [1, 2.5],
  "rows": [
    {
      "a": "-inf"
    }
  ],
  "empty": {},
  "none": null
}"""
    )


def test_non_finite_numbers_and_signed_zero() -> None:
    x = weighted()
    g = x.gradients["c"]
    g.value = g.chain_rule = array([np.inf, -np.inf, -0.0])
    g.torch = array([np.nan, -np.inf, 1e-17])
    document = x.to_dict()["gradients"]["c"]
    assert document["value"] == ["inf", "-inf", 0.0]
    assert str(document["value"][2]) == "0.0"
    assert document["torch"] == ["nan", "-inf", 1e-17]
    g.torch = None
    assert x.to_dict()["gradients"]["c"]["torch"] is None


def test_the_data_of_a_note_stand_beside_its_text() -> None:
    x = weighted()
    x.notes = [Note("infinity", "log(0)", {"node": "t5", "value": float("-inf")})]
    document = x.to_dict()
    assert document["notes"] == [
        {"kind": "infinity", "text": "log(0)", "node": "t5", "value": "-inf"}
    ]
    jsonschema.validate(document, schema("run"))


def test_json_in_ascii_is_the_same_document() -> None:
    x = normalised()
    document = serialise.text(x, ascii_only=True)
    assert document.isascii()
    assert json.loads(document) == json.loads(serialise.text(x))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("run", 'run "s = x.sum(); s*x" --grad ones --grad 1,0,0 --no-retain-graph'),
        ("run", 'run "s = 2*x; (s**3).sum()" --order 2'),
        ("run", 'run "log(x)" --at x=0,1 --grad ones'),
        ("run", 'run "x.detach()*x" --grad ones --retain-grad y'),
        ("hessian", 'hessian "x[0]*x[1] + y**3" --at x=1,2 --at y=3'),
        ("hessian", 'hessian "(x*x).sum()" --at x=1,2 --vector 1,0'),
        ("check", 'check "x / x.sum()" --claim "x: v/x.sum()"'),
        ("check", 'check "x*x" --claim "x: 2*x*v" --all'),
        ("check", "check samples/check_normalise.py:Normalise"),
        ("trace", "trace --format json samples/trace_training.py"),
        ("trace", "trace --format json samples/trace_freed_graph.py"),
        ("ops", "ops softmax"),
    ],
)
def test_documents_are_valid(
    command: str, arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [] if command == "trace" else ["--format", "json"]  # a script takes what follows it
    main([*shlex.split(arguments), *options])
    found = capsys.readouterr().out
    start = found.index('{\n  "schema"')  # the script's own output is around it
    document, _ = json.JSONDecoder().raw_decode(found, start)
    jsonschema.validate(document, schema(command))


@pytest.mark.parametrize("command", DOCUMENTS)
def test_a_schema_is_one_and_closed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = schema(command)
    jsonschema.Draft202012Validator.check_schema(made)
    assert main(["schema", command]) == 0
    assert json.loads(capsys.readouterr().out) == made
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": made["title"], "unknown": 1}, made)


def test_only_pytorchs_numbers_may_differ() -> None:
    made = schema_of(Explanation)
    one, other = weighted().to_dict(), weighted().to_dict()
    other["gradients"]["c"]["torch"][0] *= 1 + 1e-11
    assert same_document(one, other, made, made)
    other["gradients"]["c"]["value"][0] *= 1 + 1e-11
    assert not same_document(one, other, made, made)
