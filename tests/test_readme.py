"""The README: every command in it is run, and prints what stands there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_samples import output

from gradexplain.catalogue import entries
from gradexplain.cli.help import TOPICS, topic
from gradexplain.errors import InputError
from gradexplain.pages.catalogue import markdown

ROOT = Path(__file__).parent.parent
HELP = sorted((ROOT / "gradexplain" / "help").glob("*.md"))
#: The README, and the help that is text in the package.
README = "\n\n".join(path.read_text("utf-8") for path in (ROOT / "README.md", *HELP))
CONSOLE = [
    (command, shown.rstrip("\n"))
    for block in re.findall(r"```console\n(\$ gradexplain .*?)\n```", README, re.DOTALL)
    for command, _, shown in (
        part.partition("\n")
        for part in re.split(r"^\$ gradexplain ", block, flags=re.MULTILINE)[1:]
    )
]


@pytest.mark.parametrize(("command", "shown"), CONSOLE, ids=[c[0][:60] for c in CONSOLE])
def test_console(command: str, shown: str) -> None:
    found = output(shlex.split(command), process=(command, shown) == CONSOLE[0]).decode()
    found = re.sub(r"\nexit code \d+\n$", "", "\n" + found).removeprefix("\n")
    # A line of three dots stands for lines left out.
    pieces = [piece.strip("\n") for piece in re.split(r"^\.\.\.$", shown, flags=re.MULTILINE)]
    place = 0
    for piece in filter(None, pieces):
        assert piece in found[place:], f"not printed:\n{piece}\n\nbut:\n{found[place:]}"
        place = found.index(piece, place) + len(piece)
    if "..." not in shown.splitlines():
        assert found.strip("\n") == shown.strip("\n")


@pytest.mark.parametrize(
    ("script", "shown"), re.findall(r"\$ python (\S+)\n(.*?)\n```", README, re.DOTALL)
)
def test_script(script: str, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / script], capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip() == shown


def test_python() -> None:
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        if "import gradexplain" in code:
            exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("name", TOPICS)
def test_help(name: str) -> None:
    text = topic(name)
    assert text.startswith("# ") and text.endswith("\n")
    if name == "operations":
        assert markdown(entries()) in text


def test_a_topic_that_is_none() -> None:
    with pytest.raises(InputError, match="there is no help on nothing"):
        topic("nothing")


def test_the_readme_is_short_and_names_what_is_there() -> None:
    own = (ROOT / "README.md").read_text("utf-8")
    assert own.count("\n") <= 350
    assert (ROOT / "samples" / "stepper.png").stat().st_size < 100_000
    for folder in (
        path for path in (ROOT / "gradexplain").iterdir() if (path / "__init__.py").exists()
    ):
        if folder.name not in ("cli", "render", "help"):
            assert f"`{folder.name}/`" in own or f"{folder.name}/" in own, folder.name


def test_there_are_commands() -> None:
    assert len(CONSOLE) >= 5
