"""The table: right ones accepted, wrong ones detected, named, and given remedies that are right."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradexplain.cli import main
from tests.functions.corpus import Variant


@dataclass
class Score:
    right: int = 0
    accepted: int = 0
    wrong: int = 0
    detected: int = 0
    named: int = 0
    given: int = 0
    mended: int = 0
    said: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, int, int]]:
        return [
            ("right ones accepted", self.accepted, self.right),
            ("wrong ones detected", self.detected, self.wrong),
            ("named rightly", self.named, self.wrong),
            ("remedies given", self.given, self.wrong),
            ("remedies right", self.mended, self.given),
        ]


def ask(file: Path, variant: Variant, source: str) -> tuple[int, dict[str, Any], str]:
    """``(exit code, JSON document, what stands on standard error)`` of the command."""
    file.write_text(source, "utf-8")
    answer, said = file.with_suffix(".json"), io.StringIO()
    answer.unlink(missing_ok=True)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(
            ["check", f"{file}:{variant.name}", *variant.options, "--format", "json"]
            + ["--output", str(answer)]
        )
    return code, json.loads(answer.read_text("utf-8")) if answer.exists() else {}, said.getvalue()


def run(variants: Iterable[Variant], say: Callable[[str], None] | None = None) -> Score:
    """The score of the variants; what fell short is said as it is found."""
    score = Score()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for count, variant in enumerate(variants):
            before = len(score.said)
            _one(score, Path(folder) / f"op{count}.py", variant)
            for line in score.said[before:] if say is not None else ():
                say(line)
    return score


def _one(score: Score, file: Path, variant: Variant) -> None:
    code, document, error = ask(file, variant, variant.source)
    faults = {n: i["fault"] for n, i in document.get("inputs", {}).items() if i["fault"]}
    about = f"{variant.title}  {variant.change}"
    if not variant.codes:
        score.right += 1
        score.accepted += code == 0
        if code:
            score.said.append(f"not accepted: {about}: {faults or error.strip()}")
        return
    score.wrong += 1
    if code != 1:
        score.said.append(f"not detected: {about}: {error.strip()}")
        return
    score.detected += 1
    if all(map(variant.accepts, faults.values())):
        score.named += 1
    else:
        score.said.append(f"named otherwise: {about}: {faults}, not {set(variant.codes)}")
    if all(i["remedy"] for i in document["inputs"].values() if i["fault"]):
        score.given += 1
        said = mended(file, variant, document)
        score.mended += not said
        if said:
            score.said.append(f"remedy wrong: {about}: {said}")
    else:
        score.said.append(f"no remedy: {about}: {faults}")


def mended(file: Path, variant: Variant, document: dict[str, Any]) -> str:
    """ "" where the source is right once the remedies are followed, else what is wrong."""
    lines = variant.source.splitlines()
    for found in document["inputs"].values():
        for patch in found.get("patch", ()):
            lines[patch["line"] - 1 : patch["end"]] = patch["text"].splitlines()
    if lines == variant.source.splitlines():
        return "it is no change of the source"
    code, after, error = ask(file, variant, "\n".join(lines) + "\n")
    return (
        ""
        if code == 0
        else str(error.strip() or {n: i["remedy"] for n, i in after["inputs"].items()})
    )


def shown(score: Score, *, details: bool = True) -> str:
    lines = []
    for what, n, of in score.rows():
        lines.append(f"{what:<24}{n:>5} of {of:<5}{100 * n / of if of else 0:>6.1f} %")
    return "\n".join([*lines, *(score.said if details else ())])


def chosen(variants: Iterable[Variant], asked: Sequence[str]) -> list[Variant]:
    """Those of the titles and files named; all where none is."""
    return [v for v in variants if not asked or v.title in asked or v.file in asked]
