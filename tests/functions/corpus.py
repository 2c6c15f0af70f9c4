"""The Functions and their faults, read from the files of this folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HEADER = """\
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


"""
_FAULT = re.compile(r"# ([a-z_0-9|+]+): (.*?) =>(?: (.*))?$")


@dataclass(frozen=True)
class Variant:
    """One source: right where ``codes`` is empty."""

    title: str
    file: str
    name: str
    source: str
    options: tuple[str, ...]
    codes: frozenset[str] = frozenset()
    change: str = ""

    def accepts(self, fault: str) -> bool:
        parts = _parts(fault)
        return any(_parts(code) == parts for code in self.codes)


def _parts(fault: str) -> list[str]:
    """The faults in a name; the contribution of one use is a term of the sum of contributions."""
    return sorted(fault.replace("missing_accumulation", "missing_term").split("+"))


@dataclass
class Piece:
    title: str
    file: str
    lines: list[str] = field(default_factory=list)

    def variants(self) -> Iterator[Variant]:
        """The right Function first, then each fault."""
        body = [line for line in self.lines if not line.startswith("# ")]
        notes = [line for line in self.lines if line.startswith("# ")]
        if "# skip" in notes:
            return
        source = HEADER + "\n".join(body).strip() + "\n"
        name = re.findall(r"^class (\w+)", source, re.MULTILINE)[-1]
        options: list[str] = []
        for note in notes:
            if note.startswith("# name: "):
                name = note.removeprefix("# name: ")
            if note.startswith("# option: "):
                options += shlex.split(note.removeprefix("# option: "))
        yield Variant(self.title, self.file, name, source, tuple(options))
        for note in notes:
            match = _FAULT.match(note)
            if match is None:
                continue
            codes, old, new = (text.replace("\\n", "\n") for text in (*match.groups(""),))
            start = source.index("def backward")
            place = source.find(old, start)
            if place < 0:
                raise ValueError(f"{self.title}: {old!r} is not in its backward")
            changed = source[:place] + new + source[place + len(old) :]
            found = frozenset() if codes == "right" else frozenset(codes.split("|"))
            yield Variant(
                self.title, self.file, name, changed, tuple(options), found, f"{old} => {new}"
            )


def pieces(folder: Path = Path(__file__).parent) -> Iterator[Piece]:
    for file in sorted(folder.glob("*.txt")):
        piece: Piece | None = None
        for line in file.read_text("utf-8").splitlines():
            if line.startswith("# == "):
                if piece is not None:
                    yield piece
                piece = Piece(line.removeprefix("# == ").strip(), file.name)
            elif piece is not None:
                piece.lines.append(line)
        if piece is not None:
            yield piece


def variants(folder: Path = Path(__file__).parent) -> Iterator[Variant]:
    for piece in pieces(folder):
        yield from piece.variants()
