"""The ways of the gradient from the output to one leaf, each with its norms and factors."""

from __future__ import annotations

from dataclasses import dataclass

from gradexplain.trace.diagnose.finding import Scene, line_of, norm, plain


@dataclass(frozen=True, slots=True)
class WayStep:
    """A value on the way: the norm of its gradient, and what the operation before made of it."""

    value: str
    norm: float
    factor: float | None
    operation: str
    line: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Way:
    """One contribution to a leaf, and the largest way that leads to it."""

    start: str
    operation: str
    norm: float
    total: float
    steps: list[WayStep]


def ways_to(scene: Scene, number: int) -> list[Way]:
    """The contributions to the value ``number``, the largest first."""
    value = scene.value(number)
    readers = [o for o in scene.readers.get(number, ()) if number in o.sent]
    readers.sort(key=lambda operation: -norm(operation.sent[number]))
    total = norm(value.upstream)
    return [
        Way(
            start=scene.name(scene.snapshot.roots[0]) if scene.snapshot.roots else "",
            operation=f"{plain(o.name)}" + (f" (line {o.site.line})" if o.site else ""),
            norm=norm(o.sent[number]),
            total=total,
            steps=_steps(scene, number, readers.index(o)),
        )
        for o in readers
    ]


def _steps(scene: Scene, number: int, choice: int) -> list[WayStep]:
    """From the output to ``number``: at each value the operation that sends it most."""
    way: list[tuple[int, float]] = []
    operations = []
    here = number
    while True:
        readers = [o for o in scene.readers.get(here, ()) if here in o.sent]
        readers.sort(key=lambda operation: -norm(operation.sent[here]))
        if not readers:
            break
        operation = readers[choice]
        choice = 0
        way.append((here, norm(operation.sent[here])))
        operations.append(operation)
        outputs = [n for n in operation.outputs if scene.value(n).upstream is not None]
        if not outputs:
            break
        here = max(outputs, key=lambda n: norm(scene.value(n).upstream))
    size = norm(scene.value(here).upstream)
    steps = [WayStep(scene.name(here), size, None, "", None, "")]
    for (value, sent), operation in zip(reversed(way), reversed(operations), strict=True):
        site = operation.site
        factor = sent / size if size else None
        source = "" if site is None else site.source
        steps.append(
            WayStep(scene.name(value), sent, factor, plain(operation.name), line_of(site), source)
        )
        size = norm(scene.value(value).upstream) or sent
    return steps
