"""What is installed: metadata, licence, types, the shell's completion and the manual page."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gradexplain
from gradexplain.cli import main

ROOT = Path(gradexplain.__file__).parent
PROJECT = (ROOT.parent / "pyproject.toml").read_text("utf-8")


def test_metadata() -> None:
    assert f'version = "{gradexplain.__version__}"' in PROJECT
    assert '"click>=8.2"' in PROJECT
    assert '"torch>=2.10"' in PROJECT
    (licence,) = re.findall(r'license-files = \["(.*)"\]', PROJECT)
    assert (ROOT.parent / licence).read_text("utf-8").startswith("MIT License\n")
    assert (ROOT / "py.typed").exists()


def test_a_program_of_a_user_passes_mypy_strict(tmp_path: Path) -> None:
    program = tmp_path / "mine.py"
    program.write_text(
        "import gradexplain\n\n"
        'found = gradexplain.explain("x * 2", at={"x": [1.0, 2.0]}, grad=[1.0, 0.5])\n'
        'value = found.gradients["x"].value\n'
        "reveal_type(found)\n"
        "reveal_type(value.shape)\n"
        'gradexplain.explain("x", wrong=1)\n'
    )
    # The package's own settings, less its name: what mypy has worked out of it is used again.
    own = PROJECT[PROJECT.index("[tool.mypy]") : PROJECT.index("# The order of imports")]
    settings = tmp_path / "pyproject.toml"
    settings.write_text(own.replace('packages = ["gradexplain"]\n', ""))
    cache = ["--cache-dir", str(ROOT.parent / ".mypy_cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(settings), *cache, str(program)],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "mine.py:" in line]
    assert 'Revealed type is "gradexplain.explanation.Explanation"' in lines[0]
    assert 'Revealed type is "tuple[' in lines[1]
    assert 'Unexpected keyword argument "wrong" for "explain"' in lines[2]
    assert [line for line in lines if "error:" in line] == [lines[2]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"_GRADEXPLAIN_COMPLETE={shell}_complete" in capsys.readouterr().out


#: What each shell runs to complete ``gradexplain ops log_soft``, ``h`` and ``trace scr``.
SHELLS = {
    "bash": """
source <(gradexplain completion bash)
compopt() { ls scr*; }
ask() { COMPREPLY=(); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gradexplain_completion gradexplain; echo "${COMPREPLY[@]}"; }
ask gradexplain ops log_soft
ask gradexplain h
ask gradexplain trace scr
""",
    "zsh": """
compdef() { :; }
source <(gradexplain completion zsh)
compadd() { print -r -- $completions; }
_describe() { print -r -- ${completions_with_descriptions%%:*}; }
_path_files() { ls scr*; }
ask() { words=($@); CURRENT=$#; _gradexplain_completion; }
ask gradexplain ops log_soft
ask gradexplain h
ask gradexplain trace scr
""",
    "fish": """
gradexplain completion fish | source
complete -C "gradexplain ops log_soft"
complete -C "gradexplain h" | string replace -r "\\t.*" "" | string join " "
complete -C "gradexplain trace scr"
""",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(shell: str, tmp_path: Path) -> None:
    """By the script itself: an operation, commands, a file."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = tmp_path / "gradexplain"
    command.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT.parent)!r})\n"
        "from gradexplain.cli import main\nsys.exit(main())\n"
    )
    command.chmod(0o755)
    (tmp_path / "script.py").touch()
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    done = subprocess.run(
        [shell, "-f", "-c", SHELLS[shell]] if shell == "zsh" else [shell, "-c", SHELLS[shell]],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert [line.split() for line in done.stdout.splitlines() if line] == [
        ["log_softmax"],
        ["help", "hessian"],
        ["script.py"],
    ]


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("gradexplain h", ["hessian"]),
        ("gradexplain run --ti", ["--timeout"]),
        ("gradexplain run --dtype float3", ["float32"]),
        ("gradexplain run log_soft", ["log_softmax"]),
        ("gradexplain ops soft", ["soft_margin_loss", "softmax", "softmin", "softplus"]),
        ("gradexplain codegen x/x.logsumex", ["x/x.logsumexp"]),
    ],
)
def test_completion(
    words: str,
    answers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_GRADEXPLAIN_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert main([]) == 0
    found = [line.partition(",")[2] for line in capsys.readouterr().out.splitlines()]
    assert set(answers) <= set(found)


def test_the_manual_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["man"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(".TH GRADEXPLAIN 1\n") or page.startswith(".TH GRADEXPLAIN 1 ")
    for name in ("RUN", "CHECK", "HESSIAN", "CODEGEN", "TRACE", "OPS"):
        assert f"\n.SH {name}\n" in page
    assert "\\fB\\-\\-timeout SECONDS\\fR\n" in page
    assert not [line for line in page.splitlines() if line.startswith(".") and line[1] == "."]
