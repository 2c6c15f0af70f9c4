"""Scripts as people paste them: read and explained here, run by PyTorch, and held together.

The scripts are the tests' own (tests/pasted.txt); their habits are those of forum posts and tutorials.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradexplain import explain
from gradexplain.explanation import Explanation, Shape
from gradexplain.reading.examples import Inputs
from gradexplain.reading.pasted import cleaned

_ANSWER = re.compile(r"^#: (\w+) = (.+)$", re.MULTILINE)


def scripts() -> Iterator[tuple[str, str]]:
    text = (Path(__file__).parent / "pasted.txt").read_text(encoding="utf-8")
    for part in text.split("\n=== ")[1:]:
        name, _, script = part.partition("\n")
        yield name, script


SCRIPTS = dict(scripts())


class Drawn:
    """The example values in the order in which a script draws them, for PyTorch's own run."""

    def __init__(self) -> None:
        self.inputs = Inputs()

    def tensor(self, *size: Any, signs: bool, **options: Any) -> torch.Tensor:
        size = options.pop("size", size)
        shape: Shape = tuple(size[0]) if len(size) == 1 and not isinstance(size[0], int) else size
        values = self.inputs.example(shape, signs=signs)
        dtype = options.pop("dtype", torch.get_default_dtype())
        return torch.tensor(values, dtype=dtype, **options)

    def parameter(self, shape: Shape) -> torch.Tensor:
        fan = max(1, int(np.prod(shape[1:]))) if len(shape) > 1 else 4
        values = np.round(self.inputs.example(shape, signs=True) / np.sqrt(fan), 2)
        return torch.tensor(values, dtype=torch.get_default_dtype())


def ran(script: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names of a script once PyTorch has run it, its random numbers being the examples."""
    drawn = Drawn()
    monkeypatch.setattr(torch, "randn", lambda *n, **k: drawn.tensor(*n, signs=True, **k))
    monkeypatch.setattr(torch, "rand", lambda *n, **k: drawn.tensor(*n, signs=False, **k))

    def reset(layer: Any) -> None:
        with torch.no_grad():
            for parameter in layer.parameters(recurse=False):
                parameter.copy_(drawn.parameter(tuple(parameter.shape)))

    for kind in (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Embedding):
        monkeypatch.setattr(kind, "reset_parameters", reset)
    names: dict[str, Any] = {"torch": torch, "__name__": "__main__"}
    before = torch.get_default_dtype()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(cleaned(script), "script", "exec", dont_inherit=True), names)
    finally:
        torch.set_default_dtype(before)
    return names


def gradient(explanation: Explanation, name: str) -> Any:
    """What is in ``.grad`` after the last call."""
    if explanation.calls:
        return explanation.calls[-1].gradients[name].after
    return explanation.gradients[name].value


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = SCRIPTS[name]
    found = explain(script)
    assert found.check is not None
    assert found.check.status == "agree", found.check
    names = ran(script, monkeypatch)
    answers = dict(_ANSWER.findall(script)) or {n: f"{n}.grad" for n in found.gradients}
    assert answers
    for leaf, place in answers.items():
        expected = eval(place, names).detach()
        bits = 1e-5 if expected.dtype == torch.float32 else 1e-12
        np.testing.assert_allclose(gradient(found, leaf), expected.numpy(), rtol=bits, atol=bits)
