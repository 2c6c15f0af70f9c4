"""Scripts with one planted cause each: the sentence names the cause and its line; healthy, or
mended as the remedy says: silence."""

from __future__ import annotations

import hashlib
import io
import runpy
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from gradexplain.pages import screen
from gradexplain.trace.script import run
from gradexplain.trace.session import Trace

HERE = Path(__file__).parent / "traced"

HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\ntorch.manual_seed(0)\n"


def planted() -> dict[str, tuple[str, str, str]]:
    """By name: the kind of the finding, a word of it, and the script."""
    text = (HERE / "planted.txt").read_text("utf-8")
    found = {}
    for part in text.split("\n==== ")[1:]:
        head, _, body = part.partition("\n")
        name, kind, word = head.split(" | ")
        found[name] = kind, word, body
    return found


def mended() -> dict[str, str]:
    """By name: a planted script with its remedy followed."""
    text = (HERE / "mended.txt").read_text("utf-8")
    found = {}
    for part in text.split("\n==== ")[1:]:
        name, *edits = part.rstrip("\n").split("\n")
        body = PLANTED[name][2]
        for edit in edits:
            old, new = (side.replace("\\n", "\n") for side in edit.split(" => "))
            assert old in body, (name, old)
            body = body.replace(old, new, 1)
        found[name] = body
    return found


PLANTED = planted()
MENDED = mended()
PROGRAMS = sorted((HERE / "programs").glob("*.py"))
SCRIPTS = sorted(HERE.glob("*.py"))


def traced(path: Path) -> Trace:
    trace = Trace()
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        run(str(path), (), trace)
    torch.set_default_dtype(torch.float32)
    assert trace.failures == []
    return trace


@pytest.mark.parametrize("name", PLANTED)
def test_planted(name: str, tmp_path: Path) -> None:
    kind, word, body = PLANTED[name]
    path = tmp_path / "script.py"
    path.write_text(HEAD + body, "utf-8")
    lines = [n for n, line in enumerate((HEAD + body).splitlines(), 1) if line.endswith("#!")]
    trace = traced(path)
    page = screen.text(trace.screen("script.py"))
    if kind == "error":
        assert trace.fault is not None
        assert trace.fault.why
        assert trace.fault.remedy
        assert trace.fault.site is not None
        assert trace.fault.site.line in lines
        assert word in f"{trace.fault.why} {trace.fault.remedy}"
    else:
        found = trace.findings
        assert [finding.kind for finding in found][:1] == [kind]
        assert found[0].line in lines
        assert word in f"{found[0].text} {found[0].remedy}"
        assert f"line {found[0].line}" in " ".join(page.split())
    assert page.count("\n") <= screen.LINES


@pytest.mark.parametrize("name", MENDED)
def test_a_remedy_that_is_followed_works(name: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(HEAD + MENDED[name], "utf-8")
    trace = traced(path)
    assert [finding for finding in trace.findings if not finding.remark] == []
    assert trace.fault is None


def test_there_are_enough() -> None:
    assert MENDED.keys() == PLANTED.keys()
    assert len(PLANTED) >= 60
    assert len(PROGRAMS) + len(SCRIPTS) >= 60
    assert len(PROGRAMS) >= 40


def gradients(namespace: dict[str, Any]) -> str:
    """A hash of every ``.grad`` that a script leaves behind."""
    digest = hashlib.sha256()
    for name in sorted(namespace):
        value = namespace[name]
        if isinstance(value, torch.nn.Module):
            for path, parameter in sorted(value.named_parameters()):
                if parameter.grad is not None:
                    digest.update(path.encode() + parameter.grad.to_dense().numpy().tobytes())
        elif isinstance(value, torch.Tensor) and value.is_leaf and value.grad is not None:
            digest.update(name.encode() + value.grad.to_dense().numpy().tobytes())
    return digest.hexdigest()


#: Programs some of whose operations have no formula, or draw their numbers within PyTorch.
PARTLY = {
    "func_grad", "gumbel", "packed", "per_sample", "word_lm",
}  # fmt: skip

#: Programs with a Function whose backward is meant to be another than the derivative.
MEANT = {"domain_adversarial", "quantised"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_nothing_is_said_of_what_is_healthy(path: Path) -> None:
    assert [finding for finding in traced(path).findings if not finding.remark] == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said, the page is one screen, and every ``.grad`` is as it is without tracing."""
    seen: dict[str, Any] = {}
    close = Trace.close

    def keep(trace: Trace) -> None:
        seen.update(vars(sys.modules["__main__"]))
        close(trace)

    monkeypatch.setattr(Trace, "close", keep)
    trace = traced(path)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        alone = runpy.run_path(str(path), run_name="__main__")
    assert gradients(seen) == gradients(alone)
    assert [finding for finding in trace.findings if not finding.remark] == []
    page = screen.text(trace.screen(path.name))
    assert page.count("\n") <= screen.LINES
    assert all(len(line) <= 100 for line in page.splitlines())
    status = "cannot tell" if path.stem in PARTLY else "agree"
    status = "convention" if path.stem in MEANT else status
    assert trace.screen(path.name).status == status


@pytest.mark.parametrize("elements", [0, 300, 1500, 4000])
def test_what_was_not_kept_is_not_compared(elements: int) -> None:
    trace = Trace(budget=16 * elements)
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        run(str(HERE / "programs" / "resnet.py"), (), trace)
    assert trace.failures == []
    found = trace.screen("resnet.py")
    assert found.status == "cannot tell"
    assert any(call.unchecked for call in trace.calls)
    assert [check.differences for call in trace.calls if (check := call.check)] == [[]] * len(
        trace.calls
    )
