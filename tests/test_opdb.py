"""PyTorch's own database of sample inputs, ``op_db``, held against every operation that it knows.

For each operation, over its float64 samples: the sample is written as an expression of the
language, explained, and all three routes must agree; the value must be PyTorch's too.  The last
test prints how many operations and samples were run, and why others were not.
``GRADEXPLAIN_OPDB=all`` runs every sample instead of a few of each operation.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from gradexplain.errors import GradexplainError
from gradexplain.explaining.engine import explanation_of
from gradexplain.ops import by_spelling
from gradexplain.problem import Request, bound_of, problem_at

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_utils
    from torch.testing._internal.common_methods_invocations import op_db

#: Samples of one operation that are run, spread evenly over all it has that differ in more than
#: their numbers, and elements of one sample.
ALL = os.environ.get("GRADEXPLAIN_OPDB") == "all"
SAMPLES = 10_000 if ALL else 4
ELEMENTS = 1000

#: Names of the database's that PyTorch spells otherwise.
_HOMES = {"nn.functional": "F", "linalg": "linalg", "special": "special", "": "torch"}


def spelling(info: Any) -> str | None:
    """How the language calls an operation: ``torch.log``; ``.T`` for a method or an attribute."""
    for name in (info.name, *(alias.name for alias in info.aliases)):
        module, _, last = name.rpartition(".")
        home = _HOMES.get(module)
        if home is None:
            continue
        if any(not op.attribute for op in by_spelling(f"{home}.{last}")):
            return name if module else f"torch.{name}"
        if home == "torch" and by_spelling(f"Tensor.{last}"):
            attribute = by_spelling(f"Tensor.{last}")[0].attribute
            return f".{last}" if attribute else f".{last}()"
    return None


KNOWN = [(info, spelling(info)) for info in op_db]
CASES = [
    pytest.param(info, path, id=f"{info.name}{'-' if info.variant_test_name else ''}"
                 f"{info.variant_test_name}")
    for info, path in KNOWN
    if path is not None and info.supports_autograd and torch.float64 in info.dtypes
]  # fmt: skip


class Skip(Exception):
    """Why a sample cannot be explained."""


class Writer:
    """A sample as an expression, its tensors as inputs x0, x1, …"""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.values: dict[str, Any] = {}
        self.wanted: list[str] = []

    def text(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if value is None or isinstance(value, (bool, str)):
            return repr(value)
        if isinstance(value, (int, float)):
            return repr(value)
        if isinstance(value, (tuple, list)):
            inside = ", ".join(map(self.text, value))
            if isinstance(value, list):
                return f"[{inside}]"
            return f"({inside}{',' * (len(value) == 1)})"
        if isinstance(value, slice):
            return ":".join(
                "" if v is None else str(v) for v in (value.start, value.stop, value.step)
            )
        if value is Ellipsis:
            return "..."
        raise Skip(f"an argument of type {type(value).__name__}")

    def _tensor(self, value: torch.Tensor) -> str:
        if value.is_complex():
            raise Skip("complex numbers")
        if value.is_floating_point() and value.dtype != self.dtype:
            raise Skip("another dtype")
        if value.layout != torch.strided:
            raise Skip("a sparse tensor")
        if value.numel() == 0:
            raise Skip("an empty tensor")
        name = f"x{len(self.values)}"
        self.values[name] = value.detach().numpy().astype(np.float64)
        if value.requires_grad:
            self.wanted.append(name)
        return name


def expression(info: Any, path: str, sample: Any, dtype: torch.dtype) -> tuple[str, Writer]:
    writer = Writer(dtype)
    args = [sample.input, *sample.args]
    if info.name == "einsum":
        args.reverse()
    if path.startswith("."):
        owner, *rest = args
        if not isinstance(owner, torch.Tensor):
            raise Skip("a method of something else")
        start = writer.text(owner) + path.removesuffix("()")
        if not path.endswith("()"):
            return start, writer
    elif info.name == "where" or "polygamma" in info.name:
        # The database gives them in the method's order: the condition, or n, comes second.
        start, rest = path, [args[1], args[0], *args[2:]]
    else:
        start, rest = path, args
    pieces = [writer.text(arg) for arg in rest]
    pieces += [
        f"{name}={writer.text(value)}"
        for name, value in sample.kwargs.items()
        if value is not dtype  # the dtype that the tensors have
    ]
    return f"{start}({', '.join(pieces)})", writer


def joined(text: str, found: Any) -> tuple[str, torch.Tensor]:
    """Several results as one: those with real numbers, in a row."""
    if isinstance(found, torch.Tensor):
        return text, found
    if not isinstance(found, (tuple, list)) or not all(isinstance(t, torch.Tensor) for t in found):
        raise Skip("a result that is no tensor")
    real = [n for n, t in enumerate(found) if t.is_floating_point() and t.requires_grad]
    if not real:
        raise Skip("no gradient")
    pieces = ", ".join(f"q[{n}].ravel()" for n in real)
    return f"q = {text}; cat([{pieces}])", torch.cat([found[n].ravel() for n in real])


@dataclasses.dataclass(frozen=True)
class Case:
    """A sample as an expression, with its tensors' values, and PyTorch's own result."""

    text: str
    values: dict[str, Any]
    wanted: tuple[str, ...]
    result: torch.Tensor

    @property
    def pattern(self) -> Any:
        """What distinguishes it from a sample that has other numbers only."""
        return self.text, tuple(value.shape for value in self.values.values())


def case(info: Any, path: str, sample: Any, dtype: torch.dtype) -> Case:
    """One sample; raises `Skip` where there is nothing to explain."""
    text, writer = expression(info, path, sample, dtype)
    try:
        found = info.op(sample.input, *sample.args, **sample.kwargs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise Skip(f"PyTorch: {str(error).splitlines()[0]}") from None
    text, result = joined(text, found)
    if not result.is_floating_point() or not result.requires_grad or not writer.wanted:
        raise Skip("no gradient")
    if result.numel() == 0:
        raise Skip("an empty tensor")
    if result.dtype != dtype:
        raise Skip("another dtype")
    if result.numel() + sum(v.size for v in writer.values.values()) > ELEMENTS:
        raise Skip("too large")
    return Case(text, writer.values, tuple(writer.wanted), result.detach())


def chosen(
    info: Any, path: str, dtype: torch.dtype = torch.float64, most: int = SAMPLES
) -> list[Case]:
    """Samples of one operation, the same ones every time; counts the others."""
    torch.manual_seed(0)
    cases: list[Case] = []
    repeated: list[Case] = []
    patterns = set()
    for sample in info.sample_inputs("cpu", dtype, requires_grad=True):
        totals["all"] += 1
        try:
            found = case(info, path, sample, dtype)
        except Skip as why:
            totals["skipped"] += 1
            reasons[str(why)] += 1
            continue
        (repeated if found.pattern in patterns else cases).append(found)
        patterns.add(found.pattern)
    kept = cases[:: max(1, -(-len(cases) // most))]
    if most > len(cases):
        kept += repeated[: most - len(cases)]
    totals["left out"] += len(cases) + len(repeated) - len(kept)
    return kept


def run(found: Case) -> None:
    """Explain one sample; `AssertionError` where the routes do not agree."""
    text = found.text
    single = found.result.dtype == torch.float32
    dtype = "float32" if single else "float64"
    request = Request(text, at=found.values, wrt=found.wanted, dtype=dtype)
    bound = bound_of(request)
    shape = bound.graph.out.shape
    theirs = tuple(found.result.shape)
    assert shape == theirs, f"{text}: shape {shape}, PyTorch's {theirs}"
    v = np.random.default_rng(0).uniform(-1, 1, shape).round(3)
    x = explanation_of(problem_at(dataclasses.replace(request, grad=v), bound))
    if any("at random" in note.text for note in x.notes):
        raise Skip("random")
    value = found.result.numpy()
    assert x.check is not None
    assert x.check.status in ("agree", "convention"), (
        f"{text}: {x.check.status} {x.check.reason} {x.check.differences[:2]}"
    )
    if x.check.status == "convention":
        totals["convention"] += 1
    assert x.output.value is not None
    near = 1e-4 if single else 1e-9
    close = np.isclose(x.output.value, value, rtol=near, atol=near, equal_nan=True)
    assert close.all(), f"{text}: the value {x.output.value} is not PyTorch's {value}"


#: What became of the samples: ``run``, ``refused`` or ``skipped``, and of these why.
totals: Counter[str] = Counter()
reasons: Counter[str] = Counter()
covered: set[str] = set()
done: set[str] = set()


@pytest.fixture(autouse=True)
def _no_search_for_devices_and_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each sample PyTorch seeds devices that are not there, and looks which test asks."""
    monkeypatch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
    monkeypatch.setattr(common_utils, "extract_test_fn", lambda: None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("info", "path"), CASES)
def test_samples(info: Any, path: str) -> None:
    done.add(f"{info.name} {info.variant_test_name}")
    wrong = []
    for found in chosen(info, path):
        try:
            run(found)
        except Skip as why:
            totals["skipped"] += 1
            reasons[str(why)] += 1
        except GradexplainError as error:
            if "random" in error.message:
                totals["skipped"] += 1
                reasons["random"] += 1
                continue
            totals["refused"] += 1
            reasons[f"refused: {info.name}: {error.message}"] += 1
        except AssertionError as error:
            wrong.append(str(error).splitlines()[0])
        else:
            totals["run"] += 1
            covered.add(info.name)
    assert not wrong, "\n".join(wrong)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("info", "path"), CASES if ALL else CASES[::9])
def test_samples_in_float32(info: Any, path: str) -> None:
    """As in float64, with PyTorch's own float32 numbers; one sample where not all are asked for."""
    wrong = []
    for found in chosen(info, path, torch.float32, SAMPLES if ALL else 1):
        try:
            run(found)
        except AssertionError as error:
            wrong.append(str(error).splitlines()[0])
        except (Skip, GradexplainError):
            continue  # refused in float64 too, where it is counted
    assert not wrong, "\n".join(wrong)


def test_coverage(capsys: pytest.CaptureFixture[str]) -> None:
    if len(done) < len(CASES):
        pytest.skip("counted only where all operations run in one process")
    share = totals["run"] / (totals["run"] + totals["refused"])
    with capsys.disabled():
        print(
            f"\nop_db: {len(covered)} operations, {totals['run']} samples agree "
            f"({totals['convention']} by a convention at a kink), {totals['refused']} refused "
            f"({100 * share:.1f} % expressible), {totals['skipped']} skipped, "
            f"{totals['left out']} like those left out of {totals['all']}"
        )
        for why, count in reasons.most_common():
            if not why.startswith("refused") or count:
                print(f"  {count:4d} {why[:150]}")
    assert len(covered) >= 130
    assert math.isfinite(share) and share >= 0.95
