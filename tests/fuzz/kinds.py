"""What is tried: each kind makes one command line from a source of chance."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import odd
from tests.fuzz.odd import SAMPLES

Kind = Callable[[random.Random, Path], list[str]]
Shapes = dict[str, tuple[int, ...]]

_ATOMS = [
    "x",
    "y",
    "w",
    "2",
    "-1",
    "0.5",
    "1e300",
    "0",
    "True",
    "None",
    "'sum'",
    "[0, 1]",
    "...",
    ":",
]
_PIECES = [
    "+", "-", "*", "/", "@", "**", "//", "%", "<", "==", "and", "not ", "(", ")", "[", "]", ",", ".",
    "=", ";", "\n", ":", "lambda x:", "if ", " else ", "for i in x:", "def f(x): return ", "import os",
    "x.sum()", "x.T", "softmax(x, dim=0)", "torch.exp(", ".backward()", "dim=1", "#", '"', "'", "\\",
]  # fmt: skip
_NUMBERS = [
    "0", "-0.0", "1", "1e-320", "1e-8", "0.1", "1e8", "1e154", "1e300", "inf", "-inf", "nan", "1e400",
    "-1e6", "0x10", "1_000", "9" * 40, "1e-400",
]  # fmt: skip
_STRANGE = [
    "", " ", "\x1b[31m", "\u202e", "\x07", "é", "ﬁ", "𝟙", "\u0000x".replace("\x00", "\x01"), "-", "--",
    "a" * 5000, "@", "@/", "@/dev/null", "@/dev/zero", "@nothing.npy", "x" * 101, "💥", "[" * 300,
    "../" * 50, "%s%n{0}", "\udcff",
]  # fmt: skip
_OPTIONS = [
    "--grad", "--at", "--shape", "--wrt", "--dtype", "--precision", "--width", "--format", "--from",
    "--zero-grad", "--no-retain-graph", "--retain-grad", "--order", "--no-check", "--file", "--vector",
    "--claim", "--grad-name", "--seed", "--arg", "--all", "--name", "--timeout", "--memory", "-h",
]  # fmt: skip
_COMMANDS = ["run", "run", "run", "hessian", "check", "codegen", "ops", "why", "schema"]


def grammar(chance: random.Random, folder: Path) -> list[str]:
    """Programs of the language: samples of operations one inside another, three in four of them valid."""
    text, shapes = chance.choice(SAMPLES)
    for _ in range(chance.randrange(4)):
        text, shapes = _deeper(text, shapes, chance)
    if chance.random() < 0.25:  # almost one
        for _ in range(chance.choice([1, 1, 3])):
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice(_PIECES) + text[place + chance.randrange(3) :]
    given = [f"--shape={name}={_sizes(shape)}" for name, shape in shapes.items()]
    command = chance.choice(["run", "run", "hessian", "codegen", "why"])
    if command == "codegen":
        return [command, text, *given]
    if command == "why":
        given += [f"{next(iter(shapes), 'x')}[0]"]
    return [command, text, *given, "--no-check", *chance.choice([[], ["--grad", "ones"]])]


def _deeper(text: str, shapes: Shapes, chance: random.Random) -> tuple[str, Shapes]:
    """``text`` with another operation around it, or beside it."""
    outer, more = chance.choice(SAMPLES)
    if chance.random() < 0.5 or "\n" in text + outer:
        around = chance.choice(["({}).sum()", "torch.tanh({})", "({})*0.5", "({}).reshape(-1)", "-({})",
                                "({})[None]", "({}).mean().exp()", "({})**2", "({}).T"])  # fmt: skip
        return around.format(text), shapes
    # The input of an operation of one is what there was, where the sizes happen to fit; other names
    # for the rest.
    own = {name: f"{name}{len(shapes)}" for name in more}
    outer = (
        re.sub(r"\b(" + "|".join(own) + r")\b(?![=(])", lambda m: own[m[0]], outer)
        if own
        else outer
    )
    both = shapes | {own[name]: shape for name, shape in more.items()}
    return chance.choice(["({}).sum() + ({}).sum()", "({}).sum() * ({}).mean()"]).format(
        text, outer
    ), both


def text(chance: random.Random, folder: Path) -> list[str]:
    """Pieces of programs, and letters of all kinds, in no order."""
    count = chance.randrange(1, 12)
    parts = [chance.choice([*_PIECES, *_ATOMS, *_STRANGE[1:11]]) for _ in range(count)]
    return [chance.choice(_COMMANDS), chance.choice(["", " "]).join(parts), "--no-check"]


def options(chance: random.Random, folder: Path) -> list[str]:
    """Options that exist, with values that do not."""
    found = [chance.choice([*_COMMANDS, *_STRANGE, "--version"]), "x * w"]
    for _ in range(chance.randrange(1, 5)):
        value = chance.choice(
            [*_NUMBERS, *_STRANGE, "x=1", "x=2,3", "x: v", "ones", "[1,2", "json"]
        )
        prefix = chance.choice(["", "", "x=", "w=", "x: "])
        found += [chance.choice(_OPTIONS), prefix + value]
    chance.shuffle(found)
    return found


def files(chance: random.Random, folder: Path) -> list[str]:
    """Files that are almost what they say they are."""
    suffix = chance.choice([".npy", ".json", ".pt", ".txt", ".py", ".jsonl"])
    path = folder / f"f{suffix}"
    head = {
        ".npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }",
        ".json": b"[[1, 2], [3, 4]]",
        ".pt": b"PK\x03\x04archive/data.pkl",
        ".py": b"def f(x): return x",
        ".jsonl": b'{"expression": "x*2", "check": false}\n',
        ".txt": b"x * 2",
    }[suffix]
    data = bytearray(head + bytes(chance.randrange(32)))
    for _ in range(chance.randrange(6)):
        place = chance.randrange(len(data))
        data[place : place + chance.randrange(3)] = chance.choice(
            [b"\xff", b"-", b"9999999999", b"True", b"\x00", b"(", b"'", b"[" * 50, b"O"]
        )
    path.write_bytes(bytes(data))
    where = {".py": ["check", f"{path}:f", "--claim", "x: v"], ".txt": ["run", "--file", str(path)]}
    if suffix == ".jsonl":
        return ["run", "--file", str(path), "--no-check"]
    return where.get(suffix) or [
        "run",
        "x * 2",
        "--at",
        f"x=@{path}",
        "--grad",
        "ones",
        "--no-check",
    ]


def extremes(chance: random.Random, folder: Path) -> list[str]:
    """Every operation at the ends of the numbers."""
    expression, shapes = chance.choice(SAMPLES)
    found = [chance.choice(["run", "run", "run", "hessian"]), expression, "--grad", "ones"]
    for name, shape in shapes.items():

        def values(shape: tuple[int, ...]) -> object:
            if not shape:
                return chance.choice(_NUMBERS[:12])
            return [values(shape[1:]) for _ in range(shape[0])]

        written = json.dumps(values(shape)).replace('"', "")
        found += chance.choice([["--at", f"{name}={written}"], [f"--shape={name}={_sizes(shape)}"]])
    found += chance.choice([[], ["--dtype", "float32"], ["--no-check"], ["--format", "json"]])
    return found


def sizes(chance: random.Random, folder: Path) -> list[str]:
    """Operations at sizes that cost time and memory."""
    expression, shapes = chance.choice(SAMPLES)
    factor = chance.choice([1, 3, 30, 300])
    found = ["run", expression, "--grad", "ones", "--no-check"]
    return found + [
        f"--shape={name}={_sizes(tuple(n * factor for n in shape))}"
        for name, shape in shapes.items()
    ]


def budgets(chance: random.Random, folder: Path) -> list[str]:
    """Too little time or memory, under the supervisor."""
    command = chance.choice(["run", "run", "hessian", "check", "codegen"])
    expression, shapes = chance.choice(SAMPLES)
    factor = 1 if command == "codegen" else chance.choice([1, 10, 100])
    found = [command, expression, "--timeout", chance.choice(["0.001", "0.05", "0.3", "1", "4"])]
    found += ["--memory", chance.choice(["1", "1MiB", "20MiB", "100MiB", "400MiB", "2GiB"])]
    if command == "check":
        found += ["--claim", f"{next(iter(shapes), 'x')}: v"]
    elif command != "codegen":
        found += ["--grad", "ones"]
    return found + [
        f"--shape={name}={_sizes(tuple(n * factor for n in shape))}"
        for name, shape in shapes.items()
    ]


def _sizes(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


KINDS: dict[str, Kind] = {
    "grammar": grammar,
    "text": text,
    "options": options,
    "files": files,
    "extremes": extremes,
    "sizes": sizes,
    "budgets": budgets,
    "registry": odd.registry,
    "deep": odd.deep,
    "shapes": odd.shapes,
    "names": odd.names,
    "claims": odd.claims,
    "functions": odd.functions,
    "scripts": odd.scripts,
    "batches": odd.batches,
}
